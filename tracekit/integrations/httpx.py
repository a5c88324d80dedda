"""Transports for httpx: one client span per request sent, and the context in its headers.

    client = httpx.Client(transport=TraceTransport())
    client = httpx.AsyncClient(transport=AsyncTraceTransport(httpx.AsyncHTTPTransport(retries=2)))

A redirect is a request of its own, so its span is a sibling of the first. The span is current while the
request is sent and the response's headers are awaited; it ends when the body has been read, or
when the response is closed. An ``inner`` transport has what httpx otherwise makes from the client's
``verify``, ``http2``, ``limits`` and ``proxy``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import httpx

from .. import Span, inject, span, use_span
from ._http import DEFAULT_PORTS, METHODS, error_type, redact_query, report

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncTraceTransport", "TraceTransport"]

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/2": "2", b"HTTP/1.0": "1.0", b"HTTP/3": "3"}


class TraceTransport(httpx.BaseTransport):
    """Send requests through *inner* (default: ``httpx.HTTPTransport()``), each in a client span.

    *propagate_to* limits which hosts get context and labels, in the configured formats: names, exact or
    as ``.example.com`` or ``*.example.com`` for all below ``example.com``, or a function of the
    ``httpx.URL``. Default: all. Statuses from 400 on are errors.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport | None = None,
        *,
        propagate_to: Iterable[str] | Callable[[httpx.URL], bool] | None = None,
    ) -> None:
        if inner is not None and not isinstance(inner, httpx.BaseTransport):
            raise TypeError(f"inner must be an httpx.BaseTransport, not {type(inner).__name__}")
        self._may_propagate = _destinations(propagate_to)
        self._inner = httpx.HTTPTransport() if inner is None else inner

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*."""
        client_span, request = _start(request, self._may_propagate)
        if client_span is None:
            return self._inner.handle_request(request)
        try:
            with use_span(client_span):
                response = self._inner.handle_request(request)
        except BaseException as error:
            _fail(client_span, error)
            raise
        if _answer(client_span, response):
            response.stream = _Stream(response.stream, client_span)
        return response

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class AsyncTraceTransport(httpx.AsyncBaseTransport):
    """Send requests through *inner* (default: ``httpx.AsyncHTTPTransport()``), each in a client span.

    As ``TraceTransport``, *propagate_to* included; a request that is cancelled gives a span that says so.
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        propagate_to: Iterable[str] | Callable[[httpx.URL], bool] | None = None,
    ) -> None:
        if inner is not None and not isinstance(inner, httpx.AsyncBaseTransport):
            raise TypeError(f"inner must be an httpx.AsyncBaseTransport, not {type(inner).__name__}")
        self._may_propagate = _destinations(propagate_to)
        self._inner = httpx.AsyncHTTPTransport() if inner is None else inner

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*."""
        client_span, request = _start(request, self._may_propagate)
        if client_span is None:
            return await self._inner.handle_async_request(request)
        try:
            with use_span(client_span):
                response = await self._inner.handle_async_request(request)
        except BaseException as error:
            _fail(client_span, error)
            raise
        if _answer(client_span, response):
            response.stream = _AsyncStream(response.stream, client_span)
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class _Stream(httpx.SyncByteStream):
    """A response's body, whose end is the span's; its own iterator, as a body is read once."""

    def __init__(self, body: Any, span: Span) -> None:
        self._body = body
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        self._parts: Iterator[bytes] = iter(self._body)
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            self._span.end()
            raise
        except BaseException as error:
            _fail(self._span, error)
            raise

    def close(self) -> None:
        try:
            self._body.close()
        except BaseException as error:
            _fail(self._span, error)
            raise
        self._span.end()


class _AsyncStream(httpx.AsyncByteStream):
    """A response's body, whose end is the span's; its own iterator, as a body is read once."""

    # Not an async generator: one that a reader drops half-way is finalised by the event loop, too late.

    def __init__(self, body: Any, span: Span) -> None:
        self._body = body
        self._span = span

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._parts: AsyncIterator[bytes] = aiter(self._body)
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._span.end()
            raise
        except BaseException as error:
            _fail(self._span, error)
            raise

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        except BaseException as error:
            _fail(self._span, error)
            raise
        self._span.end()


def _start(
    request: httpx.Request, may_propagate: Callable[[httpx.URL], bool] | None
) -> tuple[Span | None, httpx.Request]:
    """Return the span of *request* and what to send: a copy with the context in its headers."""
    client_span = None
    try:
        method = request.method
        client_span = span(method if method in METHODS else "HTTP", kind="client")
        if client_span.is_recording:
            client_span.set_attributes(_attributes(method, request.url))
        if may_propagate is None or may_propagate(request.url):
            # Into a copy: httpx makes a redirect's headers from the request's, and so would
            # take what was meant for one host to the next.
            request = _copy(request)
            inject(request.headers, client_span)
    except Exception as error:  # the request is sent, traced or not
        report(error)
    return client_span, request


def _copy(request: httpx.Request) -> httpx.Request:
    stream = request.stream
    copy = httpx.Request(
        request.method, request.url, headers=request.headers, stream=stream, extensions=request.extensions
    )
    if isinstance(stream, httpx.ByteStream):
        copy.read()  # inner transports may look at request.content
    return copy


def _attributes(method: str, url: httpx.URL) -> dict[str, Any]:
    target = url.raw_path.decode("latin-1")
    path, mark, query = target.partition("?")
    attributes: dict[str, Any] = {
        "http.request.method": method,
        # Neither user info nor the fragment, which is not sent and where tokens travel too.
        "url.full": f"{url.scheme}://{url.netloc.decode('latin-1')}{path}{mark}{redact_query(query)}",
        "server.address": url.raw_host.decode("latin-1"),
    }
    port = url.port or DEFAULT_PORTS.get(url.scheme)
    if port:
        attributes["server.port"] = port
    if method not in METHODS:
        attributes["http.request.method"] = "_OTHER"
        attributes["http.request.method_original"] = method[:64]
    return attributes


def _answer(client_span: Span, response: httpx.Response) -> bool:
    """Write what the response's headers say; return whether its body is still to come, and with it the end."""
    if client_span.is_recording:
        status = response.status_code
        client_span.set_attribute("http.response.status_code", status)
        version = _VERSIONS.get(response.extensions.get("http_version", b""))
        if version:
            client_span.set_attribute("network.protocol.version", version)
        if status >= 400:
            client_span.set_attribute("error.type", str(status))
            client_span.set_status("error")
    if response.is_closed:  # made with its content by a transport without a network, such as httpx.MockTransport
        client_span.end()
        return False
    return True


def _fail(client_span: Span, error: BaseException) -> None:
    if isinstance(error, Exception):
        client_span.set_attribute("error.type", error_type(error))
    client_span.__exit__(type(error), error, error.__traceback__)


def _destinations(
    propagate_to: Iterable[str] | Callable[[httpx.URL], bool] | None,
) -> Callable[[httpx.URL], bool] | None:
    """Return the function that tells for a URL whether it gets the context; None where all do."""
    if propagate_to is None or callable(propagate_to):
        return propagate_to
    if isinstance(propagate_to, str | bytes) or not isinstance(propagate_to, Iterable):
        raise TypeError(
            f"propagate_to must be an iterable of host names or a function, not {type(propagate_to).__name__}"
        )
    names: set[str] = set()
    endings: list[str] = []
    for pattern in propagate_to:
        if not isinstance(pattern, str):
            raise TypeError(f"propagate_to must hold str, not {type(pattern).__name__}")
        host = pattern.removeprefix("*")
        name = _normal(host.removeprefix(".")) if pattern[:1] != "*" or host[:1] == "." else ""
        if not name:
            raise ValueError(f"propagate_to must hold host names, without scheme, port or path: {pattern[:64]!a}")
        if host[:1] == ".":
            endings.append(f".{name}")
        else:
            names.add(name)
    chosen = tuple(endings)

    def may_propagate(url: httpx.URL) -> bool:
        host = url.raw_host.decode("ascii").rstrip(".")
        return host in names or host.endswith(chosen)

    return may_propagate


def _normal(host: str) -> str:
    """Return *host* as ``httpx.URL.raw_host`` has it, or "" if it is none."""
    try:
        name = httpx.URL(scheme="http", host=host).raw_host.decode("ascii").rstrip(".")
    except (httpx.InvalidURL, UnicodeError):
        return ""
    return name if "%" not in name and "*" not in name else ""  # what no host name has, httpx escapes
