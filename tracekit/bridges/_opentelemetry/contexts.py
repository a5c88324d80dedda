# cython: nonecheck=True
"""Conversion of span contexts and baggage between tracekit and OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import NonRecordingSpan, TraceFlags
from opentelemetry.trace.span import DEFAULT_TRACE_STATE, TraceState
from opentelemetry.trace.span import SpanContext as OtelContext

from ..._core.attributes import MISSING, clean
from ..._core.codecs import is_label_key
from ..._core.context import SpanContext, ids_of, make_context
from ..._core.labels import Labels, later_labels
from ..._core.records import DEFAULT_LIMITS
from ..._core.tracestate import TraceState as State
from ...cython import compiled

if not compiled:
    from ..._core.context import with_labels
    from ..._core.guard import is_a
    from ..._core.interpreter import DEFERRED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Link as OtelLink

_FLAGS = tuple([TraceFlags(bits) for bits in range(256)])

# OpenTelemetry's SpanContext is a tuple. Making it as one skips its checks, where its fields are those known here.
_IS_TUPLE = (
    issubclass(OtelContext, tuple)
    and isinstance(OtelContext(1, 2, True), tuple)
    and tuple(OtelContext(1, 2, True)) == (1, 2, True, TraceFlags(0), DEFAULT_TRACE_STATE, True)
)


_new: Any = object.__new__


class RemoteSpan(NonRecordingSpan):
    """A parent in another process, with tracekit's SpanContext whole: flags, vendor words, a decision left open."""

    __slots__ = ("tracekit_context",)

    tracekit_context: SpanContext

    def __init__(self) -> None:
        raise TypeError("made by remote_span()")

    def get_span_context(self) -> OtelContext:
        return to_otel(self.tracekit_context)  # type: ignore[no-any-return]

    _context = property(get_span_context)


def remote_span(context: SpanContext) -> RemoteSpan:
    made = _new(RemoteSpan)
    made.tracekit_context = context
    return made  # type: ignore[no-any-return]


def to_otel(context: SpanContext) -> Any:
    """Return OpenTelemetry's form of *context*, the same object at every call."""
    face = context._face
    if face is None:
        trace_id, span_id = ids_of(context)
        flags = _FLAGS[context._bits & 0xFF]
        state = DEFAULT_TRACE_STATE if context._state is None else TraceState.from_header([context._state])
        is_remote = bool(context._remote)
        if _IS_TUPLE:
            fields = (trace_id, span_id, is_remote, flags, state, trace_id != 0 and span_id != 0)
            face = tuple.__new__(OtelContext, fields)
        else:
            face = OtelContext(trace_id, span_id, is_remote, flags, state)
        context._face = face
    return face


def from_otel(face: Any) -> SpanContext | None:
    """Return tracekit's form of an OpenTelemetry SpanContext, or None where *face* is not one that can be used."""
    try:
        trace_id, span_id = int(face.trace_id), int(face.span_id)
        id = trace_id.to_bytes(16) + span_id.to_bytes(8)
        given = face.trace_state or ""
        state = str(State.parse(given if isinstance(given, str) else given.to_header())) if given else ""
        flags = int(face.trace_flags) & 0xFF if trace_id and span_id else DEFERRED
        context = make_context(id, flags, state, None, bool(face.is_remote))
    except Exception:  # a mock of a test, another implementation of the API
        return None
    if type(face) is OtelContext and type(face.trace_state) is TraceState:
        context._face = face
    return context


def relabelled(context: SpanContext | None, labels: Labels | None) -> SpanContext | None:
    """Return *context* with *labels* in place of those it has; its OpenTelemetry form stays the same object."""
    if (None if context is None else context._labels) is labels:
        return context
    return with_labels(context, labels)


def labels_of(baggage: Any, before: Labels | None) -> Labels | None:
    """Return *baggage* as labels, or None if there are none; those that are as in *before* keep their properties.

    A label's key is an RFC 7230 token and its value text: other keys stay inside the process. Where all is text, the labels
    are made when something asks for them.
    """
    if type(baggage) is dict:
        given = baggage
        is_any = False
        for key, value in given.items():
            if type(key) is not str or type(value) is not str:
                return _labels_now(baggage, before)
            is_any = is_any or is_label_key(key)
        return later_labels(_labels_now, given.copy(), before) if is_any else None
    return _labels_now(baggage, before)


def _labels_now(baggage: Mapping[str, object], before: Labels | None) -> Labels | None:
    wanted = _texts(baggage)
    if not before:
        return Labels(wanted) or None
    if wanted == before:
        return before
    labels = before.without(*[key for key in before if wanted.get(key) != before[key]])
    changed = {key: value for key, value in wanted.items() if before.get(key) != value}
    return (labels.merge(changed) if changed else labels) or None


def originals(labels: Labels, baggage: Mapping[str, object] | None) -> dict[str, object]:
    """Return *labels* as baggage, with the objects of *baggage* if the labels were made from them."""
    if not baggage:
        return dict(labels)
    texts = _texts(baggage)
    return {key: baggage[key] if texts.get(key) == value else value for key, value in labels.items()}


def _texts(baggage: Mapping[str, object]) -> dict[str, str]:
    texts: dict[str, str] = {}
    try:
        for key, value in baggage.items():
            if is_a(key, str) and is_label_key(key):
                texts[key] = str(value)
    except Exception:  # not a mapping, or a value without a text
        pass
    return texts


def attributes_of(attributes: Any) -> dict[str, Any] | None:
    """Return the attributes that have a key, or None; OpenTelemetry drops the others without an error."""
    if attributes is None:
        return None
    if type(attributes) is dict:
        given = attributes
        for key in given:
            if type(key) is not str or not key:
                break
        else:
            return given
    try:
        return {str.__str__(key): value for key, value in attributes.items() if is_a(key, str) and key}
    except Exception:  # not a mapping
        return None


def plain_attributes(attributes: Any) -> dict[str, Any]:
    """Return the attributes of a library, in the kinds that a span's attributes have."""
    cleaned = {
        key: clean(value, DEFAULT_LIMITS.value_length)[0] for key, value in (attributes_of(attributes) or {}).items()
    }
    return {key: value for key, value in cleaned.items() if value is not MISSING}


def link_of(link: OtelLink) -> tuple[SpanContext, dict[str, Any]] | None:
    """Return the target and the attributes of an OpenTelemetry Link, or None where it has nothing to tell."""
    try:
        target = link.context
        if not (target.is_valid or link.attributes or target.trace_state):
            return None
        context = from_otel(target)
        return None if context is None else (context, attributes_of(link.attributes) or {})
    except Exception:
        return None
