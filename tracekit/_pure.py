"""The plain twin: what runs where ``_speedups`` was not built, and the type source of both.

The same names in the same order with the same docstrings as ``_speedups.pyx``; the tests feed
both the same input. How it works, from the bottom up:

- codecs: ids, ``traceparent``, ``tracestate`` and ``baggage`` text, and the carriers that hold them;
- ``SpanContext``: the immutable value that travels;
- ``Scope``: one opening of "this is current". The one ContextVar points to the innermost;
- ``Span`` and ``span()``: a unit of work; ``Tracer`` holds what ``configure()`` decided;
- ``Buffer``: where finished spans wait for the pipeline's thread.
"""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, final

from ._attributes import MISSING, clean
from ._errors import bad_traceparent
from ._outcome import close_with, exception_attributes
from ._records import KINDS, NO_ATTRIBUTES, STATUS_CODES, Event, Limits, Link, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token
    from types import TracebackType
    from typing import Protocol, Self

    from ._labels import Labels
    from ._tracestate import TraceState

    class Ids(Protocol):
        def trace_id(self) -> int: ...
        def span_id(self) -> int: ...

    class RootSampler(Protocol):
        def sample(self, trace_id: str, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]: ...


__all__ = [
    "IMPLEMENTATION",
    "MAX_LABELS",
    "MAX_LABEL_BYTES",
    "MAX_STATE_CHARS",
    "MAX_STATE_MEMBERS",
    "ROOT",
    "Buffer",
    "Root",
    "Scope",
    "Span",
    "SpanContext",
    "Tracer",
    "adopt_scopes",
    "after_fork",
    "buffer",
    "check_clock",
    "collect",
    "count_tracestate",
    "current_context",
    "current_span",
    "escape_label",
    "format_baggage",
    "format_traceparent",
    "is_label_key",
    "is_state_key",
    "is_state_value",
    "make_context",
    "parse_baggage",
    "parse_hex",
    "parse_traceparent",
    "put",
    "read_tracecontext",
    "set_clock",
    "set_ids",
    "set_tracer",
    "set_values",
    "span",
    "swap_scope",
    "unescape_label",
    "use_scope",
    "write_tracecontext",
]

IMPLEMENTATION: Final = "plain"

_MASK64 = (1 << 64) - 1
_MASK56 = (1 << 56) - 1
_SAMPLED = 0x01
_RANDOM = 0x02
_DEFERRED = 0x100  # above the eight wire bits: nobody has decided yet

# ---------------------------------------------------------------- codecs: ids and traceparent

_HEX = frozenset("0123456789abcdef")


def parse_hex(text: str, digits: int) -> int:
    """Return the id that *text* spells, or 0 if it is not *digits* lowercase hex digits."""
    # int(text, 16) alone would also take "_", "+", spaces and full-width digits.
    if len(text) != digits or not _HEX.issuperset(text):
        return 0
    return int(text, 16)


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
    if not _HEX.issuperset(version) or version == "ff":
        return None
    if len(text) > 55 and (version == "00" or text[55] != "-"):
        return None
    trace_id, span_id, flags = parse_hex(text[3:35], 32), parse_hex(text[36:52], 16), text[53:55]
    if not trace_id or not span_id or not _HEX.issuperset(flags):
        return None
    return _make_context(trace_id, span_id, int(flags, 16), "", None, True)


def format_traceparent(context: SpanContext) -> str:
    """Return the ``traceparent`` value of *context*, version 00; flags the standard does not know go out as 0."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return f"00-{context._trace_id:032x}-{context._span_id:016x}-{context._flags & 3:02x}"


# ---------------------------------------------------------------- codecs: tracestate and baggage

_STATE_KEY_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_STATE_KEY = _STATE_KEY_FIRST | frozenset("_-*/@")
_STATE_VALUE = frozenset(map(chr, range(0x20, 0x7F))) - frozenset(",=")
_HEX_ANY = frozenset(b"0123456789abcdefABCDEF")
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BAGGAGE_VALUE = frozenset(map(chr, range(0x21, 0x7F))) - frozenset('",;\\')
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")
_ESCAPES = tuple(chr(octet) if octet in _UNRESERVED else f"%{octet:02X}" for octet in range(256))
_FEW_ESCAPES = tuple(
    chr(octet) if chr(octet) in _BAGGAGE_VALUE and octet != 0x25 else f"%{octet:02X}" for octet in range(256)
)

MAX_STATE_MEMBERS: Final = 32
MAX_STATE_CHARS: Final = 32 * (256 + 1 + 256) + 31
MAX_LABELS: Final = 64
MAX_LABEL_BYTES: Final = 8192


def count_tracestate(text: str) -> int:
    """Return how many members a ``tracestate`` value has, or -1 if it breaks the Level 2 grammar or has more than 32.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    if len(text) > MAX_STATE_CHARS:
        return -1
    count = 0
    for member in text.split(","):
        # Leading spaces belong to a value, but a member begins with its key: both ends are optional white space.
        member = member.strip(" \t")
        if not member:
            continue
        key, equals, value = member.partition("=")
        if not equals or not is_state_key(key) or not is_state_value(value):
            return -1
        count += 1
    return count if count <= MAX_STATE_MEMBERS else -1


def is_state_key(key: str) -> bool:
    """Tell whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _ - * / @``, first a letter or digit."""
    return 0 < len(key) <= 256 and key[0] in _STATE_KEY_FIRST and _STATE_KEY.issuperset(key)


def is_state_value(value: str) -> bool:
    """Tell whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space at the end."""
    return 0 < len(value) <= 256 and value[-1] != " " and _STATE_VALUE.issuperset(value)


def is_label_key(key: str) -> bool:
    """Tell whether *key* is an RFC 7230 token, which is what a label's key must be."""
    return bool(key) and _TOKEN.issuperset(key)


def escape_label(value: str) -> str:
    """Return *value* percent-encoded as UTF-8 (RFC 3986), so that no character of it can end a member or a header.

    Lone surrogates, which UTF-8 cannot hold, go out as U+FFFD.
    """
    return _escape(value, _ESCAPES)


def _escape(value: str, escapes: tuple[str, ...]) -> str:
    try:
        octets = value.encode()
    except UnicodeEncodeError:
        octets = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    return "".join([escapes[octet] for octet in octets])


def unescape_label(text: str) -> str:
    """Return ASCII *text* with every ``%XX`` decoded as UTF-8; what is no UTF-8 becomes U+FFFD, a lone ``%`` stays."""
    if "%" not in text:
        return text
    head, *parts = text.encode("ascii").split(b"%")
    octets = bytearray(head)
    for part in parts:
        # bytes.fromhex alone would also take white space, or nothing at all.
        if len(part) >= 2 and _HEX_ANY.issuperset(part[:2]):
            octets += bytes.fromhex(part[:2].decode()) + part[2:]
        else:
            octets += b"%" + part
    return octets.decode("utf-8", "replace")


def parse_baggage(text: str) -> tuple[tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...], int]:
    """Return the members of a ``baggage`` value as ``(key, value, properties)``, and how many were left out.

    A member that breaks the grammar is left out alone; so is all past 64 members or 8192 bytes, where
    the count goes no further than 16384.
    https://www.w3.org/TR/baggage/#header-content
    """
    dropped = 0
    if len(text) > MAX_LABEL_BYTES:
        # Whole members only: cut at the last comma that the limit allows.
        cut = text.rfind(",", 0, MAX_LABEL_BYTES + 1)
        rest = text[cut + 1 : 2 * MAX_LABEL_BYTES].split(",")
        dropped = sum([piece.strip(" \t") != "" for piece in rest])
        text = text[: max(cut, 0)]
    members = []
    for piece in text.split(","):
        piece = piece.strip(" \t")
        if not piece:
            continue
        member = _parse_member(piece)
        if member is None or len(members) == MAX_LABELS:
            dropped += 1
        else:
            members.append(member)
    return tuple(members), dropped


def _parse_member(piece: str) -> tuple[str, str, tuple[tuple[str, str | None], ...]] | None:
    first, *rest = piece.split(";")
    key, equals, value = first.partition("=")
    key, value = key.strip(" \t"), value.strip(" \t")
    if not equals or not is_label_key(key) or not _BAGGAGE_VALUE.issuperset(value):
        return None
    properties: list[tuple[str, str | None]] = []
    for text in rest:
        name, equals, setting = text.partition("=")
        name, setting = name.strip(" \t"), setting.strip(" \t")
        if not is_label_key(name) or not _BAGGAGE_VALUE.issuperset(setting):
            return None
        properties.append((name, unescape_label(setting) if equals else None))
    return key, unescape_label(value), tuple(properties)


def format_baggage(members: Iterable[tuple[str, str, tuple[tuple[str, str | None], ...]]]) -> tuple[str, int]:
    """Return the ``baggage`` value of *members*, and how many of them it holds.

    Members are left out from the end, whole, past 64 or 8192 bytes. Where they do not fit otherwise, no
    more is percent-encoded than must be.
    """
    members = tuple(members)
    text, kept = _format_baggage(members, _ESCAPES)
    return (text, kept) if kept == min(len(members), MAX_LABELS) else _format_baggage(members, _FEW_ESCAPES)


def _format_baggage(
    members: tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...], escapes: tuple[str, ...]
) -> tuple[str, int]:
    pieces: list[str] = []
    size = -1  # the first member has no comma before it
    for key, value, properties in members[:MAX_LABELS]:
        piece = _pair(key, value, escapes)
        for name, setting in properties:
            piece += ";" + _pair(name, setting, escapes)
        size += 1 + len(piece)
        if size > MAX_LABEL_BYTES:
            break
        pieces.append(piece)
    return ",".join(pieces), len(pieces)


def _pair(name: str, value: str | None, escapes: tuple[str, ...]) -> str:
    if not name.isascii():
        raise ValueError("keys must be ASCII")
    return name if value is None else f"{name}={_escape(value, escapes)}"


# ---------------------------------------------------------------- carriers


def collect(carrier: Any, names: tuple[str, ...]) -> list[str | list[str] | None]:
    """Return what *carrier* holds under each of *names*: None, a text, or a list of texts where it came several times.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or
    bytes, and a value may be a list of them. Names are lowercase ASCII and found in any case, in a
    mapping also as WSGI spells them (``HTTP_TRACEPARENT``). Whatever is shaped otherwise is passed over.
    """
    found: list[str | list[str] | None] = [None] * len(names)
    is_mapping = hasattr(carrier, "items")
    for pair in carrier.items() if is_mapping else carrier:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            continue
        name, value = pair
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        elif not isinstance(name, str):
            continue
        elif is_mapping and name.startswith("HTTP_"):
            name = name[5:].replace("_", "-")
        if not name.isascii():  # "K" (Kelvin) lowers to "k"
            continue
        name = name.lower()
        if name in names:
            at = names.index(name)
            for text in value if isinstance(value, tuple | list) else (value,):
                if isinstance(text, bytes):
                    text = text.decode("latin-1")
                if isinstance(text, str):
                    _append(found, at, str.__str__(text))  # a subclass may have methods of its own
    return found


def _append(found: list[str | list[str] | None], at: int, text: str) -> None:
    earlier = found[at]
    if earlier is None:
        found[at] = text
    elif isinstance(earlier, list):
        earlier.append(text)
    else:
        found[at] = [earlier, text]


def put(carrier: Any, name: str, text: str | None) -> None:
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None takes it out.

    What stood there under *name* in any case goes: two ``traceparent`` headers are none. A list of
    bytes pairs gets bytes.
    """
    if isinstance(carrier, list):
        _put_pair(carrier, name, text)
    elif isinstance(carrier, dict):
        for key in [key for key in carrier if key != name and _is_named(key, name)]:
            del carrier[key]
        if text is not None:
            carrier[name] = text
        else:
            carrier.pop(name, None)
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        for key in [key for key in carrier.keys() if _is_named(key, name)]:  # noqa: SIM118 - not all iterate
            try:
                del carrier[key]
            except KeyError:
                pass
        if text is not None:
            carrier[name] = text
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")


def _put_pair(pairs: list[Any], name: str, text: str | None) -> None:
    for pair in pairs:
        if not isinstance(pair, tuple | list) or not pair:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
    as_bytes = bool(pairs) and isinstance(pairs[0][0], bytes)
    pairs[:] = [pair for pair in pairs if not _is_named(pair[0], name)]
    if text is not None:
        pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))


def _is_named(key: object, name: str) -> bool:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return isinstance(key, str) and key.isascii() and key.lower() == name


def read_tracecontext(carrier: Any) -> SpanContext | None:
    """Return the context of ``traceparent`` and, where that is well-formed, ``tracestate``; None if there is none.

    Raises ``FormatError`` where ``traceparent`` is bad or came twice.
    """
    parent, state = collect(carrier, ("traceparent", "tracestate"))
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


def write_tracecontext(context: SpanContext, carrier: Any) -> None:
    """Set ``traceparent``, and ``tracestate`` where there is one; an invalid context writes neither."""
    text = format_traceparent(context)
    if context.is_valid:
        put(carrier, "traceparent", text)
        put(carrier, "tracestate", context._state or None)


# ---------------------------------------------------------------- ids and clock

_pool: list[int] = []
_ids: Ids | None = None
_clock: Callable[[], int] | None = None
_generation = 0


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


def set_ids(source: Ids | None) -> None:
    """Take ids from *source* (``trace_id()`` and ``span_id()`` return ints) instead of the operating system; None undoes it."""
    global _ids
    _ids = source


def set_clock(clock: Callable[[], int] | None) -> None:
    """Take the time, Unix nanoseconds, from *clock* instead of the operating system; None undoes it."""
    global _clock
    _clock = clock


def after_fork() -> None:
    """Forget, in the child of a fork, all that belongs to the parent: drawn random words, open spans, buffered spans."""
    global _generation
    _generation += 1
    _pool.clear()
    buffer.reset()


_ANCHOR_DRIFT_NS = 5_000_000
_anchor = time.time_ns() - time.monotonic_ns()


def check_clock() -> None:
    """Set the wall clock's distance from the monotonic clock anew where they drifted apart by more than 5 ms.

    Each span keeps the distance it started with: its duration is monotonic.
    """
    global _anchor
    anchor = time.time_ns() - time.monotonic_ns()
    if abs(anchor - _anchor) > _ANCHOR_DRIFT_NS:
        _anchor = anchor


# ---------------------------------------------------------------- the value that travels

_no_labels: Any = None
_labels_type: Any = None
_state_type: Any = None
_make_state: Any = None
_restore: Any = None


def set_values(
    no_labels: Labels, state_type: type[TraceState], make_state: Callable[[str], TraceState], restore: Callable[..., Any]
) -> None:
    """Make known what is written above this module: the types of labels and tracestate, and what unpickles a context."""
    global _labels_type, _no_labels, _state_type, _make_state, _restore
    _labels_type, _no_labels = type(no_labels), no_labels
    _state_type, _make_state = state_type, make_state
    _restore = restore


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

    __slots__ = ("_flags", "_is_remote", "_labels", "_span_id", "_state", "_trace_id")

    _trace_id: int
    _span_id: int
    _flags: int
    _state: str
    _labels: Labels | None
    _is_remote: bool

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
        wire = flags | _DEFERRED if deferred else flags
        text = "" if state is None else str(state)
        return _make_context(trace, span, wire, text, labels or None, bool(is_remote))

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
        return bool(self._flags & _SAMPLED)

    @property
    def deferred(self) -> bool:
        """Whether nobody has decided yet if the trace is sampled."""
        return bool(self._flags & _DEFERRED)

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

    def replace(
        self,
        *,
        state: TraceState | None = None,
        labels: Labels | None = None,
        is_remote: bool | None = None,
    ) -> SpanContext:
        """Return a copy with another tracestate, other labels, or another ``is_remote``; None keeps what is there."""
        if state is not None and not isinstance(state, _state_type):
            raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
        if labels is not None and not isinstance(labels, _labels_type):
            raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
        return _make_context(
            self._trace_id,
            self._span_id,
            self._flags,
            self._state if state is None else str(state),
            self._labels if labels is None else (labels or None),
            self._is_remote if is_remote is None else bool(is_remote),
        )

    def _key(self) -> tuple[Any, ...]:
        return self._trace_id, self._span_id, self._flags, self._labels, self._is_remote

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanContext):
            return NotImplemented
        return self._key() == other._key() and (self._state == other._state or self.state == other.state)

    def __hash__(self) -> int:
        return hash((self._trace_id, self._span_id))

    def __reduce__(self) -> Any:
        # By a function's name, not the class's, so that either twin reads what the other wrote.
        return _restore, (self.id, self._flags, self._state, str(self.labels), self._is_remote)

    def __repr__(self) -> str:
        remote = ", remote" if self._is_remote else ""
        return f"<SpanContext {self.trace_id}/{self.span_id} flags={self._flags & 0xFF:02x}{remote}>"


def _make_context(
    trace_id: int, span_id: int, flags: int, state: str, labels: Labels | None, is_remote: bool
) -> SpanContext:
    context = object.__new__(SpanContext)
    context._trace_id = trace_id
    context._span_id = span_id
    context._flags = flags
    context._state = state
    context._labels = labels
    context._is_remote = is_remote
    return context


def make_context(id: bytes, flags: int, state: str, labels: Labels | None, is_remote: bool) -> SpanContext:
    """Return the context with these 24 bytes of ids and these flags, ``deferred`` (0x100) among them.

    Nothing but the length is checked: *state* is a well-formed ``tracestate`` or empty.
    """
    if len(id) != 24:
        raise ValueError("id must be 24 bytes")
    trace_id, span_id = int.from_bytes(id[:16]), int.from_bytes(id[16:])
    return _make_context(trace_id, span_id, flags & 0x1FF, state, labels, is_remote)


# ---------------------------------------------------------------- scopes

_current: ContextVar[Scope | None] = ContextVar("tracekit_scope", default=None)

_SPAN, _CONTEXT, _LABELS = 0, 1, 2


@final
class Scope:
    """One opening of "this is current" by a span, a remote context or labels; a context manager that opens once.

    Closing works from any task, thread or Context, in any order, and never raises. An open scope
    keeps its span alive; a closed one keeps ids only, however long a task that inherited it lives.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_context",
        "_generation",
        "_kind",
        "_labels",
        "_origin",
        "_owner",
        "_prev",
        "_span",
        "_stand_in",
    )

    def __init__(self, kind: int, span: Span | None, context: SpanContext | None, labels: Labels | None) -> None:
        self._kind = kind
        self._span: Span | weakref.ref[Span] | None = span
        self._context = context
        self._labels = labels
        self._prev: Scope | None = None
        # The Token tells the opener's Context from every other, copies included: reset() refuses elsewhere.
        self._owner: Token[Scope | None] | None = None
        self._closed = False
        # What took this scope's place when one under it was closed, and whose place this one took.
        self._stand_in: Scope | None = None
        self._origin: weakref.ref[Scope] | None = None
        self._generation = _generation

    def __enter__(self) -> Span | SpanContext | Labels | None:
        if self._owner is not None or self._closed:
            raise RuntimeError("a scope opens once: call use_span(), use_context() or use_labels() again")
        self._open()
        if self._kind == _SPAN:
            return self._held_span()
        return self._context if self._kind == _CONTEXT else self._labels

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> None:
        prev = _innermost()
        self._prev = prev
        if self._kind == _LABELS:
            base = None if prev is None else prev._effective()
            if base is not None and base._labels is not None:
                self._labels = base._labels.merge(self._labels)  # type: ignore[arg-type]
            self._context = _with_labels(base, self._labels)
        self._owner = _current.set(self)

    def _close(self) -> None:
        if self._stand_in is not None:
            self._stand_in._close()  # one step: it has none of its own
            if _current.get() is self:  # inherited before it was replaced
                _current.set(_live(self._prev))
            return
        if self._closed:
            return
        self._closed = True
        held = _current.get()
        if held is self:
            is_here = _is_here(self)
            _current.set(_live(self._prev))
            _innermost()
            if is_here:
                # An ordinary close. Nobody pops this scope again, so a chain of tasks that each start the
                # next one does not grow; labels still need the span or remote context that they stood on.
                self._owner = None
                anchor = self._prev if self._kind == _LABELS else None
                while anchor is not None and anchor._kind == _LABELS:
                    anchor = anchor._prev
                self._prev = anchor
        elif held is not None and _is_here(self):
            _rebuild(held, self)
        elif held is not None and held._closed and held._kind == _SPAN and held._held_span() is self._span:
            _current.set(_live(held._prev))  # inherited before this scope took its place
        self._release()

    def _release(self) -> None:
        span = self._span
        if isinstance(span, Span):
            # Whoever inherited this scope may still ask for the span, but no longer keeps it alive.
            self._span = weakref.ref(span)

    def _effective(self) -> SpanContext | None:
        """Return the context that is current inside this scope."""
        context = self._context
        if context is not None and self._generation != _generation and not context._is_remote:
            return context.replace(is_remote=True)  # opened before a fork, by the parent
        return context

    def _held_span(self) -> Span | None:
        if self._generation != _generation:
            return None
        if self._kind == _LABELS:
            prev = _live(self._prev)
            return None if prev is None else prev._held_span()
        span = self._span
        return span() if isinstance(span, weakref.ref) else span


def _with_labels(base: SpanContext | None, labels: Labels | None) -> SpanContext:
    if base is None:
        return _make_context(0, 0, _DEFERRED, "", labels or None, False)
    return _make_context(base._trace_id, base._span_id, base._flags, base._state, labels or None, base._is_remote)


def _is_here(scope: Scope) -> bool:
    """Tell whether *scope* was opened in the Context that runs now."""
    if scope._owner is None:
        return False
    held = _current.get()
    try:
        _current.reset(scope._owner)
    except (ValueError, RuntimeError):
        return False
    scope._owner = _current.set(held)  # a Token works once
    return True


def _live(scope: Scope | None) -> Scope | None:
    """Return the innermost of *scope* and those under it that is still open, or that was inherited."""
    while scope is not None and scope._closed and _is_here(scope):
        scope = scope._prev
    return scope


def _rebuild(top: Scope, closed: Scope) -> bool:
    """Put copies of the scopes from *top* down to *closed*, which go on without it, in the place of the originals.

    Tasks that inherited an original before keep it as it was; those spawned from now on inherit the copy.
    """
    above: list[Scope] = []
    scope: Scope | None = top
    while scope is not closed:
        if scope is None or not _is_here(scope):
            return False  # not in this chain: a generator's, whose body is not running
        if not scope._closed:
            above.append(scope)
        scope = scope._prev
    prev = _live(closed._prev)
    for original in reversed(above):
        copy = Scope(original._kind, None, original._context, original._labels)
        copy._span, copy._generation = original._span, original._generation
        copy._prev = prev
        if copy._kind == _LABELS:
            copy._context = _with_labels(None if prev is None else prev._effective(), copy._labels)
        copy._owner = _current.set(copy)
        span = original._span
        if isinstance(span, Span):
            span._replace_scope(original, copy)
        root = original if original._origin is None else original._origin()
        if root is not None:
            root._stand_in, copy._origin = copy, weakref.ref(root)
        original._closed, original._owner = True, None
        original._release()
        prev = copy
    _current.set(prev)
    return True


def _innermost() -> Scope | None:
    """Return the scope that says what is current here."""
    held = _current.get()
    return held if held is None or (not held._closed and held._kind != _LABELS) else _settle(held)


def _settle(held: Scope) -> Scope | None:
    """Put right what was closed from elsewhere, before a task spawned from here inherits it; return the innermost."""
    scope = _live(held)
    if scope is not held:
        _current.set(scope)
    while scope is not None and scope._kind == _LABELS:
        below = scope._prev
        while below is not None and below._kind == _LABELS and not below._closed:
            below = below._prev
        if below is None or not below._closed or not _is_here(below) or not _rebuild(scope, below):
            break
        scope = _current.get()
    return scope


def use_scope(kind: int, span: Span | None, context: SpanContext | None, labels: Labels | None) -> Scope:
    """Return a scope, not yet open, for a span (kind 0), a context or nothing (1), or labels (2)."""
    return Scope(kind, span, context, labels)


def current_span() -> Span | None:
    """Return the span that a new span would have as its parent here, or None where that is none of this process."""
    scope = _innermost()
    return None if scope is None else scope._held_span()


def current_context() -> SpanContext | None:
    """Return what a new span would continue here: ids and labels, local or remote; None where there is neither."""
    scope = _innermost()
    return None if scope is None else scope._effective()


def swap_scope(scope: Scope | None) -> Scope | None:
    """Make *scope*, open or None, what the running Context holds, and return what it held."""
    held = _current.get()
    _current.set(scope)
    return held


def adopt_scopes(scope: Scope | None, until: Scope | None) -> None:
    """Make the running Context the owner of *scope* and of those under it, down to *until*.

    For a generator, whose body keeps its scopes while its steps move from one task or thread to another.
    """
    while scope is not None and scope is not until:
        if scope._owner is not None:
            scope._owner = _current.set(_current.get())
        scope = scope._prev


# ---------------------------------------------------------------- spans


@final
class Root:
    """The type of ``ROOT``: as ``parent=``, start a new trace that inherits nothing, labels included."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "tracekit.ROOT"


ROOT: Final = Root()

_UNSET, _OK, _ERROR, _CANCELLED = 0, 1, 2, 3


@final
class Span:
    """A unit of work being recorded. ``with`` makes it current, and ends it; without ``with``, call ``end()``.

    Every method may be called from any task, thread or callback, before and after the end, and none
    raises for what a value holds; only a wrong type of a name or key is a ``TypeError``. What is written
    after the end, or to a span that is not recorded, is ignored. Bounded by ``Limits``: what is left
    out is counted in ``dropped_attributes``, ``dropped_events`` and ``dropped_links``, what is
    shortened in ``truncated_values``.
    """

    __slots__ = (
        "__weakref__",
        "_anchor",
        "_attributes",
        "_description",
        "_end_ns",
        "_ended",
        "_events",
        "_generation",
        "_kind",
        "_links",
        "_name",
        "_outer",
        "_owns_context",
        "_recorded",
        "_resource",
        "_scope",
        "_start_ns",
        "_status",
        "_tracer",
        "context",
        "dropped_attributes",
        "dropped_events",
        "dropped_links",
        "parent",
        "truncated_values",
    )

    context: SpanContext
    parent: SpanContext | None
    dropped_attributes: int
    dropped_events: int
    dropped_links: int
    truncated_values: int

    def __init__(self) -> None:
        raise TypeError("spans are made by tracekit.span()")

    @property
    def name(self) -> str:
        """What the work is called; a low-cardinality text."""
        return self._name

    @property
    def kind(self) -> Literal["internal", "server", "client", "producer", "consumer"]:
        """Which side of a hand-off between processes the span is, if any."""
        return self._kind

    @property
    def start_ns(self) -> int:
        """When the span started, Unix time in nanoseconds; 0 where it is not recorded."""
        return self._start_ns

    @property
    def end_ns(self) -> int | None:
        """When the span ended, Unix time in nanoseconds; None while it is open."""
        return self._end_ns if self._ended else None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What was recorded about the work; a read-only view."""
        return NO_ATTRIBUTES if self._attributes is None else MappingProxyType(self._attributes)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened during the work, in order."""
        return () if self._events is None else tuple([_event(*event) for event in self._events])

    @property
    def links(self) -> tuple[Link, ...]:
        """Which other spans caused the work."""
        return () if self._links is None else tuple(self._links)

    @property
    def status(self) -> Status:
        """How the work went."""
        return Status(STATUS_CODES[self._status], self._description)

    @property
    def resource(self) -> Mapping[str, Any]:
        """What all spans of this process share: service name and so on."""
        return self._resource

    @property
    def ended(self) -> bool:
        """Whether the span has ended."""
        return self._ended

    @property
    def is_recording(self) -> bool:
        """Whether what is written to the span is kept: it is sampled, somebody exports it, and it has not ended."""
        return self._recorded and not self._ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Record *value* under *key*, in place of an earlier one. See ``_attributes`` for what a value may be."""
        if not isinstance(key, str):
            raise TypeError(f"key must be str, not {type(key).__name__}")
        if self.is_recording:
            self._put(str.__str__(key), value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Record every item of *attributes*."""
        items = _items(attributes)
        if self.is_recording:
            for key, value in items:
                self._put(key, value)

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, *, time_ns: int | None = None
    ) -> None:
        """Record that something happened, now or at *time_ns* (Unix time)."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        items = () if attributes is None else _items(attributes)
        if time_ns is not None and not isinstance(time_ns, int):
            raise TypeError(f"time_ns must be int, not {type(time_ns).__name__}")
        if not self.is_recording:
            return
        if self._events is None:
            self._events = []
        limits = self._tracer.limits
        if len(self._events) >= limits.events:
            self.dropped_events += 1
            return
        self._events.append((name, self._now() if time_ns is None else time_ns, self._clean(items)))

    def add_link(self, target: SpanContext | Span | Link, attributes: Mapping[str, Any] | None = None) -> None:
        """Record that *target* caused this work without being its parent."""
        context, own = _link(target)
        items = _items(attributes) if attributes is not None else own
        if not self.is_recording:
            return
        if self._links is None:
            self._links = []
        if len(self._links) >= self._tracer.limits.links:
            self.dropped_links += 1
            return
        cleaned = self._clean(items)
        self._links.append(Link(context, NO_ATTRIBUTES if cleaned is None else MappingProxyType(cleaned)))

    def set_status(self, code: Literal["unset", "ok", "error", "cancelled"], description: str = "") -> None:
        """Say how the work went. "ok" is final, "unset" changes nothing, as in OpenTelemetry."""
        number = _index(STATUS_CODES, code, "code")
        if description is None:
            description = ""
        elif not isinstance(description, str):
            raise TypeError(f"description must be str, not {type(description).__name__}")
        if self.is_recording and number != _UNSET and self._status != _OK:
            limit = self._tracer.limits.value_length
            self._status = number
            self._description = str.__str__(description)[:limit]

    def record_exception(self, exception: BaseException, attributes: Mapping[str, Any] | None = None) -> None:
        """Record *exception* as an event with type, message and stack; the status stays as it is."""
        if not isinstance(exception, BaseException):
            raise TypeError(f"exception must be an exception, not {type(exception).__name__}")
        items = () if attributes is None else _items(attributes)
        if self.is_recording:
            self.add_event("exception", {**exception_attributes(exception), **dict(items)})

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if self.is_recording:
            self._name = str.__str__(name)

    def end(self, end_ns: int | None = None) -> None:
        """End the span, now or at *end_ns* (Unix time), and hand it to the exporter. Only the first call counts."""
        if end_ns is not None and not isinstance(end_ns, int):
            raise TypeError(f"end_ns must be int, not {type(end_ns).__name__}")
        if self._ended:
            return
        self._ended = True
        if self._recorded:
            end = self._now() if end_ns is None else end_ns
            self._end_ns = end if end > self._start_ns else self._start_ns
        if self._generation == _generation:  # else the parent process, which opened it, exports it
            buffer.add(self)

    def __enter__(self) -> Self:
        if not self._owns_context:
            # An unsampled child shares its parent's context; what is current stays the same.
            if current_context() is self.context:
                return self
        scope = Scope(_SPAN, self, self.context, None)
        if self._scope is not None:  # entered again while open: each opening is closed by its own exit
            self._outer.append(self._scope)
        self._scope = scope
        scope._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope = self._scope
        if scope is not None:
            self._scope = self._outer.pop() if self._outer else None
            scope._close()
        if exc is not None and self.is_recording:
            try:
                close_with(self, exc)
            except Exception:  # never raise into the program; a status of "error" needs no more than this
                self.set_status("error", type(exc).__name__)
        if not self._ended:
            self.end()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):
            if self.is_recording:
                self.set_status("cancelled", "abandoned: nobody ended the span")
            self.end()

    def __reduce__(self) -> Any:
        raise TypeError("a span stays in its process: pickle span.context instead")

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<Span {clip_name(self._name)} {self.context.trace_id}/{self.context.span_id} {state}>"

    def _replace_scope(self, original: Scope, copy: Scope) -> None:
        if self._scope is original:
            self._scope = copy
        elif original in self._outer:
            self._outer[self._outer.index(original)] = copy

    def _now(self) -> int:
        return time.monotonic_ns() + self._anchor if _clock is None else _clock()

    def _put(self, key: str, value: Any) -> None:
        if self._attributes is None:
            self._attributes = {}
        limits = self._tracer.limits
        if len(self._attributes) >= limits.attributes and key not in self._attributes:
            self.dropped_attributes += 1
            return
        plain, cuts = clean(value, limits.value_length)
        self.truncated_values += cuts
        if plain is MISSING:
            self.dropped_attributes += 1
        else:
            self._attributes[key] = plain

    def _clean(self, items: Iterable[tuple[str, Any]]) -> dict[str, Any] | None:
        limits = self._tracer.limits
        cleaned: dict[str, Any] = {}
        for key, value in items:
            plain, cuts = clean(value, limits.value_length)
            self.truncated_values += cuts
            if plain is MISSING or len(cleaned) >= limits.attributes:
                self.dropped_attributes += 1
            else:
                cleaned[key] = plain
        return cleaned or None


def clip_name(name: str) -> str:
    """Return the ``repr`` of *name* in ASCII, cut to 64 characters."""
    return ascii(name[:64])


def _event(name: str, time_ns: int, attributes: dict[str, Any] | None) -> Event:
    return Event(name, time_ns, NO_ATTRIBUTES if attributes is None else MappingProxyType(attributes))


def _items(attributes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if not isinstance(attributes, Mapping):
        raise TypeError(f"attributes must be a mapping, not {type(attributes).__name__}")
    try:
        items = list(attributes.items())
    except Exception:  # a mapping of the program's own costs its attributes, not the program
        return []
    for key, _ in items:
        if not isinstance(key, str):
            raise TypeError(f"attributes must have str keys, not {type(key).__name__}")
    return [(str.__str__(key), value) for key, value in items]


def _link(target: object) -> tuple[SpanContext, list[tuple[str, Any]]]:
    items: list[tuple[str, Any]] = []
    if isinstance(target, Link):
        target, attributes = target
        items = _items(attributes)
    if isinstance(target, Span):
        target = target.context
    if not isinstance(target, SpanContext):
        raise TypeError(f"links must hold a SpanContext, a Span or a Link, not {type(target).__name__}")
    return target, items


def _index(names: tuple[str, ...], name: object, parameter: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"{parameter} must be str, not {type(name).__name__}")
    if name not in names:
        raise ValueError(f"{parameter} must be one of {', '.join(names)}: {clip_name(name)}")
    return names.index(name)


# ---------------------------------------------------------------- what configure() decided


@final
class Tracer:
    """What ``configure()`` decided, as ``span()`` reads it.

    ``threshold`` is the 56-bit rejection threshold of consistent probability sampling: a new trace is
    kept where the random 56 bits of its id are not below it; ``state`` is what a kept root then carries
    (``ot=th:…``) or empty. ``sampler``, where there is one, is asked instead.
    """

    __slots__ = ("limits", "recording", "resource", "sampler", "state", "threshold")

    def __init__(
        self,
        *,
        recording: bool = False,
        threshold: int = 0,
        state: str = "",
        sampler: RootSampler | None = None,
        limits: Limits = Limits(),
        resource: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> None:
        self.recording = recording
        self.threshold = threshold
        self.state = state
        self.sampler = sampler
        self.limits = limits
        self.resource = resource


_tracer = Tracer()


def set_tracer(tracer: Tracer) -> None:
    """Make *tracer* the one that new spans are made by."""
    global _tracer
    _tracer = tracer


def span(
    name: str,
    *,
    kind: Literal["internal", "server", "client", "producer", "consumer"] = "internal",
    attributes: Mapping[str, Any] | None = None,
    links: Iterable[SpanContext | Span | Link] = (),
    parent: Span | SpanContext | Root | None = None,
    start_ns: int | None = None,
) -> Span:
    """Start a span, child of what is current here; ``with`` makes it current and ends it.

    *parent* takes its place in a trace from a ``Span`` or a ``SpanContext`` instead, or from nowhere
    (``tracekit.ROOT``: a new trace, no labels). *start_ns* is Unix time, for work that began earlier.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be str, not {type(name).__name__}")
    _index(KINDS, kind, "kind")
    items = () if attributes is None else _items(attributes)
    if not isinstance(links, Iterable):
        raise TypeError(f"links must be an iterable, not {type(links).__name__}")
    if start_ns is not None and not isinstance(start_ns, int):
        raise TypeError(f"start_ns must be int, not {type(start_ns).__name__}")
    targets = tuple(links)
    for target in targets:
        _link(target)
    is_local = False  # whether the parent is a span of this process, sharing the sampling decision
    base: SpanContext | None
    if parent is None:
        scope = _innermost()
        base = None if scope is None else scope._effective()
        is_local = scope is not None and scope._kind == _SPAN
    elif isinstance(parent, Span):
        base, is_local = parent.context, True
        if parent._generation != _generation:
            base, is_local = base.replace(is_remote=True), False
    elif isinstance(parent, SpanContext):
        base = parent
    elif isinstance(parent, Root):
        base = None
    else:
        raise TypeError(f"parent must be a Span, a SpanContext or tracekit.ROOT, not {type(parent).__name__}")

    tracer = _tracer
    self = object.__new__(Span)
    self.parent = base if base is not None and base.is_valid else None
    self._owns_context = True
    if base is None or not base.is_valid:
        self.context = _root(tracer, base, name, kind, attributes)
    elif base._flags & _DEFERRED:
        keep, state = _sample(tracer, base._trace_id, name, kind, attributes)
        flags = (base._flags & _RANDOM) | (_SAMPLED if keep else 0)
        self.context = _make_context(
            base._trace_id, _new_span_id(), flags, _put_first(state, base._state), base._labels, False
        )
    elif is_local and tracer.recording and not base._flags & _SAMPLED:
        # Not sampled, and inside a span that is not: nobody will ever see this one, so it has no identity.
        self.context = base
        self._owns_context = False
    else:
        self.context = _make_context(
            base._trace_id, _new_span_id(), base._flags & (_SAMPLED | _RANDOM), base._state, base._labels, False
        )
    self._tracer = tracer
    self._generation = _generation
    self._name = str.__str__(name)
    self._kind = kind
    self._attributes = self._events = self._links = self._scope = None
    self._outer = []
    self._resource = tracer.resource
    self._status, self._description = _UNSET, ""
    self._ended = False
    self._recorded = tracer.recording and self.context.sampled
    self.dropped_attributes = self.dropped_events = self.dropped_links = self.truncated_values = 0
    self._start_ns = self._end_ns = 0
    buffer.started += 1
    if self._recorded:
        self._anchor = _anchor
        self._start_ns = self._now() if start_ns is None else start_ns
        for key, value in items:
            self._put(key, value)
    for target in targets:
        self.add_link(target)
    return self


def _new_span_id() -> int:
    return _draw() if _ids is None else _ids.span_id()


def _root(
    tracer: Tracer, base: SpanContext | None, name: str, kind: str, attributes: Mapping[str, Any] | None
) -> SpanContext:
    """Return the context of a new trace's first span, which keeps what *base* has: labels, a decision, a trace id."""
    flags = _RANDOM
    trace_id = 0
    if base is not None and base._trace_id:
        trace_id, flags = base._trace_id, base._flags & _RANDOM
    elif _ids is None:
        trace_id = _draw() << 64 | _draw()
    else:
        trace_id = _ids.trace_id()
    state = "" if base is None else base._state
    if base is not None and not base._flags & _DEFERRED:
        flags |= base._flags & _SAMPLED
    else:
        keep, entry = _sample(tracer, trace_id, name, kind, attributes)
        if keep:
            flags |= _SAMPLED
            state = _put_first(entry, state)
    return _make_context(trace_id, _new_span_id(), flags, state, None if base is None else base._labels, False)


def _put_first(entry: str, state: str) -> str:
    return _make_state(state).put_first(entry) if entry and state else entry or state


def _sample(
    tracer: Tracer, trace_id: int, name: str, kind: str, attributes: Mapping[str, Any] | None
) -> tuple[bool, str]:
    if not tracer.recording:
        return False, ""
    if tracer.sampler is not None:
        try:
            keep, state = tracer.sampler.sample(f"{trace_id:032x}", name, kind, attributes or NO_ATTRIBUTES)
            return (True, state if state and count_tracestate(state) > 0 else "") if keep else (False, "")
        except Exception:  # a sampler of the user's own must not break the user's request
            return False, ""
    return (True, tracer.state) if trace_id & _MASK56 >= tracer.threshold else (False, "")


# ---------------------------------------------------------------- finished spans


@final
class Buffer:
    """Where finished spans wait for the pipeline's thread: bounded, and counted from start to drain.

    ``wake`` is called, without arguments, when the first span arrives and when it is half full.
    """

    __slots__ = ("_spans", "capacity", "dropped", "ended", "is_open", "started", "unsampled", "wake")

    def __init__(self) -> None:
        self.capacity = 16384
        self.is_open = False
        self.wake: Callable[[], object] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every span and every count."""
        self._spans: deque[Span] = deque()
        self.started = self.ended = self.dropped = self.unsampled = 0

    def add(self, span: Span) -> None:
        """Count *span*, which has ended, and keep it if it was recorded and there is room."""
        self.ended += 1
        if not span._recorded:
            self.unsampled += 1
            return
        spans = self._spans
        count = len(spans)
        if count >= self.capacity or not self.is_open:
            self.dropped += 1
            return
        spans.append(span)
        if (count == 0 or count == self.capacity >> 1) and self.wake is not None:
            self.wake()

    def drain(self) -> list[Span]:
        """Take out every span."""
        # Not by swapping the deque: a thread may be between reading it and appending to it.
        return [self._spans.popleft() for _ in range(len(self._spans))]

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return started, ended, dropped, unsampled and waiting, of one moment."""
        return self.started, self.ended, self.dropped, self.unsampled, len(self._spans)

    def __len__(self) -> int:
        return len(self._spans)


buffer: Final = Buffer()
