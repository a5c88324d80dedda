"""Wire formats: how a context is written to and read from a carrier.

A format is a module constant with ``fields``, a strict ``read`` and a ``write``. ``extract`` and
``inject`` in ``tracekit`` put the configured ones together and are lenient. A format pickles as the constant that it
is, so that worker processes use what their parent does. What a context has and a format could carry but for its value
is left out, and counted in ``left_out`` of the formats to which that can happen. Of a field's octets past 16,448 the
rest never reaches ``read``, which is to refuse a value of that length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .._core.twin import SpanContext

__all__ = ["Format"]


class Format(Protocol):
    """One wire format."""

    @property
    def name(self) -> str:
        """The name that OTEL_PROPAGATORS uses for it."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The lowercase names of the carrier's fields that it reads and writes."""

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in *carrier*, None if it has none of the fields; raise ``FormatError`` if they are bad."""

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the fields of *context* in *carrier*, and take out those that it has no value for."""
