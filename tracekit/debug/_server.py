"""The pages without any framework: a server in a daemon thread."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final

from .._core.checks import check_int
from .._core.log import log
from .._export.threads import EXPORT_CONTEXT
from .._forks import call_in_child
from ._access import Authorize, Gate, Visitor, headers_by_name
from ._recorder import recorder
from ._respond import respond

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFIX: Final = "/debug"
_TIMEOUT_S: Final = 10.0
_MAX_CLIENTS: Final = 16
_PAUSE_S: Final = 0.1

_servers: weakref.WeakSet[_HTTPServer] = weakref.WeakSet()
_asked: dict[tuple[str, int], int] = {}  # the process that served each address of the environment


class Server:
    """A running server of the pages; ``url`` is the address of the index. The process's exit ends it, or ``close()``."""

    def __init__(self, server: _HTTPServer) -> None:
        self._server = server
        self.host, self.port = server.server_name, server.server_port
        self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{_PREFIX}/"

    def __repr__(self) -> str:
        return f"<Server {self.url}>"

    def close(self) -> None:
        """Stop listening. Calling it again has no effect."""
        if self._server in _servers:
            _servers.discard(self._server)
            self._server.shutdown()
            self._server.server_close()


def serve(
    host: str = "127.0.0.1",
    port: int = 6070,
    *,
    auth: Authorize | None = None,
    hosts: Iterable[str] = (),
    unsampled: bool = True,
) -> Server:
    """Serve the pages at ``http://HOST:PORT/debug/`` from a daemon thread, and return the server.

    Port 0 takes a free one. *auth*, *hosts* and *unsampled* are those of ``app()``; without *auth* only loopback peers may see the
    pages, also where *host* is not a loopback address. Requests to this server are not traced. The child of a fork does
    not serve. Raises ``OSError`` where the address cannot be used.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be str, not {type(host).__name__}")
    check_int("port", port, 0, 65535)
    server = _HTTPServer(host, port, Gate(auth, hosts, host))
    running = _run(server)
    recorder.start(records_all=unsampled)
    return running


def _run(server: _HTTPServer) -> Server:
    _servers.add(server)  # first: another thread may fork
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="tracekit-debug", daemon=True)
    try:
        EXPORT_CONTEXT.copy().run(thread.start)
    except BaseException:  # no more threads, for example
        server.server_close()
        raise
    return Server(server)


def serve_once(host: str, port: int) -> None:
    """Serve the pages for ``TRACEKIT_DEBUG_PAGES``, once per process; where *port* is taken, at a free one.

    In the child of a fork the exporting thread does so, after the first spans: a hook of a fork must not start threads.
    """
    if _asked.get((host, port)) == os.getpid():
        return
    _serve(host, port)
    recorder.in_child = _serve_in_child
    recorder.start(records_all=True)


def _serve_in_child() -> None:
    for host, port in list(_asked):
        try:
            _serve(host, port)
        except OSError as error:
            log("warning", "the debug pages of process %d are not served: %s", os.getpid(), error)


def _serve(host: str, port: int) -> None:
    try:
        server = _run(_HTTPServer(host, port, Gate(None, (), host)))
        log("info", "debug pages of process %d: %s", os.getpid(), server.url)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not port:
            raise
        server = _run(_HTTPServer(host, 0, Gate(None, (), host)))  # another worker of the same program has the port
        log("warning", "debug pages of process %d: %s, as port %d is in use", os.getpid(), server.url, port)
    _asked[host, port] = os.getpid()


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, host: str, port: int, gate: Gate) -> None:
        self._tracekit = None  # the integration of http.server leaves this server alone
        self.gate = gate
        self.clients = threading.BoundedSemaphore(_MAX_CLIENTS)
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind; the standard library's method also asks a name server about the host, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> Any:
        """Accept a connection. One for which no descriptor is left waits: ``serve_forever()`` would ask without a pause."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve one connection in a thread; beyond the bound, or without a thread for it, it is closed."""
        if not self.clients.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no more threads: it is closed by the caller
            self.clients.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that vanish: the program's standard error is not ours."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server: _HTTPServer
    server_version = "tracekit"
    sys_version = ""

    def do_GET(self) -> None:
        full, _, query = self.path.partition("?")
        if full == "/":
            self.send_response(308)
            self.send_header("Location", f"{_PREFIX}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        visitor = Visitor(str(self.client_address[0]), self.command, full, headers_by_name(self.headers.items()))
        is_below = full == _PREFIX or full.startswith(f"{_PREFIX}/")
        response = respond(self.server.gate, visitor, full.removeprefix(_PREFIX) if is_below else "/" + full, query)
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815 - all but two are rejected

    def log_message(self, format: str, *arguments: Any) -> None:
        """Write nothing to the program's standard error."""


def _after_fork() -> None:
    for server in list(_servers):
        _servers.discard(server)
        server.socket.close()  # the parent's


call_in_child(_after_fork)
