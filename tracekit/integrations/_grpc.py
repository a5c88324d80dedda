# cython: nonecheck=True
"""Shared by the synchronous and the asynchronous half of the gRPC integration: metadata, attributes, status codes.

Metadata. A client writes every configured format, with names in lower case; a server reads them. OpenCensus's
``grpc-trace-bin`` is not among them: gRPC's core keeps it from applications (seen with grpcio 1.85), as it does
``grpc-tags-bin``, so a handler or an interceptor in Python never gets it.

Status. On a client every code but OK is an error. On a server only the codes that the conventions name are errors: the
others report a mistake of the caller. CANCELLED is the status "cancelled" on both.

Compiled: see ``_client.py``.

Conventions: https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import grpc

from ..cython import binding, cclass, compiled
from ._http import error_type, read_port, report
from ._peers import Peers
from ._server import NOT_TRACED, Trust, excluded

if not compiled:
    from .._carriers import reads_w3c
    from .._core.codecs import Items
    from .._core.span import Span, start_request_span, tracer_in_use
    from ._client import headers_for, may_record, stale_fields
    from ._server import Callers

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Mapping

    from .. import SpanContext

KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
# UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_SERVER_ERRORS: Final = frozenset({2, 4, 12, 13, 14, 15})
_OK: Final = grpc.StatusCode.OK
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
_MAX_NAME: Final = 256  # characters kept of a method's name
_ROOM: Final = 7  # attributes that most calls have on a server, with the status


@binding(False)
@cclass
class Client:
    """Start the client spans of some channels. *propagate_to* names the hosts that get labels, see ``Peers``."""

    if not compiled:
        __slots__ = ("_peers", "is_active")

    def __init__(self, *, propagate_to: Iterable[str] | Callable[[str], bool] | None = None) -> None:
        self._peers = Peers(propagate_to)
        self.is_active = True


@binding(False)
@cclass
class Method:
    """A method as the stub of a channel calls it."""

    if not compiled:
        __slots__ = ("_attributes", "_client", "_host", "_name")

    def __init__(self, client: Client, channel: Any, method: str | bytes) -> None:
        self._client = client
        path = method.decode("utf-8", "replace") if isinstance(method, bytes) else method
        # The program's interceptors have the channel make a method anew for each call.
        self._name, self._attributes, self._host = _described_for(path, _target_of(channel))

    @property
    def is_active(self) -> bool:
        """Whether calls are traced."""
        return self._client.is_active

    def start(self, metadata: Any) -> tuple[Span, Any]:
        """Return the span of a call, and the call's *metadata* with the span's context."""
        attributes = None
        tracer = tracer_in_use()
        if may_record():
            # A custom sampler may change it.
            attributes = self._attributes if tracer.sampler is None else {**self._attributes}
        client_span = start_request_span(tracer, self._name, "client", attributes, (), None)
        try:
            metadata = _written(metadata, headers_for(client_span, self._client._peers, self._host))
        except Exception as error:  # metadata that gRPC has its own error for
            report(error)
        return client_span, metadata


@binding(False)
@cclass
class Server:
    """Start the server spans of some servers; the arguments are those of ``server_interceptor()``."""

    def __init__(
        self,
        *,
        trust: Trust = "continue",
        routes: Mapping[str, Trust] | None = None,
        forced_per_s: float = 100,
        exclude: Iterable[str | re.Pattern[str]] = (),
    ) -> None:
        self.is_active = True
        self._callers = Callers(trust, routes, forced_per_s)
        self._is_excluded = excluded(exclude)

    def start(self, method: str, context: Any) -> Span | SpanContext | None:
        """Return the span of a call, ``NOT_TRACED`` for an excluded one, and None for one that cannot be traced."""
        if not self.is_active:
            return None
        try:
            if self._is_excluded is not None and self._is_excluded(method):
                return NOT_TRACED
            name, attributes = _described_often(method)
            metadata = context.invocation_metadata() or ()
            return self._callers._start(name, method, metadata, _with_peer, (attributes, context))
        except Exception as error:  # the call is served without a span
            report(error)
            return None


def end(ours: Span) -> None:
    """Close the scope of the span if it has one, and end the span if it is open."""
    ours.__exit__(None, None, None)


def settle(ours: Span, code: int, details: Any = "", is_server: bool = False) -> None:
    """Record the status *code* of a call."""
    if not ours._is_recorded or ours._has_ended:
        return
    try:
        ours._put("rpc.grpc.status_code", code)
        if code == CANCELLED:
            ours.set_status("cancelled", _text(details))
        elif code != OK and (not is_server or code in _SERVER_ERRORS):
            ours.set_attribute("error.type", _NAMES.get(code, str(code)))
            ours.set_status("error", _text(details))
    except Exception as error:
        report(error)


def fail(ours: Span, error: BaseException, code: int | None = None) -> None:
    """Record *error*, which is not a status, and the status *code* that it leads to, and end the span."""
    try:
        if ours.is_recording:
            if code is not None:
                ours.set_attribute("rpc.grpc.status_code", code)
            if isinstance(error, Exception):
                ours.set_attribute("error.type", error_type(error))
        ours.__exit__(type(error), error, error.__traceback__)
    except Exception as failed:  # the program must get its own error, not this one
        report(failed)
        end(ours)


def end_with(client_span: Span, call: Any) -> None:
    """End the span with the status of *call*, a call object or the error that is one."""
    try:
        if client_span._is_recorded and not client_span._has_ended:
            code = number_of(call.code())
            if code is None:
                code = UNKNOWN
            settle(client_span, code, call.details() if code else "")
    except Exception as error:  # an interceptor's call object
        report(error)
    end(client_span)


def number_of(code: Any) -> int | None:
    """Return the number of a status code, which gRPC gives as an enum or as a number; None if there is none."""
    if code is None:
        return None
    if code is _OK:
        return OK
    number: object = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return number if type(number) is int else UNKNOWN


def kind_of(handler: Any) -> str:
    """Return the kind of a server's handler, one of ``KINDS``."""
    return KINDS[2 * bool(handler.request_streaming) + bool(handler.response_streaming)]


class Counted:
    """Iterator of a call's messages that counts them; other attributes are those of *messages*."""

    __slots__ = ("count", "messages")

    def __init__(self, messages: Any) -> None:
        self.messages = messages
        self.count = 0

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Any:
        message = next(self.messages)
        self.count += 1
        return message

    next = __next__

    def __getattr__(self, name: str) -> Any:
        # Not set, in an object that copy() made; or a cycle of these objects: C has no limit of recursion.
        if name == "messages" or isinstance(self.messages, Counted):
            raise AttributeError(name)
        return getattr(self.messages, name)


class AsyncCounted:
    """Asynchronous iterator of a call's messages that counts them."""

    __slots__ = ("_step", "count", "messages")

    def __init__(self, messages: Any) -> None:
        self.messages = messages
        self.count = 0
        self._step: Any = None

    def __aiter__(self) -> AsyncCounted:
        self._step = self.messages.__aiter__().__anext__
        return self

    async def __anext__(self) -> Any:
        if self._step is None:
            self.__aiter__()
        message = await self._step()
        self.count += 1
        return message


# ---- metadata


def _written(metadata: Any, written: dict[str, Any]) -> Any:
    """Return *metadata* with the fields *written*, in place of all that a reader could take for them."""
    if reads_w3c():  # lower case and ASCII
        ours = list(written.items())
    else:
        ours = [(name.lower(), value) for name, value in written.items() if _is_sendable(value)]
    if not metadata:
        return ours
    stale = stale_fields([name for name, _ in ours])
    return [pair for pair in metadata if pair[0].lower() not in stale] + ours


def _is_sendable(value: Any) -> bool:
    # gRPC rejects the whole call for any other value: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
    return isinstance(value, bytes) or (value.isascii() and value.isprintable())


# ---- attributes


def _described(path: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a call's span, and its attributes, from ``/package.Service/Method``."""
    name = path.lstrip("/")[:_MAX_NAME]
    service, _, method = name.rpartition("/")
    attributes: dict[str, Any] = {"rpc.system": "grpc", "rpc.method": method}
    if service:
        attributes["rpc.service"] = service
    return name, attributes


_described_often = functools.lru_cache(maxsize=1024)(_described)  # of methods that a server has


@functools.lru_cache(maxsize=1024)
def _described_for(path: str, target: str) -> tuple[str, dict[str, Any], str]:
    """Return the name of a client's span, its attributes, which are not to be changed, and the host of *target*."""
    name, attributes = _described(path)
    host, port = _parse_target(target)
    if host:
        attributes["server.address"] = host
    if port:
        attributes["server.port"] = port
    return name, attributes, host


def _with_peer(attributes: dict[str, Any], context: Any) -> Items:
    address, port = _parse_peer(context.peer())
    found = Items.__new__(Items)
    found.reserve(_ROOM)
    for name, value in attributes.items():
        found.add(name, value)
    if address:
        found.add("client.address", address)
        found.add("network.peer.address", address)
    if port:
        found.add("network.peer.port", port)
    return found


@functools.lru_cache(maxsize=256)
def _parse_peer(peer: str) -> tuple[str, int | None]:
    """Return address and port from ``ipv4:127.0.0.1:50051``, ``ipv6:%5B::1%5D:50051`` or ``unix:/path``."""
    kind, _, rest = peer[:1024].partition(":")
    if kind not in ("ipv4", "ipv6"):
        return (rest, None) if kind == "unix" else ("", None)
    return _split_port(unquote(rest))


def _parse_target(target: str) -> tuple[str, int | None]:
    """Return the server's address and port from a channel's target: https://grpc.github.io/grpc/core/md_doc_naming.html"""
    kind, colon, rest = target.partition(":")
    if kind in ("unix", "unix-abstract") and colon:
        return rest.removeprefix("//")[:_MAX_NAME], None
    if "//" in target:  # scheme://authority/endpoint
        target = target.partition("//")[2].partition("/")[2]
    elif kind in ("dns", "ipv4", "ipv6", "vsock", "xds"):
        target = rest
    return _split_port(target.partition(",")[0][:_MAX_NAME])  # the first of several addresses


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    return address, read_port(port)


def _target_of(channel: Any) -> str:
    """Return the target of *channel*, which may be the outer one of some that intercept calls; "" if unknown."""
    for _ in range(32):
        target = getattr(channel, "_target", None)
        if target is None:
            target = getattr(channel, "target", None)
        if isinstance(target, bytes):
            return target.decode("utf-8", "replace")
        if isinstance(target, str):
            return target
        channel = getattr(channel, "_channel", None)
        if channel is None:
            break
    return ""


def _text(details: Any) -> str:
    if isinstance(details, bytes):
        return details.decode("utf-8", "replace")
    return details if isinstance(details, str) else ""
