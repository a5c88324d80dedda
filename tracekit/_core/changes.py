# cython: nonecheck=True
"""Changes of a span by its tracer: bridges to other APIs, integrations and the tail sampler make them."""

from __future__ import annotations

from ..cython import compiled
from .context import SpanContext, ids_of
from .guard import type_name
from .labels import Labels
from .records import STATUS_CODES, Status
from .span import Span
from .tracestate import make_state

if not compiled:
    from .context import from_words, new_span_id, with_labels
    from .interpreter import RANDOM, SAMPLED, lent
    from .scopes import put_context
    from .span import UNSET, enlist, index_of, known_kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def amend(span: Span, name: str | None, attributes: dict[str, Any] | None, status: Status | None) -> None:
    """Replace fields of *span*, which may have ended, for the hooks; the exporter gets it afterwards. None: unchanged."""
    if not span._is_recorded:
        return
    if name is not None:
        span._name = name
    if attributes is not None:
        span._attributes = span._clean(attributes, span._tracer.max_attributes, span._tracer.max_value)
    if status is not None:
        span._status = max(index_of(STATUS_CODES, status.code, "code"), UNSET)
        span._description = status.description[: span._tracer.max_value]


def rekind(span: Span, kind: str) -> None:
    """Give *span*, which is open, another kind."""
    if span._is_recorded and not span._has_ended:
        span._kind = known_kind(kind)


def relabel(span: Span, labels: Labels) -> None:
    """Give *span* other labels, for the children that start from now on, and where ``with span:`` made it current."""
    if not isinstance(labels, Labels):
        raise TypeError(f"labels must be Labels, not {type_name(labels)}")
    _put_context(span, with_labels(span.context, labels))


def resample(span: Span, sampled: bool, start_ns: int | None = None) -> None:
    """Take another sampling decision about *span*, which is open, and so about children that start from now on.

    A span that becomes sampled starts now or at *start_ns*, and has no attributes. The number of traces that it stands
    for is no longer known, so its tracestate loses the threshold.
    """
    base = span.context
    if span._has_ended or (sampled and not span._tracer.recording) or sampled == bool(base._bits & SAMPLED):
        return
    bits = (base._bits & RANDOM) | (SAMPLED if sampled else 0)
    state = None if base._state is None else make_state(base._state).decided("") or None
    # An unsampled span may share its parent's context.
    id = base._span if span._owns_context else new_span_id()
    span._owns_context = True
    _put_context(span, from_words(base._high, base._low, id, bits, state, base._labels, False, base._extra))
    if sampled and not span._start:
        span._begin(start_ns)
    span._is_recorded = sampled or (span._is_recorded and span._tracer.records_all)
    if span._is_recorded:
        enlist(span)


def _put_context(span: Span, context: SpanContext) -> None:
    span.context = context
    scope = lent(span._scope)
    while scope is not None:
        put_context(scope, context)
        scope = scope._outer


def retrace(span: Span, context: SpanContext) -> None:
    """Give *span*, which has ended, another context with the same ids: one whose tracestate says more."""
    if not isinstance(span, Span):
        raise TypeError(f"span must be a Span, not {type(span).__name__}")
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    if not span._has_ended:
        raise ValueError("span must have ended")
    if ids_of(span.context) != ids_of(context):
        raise ValueError("context must have the span's ids")
    span.context = context
