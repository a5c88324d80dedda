"""A trace and its labels survive OpenTelemetry JS, Python and Go between two services of tracekit, over real HTTP."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

import tracekit
from tracekit.testing import MemoryExporter
from tracekit.wire import b3, jaeger, w3c

from ..tools.golang import Missing, build

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "interop"
MUST = os.environ.get("TRACEKIT_INTEROP", "") not in ("", "0")  # set by `make interop`: what is missing is a failure

FORMATS = {
    "w3c": [w3c.TRACECONTEXT, w3c.BAGGAGE],
    "b3": [b3.SINGLE, w3c.BAGGAGE],
    "b3multi": [b3.MULTI, w3c.BAGGAGE],
    "jaeger": [jaeger.JAEGER],
}
LABELS = {
    "tenant": "acme",
    "spaces": "two  words",
    "plus": "a+b",
    "percent": "100%25",
    "equals": "a=b",
    "quotes": """it's "so" \\""",
    "separators": "a,b;c",
    "text": "Zürich 日本 €",
}


def missing():
    """Say what the test needs and this machine has not."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    if (
        importlib.util.find_spec("opentelemetry") is None
        or importlib.util.find_spec("opentelemetry.propagators.b3") is None
    ):
        return "OpenTelemetry Python is not installed: pip install tracekit-async[interop]"
    return install()


def install():
    """Have npm fetch what package.json names, once; return why that failed."""
    if (CACHE / "done").exists() and (CACHE / "package.json").read_text() == (HERE / "package.json").read_text():
        return ""
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", CACHE)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    try:
        done = subprocess.run(
            [shutil.which("npm"), *command[1:]], cwd=CACHE, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "npm install took longer than two minutes"
    if done.returncode:
        return f"npm install failed: {done.stderr.strip()[-300:]}"
    (CACHE / "done").touch()
    return ""


@contextlib.contextmanager
def relay(*command, cwd):
    """Run a relay, which prints its port, until the block is left."""
    with subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


@pytest.fixture(scope="module")
def relays():
    reason = missing()
    if reason:
        (pytest.fail if MUST else pytest.skip)(reason)
    shutil.copy(HERE / "relay.mjs", CACHE)
    with (
        relay("node", "relay.mjs", cwd=CACHE) as node,
        relay(sys.executable, str(HERE / "relay.py"), cwd=HERE) as python,
    ):
        yield node, python


@pytest.fixture(scope="module")
def go():
    """The port of the service of OpenTelemetry Go, which is built the first time; without Go the tests are skipped."""
    if not MUST:
        pytest.skip("`make interop` builds the service of OpenTelemetry Go")
    try:
        program = build(HERE / "go")
    except Missing as reason:
        pytest.skip(str(reason))
    with relay(program, cwd=HERE) as port:
        yield port


@pytest.fixture
def arrived():
    """A service at the end of the way: its url, and the headers of what came."""
    seen = []

    class End(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append([(name.lower().encode(), value.encode("latin-1")) for name, value in self.headers.items()])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), End)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", seen
    server.shutdown()
    thread.join()
    server.server_close()


def through(port, name, url):
    return f"http://127.0.0.1:{port}/?format={name}&next={quote(url, safe='')}"


def send(url, headers):
    request = urllib.request.Request(url, b"", headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as response:
        return response.read()


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_trace_and_its_labels_survive_javascript(relays, arrived, name, is_sampled):
    (node, _), (end, seen) = relays, arrived
    sent, context = travel(name, is_sampled, through(node, name, end), seen)
    assert (context.trace_id, context.sampled) == (sent.trace_id, is_sampled)
    assert context.span_id != sent.span_id
    assert context.labels == LABELS


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_trace_and_its_labels_survive_javascript_and_python(relays, arrived, name, is_sampled):
    (node, python), (end, seen) = relays, arrived
    sent, context = travel(name, is_sampled, through(node, name, through(python, name, end)), seen)
    assert (context.trace_id, context.sampled) == (sent.trace_id, is_sampled)
    expected = dict(LABELS)
    if w3c.BAGGAGE in FORMATS[name]:
        # OpenTelemetry Python writes a space as "+", which in W3C Baggage is a plus; a plus it writes as %2B.
        expected = {key: value.replace(" ", "+") for key, value in LABELS.items()}
    assert context.labels == expected


STATES = {"none": {}, "one": {"x": "1"}, "two": {"vendor@tenant": "a b:c?", "x": "~!"}}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
def test_a_trace_and_its_labels_survive_go(go, arrived, is_sampled, state):
    end, seen = arrived
    state = tracekit.TraceState(STATES[state])
    sent, context, answer = travel_with_state(is_sampled, through(go, "w3c", end), seen, state)
    assert answer == {
        "traceId": sent.trace_id,
        "parentId": sent.span_id,
        "sampled": is_sampled,
        "tracestate": str(state),
        "labels": LABELS,
    }
    assert (context.trace_id, context.flags) == (sent.trace_id, sent.flags)
    assert context.span_id != sent.span_id
    assert context.state == state
    assert context.labels == LABELS


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
def test_a_trace_and_its_labels_survive_go_and_javascript(go, relays, arrived, is_sampled):
    (node, _), (end, seen) = relays, arrived
    state = tracekit.TraceState(STATES["two"])
    url = through(go, "w3c", through(node, "w3c", through(go, "w3c", end)))
    sent, context, _ = travel_with_state(is_sampled, url, seen, state)
    assert (context.trace_id, context.sampled, context.state) == (sent.trace_id, is_sampled, state)
    assert context.labels == LABELS


def test_every_request_through_go_keeps_its_own_trace(go, arrived):
    end, seen = arrived
    tracekit.configure(exporter=MemoryExporter(), environ={})
    sent = []
    for number in range(500):
        with tracekit.use_labels({"number": str(number)}), tracekit.span("client") as span:
            send(through(go, "w3c", end), tracekit.inject({}))
        sent.append((span.context.trace_id, {"number": str(number)}))
    assert [(context.trace_id, context.labels) for context in map(tracekit.extract, seen)] == sent


def travel_with_state(is_sampled, url, seen, state):
    """As ``travel()`` in W3C's formats, for a request that continues a random trace id with *state*."""
    tracekit.configure(exporter=MemoryExporter(), environ={})
    origin = tracekit.SpanContext("a" * 32, "b" * 16, 2 | is_sampled, state=state, is_remote=True)
    with tracekit.use_context(origin), tracekit.use_labels(LABELS), tracekit.span("client") as span:
        answer = send(url, tracekit.inject({}))
    (headers,) = seen
    return span.context, tracekit.extract(headers), json.loads(answer)


def travel(name, is_sampled, url, seen):
    """Send a request to *url* with a span and labels in the headers, and return what was sent and what arrived."""
    sampler = tracekit.AlwaysOn() if is_sampled else tracekit.AlwaysOff()
    tracekit.configure(exporter=MemoryExporter(), sampler=sampler, formats=FORMATS[name])
    with tracekit.use_labels(LABELS), tracekit.span("client") as span:
        send(url, tracekit.inject({}))
    (headers,) = seen
    return span.context, tracekit.extract(headers)
