"""The pages as an ASGI and as a WSGI application, to be mounted in another one."""

from __future__ import annotations

import asyncio
import http
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .._forks import call_in_child
from ._access import Authorize, Gate, Visitor, headers_by_name
from ._recorder import recorder
from ._respond import Response, respond

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

_executor: ThreadPoolExecutor | None = None


def app(
    *, auth: Authorize | None = None, hosts: Iterable[str] = (), unsampled: bool = True
) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application with the pages: ``application.mount("/debug", tracekit.debug.app())``.

    Pages are drawn in a thread, so the event loop of asyncio or trio is not blocked. *auth*, called in that thread,
    returns an ``Access`` or a bool for each ``Visitor``; without it only loopback peers whose headers name no proxy may
    see the pages, so behind a proxy that adds none, as nginx by default, *auth* is needed. *hosts* are the names of this
    server, beside loopback names, that requests may use.

    Requests are recorded for the pages from now on, also where no exporter is configured, and with *unsampled* also
    those that sampling drops; neither changes the export, or the decision that other services get.
    """
    gate = Gate(auth, hosts)
    recorder.start(records_all=unsampled)

    async def pages(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif scope["type"] == "http":
            response = await _in_thread(lambda: _answer(gate, scope))
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    return pages


def wsgi_app(
    *, auth: Authorize | None = None, hosts: Iterable[str] = (), unsampled: bool = True
) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application with the pages; the arguments are those of ``app()``."""
    gate = Gate(auth, hosts)
    recorder.start(records_all=unsampled)

    def pages(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = {
            key[5:].replace("_", "-").lower(): value
            for key, value in environ.items()
            if key.startswith("HTTP_") and isinstance(value, str)
        }
        inner = environ.get("PATH_INFO", "")
        visitor = Visitor(
            environ.get("REMOTE_ADDR") or None,
            environ.get("REQUEST_METHOD", ""),
            environ.get("SCRIPT_NAME", "") + inner,
            headers,
        )
        response = respond(gate, visitor, inner, environ.get("QUERY_STRING", ""))
        start_response(f"{response.status} {http.HTTPStatus(response.status).phrase}", response.headers)
        return [b"" if visitor.method == "HEAD" else response.body]

    return pages


def _answer(gate: Gate, scope: MutableMapping[str, Any]) -> Response:
    headers = headers_by_name(scope.get("headers", ()))
    client = scope.get("client")
    path, root = scope.get("path", ""), scope.get("root_path", "")
    # Servers disagree whether the path contains the mount.
    inner = path[len(root) :] if root and (path == root or path.startswith(root.rstrip("/") + "/")) else path
    visitor = Visitor(client[0] if client else None, scope.get("method", ""), path, headers)
    return respond(gate, visitor, inner, scope.get("query_string", b"").decode("latin-1"))


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _in_thread(draw: Callable[[], Response]) -> Response:
    """Call *draw* in a thread that only draws: the program's thread pool may be full, which a page shall show."""
    global _executor
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        response: Response = await trio.to_thread.run_sync(draw, limiter=trio.CapacityLimiter(1))
        return response
    if _executor is None:
        _executor = ThreadPoolExecutor(1, thread_name_prefix="tracekit-debug")
    return await asyncio.wrap_future(_executor.submit(draw))


def _after_fork() -> None:
    global _executor
    _executor = None  # its thread is the parent's


call_in_child(_after_fork)
