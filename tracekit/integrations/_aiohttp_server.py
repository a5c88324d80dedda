"""The server half of the aiohttp integration: a server span around the handler of each request.

Compiled: see ``_client.py``.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, hdrs, web

from .. import use_context
from ..cython import binding, cclass, compiled
from ._http import METHODS, error_type, parse_host, path_of_target, report, server_of
from ._redaction import MAX_TEXT
from ._server import NOT_TRACED, Trust, excluded

if not compiled:
    from types import MethodType

    from .._core.codecs import Items
    from .._core.span import Span, _enter, _exit
    from ._redaction import Redaction
    from ._server import Callers

    bound = MethodType

if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from ._patch import Patches

# From 3.14 on, aiohttp warns of keys that are text.
SPAN_KEY: Any = web.RequestKey("tracekit.span", object) if hasattr(web, "RequestKey") else "tracekit.span"

_USER_AGENT, _HOST = hdrs.USER_AGENT, hdrs.HOST  # known to multidict, which compares them by identity first
_Response, _StreamResponse = web.Response, web.StreamResponse
_MatchInfo, _Route = web.UrlMappingMatchInfo, web.ResourceRoute
_MAX_KNOWN = 256  # entries of a cache
_ROOM = 11  # attributes that most requests have, with route and status


@binding(False)
@cclass
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
        # Fields are read in place of the properties and methods of requests, matches and responses: calls in Python. A
        # request without this one is a mapping itself; where others are missing, the request is served without a span.
        if not self.is_active or SPAN_KEY in getattr(request, "_state", request):
            return await handler(request)
        if self._is_excluded is not None and self._is_excluded(request.path):
            request[SPAN_KEY] = None  # an inner middleware skips it, too
            with use_context(NOT_TRACED):
                return await handler(request)
        server_span = self._start(request)
        if server_span is None:
            return await handler(request)
        _enter(server_span)
        try:
            response = await handler(request)
        except web.HTTPException as answer:  # a response, in aiohttp
            _finish(server_span, request, answer)
            raise
        except BaseException as error:
            _fail(server_span, request, error)
            raise
        _finish(server_span, request, response)
        return response

    def _start(self, request: web.Request) -> Span | None:
        try:
            message = request._message
            name = message.method
            if name not in METHODS:
                name = "HTTP"
            server_span = self._callers._start(
                name,
                request.path if self._callers._routes else None,  # which decodes it
                list(message.raw_headers),
                _attributes_of,
                (request, message, name, self._redaction),
            )
            getattr(request, "_state", request)[SPAN_KEY] = server_span
        except Exception as error:  # the request is served without a span
            report(error)
            return None
        return server_span


# The parsed Host headers that name a port: the socket need not be asked for it.
_known_hosts: dict[str, tuple[str, int]] = {}


def handle_of(server: Server, patches: Patches, original: Any) -> Any:
    """Return the method that replaces ``Application._handle``."""

    @functools.wraps(original)
    def _handle(app: web.Application, request: web.Request) -> Awaitable[web.StreamResponse]:
        if patches.is_active:
            return server.serve(request, bound(original, app))
        response: Awaitable[web.StreamResponse] = original(app, request)
        return response

    return _handle


def _attributes_of(request: Any, message: Any, method: str, redaction: Redaction) -> Items:
    target, headers, version = message.path, message.headers, message.version
    query = ""
    if "#" in target:
        target = target.partition("#")[0]
    end = target.find("?")
    if end >= 0:
        target, query = target[:end], target[end + 1 :]
    path = target if target.startswith("/") else path_of_target(target)
    scheme = "http" if request._transport_sslcontext is None else "https"
    attributes = Items.__new__(Items)
    attributes.reserve(_ROOM)
    attributes.add("http.request.method", "_OTHER" if method == "HTTP" else method)
    attributes.add("url.path", path)
    attributes.add("url.scheme", scheme)
    text = "1.1" if version is HttpVersion11 else f"{version[0]}.{version[1]}"
    attributes.add("network.protocol.version", text)
    if method == "HTTP":
        attributes.add("http.request.method_original", message.method[:64])
    if query:
        attributes.add("url.query", redaction.query(query))
    if agent := headers.get(_USER_AGENT):
        attributes.add("user_agent.original", agent[:MAX_TEXT])
    address, port = _server_of(headers.get(_HOST, ""), scheme, request)
    if address:
        attributes.add("server.address", address)
        if port:
            attributes.add("server.port", port)
    peer = request._transport_peername
    if isinstance(peer, tuple):
        peer = peer[0]
    if peer:
        peer = str(peer)
        attributes.add("client.address", peer)
        attributes.add("network.peer.address", peer)
    return attributes


def _server_of(host: str, scheme: str, request: Any) -> tuple[str, int | None]:
    """Return address and port of the server, "" and None if unknown."""
    known = _known_hosts.get(host)
    if known is not None:
        return known
    octets = host.encode("utf-8", "surrogateescape")
    address, port = parse_host(octets)
    if address and port is not None:
        if len(host) <= 255:
            if len(_known_hosts) >= _MAX_KNOWN:
                _known_hosts.clear()
            _known_hosts[host] = address, port
        return address, port
    transport = request.transport
    server = None if transport is None else transport.get_extra_info("sockname")
    return server_of(octets, scheme, server[:2] if isinstance(server, tuple) else None)  # a path, for a Unix socket


def _finish(server_span: Span, request: web.Request, response: Any) -> None:
    if server_span._is_recorded and not server_span._has_ended:
        try:
            # For anything else aiohttp answers 500. isinstance() is slow here: the class is an abstract mapping.
            if type(response) is _Response:
                status = response._status
            else:
                status = response.status if isinstance(response, _StreamResponse) else 500
            if not _has_sent(request, "_headers_written") or getattr(response, "prepared", False):
                _describe(server_span, request, status)
            else:
                _describe(server_span, request, 0)
                if status >= 500 or isinstance(response, Exception):
                    server_span._put("error.type", error_type(response))
                    server_span.set_status("error", "the client had been sent the head of another response")
        except Exception as error:
            report(error)
    _exit(server_span, None)


def _has_sent(request: Any, field: str) -> bool:
    """Return whether *field* of the request's writer says that something was sent, the status of which is not known here."""
    sent = getattr(request._payload_writer, field, False)
    return isinstance(sent, int) and sent > 0  # not of a mock


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
                _exit(server_span, None)
                return
            status = 504 if isinstance(error, asyncio.TimeoutError) else 500
            # As aiohttp decides: it answers no error after anything was sent.
            is_answer = isinstance(error, Exception) and not _has_sent(request, "output_size")
            _describe(server_span, request, status if is_answer else 0)
            if isinstance(error, Exception):
                server_span.set_attribute("error.type", error_type(error))
    except Exception as ours:  # aiohttp must get the handler's error, not this one
        report(ours)
    _exit(server_span, error)


def _describe(server_span: Span, request: Any, status: int) -> None:
    """Write route and status, which are known only now, to the span; it ends next."""
    match = request._match_info
    # The program's own router may give matches that have no route.
    found = match._route if type(match) is _MatchInfo else getattr(match, "route", None)
    resource = found._resource if type(found) is _Route else getattr(found, "resource", None)
    if resource is not None:
        route = resource.canonical
        server_span._rename(f"{server_span._name} {route}")
        server_span._put("http.route", route)
    if status:
        server_span._put("http.response.status_code", status)
        if status >= 500:
            server_span._put("error.type", str(status))
            server_span.set_status("error")
