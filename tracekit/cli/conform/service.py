"""Conformance: send a running service trace headers of every kind, and check the headers that it sends on.

The service takes a POST of ``[{"url": ..., "arguments": [...]}]`` with headers of ours, and POSTs its arguments to each
url, where we listen: the checks look at the headers that arrive there.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import secrets
import socket
import socketserver
import string
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from .checks import CHECKS, TRACE_HEADERS, problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .checks import Callback, Check, Header

PROTOCOL: Final = """\
It must answer a POST of [{"url": URL, "arguments": LIST}, ...] when it has POSTed to each URL its LIST, as JSON:

    async def conform(request):
        for call in await request.json():
            await client.post(call["url"], json=call["arguments"])
        return Response()
    client = httpx.AsyncClient(transport=AsyncTraceTransport())
    app = TraceMiddleware(Starlette(routes=[Route("/conform", conform, methods=["POST"])]))
"""

_MAX_BODY = 65_536


class ServiceError(Exception):
    """Raised when no check can run, with the reason; ``advice`` is for a service that can be reached."""

    def __init__(self, why: str, advice: str = "") -> None:
        super().__init__(why)
        self.advice = advice


class Outcome(NamedTuple):
    """The result of a check: the trace headers of each callback, and the faults in words."""

    check: Check
    received: list[Callback]
    problems: list[str]


def conform(
    url: str, *, host: str = "127.0.0.1", port: int = 0, only: str = "", timeout_s: float = 5.0
) -> Iterator[Outcome]:
    """Send the service at *url* each check whose name or section contains *only*, and give its outcome.

    Callbacks are awaited on *host* and *port*, for *timeout_s* seconds a check. Raises ``ServiceError`` where a first
    request, without trace headers, is not called back.
    """
    wanted = only.lower()
    with _listening(host, port) as listener:
        service = _Service(url, listener, timeout_s)
        received, did = service.call((), 1)
        if not received:
            if service.is_reached:
                raise ServiceError(f"it does not speak the protocol: {did}, and did not call back", PROTOCOL)
            raise ServiceError(f"it cannot be reached: {did}")
        for check in CHECKS:
            if wanted not in f"{check.name} {check.section}".lower():
                continue
            received, did = service.call(check.sent, check.calls)
            if len(received) < check.calls:
                yield Outcome(check, received, [f"{len(received)} of {check.calls} calls came: {did}"])
            else:
                yield Outcome(check, received, list(problems(check, received)))


class _Service:
    """The service under test, one connection a request."""

    def __init__(self, url: str, listener: _Listener, timeout_s: float) -> None:
        try:
            parts = urlsplit(url)
            self._address = (parts.hostname or "", parts.port)
        except ValueError as error:
            raise ServiceError(f"not a URL: {error}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ServiceError("must be http://HOST:PORT/PATH, or https")
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=string.punctuation)
        self._listener = listener
        self._timeout_s = timeout_s
        self.is_reached = False

    def call(self, headers: Sequence[Header], calls: int) -> tuple[list[Callback], str]:
        """Send a request with *headers*; return its callbacks, in the requested order, and the service's answer."""
        deadline_s = time.monotonic() + self._timeout_s
        paths = self._listener.expect(calls)
        try:
            status = self._post(paths, headers)
            did = f"it answered {status}"
            if status < 400:  # it may call back later than it answers
                did += f", waited for {self._timeout_s:g} s"
                self._listener.wait(paths, deadline_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            did = f"{type(error).__name__}: {error}"
            if time.monotonic() >= deadline_s:
                did = f"no answer within {self._timeout_s:g} s"
        return self._listener.take(paths), did

    def _post(self, paths: list[str], headers: Sequence[Header]) -> int:
        connection = self._connection(*self._address, timeout=self._timeout_s)
        watchdog = None
        try:
            connection.connect()
            self.is_reached = True
            # A socket's timeout is for each step: a service that sends a byte now and then must not hold us up.
            watchdog = threading.Timer(self._timeout_s, _hang_up, [connection.sock])
            watchdog.start()
            base = self._listener.url(connection.sock.getsockname()[0])
            body = json.dumps([{"url": base + path, "arguments": []} for path in paths]).encode()
            connection.putrequest("POST", self._target, skip_accept_encoding=True)
            own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
            for name, value in [*own.items(), *headers]:
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            response.read(_MAX_BODY)
            response.close()
            return response.status
        finally:
            if watchdog is not None:
                watchdog.cancel()
            connection.close()


def _hang_up(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has been closed in the same moment
        connected.shutdown(socket.SHUT_RDWR)


class _Listener(http.server.ThreadingHTTPServer):
    """Receives expected callbacks only: one that arrives too late for its check is discarded."""

    def __init__(self, host: str, port: int) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._host = host
        self._secret = secrets.token_hex(8)  # whoever else can reach us cannot make up callbacks
        self._count = 0
        self._calls: dict[str, Callback | None] = {}
        self._changed = threading.Condition()
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own also asks DNS for its name

    def url(self, own_address: str) -> str:
        """Return the URL to tell a service that we have reached from *own_address*."""
        host = own_address if self._host in {"", "0.0.0.0", "::"} else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def expect(self, calls: int) -> list[str]:
        """Return a new path for each of *calls*."""
        self._count += 1
        paths = [f"/{self._secret}/{self._count}/{call}" for call in range(calls)]
        with self._changed:
            self._calls = dict.fromkeys(paths)
        return paths

    def note(self, path: str, headers: list[Header]) -> bool:
        """Keep the trace headers of a callback; return whether it was expected."""
        callback: Callback = {name: [] for name in TRACE_HEADERS}
        for name, value in headers:
            if name.lower() in callback:
                callback[name.lower()].append(value.strip(" \t"))
        with self._changed:
            if path not in self._calls:
                return False
            if self._calls[path] is None:  # else a client has tried again
                self._calls[path] = callback
            self._changed.notify_all()
            return True

    def wait(self, paths: list[str], deadline_s: float) -> None:
        """Wait until there is a callback for each of *paths*."""
        with self._changed:
            left_s = max(0.0, deadline_s - time.monotonic())
            self._changed.wait_for(lambda: all(self._calls[path] is not None for path in paths), left_s)

    def take(self, paths: list[str]) -> list[Callback]:
        """Return the callbacks that have come, and expect no more."""
        with self._changed:
            found = [callback for path in paths if (callback := self._calls[path]) is not None]
            self._calls = {}
        return found

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a connection that the service closes shows as missing callbacks


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Listener
    timeout = 30.0

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(_MAX_BODY).split(b";")[0], 16):
                self.rfile.read(min(size, _MAX_BODY) + 2)
            while self.rfile.readline(_MAX_BODY).strip():
                pass
        else:
            self.rfile.read(min(int(self.headers.get("Content-Length", "0")), _MAX_BODY))
        is_expected = self.server.note(self.path, list(self.headers.items()))
        self.send_response(200 if is_expected else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"null")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[_Listener]:
    try:
        listener = _Listener(host, port)
    except (OSError, UnicodeError) as error:
        raise ServiceError(f"cannot listen on {host}:{port} for its calls: {error}") from error
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), name="tracekit conform", daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
