"""Several formats at once: what ``extract()`` and ``inject()`` of the twins call where more than W3C is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._accel import SpanContext, extract, inject, set_formats
from ._errors import FormatError
from .wire.w3c import BAGGAGE, TRACECONTEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .wire import Format

__all__ = ["extract", "formats", "inject", "use_formats"]

DEFAULT_FORMATS: Sequence[Format] = (TRACECONTEXT, BAGGAGE)
_formats: Sequence[Format] = DEFAULT_FORMATS


def formats() -> Sequence[Format]:
    """Return the formats in use."""
    return _formats


def use_formats(formats: Sequence[Format]) -> None:
    """Read and write *formats*, in this order, from now on."""
    global _formats
    _formats = formats
    if tuple(formats) == DEFAULT_FORMATS:
        set_formats()  # the twins have these two in one
    else:
        set_formats(_read, _write)


def _read(carrier: Any) -> SpanContext | None:
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


def _write(context: SpanContext, carrier: Any) -> None:
    for format in _formats:
        format.write(context, carrier)
