"""An independent collector, ``ddapm-test-agent``, in its own process, and the spans that it reports."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections import Counter

import pytest

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from ..tools.ports import free_port
from .collector import Proxy, cut, refuse, truncate

AGENT = os.environ.get("TRACEKIT_TEST_AGENT", "")

pytestmark = pytest.mark.skipif(not AGENT, reason="TRACEKIT_TEST_AGENT does not name it: `make test` installs it")


class Agent:
    def __init__(self, log) -> None:
        own, self.http_port, self.grpc_port = free_port(), free_port(), free_port()
        ports = [f"--port={own}", f"--otlp-http-port={self.http_port}", f"--otlp-grpc-port={self.grpc_port}"]
        self.process = subprocess.Popen([AGENT, "--host=127.0.0.1", *ports], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self.is_up():
            assert self.process.poll() is None, "the agent has exited"
            assert time.monotonic() < deadline, "the agent does not start"
            time.sleep(0.05)

    def is_up(self):
        try:
            return self.get("/test/session/traces") is not None
        except OSError:
            return False

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return json.loads(response.read()) if response.status == 200 else None
        finally:
            connection.close()

    def spans(self, prefix):
        """The spans that it received whose names begin with *prefix*."""
        return [
            span
            for request in self.get("/test/session/traces")
            for group in request.get("resource_spans") or request.get("resourceSpans", [])
            for scope in group.get("scope_spans") or group.get("scopeSpans", [])
            for span in scope["spans"]
            if span["name"].startswith(prefix)
        ]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    with open(tmp_path_factory.mktemp("agent") / "log", "w") as log:
        agent = Agent(log)
        try:
            yield agent
        finally:
            agent.process.terminate()
            agent.process.wait(20)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
def test_the_agent_gets_every_span_by_every_protocol(agent, protocol, compression):
    port = agent.grpc_port if protocol == "grpc" else agent.http_port
    prefix = f"{protocol} {compression} "
    sender = OTLPExporter(f"http://127.0.0.1:{port}", protocol=protocol, compression=compression, environ={})
    tracekit.configure(service="shop", exporter=sender, environ={})
    root = tracekit.span(prefix + "root", kind="server", attributes={"n": 1, "grüße": "🎉", "list": [1, 2]})
    with root, tracekit.span(prefix + "child") as child:
        child.add_event("event", {"a": 1.5})
        child.set_status("error", "no")
    assert tracekit.flush(20)
    found = {span["name"].removeprefix(prefix): span for span in agent.spans(prefix)}
    assert found.keys() == {"root", "child"}
    assert str(found["child"]).count("event") >= 1
    for name, span in (("root", root), ("child", child)):
        start = found[name].get("start_time_unix_nano") or found[name]["startTimeUnixNano"]
        assert int(start) == span.start_ns


def test_the_agent_gets_every_spooled_span_through_a_faulty_proxy(agent, tmp_path):
    faults = [cut, refuse(503, Retry_After="0"), truncate, refuse(429)]
    target = f"http://127.0.0.1:{agent.http_port}"
    with Proxy(target, lambda number: faults[number // 2 % 4] if number % 2 else None) as proxy:
        sender = OTLPExporter(proxy.url, spool=tmp_path / "spool.db", environ={})
        tracekit.configure(exporter=sender, environ={})
        for number in range(20):
            tracekit.span(f"faulty {number}").end()
            tracekit.flush(20)
        deadline = time.monotonic() + 120
        while sender.ledger().waiting:
            assert time.monotonic() < deadline
            tracekit.flush(20)
        assert sender.ledger()[:5] == (20, 20, 0, 0, 0)
        tracekit.configure()
    assert set(Counter(span["name"] for span in agent.spans("faulty"))) == {f"faulty {number}" for number in range(20)}
