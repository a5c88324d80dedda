"""The server half of the aiohttp integration: a server span around the handler of each request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .. import Span, use_context, use_span
from ._client import end
from ._http import METHODS, error_type, report, server_of
from ._redaction import MAX_TEXT, Redaction
from ._server import NOT_TRACED, Callers, Trust, excluded

if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Iterable, Mapping

__all__ = ["SPAN_KEY", "Server"]

# From 3.14 on, aiohttp warns of keys that are text.
SPAN_KEY: Any = web.RequestKey("tracekit.span", object) if hasattr(web, "RequestKey") else "tracekit.span"


class Server:
    """Serve requests inside server spans; the arguments are those of ``asgi.TraceMiddleware``."""

    def __init__(
        self,
        *,
        trust: Trust = "continue",
        routes: Mapping[str, Trust] | None = None,
        forced_per_s: float = 100,
        exclude: Iterable[str | re.Pattern[str]] = (),
        redact: Iterable[str] = (),
    ) -> None:
        self.is_active = True
        self._callers = Callers(trust, routes, forced_per_s)
        self._is_excluded = excluded(exclude)
        self._redaction = Redaction(redact)

    async def serve(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Return the response of *handler*."""
        if not self.is_active or SPAN_KEY in request:
            return await handler(request)
        if self._is_excluded is not None and self._is_excluded(request.path):
            request[SPAN_KEY] = None  # an inner middleware skips it, too
            with use_context(NOT_TRACED):
                return await handler(request)
        server_span = self._start(request)
        if server_span is None:
            return await handler(request)
        with use_span(server_span):
            try:
                response = await handler(request)
            except web.HTTPException as answer:  # a response, in aiohttp
                _finish(server_span, request, answer.status)
                raise
            except BaseException as error:
                _fail(server_span, request, error)
                raise
        # For anything else aiohttp answers 500.
        _finish(server_span, request, response.status if isinstance(response, web.StreamResponse) else 500)
        return response

    def _start(self, request: web.Request) -> Span | None:
        try:
            method = request.method
            name = method if method in METHODS else "HTTP"
            server_span = self._callers.start(
                name, request.path, request.raw_headers, _attributes_of, request, name, self._redaction
            )
            request[SPAN_KEY] = server_span
        except Exception as error:  # the request is served without a span
            report(error)
            return None
        return server_span


def _attributes_of(request: web.Request, method: str, redaction: Redaction) -> dict[str, Any]:
    url, headers, version = request.rel_url, request.headers, request.version
    transport = request.transport
    is_secure = transport is not None and transport.get_extra_info("sslcontext") is not None
    scheme = "https" if is_secure else "http"
    attributes: dict[str, Any] = {
        "http.request.method": method,
        "url.path": url.raw_path,
        "url.scheme": scheme,
        "network.protocol.version": f"{version[0]}.{version[1]}",
    }
    if method == "HTTP":
        attributes["http.request.method"] = "_OTHER"
        attributes["http.request.method_original"] = request.method[:64]
    if query := url.raw_query_string:
        attributes["url.query"] = redaction.query(query)
    if agent := headers.get("User-Agent"):
        attributes["user_agent.original"] = agent[:MAX_TEXT]
    server = None if transport is None else transport.get_extra_info("sockname")
    server = server[:2] if isinstance(server, tuple) else None  # a path, for a Unix socket
    address, port = server_of(headers.get("Host", "").encode("utf-8", "surrogateescape"), scheme, server)
    if address:
        attributes["server.address"] = address
        if port:
            attributes["server.port"] = port
    if remote := request.remote:
        attributes["client.address"] = attributes["network.peer.address"] = remote
    return attributes


def _finish(server_span: Span, request: web.Request, status: int) -> None:
    if server_span.is_recording:
        try:
            _describe(server_span, request, status)
        except Exception as error:
            report(error)
    end(server_span)


def _fail(server_span: Span, request: web.Request, error: BaseException) -> None:
    """Handle *error*, raised by the handler; for an ``Exception`` aiohttp answers 500 or, for a timeout, 504."""
    try:
        if server_span.is_recording:
            transport = request.transport
            has_gone = transport is None or transport.is_closing()
            if has_gone and isinstance(error, ConnectionError | asyncio.CancelledError):
                _describe(server_span, request, 0)
                server_span.add_event("disconnect")
                server_span.set_status("cancelled", "the client disconnected")
                server_span.end()
                return
            status = 504 if isinstance(error, asyncio.TimeoutError) else 500
            has_answered = request.writer.output_size > 0
            _describe(server_span, request, status if isinstance(error, Exception) and not has_answered else 0)
            if isinstance(error, Exception):
                server_span.set_attribute("error.type", error_type(error))
        server_span.__exit__(type(error), error, error.__traceback__)
    except Exception as ours:  # aiohttp must get the handler's error, not this one
        report(ours)
        end(server_span)


def _describe(server_span: Span, request: web.Request, status: int) -> None:
    """Write route and status, which are known only now, to the span; it ends next."""
    resource = request.match_info.route.resource if request.match_info is not None else None
    if resource is not None:
        route = resource.canonical
        server_span.update_name(f"{server_span.name} {route}")
        server_span.set_attribute("http.route", route)
    if status:
        server_span.set_attribute("http.response.status_code", status)
        if status >= 500:
            server_span.set_attribute("error.type", str(status))
            server_span.set_status("error")
