"""ASGI middleware: one server span per HTTP request or websocket, for any ASGI framework and server.

How it works: the span's parent comes from the request's own headers. The span is current while the app runs, and
in the tasks and threads that the app starts. For a recorded span, ``receive`` and ``send`` are wrapped to observe
the status, the last body chunk and the disconnect.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from ._asgi_exchange import Requests
from ._asgi_frameworks import APPLICATIONS, DJANGO, watch_django
from ._asgi_scope import SPAN_KEY
from ._asgi_serving import quicken_middleware
from ._redaction import Redaction
from ._server import Callers, Trust, excluded

if TYPE_CHECKING:
    import re

    from .. import Span
    from ._extras import Extras

__all__ = ["SPAN_KEY", "TraceMiddleware", "instrument", "uninstrument"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TraceMiddleware:
    """Open a server span for each HTTP request and each websocket; pass other scopes through.

    The span's parent is the caller's span, as the request's headers name it. A span that is current around the
    middleware is never the parent: asyncio's transports leak the Context of one request into the next
    on the same connection. *trust* sets how a caller's headers are used:

    - ``"continue"``: the span is a child of the caller's span, with its sampling decision and its labels;
    - ``"restart"``: the span starts a new trace, without labels, and links to the caller's;
    - ``"link"``: as "restart", but the caller's labels stay in force;
    - ``"ignore"``: the headers are not read.

    *routes* overrides *trust* by path prefix, ``{"/internal": "continue"}``. Prefixes match whole segments, and the
    longest wins. If several configured formats name different traces, the first counts and the others become links.

    A caller's decision to record is followed as far as the sampler allows, and for *forced_per_s* traces a second
    beyond that. ``Rate`` never allows more than its rate, ``AlwaysOn`` allows everything. The other traces are not
    recorded.

    *exclude* holds path prefixes such as ``"/health"``, which match whole segments, and ``re.Pattern`` objects, which
    are searched for in the path. An excluded request has no span. Spans opened while it is served are not recorded, nor
    are those of the services that it calls. *redact* adds names of query parameters whose values are secret.

    The span ends with the last body chunk or with the disconnect that the app receives, and at the latest when
    the app returns. With a status from 500 on it ends when the app returns, to record the exception that caused it.
    Background tasks of the app still get children of the span. A disconnect is an event on the span; before the
    response is complete it sets the status "cancelled".

    A ContextVar that the app sets does not reach the layers around it, so they find the span in
    ``scope["tracekit.span"]``; None marks an excluded path. If the key is present, an inner ``TraceMiddleware`` does
    nothing.

    *capture_request_headers* and *capture_response_headers* name headers to record, as attributes
    ``http.request.header.<name>`` and ``http.response.header.<name>``: at most 8 values of 1024 characters each, and
    "REDACTED" for secrets. ``on_request(span, scope)`` is called when a recorded span has started, and
    ``on_response(span, scope, message)`` before the message that starts the response is sent: of the types
    ``http.response.start``, ``websocket.accept`` and ``websocket.http.response.start``. An exception that one of them
    raises is logged once per class and does not reach the app.

    At the server's shutdown, finished spans are exported before ``lifespan.shutdown.complete``, for at most 3 s.
    For that, an app that raises before it asks for a message of its lifespan is taken for one without the protocol and
    answered for, also under uvicorn's ``--lifespan on``. ``instrument()`` lets errors of the frameworks' apps through.
    """

    has_lifespan = False  # whether the app is known to support the lifespan protocol

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
        on_request: Callable[[Span, Scope], object] | None = None,
        on_response: Callable[[Span, Scope, Message], object] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be an ASGI application, not {type(app).__name__}")
        self.app = app
        redaction = Redaction(redact)
        self._requests = Requests(
            Callers(trust, routes, forced_per_s),
            excluded(exclude),
            redaction,
            _extras(redaction, capture_request_headers, capture_response_headers, on_request, on_response),
        )
        if app is not _no_app:
            watch_django()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve *scope*, inside a new server span if it is a request or a websocket."""
        exchange = self._requests.open(scope, receive, send)
        if exchange is None:
            await self._pass(scope, receive, send)
            return
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.leave(error)
            raise
        exchange.leave(None)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve *scope*, which has no span of ours."""
        if _is_lifespan(scope):
            from ._lifespan import serve_lifespan

            is_supported = self.has_lifespan and not _is_django(self.app)
            await serve_lifespan(self.app, scope, receive, send, is_supported=is_supported)
        else:
            await self.app(scope, receive, send)


quicken_middleware(TraceMiddleware)


def _extras(redaction: Redaction, *options: Any) -> Extras | None:
    if options == ((), (), None, None):  # the defaults
        return None
    from ._extras import extras

    return extras(redaction, *options)


def _is_django(app: App) -> bool:
    """Tell whether *app* is Django's handler as ``instrument()`` wraps it, which has no lifespan protocol."""
    return getattr(getattr(app, "func", None), "__module__", "") == DJANGO


def _is_lifespan(scope: Scope) -> bool:
    try:
        return SPAN_KEY not in scope and bool(scope["type"] == "lifespan")
    except Exception:  # not a valid scope: the app has its own error for it
        return False


def instrument(target: Any = None, **options: Any) -> None:
    """Trace *target*, an application of Starlette, FastAPI or Django, or, without one, all of them.

    The span is outside the application's own middleware, also outside Starlette's ``ServerErrorMiddleware``. *options*
    are the keyword arguments of ``TraceMiddleware``. Applications may exist, and may have answered requests, before.
    An object's own instrumentation comes before that of all. Among all applications, those with their own
    ``TraceMiddleware`` are left out. Further calls do nothing until ``uninstrument()``. For FastAPI, invalid requests
    are events ``validation_error`` on the current span, with the place and the kind of up to 8 errors and no values;
    spans that it or Starlette's ``OpenTelemetryMiddleware`` makes for tracekit's OpenTelemetry bridge are left out.

    All include Django's if it is imported; ``tracekit.instrument("asgi")`` waits for its import. Raises ``TypeError``
    for another object, or for invalid options: those of ``TraceMiddleware`` are checked at once.
    """
    if target is None and (DJANGO not in sys.modules or "starlette" in sys.modules):
        import starlette.applications  # noqa: F401
    middleware = TraceMiddleware(_no_app, **options)
    middleware.has_lifespan = True
    APPLICATIONS.instrument(target, middleware)


def uninstrument(target: Any = None) -> None:
    """Undo ``instrument(target)``. Raises ``TypeError`` for another object."""
    APPLICATIONS.uninstrument(target)


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Stand for the application in a middleware that is copied for each one."""
