"""The plain twin's ids, clock, and ``SpanContext`` with its W3C form."""

from __future__ import annotations

import os
import struct
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from .carriers import Sieve, put
from .codecs import (
    HEX,
    MAX_LABEL_BYTES,
    MAX_STATE_CHARS,
    check_baggage,
    count_tracestate,
    join_baggage,
    parse_hex,
    utf8,
)
from .errors import FormatError, bad_b3, bad_traceparent
from .records import NO_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol, Self

    from .labels import Labels
    from .tracestate import TraceState

    class Ids(Protocol):
        def trace_id(self) -> int: ...
        def span_id(self) -> int: ...


__all__ = [
    "DEFERRED",
    "RANDOM",
    "SAMPLED",
    "SpanContext",
    "anchor",
    "check_clock",
    "decided_state",
    "decode_binary",
    "decode_tags",
    "encode_binary",
    "encode_tags",
    "forget_parent",
    "format_b3",
    "format_traceparent",
    "generation",
    "ids_of",
    "make_context",
    "make_from_parts",
    "make_remote",
    "new_span_id",
    "new_trace_id",
    "now",
    "parse_b3",
    "parse_decimal",
    "parse_traceparent",
    "read_b3",
    "read_tracecontext",
    "read_w3c",
    "said_randomness",
    "set_clock",
    "set_ids",
    "set_values",
    "write_b3",
    "write_tracecontext",
    "write_w3c",
]

SAMPLED: Final = 0x01
RANDOM: Final = 0x02
DEFERRED: Final = 0x100  # above the eight wire bits: nobody has decided yet

_pool: list[int] = []
_ids: Ids | None = None
_clock: Callable[[], int] | None = None
_generation = 0  # how many forks lie between this process and the one that imported tracekit


def _draw() -> int:
    while True:
        try:
            word = _pool.pop()  # atomic: two threads never draw the same word
        except IndexError:
            # os.urandom, not random: random.seed() in user code must not repeat an id.
            _pool.extend(struct.unpack("256Q", os.urandom(2048)))
        else:
            if word:
                return word


def new_trace_id() -> int:
    """Return a trace id."""
    return _draw() << 64 | _draw() if _ids is None else _ids.trace_id()


def new_span_id() -> int:
    """Return a span id."""
    return _draw() if _ids is None else _ids.span_id()


def generation() -> int:
    """Return a number that is another one in the child of a fork."""
    return _generation


def forget_parent() -> None:
    """Start a generation of its own in the child of a fork, with random words of its own."""
    global _generation
    _generation += 1
    _pool.clear()


def set_ids(source: Ids | None) -> None:
    """Take ids from *source* (``trace_id()`` and ``span_id()`` return ints); None: from the operating system again."""
    global _ids
    _ids = source


def set_clock(clock: Callable[[], int] | None) -> None:
    """Take the time, Unix nanoseconds, from *clock* instead of the operating system; None undoes it."""
    global _clock
    _clock = clock


_ANCHOR_DRIFT_NS = 5_000_000
_anchor = time.time_ns() - time.monotonic_ns()


def anchor() -> int:
    """Return the wall clock's distance from the monotonic clock."""
    return _anchor


def now(anchor: int) -> int:
    """Return the time, Unix nanoseconds, at that distance."""
    return time.monotonic_ns() + anchor if _clock is None else _clock()


def check_clock() -> None:
    """Set the wall clock's distance from the monotonic clock anew where they drifted apart by more than 5 ms.

    Each span keeps the distance it started with: its duration is monotonic.
    """
    global _anchor
    distance = time.time_ns() - time.monotonic_ns()
    if abs(distance - _anchor) > _ANCHOR_DRIFT_NS:
        _anchor = distance


_no_labels: Any = None
_labels_type: Any = None
_state_type: Any = None
_make_state: Any = None
_parse_labels: Any = None
_make_labels: Any = None
_restore: Any = None


def set_values(
    no_labels: Labels,
    parse_labels: Callable[[str], Labels],
    make_labels: Callable[[str], Labels],
    state_type: type[TraceState],
    make_state: Callable[[str], TraceState],
    restore: Callable[..., Any],
) -> None:
    """Make known what is written above this module: types of labels and tracestate, and what unpickles a context."""
    global _labels_type, _no_labels, _parse_labels, _make_labels, _state_type, _make_state, _restore
    _labels_type, _no_labels, _parse_labels = type(no_labels), no_labels, parse_labels
    _make_labels = make_labels
    _state_type, _make_state = state_type, make_state
    _restore = restore


def decided_state(entry: str, state: str) -> str:
    """Return the ``tracestate`` value after a decision that *entry* tells, in the place of what *state* said of it."""
    text: str = _make_state(state).decided(entry)
    return text


def said_randomness(state: str) -> int:
    """Return the 56 random bits that a ``tracestate`` value says, or -1."""
    randomness: int = _make_state(state).sampling()[1]
    return randomness


def _id(value: object, size: int, parameter: str) -> int:
    if isinstance(value, str):
        number = parse_hex(value, 2 * size)
        if number or value == "0" * (2 * size):
            return number
    elif isinstance(value, bytes):
        if len(value) == size:
            return int.from_bytes(value)
    else:
        raise TypeError(f"{parameter} must be str or bytes, not {type(value).__name__}")
    raise ValueError(f"{parameter} must be {2 * size} lowercase hex digits or {size} bytes: {ascii(value)[:80]}")


@final
class SpanContext:
    """What of a span travels: its ids, the trace flags, the tracestate and the labels. Immutable; equal by value.

    Missing ids are all zeros; ``is_valid`` tells whether both are there. ``flags`` are the eight W3C
    bits. ``deferred`` is true while nobody has decided whether the trace is sampled.
    """

    __slots__ = ("_extra", "_flags", "_is_remote", "_labels", "_span_id", "_state", "_trace_id")

    _trace_id: int
    _span_id: int
    _flags: int
    _state: str
    _labels: Labels | None
    _is_remote: bool
    _extra: dict[str, Any] | None

    def __new__(
        cls,
        trace_id: str | bytes = "00000000000000000000000000000000",
        span_id: str | bytes = "0000000000000000",
        flags: int = 0,
        *,
        state: TraceState | None = None,
        labels: Labels | None = None,
        is_remote: bool = False,
        deferred: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        trace, span = _id(trace_id, 16, "trace_id"), _id(span_id, 8, "span_id")
        if not isinstance(flags, int):
            raise TypeError(f"flags must be int, not {type(flags).__name__}")
        if not 0 <= flags <= 0xFF:
            raise ValueError(f"flags must be 0 to 255: {flags}")
        if state is not None and not isinstance(state, _state_type):
            raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
        if labels is not None and not isinstance(labels, _labels_type):
            raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
        if deferred is None:
            deferred = not flags and not (trace and span)
        wire = flags | DEFERRED if deferred else flags
        text = "" if state is None else str(state)
        return make_from_parts(trace, span, wire, text, labels or None, bool(is_remote), dict(extra or {}) or None)

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 lowercase hex digits."""
        return f"{self._trace_id:032x}"

    @property
    def span_id(self) -> str:
        """The span's id, 16 lowercase hex digits."""
        return f"{self._span_id:016x}"

    @property
    def id(self) -> bytes:
        """The trace's and the span's id, 24 bytes."""
        return self._trace_id.to_bytes(16) + self._span_id.to_bytes(8)

    @property
    def flags(self) -> int:
        """The W3C trace flags: bit 0 sampled, bit 1 random."""
        return self._flags & 0xFF

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""
        return bool(self._flags & SAMPLED)

    @property
    def deferred(self) -> bool:
        """Whether nobody has decided yet if the trace is sampled."""
        return bool(self._flags & DEFERRED)

    @property
    def is_remote(self) -> bool:
        """Whether the span is another process's."""
        return self._is_remote

    @property
    def is_valid(self) -> bool:
        """Whether both ids are there, so that a span can be its child."""
        return bool(self._trace_id and self._span_id)

    @property
    def state(self) -> TraceState:
        """The W3C tracestate: what vendors pass along."""
        state: TraceState = _make_state(self._state)
        return state

    @property
    def labels(self) -> Labels:
        """The labels that travel with the trace."""
        return _no_labels if self._labels is None else self._labels

    @property
    def extra(self) -> Mapping[str, Any]:
        """What a wire format said beyond all this, by the format's name; that format writes it again."""
        return NO_ATTRIBUTES if self._extra is None else MappingProxyType(self._extra)

    def replace(
        self,
        *,
        state: TraceState | None = None,
        labels: Labels | None = None,
        is_remote: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> SpanContext:
        """Return a copy with another tracestate, labels, ``is_remote`` or extra words; None keeps what is there."""
        if state is not None and not isinstance(state, _state_type):
            raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
        if labels is not None and not isinstance(labels, _labels_type):
            raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
        return make_from_parts(
            self._trace_id,
            self._span_id,
            self._flags,
            self._state if state is None else str(state),
            self._labels if labels is None else (labels or None),
            self._is_remote if is_remote is None else bool(is_remote),
            self._extra if extra is None else (dict(extra) or None),
        )

    def _key(self) -> tuple[Any, ...]:
        return self._trace_id, self._span_id, self._flags, self._labels, self._is_remote, self._extra

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanContext):
            return NotImplemented
        return self._key() == other._key() and (self._state == other._state or self.state == other.state)

    def __hash__(self) -> int:
        return hash((self._trace_id, self._span_id))

    def __reduce__(self) -> Any:
        # By a function's name, not the class's, so that either twin reads what the other wrote.
        return _restore, (self.id, self._flags, self._state, str(self.labels), self._is_remote, self._extra)

    def __repr__(self) -> str:
        remote = ", remote" if self._is_remote else ""
        return f"<SpanContext {self.trace_id}/{self.span_id} flags={self._flags & 0xFF:02x}{remote}>"


def make_from_parts(
    trace_id: int,
    span_id: int,
    flags: int,
    state: str,
    labels: Labels | None,
    is_remote: bool,
    extra: dict[str, Any] | None = None,
) -> SpanContext:
    """Return the context with these ids, of 128 and 64 bits, and no further check."""
    context = object.__new__(SpanContext)
    context._trace_id = trace_id
    context._span_id = span_id
    context._flags = flags
    context._state = state
    context._labels = labels
    context._is_remote = is_remote
    context._extra = extra
    return context


def make_context(
    id: bytes,
    flags: int,
    state: str,
    labels: Labels | None,
    is_remote: bool,
    extra: dict[str, Any] | None = None,
) -> SpanContext:
    """Return the context with these 24 bytes of ids and these flags, ``deferred`` (0x100) among them.

    Nothing but the length is checked: *state* is a well-formed ``tracestate`` or empty.
    """
    if len(id) != 24:
        raise ValueError("id must be 24 bytes")
    trace_id, span_id = int.from_bytes(id[:16]), int.from_bytes(id[16:])
    return make_from_parts(trace_id, span_id, flags & 0x1FF, state, labels, is_remote, extra)


def make_remote(trace_id: int, span_id: int, flags: int, extra: dict[str, Any] | None = None) -> SpanContext:
    """Return the remote context with these ids, of 128 and 64 bits, ``deferred`` (0x100) among the flags."""
    if trace_id >> 128 or span_id >> 64:
        raise OverflowError("ids have 128 and 64 bits")
    return make_from_parts(trace_id, span_id, flags & 0x1FF, "", None, True, extra)


def ids_of(context: SpanContext) -> tuple[int, int]:
    """Return the trace id and the span id of *context* as numbers."""
    return context._trace_id, context._span_id


def parse_decimal(text: str) -> int:
    """Return the number that *text*, 1 to 20 decimal digits, spells; -1 if it is not that or has over 64 bits."""
    if not 0 < len(text) <= 20 or not _DIGITS.issuperset(text):
        return -1
    number = int(text)
    return -1 if number >> 64 else number


_DIGITS = frozenset("0123456789")
_DEBUG = {"b3": "d"}


MAX_B3_CHARS: Final = 256  # far more than is needed, since the parent id may be anything
_B3_DECISIONS = {"0": 0, "1": SAMPLED, "d": SAMPLED}


def parse_b3(text: str) -> SpanContext | None:
    """Return the remote context that a ``b3`` value holds, or None if it breaks the grammar.

    https://github.com/openzipkin/b3-propagation#single-header
    """
    trace, *parts = text.split("-", 3) if len(text) <= MAX_B3_CHARS else [""]
    if not parts and trace in _B3_DECISIONS:
        return make_from_parts(0, 0, _B3_DECISIONS[trace], "", None, True, _DEBUG if trace == "d" else None)
    decision = parts[1] if len(parts) > 1 else ""
    # The parent id may be anything, since nobody uses it, but not a second value behind a comma.
    if not parts or len(trace) not in (16, 32) or (decision and decision not in _B3_DECISIONS) or "," in text:
        return None
    trace_id, span_id = parse_hex(trace.lower(), len(trace)), parse_hex(parts[0].lower(), 16)
    if not trace_id or not span_id:
        return None
    flags = _B3_DECISIONS.get(decision, DEFERRED)
    return make_from_parts(trace_id, span_id, flags, "", None, True, _DEBUG if decision == "d" else None)


def format_b3(context: SpanContext) -> str:
    """Return the ``b3`` value of *context*: ids and decision, or what it has of them, which may be nothing."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    state = "1" if context._flags & SAMPLED else "" if context._flags & DEFERRED else "0"
    # Debug implies sampled: where another format's decision stands, it would undo that.
    if state == "1" and context._extra is not None and context._extra.get("b3") == "d":
        state = "d"
    if not context.is_valid:
        return state
    digits = 32 if context._trace_id >> 64 else 16
    text = f"{context._trace_id:0{digits}x}-{context._span_id:016x}"
    return f"{text}-{state}" if state else text


_B3_FIELDS = Sieve(("b3",))


def read_b3(carrier: Any) -> SpanContext | None:
    """Return the context, or the decision alone, that ``b3`` holds; None if there is none.

    Raises ``FormatError`` where it is bad or came twice.
    """
    (text,) = _B3_FIELDS.collect(carrier)
    if text is None:
        return None
    context = parse_b3(text) if isinstance(text, str) else None
    if context is None:
        raise bad_b3(text)
    return context


def write_b3(context: SpanContext, carrier: Any) -> None:
    """Set ``b3`` to what *context* has of ids and decision; where that is nothing, take it out."""
    put(carrier, "b3", format_b3(context) or None)


def decode_binary(octets: bytes) -> SpanContext | None:
    """Return the remote context that the binary form holds, or None if it is malformed.

    Fields may be missing. What follows an unknown field is kept, and written again.
    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md
    """
    size = len(octets)
    if not 0 < size <= MAX_BINARY_BYTES or octets[0] != 0:
        return None
    trace_id = span_id = 0
    flags, at = DEFERRED, 1
    while at < size and octets[at] <= 2:
        field, length = octets[at], (16, 8, 1)[octets[at]]
        value = octets[at + 1 : at + 1 + length]
        if len(value) != length:
            return None
        if field == 0:
            trace_id = int.from_bytes(value)
        elif field == 1:
            span_id = int.from_bytes(value)
        else:
            flags = value[0] & SAMPLED
        at += 1 + length
    if not trace_id or not span_id:
        return None
    return make_from_parts(
        trace_id, span_id, flags, "", None, True, {"grpc_bin": bytes(octets[at:])} if at < size else None
    )


def encode_binary(context: SpanContext) -> bytes:
    """Return the binary form of *context*: 29 bytes, 27 while the decision is deferred, and what came behind them."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    octets = b"\0\0" + context._trace_id.to_bytes(16) + b"\x01" + context._span_id.to_bytes(8)
    if not context._flags & DEFERRED:
        octets += b"\x02" + bytes([context._flags & SAMPLED])
    tail = None if context._extra is None else context._extra.get("grpc_bin")
    if not isinstance(tail, bytes) or tail[:1] <= b"\2" or len(octets) + len(tail) > MAX_BINARY_BYTES:
        return octets
    return octets + tail


MAX_BINARY_BYTES: Final = 512


def decode_tags(octets: bytes) -> dict[str, str] | None:
    """Return the pairs of the binary tag encoding, the last of equal keys; None if it is malformed or over 8192 bytes.

    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md#tag-context
    """
    size = len(octets)
    if not 0 < size <= MAX_LABEL_BYTES or octets[0] != 0:
        return None
    tags: dict[str, str] = {}
    at = 1
    while at < size and octets[at] == 0:
        pair = []
        at += 1
        for _ in range(2):
            length = shift = 0
            while True:
                if at >= size or shift > 14:  # three octets of seven bits: far more than the limit
                    return None
                length |= (octets[at] & 0x7F) << shift
                shift += 7
                at += 1
                if octets[at - 1] < 0x80:
                    break
            if length > size - at:
                return None
            try:
                pair.append(octets[at : at + length].decode())
            except UnicodeDecodeError:
                return None
            at += length
        tags[pair[0]] = pair[1]
    return tags


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Return *tags* in the binary tag encoding; those past 8192 bytes are left out, whole."""
    octets = b"\0"
    for key, value in tags.items():
        piece = b"\0"
        for text in (key, value):
            encoded = utf8(text)
            length = len(encoded)
            while length > 0x7F:
                piece += bytes([length & 0x7F | 0x80])
                length >>= 7
            piece += bytes([length]) + encoded
        if len(octets) + len(piece) <= MAX_LABEL_BYTES:
            octets += piece
    return octets


def parse_traceparent(text: str) -> SpanContext | None:
    """Return the remote context that a ``traceparent`` value holds, or None if it breaks the grammar.

    Versions above 00 are read as far as 00 goes; optional white space around the value is ignored.
    https://www.w3.org/TR/trace-context-2/#traceparent-header
    """
    if len(text) > 512 or not text.isascii():
        return None
    text = text.strip(" \t")
    if len(text) < 55 or text[2] != "-" or text[35] != "-" or text[52] != "-":
        return None
    version = text[:2]
    if not HEX.issuperset(version) or version == "ff":
        return None
    if len(text) > 55 and (version == "00" or text[55] != "-"):
        return None
    trace_id, span_id, flags = parse_hex(text[3:35], 32), parse_hex(text[36:52], 16), text[53:55]
    if not trace_id or not span_id or not HEX.issuperset(flags):
        return None
    return make_from_parts(trace_id, span_id, int(flags, 16), "", None, True)


def format_traceparent(context: SpanContext) -> str:
    """Return the ``traceparent`` value of *context*, version 00; flags the standard does not know go out as 0."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return f"00-{context._trace_id:032x}-{context._span_id:016x}-{context._flags & 3:02x}"


_TRACECONTEXT_FIELDS = Sieve(("traceparent", "tracestate"))
_BAGGAGE_FIELDS = Sieve(("baggage",))


def read_tracecontext(carrier: Any) -> SpanContext | None:
    """Return the context of ``traceparent`` and, where that is well-formed, ``tracestate``; None if there is none.

    Raises ``FormatError`` where ``traceparent`` is bad or came twice.
    """
    parent, state = _TRACECONTEXT_FIELDS.collect(carrier)
    if parent is None:
        return None
    context = parse_traceparent(parent) if isinstance(parent, str) else None
    if context is None:
        raise bad_traceparent(parent)
    if isinstance(state, list):
        # Only text within the limit is joined.
        state = ",".join(state) if sum(map(len, state)) <= MAX_STATE_CHARS else None
    if state is not None and count_tracestate(state) > 0:
        context._state = state.strip(" \t")
    return context


def read_w3c(carrier: Any) -> SpanContext | None:
    """Return what ``traceparent``, ``tracestate`` and ``baggage`` hold together; what is bad counts as absent."""
    try:
        context = read_tracecontext(carrier)
    except FormatError:
        context = None
    (baggage,) = _BAGGAGE_FIELDS.collect(carrier)
    if baggage is None:
        return context
    if isinstance(baggage, list):
        baggage = join_baggage(baggage)
    if check_baggage(baggage) > 0:
        labels = _make_labels(baggage.strip(" \t"))
    else:
        labels = _parse_labels(baggage)
        if not labels:
            return context
    return make_from_parts(0, 0, DEFERRED, "", labels, False) if context is None else context.replace(labels=labels)


def write_w3c(context: SpanContext, carrier: Any) -> None:
    """Set ``traceparent`` and ``tracestate`` of a valid context, and ``baggage`` where there are labels."""
    write_tracecontext(context, carrier)
    if context._labels is not None:  # else a baggage header that the program set by itself stays
        put(carrier, "baggage", str(context._labels))


def write_tracecontext(context: SpanContext, carrier: Any) -> None:
    """Set ``traceparent``, and ``tracestate`` where there is one; an invalid context writes neither."""
    text = format_traceparent(context)
    if context.is_valid:
        put(carrier, "traceparent", text)
        put(carrier, "tracestate", context._state or None)
