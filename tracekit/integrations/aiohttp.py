"""aiohttp: a client span for each request of its sessions, and a server span for each request to its applications.

    tracekit.integrations.aiohttp.instrument()            # all sessions and applications
    tracekit.integrations.aiohttp.instrument(session)     # or one
    tracekit.integrations.aiohttp.instrument(app)
    session = aiohttp.ClientSession(trace_configs=[trace_config()])
    app = web.Application(middlewares=[middleware()])

**Client.** Each hop of a redirect has its own span. A span ends when the response's body has arrived, or when the
response is closed; the span of a websocket ends with its handshake. With ``instrument()`` requests that client
middlewares repeat, or aiohttp after a kept connection was closed, have a span each, and a request costs half as much;
with a ``TraceConfig``, which is called once for all of them, they are parts of one span.

**Server.** The span is named after the route, with the path template of the resource. ``raise web.HTTPNotFound()`` is a
response, not an error. The span ends when the handler and the middlewares inside have returned, before aiohttp sends
the rest of the response; a websocket's or a stream's handler runs until its end.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiohttp
from aiohttp import web

from ._aiohttp_client import Sessions, TracekitConfig
from ._aiohttp_server import SPAN_KEY, Server, handle_of
from ._client import Client
from ._patch import Patches, coroutine_function

__all__ = ["SPAN_KEY", "instrument", "middleware", "trace_config", "uninstrument"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CLIENT_OPTIONS = ("propagate_to", "redact")
_patches = Patches()
_FIELD = "_tracekit_server"  # of the middlewares that instrument(app) inserts


def trace_config(
    *, propagate_to: Iterable[str] | Callable[[str], bool] | None = None, redact: Iterable[str] = ()
) -> aiohttp.TraceConfig:
    """Return a ``TraceConfig`` for ``ClientSession``. The arguments are those of ``httpx.TraceTransport``."""
    return TracekitConfig(Client(propagate_to=propagate_to, redact=redact))


def middleware(**options: Any) -> Any:
    """Return a middleware for ``web.Application``, which should be the first. *options* as of ``asgi.TraceMiddleware``.

    The request's span is ``request[SPAN_KEY]``; None marks an excluded path.
    """
    return _middleware(Server(**options))


def instrument(target: aiohttp.ClientSession | web.Application | None = None, **options: Any) -> None:
    """Trace *target*, or all sessions and applications.

    *options* are the arguments of ``trace_config()`` for sessions, of ``middleware()`` for applications, or of both.
    A second call changes nothing. Raises ``TypeError`` for other objects, and for invalid options; ``RuntimeError`` for
    an application that runs already.
    """
    if isinstance(target, aiohttp.ClientSession):
        _sessions.instrument(target, Client(**options))
    elif isinstance(target, web.Application):
        if not any(hasattr(found, _FIELD) for found in target.middlewares):
            target.middlewares.insert(0, _middleware(Server(**options)))
    elif target is not None:
        raise _not_ours(target)
    elif not _patches.is_active:
        client = {name: value for name, value in options.items() if name in _CLIENT_OPTIONS}
        server = {name: value for name, value in options.items() if name != "propagate_to"}
        served, sent = Server(**server), Client(**client)
        _patches.replace(web.Application, "_handle", functools.partial(handle_of, served, _patches))
        _sessions.instrument(None, sent)


def uninstrument(target: aiohttp.ClientSession | web.Application | None = None) -> None:
    """Undo ``instrument(target)``. An application that runs already keeps its middleware, which does nothing then."""
    if isinstance(target, aiohttp.ClientSession):
        _sessions.uninstrument(target)
    elif isinstance(target, web.Application):
        for found in list(target.middlewares):
            server = getattr(found, _FIELD, None)
            if server is not None:
                server.is_active = False
                if not target.middlewares.frozen:
                    target.middlewares.remove(found)
    elif target is not None:
        raise _not_ours(target)
    else:
        _patches.restore()
        _sessions.uninstrument(None)


def _not_ours(target: object) -> TypeError:
    return TypeError(f"target must be an aiohttp.ClientSession or aiohttp.web.Application, not {type(target).__name__}")


def _request_of(sessions: Sessions, original: Callable[..., Any]) -> Any:
    """Return the replacement of ``ClientSession._request``: a Python function, as aioresponses needs to mock it."""
    add_to = sessions.add_to

    @coroutine_function
    @functools.wraps(original)
    def _request(session: Any, *args: Any, **kwargs: Any) -> Any:
        add_to(session, kwargs)
        return original(session, *args, **kwargs)

    return _request


_sessions = Sessions(_request_of)


def _middleware(server: Server) -> Any:
    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await server.serve(request, handler)

    setattr(trace, _FIELD, server)
    return trace
