"""Several formats at once: what ``extract()`` and ``inject()`` of the twins call where more than W3C is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._accel import SpanContext, extract, inject, set_formats
from ._errors import FormatError
from .wire.w3c import BAGGAGE, TRACECONTEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .wire import Format

__all__ = ["environ_of", "extract", "extract_environ", "formats", "inject", "use_formats"]

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


def extract_environ(environ: Mapping[str, str]) -> SpanContext | None:
    """Return the context that *environ* holds: ``TRACEPARENT`` and so on, the formats' fields in upper case."""
    carrier: dict[str, str] = {}
    for format in _formats:
        for field in format.fields:
            value = environ.get(_variable(field))
            if value is not None:
                carrier[field] = value
    return extract(carrier) if carrier else None


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of *environ* that names what is current here; where nothing is, a plain copy."""
    variables = dict(environ)
    carrier: dict[str, str] = inject({})
    if carrier:
        for format in _formats:
            for field in format.fields:
                variables.pop(_variable(field), None)
        variables.update((_variable(field), value) for field, value in carrier.items())
    return variables


def _variable(field: str) -> str:
    # https://opentelemetry.io/docs/specs/otel/context/env-carriers/
    return field.upper().replace("-", "_")


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
