"""What is current, and the three ways to make something so: a span, a remote context, labels."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._core.context import SpanContext
from ._core.labels import NO_LABELS, Labels
from ._core.scopes import context_scope, current_context, current_span, label_scope
from ._core.span import Span, span_scope

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


def use_span(span: Span) -> AbstractContextManager[Span]:
    """Make *span* current inside ``with``, without ending it."""
    if not isinstance(span, Span):
        raise TypeError(f"span must be a Span, not {type(span).__name__}")
    return span_scope(span)


def use_context(context: SpanContext | None) -> AbstractContextManager[SpanContext | None]:
    """Make *context*, its ids and labels, current inside ``with``; None makes nothing current: a clean slate."""
    if context is not None and not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext or None, not {type(context).__name__}")
    return context_scope(context)


def use_labels(mapping: Mapping[str, str] | None = None, /, **labels: str) -> AbstractContextManager[Labels]:
    """Add labels to those in force inside ``with``: here, and in every service that is called from here.

    Keys are RFC 7230 tokens and values text; of equal keys the newest wins. Raises ``TypeError`` or
    ``ValueError`` for others.
    """
    if mapping is not None and not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a mapping, not {type(mapping).__name__}")
    added = Labels(mapping or {})
    return label_scope(added.merge(labels) if labels else added)


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
        span: Span | None = context.run(current_span)
    except RuntimeError:  # it is running already, here or in another thread
        span = context.copy().run(current_span)
    return span
