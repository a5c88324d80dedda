"""Server spans for the standard library: ``http.server``, ``wsgiref`` and ``xmlrpc.server``.

How it works: ``BaseHTTPRequestHandler.parse_request`` starts the span, so that it has the request's headers and the wait
for the next request of a connection is no part of it; ``handle_one_request`` ends it. ``wsgiref`` runs applications
inside the WSGI middleware. A thread of ``ThreadingMixIn`` handles one connection, and its spans are its own.
"""

from __future__ import annotations

import copy
import functools
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any, Final
from wsgiref.handlers import BaseHandler

from .. import current_span, use_context
from .._core.outcome import is_normal_end
from .._core.scopes import held_scope, swap_scope
from ._http import METHODS, error_type, path_of_target, report
from ._patch import Patches
from ._server import NOT_TRACED
from ._wsgi_environ import attributes_of
from .wsgi import TraceMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import Span
    from ._redaction import Redaction

__all__ = ["instrument", "uninstrument"]

_KEY: Final = "_tracekit"  # in the __dict__ of a server
_EXCHANGE: Final = "_tracekit_exchange"  # in the __dict__ of a handler
_GONE: Final = (BrokenPipeError, ConnectionAbortedError, ConnectionResetError)
_MAX_METHOD: Final = 128  # characters of the name of an XML-RPC method

_patches = Patches()
_default: TraceMiddleware | None = None  # the middleware whose options hold for all servers
_singles = 0  # number of servers that are instrumented one by one
_dispatchers: dict[type, object] = {}  # the replaced class of xmlrpc.server, and its thread's mark


def instrument(target: Any = None, **options: Any) -> None:
    """Trace the requests of *target*, a server of ``socketserver`` with an HTTP handler, or, without one, of all.

    *options* are the keyword arguments of ``tracekit.integrations.wsgi.TraceMiddleware``. The hooks are called as
    ``on_request(span, handler)``, and ``on_response(span, handler, status)`` before the headers are sent; for WSGI
    applications, with the arguments documented there. Servers may exist before. Further calls do nothing until
    ``uninstrument()``.

    A request that ``http.server`` rejects before it calls a method of the handler has no span, except for an unknown
    method. A client that is gone sets the status "cancelled". For XML-RPC the span is named after the method; an
    exception of the method, which the client gets as a fault, is recorded, and a ``Fault`` is
    ``rpc.response.status_code``. Werkzeug's server, that of ``flask run``, is left out among all servers: its
    applications are traced as those of WSGI.

    Raises ``TypeError`` for another object, or for invalid options.
    """
    global _default, _singles
    settings = TraceMiddleware(_no_app, **options)
    if target is None:
        _default = _default or settings
    else:
        _check(target)
        if _KEY in vars(target):
            return
        vars(target)[_KEY] = settings
        _singles += 1
    if not _patches.is_active:
        _patches.replace(BaseHTTPRequestHandler, "handle_one_request", _handling)
        _patches.replace(BaseHTTPRequestHandler, "parse_request", _parsing)
        _patches.replace(BaseHTTPRequestHandler, "send_response_only", _responding)
        _patches.replace(BaseHTTPRequestHandler, "end_headers", _ending)
        _patches.replace(BaseHandler, "run", _running)
    _trace_xmlrpc()


def uninstrument(target: Any = None) -> None:
    """Undo ``instrument(target)``. Raises ``TypeError`` for another object."""
    global _default, _singles
    if target is None:
        _default = None
    else:
        _check(target)
        if vars(target).pop(_KEY, None) is not None:
            _singles -= 1
    if _default is None and not _singles:
        _patches.restore()
        _dispatchers.clear()


def _trace_xmlrpc() -> None:
    """Trace the methods of ``xmlrpc.server`` if it is imported: few programs use it, and it takes longer than tracekit."""
    kind = getattr(sys.modules.get("xmlrpc.server"), "SimpleXMLRPCDispatcher", None)
    mine = object()  # of several threads one replaces the method
    if kind is not None and _patches.is_active and _dispatchers.setdefault(kind, mine) is mine:
        _patches.replace(kind, "_marshaled_dispatch", _dispatching)


def _check(target: Any) -> None:
    handler = getattr(target, "RequestHandlerClass", None)
    if not (
        isinstance(target, BaseServer) and isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler)
    ):
        raise TypeError(f"target must be a server with a handler of http.server, not {type(target).__name__}")


def _no_app(_environ: Any, _start_response: Any) -> Any:
    """Stand for the application in a middleware that is copied for each one."""


def _settings_of(handler: Any) -> TraceMiddleware | None:
    server = getattr(handler, "server", None)
    # Werkzeug's handler calls an application of WSGI, which may be traced, too.
    default = None if hasattr(type(handler), "run_wsgi") else _default
    found: TraceMiddleware | None = getattr(server, "__dict__", {}).get(_KEY, default)
    return found


class _Exchange:
    """One request on a connection, from the end of its headers to the end of its handling."""

    __slots__ = ("_has_sent", "_held", "_scope", "_settings", "_span", "_status")

    def __init__(self, settings: TraceMiddleware) -> None:
        self._settings = settings
        self._scope: Any = None
        self._span: Span | None = None
        self._status = 0
        self._has_sent = False  # the headers: the client has the status

    def start(self, handler: Any) -> None:
        """Start the span: the headers are parsed."""
        settings = self._settings
        try:
            _trace_xmlrpc()  # imported after instrument()
            self.finish(None)  # a handler that parses twice
            self._status, self._has_sent = 0, False
            path = path_of_target(handler.path)
            if settings._is_excluded is not None and settings._is_excluded(path):
                scope: Any = use_context(NOT_TRACED)
            else:
                method = handler.command if handler.command in METHODS else "HTTP"
                headers = handler.headers.items()
                details = (handler, method, settings._redaction)
                scope = settings._callers.start(method, path, headers, _attributes_of, *details)
                self._span = scope if scope.is_recording else None
            self._held = held_scope()
            self._scope = scope
            scope.__enter__()
            if self._span is not None and settings._extras is not None:
                settings._extras.request(self._span, headers, handler)
        except Exception as error:  # the request is served without a span
            report(error)

    def see_status(self, status: Any) -> None:
        """Note the status of a response; those below 200 precede another. After the headers only that it is an error."""
        if not isinstance(status, int) or status < 200:
            return
        if not self._has_sent:
            self._status = int(status)
        elif status >= 500 and self._span is not None:
            self._span.set_attribute("error.type", str(int(status)))
            self._span.set_status("error", "an error followed the headers of the response")

    def see_headers(self, handler: Any) -> None:
        """Handle the end of the response's headers, before they are sent."""
        if self._status < 200 or self._has_sent:
            return
        self._has_sent = True
        if self._span is None or self._settings._extras is None:
            return
        try:
            lines = [line.rstrip(b"\r\n").partition(b":") for line in getattr(handler, "_headers_buffer", ())]
            headers = [(name, value.strip()) for name, colon, value in lines if colon]
            self._settings._extras.response(self._span, headers, handler, self._status)
        except Exception as error:
            report(error)

    def finish(self, error: BaseException | None) -> None:
        scope, self._scope = self._scope, None
        if scope is None:
            return
        span, self._span = self._span, None
        if span is not None:
            self._describe(span, error)
        is_gone = isinstance(error, _GONE)
        if error is None or is_gone:
            scope.__exit__(None, None, None)
        else:
            scope.__exit__(type(error), error, None)
        swap_scope(self._held)

    def _describe(self, span: Span, error: BaseException | None) -> None:
        try:
            if status := self._status:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_attribute("error.type", str(status))
                    span.set_status("error")
            elif error is None:
                span.set_status("error", "the handler sent no response")
            if isinstance(error, _GONE):
                span.add_event("disconnect")
                span.set_status("cancelled", "the client disconnected")
            elif isinstance(error, Exception) and not is_normal_end(error):
                span.set_attribute("error.type", error_type(error))
        except Exception as ours:
            report(ours)


def _environ_of(handler: Any) -> dict[str, Any]:
    """Return the request that *handler* has parsed, as far as ``attributes_of()`` reads that of WSGI."""
    headers = handler.headers
    environ: dict[str, Any] = {
        "REQUEST_METHOD": handler.command,
        "RAW_URI": handler.path,
        "PATH_INFO": handler.path,  # which may be a whole URL
        "QUERY_STRING": handler.path.partition("?")[2],
        "SERVER_PROTOCOL": handler.request_version,
        "HTTP_HOST": headers.get("Host", ""),
        "HTTP_USER_AGENT": headers.get("User-Agent"),
        "wsgi.url_scheme": "https" if hasattr(getattr(handler, "connection", None), "cipher") else "http",
    }
    local = getattr(getattr(handler, "server", None), "server_address", None)
    if isinstance(local, tuple) and local:  # on a Unix socket it is the path
        environ["SERVER_NAME"], environ["SERVER_PORT"] = (*local, None)[:2]
    client = getattr(handler, "client_address", None)
    if isinstance(client, tuple) and client:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], True  # of the connection itself, not from a header
    return environ


def _attributes_of(handler: Any, method: str, redaction: Redaction) -> dict[str, Any]:
    return attributes_of(_environ_of(handler), method, redaction)


# The replacements. Each calls the original with its own arguments and adds no exceptions.


def _handling(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def handle_one_request(self: Any) -> Any:
        settings = _settings_of(self)
        if settings is None or _EXCHANGE in self.__dict__:
            return original(self)
        exchange = self.__dict__[_EXCHANGE] = _Exchange(settings)
        try:
            return original(self)
        except BaseException as error:
            exchange.finish(error)
            raise
        finally:
            exchange.finish(None)
            self.__dict__.pop(_EXCHANGE, None)

    return handle_one_request


def _parsing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def parse_request(self: Any) -> Any:
        is_parsed = original(self)
        if is_parsed and (exchange := self.__dict__.get(_EXCHANGE)) is not None:
            exchange.start(self)
        return is_parsed

    return parse_request


def _responding(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send_response_only(self: Any, code: Any, *arguments: Any, **named: Any) -> Any:
        if (exchange := self.__dict__.get(_EXCHANGE)) is not None:
            exchange.see_status(code)
        return original(self, code, *arguments, **named)

    return send_response_only


def _ending(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def end_headers(self: Any) -> Any:
        if (exchange := self.__dict__.get(_EXCHANGE)) is not None:
            exchange.see_headers(self)
        return original(self)

    return end_headers


def _running(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(self: Any, application: Any) -> Any:
        settings = _settings_of(getattr(self, "request_handler", None))
        if settings is not None and callable(application) and not isinstance(application, TraceMiddleware):
            traced = copy.copy(settings)
            traced.app = application
            application = traced
        return original(self, application)

    return run


def _dispatching(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a ``SimpleXMLRPCDispatcher._marshaled_dispatch`` that adds the method and its fault to the server span."""
    from xmlrpc.client import Fault

    @functools.wraps(original)
    def _marshaled_dispatch(self: Any, data: Any, dispatch_method: Any = None, path: Any = None) -> Any:
        span = current_span()
        if span is None or span.kind != "server" or not span.is_recording or not _patches.is_active:
            return original(self, data, dispatch_method, path)
        dispatch = self._dispatch if dispatch_method is None else dispatch_method

        def call(method: Any, params: Any) -> Any:
            name = str(method)[:_MAX_METHOD]  # None for a call without a name
            span.set_attribute("rpc.system.name", "xmlrpc")
            span.set_attribute("rpc.method", name)
            if method in self.funcs or self.instance is not None:  # clients can send any number of other names
                span.update_name(f"{span.name} {name}")
            try:
                return dispatch(method, params)
            except Fault as fault:
                span.set_attribute("rpc.response.status_code", str(fault.faultCode)[:_MAX_METHOD])
                raise
            except BaseException as error:  # the client gets a fault for this one
                span.record_exception(error)
                span.set_attribute("error.type", error_type(error))
                span.set_status("error")
                raise

        return original(self, data, call, path)

    return _marshaled_dispatch
