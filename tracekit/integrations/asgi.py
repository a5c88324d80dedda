"""ASGI middleware: one server span per HTTP request or websocket, for any ASGI framework and server.

How it works: the span is made from the request's own headers and is current while the app runs, and
in the tasks and threads that it starts. ``receive`` and ``send`` are wrapped, for a recorded span only, to see
the status, the last body chunk and the disconnect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from .. import ROOT, Span, SpanContext, span
from .._propagation import extract_all
from ._http import DEFAULT_PORTS, MAX_TEXT, METHODS, error_type, parse_host, redact_query, report

if TYPE_CHECKING:
    from .._core.twin import Root

__all__ = ["SPAN_KEY", "TraceMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SPAN_KEY = "tracekit.span"
Trust = Literal["continue", "restart", "link", "ignore"]
_TRUST = ("continue", "restart", "link", "ignore")


class TraceMiddleware:
    """Give each HTTP request and each websocket its server span; everything else passes untouched.

    The span's parent is the caller's span, from the request's headers, or nothing; never what is
    current around the middleware: asyncio's transports leak the Context of one request into the next
    on the same connection. *trust* says what to make of a caller's headers:

    - ``"continue"``: the span is a child of the caller's, with its sampling decision and its labels;
    - ``"restart"``: the span starts a new trace, without labels, and links to the caller's;
    - ``"link"``: as "restart", but the caller's labels stay in force;
    - ``"ignore"``: nothing is read.

    *routes* says otherwise for paths that start with a prefix, ``{"/internal": "continue"}``, whole segments of it;
    the longest wins.
    Where several formats are configured and name different traces, the first counts and the span links to the others.

    The span ends with the last body chunk or the disconnect, where the app sees one, and at the latest when
    the app returns; a response of status 500 and up waits for that, for the exception that may be behind it.
    What the app does later, in background tasks, still gets children of the span. A disconnect is an
    event on the span; before a response is complete it makes the span "cancelled".

    A ContextVar that the app sets does not reach the layers around it, so they find the span in
    ``scope["tracekit.span"]``. Where it is there already, an inner ``TraceMiddleware`` does nothing.
    """

    def __init__(self, app: App, *, trust: Trust = "continue", routes: Mapping[str, Trust] | None = None) -> None:
        if not callable(app):
            raise TypeError(f"app must be an ASGI application, not {type(app).__name__}")
        if routes is not None and not isinstance(routes, Mapping):
            raise TypeError(f"routes must be a mapping, not {type(routes).__name__}")
        for prefix in routes or ():
            if not isinstance(prefix, str):
                raise TypeError(f"routes must have str keys, not {type(prefix).__name__}")
        self.app = app
        self._trust = _checked(trust)
        by_length = sorted((routes or {}).items(), key=lambda item: -len(item[0]))
        self._routes = [(prefix, _checked(trust)) for prefix, trust in by_length]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve *scope*, with a span of its own if it is a request or a websocket."""
        kind = scope.get("type")
        if (kind != "http" and kind != "websocket") or SPAN_KEY in scope:
            await self.app(scope, receive, send)
            return
        server_span = self._start(scope, kind)
        if server_span is None:
            await self.app(scope, receive, send)
            return
        with server_span:
            if not server_span.is_recording:
                await self.app(scope, receive, send)
                return
            watched = (_Request if kind == "http" else _WebSocket)(server_span, scope, receive, send)
            try:
                await self.app(scope, watched.receive, watched.send)
            except BaseException as error:
                watched.fail(error)
                raise
            if server_span.is_recording:
                watched.close()

    def _start(self, scope: Scope, kind: str) -> Span | None:
        """Return the server span of *scope*, or None where something in the way of tracing failed."""
        try:
            parent: SpanContext | Root = ROOT
            links: tuple[SpanContext, ...] = ()
            may_record = True
            trust = self._trust_of(scope) if self._routes else self._trust
            caller, others = (None, ()) if trust == "ignore" else _caller(scope)
            if caller is not None:
                if trust == "continue":
                    parent = caller
                    may_record = caller.sampled or caller.deferred
                    links = others
                else:
                    links = (caller, *others) if caller.is_valid else others
                    if trust == "link" and caller.labels:
                        parent = SpanContext(labels=caller.labels)
            method = scope.get("method", "GET")
            if not isinstance(method, str) or method not in METHODS:
                method = "HTTP"
            server_span = span(
                method if kind == "http" else "WEBSOCKET",
                kind="server",
                parent=parent,
                links=links,
                attributes=_attributes(scope, method) if may_record else None,
            )
            scope[SPAN_KEY] = server_span
        except Exception as error:  # the request is served, traced or not
            report(error)
            return None
        return server_span

    def _trust_of(self, scope: Scope) -> str:
        path = scope.get("path", "")
        return next((trust for prefix, trust in self._routes if _is_below(path, prefix)), self._trust)


def _is_below(path: str, prefix: str) -> bool:
    # "/internal" is no promise about "/internals".
    return path.startswith(prefix) and (prefix.endswith("/") or path[len(prefix) : len(prefix) + 1] in ("", "/"))


def _checked(trust: str) -> str:
    if not isinstance(trust, str):
        raise TypeError(f"trust must be str, not {type(trust).__name__}")
    if trust not in _TRUST:
        raise ValueError(f"trust must be one of {', '.join(_TRUST)}: {trust[:64]!a}")
    return trust


def _caller(scope: Scope) -> tuple[SpanContext | None, tuple[SpanContext, ...]]:
    try:
        headers = scope["headers"]
        if not isinstance(headers, (list, tuple)):  # "iterable", says the specification: it may be one that runs once
            scope["headers"] = headers = list(headers)
        return extract_all(headers)
    except Exception:  # no headers, or a format of the user's own that fails on these
        return None, ()


def _attributes(scope: Scope, method: str) -> dict[str, Any]:
    """Return what *scope* tells about the request, as far as it is well-formed."""
    get = scope.get
    scheme = get("scheme") or ("http" if scope["type"] == "http" else "ws")
    attributes = {"http.request.method": method, "url.path": get("path", ""), "url.scheme": scheme}
    try:
        host = agent = b""
        for name, value in get("headers", ()):
            if name == b"host":
                host = value
                if agent:
                    break
            elif name == b"user-agent":
                agent = value
                if host:
                    break
        if agent:
            attributes["user_agent.original"] = agent[:MAX_TEXT].decode("latin-1")
        address, port = parse_host(host)
        if not address and get("server"):
            address, port = scope["server"]
        if address:
            attributes["server.address"] = address
            attributes["server.port"] = port or DEFAULT_PORTS[scheme]
    except Exception:  # hostile bytes, or a server that takes liberties: what was found so far will do
        pass
    try:
        if query := get("query_string"):
            attributes["url.query"] = redact_query(query[:MAX_TEXT].decode("latin-1"))
        if client := get("client"):
            attributes["client.address"] = client[0]
        if version := get("http_version"):
            attributes["network.protocol.version"] = version
        if method == "HTTP":
            attributes["http.request.method"] = "_OTHER"
            attributes["http.request.method_original"] = scope["method"][:64]
    except Exception:
        pass
    return attributes


def _route(scope: Scope) -> str:
    """Return the path template of the route that the app chose, where it says so as Starlette and FastAPI do, or ""."""
    route = scope.get("route")
    if route is None:
        return ""
    try:
        # A mount's own template is overwritten by the route inside, which knows only the rest of the path.
        prefix: str = scope["root_path"][len(scope["app_root_path"]) :] if "app_root_path" in scope else ""
        path: str = "" if hasattr(route, "routes") else route.path
        if prefix:
            inner = getattr(route, "param_convertors", ())
            outer = {str(value): name for name, value in scope["path_params"].items() if name not in inner}
            prefix = "/".join([f"{{{outer[part]}}}" if part in outer else part for part in prefix.split("/")])
        return prefix + path
    except Exception:  # some other framework's idea of a route
        return ""


class _Exchange:
    """The two ends of one request or websocket, as the app gets them, and what is seen passing through."""

    __slots__ = ("_is_complete", "_receive", "_scope", "_send", "_span", "_status")

    def __init__(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        self._span = span
        self._scope = scope
        self._receive = receive
        self._send = send
        self._status = 0
        self._is_complete = False

    def close(self) -> None:
        """Note that the app has returned."""
        self._describe()

    def fail(self, error: BaseException) -> None:
        """Note that the app has raised *error*; the span's own exit records it."""
        self._describe()
        if isinstance(error, Exception):
            self._span.set_attribute("error.type", error_type(error))

    def _disconnect(self) -> None:
        self._is_complete = True
        self._span.add_event("disconnect")
        self._span.set_status("cancelled", "the client disconnected")
        self._describe()
        self._span.end()

    def _describe(self) -> None:
        """Write what is known only now: the route that the app chose, and how it went; the span ends next."""
        span = self._span
        if route := _route(self._scope):
            span.update_name(f"{span.name} {route}")
            span.set_attribute("http.route", route)
        if status := self._status:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status("error")

    def _see_status(self, message: Message) -> None:
        status = message.get("status")
        if isinstance(status, int):
            self._status = status


class _Request(_Exchange):
    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        # After the last chunk every server answers "disconnect"; that is no news of the client.
        if not self._is_complete and message["type"] == "http.disconnect":
            self._disconnect()
        return message

    async def send(self, message: Message) -> None:
        if self._is_complete:
            await self._send(message)
            return
        kind = message["type"]
        if kind == "http.response.start":
            self._see_status(message)
        elif kind == "http.response.body" or kind == "http.response.zerocopysend":
            # Set before it is sent: the disconnect that follows may overtake the rest of this call.
            self._is_complete = not message.get("more_body")
        elif kind == "http.response.pathsend":
            self._is_complete = True
        try:
            await self._send(message)
        except OSError:  # which says, since version 2.4 of the specification, that the client has gone
            self._disconnect()
            raise
        if self._is_complete and self._status < 500:
            self._describe()
            self._span.end()

    def close(self) -> None:
        if not self._is_complete:
            self._span.set_status("error", "the app returned before its response was complete")
        self._describe()


class _WebSocket(_Exchange):
    __slots__ = ("_is_accepted", "_received", "_sent")

    def __init__(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(span, scope, receive, send)
        self._is_accepted = False
        self._received = self._sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            self._received += 1
        elif kind == "websocket.disconnect" and not self._is_complete:
            # An ordinary end. Whether the connection broke the code should say, but servers differ.
            self._is_complete = True
            self._span.add_event("disconnect")
            self._see_code(message)
            self._describe()
            self._span.end()
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except OSError:
            self._disconnect()
            raise
        kind = message["type"]
        if kind == "websocket.send":
            self._sent += 1
        elif kind == "websocket.accept":
            self._is_accepted = True
        elif kind == "websocket.http.response.start":
            self._see_status(message)
        elif kind == "websocket.close":
            self._is_complete = True
            if self._is_accepted:
                self._see_code(message)
            else:
                self._status = 403  # what the specification has servers answer

    def _see_code(self, message: Message) -> None:
        code = message.get("code", 1000)
        if isinstance(code, int):
            self._span.set_attribute("websocket.close_code", code)

    def _describe(self) -> None:
        super()._describe()
        self._span.set_attribute("websocket.messages_received", self._received)
        self._span.set_attribute("websocket.messages_sent", self._sent)
