"""The current context, and the three ways to set it: a span, a remote context, labels."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ._core.context import SpanContext
from ._core.guard import acts_as, is_a, type_name
from ._core.labels import NO_LABELS, Labels
from ._core.misuse import misused
from ._core.scopes import context_scope, current_context, current_span, label_scope
from ._core.span import Span, span_scope

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Never


def use_span(span: Span) -> AbstractContextManager[Span]:
    """Make *span* current inside ``with``, without ending it."""
    if not is_a(span, Span):
        misused(TypeError(f"span must be a Span, not {type_name(span)}"))
        return nullcontext(span)
    return span_scope(span)


def use_context(context: SpanContext | None) -> AbstractContextManager[SpanContext | None]:
    """Make *context*, its ids and labels, current inside ``with``; with None nothing is current."""
    if context is not None and not is_a(context, SpanContext):
        misused(TypeError(f"context must be a SpanContext or None, not {type_name(context)}"))
        return nullcontext(context)
    return context_scope(context)


def use_labels(
    mapping: Mapping[str, str] | None = None, /, *wrong: Never, **labels: str
) -> AbstractContextManager[Labels]:
    """Add labels inside ``with``, for this process and every service called from it.

    Keys are RFC 7230 tokens and values text; of equal keys the newest wins. Invalid labels are left out and reported
    once per call site; strict mode raises.
    """
    if wrong:
        misused(TypeError("use_labels() takes labels by name, or one mapping: use_labels(tenant='acme')"))
        mapping = None
    if mapping is not None and not acts_as(mapping, Mapping):
        misused(TypeError(f"mapping must be a mapping, not {type_name(mapping)}"))
        mapping = None
    added = NO_LABELS if mapping is None else _usable(mapping)
    return label_scope(added.merge(_usable(labels)) if labels else added)


def _usable(labels: Mapping[str, str]) -> Labels:
    """Return the valid ones of *labels*; report the others."""
    try:
        return Labels(labels)
    except Exception as error:
        misused(error)
    usable = NO_LABELS
    try:
        for key, value in list(labels.items()):
            try:
                usable = usable.merge({key: value})
            except (TypeError, ValueError):
                pass
    except Exception:  # a custom mapping
        pass
    return usable


def current_labels() -> Labels:
    """Return the labels in force here."""
    context = current_context()
    return NO_LABELS if context is None else context.labels


def new_context(span: Span) -> contextvars.Context:
    """Return a copy of the running ``contextvars.Context`` in which *span* is current."""
    scope: Any = use_span(span)
    context = contextvars.copy_context()
    context.run(scope.__enter__)
    return context


def from_context(context: contextvars.Context) -> Span | None:
    """Return the span that is current in *context*, or None."""
    if not is_a(context, contextvars.Context):
        misused(TypeError(f"context must be a contextvars.Context, not {type_name(context)}"))
        return None
    try:
        span: Span | None = context.run(current_span)
    except RuntimeError:  # the Context is running already, here or in another thread
        span = context.copy().run(current_span)
    return span
