"""What is current, and the three ways to make something so: a span, a remote context, labels."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._core.labels import NO_LABELS, Labels, make_labels, parse_labels
from ._core.tracestate import TraceState, make_state
from ._core.twin import (
    Span,
    SpanContext,
    current_context,
    current_span,
    make_context,
    set_values,
    use_scope,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = [
    "current_context",
    "current_labels",
    "current_span",
    "from_context",
    "new_context",
    "use_context",
    "use_labels",
    "use_span",
]

_SPAN, _CONTEXT, _LABELS = 0, 1, 2


def use_span(span: Span) -> AbstractContextManager[Span]:
    """Make *span* current inside ``with``, without ending it."""
    if not isinstance(span, Span):
        raise TypeError(f"span must be a Span, not {type(span).__name__}")
    return use_scope(_SPAN, span, span.context, None)  # type: ignore[return-value]


def use_context(context: SpanContext | None) -> AbstractContextManager[SpanContext | None]:
    """Make *context*, its ids and labels, current inside ``with``; None makes nothing current: a clean slate."""
    if context is not None and not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext or None, not {type(context).__name__}")
    return use_scope(_CONTEXT, None, context, None)  # type: ignore[return-value]


def use_labels(mapping: Mapping[str, str] | None = None, /, **labels: str) -> AbstractContextManager[Labels]:
    """Add labels to those in force inside ``with``: here, and in every service that is called from here.

    Keys are RFC 7230 tokens and values text; of equal keys the newest wins. Raises ``TypeError`` or
    ``ValueError`` for others.
    """
    if mapping is not None and not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a mapping, not {type(mapping).__name__}")
    added = Labels(mapping or {})
    return use_scope(_LABELS, None, None, added.merge(labels) if labels else added)  # type: ignore[return-value]


def current_labels() -> Labels:
    """Return the labels in force here."""
    context = current_context()
    return NO_LABELS if context is None else context.labels


def new_context(span: Span) -> contextvars.Context:
    """Return a copy of the running ``contextvars.Context`` in which *span* is current."""
    scope = use_span(span)
    context = contextvars.copy_context()
    context.run(scope.__enter__)
    return context


def from_context(context: contextvars.Context) -> Span | None:
    """Return the span that is current in *context*, or None."""
    if not isinstance(context, contextvars.Context):
        raise TypeError(f"context must be a contextvars.Context, not {type(context).__name__}")
    try:
        return context.run(current_span)
    except RuntimeError:  # it is running already, here or in another thread
        return context.copy().run(current_span)


def _restore_context(
    id: bytes, flags: int, state: str, labels: str, is_remote: bool, extra: dict[str, Any] | None = None
) -> SpanContext:
    """Rebuild a pickled SpanContext."""
    return make_context(id, flags, str(TraceState.parse(state)), Labels.parse(labels) or None, is_remote, extra)


set_values(NO_LABELS, parse_labels, make_labels, TraceState, make_state, _restore_context)
