"""Transports for httpx: one client span per request sent, and the context in its headers.

    client = httpx.Client(transport=TraceTransport())
    client = httpx.AsyncClient(transport=AsyncTraceTransport(httpx.AsyncHTTPTransport(retries=2)))

Each hop of a redirect is a separate request, so its span is a sibling of the first. The span is current until the
response's headers have arrived. It ends when the body has been read, or when the response is closed. Options such as
``verify``, ``http2``, ``limits`` and ``proxy`` are arguments of the ``inner`` transport, not of the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from .. import Span, inject, span, use_span
from ._http import DEFAULT_PORTS, METHODS, error_type, is_port, report
from ._peers import Peers
from ._redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["AsyncTraceTransport", "TraceTransport"]

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/2": "2", b"HTTP/1.0": "1.0", b"HTTP/3": "3"}


class TraceTransport(httpx.BaseTransport):
    """Send requests through *inner* (default: ``httpx.HTTPTransport()``), each in a client span.

    Every host gets ids and tracestate, in the configured formats. Labels are sent only to loopback and private
    addresses, to names without a dot or under ``.internal``, ``.local`` and ``.svc``, and to the hosts in
    *propagate_to*: exact names, ``*.example.com`` for all names below ``example.com``, or ``*``. The default is
    ``TRACEKIT_PROPAGATE_TO``, names separated by commas. A function of the host's name replaces all of these. Each hop
    of a redirect is checked.

    Values of query parameters that denote secrets are redacted; *redact* adds names. Statuses from 400 on are errors.
    """

    def __init__(
        self,
        inner: httpx.BaseTransport | None = None,
        *,
        propagate_to: Iterable[str] | Callable[[str], bool] | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        if inner is not None and not isinstance(inner, httpx.BaseTransport):
            raise TypeError(f"inner must be an httpx.BaseTransport, not {type(inner).__name__}")
        self._peers, self._redaction = Peers(propagate_to), Redaction(redact)
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
        client_span, request = _start(request, self._peers, self._redaction)
        if client_span is None:
            return self._inner.handle_request(request)
        try:
            with use_span(client_span):
                response = self._inner.handle_request(request)
        except BaseException as error:
            _fail(client_span, error)
            raise
        return _answer(client_span, response, _Stream, httpx.SyncByteStream)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class AsyncTraceTransport(httpx.AsyncBaseTransport):
    """Send requests through *inner* (default: ``httpx.AsyncHTTPTransport()``), each in a client span.

    Arguments are those of ``TraceTransport``. The span of a cancelled request has the status "cancelled".
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport | None = None,
        *,
        propagate_to: Iterable[str] | Callable[[str], bool] | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        if inner is not None and not isinstance(inner, httpx.AsyncBaseTransport):
            raise TypeError(f"inner must be an httpx.AsyncBaseTransport, not {type(inner).__name__}")
        self._peers, self._redaction = Peers(propagate_to), Redaction(redact)
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
        client_span, request = _start(request, self._peers, self._redaction)
        if client_span is None:
            return await self._inner.handle_async_request(request)
        try:
            with use_span(client_span):
                response = await self._inner.handle_async_request(request)
        except BaseException as error:
            _fail(client_span, error)
            raise
        return _answer(client_span, response, _AsyncStream, httpx.AsyncByteStream)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


class _Stream(httpx.SyncByteStream):
    """A response's body; at its end the span ends. It is its own iterator, as a body is read once."""

    def __init__(self, body: Any, span: Span) -> None:
        self._body = body
        self._span = span

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._parts: Iterator[bytes] = iter(self._body)
        except BaseException as error:
            _fail(self._span, error)
            raise
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
    """A response's body; at its end the span ends. It is its own iterator, as a body is read once."""

    # Not an async generator: if a reader drops one half-way, the event loop finalises it, too late.

    def __init__(self, body: Any, span: Span) -> None:
        self._body = body
        self._span = span

    def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            self._parts: AsyncIterator[bytes] = aiter(self._body)
        except BaseException as error:
            _fail(self._span, error)
            raise
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


def _start(request: httpx.Request, peers: Peers, redaction: Redaction) -> tuple[Span | None, httpx.Request]:
    """Return the span of *request*, and a copy of *request* with the context in its headers."""
    client_span = None
    try:
        method = request.method
        client_span = span(method if method in METHODS else "HTTP", kind="client")
        if client_span.is_recording:
            client_span.set_attributes(_attributes(method, request.url, redaction))
        context = peers.context_for(request.url.raw_host.decode("latin-1"), client_span.context)
        # Into a copy: httpx copies the request's headers for a redirect, and would send the labels of one host to
        # the next.
        copy = _copy(request)
        inject(copy.headers, context)
    except Exception as error:  # the request is sent without context
        report(error)
        return client_span, request
    return client_span, copy


def _copy(request: httpx.Request) -> httpx.Request:
    stream = request.stream
    copy = httpx.Request(
        request.method, request.url, headers=request.headers, stream=stream, extensions=request.extensions
    )
    if isinstance(stream, httpx.ByteStream):
        copy.read()  # inner transports may look at request.content
    return copy


def _attributes(method: str, url: httpx.URL, redaction: Redaction) -> dict[str, Any]:
    target = url.raw_path.decode("latin-1")
    path, mark, query = target.partition("?")
    attributes: dict[str, Any] = {
        "http.request.method": method,
        # Without user info and fragment, which may hold secrets.
        "url.full": f"{url.scheme}://{url.netloc.decode('latin-1')}{path}{mark}{redaction.query(query)}",
        "server.address": url.raw_host.decode("latin-1"),
    }
    port = url.port or DEFAULT_PORTS.get(url.scheme)
    if is_port(port):
        attributes["server.port"] = port
    if method not in METHODS:
        attributes["http.request.method"] = "_OTHER"
        attributes["http.request.method_original"] = method[:64]
    return attributes


def _answer(
    client_span: Span, response: httpx.Response, wrapped: type[_Stream | _AsyncStream], kind: type
) -> httpx.Response:
    """Write the details of *response* to the span, which ends with the body, a *kind* of stream, or here without it."""
    try:
        if client_span.is_recording:
            _describe(client_span, response)
    except Exception as error:  # an invalid response from the inner transport: httpx has its own error for it
        report(error)
    try:
        # Closed: the response was made with its content, as httpx.MockTransport does.
        if not response.is_closed and isinstance(response.stream, kind):
            response.stream = wrapped(response.stream, client_span)
            return response
    except Exception as error:
        report(error)
    client_span.end()
    return response


def _describe(client_span: Span, response: httpx.Response) -> None:
    status = response.status_code
    client_span.set_attribute("http.response.status_code", status)
    if status >= 400:
        client_span.set_attribute("error.type", str(status))
        client_span.set_status("error")
    version = _VERSIONS.get(response.extensions.get("http_version", b""))
    if version:
        client_span.set_attribute("network.protocol.version", version)


def _fail(client_span: Span, error: BaseException) -> None:
    try:
        if isinstance(error, Exception):
            client_span.set_attribute("error.type", error_type(error))
        client_span.__exit__(type(error), error, error.__traceback__)
    except Exception as ours:  # the program must get its own error, not this one
        report(ours)
        client_span.end()
