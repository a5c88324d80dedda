"""Wire formats: how a context is written to a carrier and read from it.

A format is a module constant with ``fields``, a strict ``read`` and a ``write``. ``tracekit.extract`` and
``tracekit.inject`` combine the configured formats and are lenient. A format pickles as its constant, so that worker
processes use the formats of their parent.

A value that a format cannot express is omitted and counted in the format's ``left_out``. Values longer than 16,448
octets are cut before ``read`` sees them; every format rejects a value of that length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["Format"]


class Format(Protocol):
    """A wire format.

    One of the program's own gets a mapping for every carrier. That of ``read`` has the fields that the carrier has, by
    their names in ``fields``: each a text, or the list of its texts where it is repeated.
    """

    @property
    def name(self) -> str:
        """The name of the format in OTEL_PROPAGATORS."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the carrier fields that the format reads and writes, in lower case."""

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in *carrier*, or None without any field; raise ``FormatError`` for malformed fields."""

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the fields of *context* in *carrier*, and remove the fields that *context* has no value for."""
