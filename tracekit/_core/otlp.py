"""OTLP: finished spans as the octets of one ``ExportTraceServiceRequest``.

Field numbers: opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto, resource/v1/resource.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._version import SCHEMA_URL, __version__
from ..cython import compiled
from .attributes import CANCELLED_KEY
from .records import KINDS
from .span import Span, dropped_parts

_INTERNAL: Final = KINDS[0]

if not compiled:
    from .codecs import Entries, Octets
    from .span import CANCELLED, ERROR, OK

    HAS_IS_REMOTE: Final = 0x100
    IS_REMOTE: Final = 0x200

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .context import SpanContext
    from .tracer import Tracer

__all__ = ["encode_spans"]


def encode_spans(spans: Iterable[Span]) -> bytes:
    """Return *spans* as the octets of one OTLP ``ExportTraceServiceRequest``.

    https://opentelemetry.io/docs/specs/otlp/ - spans of one resource and one instrumentation are grouped, in their order.
    Without a place in OTLP: the status "cancelled", which is left unset, with its reason in the attribute ``tracekit.cancelled``; an int
    past 64 bits, written as text in hexadecimal; a lone surrogate, written as U+FFFD. Labels stay with the context.
    """
    out = Octets()
    # By the identity of the resource, and then of the instrumentation.
    groups: dict[int, dict[int, list[Any]]] = {}
    tracer: Tracer | None = None
    group: list[Any] = []
    for item in spans:
        if type(item) is not Span:
            raise TypeError(f"spans must hold spans, not {type(item).__name__}")
        span: Span = item
        if span._tracer is not tracer:
            tracer = span._tracer
            group = groups.setdefault(id(tracer.resource), {}).setdefault(id(tracer.instrumentation), [])
        group.append(span)
    for by_instrumentation in groups.values():
        _put_resource_spans(out, list(by_instrumentation.values()))
    return bytes(out)


def _put_resource_spans(out: Octets, groups: list[list[Any]]) -> None:
    resource_spans = out.open(0x0A)
    part = out.open(0x0A)
    # A key may be a StrEnum, say, and Octets take plain text only.
    out.attributes(0x0A, {str.__str__(key): value for key, value in groups[0][0].resource.items()})
    out.close(part)
    for group in groups:
        _put_scope_spans(out, group)
    out.name(0x1A, SCHEMA_URL)
    out.close(resource_spans)


def _put_scope_spans(out: Octets, spans: list[Any]) -> None:
    library = spans[0].instrumentation
    part = out.open(0x12)
    scope = out.open(0x0A)
    out.name(0x0A, "tracekit" if library is None else library.name)
    out.name(0x12, __version__ if library is None else library.version)
    if library is not None:
        out.attributes(0x1A, dict(library.attributes))
    out.close(scope)
    for span in spans:
        _put_span(out, span)
    if library is not None:
        out.name(0x1A, library.schema_url)
    out.close(part)


def _put_span(out: Octets, span: Span) -> None:
    whole = out.open_long(0x12)
    parent = span.parent
    _put_ids(out, span.context)
    if parent is not None and parent._span:
        out.span_id(0x22, parent._span)
    out.name(0x2A, span._name)
    out.number(0x30, 1 if span._kind is _INTERNAL else KINDS.index(span._kind) + 1)
    out.time(0x39, span._start)
    out.time(0x41, span._stop)
    if span._attributes is not None:
        out.items(0x4A, span._attributes)
    if span._status == CANCELLED:
        out.attribute(0x4A, CANCELLED_KEY, span._description or "")
    if span.dropped_attributes:
        out.number(0x50, dropped_parts(span)[0])
    if span._events is not None:
        _put_events(out, span._events)
    out.number(0x60, span.dropped_events)
    if span._links is not None:
        _put_links(out, span._links)
    out.number(0x70, span.dropped_links)
    if span._status == OK or span._status == ERROR:
        part = out.open(0x7A)
        if span._status == ERROR and span._description is not None:
            out.name(0x12, span._description)
        out.number(0x18, 1 if span._status == OK else 2)
        out.close(part)
    out.flags(
        0x85, span.context._bits & 0xFF | HAS_IS_REMOTE | (IS_REMOTE if parent is not None and parent._remote else 0)
    )
    out.close_long(whole)


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
        _put_ids(out, target)
        items = links.items(at)
        if items is not None:
            out.items(0x22, items)
            out.number(0x28, items.left_out)
        out.flags(0x35, _flags(target))
        out.close(part)


def _flags(context: SpanContext) -> int:
    return context._bits & 0xFF | HAS_IS_REMOTE | (IS_REMOTE if context._remote else 0)


def _put_ids(out: Octets, context: SpanContext) -> None:
    out.trace_id(0x0A, context._high, context._low)
    out.span_id(0x12, context._span)
    if context._state is not None:
        out.text(0x1A, context._state)
