"""The client half of the aiohttp integration: a ``TraceConfig`` whose signals start and end client spans.

Compiled: see ``_client.py``.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
import weakref
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

from ..cython import binding, cclass, compiled, final, nonecheck
from ._http import error_type, report
from ._patch import Patches

if not compiled:
    from .._core.span import Span  # noqa: TC001 - compiled, it comes from the .pxd
    from ._client import Client, answer, end, fail, is_traced_above, stale_fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

_HTTP11: Final = aiohttp.HttpVersion11
_FRAMES: Final = 32  # kept of a traceback
_CLOSED: Final = "Connection closed"  # aiohttp's text in the body of a response that the program closed


class TracekitConfig(aiohttp.TraceConfig):
    """The signals of one set of options. Its type tells it from the program's own."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self.on_request_start.append(self._started)
        self.on_request_redirect.append(self._redirected)
        self.on_request_end.append(self._answered)
        self.on_request_exception.append(self._failed)

    async def _started(self, session: Any, attempt: SimpleNamespace, parameters: Any) -> None:
        self._start(attempt, parameters.method, parameters.url, parameters.headers, 0)

    async def _redirected(self, session: Any, attempt: SimpleNamespace, parameters: Any) -> None:
        client_span = _span_of(attempt)
        if client_span is None:
            return
        try:
            response, headers = parameters.response, parameters.headers
            answer(client_span, response.status, _version(response))
            url = _location(parameters.url, response)
            if url is None:  # aiohttp sends no further request: it returns this response, or raises
                return
            end(client_span)
            for name in attempt.written:  # the next host may not get labels
                headers.popall(name, None)
            status, method = response.status, parameters.method
            if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
                method = "GET"
            self._start(attempt, method, url, headers, attempt.resends + 1)
        except Exception as error:
            report(error)
            end(client_span)

    async def _answered(self, session: Any, attempt: SimpleNamespace, parameters: Any) -> None:
        client_span = _span_of(attempt)
        if client_span is not None:
            _end_with(client_span, parameters.response)

    async def _failed(self, session: Any, attempt: SimpleNamespace, parameters: Any) -> None:
        client_span = _span_of(attempt)
        if client_span is None:
            return
        error = parameters.exception
        try:
            if isinstance(error, aiohttp.ClientResponseError) and error.status >= 100:
                answer(client_span, error.status)
        except Exception as ours:
            report(ours)
        _fail(client_span, error)

    def _start(self, attempt: SimpleNamespace, method: str, url: URL, headers: Any, resends: int) -> None:
        attempt.tracekit_span = None
        try:
            host = url.raw_host or ""
            if is_traced_above(host):
                return
            client_span, written = self._client.start(method, url.scheme, host, url.port, url.raw_path_qs, resends)
            attempt.tracekit_span, attempt.written, attempt.resends = client_span, written, resends
            _write(headers, written)
        except Exception as error:  # the request is sent all the same
            report(error)


@binding(False)
@cclass
class Sessions:
    """Trace the requests of all sessions, or of some, with less work for aiohttp than its signals cause.

    ``ClientSession._request()``, for which *request_of* makes the replacement, gets one more client middleware, the
    innermost. aiohttp calls it for each attempt: each hop of a redirect, each repetition on a new connection, each request
    that other middlewares make.
    """

    def __init__(self, request_of: Callable[[Sessions, Any], Any]) -> None:
        self._request_of = request_of
        self._patches = Patches()
        self._all: Client | None = None
        self._has_some = False  # whether one session has been instrumented: the mapping's own answer is slow
        self._some: weakref.WeakKeyDictionary[aiohttp.ClientSession, Client] = weakref.WeakKeyDictionary()

    def instrument(self, session: aiohttp.ClientSession | None, client: Client) -> None:
        """Trace the requests of *session*, or of every session."""
        if session is None:
            self._all = self._all or client
        else:
            self._some.setdefault(session, client)
            self._has_some = True
        if not self._patches.is_active:
            self._patches.replace(aiohttp.ClientSession, "_request", functools.partial(self._request_of, self))

    def uninstrument(self, session: aiohttp.ClientSession | None) -> None:
        """Undo ``instrument()`` with the same session."""
        if session is None:
            self._all = None
        else:
            self._some.pop(session, None)
        if self._all is None and not self._some:
            self._has_some = False
            self._patches.restore()

    def add_to(self, session: Any, options: dict[str, Any]) -> None:
        """Add the client middleware to the *options* of a request of *session*, if it is traced."""
        if not self._patches.is_active:
            return
        try:
            client = self._some.get(session, self._all) if self._has_some else self._all
            if client is not None and not _has_config(session):
                others = options.get("middlewares")
                if others is None:
                    others = session._middlewares
                options["middlewares"] = (*others, _Attempts(client))
        except Exception as error:
            report(error)


@binding(False)
@final
@cclass
class _Attempts:
    """The client middleware of one request."""

    if not compiled:
        __slots__ = ("_client", "_count")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._count = 0

    async def __call__(self, request: Any, handler: Any) -> Any:
        client_span = self._start(request)
        if client_span is None:
            return await handler(request)
        try:
            response = await handler(request)
        except BaseException as error:
            _fail(client_span, error)
            raise
        _end_with(client_span, response)
        return response

    @nonecheck(True)
    def _start(self, request: Any) -> Span | None:
        client_span = None
        try:
            url = request.url
            host = url.raw_host or ""
            if is_traced_above(host):
                return None
            client_span, written = self._client.start(
                request.method, url.scheme, host, url.port, url.raw_path_qs, self._count
            )
            self._count += 1
            _write(request.headers, written)
        except Exception as error:  # the request is sent all the same
            report(error)
        return client_span


def _has_config(session: Any) -> bool:
    for config in session._trace_configs:  # noqa: SIM110 - mostly empty
        if type(config) is TracekitConfig:
            return True
    return False


def _write(headers: Any, written: dict[str, str]) -> None:
    """Set the *written* headers in place of all that a reader could take for them."""
    for name in stale_fields(written):
        if name in headers:
            headers.popall(name)
    for name, value in written.items():
        headers[name] = value


def _end_with(client_span: Span, response: Any) -> None:
    """Record *response*, and end the span with its body."""
    try:
        if client_span._is_recorded and not client_span._has_ended:
            answer(client_span, response.status, _version(response))
            connection = response.connection
            if connection is not None and response.status != 101:  # the body has not arrived yet
                before = sys.exception()
                connection.add_callback(
                    functools.partial(_finish, client_span, response.content, 0 if before is None else id(before))
                )
                return
    except Exception as error:
        report(error)
    end(client_span)


def _fail(client_span: Span, error: Any) -> None:
    """Record *error* and end the span; without the URL in the messages of some errors, which may hold secrets."""
    try:
        if client_span._is_recorded and not client_span._has_ended:
            message = _without_url(error)
            if message is not None:
                name = error_type(error)
                stack = "".join(traceback.format_tb(error.__traceback__, -_FRAMES))
                client_span.set_attribute("error.type", name)
                client_span.record_exception(error, {"exception.message": message, "exception.stacktrace": stack})
                client_span.set_status("error", f"{name}: {message}")
                end(client_span)
    except Exception as ours:
        report(ours)
    fail(client_span, error)


def _without_url(error: Any) -> str | None:
    """Return the message of *error* without the URL, or None if it names none."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status}, message={error.message!r}"
    if isinstance(error, aiohttp.RedirectClientError):
        return "the redirect cannot be followed"
    if isinstance(error, aiohttp.ServerTimeoutError):  # the URL ends the message
        return str(error).partition("?")[0]
    return None


def _span_of(attempt: SimpleNamespace) -> Span | None:
    return getattr(attempt, "tracekit_span", None)


def _version(response: Any) -> str | None:
    version = response.version
    if version is _HTTP11:
        return "1.1"
    return None if version is None else f"{version[0]}.{version[1]}"


def _location(url: URL, response: Any) -> URL | None:
    """Return the URL that aiohttp will follow *response* to, or None if it will not."""
    text = response.headers.get("Location") or response.headers.get("URI")
    if not text:
        return None
    try:
        location = url.join(URL(text))
    except ValueError:
        return None
    return location if location.scheme in ("http", "https") and location.raw_host else None


def _finish(client_span: Span, content: Any, before: int) -> None:
    """End the span: the connection is free again, or closed."""
    try:
        error = content.exception()
        if error is None or str(error) == _CLOSED:
            # Nothing failed, or the program closed the response: perhaps because reading it was cancelled.
            error = sys.exception()
            if error is not None and (id(error) == before or not _is_of_reading(error)):
                error = None
        if error is not None:
            fail(client_span, error)
    except Exception as ours:
        report(ours)
    end(client_span)


def _is_of_reading(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):  # of raise_for_status(): the status says it
        return False
    return isinstance(error, asyncio.CancelledError | OSError | aiohttp.ClientError)
