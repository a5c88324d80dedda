"""The header in the Go Tracing Roadmap of 2017. This docstring is its only specification.

    Trace-Id = trace-id "/" span-id [ ";" [ "o=" [ options ] ] ]
    trace-id = 32hex                                  ; not all zeros; read in either case, written in lower case
    span-id  = 1*16hex                                ; likewise; written without leading zeros
    options  = 1*3DIGIT                               ; bit 0: sampled; absent: undecided

The span id is in hex, unlike in ``X-Cloud-Trace-Context``, which looks the same and has it in decimal: only the name of
the header tells them apart. Options above 1 are kept as ``extra["seed"]`` and written again unchanged as long as the
decision is the same; kept options that no header can hold are omitted and counted in ``left_out``. Not among the
default formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import parse_hex
from .._core.context import ids_of
from .._core.errors import FormatError
from ._values import Slashed, bad_hex

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["SEED"]


class _Seed(Slashed):
    name: str = "seed"
    fields: tuple[str, ...] = ("trace-id",)
    _max_chars = 32 + 1 + 16 + 3 + 3

    def _span_id(self, text: str, slash: str, span: str) -> int:
        span_id = parse_hex(span.lower().rjust(16, "0"), 16)
        if not span_id:
            reason = "the span id must be 1 to 16 hex digits, not all zeros"
            raise FormatError(self._field, reason, text, bad_hex(span, 34) or 33 + len(slash))
        return span_id

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* is valid, otherwise remove it."""
        self._put(context, carrier, f"{context.trace_id}/{ids_of(context)[1]:x}" if context.is_valid else None)


SEED: Final = _Seed("SEED")
