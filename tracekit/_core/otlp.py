"""OTLP: finished spans as the octets of one ``ExportTraceServiceRequest``.

Field numbers: opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto, resource/v1/resource.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._version import SCHEMA_URL, __version__
from ..cython import binding, cclass, compiled, final, nonecheck
from .attributes import CANCELLED_KEY
from .buffer import buffer
from .records import KINDS
from .span import Span, dropped_parts

_INTERNAL: Final = KINDS[0]

if not compiled:
    from .codecs import Entries, Octets
    from .free_threading import WITHOUT_GIL
    from .span import CANCELLED, ERROR, OK

    HAS_IS_REMOTE: Final = 0x100
    IS_REMOTE: Final = 0x200
    _PORTION: Final = 256  # the load between two pauses: 0.02 ms, or 0.1 ms where nothing is in the cache
    _LARGE: Final = 512  # octets of a span that count as much as another span
    _FEW: Final = 8
    _COPIED: Final = 1024  # octets that are copied in the time in which a span is encoded
    _GROUP: Final = 32

PORTION: Final = _PORTION
GROUP: Final = _GROUP  # spans that the thread which ends the last of them encodes
# In Python a group would hold up that thread. Where the core can run without the GIL, also if the GIL is on, each thread
# has its own spans, and the exporting thread encodes.
IS_QUICK: Final = compiled and not WITHOUT_GIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .context import SpanContext
    from .tracer import Tracer


_buffer = buffer


@final
@binding(False)
@cclass
class Run:
    """Encoded spans of one tracer, *count* of them, to be put into a request by ``encode_spans()``."""

    if not compiled:
        __slots__ = ("_tracer", "count", "octets")

    def __init__(self, tracer: Tracer, octets: bytes, count: int) -> None:
        self._tracer = tracer
        self.octets = octets
        self.count = count


@final
@binding(False)
@cclass
class Encoder:
    """Encodes spans in the threads that end them, *most* at once, until the exporting thread takes them.

    The spans are then still in the processor's cache, and their memory goes to the next ones. With the GIL no other
    thread runs during a call, but before CPython 3.12 a garbage collection may, and with it finalizers that end spans.
    """

    if not compiled:
        __slots__ = ("_items", "_most", "busy", "count", "group", "is_lost", "is_open", "taken")

    def __init__(self, most: int) -> None:
        self._items: list[Any] = []  # runs, and spans that could not be encoded
        self._most = most
        self.group = min(_GROUP, most >> 1)  # spans that are encoded at a time, or a few more
        self.count = 0  # spans in them
        self.busy = 0  # spans that a call under this one encodes
        self.taken = 0  # spans that take() took and its caller has not counted yet: it sets this to 0
        self.is_open = True  # whether it encodes further spans
        self.is_lost = False  # whether those that it had have been counted as lost

    def work(self) -> bool:
        """Encode the waiting spans, if they are a group; return whether the exporting thread has something to do."""
        # First: they may collect garbage, and a finalizer may close this, or fork.
        items: list[Any] = []
        fresh: list[Any] = []
        count = len(_buffer)
        if count < self.group or count > 2 * self.group or self.count + self.busy >= self._most or not self.is_open:
            return True
        if compiled:
            spans: list[Any] = _buffer._spans
            _buffer._spans = fresh
        else:
            spans = _buffer.drain()
        self.busy += count
        try:
            _put_runs(items, spans)
        except Exception:
            items = spans  # the exporting thread finds the one that cannot be encoded
        if not self.is_lost:
            try:
                self._items += items
                self.count += count
                _buffer.taken += count
            except MemoryError:
                _buffer.dropped += count
        self.busy -= count
        return self.count >= self._most

    def take(self) -> list[Any]:
        """Take out everything, ``taken`` spans: ``Run`` objects, and spans that could not be encoded."""
        fresh: list[Any] = []  # first: it may collect garbage
        items = self._items
        self._items = fresh
        self.taken += self.count
        self.count = 0
        return items

    def lose(self) -> int:
        """Encode nothing and take in nothing from now on; return the number of spans that are lost with it."""
        self.is_open = False
        self.is_lost = True
        return self.count + self.busy + self.taken


def _put_runs(runs: list[Any], spans: list[Any]) -> None:
    """Append *spans*, at least one, to *runs*, encoded: a run for each tracer. Beyond a portion's load, append the spans.

    So are spans of traces that are not sampled: they were recorded for readers, and the exporting thread leaves them out.
    """
    first: Span = spans[0]
    tracer = first._tracer
    records_all = tracer.records_all
    run, out = Run(tracer, b"", 0), Octets()
    made, outs = [run], [out]
    load = place = 0
    for at in range(len(spans)):
        span: Span = spans[at]
        if span._tracer is not tracer:
            tracer = span._tracer
            records_all = tracer.records_all
            for place in range(len(made)):
                run, out = made[place], outs[place]
                if run._tracer is tracer:
                    break
            else:
                run, out = Run(tracer, b"", 0), Octets()
                made.append(run)
                outs.append(out)
        if records_all and not span.context.sampled:
            runs.append(span)
            continue
        run.count += 1
        load += 1 + _put_span(out, span) // _LARGE
        if load >= _PORTION:
            runs += spans[at + 1 :]
            break
    for place in range(len(made)):
        run = made[place]
        if run.count:
            run.octets = bytes(outs[place])
            runs.append(run)


@nonecheck(True)
def split_run(run: Run) -> list[Run]:
    """Return a run for each span of *run*."""
    runs: list[Run] = []
    octets = run.octets
    at = 0
    while at < len(octets):
        begin, size, shift = at, 0, 0
        while True:
            at += 1
            size |= (octets[at] & 0x7F) << shift
            shift += 7
            if octets[at] < 0x80:
                break
        at += 1 + size
        runs.append(Run(run._tracer, octets[begin:at], 1))
    return runs


def encode_spans(spans: Iterable[Span | Run], pause: Callable[[], object] | None = None) -> bytes:
    """Return *spans* as the octets of one OTLP ``ExportTraceServiceRequest``.

    https://opentelemetry.io/docs/specs/otlp/ - spans of one resource and one instrumentation are grouped, in their order.
    Without a place in OTLP: the status "cancelled", which is left unset, with its reason in the attribute ``tracekit.cancelled``; an int
    past 64 bits, written as text in hexadecimal; a lone surrogate, written as U+FFFD. Labels stay with the context.
    *pause* is called between ``PORTION`` spans, or fewer where they are large: it may give the GIL to other threads.
    """
    out = Octets()
    # The keys are the id() of the resource, then that of the instrumentation.
    groups: dict[int, dict[int, list[Any]]] = {}
    tracers: list[Any] = []  # the first ones, and their groups: spans of a few tracers alternate
    their_groups: list[list[Any]] = []
    tracer: Tracer | None = None
    group: list[Any] = []
    size = 0  # of the runs
    for item in spans:
        if type(item) is Span:
            span: Span = item
            own = span._tracer
        elif type(item) is Run:
            run: Run = item
            own = run._tracer
            size += len(run.octets)
        else:
            raise TypeError(f"spans must hold spans, not {type(item).__name__}")
        if own is not tracer:
            tracer = own
            for at in range(len(tracers)):
                if tracers[at] is tracer:
                    group = their_groups[at]
                    break
            else:
                group = groups.setdefault(id(tracer.resource), {}).setdefault(id(tracer.instrumentation), [])
                if len(tracers) < _FEW:
                    tracers.append(tracer)
                    their_groups.append(group)
        group.append(item)
    if size:
        out.need(size + _COPIED)  # at once: a buffer that grows is moved, for which the program would wait
    load = 0
    for by_instrumentation in groups.values():
        load = _put_resource_spans(out, list(by_instrumentation.values()), load, pause)
    return bytes(out)


def _put_resource_spans(out: Octets, groups: list[list[Any]], load: int, pause: Any) -> int:
    width = _width(sum([_count(group) for group in groups]))
    resource_spans = out.open_wide(0x0A, width)
    part = out.open(0x0A)
    # A key may be a StrEnum, say, and Octets take plain text only.
    out.attributes(0x0A, {str.__str__(key): value for key, value in _tracer_of(groups[0][0]).resource.items()})
    out.close(part)
    for group in groups:
        load = _put_scope_spans(out, group, load, pause)
    out.name(0x1A, SCHEMA_URL)
    out.close_wide(resource_spans, width)
    return load


def _put_scope_spans(out: Octets, spans: list[Any], load: int, pause: Any) -> int:
    """Write *spans*, of one instrumentation; take and return the load of the spans since the last pause."""
    library = _tracer_of(spans[0]).instrumentation
    width = _width(_count(spans))
    part = out.open_wide(0x12, width)
    scope = out.open(0x0A)
    out.name(0x0A, "tracekit" if library is None else library.name)
    out.name(0x12, __version__ if library is None else library.version)
    if library is not None:
        out.attributes(0x1A, dict(library.attributes))
    out.close(scope)
    for item in spans:
        if load >= _PORTION:
            load = 0
            if pause is not None:
                pause()
        if type(item) is Span:
            load += 1 + _put_span(out, item) // _LARGE
        else:
            run: Run = item
            out.append(run.octets)
            load += 1 + len(run.octets) // _COPIED
    if library is not None:
        out.name(0x1A, library.schema_url)
    out.close_wide(part, width)
    return load


def _tracer_of(item: Any) -> Tracer:
    if type(item) is Span:
        span: Span = item
        return span._tracer
    run: Run = item
    return run._tracer


def _count(items: list[Any]) -> int:
    count = 0
    for item in items:
        if type(item) is Span:
            count += 1
        else:
            run: Run = item
            count += run.count
    return count


def _width(count: int) -> int:
    """Guess how many octets the size of a message of *count* spans takes."""
    return 2 if count < 100 else 3


def _put_span(out: Octets, span: Span) -> int:
    """Write *span*; return the number of its octets."""
    parent = 0 if span.parent is None else span.parent._span
    whole = out.open_span(
        span.context._high,
        span.context._low,
        span.context._span,
        span.context._state,
        parent,
        span._name,
        1 if span._kind is _INTERNAL else _number_of(span._kind),
        span._start,
        span._stop,
    )
    if span._attributes is not None:
        out.items(0x4A, span._attributes)
    if span._status == CANCELLED:
        out.attribute(0x4A, CANCELLED_KEY, span._description or "")
    if span.dropped_attributes:
        out.number(0x50, dropped_parts(span)[0])
    if span._events is not None:
        _put_events(out, span._events)
    if span.dropped_events:
        out.number(0x60, span.dropped_events)
    if span._links is not None:
        _put_links(out, span._links)
    if span.dropped_links:
        out.number(0x70, span.dropped_links)
    if span._status == OK or span._status == ERROR:
        part = out.open(0x7A)
        if span._status == ERROR and span._description is not None:
            out.name(0x12, span._description)
        out.number(0x18, 1 if span._status == OK else 2)
        out.close(part)
    is_remote = span.parent is not None and span.parent._remote
    return out.close_span(whole, span.context._bits & 0xFF | HAS_IS_REMOTE | (IS_REMOTE if is_remote else 0))


def _number_of(kind: Any) -> int:
    """Return OTLP's number of *kind*, which is one of ``KINDS``; by comparing texts only where it is another object."""
    for at in range(len(KINDS)):
        if KINDS[at] is kind:
            return at + 1
    return KINDS.index(kind) + 1


def _put_events(out: Octets, events: Entries) -> None:
    for at in range(events.count()):
        part = out.open(0x5A)
        out.time(0x09, events.number(at))
        out.name(0x12, events.head(at))
        items = events.items(at)
        if items is not None:
            out.items(0x1A, items)
            out.number(0x20, items.left_out)
        out.close(part)


def _put_links(out: Octets, links: Entries) -> None:
    for at in range(links.count()):
        part = out.open(0x6A)
        target = links.head(at)
        out.ids(target._high, target._low, target._span, target._state)
        items = links.items(at)
        if items is not None:
            out.items(0x22, items)
            out.number(0x28, items.left_out)
        out.flags(0x35, _flags(target))
        out.close(part)


def _flags(context: SpanContext) -> int:
    return context._bits & 0xFF | HAS_IS_REMOTE | (IS_REMOTE if context._remote else 0)
