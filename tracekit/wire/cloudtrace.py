"""Google Cloud's older trace header.

    X-Cloud-Trace-Context = trace-id [ "/" [ span-id ] ] [ ";" [ "o=" [ options ] ] ]     ; at most 200 characters
    trace-id = 32hex                                  ; not all zeros; read in either case, written in lower case
    span-id  = 1*20DIGIT                              ; DECIMAL, 64 bits; absent or 0: a trace without a span
    options  = 1*3DIGIT                               ; bit 0: sampled; absent: undecided

Options above 1 are kept as ``extra["cloudtrace"]`` and written again unchanged as long as the decision is the same;
kept options that no header can hold are omitted and counted in ``left_out``.

Spec: https://cloud.google.com/trace/docs/trace-context#legacy-http-header
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import parse_decimal
from .._core.context import ids_of
from .._core.errors import FormatError
from ._values import Slashed

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["CLOUDTRACE"]


class _CloudTrace(Slashed):
    name: str = "cloudtrace"
    fields: tuple[str, ...] = ("x-cloud-trace-context",)
    _max_chars = 200

    def _span_id(self, text: str, slash: str, span: str) -> int:
        span_id = parse_decimal(span) if span else 0
        if span_id < 0:
            column = next((at for at, char in enumerate(span, 34) if char not in "0123456789"), 34)
            raise FormatError(self._field, "the span id must be a decimal number of 64 bits", text, column)
        return span_id

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* has a trace id, otherwise remove it."""
        trace_id, span_id = ids_of(context)
        ids = f"{context.trace_id}/{span_id}" if span_id else context.trace_id
        self._put(context, carrier, ids if trace_id else None)


CLOUDTRACE: Final = _CloudTrace("CLOUDTRACE")
