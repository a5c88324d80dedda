"""WSGI middleware: one server span per request, for any WSGI framework and server.

How it works: the span's parent comes from the request's own headers. The span is current while the app runs and while
the iterable that it returned makes its parts; between those, the server's own context is. Closing the iterable ends it.

Specification: https://peps.python.org/pep-3333/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from .. import Span, current_span, span, use_context
from .._core.body import Body
from .._core.outcome import is_normal_end
from .._core.scopes import current_scope, held_scope, swap_scope
from ._extras import Extras, extras
from ._http import error_type, report
from ._redaction import Redaction
from ._server import NOT_TRACED, Callers, Trust, excluded
from ._wsgi_environ import SPAN_KEY, attributes_of, headers_of, method_of, path_of, route_of
from ._wsgi_frameworks import APPLICATIONS, watch_django

if TYPE_CHECKING:
    import re

__all__ = ["SPAN_KEY", "TraceMiddleware", "instrument", "uninstrument"]

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_FILE: Final = "wsgi.file_wrapper"
_WITHOUT_BODY: Final = (204, 304)


class TraceMiddleware:
    """Open a server span for each request.

    The span's parent is the caller's span, as the request's headers name it; a span that is current around the
    middleware is never the parent, except for an open server span: that of the ASGI application that has *app* mounted,
    or of the handler that calls it. *trust*, *routes*, *forced_per_s*, *exclude*, *redact* and the headers to capture
    are those of the ASGI middleware, ``tracekit.integrations.asgi.TraceMiddleware``. ``on_request(span, environ)`` is
    called when a recorded span has started, ``on_response(span, environ, status, headers)`` when the app calls
    ``start_response``.

    The span is current while the app runs and while its iterable is iterated, in whichever thread, and ends when the
    server closes the iterable, or drops it. It is named after the route of Flask and Django. An iterator that is closed
    before its end sets the status "cancelled": the client has disconnected. An app that raises before any part of the
    body was sent has the status 500, which the server sends for it. A file that is wrapped by the server's
    ``wsgi.file_wrapper`` is returned as it is, so that the server can send it without a copy; where the wrapper cannot
    report its close, the span ends when the app returns.

    The app finds the span in ``environ["tracekit.span"]``; None marks an excluded path. If the key is present, an inner
    ``TraceMiddleware`` does nothing.
    """

    def __init__(
        self,
        app: App,
        *,
        trust: Trust = "continue",
        routes: Mapping[str, Trust] | None = None,
        forced_per_s: float = 100,
        exclude: Iterable[str | re.Pattern[str]] = (),
        redact: Iterable[str] = (),
        capture_request_headers: Iterable[str] = (),
        capture_response_headers: Iterable[str] = (),
        on_request: Callable[[Span, Environ], object] | None = None,
        on_response: Callable[[Span, Environ, str, Any], object] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be a WSGI application, not {type(app).__name__}")
        self.app = app
        self._callers = Callers(trust, routes, forced_per_s)
        self._has_routes = bool(routes)
        self._is_excluded = excluded(exclude)
        self._redaction = Redaction(redact)
        self._extras = extras(
            self._redaction, capture_request_headers, capture_response_headers, on_request, on_response
        )
        if app is not _no_app:
            watch_django()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request inside a new server span."""
        try:
            is_known = SPAN_KEY in environ
            is_excluded = not is_known and self._is_excluded is not None and self._is_excluded(path_of(environ))
            if is_excluded:
                environ[SPAN_KEY] = None  # an inner middleware skips it, too
        except Exception:  # not a valid environ: the app has its own error for it
            is_known, is_excluded = True, False
        if is_known:
            return self.app(environ, start_response)
        if is_excluded:
            return _Response(use_context(NOT_TRACED), None, environ, start_response, None).run(self.app)
        server_span = self._start(environ)
        if server_span is None:
            return self.app(environ, start_response)
        recorded = server_span if server_span.is_recording else None
        return _Response(server_span, recorded, environ, start_response, self._extras).run(self.app)

    def _start(self, environ: Environ) -> Span | None:
        """Return the server span of *environ*, or None if tracing failed."""
        try:
            method = method_of(environ)
            path = path_of(environ) if self._has_routes else ""
            details = (environ, method, self._redaction)
            outer = current_span()
            if outer is not None and outer.kind == "server" and not outer.ended:
                server_span = span(method, kind="server", attributes=attributes_of(*details))
            else:
                server_span = self._callers.start(method, path, environ, attributes_of, *details)
            environ[SPAN_KEY] = server_span
            if self._extras is not None and server_span.is_recording:
                self._extras.request(server_span, headers_of(environ), environ)
        except Exception as error:  # the request is served without a span
            report(error)
            return None
        return server_span


class _Response:
    """The response to one request: wraps ``start_response`` and the iterable that the app returns.

    *scope* is entered for the app and its iterable, and exited at the end: the span, or a context that is not recorded.
    *span* is None unless it is recorded. Invalid calls and values are passed on unchanged and raise nothing here.
    """

    __slots__ = (
        *("_body", "_environ", "_error", "_extras", "_file", "_has_ended", "_has_sent", "_is_complete", "_next"),
        *("_result", "_root", "_route", "_scope", "_span", "_start_response", "_status", "_write"),
    )

    def __init__(
        self, scope: Any, span: Span | None, environ: Environ, start_response: StartResponse, extras: Extras | None
    ) -> None:
        self._scope = scope
        self._span = span
        self._environ = environ
        self._start_response = start_response
        self._extras = extras
        self._root = environ.get("SCRIPT_NAME", "")
        self._status = 0
        self._has_sent = self._is_complete = self._has_ended = False
        self._error = self._route = ""
        self._file: Any = None
        self._next: Any = None
        self._result: Any = None

    def run(self, app: App) -> Iterable[bytes]:
        """Call *app* and return its iterable, wrapped if the span is still open."""
        environ = self._environ
        wrapper = environ.get(_FILE)
        if wrapper is not None and not isinstance(wrapper, type):
            environ[_FILE] = self._remember(wrapper)
        held, under = held_scope(), current_scope()
        self._scope.__enter__()
        try:
            result = app(environ, self._start_response if self._span is None else self.start)
        except BaseException as error:
            self._finish(error)
            swap_scope(held)
            raise
        self._body = Body(swap_scope(held), under)
        self._result = result
        is_listed = type(result) is list or type(result) is tuple
        if is_listed and self._span is not None:
            return _Sized(result, result, self.end)
        if not is_listed and not self._is_file(result, wrapper):
            return _Sized(result, self, self.close) if hasattr(type(result), "__len__") else self
        if is_listed or not self._watch_close(result):
            self._step(self._finish)
        return result

    def _remember(self, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        """Return *wrapper*, a function whose results no class tells from others, so that ``_file`` is its result."""

        def wrap(*arguments: Any, **named: Any) -> Any:
            self._file = wrapper(*arguments, **named)
            return self._file

        return wrap

    def _is_file(self, result: Any, wrapper: Any) -> bool:
        if isinstance(wrapper, type):
            return isinstance(result, wrapper)
        return self._file is not None and result is self._file

    def _watch_close(self, file: Any) -> bool:
        close = getattr(file, "close", None)

        def close_and_end() -> None:
            self._is_complete = True
            try:
                if close is not None:
                    self._step(close)
            finally:
                self._step(self._finish)

        try:
            file.close = close_and_end
        except Exception:  # an object without a __dict__
            return False
        return True

    def start(self, *arguments: Any, **named: Any) -> Callable[[bytes], object]:
        """Pass a call of ``start_response`` on, and note the status."""
        span, status = self._span, 0
        self._route = route_of(self._environ, self._root)  # now: Flask removes it when its own handling ends
        try:
            status = int(arguments[0][:3])
            if self._extras is not None and span is not None:
                self._extras.response(span, arguments[1], self._environ, arguments[0], arguments[1])
            exc_info = arguments[2] if len(arguments) > 2 else named.get("exc_info")
            if exc_info and span is not None:
                span.record_exception(exc_info[1])
                self._error = error_type(exc_info[1])
        except Exception:  # an invalid call
            pass
        self._write = self._start_response(*arguments, **named)
        self._status = status
        return self.write

    def write(self, data: bytes) -> object:
        """Pass a call of the ``write`` of ``start_response`` on."""
        try:
            sent = self._write(data)
        except OSError:
            self._disconnect()
            raise
        self._has_sent = True
        return sent

    def __iter__(self) -> _Response:
        if self._next is None:
            self._next = self._step(lambda: iter(self._result)).__next__
        return self

    def __next__(self) -> bytes:
        if self._next is None:
            iter(self)
        part: bytes = self._step(self._next)
        self._has_sent = True
        return part

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the app's result: Django's is a response, with a status and headers."""
        # A copy that is being made has none yet, which this method must not look for.
        return getattr(object.__getattribute__(self, "_result"), name)

    def __bytes__(self) -> bytes:
        return bytes(self._result)

    def end(self) -> None:
        """End the span: there is nothing to close."""
        if not self._has_ended:
            self._step(self._finish)

    def close(self) -> None:
        try:
            if hasattr(self._result, "close"):
                if self._has_sent and not self._is_complete and not self._has_ended:
                    self._note_early_close()
                self._step(self._result.close)
        finally:
            self.end()

    def _step(self, call: Callable[[], Any]) -> Any:
        """Call *call* with the app's scopes in place; an exception ends the span."""
        body = self._body
        body.enter()
        try:
            return call()
        except StopIteration:
            self._is_complete = True
            raise
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            body.leave()

    def _finish(self, error: BaseException | None = None) -> None:
        """End the span, with its scope current."""
        if self._has_ended:
            return
        self._has_ended = True
        if self._span is not None:
            self._describe(self._span, error)
        self._scope.__exit__(None if error is None else type(error), error, None)

    def _describe(self, span: Span, error: BaseException | None = None) -> None:
        try:
            if route := self._route or ("" if self._status else route_of(self._environ, self._root)):
                span.update_name(f"{span.name} {route}")
                span.set_attribute("http.route", route)
            is_error = isinstance(error, Exception) and not is_normal_end(error)
            if is_error and not self._has_sent:
                self._status = 500  # the server's answer: it has not sent the app's headers yet
            if status := self._status:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_attribute("error.type", self._error or str(status))
                    span.set_status("error")
            if error is not None and is_error:
                span.set_attribute("error.type", error_type(error))
        except Exception as ours:
            report(ours)

    def _note_early_close(self) -> None:
        span = self._span
        if span is None or self._environ.get("REQUEST_METHOD") == "HEAD" or self._status in _WITHOUT_BODY:
            return
        span.add_event("disconnect")
        span.set_status("cancelled", "the response was closed before its end")

    def _disconnect(self) -> None:
        if self._span is not None and not self._has_ended:
            self._describe(self._span)
            self._span.add_event("disconnect")
            self._span.set_status("cancelled", "the client disconnected")
            self._span.end()

    def __del__(self) -> None:
        try:
            # Dropped by the server without a close. An unfinished generator refers to this object, so both are freed
            # in any order: then the span reports itself as abandoned.
            is_done = self._is_complete or type(self._result) is list or type(self._result) is tuple
            if is_done and not self._has_ended and self._span is not None:
                self._describe(self._span)
                self._span.end()
        except BaseException:
            pass


class _Sized:
    """A body with a length that an app returned: servers derive ``Content-Length`` from a length of 1.

    It is iterated as *parts* themselves where making them runs no code of the app.
    """

    __slots__ = ("_iterable", "_parts", "close")

    def __init__(self, parts: Any, iterable: Iterable[bytes], close: Callable[[], None]) -> None:
        self._parts = parts
        self._iterable = iterable
        self.close = close

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._iterable)

    def __getitem__(self, index: Any) -> Any:
        return self._parts[index]


def instrument(target: Any = None, **options: Any) -> None:
    """Trace *target*, a Flask application or Django's ``WSGIHandler``, or, without one, all of them.

    *options* are the keyword arguments of ``TraceMiddleware``. Applications may exist, and may have answered requests,
    before. An object's own instrumentation comes before that of all. Further calls do nothing until ``uninstrument()``.

    All are those of the frameworks that are imported; ``tracekit.instrument("wsgi")`` waits for the import of others.
    Raises ``TypeError`` for another object, or for invalid options.
    """
    APPLICATIONS.instrument(target, TraceMiddleware(_no_app, **options))


def uninstrument(target: Any = None) -> None:
    """Undo ``instrument(target)``. Raises ``TypeError`` for another object."""
    APPLICATIONS.uninstrument(target)


def _no_app(_environ: Environ, _start_response: StartResponse) -> Iterable[bytes]:
    """Stand for the application in a middleware that is copied for each one."""
    return []
