"""The parts of the httpx integration that do not depend on which module is used: ``httpx`` or its successor ``httpx2``.

The two have the same classes with the same methods, but none of one is an instance of the other's. A ``Library`` binds
the parts to one of them. Compiled: see ``_client.py``.
"""

from __future__ import annotations

import functools
from types import AsyncGeneratorType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from .._core.span import span_scope
from ..cython import compiled
from ._http import report
from ._patch import Patches

if not compiled:
    from .._core.span import Span
    from ._client import Client, answer, end, fail, is_traced_above, stale_fields

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import ModuleType
    from typing import Self

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/2": "2", b"HTTP/1.0": "1.0", b"HTTP/3": "3"}


class _Transport:
    """The part that both kinds of transport share; ``library`` is set by the module that binds them."""

    library: ClassVar[Library]
    _base: ClassVar[str]  # the class of the library that *inner* must be of
    _default: ClassVar[str]
    _is_installed = False  # by instrument(client), which uninstrument(client) undoes

    def __init__(
        self,
        inner: Any = None,
        *,
        propagate_to: Iterable[str] | Callable[[str], bool] | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        module = self.library.module
        if inner is not None and not isinstance(inner, getattr(module, self._base)):
            raise TypeError(f"inner must be an {module.__name__}.{self._base}, not {type(inner).__name__}")
        self._client = Client(propagate_to=propagate_to, redact=redact)
        self._inner: Any = getattr(module, self._default)() if inner is None else inner


class SyncTransport(_Transport):
    """``TraceTransport`` without its base class of httpx."""

    _base = "BaseTransport"
    _default = "HTTPTransport"

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)

    def handle_request(self, request: Any) -> Any:
        """Send *request*."""
        client_span, sent, headers = _start(self._client, self.library, request)
        if client_span is None:
            return self._inner.handle_request(sent)
        try:
            with span_scope(client_span):
                response = self._inner.handle_request(sent)
        except BaseException as error:
            fail(client_span, error)
            raise
        finally:
            _take_back(request, sent, headers)
        return _answer(client_span, response, self.library.stream, self.library.module.SyncByteStream)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


class AsyncTransport(_Transport):
    """``AsyncTraceTransport`` without its base class of httpx."""

    _base = "AsyncBaseTransport"
    _default = "AsyncHTTPTransport"

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)

    def handle_request(self, request: Any) -> Any:
        """Raise TypeError: the transport of an ``httpx.Client`` must not be asynchronous."""
        raise TypeError("AsyncTraceTransport is for httpx.AsyncClient; give httpx.Client a TraceTransport")

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request*."""
        client_span, sent, headers = _start(self._client, self.library, request)
        if client_span is None:
            return await self._inner.handle_async_request(sent)
        try:
            with span_scope(client_span):
                response = await self._inner.handle_async_request(sent)
        except BaseException as error:
            fail(client_span, error)
            raise
        finally:
            _take_back(request, sent, headers)
        return _answer(client_span, response, self.library.async_stream, self.library.module.AsyncByteStream)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def _start(client: Client, library: Library, request: Any) -> tuple[Span | None, Any, Any]:
    """Return the span of *request*, a copy of *request* with the context in its headers, and the list of those."""
    client_span = None
    try:
        url = request.url
        host = url.raw_host.decode("latin-1")
        if is_traced_above(host):
            return None, request, None
        client_span, headers = client.start(request.method, url.scheme, host, url.port, url.raw_path.decode("latin-1"))
        sent = _with_headers(library, request, headers)
        return client_span, sent, [*sent.headers._list]
    except Exception as error:  # the request is sent without context
        report(error)
        return client_span, request, None


def _answer(client_span: Span, response: Any, wrapped: Any, kind: Any) -> Any:
    """Write *response* to the span, which ends with the body, a *kind* of stream, or here without it."""
    try:
        if client_span._is_recorded:
            answer(client_span, response.status_code, _VERSIONS.get(response.extensions.get("http_version", b"")))
    except Exception as error:  # an invalid response from the inner transport: httpx has its own error for it
        report(error)
    try:
        # Closed: the response was made with its content, as httpx.MockTransport does.
        if not response.is_closed and isinstance(response.stream, kind):
            response.stream = wrapped(response.stream, client_span)
            return response
    except Exception as error:
        report(error)
    end(client_span)
    return response


def _with_headers(library: Library, request: Any, headers: dict[str, str]) -> Any:
    """Return a copy of *request* with *headers*, which replace older ones.

    A copy: httpx copies the request's headers for a redirect, and would send the labels of one host to the next.
    """
    stale = _octets(stale_fields(headers))
    # Triples of name, name in lower case, and value.
    listed = [header for header in request.headers._list if header[1] not in stale]
    for name, value in headers.items():
        octets = name.encode("ascii")
        listed.append((octets, octets, value.encode("ascii")))
    kind: Any = library.headers
    copied = kind.__new__(kind)
    copied.__dict__.update(request.headers.__dict__)
    copied._list = listed
    kind = type(request)
    copy = kind.__new__(kind)
    # All fields: an inner transport may look at the content, and ``extensions`` are the program's own.
    copy.__dict__.update(request.__dict__)
    copy.headers = copied
    return copy


def _take_back(request: Any, sent: Any, given: Any) -> None:
    """Give *request* the changes of an inner transport to its copy, which had the headers *given*, but not ours.

    It may have read the body, which can be read once, or added headers.
    """
    if sent is request:
        return
    try:
        request.__dict__.update({**sent.__dict__, "headers": request.headers})
        now, own = sent.headers._list, request.headers._list
        if now != given:
            ours = [header for header in given if header not in own]
            replaced = [header for header in own if header not in given]
            request.headers._list = [header for header in now if header not in ours] + replaced
    except Exception as error:  # headers of another type
        report(error)


class _Body:
    def __init__(self, body: Any, span: Span) -> None:
        # Bodies may stand on one another, as transports do, but not in a circle: C has no limit of recursion.
        if hasattr(self, "_span") or (isinstance(body, _Body) and not hasattr(body, "_span")):
            raise TypeError("a body is wrapped once, and after the one inside it")
        self._body = body
        self._span = span

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the body: httpx2 keeps there the time that a response took."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._body, name)


class _Stream(_Body):
    """A response's body; at its end the span ends. It is its own iterator, as a body is read once."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            self._parts: Iterator[bytes] = iter(self._body)
        except BaseException as error:
            fail(self._span, error)
            raise
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            end(self._span)
            raise
        except BaseException as error:
            fail(self._span, error)
            raise

    def close(self) -> None:
        try:
            self._body.close()
        except BaseException as error:
            fail(self._span, error)
            raise
        end(self._span)


class _AsyncStream(_Body):
    """A response's body; at its end the span ends. It is its own iterator, as a body is read once."""

    # Not an async generator: if a reader drops one half-way, the event loop finalizes it, too late.

    _closes_parts = False  # whether the library itself would close the body's generator
    _parts: Any = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            self._parts = aiter(self._body)
        except BaseException as error:
            fail(self._span, error)
            raise
        return self

    async def __anext__(self) -> bytes:
        try:
            part: bytes = await anext(self._parts)
            return part
        except StopAsyncIteration:
            end(self._span)
            raise
        except BaseException as error:
            fail(self._span, error)
            raise

    async def aclose(self) -> None:
        try:
            try:
                parts = self._parts
                if self._closes_parts and isinstance(parts, AsyncGeneratorType) and not parts.ag_running:
                    await parts.aclose()
            finally:
                await self._body.aclose()
        except BaseException as error:
            fail(self._span, error)
            raise
        end(self._span)


class Library:
    """``httpx`` or ``httpx2``: its body streams with a span, its copies of requests, and its clients."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.headers: Any = module.Headers
        self.stream = type("TraceStream", (_Stream, self.module.SyncByteStream), {})
        closes = {"_closes_parts": module.__name__ == "httpx2"}
        self.async_stream = type("AsyncTraceStream", (_AsyncStream, self.module.AsyncByteStream), closes)
        self._patches = Patches()

    def bind(self, transport: type[SyncTransport], async_transport: type[AsyncTransport]) -> None:
        """Take the classes that this library's module defines."""
        transport.library = async_transport.library = self
        self._transports = ((self.module.Client, transport), (self.module.AsyncClient, async_transport))

    def instrument(self, target: Any = None, **options: Any) -> None:
        if target is None:
            if not self._patches.is_active:
                self._patch(Client(**options))
            return
        transport = self._transport_for(target)
        client = Client(**options)
        if not isinstance(target._transport, transport):
            target._transport = _wrapped(transport, target._transport, client, is_installed=True)
        for pattern, mounted in target._mounts.items():
            if mounted is not None and not isinstance(mounted, transport):
                target._mounts[pattern] = _wrapped(transport, mounted, client, is_installed=True)

    def uninstrument(self, target: Any = None) -> None:
        if target is None:
            self._patches.restore()
            return
        transport = self._transport_for(target)
        if isinstance(target._transport, transport) and target._transport._is_installed:
            target._transport = target._transport._inner
        for pattern, mounted in target._mounts.items():
            if isinstance(mounted, transport) and mounted._is_installed:
                target._mounts[pattern] = mounted._inner

    def _transport_for(self, target: Any) -> type[Any]:
        for client, transport in self._transports:
            if isinstance(target, client):
                return transport
        name = self.module.__name__
        raise TypeError(f"target must be an {name}.Client or {name}.AsyncClient, not {type(target).__name__}")

    def _patch(self, options: Client) -> None:
        # The whole exchange and not the choice of a transport, which programs and httpx's own tests look at.
        patches, request_error = self._patches, self.module.RequestError

        def is_untraced(client: Any, request: Any, transport: type[Any]) -> bool:
            return not patches.is_active or isinstance(client._transport_for_url(request.url), transport)

        def sync(original: Any) -> Any:
            transport = self._transports[0][1]

            @functools.wraps(original)
            def _send_single_request(client: Any, request: Any) -> Any:
                if is_untraced(client, request, transport):
                    return original(client, request)
                try:
                    inner = SimpleNamespace(handle_request=functools.partial(original, client))
                    response = _wrapped(transport, inner, options).handle_request(request)
                except request_error as error:
                    error.request = request
                    raise
                response.request = request  # and not the copy with the context in its headers
                return response

            return _send_single_request

        def asynchronous(original: Any) -> Any:
            transport = self._transports[1][1]

            @functools.wraps(original)
            async def _send_single_request(client: Any, request: Any) -> Any:
                if is_untraced(client, request, transport):
                    return await original(client, request)
                try:
                    inner = SimpleNamespace(handle_async_request=functools.partial(original, client))
                    response = await _wrapped(transport, inner, options).handle_async_request(request)
                except request_error as error:
                    error.request = request
                    raise
                response.request = request
                return response

            return _send_single_request

        for (client, _), make in zip(self._transports, (sync, asynchronous), strict=True):
            patches.replace(client, "_send_single_request", make)


def _wrapped(transport: Any, inner: Any, client: Client, *, is_installed: bool = False) -> Any:
    """Return a *transport* around *inner*, any object with its methods."""
    traced = transport.__new__(transport)
    traced.__dict__.update(_inner=inner, _client=client, _is_installed=is_installed)
    return traced


@functools.lru_cache(maxsize=64)
def _octets(names: frozenset[str]) -> frozenset[bytes]:
    return frozenset(name.encode("ascii") for name in names)
