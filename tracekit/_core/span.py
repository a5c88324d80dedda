"""The plain twin: what runs where ``_speedups`` was not built, and the type source of both.

The same names in the same order with the same docstrings as ``_speedups.pyx``; the tests feed
both the same input. How it works, from the bottom up:

- ``codecs``: hex, ``tracestate`` and ``baggage`` text, and the carriers that hold them;
- ``context``: ids, the clock, and ``SpanContext``, the immutable value that travels;
- ``scopes``: ``Scope``, one opening of "this is current". The one ContextVar points to the innermost;
- here: ``Span`` and ``span()``, a unit of work; ``Tracer``, which holds what ``configure()`` decided; and
  ``Buffer``, where finished spans wait for the pipeline's thread.

The compiled twin is in files of the same names, ``_speedups_codecs.pxi`` and so on.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, final

from .attributes import MISSING, clean
from .carriers import Sieve, put
from .codecs import (
    MAX_LABEL_BYTES,
    MAX_LABELS,
    MAX_STATE_CHARS,
    MAX_STATE_MEMBERS,
    check_baggage,
    count_tracestate,
    escape_label,
    format_baggage,
    is_label_key,
    is_state_key,
    is_state_value,
    join_baggage,
    make_members,
    parse_baggage,
    parse_hex,
    unescape_label,
    view_members,
)
from .context import (
    DEFERRED,
    RANDOM,
    SAMPLED,
    SpanContext,
    anchor,
    check_clock,
    decided_state,
    decode_binary,
    decode_tags,
    encode_binary,
    encode_tags,
    forget_parent,
    format_b3,
    format_traceparent,
    generation,
    ids_of,
    make_context,
    make_from_parts,
    make_remote,
    new_span_id,
    new_trace_id,
    now,
    parse_b3,
    parse_decimal,
    parse_traceparent,
    read_b3,
    read_tracecontext,
    read_w3c,
    said_randomness,
    set_clock,
    set_ids,
    set_values,
    write_b3,
    write_tracecontext,
    write_w3c,
)
from .errors import FormatError
from .otlp import encode_request
from .outcome import close_with, exception_attributes
from .records import DEFAULT_LIMITS, KINDS, NO_ATTRIBUTES, STATUS_CODES, Event, Limits, Link, Status
from .scopes import (
    SPAN,
    Body,
    Scope,
    current_context,
    current_scope,
    current_span,
    linked_context,
    swap_scope,
    use_scope,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol, Self

    class RootSampler(Protocol):
        def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]: ...

    class Observer(Protocol):
        def started(self, span: Span, parent: Span | SpanContext | Root | None) -> None: ...
        def ended(self, span: Span) -> None: ...
        def late(self, span: Span, method: str) -> None: ...


__all__ = [
    "IMPLEMENTATION",
    "MAX_LABELS",
    "MAX_LABEL_BYTES",
    "MAX_STATE_CHARS",
    "MAX_STATE_MEMBERS",
    "ROOT",
    "Body",
    "Buffer",
    "Root",
    "Scope",
    "Sieve",
    "Span",
    "SpanContext",
    "Tracer",
    "after_fork",
    "buffer",
    "check_baggage",
    "check_clock",
    "count_tracestate",
    "current_context",
    "current_scope",
    "current_span",
    "decode_binary",
    "decode_tags",
    "encode_binary",
    "encode_spans",
    "encode_tags",
    "escape_label",
    "extract",
    "format_b3",
    "format_baggage",
    "format_traceparent",
    "ids_of",
    "inject",
    "is_label_key",
    "is_state_key",
    "is_state_value",
    "join_baggage",
    "linked_context",
    "make_context",
    "make_members",
    "make_remote",
    "parse_b3",
    "parse_baggage",
    "parse_decimal",
    "parse_hex",
    "parse_traceparent",
    "put",
    "read_b3",
    "read_tracecontext",
    "read_w3c",
    "restore_span",
    "retrace",
    "set_clock",
    "set_formats",
    "set_ids",
    "set_observer",
    "set_tracer",
    "set_values",
    "span",
    "swap_scope",
    "unescape_label",
    "use_scope",
    "view_members",
    "write_b3",
    "write_tracecontext",
    "write_w3c",
]

IMPLEMENTATION: Final = "plain"

_MASK56: Final = (1 << 56) - 1

C = TypeVar("C")


@final
class Root:
    """The type of ``ROOT``: as ``parent=``, start a new trace that inherits nothing, labels included."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "tracekit.ROOT"


ROOT: Final = Root()

_UNSET, _OK = 0, 1


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
    _tracer: Tracer
    _generation: int
    _name: str
    _kind: Literal["internal", "server", "client", "producer", "consumer"]
    _attributes: dict[str, Any] | None
    _events: list[tuple[str, int, dict[str, Any] | None]] | None
    _links: list[Link] | None
    _status: int
    _description: str
    _start_ns: int
    _end_ns: int
    _anchor: int
    _recorded: bool
    _ended: bool
    _owns_context: bool  # else it is the unsampled parent's
    # The innermost open one of this span, and those around it: not owned, so that an exporter keeps no Context alive.
    _scope: weakref.ref[Scope] | None
    _outer: list[weakref.ref[Scope]]
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
        return self._tracer.resource

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
        else:
            self._late("set_attribute")

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Record every item of *attributes*."""
        items = _items(attributes)
        if self.is_recording:
            for key, value in items:
                self._put(key, value)
        else:
            self._late("set_attributes")

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, *, time_ns: int | None = None) -> None:
        """Record that something happened, now or at *time_ns* (Unix time)."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        items = () if attributes is None else _items(attributes)
        if time_ns is not None and not isinstance(time_ns, int):
            raise TypeError(f"time_ns must be int, not {type(time_ns).__name__}")
        if not self.is_recording:
            self._late("add_event")
            return
        if self._events is None:
            self._events = []
        limits = self._tracer.limits
        if len(self._events) >= limits.events:
            self.dropped_events += 1
            return
        self._events.append((str.__str__(name), self._now() if time_ns is None else _ns(time_ns), self._clean(items)))

    def add_link(self, target: SpanContext | Span | Link, attributes: Mapping[str, Any] | None = None) -> None:
        """Record that *target* caused this work without being its parent."""
        context, own = _link(target)
        items = _items(attributes) if attributes is not None else own
        if not self.is_recording:
            self._late("add_link")
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
        if not self.is_recording:
            self._late("set_status")
            return
        if number != _UNSET and self._status != _OK:
            limit = self._tracer.limits.value_length
            self._status = number
            self._description = str.__str__(description)[:limit]

    def record_exception(self, exception: BaseException, attributes: Mapping[str, Any] | None = None) -> None:
        """Record *exception* as an event with type, message and stack; the status stays as it is."""
        if not isinstance(exception, BaseException):
            raise TypeError(f"exception must be an exception, not {type(exception).__name__}")
        items = () if attributes is None else _items(attributes)
        if self.is_recording:
            self.add_event("exception", {**exception_attributes(exception, self.context.trace_id), **dict(items)})
        else:
            self._late("record_exception")

    def update_name(self, name: str) -> None:
        """Give the span another name."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if self.is_recording:
            self._name = str.__str__(name)
        else:
            self._late("update_name")

    def end(self, end_ns: int | None = None) -> None:
        """End the span, now or at *end_ns* (Unix time), and hand it to the exporter. Only the first call counts."""
        if end_ns is not None and not isinstance(end_ns, int):
            raise TypeError(f"end_ns must be int, not {type(end_ns).__name__}")
        if self._ended:
            self._late("end")
            return
        self._ended = True
        if self._recorded:
            end = self._now() if end_ns is None else _ns(end_ns)
            self._end_ns = max(end, self._start_ns)
        if self._generation == generation():  # else the parent process, which opened it, exports it
            buffer.add(self)
            if _observer is not None:
                _observer.ended(self)

    def __enter__(self) -> Self:
        if not self._owns_context and current_context() is self.context:
            return self  # an unsampled child shares its parent's context; what is current stays the same
        scope = Scope(SPAN, self, self.context, None)
        if self._scope is not None:  # entered again while open: each opening is closed by its own exit
            self._outer.append(self._scope)
        scope._open()
        self._scope = weakref.ref(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        scope = None
        while scope is None and self._scope is not None:  # one whose Context is gone has gone with it
            scope = self._scope()
            self._scope = self._outer.pop() if self._outer else None
        if scope is not None:
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
            if self.is_recording and self._status == _UNSET:
                self.set_status("cancelled", "abandoned: nobody ended the span")
            self.end()

    def __reduce__(self) -> Any:
        raise TypeError("a span stays in its process: pickle span.context instead")

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<Span {clip_name(self._name)} {self.context.trace_id}/{self.context.span_id} {state}>"

    def _replace_scope(self, original: Scope, copy: Scope) -> None:
        if self._scope is not None and self._scope() is original:
            self._scope = weakref.ref(copy)
        self._outer = [weakref.ref(copy) if outer() is original else outer for outer in self._outer]

    def _late(self, method: str) -> None:
        if self._ended and _observer is not None:
            _observer.late(self, method)

    def _now(self) -> int:
        return _ns(now(self._anchor))

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


def _ns(time_ns: int) -> int:
    """Return a time as 64 bits hold it; the ends of that range stand for what is beyond them."""
    return min(max(int(time_ns), 0), 0x7FFF_FFFF_FFFF_FFFF)


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
        limits: Limits = DEFAULT_LIMITS,
        resource: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> None:
        self.recording = recording
        self.threshold = threshold
        self.state = state
        self.sampler = sampler
        self.limits = limits
        self.resource = resource


_tracer = Tracer()
_observer: Observer | None = None


def set_tracer(tracer: Tracer) -> None:
    """Make *tracer* the one that new spans are made by."""
    global _tracer
    _tracer = tracer


def set_observer(observer: Observer | None) -> None:
    """Have *observer* told of every start, every end, and every call that comes after the end; None: nobody."""
    global _observer
    _observer = observer


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
    name = str.__str__(name)
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
    linked: SpanContext | None = None
    if parent is None:
        scope = current_scope()
        base = None if scope is None else scope._effective()
        is_local = scope is not None and scope._kind == SPAN and scope._generation == generation()
    elif isinstance(parent, Span):
        base, is_local = parent.context, True
        if parent._generation != generation():
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
        if parent is None:
            linked = linked_context(scope)
    elif base._flags & DEFERRED:
        keep, state = _sample(tracer, base._trace_id, base._state, name, kind, attributes)
        flags = (base._flags & RANDOM) | (SAMPLED if keep else 0 if tracer.recording else DEFERRED)
        self.context = make_from_parts(base._trace_id, new_span_id(), flags, state, base._labels, False, base._extra)
    elif is_local and tracer.recording and not base._flags & SAMPLED:
        # Not sampled, and inside a span that is not: nobody will ever see this one, so it has no identity.
        self.context = base
        self._owns_context = False
    else:
        self.context = make_from_parts(
            base._trace_id,
            new_span_id(),
            base._flags & (SAMPLED | RANDOM),
            base._state,
            base._labels,
            False,
            base._extra,
        )
    self._tracer = tracer
    self._generation = generation()
    self._name = name
    self._kind = kind
    self._attributes = self._events = self._links = self._scope = None
    self._outer = []
    self._status, self._description = _UNSET, ""
    self._ended = False
    self._recorded = tracer.recording and self.context.sampled
    self.dropped_attributes = self.dropped_events = self.dropped_links = self.truncated_values = 0
    self._start_ns = self._end_ns = 0
    buffer.started += 1
    if self._recorded:
        self._anchor = anchor()
        self._start_ns = self._now() if start_ns is None else _ns(start_ns)
        for key, value in items:
            self._put(key, value)
    if linked is not None:
        self.add_link(linked)
    for target in targets:
        self.add_link(target)
    if _observer is not None:
        _observer.started(self, parent)
    return self


def restore_span(
    context: SpanContext,
    parent: SpanContext | None,
    name: str,
    kind: Literal["internal", "server", "client", "producer", "consumer"],
    start_ns: int,
    end_ns: int,
    attributes: dict[str, Any] | None,
    events: list[tuple[str, int, dict[str, Any] | None]] | None,
    links: list[Link] | None,
    status: Status,
    dropped: tuple[int, int, int, int],
) -> Span:
    """Return the span that another process recorded with these values, and hand it to the exporter.

    *dropped* counts attributes, events and links that were left out, and values that were shortened.
    """
    self = object.__new__(Span)
    self.context, self.parent = context, parent
    self._owns_context = self._recorded = self._ended = True
    self._tracer = _tracer
    self._generation = generation()
    self._name, self._kind = name, kind
    self._attributes, self._events, self._links = attributes, events, links
    self._scope, self._outer = None, []
    self._status, self._description = _index(STATUS_CODES, status.code, "status"), status.description
    self.dropped_attributes, self.dropped_events, self.dropped_links, self.truncated_values = dropped
    self._start_ns, self._end_ns, self._anchor = start_ns, end_ns, 0
    buffer.started += 1
    buffer.add(self)
    if _observer is not None:
        _observer.started(self, parent)
        _observer.ended(self)
    return self


def retrace(span: Span, context: SpanContext) -> None:
    """Give *span*, which has ended, another context with the same ids: one whose tracestate says more."""
    if not isinstance(span, Span):
        raise TypeError(f"span must be a Span, not {type(span).__name__}")
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    if not span._ended:
        raise ValueError("span must have ended")
    if ids_of(span.context) != ids_of(context):
        raise ValueError("context must have the span's ids")
    span.context = context


_formats: tuple[Sieve | None, Callable[[Any], SpanContext | None], Callable[[SpanContext, Any], None]]
_formats = (None, read_w3c, write_w3c)


def set_formats(
    sieve: Sieve | None = None,
    read: Callable[[Any], SpanContext | None] = read_w3c,
    write: Callable[[SpanContext, Any], None] = write_w3c,
) -> None:
    """Have ``extract()`` call *read*, and ``inject()`` call *write*; without arguments, W3C's.

    *read* gets what *sieve* finds in the carrier, or, without one, the carrier.
    """
    global _formats
    _formats = (sieve, read, write)


def extract(carrier: Any) -> SpanContext | None:
    """Return the context that *carrier* holds in any of the configured formats, or None: a new trace.

    *carrier* is a mapping, or an iterable of ``(name, value)`` pairs, of str or bytes. What is
    malformed counts as absent. The first format with ids wins, labels are added up. A context without
    ids (``is_valid`` False) has labels or a decision only; a span opened under it is a root that keeps them.
    """
    if not isinstance(carrier, dict | list) and not hasattr(carrier, "items"):
        if isinstance(carrier, str | bytes) or not hasattr(carrier, "__iter__"):
            raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type(carrier).__name__}")
        carrier = list(carrier)  # every format reads it from the start
    sieve, read, _ = _formats
    if sieve is not None:
        carrier = sieve.sift(carrier)
        if carrier is None:
            return None
    try:
        return read(carrier)
    except FormatError:
        return None


def inject(carrier: C, context: SpanContext | Span | None = None) -> C:
    """Write *context*, or what is current, into *carrier* in every configured format, and return *carrier*.

    *carrier* is a mutable mapping or a list of pairs. Where nothing is current it stays as it is.
    """
    if context is None:
        context = current_context()
        if context is None:
            return carrier
    elif isinstance(context, Span):
        context = context.context
    elif not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext or a Span, not {type(context).__name__}")
    _formats[2](context, carrier)
    return carrier


def _root(
    tracer: Tracer, base: SpanContext | None, name: str, kind: str, attributes: Mapping[str, Any] | None
) -> SpanContext:
    """Return the context of a new trace's first span, which keeps what *base* has: labels, a decision, a trace id."""
    flags = RANDOM
    trace_id = 0
    if base is not None and base._trace_id:
        trace_id, flags = base._trace_id, base._flags & RANDOM
    else:
        trace_id = new_trace_id()
    state = "" if base is None else base._state
    if base is not None and not base._flags & DEFERRED:
        flags |= base._flags & SAMPLED
    else:
        keep, state = _sample(tracer, trace_id, state, name, kind, attributes)
        if keep:
            flags |= SAMPLED
        elif base is not None and base._trace_id and not tracer.recording:
            flags |= DEFERRED  # somebody else's trace, and nothing decides here
    if base is None:
        return make_from_parts(trace_id, new_span_id(), flags, state, None, False)
    return make_from_parts(trace_id, new_span_id(), flags, state, base._labels, False, base._extra)


def _sample(
    tracer: Tracer, trace_id: int, state: str, name: str, kind: str, attributes: Mapping[str, Any] | None
) -> tuple[bool, str]:
    """Decide about a trace; return whether it is kept, and the tracestate that says so from here on."""
    if not tracer.recording:
        return False, state
    randomness = said_randomness(state) if state else -1
    if randomness < 0:
        randomness = trace_id & _MASK56
    entry = ""
    if tracer.sampler is None:
        keep = randomness >= tracer.threshold
        if keep:
            entry = tracer.state
    else:
        try:
            answer, entry = tracer.sampler.sample(randomness, name, kind, attributes or NO_ATTRIBUTES)
            keep = bool(answer)
            if not keep or not entry or count_tracestate(entry) <= 0:
                entry = ""
        except Exception:  # a sampler of the user's own must not break the user's request
            keep, entry = False, ""
    return keep, decided_state(entry, state) if state else entry


@final
class Buffer:
    """Where finished spans wait for the pipeline's thread: bounded, and counted from start to drain.

    ``wake`` is called, without arguments, when a span arrives while ``is_asleep``, which that ends, and when
    the buffer is half full.
    """

    __slots__ = ("_spans", "capacity", "dropped", "ended", "is_asleep", "is_open", "started", "unsampled", "wake")

    def __init__(self) -> None:
        self.capacity = 16384
        self.is_open = False
        self.wake: Callable[[], object] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget every span and every count."""
        self._spans: deque[Span] = deque()
        self.is_asleep = True
        self.started = self.ended = self.dropped = self.unsampled = 0

    def add(self, span: Span) -> None:
        """Count *span*, which has ended, and keep it if it was recorded and there is room."""
        self.ended += 1
        if not span._recorded:
            self.unsampled += 1
            return
        count = len(self._spans)
        if count >= self.capacity or not self.is_open:
            self.dropped += 1
            return
        self._spans.append(span)
        if (self.is_asleep or count == self.capacity >> 1) and self.wake is not None:
            self.is_asleep = False
            self.wake()

    def lose(self, count: int) -> None:
        """Count *count* recorded spans that were lost in another process."""
        self.started += count
        self.ended += count
        self.dropped += count

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


def encode_spans(spans: Iterable[Span]) -> bytes:
    """Return *spans* as the bytes of one OTLP ``ExportTraceServiceRequest``.

    https://opentelemetry.io/docs/specs/otlp/ - spans of one resource stand together, in their order. What OTLP has
    no place for: the status "cancelled" is left unset, and why becomes the attribute ``tracekit.cancelled``; an int
    past 64 bits becomes its text in hexadecimal, a lone surrogate U+FFFD. Labels stay with the context.
    """
    spans = list(spans)
    for span in spans:
        if type(span) is not Span:
            raise TypeError(f"spans must hold spans, not {type(span).__name__}")
    return encode_request(spans)


def after_fork() -> None:
    """Forget, in the child of a fork, what is the parent's: random words drawn ahead, open spans, buffered spans."""
    forget_parent()
    buffer.reset()
