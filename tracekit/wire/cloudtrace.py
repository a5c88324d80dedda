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

from .._core.codecs import Sieve, parse_decimal, parse_hex, put
from .._core.context import ids_of, make_remote
from .._core.errors import FormatError
from ._values import Counting, bad_hex, read_options, single, write_options

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["CLOUDTRACE"]

_FIELD: Final = "x-cloud-trace-context"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 200


class _CloudTrace(Counting):
    name: str = "cloudtrace"
    fields: tuple[str, ...] = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the header, or None."""
        text = single(_FIELD, _SIEVE.collect(carrier)[0], _MAX_CHARS)
        if text is None:
            return None
        ids, _, options = text.partition(";")
        digits, _, span = ids.partition("/")
        trace_id = parse_hex(digits.lower(), 32)
        if not trace_id:
            reason = "the trace id must be 32 hex digits, not all zeros"
            raise FormatError(_FIELD, reason, text, bad_hex(digits) or 1)
        span_id = parse_decimal(span) if span else 0
        if span_id < 0:
            column = next((at for at, char in enumerate(span, 34) if char not in "0123456789"), 34)
            raise FormatError(_FIELD, "the span id must be a decimal number of 64 bits", text, column)
        flags, kept = read_options(_FIELD, text, ids, options)
        return make_remote(trace_id, span_id, flags, None if kept is None else {"cloudtrace": kept})

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* has a trace id, otherwise remove it."""
        trace_id, span_id = ids_of(context)
        if not trace_id:
            put(carrier, _FIELD, None)
            return
        text = f"{context.trace_id}/{span_id}" if span_id else context.trace_id
        options, is_valid = write_options(context, context.extra.get("cloudtrace"))
        if not is_valid:
            self.left_out += 1
        put(carrier, _FIELD, text + options)


CLOUDTRACE: Final = _CloudTrace("CLOUDTRACE")
