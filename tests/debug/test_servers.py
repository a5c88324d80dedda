"""The pages under real servers: alone in a thread, mounted in ASGI and WSGI applications, named by the environment."""

import asyncio
import errno
import http.client
import http.server
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import wsgiref.simple_server
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import anyio.to_thread
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

import tracekit
from tracekit import debug
from tracekit.debug import _server
from tracekit.integrations.asgi import TraceMiddleware

from ..integrations import servers

pytestmark = pytest.mark.slow


def get(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@pytest.fixture
def server():
    server = debug.serve(port=0)
    yield server
    server.close()


def test_a_thread_serves_the_pages(server):
    assert server.url == f"http://127.0.0.1:{server.port}/debug/"
    status, headers, body = get(server.port, "/debug/")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert body.startswith(b"requests")
    assert get(server.port, "/debug/requests?format=json")[0] == 200
    assert get(server.port, "/")[1]["Location"] == "/debug/"
    assert get(server.port, "/debug")[1]["Location"] == "debug/"
    assert get(server.port, "/other")[0] == 404
    assert get(server.port, "/debug/", Host="evil.example")[0] == 403
    assert get(server.port, "/debug/", "POST")[0] == 405


def test_head_has_no_body(server):
    status, headers, body = get(server.port, "/debug/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


def test_files_of_the_package_are_served(server):
    page = get(server.port, "/debug/", Accept="text/html")[2].decode()
    for name, type in (("debug.css", "text/css"), ("debug.js", "text/javascript")):
        assert f"static/{name}" in page
        status, headers, body = get(server.port, f"/debug/static/{name}")
        assert status == 200
        assert headers["Content-Type"].startswith(type)
        assert body


def test_a_closed_server_leaves_the_port(server):
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        get(server.port, "/debug/")
    debug.serve(port=server.port).close()


def test_requests_for_pages_are_not_traced(exporter, server):
    tracekit.instrument("http.server")
    try:
        assert get(server.port, "/debug/requests")[0] == 200
        tracekit.flush(60)
        assert exporter.spans == []
        assert b"debug" not in get(server.port, "/debug/requests?format=json")[2]
    finally:
        tracekit.uninstrument("http.server")


def test_connections_are_bounded(server):
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(_server._MAX_CLIENTS)]
    servers.until(lambda: server._server.clients._value == 0)
    with pytest.raises((http.client.HTTPException, OSError)):
        get(server.port, "/debug/")
    for connection in held:
        connection.close()
    servers.until(lambda: server._server.clients._value == _server._MAX_CLIENTS)
    assert get(server.port, "/debug/")[0] == 200


def no_thread(self):
    raise RuntimeError("can't start new thread")


def test_a_connection_without_a_thread_for_it_is_closed_and_later_ones_are_served(server, monkeypatch):
    serving = server._server
    for _ in range(_server._MAX_CLIENTS + 1):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises((http.client.HTTPException, OSError)):
                get(server.port, "/debug/")
    servers.until(lambda: serving.clients._value == _server._MAX_CLIENTS)
    assert get(server.port, "/debug/")[0] == 200


def test_where_no_descriptor_is_left_the_thread_pauses_and_serves_later(server, monkeypatch):
    paused = threading.Event()
    clock = mock.Mock(sleep=lambda seconds: paused.set())
    with monkeypatch.context() as patch:
        patch.setattr(_server, "time", clock)
        patch.setattr(_server.TCPServer, "get_request", mock.Mock(side_effect=OSError(errno.EMFILE, "no descriptors")))
        with socket.create_connection(("127.0.0.1", server.port)):
            assert paused.wait(20)
    assert get(server.port, "/debug/")[0] == 200


def test_where_the_thread_cannot_be_started_no_port_is_held_and_nothing_is_recorded(monkeypatch):
    recorder = mock.Mock()
    monkeypatch.setattr(_server, "recorder", recorder)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    made = []
    monkeypatch.setattr(_server._HTTPServer, "server_activate", lambda self: made.append(self.socket))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        debug.serve(port=0)
    assert [listening.fileno() for listening in made] == [-1]
    assert not recorder.start.called


@pytest.mark.parametrize("octets", [b"\r\n\r\n", b"GET", b"\x00\xff" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000])
def test_other_protocols_get_an_answer_or_a_closed_connection(server, octets, capfd):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(octets)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:  # the server has closed the connection
            pass
    assert get(server.port, "/debug/")[0] == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_the_child_of_a_fork_does_not_hold_the_port(server):
    ours, childs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        childs.send(b".")
        childs.recv(1)
        os._exit(0)
    childs.close()
    try:
        assert ours.recv(1) == b"."  # what runs in the child of every fork has run
        server.close()
        with pytest.raises(ConnectionRefusedError):
            get(server.port, "/debug/")
    finally:
        ours.close()
        os.waitpid(pid, 0)


def test_a_child_that_is_forked_while_the_thread_starts_does_not_hold_the_port(monkeypatch):
    start, known = threading.Thread.start, []

    def noted(self):
        known.extend(_server._servers)  # those whose sockets such a child closes
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", noted)
        server = debug.serve(port=0)
    server.close()
    assert server._server in known


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_the_child_of_a_fork_draws_pages_after_its_parent_has(exporter):
    application = debug.app()

    async def status():
        async def send(message):
            sent.append(message)

        sent = []
        scope = {"type": "http", "method": "GET", "path": "/requests", "query_string": b"", "client": ("127.0.0.1", 1)}
        headers = [(b"host", b"localhost")]
        await asyncio.wait_for(application({**scope, "headers": headers}, None, send), 15)
        return sent[0]["status"]

    def is_drawn():
        with ThreadPoolExecutor(1) as executor:  # tests of a browser leave a loop running in this thread
            return executor.submit(asyncio.run, status()).result() == 200

    assert is_drawn()
    pid = os.fork()
    if pid == 0:
        exit_status = 1
        try:
            exit_status = not is_drawn()
        finally:
            os._exit(exit_status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"host": 1}, TypeError, "host must be str, not int"),
        ({"port": "80"}, TypeError, "port must be int, not str"),
        ({"port": True}, TypeError, "port must be int, not bool"),
        ({"port": 65536}, ValueError, "port must be 0 to 65535: 65536"),
        ({"host": "203.0.113.1", "port": 0}, OSError, "."),
    ],
)
def test_a_wrong_address_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        debug.serve(**arguments)


@pytest.mark.parametrize("server", servers.SERVERS)
def test_an_asgi_application_serves_the_pages(server, exporter):
    async def home(request):
        return PlainTextResponse("home")

    application = Starlette(routes=[Route("/", home), Mount("/debug", debug.app())])
    with servers.serve(TraceMiddleware(application, exclude=["/debug"]), server) as port:
        assert get(port, "/")[0] == 200
        servers.spans_of(exporter, 1)
        found = json.loads(get(port, "/debug/requests?format=json")[2])
        assert [row["family"] for row in found["families"]] == ["server GET /"]
        assert get(port, "/debug/static/debug.css")[1]["content-type"].startswith("text/css")
        assert get(port, "/debug/", Host="evil.example")[0] == 403
        assert get(port, "/debug/", Origin="http://evil.example")[0] == 403
        assert get(port, "/debug/", "HEAD")[2] == b""
        assert get(port, "/debug/", "DELETE")[0] == 405
    tracekit.flush(60)
    assert len(exporter.spans) == 1


@pytest.mark.parametrize("name", servers.SERVERS)
def test_an_open_request_is_shown_by_its_path_until_its_route_is_known(name, server, exporter):
    async def order(request):
        seen = await anyio.to_thread.run_sync(get, server.port, "/debug/requests?format=json")
        return PlainTextResponse(seen[2])

    application = Starlette(routes=[Route("/orders/{id}", order)])
    with servers.serve(TraceMiddleware(application), name) as port:
        (row,) = json.loads(get(port, "/orders/7")[2])["families"]
        assert row == {"family": "server GET", "open": 1, "open_titles": {"GET /orders/7": 1}}
        servers.spans_of(exporter, 1)
        (row,) = json.loads(get(server.port, "/debug/requests?format=json")[2])["families"]
    assert (row["family"], row["open"]) == ("server GET /orders/{id}", 0)


def test_the_application_alone_has_a_lifespan():
    with servers.serve(debug.app(), "uvicorn, asyncio") as port:
        assert get(port, "/events")[0] == 200


def test_a_wsgi_application_serves_the_pages(exporter):
    pages = debug.wsgi_app()

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *arguments):
            pass

    def application(environ, start_response):
        assert wsgiref.util.shift_path_info(environ) == "debug"
        return pages(environ, start_response)

    server = wsgiref.simple_server.make_server("127.0.0.1", 0, application, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        assert get(server.server_port, "/debug/requests", Accept="text/html")[0] == 200
        assert get(server.server_port, "/debug")[1]["Location"] == "debug/"
        assert get(server.server_port, "/debug/", Host="evil.example")[0] == 403
        assert get(server.server_port, "/debug/", X_Forwarded_For="127.0.0.1")[0] == 403
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def asked(monkeypatch):
    """The servers that the environment asked for, closed after the test."""
    monkeypatch.setattr(_server, "_asked", {})
    before = set(_server._servers)
    yield lambda: [server for server in _server._servers if server not in before]
    for server in list(_server._servers):
        if server not in before:
            _server.Server(server).close()


def test_the_environment_names_an_address_once(asked, caplog):
    caplog.set_level("INFO", "tracekit")
    for _ in range(2):
        tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": "127.0.0.1:0"})
    (server,) = asked()
    assert get(server.server_port, "/debug/")[0] == 200
    assert f"debug pages of process {os.getpid()}: http://127.0.0.1:{server.server_port}/debug/" in caplog.text


def test_a_port_that_is_taken_is_replaced_by_a_free_one(asked, caplog):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": f"127.0.0.1:{taken}"})
        (server,) = asked()
    assert server.server_port != taken
    assert get(server.server_port, "/debug/")[0] == 200
    assert f"debug pages of process {os.getpid()}: http://127.0.0.1:{server.server_port}/debug/, as port" in caplog.text


@pytest.mark.usefixtures("asked")
def test_pages_that_cannot_be_served_record_nothing(monkeypatch):
    recorder = mock.Mock()
    monkeypatch.setattr(_server, "recorder", recorder)
    with pytest.raises(OSError):  # noqa: PT011 - its text is the system's
        _server.serve_once("192.0.2.1", 0)  # no address of this machine (RFC 5737)
    assert not recorder.start.called


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_the_child_of_a_fork_serves_what_the_environment_asks_for_after_its_first_span(asked):
    tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": "127.0.0.1:0"})
    (parents,) = asked()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        exit_status = 1
        try:
            assert asked() == []
            for _ in range(2):
                tracekit.span("in the child").end()
                tracekit.flush(60)
            (server,) = asked()
            assert "in the child" in get(server.server_port, "/debug/requests?format=text")[2].decode()
            assert server.server_port != parents.server_port
            exit_status = 0
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(exit_status)
    os.close(writing)
    assert (os.read(reading, 1000), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) == (b"", 0)
    os.close(reading)


def test_a_program_that_imports_http_server_first_under_tracekit_run_has_pages(tmp_path):
    program = """
        import http.server, time
        from tracekit.debug import _server

        while not _server._asked:
            time.sleep(0.001)
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    environ = {**os.environ, "TRACEKIT_DEBUG_PAGES": "127.0.0.1:0", "OTEL_TRACES_EXPORTER": "none"}
    command = [sys.executable, "-m", "tracekit", "run", "--", sys.executable, tmp_path / "program.py"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("value", ["6070", ":6070", "localhost:", "localhost:http", "127.0.0.1:65536", "[::1]"])
def test_an_invalid_address_is_a_warning(asked, value, caplog):
    tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": value})
    assert asked() == []
    assert "must be HOST:PORT, such as 127.0.0.1:6070; no address is used" in caplog.text


def test_an_address_that_cannot_be_used_is_a_warning(asked, caplog):
    tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": "203.0.113.1:6070"})
    assert asked() == []
    assert "the debug pages are not served: OSError" in caplog.text


def test_a_disabled_sdk_serves_nothing(asked):
    tracekit.configure(environ={"TRACEKIT_DEBUG_PAGES": "127.0.0.1:0", "OTEL_SDK_DISABLED": "true"})
    assert asked() == []
