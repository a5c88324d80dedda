"""``tracekit conform``, against services that keep to the specifications and against services that each break one rule."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

import tracekit
from tracekit.cli.conform import service as _conform
from tracekit.cli.conform.checks import CHECKS, TRACE_HEADERS, problems
from tracekit.cli.conform.service import PROTOCOL
from tracekit.cli.main import main
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.integrations.httpx import AsyncTraceTransport

from .integrations.servers import SERVERS, serve
from .tools.ports import free_port
from .tools.w3c_harness import application, count

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FRESH = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def failures(capsys, url, *options, status=1):
    """Run the command, and return the names of the checks that failed."""
    assert main(["conform", url, "--json", *options]) == status
    report = json.loads(capsys.readouterr().out)
    failed = {check["name"] for check in report["checks"] if not check["ok"]}
    assert (report["ok"], report["failed"]) == (not failed, len(failed))
    assert report["passed"] + report["failed"] == len(report["checks"])
    return failed


# ---- services that pass


@pytest.mark.parametrize("server", SERVERS)
def test_our_middleware_and_transport_pass_every_check(capsys, exporter, server):
    with serve(application(), server) as port:
        assert main(["conform", f"http://127.0.0.1:{port}/test"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"{len(CHECKS)} of {len(CHECKS)} checks passed"
    assert out[:-1] == [f"✓ {check.name}" for check in CHECKS]
    assert exporter.spans


def test_they_pass_too_where_nothing_is_configured(capsys):
    with serve(application()) as port:
        assert failures(capsys, f"http://127.0.0.1:{port}/test", status=0) == set()


@contextlib.contextmanager
def storefront(path):
    """The demo's own service, in a process of its own as the demo runs it; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tracekit.demo.storefront", str(path), "http://127.0.0.1:1"],
        cwd=Path(tracekit.__file__).parents[1],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        pages, line = process.stdout.readline(), process.stdout.readline()
        assert (pages[:6], line[:10]) == ("pages ", "listening "), pages + line + process.stdout.read()
        yield line.split()[1]
        rest, _ = process.communicate()
        assert process.returncode == 0, rest
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_the_demos_service_passes_every_check(capsys, tmp_path):
    with storefront(tmp_path / "traces.db") as url:
        assert failures(capsys, f"{url}/conform", status=0) == set()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('[{"url": "http://example.com/", "arguments": []}]', 403),
        ('[{"url": "http://localhost:1/", "arguments": []}]', 403),
        ('[{"url": "http://127.0.0.1.example.com/", "arguments": []}]', 403),
        ('[{"url": "http://127.0.0.1@example.com/", "arguments": []}]', 403),
        ('[{"url": "http://0.0.0.0:1/", "arguments": []}]', 403),
        ('[{"url": "http://169.254.169.254/", "arguments": []}]', 403),
        ('[{"url": "http://[fe80::1]/", "arguments": []}]', 403),
        ('[{"url": "https://127.0.0.1:1/", "arguments": []}]', 403),
        ('[{"url": "file:///etc/hosts", "arguments": []}]', 403),
        ('[{"url": "/relative", "arguments": []}]', 403),
        ('[{"url": "http://127.0.0.1:1/", "arguments": []}, {"url": "http://10.0.0.1/", "arguments": []}]', 403),
        (json.dumps([{"url": "http://127.0.0.1:1/", "arguments": []}] * 17), 403),
        ('[{"url": "http://127.0.0.1:1/", "arguments": []}]', 502),
        ('[{"url": "http://127.0.0.1/\\u0000", "arguments": []}]', 400),
        ('[{"url": 1, "arguments": []}]', 400),
        ('[{"url": "http://127.0.0.1:1/"}]', 400),
        ("[1]", 400),
        ("1", 400),
        ("not JSON", 400),
        ("\ud800".encode("utf-8", "surrogatepass"), 400),
    ],
)
def test_the_demos_service_is_no_open_relay(body, status):
    from tracekit.demo.storefront import application

    async def post():
        app = application("http://127.0.0.1:1")
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
        ):
            answer = await client.post("/conform", content=body, headers={"Content-Type": "application/json"})
            plain = await client.post("/conform", content=body, headers={"Content-Type": "text/plain"})
            return answer.status_code, plain.status_code

    assert anyio.run(post) == (status, 415)


def test_the_example_in_the_advice_passes_every_check(capsys):
    code = "\n".join(line[4:] for line in PROTOCOL.splitlines() if line.startswith("    "))
    assert len(code.splitlines()) == 6
    names = {one.__name__: one for one in (Starlette, Route, Response, TraceMiddleware, AsyncTraceTransport)}
    names["httpx"] = httpx
    exec(code, names)
    with serve(names["app"]) as port:
        assert failures(capsys, f"http://127.0.0.1:{port}/conform", status=0) == set()


# ---- services that break a rule


class Edited:
    """Our service, but that it gets what *edit* makes of a request's trace headers."""

    def __init__(self, edit):
        self.app = application()
        self.edit = edit

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
            edited = [(name.encode(), value.encode("latin-1")) for name, value in self.edit(headers)]
            scope = {**scope, "headers": edited}
        await self.app(scope, receive, send)


class Relay:
    """A service that traces nothing: it calls back with the trace headers that it got, or what *edit* makes of them."""

    def __init__(self, edit=lambda headers: headers):
        self.edit = edit

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        headers = self.edit([(name, value) for name, value in headers if name in TRACE_HEADERS])
        await self.call_back(headers, json.loads(body))
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def call_back(self, headers, calls):
        for call in calls:
            await anyio.to_thread.run_sync(raw_post, call["url"], headers)


def raw_post(url, headers):
    # Not by httpx, which looks at what it sends.
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    try:
        connection.putrequest("POST", parts.path)
        for name, value in [*headers, ("Transfer-Encoding", "chunked")]:
            connection.putheader(name, value)
        connection.endheaders([b"[", b"]"], encode_chunked=True)
        assert connection.getresponse().status in (200, 404)
    finally:
        connection.close()


def sends(*headers):
    return lambda _: list(headers)


def only(*names):
    return lambda headers: [(name, value) for name, value in headers if name in names or name not in TRACE_HEADERS]


def changed(wanted, change):
    return lambda headers: [(name, change(value) if name == wanted else value) for name, value in headers]


def first_of_each(headers):
    return [(name, value) for at, (name, value) in enumerate(headers) if name not in [name for name, _ in headers[:at]]]


def about(text):
    """Return the names of the checks that have a rule with *text*."""
    found = {check.name for check in CHECKS if any(text in rule.text for rule in check.must)}
    assert found
    return found


BROKEN = {
    "always a new trace": (Edited(only("tracestate", "baggage")), about("trace-id must be the one sent")),
    "drops tracestate": (Edited(only("traceparent", "baggage")), about("tracestate must have")),
    "reads upper case": (
        Edited(changed("traceparent", str.lower)),
        {
            "traceparent: a version in upper case",
            "traceparent: a trace-id in upper case",
            "traceparent: a trace-id with one upper-case digit",
            "traceparent: a parent-id in upper case",
            "traceparent: flags in upper case",
            "tracestate: with a bad traceparent it is discarded",
        },
    ),
    "takes the first of each header": (
        Edited(first_of_each),
        {
            "traceparent: two of them are none",
            "tracestate: several headers are one list",
            "tracestate: an empty header before another",
            "tracestate: 32 members in four headers",
            "tracestate: with two traceparents it is discarded",
            "baggage: several headers are one list",
        },
    ),
    "reads + as a space": (
        Edited(changed("baggage", lambda text: text.replace("+", "%20"))),
        {"baggage: a plus sign stays a plus sign"},
    ),
    "takes properties for values": (
        Edited(changed("baggage", lambda text: text.replace(";", "%3B"))),
        {
            "baggage: properties",
            "baggage: an encoded value of a property",
            "baggage: white space wherever it may be",
        },
    ),
    "knows no baggage": (Edited(only("traceparent", "tracestate")), about("baggage must mean")),
    "knows keys of Level 1 alone": (
        Edited(
            changed("tracestate", lambda text: "" if re.search(r"(^|,)(\d\w*=|[^,=]*@(@|=|[^,=]*@))", text) else text)
        ),
        {"tracestate: a key that begins with a digit", "tracestate: a key with any number of @"},
    ),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_defect_is_found_by_the_checks_that_are_about_it_and_by_no_others(capsys, defect):
    app, expected = BROKEN[defect]
    with serve(app) as port:
        assert failures(capsys, f"http://127.0.0.1:{port}/test") == expected


def test_headers_that_are_passed_through_unchanged_fail_wherever_a_tracer_would_change_them(capsys):
    with serve(Relay()) as port:
        failed = failures(capsys, f"http://127.0.0.1:{port}/")
    texts = ("trace-id must be a new one", "parent-id", "must not have", "flags other")
    expected = set().union(*map(about, texts)) | {
        "traceparent: a request without one starts a trace",
        "traceparent: a higher version, as long as 00",
        "traceparent: a higher version with more fields",
        "traceparent: a higher version with an empty field",
        "tracestate: a list goes on with a higher version of traceparent",
        "tracestate: 33 members are too many",
        "tracestate: a member without an equals sign does not end the trace",
    }
    assert failed == expected - {
        "tracestate: trace-state is another header",
        "tracestate: trace.state is another header",
    }


def test_a_service_without_tracing_fails_every_check_but_those_that_allow_for_nothing(capsys):
    with serve(Relay(sends())) as port:
        failed = failures(capsys, f"http://127.0.0.1:{port}/")
    assert {check.name for check in CHECKS} - failed == {"baggage: too much is cut between members"}


# ---- services that cannot be checked


class Odd(Relay):
    """Does what it should at first, and something else for a request with ``tracestate``."""

    def __init__(self, do):
        super().__init__(sends(("traceparent", FRESH)))
        self.do = do

    async def __call__(self, scope, receive, send):
        if any(name == b"tracestate" for name, _ in scope.get("headers", ())):
            await self.do(self, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def hang(service, scope, receive, send):
    while (await receive())["type"] != "http.disconnect":
        pass


async def dribble(service, scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    with contextlib.suppress(OSError):
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await anyio.sleep(0.01)


async def refuse(service, scope, receive, send):
    await send({"type": "http.response.start", "status": 400})
    await send({"type": "http.response.body"})


async def forget(service, scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


async def fail(service, scope, receive, send):
    await receive()  # a server that closes with the request unread resets the connection, answer and all
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("do", "timeout_s", "said"),
    [
        (hang, 0.5, "no answer within 0.5 s"),
        (dribble, 0.5, "no answer within 0.5 s"),
        (refuse, 60, "it answered 400"),
        (forget, 2, "it answered 200, waited for 2 s"),
        (fail, 60, "it answered 500"),
    ],
)
def test_what_goes_wrong_with_one_request_costs_that_check_alone(capsys, do, timeout_s, said, monkeypatch):
    call = _conform._Service.call

    def in_time(service, headers, calls):
        service._timeout_s = timeout_s if "tracestate" in dict(headers) else 60
        return call(service, headers, calls)

    monkeypatch.setattr(_conform._Service, "call", in_time)
    with serve(Odd(do)) as port:
        assert main(["conform", f"http://127.0.0.1:{port}/", "--json", "--only", "equals sign"]) == 1
    assert [(check["name"], check["problems"]) for check in json.loads(capsys.readouterr().out)["checks"]] == [
        ("tracestate: a value with an equals sign is not passed on", [f"0 of 1 calls came: {said}"]),
        (
            "tracestate: a member without an equals sign does not end the trace",
            [f"0 of 1 calls came: {said}"],
        ),
        ("baggage: equals signs in a value", ["baggage must mean a=b=c=="]),
    ]


def test_callbacks_that_come_too_late_or_from_somebody_else_go_nowhere():
    with _conform._listening("127.0.0.1", 0) as listener:
        (early,) = listener.expect(1)
        assert listener.take([early]) == []
        (expected,) = listener.expect(1)
        for path in (early, "/", f"{expected}0", expected.replace(listener._secret, "0" * 16)):
            assert not listener.note(path, [("traceparent", FRESH)])
        assert listener.note(
            expected, [("TraceParent", f"\t{FRESH} "), ("Host", "x"), ("tracestate", "a=1"), ("tracestate", "")]
        )
        assert listener.note(expected, [])  # once more
        assert listener.take([expected]) == [{"traceparent": [FRESH], "tracestate": ["a=1", ""], "baggage": []}]


@pytest.mark.parametrize(
    ("host", "reached_from", "told"),
    [("127.0.0.1", "10.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1", "127.0.0.1"), ("", "127.0.0.1", "127.0.0.1")],
)
def test_a_service_is_told_an_address_that_it_can_reach(host, reached_from, told):
    with _conform._listening(host, 0) as listener:
        assert listener.url(reached_from) == f"http://{told}:{listener.server_address[1]}"


def test_callbacks_are_awaited_where_it_says(capsys):
    with serve(application()) as served, socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{served}/test"
        assert main(["conform", url, "--only", "mixed case", "--listen", f"127.0.0.1:{free_port()}"]) == 0
        assert main(["conform", url, "--only", "mixed case", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]) == 2
    assert f"{url}: cannot listen on 127.0.0.1:" in capsys.readouterr().err


@contextlib.contextmanager
def answering(octets):
    """A server that answers whatever comes with *octets*, and hangs up; gives its port."""

    def run():
        while True:
            connection, _ = listener.accept()
            with connection:
                if not connection.recv(65536):
                    return
                connection.sendall(octets)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        with socket.create_connection(listener.getsockname()) as last:
            last.shutdown(socket.SHUT_WR)
            thread.join(20)


@pytest.mark.parametrize(
    ("octets", "timeout_s", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 60, "it answered 404, and did not call back"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            2,
            "it answered 200, waited for 2 s, and did not call back",
        ),
        (b"", 60, "RemoteDisconnected: Remote end closed connection without response, and did not call back"),
        (b"\x1b]0;title\x07\x1b[2J\r\n", 60, r"BadStatusLine: \x1b]0;title\x07\x1b[2J\r\n, and did not call back"),
    ],
)
def test_a_service_that_does_not_speak_the_protocol_is_told_what_to_do(capsys, octets, timeout_s, said):
    with answering(octets) as port:
        url = f"http://127.0.0.1:{port}/\u00e9 ?a b"
        assert main(["conform", url, "--timeout", f"{timeout_s}"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"tracekit: {url}: it does not speak the protocol: {said}\n\n{PROTOCOL}")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/", "it cannot be reached: ConnectionRefusedError: "),
        ("127.0.0.1:8000/test", "must be http://HOST:PORT/PATH, or https"),
        ("ftp://127.0.0.1/", "must be http://HOST:PORT/PATH, or https"),
        ("http:///test", "must be http://HOST:PORT/PATH, or https"),
        ("http://user:secret@127.0.0.1/", "must be http://HOST:PORT/PATH, or https"),
        ("http://127.0.0.1:99999/", "not a URL: "),
        ("http://[/", "not a URL: "),
        ("", "must be http://HOST:PORT/PATH, or https"),
    ],
)
def test_what_cannot_be_asked_is_said_with_status_2(capsys, url, said):
    assert main(["conform", url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tracekit: {url}: {said}")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "options",
    [
        ["--listen", "127.0.0.1"],
        ["--listen", "127.0.0.1:x"],
        ["--listen", "127.0.0.1:65536"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "1e9"],
    ],
)
def test_options_that_make_no_sense_are_refused(capsys, options):
    assert main(["conform", "http://127.0.0.1:1/", *options]) == 2
    assert f"argument {options[0]}" in capsys.readouterr().err


def test_no_check_at_all_is_no_success(capsys):
    with serve(Relay()) as port:
        assert main(["conform", f"http://127.0.0.1:{port}/", "--only", "no such check"]) == 2
    assert "no check has 'no such check' in its name or section" in capsys.readouterr().err


# ---- what is said


def test_a_failed_check_says_what_was_sent_and_what_came_back_and_who_wants_it_otherwise(capsys):
    hostile = Relay(sends(("traceparent", f"{FRESH}\x1b[2J"), ("baggage", "x" * 200)))
    with serve(hostile) as port:
        assert main(["conform", f"http://127.0.0.1:{port}/", "--only", "trace-id of 31"]) == 1
        assert main(["conform", f"http://127.0.0.1:{port}/", "--only", "starts a trace"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✗ traceparent: a trace-id of 31 digits",
        "    but        there must be one traceparent of version 00, with lowercase hex ids that are not all zeros",
        "    sent       traceparent: 00-bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        rf"    came back  traceparent: {FRESH}\x1b[2J",
        f"    came back  baggage: {'x' * 95}…",
        "    see        https://www.w3.org/TR/trace-context-2/#trace-id",
        "0 of 1 check passed, 1 failed",
        "✗ traceparent: a request without one starts a trace",
        "    but        there must be one traceparent of version 00, with lowercase hex ids that are not all zeros",
        "    sent       no trace header",
        rf"    came back  traceparent: {FRESH}\x1b[2J",
        f"    came back  baggage: {'x' * 95}…",
        "    see        https://www.w3.org/TR/trace-context-2/#no-traceparent-received",
        "0 of 1 check passed, 1 failed",
    ]


def test_all_shows_checks_that_have_passed_as_well(capsys):
    with serve(Relay(sends(("traceparent", FRESH)))) as port:
        assert main(["conform", f"http://127.0.0.1:{port}/", "--only", "trace-parent", "--all"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "✓ traceparent: trace-parent is another header",
        f"    sent       trace-parent: 00-{TRACE}-00f067aa0ba902b7-01",
        f"    came back  traceparent: {FRESH}",
        "    see        https://www.w3.org/TR/trace-context-2/#traceparent-header",
        "1 of 1 check passed",
    ]


# ---- the table


def test_each_check_has_a_name_of_its_own_and_a_section_and_sends_legal_headers():
    assert len(CHECKS) >= 45
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert re.fullmatch(r"https://www\.w3\.org/TR/(trace-context-2|baggage)/#[a-z-]+", check.section), check.name
        assert check.name.partition(":")[0] in TRACE_HEADERS
        for name, value in check.sent:
            assert re.fullmatch(r"[A-Za-z.-]+", name), check.name
            assert re.fullmatch(r"[\t\x20-\x7e]*", value), check.name
        assert sum(len(name) + len(value) + 4 for name, value in check.sent) < 8600, check.name


def test_each_check_can_fail():
    nothing = {name: [] for name in TRACE_HEADERS}
    wrong = {"traceparent": [FRESH], "tracestate": ["foo=3,FOO"], "baggage": ["key0=cut;,="]}
    for check in CHECKS:
        assert any(list(problems(check, [callback] * check.calls)) for callback in (nothing, wrong)), check.name


def test_what_the_harness_says_at_its_end_is_read_right():
    assert count("Ran 41 tests in 1.2s\n\nOK\n") == (41, 0, 0)
    assert count("Ran 41 tests in 1.2s\n\nFAILED (failures=2, errors=1, skipped=3)\n") == (41, 3, 3)
    assert count("Ran 41 tests in 1.2s\n\nFAILED (failures=2, errors=1, skipped=3)\n").passed == 35
    assert count("Ran 1 test in 1.2s\n\nOK (skipped=1)\n") == (1, 0, 1)
    assert count("Traceback (most recent call last):\n") == (0, 0, 0)
