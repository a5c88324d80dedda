"""``Span``, a unit of work being recorded, ``span()``, which starts one, and the clock that both read."""

from __future__ import annotations

import time

from ..cython import binding, cast, cclass, compiled, final, freelist, no_gc, nonecheck
from .attributes import MISSING, clean
from .buffer import buffer
from .context import Link, SpanContext, new_generation
from .free_threading import HAS_GIL, claim
from .guard import acts_as, type_name
from .misuse import misused
from .outcome import exception_attributes, exception_events, mark_recorded, outcome_of
from .records import KINDS, NO_ATTRIBUTES, STATUS_CODES, Event, Instrumentation, Status
from .stdlib import Iterable, Mapping, MappingProxyType
from .tracer import Tracer

if not compiled:
    from .codecs import Entries, Items, has_text_keys
    from .context import child_context, generation, has_ids
    from .free_threading import WITHOUT_GIL, alone, is_guarded, own, retire, share, stable, start_one, unlock_all
    from .guard import is_a
    from .interpreter import (
        DEFERRED,
        RANDOM,
        SAMPLED,
        SUPPRESSED,
        borrow,
        forbid_new,
        is_finalizing,
        is_lent,
        lent,
        monotonic_ns,
        publish,
        referent,
        weak,
    )
    from .scopes import (
        SPAN,
        Scope,
        close_scope,
        effective,
        innermost,
        linked_context,
        make_scope,
        newest_open,
        open_scope,
    )

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final, Literal, Never, Protocol, Self

    class Observer(Protocol):
        """Is called at every start and end of a span, and at every call that comes after the end."""

        def started(self, span: Span, parent: Span | SpanContext | Root | None) -> None: ...
        def ended(self, span: Span) -> None: ...
        def late(self, span: Span, method: str) -> None: ...


class Root:
    """The type of ``ROOT``: as ``parent=``, start a new trace that inherits nothing, labels included."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "tracekit.ROOT"


ROOT: Final = Root()

_tracer = Tracer()
_buffer = buffer
_observer: Observer | None = None
_clock: Callable[[], int] | None = None
_ANCHOR_DRIFT_NS: Final = 5_000_000
_MAX_NS: Final = 0x7FFF_FFFF_FFFF_FFFF
_INTERNAL: Final = KINDS[0]
_NO_LINKS: Final[tuple[Any, ...]] = ()
_watchers = 0
_NO_CLASSES: Final[tuple[type[BaseException], ...]] = ()

if not compiled:  # positions in STATUS_CODES
    UNSET: Final = 0
    OK: Final = 1
    ERROR: Final = 2
    CANCELLED: Final = 3

    # The open spans by id(), oldest first. C has a doubly linked list instead, whose pointers are borrowed.
    _listed: dict[int, Any] = {}
    _oldest: Any = None
    _newest: Any = None


def _distance_now() -> int:
    return time.time_ns() - monotonic_ns()


_anchor = _distance_now()


def check_clock() -> None:
    """Renew the wall clock's distance from the monotonic clock where they drifted apart by more than 5 ms.

    Each span keeps the distance it started with: its duration is monotonic.
    """
    global _anchor
    distance = _distance_now()
    if not -_ANCHOR_DRIFT_NS <= distance - _anchor <= _ANCHOR_DRIFT_NS:
        _anchor = distance


def set_clock(clock: Callable[[], int] | None) -> Callable[[], int] | None:
    """Take the time, Unix nanoseconds, from *clock* instead of the operating system; None undoes it.

    Returns the clock before.
    """
    global _clock
    before, _clock = _clock, clock
    return before


if not compiled:

    def quicken(
        kind: type[Span], function: Callable[..., Span], explain: Callable[[tuple[str, ...]], str | None]
    ) -> None:
        """Give ``with span()`` its fast path in C; see ``calls.pxd``."""

    def tracer_in_use() -> Tracer:
        """Return the tracer that new spans are started with."""
        return _tracer


def set_tracer(tracer: Tracer) -> None:
    """Start new spans with *tracer* from now on."""
    global _tracer
    if not isinstance(tracer, Tracer):
        raise TypeError(f"tracer must be a Tracer, not {type(tracer).__name__}")
    retire(_tracer)  # the compiled integrations use it
    _tracer = tracer
    if WITHOUT_GIL:
        share(_tracer)
        share(_tracer.kept)
        share(_tracer.state)


def set_observer(observer: Observer | None) -> None:
    """Call *observer* at every start, every end, and every call that comes after the end; None removes it."""
    global _observer
    _observer = observer


def after_fork() -> Any:
    """Forget, in the child of a fork, the parent's random words, open spans and buffered spans; return the latter."""
    if WITHOUT_GIL:
        unlock_all()
    new_generation()
    taken: list[Span] = []
    open_spans(taken, _MAX_NS)
    for span in taken:
        _delist(span)
    return buffer.reset()


@final
@no_gc  # holds plain values, its scope without owning it, and hooks until it ends: buffered spans cost the collector nothing
@freelist(512)  # as many as the exporting thread frees at a time
@binding(False)
@cclass
class Span:
    """A unit of work being recorded. ``with`` makes it current, and ends it; without ``with``, call ``end()``.

    Every method may be called from any task, thread or callback, before and after the end, and none raises: a wrong
    argument is left out, counted and reported once per call site; strict mode raises. Calls after the end, and calls
    to a span that is not recorded, have no effect. Bounded by ``Limits``: what exceeds them is counted in
    ``dropped_attributes``, ``dropped_events`` and ``dropped_links``, shortened values in ``truncated_values``.
    """

    if not compiled:
        __slots__ = (
            "__weakref__",
            "_attributes",
            "_description",
            "_distance",
            "_events",
            "_expected",
            "_face",
            "_generation",
            "_has_ended",
            "_is_listed",
            "_is_recorded",
            "_kind",
            "_links",
            "_name",
            "_owns_context",
            "_scope",
            "_start",
            "_status",
            "_stop",
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
        # The innermost open scope of this span, borrowed: an open scope owns its span, and closing, replacing or
        # deallocating it sets this to another that is open. A closed one must never stand here.
        _scope: Any
        _face: Any  # another API's form of this span, borrowed: it owns the span, and clears this when it goes
        _name: str
        _kind: Literal["internal", "server", "client", "producer", "consumer"]
        _description: str | None
        _attributes: Items | None
        _events: Entries | None
        _links: Entries | None
        _expected: tuple[Any, ...] | None  # weak references: an exception keeps its class alive
        _start: int
        _stop: int
        _distance: int  # the wall clock's from the monotonic clock
        _generation: int
        _status: int
        _is_recorded: bool
        _is_listed: bool  # among the open spans
        _older: Any  # C's neighbors in the list
        _newer: Any
        _has_ended: bool
        _owns_context: bool  # else it is the unsampled parent's
        dropped_attributes: int
        dropped_events: int
        dropped_links: int
        truncated_values: int

        def _blank(self) -> None:
            """Set every field, as C does for a new object."""
            self.context = self.parent = None  # type: ignore[assignment]
            self._attributes = self._events = self._links = self._scope = self._description = self._face = None
            self._expected = None
            self._start = self._stop = self._distance = self._generation = self._status = 0
            self._is_recorded = self._has_ended = self._owns_context = self._is_listed = False
            self.dropped_attributes = self.dropped_events = self.dropped_links = self.truncated_values = 0

    def __init__(self) -> None:
        raise TypeError("spans are made by tracekit.span()")

    @property
    def name(self) -> str:
        """The name of the work; a low-cardinality text."""
        return self._name

    @property
    def kind(self) -> Literal["internal", "server", "client", "producer", "consumer"]:
        """The span's side of a hand-off between processes, if any."""
        return self._kind

    @property
    def start_ns(self) -> int:
        """When the span started, Unix time in nanoseconds; 0 where it is not recorded."""
        return self._start

    @property
    def end_ns(self) -> int | None:
        """When the span ended, Unix time in nanoseconds; None while it is open."""
        return self._stop if self._has_ended else None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The recorded attributes; a read-only view. Without the GIL, where they are compiled, of a copy."""
        return _viewed(self._attributes)

    @property
    def events(self) -> tuple[Event, ...]:
        """The recorded events, in order."""
        events = self._events
        if events is None:
            return ()
        # Not tuple() of a generator: CPython 3.11 may collect while it makes the tuple, and a finalizer add an event.
        return tuple(
            [Event(events.head(at), events.number(at), _viewed(events.items(at))) for at in range(events.count())]
        )

    @property
    def links(self) -> tuple[Link, ...]:
        """The other spans that caused the work."""
        links = self._links
        if links is None:
            return ()
        return tuple([Link(links.head(at), _viewed(links.items(at))) for at in range(links.count())])

    @property
    def status(self) -> Status:
        """The outcome of the work."""
        return Status(STATUS_CODES[self._status], self._description or "")

    @property
    def resource(self) -> Mapping[str, Any]:
        """The attributes that all spans of this process share: service name and so on."""
        return self._tracer.resource

    @property
    def instrumentation(self) -> Instrumentation | None:
        """The library that made the span, where it was made through OpenTelemetry's API."""
        return self._tracer.instrumentation

    @property
    def ended(self) -> bool:
        """Whether the span has ended."""
        return self._has_ended

    @property
    def is_recording(self) -> bool:
        """Whether further calls have an effect: the span is sampled, there is an exporter, and it has not ended."""
        return self._is_recorded and not self._has_ended

    def set_attribute(self, key: str, value: Any) -> None:
        """Record *value* under *key*, in place of an earlier one. See ``_core/attributes.py`` for the kinds of values."""
        if WITHOUT_GIL:
            own(self)
        if not is_a(key, str):
            if WITHOUT_GIL:
                alone()
            misused(TypeError(f"key must be str, not {type_name(key)}"))
        elif self._is_recorded and not self._has_ended:
            self._put(key if type(key) is str else str.__str__(key), value)
        else:
            self._late("set_attribute")

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Record every item of *attributes*."""
        items = _items(attributes)
        if self._is_recorded and not self._has_ended:
            self._put_all(items)
        else:
            self._late("set_attributes")

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, *, time_ns: int | None = None) -> None:
        """Record an event, now or at *time_ns* (Unix time)."""
        if not is_a(name, str):
            misused(TypeError(f"name must be str, not {type_name(name)}"))
            name = ""
        if time_ns is not None and not is_a(time_ns, int):
            misused(TypeError(f"time_ns must be int, not {type_name(time_ns)}"))
            time_ns = None
        items = None if attributes is None else _items(attributes)
        if not self._is_recorded or self._has_ended:
            self._late("add_event")
            return
        if self._events is None:
            self._events = Entries()
        if self._events.count() >= self._tracer.max_events:
            self.dropped_events += 1
            return
        tracer = self._tracer
        cleaned = self._clean(items, tracer.max_event_attributes, tracer.max_part_value) if items else None
        name = str.__str__(name)
        number = self._now() if time_ns is None else _ns(time_ns)
        if self._has_ended:  # meanwhile, in another thread: the exporter may be reading it
            self._late("add_event")
        else:
            self._events.append(name, number, cleaned)

    def add_link(self, target: SpanContext | Span | Link, attributes: Mapping[str, Any] | None = None) -> None:
        """Record that *target* caused this work without being its parent."""
        context, items = _link(target)
        if context is None:
            return
        if attributes is not None:
            items = _items(attributes)
        if not self._is_recorded or self._has_ended:
            self._late("add_link")
            return
        if self._links is None:
            self._links = Entries()
        if self._links.count() >= self._tracer.max_links:
            self.dropped_links += 1
            return
        tracer = self._tracer
        cleaned = self._clean(items, tracer.max_link_attributes, tracer.max_part_value) if items else None
        if self._has_ended:
            self._late("add_link")
        else:
            self._links.append(context, 0, cleaned)

    def set_status(self, code: Literal["unset", "ok", "error", "cancelled"], description: str = "") -> None:
        """Record the outcome of the work. "ok" is final, "unset" changes nothing, as in OpenTelemetry."""
        number = index_of(STATUS_CODES, code, "code")
        if description is None:
            description = ""
        elif not is_a(description, str):
            misused(TypeError(f"description must be str, not {type_name(description)}"))
            description = ""
        if number < 0:
            return
        if not self._is_recorded or self._has_ended:
            self._late("set_status")
        elif number != UNSET and self._status != OK:
            self._status = number
            self._description = str.__str__(description)[: self._tracer.max_value]

    def record_exception(
        self, exception: BaseException, attributes: Mapping[str, Any] | None = None, *, time_ns: int | None = None
    ) -> None:
        """Record *exception* as an event with type, message and stack; the status stays as it is."""
        if not is_a(exception, BaseException):
            misused(TypeError(f"exception must be an exception, not {type_name(exception)}"))
            return
        items = () if attributes is None else _items(attributes)
        if self._is_recorded and not self._has_ended:
            recorded = {**exception_attributes(exception, self._tracer.limits), **dict(items)}
            self.add_event("exception", recorded, time_ns=time_ns)
            mark_recorded(exception, self.context.trace_id)
        else:
            self._late("record_exception")

    def update_name(self, name: str) -> None:
        """Rename the span."""
        if not is_a(name, str):
            misused(TypeError(f"name must be str, not {type_name(name)}"))
        elif self._is_recorded and not self._has_ended:
            self._name = str.__str__(name)
        else:
            self._late("update_name")

    def end(self, end_ns: int | None = None) -> None:
        """End the span, now or at *end_ns* (Unix time), and hand it to the exporter. Only the first call counts."""
        if WITHOUT_GIL:
            own(self)
        if end_ns is not None and not is_a(end_ns, int):
            if WITHOUT_GIL:
                alone()
            misused(TypeError(f"end_ns must be int, not {type_name(end_ns)}"))
            end_ns = None
        if self._has_ended:
            self._late("end")
        else:
            self._end(end_ns)

    def __enter__(self) -> Self:
        _enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _exit(self, exc)

    async def __aenter__(self) -> Self:
        """Do the same as ``with``; there is nothing to wait for."""
        self.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, traceback)

    def __call__(self, *args: Any, **kwargs: Any) -> Never:
        """Raise TypeError: this span has started already, so it cannot be a decorator."""
        raise TypeError(f"a span is not a decorator: use @tracekit.traced({self._name[:64]!a})")

    def __dealloc__(self) -> None:
        if self._is_listed:
            _delist(self)
        if not self._has_ended and self.context is not None and self._generation == generation():
            _abandon(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a span stays in its process: pickle span.context instead")

    def __repr__(self) -> str:
        state = "ended" if self._has_ended else "open"
        return f"<Span {self._name[:64]!a} {self.context.trace_id}/{self.context.span_id} {state}>"

    def _leave(self) -> None:
        scope = lent(self._scope)
        if not compiled:
            while scope is None and lent(self._scope) is not None:  # a signal handler replaced it meanwhile
                scope = lent(self._scope)
        if scope is None:
            self._scope = borrow(None)
            return
        if WITHOUT_GIL:
            own(scope)
            if scope._outer is not None:
                alone()
        if scope._outer is None:
            self._scope = borrow(None)
        else:
            self._scope = borrow(newest_open(scope._outer))
            scope._outer = None
        close_scope(scope)

    def _drop_scope(self, scope: Scope) -> None:
        """Called when *scope*, which is open, is deallocated."""
        if lent(self._scope) is None or is_lent(self._scope, scope):
            self._scope = borrow(newest_open(scope._outer))

    def _move_scope(self, scope: Scope, copy: Scope) -> None:
        """Called when *copy* replaces *scope*."""
        if is_lent(self._scope, scope):
            self._scope = borrow(copy)

    def _rename(self, name: str) -> None:
        """Called by integrations."""
        self._name = name

    def _end(self, end_ns: int | None) -> None:
        if WITHOUT_GIL and (self._is_listed or not _is_quiet(self._tracer)):
            alone()
        if self._tracer.hooks is not None and self._is_recorded and self._generation == generation():
            self._tracer.hooks.ending(self)
            if self._has_ended:
                return
        stop = 0
        if self._is_recorded:
            if end_ns is None and _clock is None:
                stop = monotonic_ns() + self._distance
            else:
                stop = self._now() if end_ns is None else _ns(end_ns)
                if self._has_ended:  # while a custom clock was read
                    return
            stop = max(self._start, stop)
        is_here = self._generation == generation()  # first: at the recursion limit a call of the plain form may raise
        if compiled or HAS_GIL:
            if not compiled and self._has_ended:  # another thread was faster; none runs between this line and the next
                return
            self._has_ended = True
        elif not claim(self, "_has_ended"):
            return
        if self._is_recorded:
            self._stop = stop
        if self._is_listed:
            _delist(self)
        if is_here:  # else the parent process, which opened it, exports it
            if self._tracer.hooks is not None and self._is_recorded:
                _process(self)
            else:
                _buffer.end(self, self._is_recorded)
            if _observer is not None:
                _observer.ended(self)

    def _late(self, method: str) -> None:
        if self._has_ended and _observer is not None:
            _observer.late(self, method)

    def _begin(self, start_ns: int | None) -> None:
        """Called by ``resample()``: the span is recorded from now on."""
        self._distance = _anchor
        self._start = self._now() if start_ns is None else _ns(start_ns)

    def _now(self) -> int:
        return monotonic_ns() + self._distance if _clock is None else _ns(_clock())

    def _put(self, key: str, value: Any) -> None:
        kind = type(value)
        attributes = self._attributes
        if attributes is None:
            attributes = self._attributes = Items.__new__(Items)
        if attributes.count() >= self._tracer.max_attributes and not attributes.has(key):
            self.dropped_attributes += 1
            return
        if kind is str:
            if len(value) > self._tracer.max_value:
                value = value[: self._tracer.max_value]
                self.truncated_values += 1
        elif kind is not int and kind is not bool and kind is not float:
            if WITHOUT_GIL:
                alone()
            value, cuts = clean(value, self._tracer.max_value)
            if self._has_ended:  # meanwhile, in another thread: the exporter may be reading the dict
                self._late("set_attribute")
                return
            self.truncated_values += cuts
            if value is MISSING:
                self.dropped_attributes += 1
                return
        attributes.put(key, value)

    def _put_all(self, items: Any) -> None:
        attributes = self._attributes
        if type(items) is Items:
            given: Items = items
            if attributes is None and given.fits(self._tracer.max_attributes, self._tracer.max_value):
                self._attributes = given
            else:
                self._put_all(dict(given.mapping()))
        elif type(items) is dict:
            if attributes is None:
                attributes = self._attributes = Items.__new__(Items)
            if attributes.fill(items, self._tracer.max_attributes, self._tracer.max_value):
                return
            if WITHOUT_GIL:
                alone()
            try:
                for key, value in items.items():
                    self._put(key, value)
            except RuntimeError:  # a custom value changed the dict on the way
                pass
        else:
            for key, value in items:
                self._put(key, value)

    def _clean(self, items: Any, most: int, length: int) -> Items | None:
        cleaned = Items()
        for key, value in items.copy().items() if type(items) is dict else items:  # a finalizer may change it
            plain, cuts = clean(value, length)
            self.truncated_values += cuts
            if plain is MISSING or cleaned.count() >= most:
                self.dropped_attributes += 1
                cleaned.left_out += 1
            else:
                cleaned.put(key, plain)
        return cleaned if cleaned.count() or cleaned.left_out else None


def _enter(self: Span) -> Span:
    if WITHOUT_GIL:
        own(self)
        if self._scope:
            alone()
    if not self._owns_context:
        # An unsampled child shares its parent's context, so the current scope stays.
        scope = innermost()
        if scope is not None and effective(scope) is self.context:
            return self
    scope = make_scope(SPAN, self, self.context, None)
    if self._scope:
        scope._outer = lent(self._scope)  # entered again while open: each opening is closed by its own exit
    self._scope = borrow(scope)
    open_scope(scope)
    return self


def _exit(self: Span, exc: BaseException | None) -> None:
    if WITHOUT_GIL:
        own(self)
        if exc is not None:
            alone()
    if self._scope:
        self._leave()
    if exc is not None and self._is_recorded and not self._has_ended:
        try:
            expected = None if self._expected is None else _alive(self._expected)
            outcome = outcome_of(exc, self.context.trace_id, self._tracer.max_value, expected)
            for _, recorded in exception_events(outcome.expected, self._tracer.limits, with_stack=False):
                self.add_event("exception", recorded)
            for error, recorded in exception_events(outcome.errors, self._tracer.limits):
                self.add_event("exception", recorded)
                mark_recorded(error, self.context.trace_id)
            self.set_status(outcome.code, outcome.description)
        except BaseException as raised:  # the recursion limit, and a span further out records it; or a signal handler
            if self._status != OK:
                self._status = ERROR
            if not isinstance(raised, Exception):
                if not self._has_ended:
                    self._end(None)
                raise
    if not self._has_ended:
        self._end(None)


if not compiled:

    def _finalize(self: Span, is_finalizing: Callable[[], bool] = is_finalizing) -> None:
        # Not one made by Span.__new__() alone, nor at the interpreter's end: modules may be empty by then.
        if hasattr(self, "_generation") and not is_finalizing():
            self.__dealloc__()

    Span.__del__ = _finalize  # type: ignore[attr-defined]


@nonecheck(True)
def dropped_parts(span: Span) -> tuple[int, list[int], list[int]]:
    """Return how many attributes *span* itself has lost, and each of its events and links; the span counts them all."""
    parts: tuple[list[int], list[int]] = ([], [])
    for entries, dropped in zip((span._events, span._links), parts, strict=True):
        if entries is not None:
            dropped.extend([_dropped_of(entries.items(at)) for at in range(entries.count())])
    return max(0, span.dropped_attributes - sum(parts[0]) - sum(parts[1])), *parts


def _dropped_of(items: Items | None) -> int:
    return 0 if items is None else items.left_out


def watch_spans(watches: bool) -> None:
    """List open spans until as many calls with False as with True; those that are listed stay so until they end."""
    global _watchers
    _watchers += 1 if watches else -1


def open_spans(taken: list[Span], limit: int) -> bool:
    """Append to *taken*, which earlier calls filled, up to *limit* further open spans; return whether there may be more.

    They come in the order in which they started. C holds the interpreter for about 20 ns per span.
    """
    if not compiled:
        return _open_spans(taken, limit)
    pointer = _oldest
    for at in range(len(taken) - 1, -1, -1):
        span = taken[at]
        if span._is_listed:
            pointer = span._newer
            break
    while pointer and limit > 0:
        span = lent(pointer)  # type: ignore[assignment]
        if span is not None:  # else it is being deallocated
            taken.append(span)
            limit -= 1
        pointer = cast(Span, pointer)._newer
    return True if pointer else False  # noqa: SIM210 - bool() cannot take a pointer


if not compiled:

    def _open_spans(taken: list[Span], limit: int) -> bool:
        newest = next((id(span) for span in reversed(taken) if span._is_listed), 0)
        # The copy is made in one step; items() makes tuples, for which garbage is collected, and finalizers start spans.
        listed = list(_listed.copy().items())
        keys = [key for key, _ in listed]
        start = keys.index(newest) + 1 if newest in keys else 0
        taken += [span for _, ref in listed[start : start + limit] if (span := referent(ref)) is not None]
        return start + limit < len(listed)


def enlist(span: Span) -> None:
    """Add *span* to the open spans, where they are listed."""
    if span._is_listed or not _watchers:
        return
    span._is_listed = True
    if not compiled:
        _listed[id(span)] = weak(span)
        return
    global _oldest, _newest
    span._older = _newest
    if _newest:
        # cast(), not lent(): a neighbor that is being deallocated must get no reference, but stays in the list so long.
        cast(Span, _newest)._newer = borrow(span)
    else:
        _oldest = borrow(span)
    _newest = borrow(span)


def _delist(span: Span) -> None:
    """Called at the end of *span*, and when it is deallocated: no pointer to it may be left."""
    span._is_listed = False
    if not compiled:
        _listed.pop(id(span), None)
        return
    global _oldest, _newest
    if span._older:
        cast(Span, span._older)._newer = span._newer
    else:
        _oldest = span._newer
    if span._newer:
        cast(Span, span._newer)._older = span._older
    else:
        _newest = span._older
    span._older = span._newer = borrow(None)


def _is_quiet(tracer: Tracer) -> bool:
    """Tell whether none of the program's code is called when a span starts or ends."""
    return _observer is None and _clock is None and tracer.hooks is None and tracer.sampler is None and not has_ids()


def span_scope(span: Span) -> Scope:
    """Return a scope, not yet open, in which *span* is current; it does not end the span."""
    if not isinstance(span, Span):
        raise TypeError(f"span must be a Span, not {type_name(span)}")
    return make_scope(SPAN, span, span.context, None)


def new_span() -> Span:
    """Return a span without values, which counts as one only after ``add_ended()``."""
    span = Span.__new__(Span)
    if not compiled:
        span._blank()
    return span


def _abandon(span: Span) -> None:
    """End *span*, which is being deallocated: its fields move to another span, which can be exported."""
    span._has_ended = True  # in the plain form another finalizer may call it after this
    if is_finalizing():  # nothing is exported any more, and the modules of the hooks may be empty
        return
    if not span._is_recorded:
        _buffer.end(span, False)
        return
    ghost = new_span()
    # Ended from the start: whatever fails here while the interpreter goes down, it leaves no ghost in turn.
    ghost._has_ended = ghost._is_recorded = ghost._owns_context = True
    ghost.context, ghost.parent, ghost._tracer = span.context, span.parent, span._tracer
    ghost._name, ghost._kind, ghost._description = span._name, span._kind, span._description
    ghost._attributes, ghost._events, ghost._links = span._attributes, span._events, span._links
    ghost._distance, ghost._generation, ghost._status = span._distance, span._generation, span._status
    ghost._start = ghost._stop = span._start
    ghost.dropped_attributes, ghost.dropped_events = span.dropped_attributes, span.dropped_events
    ghost.dropped_links, ghost.truncated_values = span.dropped_links, span.truncated_values
    if ghost._status == UNSET:
        ghost._status, ghost._description = CANCELLED, "abandoned: the span was not ended"
    try:
        stop = ghost._now()
        if stop > ghost._start:
            ghost._stop = stop
    except Exception:  # a custom clock
        pass
    _process(ghost)
    if _observer is not None:
        _observer.ended(ghost)


def _process(span: Span) -> None:
    """Call the hooks for *span*, which has ended, then buffer it: a hook may still ``amend()`` it."""
    hooks = span._tracer.hooks
    if hooks is None:
        _buffer.end(span, True)
        return
    try:
        hooks.ended(span)
    finally:
        span._tracer = span._tracer.at_rest()
        if _buffer.is_open or not hooks:
            _buffer.end(span, True)
        else:
            _buffer.processed()


def _ns(time_ns: Any) -> int:
    """Return a time as 64 bits hold it; the ends of that range stand for times beyond them."""
    if type(time_ns) is not int:
        time_ns = int.__int__(time_ns)  # a subclass may override methods
    if time_ns > _MAX_NS:
        return _MAX_NS
    return 0 if time_ns < 0 else int(time_ns)


def _viewed(items: Items | None) -> Mapping[str, Any]:
    return NO_ATTRIBUTES if items is None else MappingProxyType(stable(items.mapping()))


def _items(attributes: Any) -> Any:
    """Return the pairs of a mapping with str keys as a list, or the mapping itself if it is a dict with plain ones."""
    if WITHOUT_GIL and type(attributes) is not dict:
        alone()
    if type(attributes) is dict:
        attributes = stable(attributes)
        if has_text_keys(attributes):
            return attributes
        if WITHOUT_GIL:
            alone()
    elif not acts_as(attributes, Mapping):
        misused(TypeError(f"attributes must be a mapping, not {type_name(attributes)}"))
        return []
    try:
        pairs = list(attributes.items())
    except Exception:  # a custom mapping costs its attributes, not the program
        return []
    items = []
    for pair in pairs:
        if type(pair) is not tuple or len(pair) != 2:
            misused(TypeError(f"attributes must be a mapping whose items() are pairs, not {type_name(pair)}"))
        elif is_a(pair[0], str):
            items.append((str.__str__(pair[0]), pair[1]))
        else:
            misused(TypeError(f"attributes must have str keys, not {type_name(pair[0])}"))
    return items


def _link(target: object) -> tuple[Any, Any]:
    """Return the context and the attributes of *target*; None for a context that is none."""
    items: Any = None
    if is_a(target, Link):
        target, attributes = target
        items = _items(attributes)
    if is_a(target, Span):
        target = target.context
    if not is_a(target, SpanContext):
        misused(TypeError(f"links must hold a SpanContext, a Span or a Link, not {type_name(target)}"))
        return None, None
    return target, items


def known_kind(kind: Any) -> Any:
    """Return the one of ``KINDS`` that equals *kind*, or else "internal"."""
    for known in KINDS:
        if kind is known:
            return known
    return KINDS[max(index_of(KINDS, kind, "kind"), 0)]


def index_of(names: tuple[str, ...], name: Any, parameter: str) -> int:
    """Return the index of *name* in *names*, or -1."""
    if not is_a(name, str):
        misused(TypeError(f"{parameter} must be str, not {type_name(name)}"))
        return -1
    text = str.__str__(name)
    if text not in names:
        misused(ValueError(f"{parameter} must be one of {', '.join(names)}: {text[:64]!a}"))
        return -1
    return names.index(text)


def span(
    name: str,
    *wrong: Never,
    kind: Literal["internal", "server", "client", "producer", "consumer"] = "internal",
    attributes: Mapping[str, Any] | None = None,
    links: Iterable[SpanContext | Span | Link] = _NO_LINKS,
    parent: Span | SpanContext | Root | None = None,
    start_ns: int | None = None,
    expected: type[BaseException] | tuple[type[BaseException], ...] = _NO_CLASSES,
) -> Span:
    """Start a span, a child of the current one; ``with``, or ``async with``, makes it current and ends it.

    *parent* is another parent than the current span, a ``Span`` or a ``SpanContext``, or ``tracekit.ROOT`` for a new
    trace without labels. *start_ns* is Unix time, for work that began earlier.

    An exception of the classes *expected* that leaves ``with`` is not an error: it is an event with type and message,
    without a stack trace, and the status stays unset. It is an error of a span further out that does not expect it.
    """
    items: Any = None
    if WITHOUT_GIL and (wrong or type(name) is not str or start_ns is not None):
        alone()
    if wrong:
        misused(TypeError("span() takes one argument by position: span(name, attributes={...})"))
    if type(name) is not str:
        if not is_a(name, str):
            misused(TypeError(f"name must be str, not {type_name(name)}"))
            name = ""
        name = str.__str__(name)
    if kind is not _INTERNAL:
        kind = known_kind(kind)
    if attributes is not None:
        items = _items(attributes)
        if items is not attributes:
            attributes = dict(items)  # as the sampler sees them
    if links is not _NO_LINKS:
        links = _links(links)
    if start_ns is not None and not is_a(start_ns, int):
        misused(TypeError(f"start_ns must be int, not {type_name(start_ns)}"))
        start_ns = None
    if expected is not _NO_CLASSES:
        expected = _classes(expected)
    self = _start(_tracer, name, kind, attributes, items, links, parent, start_ns)
    if expected is not _NO_CLASSES:
        self._expected = tuple([weak(one) for one in expected])
    if self._is_recorded and self._tracer.hooks is not None:
        self._tracer.hooks.started(self, None)
    return self


_KEYWORDS: Final = ("kind", "attributes", "links", "parent", "start_ns", "expected")


def _unknown_keyword(given: tuple[str, ...]) -> str | None:
    """Return the message for the first of *given* that is no keyword of ``span()``, or None.

    Only where compiled: a wrapper would cost each call of the plain ``span()`` more, and CPython 3.13 says as much.
    """
    from difflib import get_close_matches

    for name in given:
        if name not in _KEYWORDS and name != "name":
            close = get_close_matches(name, _KEYWORDS, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(_KEYWORDS)}"
            return f"span() has no argument {name[:64]!a}; {hint}"
    return None


def _simple(name: Any, attributes: Any) -> Any:
    """Do the same as ``span(name, attributes=attributes)`` for a *name* that is str and no subclass."""
    items: Any = None
    if attributes is not None:
        items = _items(attributes)
        if items is not attributes:
            attributes = dict(items)
    self = _start(_tracer, name, _INTERNAL, attributes, items, _NO_LINKS, None, None)
    if self._is_recorded and self._tracer.hooks is not None:
        self._tracer.hooks.started(self, None)
    return self


def _classes(expected: Any) -> tuple[type[BaseException], ...]:
    """Return *expected*, a class of exceptions or a tuple of them, as a tuple; an empty one if it is neither."""
    classes = expected if type(expected) is tuple else (expected,)
    for one in classes:
        # Not issubclass(), which asks the metaclass.
        if not issubclass(type(one), type) or not type.__subclasscheck__(BaseException, one):
            misused(TypeError(f"expected must be a class of exceptions or a tuple of them, not {type_name(one)}"))
            return _NO_CLASSES
    return classes


def _alive(expected: tuple[Any, ...]) -> tuple[type[BaseException], ...]:
    """Return the classes that the weak references *expected* still refer to."""
    return tuple([one for one in map(referent, expected) if one is not None])


def start_with(
    tracer: Tracer,
    name: str,
    kind: str,
    attributes: dict[str, Any] | None,
    links: tuple[Link, ...],
    parent: Span | SpanContext | Root | None,
    start_ns: int | None,
) -> Span:
    """Start a span for a bridge to another API, which has checked the arguments, and calls the hooks.

    *name* and the keys of *attributes* are str and none of its subclasses, *kind* is one of ``KINDS``.
    """
    return _start(tracer, name, kind, attributes, attributes, links, parent, start_ns)


def start_request_span(
    tracer: Tracer,
    name: str,
    kind: str,
    attributes: Items | dict[str, Any] | None,
    links: tuple[Any, ...],
    parent: SpanContext | Root | None,
) -> Span:
    """Start a span of an integration, with the tracer in use; the arguments are checked.

    *name* and the keys of *attributes* are str and none of its subclasses, *kind* is one of ``KINDS``. An ``Items``
    becomes the span's.
    """
    if tracer is None:
        raise TypeError("start_request_span() needs a tracer")
    seen = attributes
    if type(attributes) is Items:
        # A custom sampler gets a dict, and may change it.
        seen = None if tracer.sampler is None else mapping_of(attributes)
    self = _start(tracer, name, kind, seen, attributes, links, parent, None)
    if self._is_recorded and tracer.hooks is not None:
        tracer.hooks.started(self, None)
    return self


def mapping_of(attributes: Any) -> dict[str, Any]:
    """Return a dict of *attributes*, a dict or an ``Items``."""
    if type(attributes) is Items:
        items: Items = attributes
        return dict(items.mapping())
    return dict(attributes)


def _links(links: Any) -> tuple[Any, ...]:
    """Return those of *links* that can be used."""
    try:
        targets = [target for target in links]  # noqa: C416 - a finalizer may change a list; see Span.links
    except Exception as error:
        is_iterable = acts_as(links, Iterable)
        misused(error if is_iterable else TypeError(f"links must be an iterable, not {type_name(links)}"))
        return ()
    return tuple([target for target in targets if _link(target)[0] is not None])


def _start(
    tracer: Tracer,
    name: str,
    kind: Any,
    attributes: Mapping[str, Any] | None,
    items: Any,
    links: Any,
    parent: Span | SpanContext | Root | None,
    start_ns: int | None,
) -> Span:
    """Start a span; the arguments were checked but for *parent*."""
    scope: Scope | None = None
    base: SpanContext | None = None
    linked: SpanContext | None = None
    added: dict[str, Any] | None = None  # by the sampler
    if WITHOUT_GIL and not _is_quiet(tracer):
        alone()
    if tracer.sees_trace:
        added = {}
    is_local = False  # whether the parent is a span of this process, sharing the sampling decision
    if parent is None:
        scope = innermost()
        if scope is not None:
            is_local = scope._kind == SPAN and scope._generation == generation()
            base = scope._context if is_local else effective(scope)
    elif type(parent) is Span:
        given = parent
        if WITHOUT_GIL:
            own(given)
        base = given.context
        is_local = given._generation == generation()
        if not is_local:
            base = base.replace(is_remote=True)
    elif type(parent) is SpanContext:
        base = parent
    elif type(parent) is not Root:
        if WITHOUT_GIL:
            alone()
        misused(TypeError(f"parent must be a Span, a SpanContext or tracekit.ROOT, not {type_name(parent)}"))
        return _start(tracer, name, kind, attributes, items, links, None, start_ns)

    self = Span.__new__(Span)
    if not compiled:
        self._blank()
    self._generation = generation()
    self._owns_context = True
    self._tracer = tracer if tracer.kept is None else tracer.kept
    self._name = name
    self._kind = kind
    if base is None or not base._span or not base._high | base._low:  # none, or not valid
        self.context = tracer.root(base, name, kind, attributes, links, added)
        if scope is not None:
            linked = linked_context(scope)
    else:
        self.parent = base
        if (
            is_local
            and tracer.recording
            and not base._bits & (SAMPLED | DEFERRED)
            and (base._bits & SUPPRESSED or not tracer.records_all)
        ):
            # Not sampled, and inside a span that is not: never recorded, so it needs no identity.
            self.context = base
            self._owns_context = False
        elif not base._bits & DEFERRED:
            self.context = child_context(base, base._bits & (SAMPLED | RANDOM | SUPPRESSED), base._state)
        else:
            self.context = tracer.child(base, name, kind, attributes, links, added)
    if WITHOUT_GIL:
        start_one()
    elif compiled or HAS_GIL:
        _buffer.started += 1
    else:
        _buffer.start()
    if (tracer.recording and self.context._bits & SAMPLED) or (
        tracer.records_all and not self.context._bits & SUPPRESSED
    ):
        self._is_recorded = True
        if _watchers:
            enlist(self)
        self._distance = _anchor
        if start_ns is None:
            self._start = monotonic_ns() + _anchor if _clock is None else _ns(_clock())
        else:
            self._start = _ns(start_ns)
        if items is not None:
            self._put_all(items)
        if added:
            self._put_all(_items(added))
    if linked is not None:
        self.add_link(linked)
    if links is not _NO_LINKS:
        for target in links:
            self.add_link(target)
    if _observer is not None:
        _observer.started(self, parent)
    return self


def add_ended(span: Span) -> None:
    """Count *span*, which was filled with the values of an ended one, as started and ended, and hand it on."""
    _buffer.start()
    if span._tracer.hooks is not None:
        span._tracer.hooks.started(span, None)
    _process(span)
    if _observer is not None:
        _observer.started(span, span.parent)
        _observer.ended(span)


if not is_guarded():
    raise ImportError("tracekit's extension modules run without the GIL, but its setup.py did not compile them")
forbid_new(Span)
publish(Span, b"tracekit.Span")
quicken(Span, span, _unknown_keyword)
