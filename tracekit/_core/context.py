"""Ids, and ``SpanContext``, the immutable value that travels with the work."""

from __future__ import annotations

from ..cython import binding, cclass, compiled, final, freelist, no_gc
from .codecs import forget_words, parse_hex
from .guard import type_name
from .labels import NO_LABELS, Labels
from .records import NO_ATTRIBUTES
from .stdlib import MappingProxyType, NamedTuple
from .tracestate import TraceState, make_state

if not compiled:
    from .codecs import hex_text, id_octets, random_word, stretched_word
    from .free_threading import retire
    from .interpreter import DEFERRED, RANDOM, SAMPLED, publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, Protocol

    class Ids(Protocol):
        """A source of ids, for tests."""

        def trace_id(self) -> int: ...
        def span_id(self) -> int: ...


_ids: Ids | None = None
_trace_bits = RANDOM  # the flags of new traces
_generation = 0  # how many forks lie between this process and the one that imported tracekit
_MASK64: Final = 0xFFFF_FFFF_FFFF_FFFF
_DEPTH: Final = 8  # of tuples in extra

if not compiled:

    def generation() -> int:
        """Return a number that changes in the child of a fork."""
        return _generation

    def new_trace_bits() -> int:
        """Return the flags that a new trace starts with."""
        return _trace_bits

    def has_ids() -> bool:
        """Tell whether ids come from a custom generator."""
        return _ids is not None


def new_generation() -> None:
    """Start over in the child of a fork: spans opened before are the parent's, and so are random words drawn ahead."""
    global _generation
    _generation += 1
    forget_words()


def set_ids(source: Ids | None, are_random: bool = True) -> tuple[Ids | None, bool]:
    """Take ids from *source* (``trace_id()`` and ``span_id()`` return ints); None: from the operating system again.

    *are_random*: whether the last 56 bits of its trace ids are random, as the flag of new traces says. Returns the
    arguments of the call before.
    """
    global _ids, _trace_bits
    before = _ids, _trace_bits != 0
    retire(_ids)
    _ids, _trace_bits = source, RANDOM if are_random else 0
    return before


def new_trace_id() -> tuple[int, int]:
    """Return the two words of a new trace id."""
    if _ids is None:
        return random_word(), random_word()
    trace_id = _ids.trace_id()
    return trace_id >> 64, trace_id & _MASK64


def new_span_id() -> int:
    """Return a new span id."""
    return stretched_word() if _ids is None else _ids.span_id()


@final
@no_gc  # holds plain values only, see _plain(), so it is in no cycle
@freelist(512)
@binding(False)
@cclass
class SpanContext:
    """The propagated part of a span: its ids, trace flags, tracestate and labels. Immutable; equal by value.

    Missing ids are all zeros; ``is_valid`` tells whether both are there. ``flags`` are the eight W3C
    bits. ``deferred`` is true while no decision about sampling has been made. The values of ``extra`` are str, bytes,
    numbers, bools, None, and tuples of those up to eight levels deep; a list becomes a tuple.
    """

    __slots__ = ("_bits", "_extra", "_face", "_high", "_is_made", "_labels", "_low", "_remote", "_span", "_state")

    _high: int  # the trace id's two words
    _low: int
    _span: int
    _bits: int
    _state: str | None  # checked text
    _labels: Labels | None  # not empty
    _remote: bool
    _extra: dict[str, Any] | None  # of plain values; never changed
    _is_made: bool
    _face: Any  # another API's immutable form of this context, of exactly its class, made when first asked for

    def __init__(
        self,
        trace_id: str | bytes = "00000000000000000000000000000000",
        span_id: str | bytes = "0000000000000000",
        flags: int = 0,
        *,
        state: TraceState | None = None,
        labels: Labels | None = None,
        is_remote: bool = False,
        deferred: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if self._is_made if compiled else hasattr(self, "_is_made"):
            raise AttributeError("SpanContext is immutable")
        trace, span = _id(trace_id, 32, "trace_id"), _id(span_id, 16, "span_id")
        if not isinstance(flags, int):
            raise TypeError(f"flags must be int, not {type(flags).__name__}")
        if not 0 <= flags <= 0xFF:
            raise ValueError(f"flags must be 0 to 255: {flags}")
        _check(state, labels)
        if deferred is None:
            deferred = not flags and not (trace and span)
        self._high, self._low, self._span = trace >> 64, trace & _MASK64, span
        self._bits = int(flags) | DEFERRED if deferred else int(flags)
        self._state = str(state) if state else None
        self._labels = labels or None
        self._remote = bool(is_remote)
        self._extra = _plain_extra(extra)
        if not compiled:
            self._face = None
        self._is_made = True

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 lowercase hex digits."""
        return hex_text(self._high, self._low, 32)

    @property
    def span_id(self) -> str:
        """The span's id, 16 lowercase hex digits."""
        return hex_text(0, self._span, 16)

    @property
    def id(self) -> bytes:
        """The trace's and the span's id, 24 bytes."""
        return id_octets(self._high, self._low, self._span)

    @property
    def flags(self) -> int:
        """The W3C trace flags: bit 0 sampled, bit 1 random."""
        return self._bits & 0xFF

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""
        return (self._bits & SAMPLED) != 0

    @property
    def deferred(self) -> bool:
        """Whether no decision about sampling has been made."""
        return (self._bits & DEFERRED) != 0

    @property
    def is_remote(self) -> bool:
        """Whether the span belongs to another process."""
        return self._remote

    @property
    def is_valid(self) -> bool:
        """Whether both ids are there, so that a span can be its child."""
        return self._is_valid()

    @property
    def state(self) -> TraceState:
        """The W3C tracestate: entries that vendors pass along."""
        return make_state(self._state or "")

    @property
    def labels(self) -> Labels:
        """The labels that travel with the trace."""
        return NO_LABELS if self._labels is None else self._labels

    @property
    def extra(self) -> Mapping[str, Any]:
        """Further fields of wire formats, by the format's name; that format writes them again."""
        return NO_ATTRIBUTES if self._extra is None else MappingProxyType(self._extra)

    def replace(
        self,
        *,
        state: TraceState | None = None,
        labels: Labels | None = None,
        is_remote: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> SpanContext:
        """Return a copy with another tracestate, labels, ``is_remote`` or extra fields; None keeps the present ones."""
        _check(state, labels)
        return from_words(
            self._high,
            self._low,
            self._span,
            self._bits,
            self._state if state is None else (str(state) or None),
            self._labels if labels is None else (labels or None),
            self._remote if is_remote is None else bool(is_remote),
            self._extra if extra is None else _plain_extra(extra),
        )

    def _is_valid(self) -> bool:
        return self._span != 0 and (self._high | self._low) != 0

    def __eq__(self, other: object) -> bool:
        if type(other) is not SpanContext:
            return NotImplemented
        return _are_equal(self, other)

    def __hash__(self) -> int:
        # Ids are random already.
        return hash(self._high ^ self._low ^ self._span)

    def __reduce__(self) -> Any:
        # A function that both forms have, with values that both read.
        return _restore, (self.id, self._bits, self._state or "", str(self.labels), self._remote, self._extra)

    def __repr__(self) -> str:
        remote = ", remote" if self._remote else ""
        return f"<SpanContext {self.trace_id}/{self.span_id} flags={self.flags:02x}{remote}>"


class Link(NamedTuple):
    """A link from a span to another span that caused it without being its parent."""

    context: SpanContext
    attributes: Mapping[str, Any] = NO_ATTRIBUTES


def from_words(
    high: int,
    low: int,
    span: int,
    bits: int,
    state: str | None,
    labels: Labels | None,
    remote: bool,
    extra: dict[str, Any] | None,
) -> SpanContext:
    """Return the context with these ids, in words of 64 bits, and these flags, ``DEFERRED`` among them; no checks."""
    context = SpanContext.__new__(SpanContext)
    context._high = high
    context._low = low
    context._span = span
    context._bits = bits
    context._state = state
    context._labels = labels
    context._remote = remote
    context._extra = extra
    if not compiled:
        context._face = None
    context._is_made = True
    return context


def child_context(base: SpanContext, bits: int, state: str | None) -> SpanContext:
    """Return the context of a new span in the trace of *base*, with these flags and this tracestate."""
    context = SpanContext.__new__(SpanContext)
    context._high = base._high
    context._low = base._low
    context._span = new_span_id()
    context._bits = bits
    context._state = state
    context._labels = base._labels
    context._extra = base._extra
    if not compiled:
        context._remote = False
        context._face = None
    context._is_made = True
    return context


def with_labels(base: SpanContext | None, labels: Labels | None) -> SpanContext:
    """Return *base*, or a context without ids, with *labels* in place of those of *base*."""
    if base is None:
        return from_words(0, 0, 0, DEFERRED, None, labels or None, False, None)
    context = from_words(
        base._high, base._low, base._span, base._bits, base._state, labels or None, base._remote, base._extra
    )
    context._face = base._face
    return context


def make_context(
    id: bytes,
    flags: int,
    state: str,
    labels: Labels | None,
    is_remote: bool,
    extra: dict[str, Any] | None = None,
) -> SpanContext:
    """Return the context with these 24 bytes of ids and these flags, ``DEFERRED`` (0x100) among them.

    Only the length is checked: *state* is a well-formed ``tracestate`` or empty.
    """
    if len(id) != 24:
        raise ValueError("id must be 24 bytes")
    _check(None, labels)
    high, low, span = int.from_bytes(id[:8]), int.from_bytes(id[8:16]), int.from_bytes(id[16:])
    return from_words(high, low, span, flags & 0x1FF, state or None, labels, is_remote, _plain_extra(extra))


def make_remote(trace_id: int, span_id: int, flags: int, extra: dict[str, Any] | None = None) -> SpanContext:
    """Return the remote context with these ids, of 128 and 64 bits, and these flags, ``DEFERRED`` (0x100) among them."""
    if trace_id >> 128 or span_id >> 64:
        raise OverflowError("ids have 128 and 64 bits")
    extra = _plain_extra(extra)
    return from_words(trace_id >> 64, trace_id & _MASK64, span_id, flags & 0x1FF, None, None, True, extra)


def ids_of(context: SpanContext) -> tuple[int, int]:
    """Return the trace id and the span id of *context* as numbers."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return _ids_of(context)


def _ids_of(context: SpanContext) -> tuple[int, int]:
    # From octets: a shift of the C integer that a word is where this is compiled would lose its bits.
    return int.from_bytes(context.id[:16]), context._span


def _are_equal(one: SpanContext, other: SpanContext) -> bool:
    return (
        one._high == other._high
        and one._low == other._low
        and one._span == other._span
        and one._bits == other._bits
        and one._remote == other._remote
        and one._labels == other._labels
        and one._extra == other._extra
        and (one._state == other._state or one.state == other.state)
    )


def _check(state: object, labels: object) -> None:
    if state is not None and not isinstance(state, TraceState):
        raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
    if labels is not None and not isinstance(labels, Labels):
        raise TypeError(f"labels must be Labels, not {type(labels).__name__}")


def _plain_extra(extra: Any) -> dict[str, Any] | None:
    """Return *extra* as a dict of plain values, or None if it is empty."""
    if not extra:
        return None
    return {_plain_key(key): _plain(value, _DEPTH) for key, value in dict(extra).items()}


def _plain_key(key: Any) -> str:
    if type(key) is str:
        return key
    if not isinstance(key, str):
        raise TypeError(f"extra must have str keys, not {type_name(key)}")
    return str.__str__(key)


def _plain(value: Any, depth: int) -> Any:
    """Return *value* without anything that could refer back to its context, which the garbage collector does not see."""
    kind = type(value)
    if value is None or kind is str or kind is int or kind is bool or kind is float or kind is bytes:
        return value
    if issubclass(kind, str):  # subclasses have a dict
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, bytes):
        return bytes.__getitem__(value, slice(None))
    if not issubclass(kind, (tuple, list)):
        raise TypeError(f"extra must hold str, bytes, numbers, bools, None and tuples of those, not {type_name(value)}")
    if depth == 0:
        raise ValueError(f"extra must hold tuples of at most {_DEPTH} levels")
    items = tuple.__iter__(value) if issubclass(kind, tuple) else list.__iter__(value)
    return tuple([_plain(item, depth - 1) for item in items])


def _id(value: object, digits: int, parameter: str) -> int:
    if isinstance(value, str):
        text = str.__str__(value)
        number = parse_hex(text, digits)
        if number or text == "0" * digits:
            return number
    elif isinstance(value, bytes):
        if len(value) == digits // 2:
            return int.from_bytes(value)
    else:
        raise TypeError(f"{parameter} must be str or bytes, not {type(value).__name__}")
    raise ValueError(f"{parameter} must be {digits} lowercase hex digits or {digits // 2} bytes: {ascii(value)[:80]}")


def _restore(
    id: bytes, flags: int, state: str, labels: str, is_remote: bool, extra: dict[str, Any] | None = None
) -> SpanContext:
    """Rebuild a pickled SpanContext."""
    return make_context(id, flags, str(TraceState.parse(state)), Labels.parse(labels) or None, is_remote, extra)


publish(SpanContext, b"tracekit.SpanContext")
