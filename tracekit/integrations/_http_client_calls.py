"""The methods that replace those of ``http.client``: each calls the original, and starts or ends the span of a request.

Compiled, and apart from ``http_client.py`` for that: every request goes through four of them.
"""

from __future__ import annotations

import functools
import re
import sys

# Not "import http.client": instrument() is called while the program imports that, before it is an attribute of http.
from http import client as http_client
from typing import TYPE_CHECKING, Any, Final

from ..cython import compiled
from ._http import parse_host, report

if not compiled:
    from .._core.span import Span  # noqa: TC001 - compiled, it comes from the .pxd
    from ._client import Client, answer, end, fail, is_traced_above, stale_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._patch import Patches

# On a connection that waits for its answer, then on the response: the span, and the identity of the exception that was
# handled when the request began. A request made in an ``except`` block did not fail because of that exception.
FIELD: Final = "_tracekit_span"
_VERSIONS: Final = {10: "1.0", 11: "1.1"}


def endheaders_of(client: Client, patches: Patches, original: Callable[..., Any]) -> Any:
    """Return an ``HTTPConnection.endheaders`` that starts the span, and sends its headers with the request."""

    @functools.wraps(original)
    def endheaders(connection: Any, *args: Any, **kwargs: Any) -> Any:
        client_span = _start(client, connection) if patches.is_active else None
        if client_span is None:
            return original(connection, *args, **kwargs)
        try:
            return original(connection, *args, **kwargs)
        except BaseException as error:
            connection.__dict__.pop(FIELD, None)
            fail(client_span, error)
            raise

    return endheaders


def getresponse_of(original: Callable[..., Any]) -> Any:
    """Return an ``HTTPConnection.getresponse`` that records the status, and moves the span to the response."""

    @functools.wraps(original)
    def getresponse(connection: Any, *args: Any, **kwargs: Any) -> Any:
        traced = connection.__dict__.pop(FIELD, None)
        if traced is None:
            return original(connection, *args, **kwargs)
        try:
            response = original(connection, *args, **kwargs)
        except http_client.ResponseNotReady:  # the response before has not been read
            setattr(connection, FIELD, traced)
            raise
        except BaseException as error:
            fail(traced[0], error)
            raise
        _answer(response, traced)
        return response

    return getresponse


def close_connection_of(original: Callable[..., Any]) -> Any:
    """Return an ``HTTPConnection.close`` that ends the span of a request without a response."""

    @functools.wraps(original)
    def close(connection: Any, *args: Any, **kwargs: Any) -> Any:
        traced = connection.__dict__.pop(FIELD, None)  # once, where two threads close it
        if traced is not None:
            client_span, before = traced
            error = sys.exception()
            if error is not None and id(error) != before:
                fail(client_span, error)
            elif client_span.is_recording:
                client_span.set_status("cancelled", "the connection was closed before the response")
            end(client_span)
        return original(connection, *args, **kwargs)

    return close


def reader_of(original: Callable[..., Any]) -> Any:
    """Return a reading method of ``HTTPResponse`` that ends the span at the end of the body."""

    @functools.wraps(original)
    def read(response: Any, *args: Any, **kwargs: Any) -> Any:
        traced = response.__dict__.get(FIELD)
        if traced is None:
            return original(response, *args, **kwargs)
        try:
            part = original(response, *args, **kwargs)
        except BaseException as error:
            response.__dict__.pop(FIELD, None)
            fail(traced[0], error)
            raise
        if response.fp is None:  # the end of the body
            response.__dict__.pop(FIELD, None)
            if response.length:
                _cut_off(traced[0])
            end(traced[0])
        return part

    return read


def close_response_of(original: Callable[..., Any]) -> Any:
    """Return an ``HTTPResponse.close`` that ends the span, also before the end of the body."""

    @functools.wraps(original)
    def close(response: Any, *args: Any, **kwargs: Any) -> Any:
        traced = response.__dict__.pop(FIELD, None)
        if traced is not None:
            client_span, before = traced
            # urllib3 reads chunked bodies past the methods of http.client, and closes the response after an error.
            error = sys.exception()
            if error is not None and id(error) != before and _is_of_connection(error):
                fail(client_span, error)
            end(client_span)
        return original(response, *args, **kwargs)

    return close


def _start(client: Client, connection: Any) -> Span | None:
    """Start the span of the request in the buffer of *connection*, and write its headers there; None if not traced."""
    client_span = None
    try:
        buffer = connection._buffer
        if not buffer:  # no request was begun: http.client has its own error
            return None
        method, _, rest = buffer[0].decode("latin-1").partition(" ")
        target = rest.rpartition(" ")[0]
        host, port, scheme = connection.host, connection.port, "https" if connection.default_port == 443 else "http"
        if not target.startswith("/") and "://" in target:  # a whole URL, for a proxy
            scheme, _, authority = target.partition("://")
            authority = authority.partition("/")[0].partition("?")[0].partition("#")[0]
            host, port = parse_host(authority.encode("latin-1"))
        elif connection._tunnel_host:
            host, port = connection._tunnel_host, connection._tunnel_port
        if is_traced_above(host):
            return None
        client_span, headers = client.start(method, scheme, host, port, target)
        _write(buffer, headers)
        error = sys.exception()
        setattr(connection, FIELD, (client_span, 0 if error is None else id(error)))
    except Exception as error:  # the request is sent all the same
        report(error)
        if client_span is not None:
            end(client_span)
        return None
    return client_span


def _write(buffer: list[bytes], headers: dict[str, str]) -> None:
    """Add *headers* to the lines in *buffer*, in place of earlier ones."""
    stale = stale_fields(headers)
    if _search(stale)(b"\n".join(buffer)):
        buffer[1:] = [line for line in buffer[1:] if _name_of(line) not in stale]
    for name, value in headers.items():
        buffer.append(f"{name}: {value}".encode("ascii"))


@functools.lru_cache(maxsize=64)
def _search(names: frozenset[str]) -> Callable[[bytes], object]:
    """Return a function that looks for headers with these names, which are tokens of RFC 9110, in joined lines."""
    alternatives = "|".join(map(re.escape, sorted(names)))
    return re.compile(rf"\n(?:{alternatives})[ \t]*:".encode("ascii"), re.IGNORECASE).search


def _name_of(line: bytes) -> str:
    return line.partition(b":")[0].decode("latin-1").strip().lower()


def _answer(response: Any, traced: tuple[Span, int]) -> None:
    client_span = traced[0]
    try:
        answer(client_span, response.status, _VERSIONS.get(response.version))
        if response.length == 0 or response.fp is None:  # no body: the program may never read it
            end(client_span)
        else:
            setattr(response, FIELD, traced)
    except Exception as error:  # a custom response class
        report(error)
        end(client_span)


def _cut_off(client_span: Span) -> None:
    """Record that the connection ended before the body: read in parts, http.client raises nothing then."""
    if client_span.is_recording:
        client_span.set_attribute("error.type", "http.client.IncompleteRead")
        client_span.set_status("error", "the connection ended before the body")


def _is_of_connection(error: BaseException) -> bool:
    # urllib3 raises its own errors from those of the standard library.
    kinds = (OSError, http_client.HTTPException)
    return isinstance(error, kinds) or isinstance(error.__context__, kinds)
