"""``instrument()`` of ``http.server``, ``wsgiref`` and ``xmlrpc.server``, with real servers and sockets."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
import subprocess
import sys
import textwrap
import threading
import xmlrpc.client
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from socketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer, UDPServer
from wsgiref.handlers import BaseHandler
from wsgiref.simple_server import WSGIRequestHandler, make_server
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

import tracekit
from tracekit.integrations import _http, http_server
from tracekit.testing import span_tree

from .peer import SPAN_ID, TRACE_ID
from .servers import spans_of

CALLER = f"00-{TRACE_ID}-{SPAN_ID}-01"
METHODS = ("handle_one_request", "parse_request", "send_response_only", "end_headers")


def replaced():
    return [*(getattr(BaseHTTPRequestHandler, name) for name in METHODS), BaseHandler.run]


ORIGINAL = replaced()


@pytest.fixture(autouse=True)
def undo():
    yield
    http_server.uninstrument()
    assert replaced() == ORIGINAL


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with tracekit.span("work"):
            self.answer(503 if self.path.startswith("/busy") else 200)

    def answer(self, status, body=b"hello"):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Shop", "north")
        self.send_header("Set-Cookie", "s3cr3t=1")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.send_response_only(100)
        self.end_headers()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201)

    def do_PUT(self):
        raise ValueError("boom")

    def do_PATCH(self):
        self.answer(200)
        self.send_error(int(self.path[1:]))

    def do_DELETE(self):
        self.close_connection = True

    def do_HEAD(self):
        raise BrokenPipeError

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serve(server):
    server.handle_error = lambda *_: None
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(20)


@pytest.fixture
def port():
    with serve(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port


def ask(port, method="GET", path="/items/3", headers=(), body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(("later", "status", "kind"), [(500, "error", "500"), (404, "unset", None)])
def test_an_answer_after_the_headers_is_not_recorded_as_the_clients(exporter, port, later, status, kind):
    http_server.instrument()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client, client.makefile("rb") as answer:
        client.sendall(f"PATCH /{later} HTTP/1.1\r\n\r\n".encode())
        assert answer.read().startswith(b"HTTP/1.1 200 ")
    (span,) = spans_of(exporter, 1)
    assert (span.attributes["http.response.status_code"], span.attributes.get("error.type")) == (200, kind)
    assert span.status.code == status


def test_a_request_is_a_child_of_its_caller_and_current_in_the_handler(exporter, port):
    http_server.instrument()
    http_server.instrument()
    assert ask(port, path="/items/3?q=1&token=s3cr3t", headers={"traceparent": CALLER, "User-Agent": "tests/1"}) == 200
    spans = spans_of(exporter, 2)
    assert span_tree(spans) == "GET <- remote\n  work"
    assert spans[1].parent.span_id == SPAN_ID
    assert spans[1].kind == "server"
    assert spans[1].attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.path": "/items/3",
        "url.query": "q=1&token=REDACTED",
        "url.scheme": "http",
        "user_agent.original": "tests/1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
    }


def test_an_address_without_a_port_costs_no_span(exporter):
    class Server(HTTPServer):
        def get_request(self):
            return super().get_request()[0], ("local",)

    http_server.instrument()
    server = Server(("127.0.0.1", 0), Handler)
    with serve(server) as port:
        server.server_address = ("127.0.0.1",)
        assert ask(port) == 200
    _, span = spans_of(exporter, 2)
    assert span.attributes["client.address"] == span.attributes["network.peer.address"] == "local"
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", port)


def test_one_server_is_traced_and_no_other(exporter, port):
    one = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.instrument(one)
    http_server.instrument(one)
    with serve(one) as its:
        ask(port)
        ask(its)
        assert span_tree(spans_of(exporter, 3)) == "work\nGET\n  work"
        http_server.uninstrument(one)
        http_server.uninstrument(one)
        ask(its)
        assert len(spans_of(exporter, 4)) == 4


def test_requests_on_one_connection_are_independent(exporter, port):
    http_server.instrument()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for number in range(1, 4):
        headers = {"traceparent": f"00-{number:032x}-{number:016x}-01"} if number != 2 else {}
        connection.request("POST", "/", b"x" * number, headers)
        assert connection.getresponse().read() == b"hello"
    connection.close()
    first, second, third = spans_of(exporter, 3)
    assert [span.name for span in (first, second, third)] == ["POST"] * 3
    assert (int(first.context.trace_id, 16), second.parent, int(third.context.trace_id, 16)) == (1, None, 3)
    assert first.attributes["http.response.status_code"] == 201  # not that of "100 Continue"
    assert first.end_ns <= second.start_ns


@pytest.mark.parametrize(
    ("method", "path", "name", "status", "code", "error"),
    [
        ("GET", "/busy", "GET", 503, "error", "503"),
        ("BREW", "/", "HTTP", 501, "error", "501"),
        ("PUT", "/", "PUT", None, "error", "ValueError"),
        ("DELETE", "/", "DELETE", None, "error", None),
        ("HEAD", "/", "HEAD", None, "cancelled", None),
    ],
)
def test_status_and_errors(exporter, port, method, path, name, status, code, error):
    http_server.instrument()
    with contextlib.suppress(http.client.RemoteDisconnected):
        ask(port, method, path)
    span = spans_of(exporter, 2 if method == "GET" else 1)[-1]
    assert (span.name, span.status.code) == (name, code)
    assert span.attributes.get("http.response.status_code") == status
    assert span.attributes.get("error.type") == error
    events = {"PUT": ["exception"], "HEAD": ["disconnect"]}
    assert [event.name for event in span.events] == events.get(method, [])


@pytest.mark.parametrize("line", [b"", b"GET", b"GET / HTTP/x", b"GET / HTTP/2.0", b"x" * 70_000])
def test_a_request_that_is_rejected_unparsed_has_no_span(exporter, port, line):
    http_server.instrument()
    # The server resets a connection of which it has not read all, at any time.
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(line + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    ask(port)
    assert span_tree(spans_of(exporter, 2)) == "GET\n  work"


@pytest.mark.parametrize(
    "header", [b"traceparent: " + bytes(range(128, 256)), b"host: " + b"\xff" * 300, b"x:y\r\n" * 90]
)
@pytest.mark.parametrize("target", [b"/items/3", b"http://shop.example/items/3", b"//items/3", b"/items/3\xff?\xff"])
def test_hostile_requests_are_served(exporter, caplog, port, header, target):
    http_server.instrument(exclude=["/health"], capture_request_headers=["host", "x"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nconnection: close\r\n" + header + b"\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")
    span = spans_of(exporter, 2)[1]
    assert span.attributes["url.path"].startswith("/items/3")
    assert caplog.records == []


def test_an_excluded_request_has_no_spans(exporter, port):
    http_server.instrument(exclude=["/health"])
    assert ask(port, path="/health?x") == 200
    ask(port)
    assert span_tree(spans_of(exporter, 2)) == "GET\n  work"


def test_each_thread_of_a_threading_server_has_its_own_trace(exporter, port):
    http_server.instrument()

    def one(number):
        ask(port, headers={"traceparent": f"00-{number:032x}-{number:016x}-01"})

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    traces = {}
    for span in spans_of(exporter, 40):
        traces.setdefault(int(span.context.trace_id, 16), []).append(span)
    assert sorted(traces) == list(range(1, 21))
    assert {span_tree(spans) for spans in traces.values()} == {"GET <- remote\n  work"}


def test_a_server_in_the_thread_of_its_program_leaves_the_current_span(exporter):
    http_server.instrument()
    with tracekit.span("program") as program, HTTPServer(("127.0.0.1", 0), Handler) as server:
        client = threading.Thread(target=ask, args=(server.server_address[1],))
        client.start()
        server.handle_request()
        client.join()
        assert tracekit.current_span() is program
    assert span_tree(spans_of(exporter, 3)) in {"GET\n  work\nprogram", "program\nGET\n  work"}


def test_headers_and_hooks(exporter, port):
    calls = []
    http_server.instrument(
        on_request=lambda *arguments: calls.append(arguments),
        on_response=lambda *arguments: calls.append(arguments),
        capture_request_headers=["X-Shop", "Authorization"],
        capture_response_headers=["x-shop", "set-cookie"],
    )
    ask(port, headers={"x-shop": "south", "authorization": "s3cr3t"})
    span = spans_of(exporter, 2)[1]
    assert [len(call) for call in calls] == [2, 3]
    assert calls[1][0] is span
    assert calls[1][2] == 200
    assert {key: value for key, value in span.attributes.items() if ".header." in key} == {
        "http.request.header.x-shop": ("south",),
        "http.request.header.authorization": ("REDACTED",),
        "http.response.header.x-shop": ("north",),
        "http.response.header.set-cookie": ("REDACTED",),
    }


def test_hooks_that_raise_are_reported_once(monkeypatch, exporter, caplog, port):
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())

    def fail(*_):
        raise ZeroDivisionError

    http_server.instrument(on_request=fail, on_response=fail)
    assert [ask(port) for _ in range(3)] == [200] * 3
    spans_of(exporter, 6)
    assert len(caplog.records) == 1


def test_an_error_of_tracing_is_reported_once_and_the_request_served(monkeypatch, exporter, caplog, port):
    def broken(*_, **__):
        raise RuntimeError("tracing is broken")

    http_server.instrument()
    monkeypatch.setattr(_http, "NOTICES", _http.Notices())
    monkeypatch.setattr(http_server, "_attributes_of", broken)
    assert [ask(port) for _ in range(2)] == [200] * 2
    assert len(caplog.records) == 1


@pytest.mark.parametrize("target", [object(), Handler, "server"])
def test_another_object_is_rejected(target):
    for call in (http_server.instrument, http_server.uninstrument):
        with pytest.raises(TypeError, match="server"):
            call(target)


def test_a_server_of_another_protocol_is_rejected():
    with TCPServer(("127.0.0.1", 0), BaseRequestHandler) as server, pytest.raises(TypeError, match="server"):
        http_server.instrument(server)


@pytest.mark.parametrize("kind", [TCPServer, ThreadingTCPServer, UDPServer])
def test_a_handler_of_another_protocol_has_the_spans_that_it_opens_and_no_other(exporter, kind):
    class Echo(BaseRequestHandler):
        def handle(self):
            with tracekit.span("echo", parent=tracekit.ROOT, kind="server"), tracekit.span("work"):
                done.append(self.client_address)

    done = []
    gc.collect()  # frees unread responses of earlier tests, which ends their spans
    exporter.clear()
    http_server.instrument()
    with kind(("127.0.0.1", 0), Echo) as server:
        sender = socket.socket(type=socket.SOCK_DGRAM if kind is UDPServer else socket.SOCK_STREAM)
        with sender, tracekit.span("program"):
            sender.connect(server.server_address)
            sender.send(b"a")
            server.handle_request()
    assert len(done) == 1
    trees = {}
    for one in exporter.spans:
        trees.setdefault(one.context.trace_id, []).append(one)
    assert sorted(span_tree(spans) for spans in trees.values()) == ["echo\n  work", "program"]


@pytest.mark.parametrize("options", [{"exclude": "x"}, {"no_such": 1}, {"on_request": 5}])
def test_invalid_options_are_rejected_and_change_nothing(options):
    with pytest.raises(TypeError):
        http_server.instrument(**options)
    assert replaced() == ORIGINAL


# wsgiref


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    with tracekit.span("work"):
        yield b"hello"


@pytest.mark.parametrize("is_one", [False, True])
def test_an_application_of_wsgiref_is_traced(exporter, is_one):
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    http_server.instrument(server if is_one else None)
    with serve(server) as port:
        assert ask(port, headers={"traceparent": CALLER}) == 200
        spans = spans_of(exporter, 2)
    assert span_tree(spans) == "GET <- remote\n  work"
    assert spans[1].attributes["http.response.status_code"] == 200
    if is_one:
        http_server.uninstrument(server)


def test_an_application_of_wsgiref_that_raises_is_a_500(exporter):
    def broken(environ, start_response):
        raise ValueError("boom")

    class Silent(Quiet):
        def get_stderr(self):
            import io

            return io.StringIO()

    http_server.instrument()
    with serve(make_server("127.0.0.1", 0, broken, handler_class=Silent)) as port:
        assert ask(port) == 500
        (span,) = spans_of(exporter, 1)
    assert span.attributes["http.response.status_code"] == 500
    assert span.attributes["error.type"] == "ValueError"


# xmlrpc


class QuietXMLRPC(SimpleXMLRPCRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    server = SimpleXMLRPCServer(("127.0.0.1", 0), QuietXMLRPC, allow_none=True)

    def add(a, b):
        with tracekit.span("work"):
            return a + b

    def refuse():
        raise xmlrpc.client.Fault(7, "no")

    server.register_function(add)
    server.register_function(refuse)
    http_server.instrument()
    with serve(server) as port, xmlrpc.client.ServerProxy(f"http://127.0.0.1:{port}/RPC2") as proxy:
        yield proxy


def test_a_call_is_named_after_its_method(exporter, proxy):
    assert proxy.add(1, 2) == 3
    spans = spans_of(exporter, 2)
    assert span_tree(spans) == "POST add\n  work"
    assert spans[1].attributes["rpc.method"] == "add"
    assert spans[1].attributes["rpc.system.name"] == "xmlrpc"


def test_a_fault_is_an_answer_and_an_exception_is_an_error(exporter, proxy):
    with pytest.raises(xmlrpc.client.Fault):
        proxy.refuse()
    (span,) = spans_of(exporter, 1)
    assert (span.status.code, span.attributes["rpc.response.status_code"]) == ("unset", "7")
    with pytest.raises(xmlrpc.client.Fault):
        proxy.add(1, "x")
    span = spans_of(exporter, 3)[-1]
    assert (span.status.code, span.attributes["error.type"]) == ("error", "TypeError")
    assert span.attributes["http.response.status_code"] == 200


def test_an_unknown_method_does_not_name_the_span(exporter, proxy):
    with pytest.raises(xmlrpc.client.Fault):
        getattr(proxy, "x" * 1000)()
    (span,) = spans_of(exporter, 1)
    assert span.name == "POST"
    assert span.attributes["rpc.method"] == "x" * 128


def test_xmlrpc_is_not_imported_for_a_program_without_it_and_traced_when_it_comes_later():
    program = """
        import sys, threading, tracekit
        from tracekit.integrations import http_server
        from tracekit.testing import MemoryExporter
        exporter = MemoryExporter()
        tracekit.configure(exporter=exporter)
        http_server.instrument()
        assert not {"xmlrpc.client", "xmlrpc.server", "pydoc"} & {*sys.modules}
        from xmlrpc.client import ServerProxy
        from xmlrpc.server import SimpleXMLRPCDispatcher, SimpleXMLRPCServer
        original = SimpleXMLRPCDispatcher._marshaled_dispatch
        server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
        server.register_function(abs)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with ServerProxy(f"http://127.0.0.1:{server.server_address[1]}/RPC2") as proxy:
            print(proxy.abs(-1))
        thread.join()
        server.server_close()
        tracekit.flush(60)
        print(*[span.name for span in exporter.spans])
        http_server.uninstrument()
        assert SimpleXMLRPCDispatcher._marshaled_dispatch is original
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (["1", "POST abs"], "")
