"""Contexts in and out of carriers, through every configured format; lenient where formats are strict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ._accel import Span, SpanContext, current_context
from ._errors import FormatError
from .wire.w3c import BAGGAGE, TRACECONTEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .wire import Format

__all__ = ["extract", "inject"]

C = TypeVar("C")

DEFAULT_FORMATS: Sequence[Format] = (TRACECONTEXT, BAGGAGE)
_formats: Sequence[Format] = DEFAULT_FORMATS


def set_formats(formats: Sequence[Format]) -> None:
    """Read and write *formats*, in this order, from now on."""
    global _formats
    _formats = formats


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
    found: SpanContext | None = None
    for format in _formats:
        try:
            context = format.read(carrier)
        except FormatError:
            continue
        if context is None:
            continue
        if found is None:
            found = context
        elif found.is_valid or not context.is_valid:
            found = found.replace(labels=found.labels.merge(context.labels))
        else:
            found = context.replace(labels=found.labels.merge(context.labels))
    return found


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
    for format in _formats:
        format.write(context, carrier)
    return carrier
