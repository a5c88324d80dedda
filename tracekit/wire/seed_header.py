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

from .._core.codecs import Sieve, parse_hex, put
from .._core.context import ids_of, make_remote
from .._core.errors import FormatError
from ._values import Counting, bad_hex, read_options, single, write_options

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["SEED"]

_FIELD: Final = "trace-id"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 32 + 1 + 16 + 3 + 3


class _Seed(Counting):
    name: str = "seed"
    fields: tuple[str, ...] = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the header, or None."""
        text = single(_FIELD, _SIEVE.collect(carrier)[0], _MAX_CHARS)
        if text is None:
            return None
        ids, _, options = text.partition(";")
        digits, slash, span = ids.partition("/")
        trace_id = parse_hex(digits.lower(), 32)
        if not trace_id:
            reason = "the trace id must be 32 hex digits, not all zeros"
            raise FormatError(_FIELD, reason, text, bad_hex(digits) or 1)
        span_id = parse_hex(span.lower().rjust(16, "0"), 16)
        if not span_id:
            reason = "the span id must be 1 to 16 hex digits, not all zeros"
            raise FormatError(_FIELD, reason, text, bad_hex(span, 34) or 33 + len(slash))
        flags, kept = read_options(_FIELD, text, ids, options)
        return make_remote(trace_id, span_id, flags, None if kept is None else {"seed": kept})

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* is valid, otherwise remove it."""
        if not context.is_valid:
            put(carrier, _FIELD, None)
            return
        text = f"{context.trace_id}/{ids_of(context)[1]:x}"
        options, is_valid = write_options(context, context.extra.get("seed"))
        if not is_valid:
            self.left_out += 1
        put(carrier, _FIELD, text + options)


SEED: Final = _Seed("SEED")
