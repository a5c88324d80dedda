"""Viewers on free ports, senders of spans, and Chromium where it is installed."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import time
from urllib.parse import urlsplit

import pytest

from tracekit.ui.server import viewer

CHROMIUM = os.environ.get("TRACEKIT_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


class Answer:
    """The status, the headers by name in lower case, and the body of an answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)


def request(url, method="GET", path="/", body=None, headers=None):
    """Send one request without any header but Host and those given."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=15)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        if body is not None and "Content-Length" not in (headers or {}):
            connection.putheader("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Running:
    """A viewer that runs, with its store."""

    def __init__(self, running):
        self.viewer = running
        self.store = running.store
        self.url = running.urls["pages"]

    def get(self, path, **headers):
        return request(self.url, path=path, headers=headers)

    def post(self, body, kind="application/x-protobuf", path="/v1/traces", **headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.viewer.urls["http"], "POST", path, body, {"Content-Type": kind, **names})

    def send(self, *spans, service="shop", resource=None):
        """Send spans in OTLP's JSON, each a dict from ``span()``, and return their trace id."""
        attributes = pairs({"service.name": service, **(resource or {})})
        body = {"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": list(spans)}]}]}
        answer = self.post(json.dumps(body).encode(), "application/json")
        assert (answer.status, answer.json) == (200, {}), answer.body
        return spans[0]["traceId"]


def pairs(values):
    kinds = {str: "stringValue", bool: "boolValue", int: "intValue", float: "doubleValue"}
    return [{"key": key, "value": {kinds[type(value)]: value}} for key, value in values.items()]


def span(name="work", trace=1, id=1, parent=None, start_ms=0, ms=10, status=0, attributes=None, **more):
    """A span in OTLP's JSON; *start_ms* is after a minute ago."""
    start_ns = (int(time.time()) - 60) * 10**9 + int(start_ms * 1e6)
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{id:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": name,
        "kind": 2,
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(start_ns + int(ms * 1e6)),
        "status": {"code": status},
        "attributes": pairs(attributes or {}),
        **more,
    }


def bomb(size):
    """Return *size* zeros, packed."""
    return gzip.compress(bytes(size))


@pytest.fixture
def ui(tmp_path):
    """A viewer of a new store, with its receivers, on free ports."""
    with viewer(tmp_path / "spans.db", port=0, http_port=0, grpc_port=0) as running:
        yield Running(running)


@pytest.fixture(scope="module")  # Playwright's event loop counts as running in this thread until the end
def chromium():
    """One headless Chromium for the tests of a file."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium, or set TRACEKIT_TEST_CHROMIUM to its path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
