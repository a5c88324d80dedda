"""The ASGI application of the pages: static files, an API in JSON, and server-sent events. It changes nothing."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..debug._access import SECURITY_HEADERS, Gate, Rejection, Visitor, headers_by_name
from ..exporters._sqlite.ids import Last
from ..exporters.sqlite import StoreError
from .queries import Queries
from .search import BadSearch, parse_search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from concurrent.futures import Executor

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    T = TypeVar("T")

_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_LIMIT, _MAX_LIMIT = 50, 200
_POLL_S, _BEAT_POLLS = 0.25, 40
_MAX_WATCHERS = 32
_TRACE_ID = re.compile(r"[0-9a-f]{32}\Z")
_encode = json.JSONEncoder(separators=(",", ":")).encode  # ASCII; a browser reads no markup in it


class Pages:
    """The pages of the store at *path*; *status* is called for the state of the receiver that they show.

    Queries run in *executor*, each of its threads with its own connection.
    """

    def __init__(self, path: str, executor: Executor, status: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._executor = executor
        self._status = status
        self._local = threading.local()
        self._opened: list[Queries] = []
        self._watchers = 0
        self.closing = asyncio.Event()  # ends the streams of events
        self._files: dict[str, tuple[bytes, str]] = {}
        for file in files(__package__).joinpath("static").iterdir():
            if kind := _KINDS.get(PurePath(file.name).suffix):
                self._files["/" if file.name == "index.html" else f"/{file.name}"] = file.read_bytes(), kind
        routes = [
            *[Route(path, self._file) for path in self._files],
            Route("/api/status", self._answer(lambda queries: self._status() | {"last": queries.last_ids().spans})),
            Route("/api/traces", self._answer_traces),
            Route("/api/traces/{trace_id}", self._answer(Queries.trace)),
            Route("/api/traces/{trace_id}/logs", self._answer(Queries.records)),
            Route("/api/traces/{trace_id}/spans/{id}", self._answer_span),
            Route("/api/compare", self._answer_compare),
            Route("/api/map", self._answer(Queries.map)),
            Route("/api/live", self._answer_live),
        ]
        self.app: ASGIApp = _guarded(Starlette(routes=routes))

    def _read(self, question: Callable[[Queries], T]) -> T:
        """Ask *question* in a thread of the executor; after an error, and where it was replaced, the file is opened again."""
        queries: Queries | None = getattr(self._local, "queries", None)
        if queries is not None and queries.is_replaced():
            self._close(queries)
            queries = None
        if queries is None:
            queries = self._local.queries = Queries(self._path)
            self._opened.append(queries)
        try:
            return question(queries)
        except BaseException:
            self._close(queries)
            raise

    def _close(self, queries: Queries) -> None:
        """Close the connection of this thread."""
        self._local.queries = None
        self._opened.remove(queries)
        queries.close()

    def close(self) -> None:
        """Close the connections, after the executor has ended."""
        for queries in self._opened:
            queries.close()

    async def _ask(self, question: Callable[[Queries], Any]) -> Response:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._executor, self._read, question)
        except StoreError as error:
            return _json({"error": str(error)}, 503)
        except Exception as error:  # another program can have written anything into the file
            return _json({"error": f"the store cannot be read: {type(error).__name__}"}, 500)
        if found is None:
            return _json({"error": "no such trace: it may have been evicted"}, 404)
        return _json(found)

    async def _file(self, request: Request) -> Response:
        content, kind = self._files[request.url.path]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    def _answer(self, question: Callable[..., Any]) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of *question*, which takes the parameters of the path."""

        async def answer(request: Request) -> Response:
            return await self._ask(lambda queries: question(queries, **request.path_params))

        return answer

    async def _answer_traces(self, request: Request) -> Response:
        query = request.query_params
        try:
            search = parse_search(query.get("q", ""))
            limit = min(max(_integer(query.get("limit"), _LIMIT) or 1, 1), _MAX_LIMIT)
            before = _integer(query.get("before"), None)
            after = _integer(query.get("after"), None) or 0
        except BadSearch as error:
            return _json({"error": str(error)}, 400)
        return await self._ask(lambda queries: queries.search(search, limit=limit, before=before, after=after))

    async def _answer_span(self, request: Request) -> Response:
        trace_id, text = request.path_params["trace_id"], request.path_params["id"]
        try:
            id = _integer(text, None) or 0
        except BadSearch:  # not starlette's {id:int}, which raises ValueError for thousands of digits
            return _json({"error": "no such span"}, 404)
        return await self._ask(lambda queries: queries.span(trace_id, id))

    async def _answer_compare(self, request: Request) -> Response:
        ids = request.query_params.get("a", ""), request.query_params.get("b", "")
        if not all(map(_TRACE_ID.match, ids)):
            return _json({"error": "a and b must be trace ids"}, 400)
        return await self._ask(lambda queries: queries.compare(ids))

    async def _answer_live(self, request: Request) -> Response:
        if self._watchers >= _MAX_WATCHERS:
            return _json({"error": "too many pages are open"}, 503)
        return StreamingResponse(
            self._events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def _events(self) -> AsyncIterator[str]:
        """Yield an event after spans or log records have arrived, at most four a second, and a comment every ten seconds."""
        loop = asyncio.get_running_loop()
        last, polls = Last(spans=-1), 0
        self._watchers += 1
        try:
            while not self.closing.is_set():
                try:
                    newest = await loop.run_in_executor(self._executor, self._read, Queries.last_ids)
                except StoreError:
                    newest = last
                if newest != last:
                    last, polls = newest, 0
                    yield f"event: spans\ndata: {_encode(self._status() | {'last': newest.spans})}\n\n"
                elif polls >= _BEAT_POLLS:
                    polls = 0
                    yield ": still here\n\n"
                polls += 1
                try:
                    await asyncio.wait_for(self.closing.wait(), _POLL_S)
                except TimeoutError:
                    pass
        finally:
            self._watchers -= 1


def _guarded(app: ASGIApp) -> ASGIApp:
    """Return *app* for visitors of this machine alone, by the rules and with the security headers of the debug pages."""
    gate = Gate()
    more = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS]

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket has no such header as Sec-Fetch-Site, and no use here
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        client = scope.get("client")
        headers = headers_by_name(scope["headers"])
        found = gate.check(Visitor(client[0] if client else None, scope["method"], scope["path"], headers))
        if isinstance(found, Rejection):
            answer = Response(f"{found.reason}\n", found.status, media_type="text/plain")
            await answer(scope, receive, send_safely)
        else:
            await app(scope, receive, send_safely)

    return guarded


def _json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(_encode(value), status, media_type="application/json", headers=headers)


def _integer(text: str | None, default: int | None) -> int | None:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BadSearch("limit, before and after must be whole numbers")
    return int(text)
