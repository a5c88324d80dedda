"""The header in the Go Tracing Roadmap of 2017. This docstring is its only specification.

    Trace-Id = trace-id "/" span-id [ ";" [ "o=" [ options ] ] ]
    trace-id = 32hex                                  ; not all zeros; read in either case, written in lower case
    span-id  = 1*16hex                                ; likewise; written without leading zeros
    options  = 1*3DIGIT                               ; bit 0: sampled; absent: undecided

The span id is in hex, unlike in ``X-Cloud-Trace-Context``, which looks the same and has it in decimal: only the name of
the header tells them apart. Options above 1 are kept as ``extra["seed"]`` and written again unchanged as long as the
decision is the same. Not among the default formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, parse_decimal, parse_hex, put
from .._core.context import ids_of, make_remote
from .._core.errors import FormatError
from ._values import bad_hex, single

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["SEED"]

_FIELD: Final = "trace-id"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 32 + 1 + 16 + 3 + 3


class _Seed:
    name: str = "seed"
    fields: tuple[str, ...] = (_FIELD,)

    def __init__(self) -> None:
        self.left_out = 0  # number of kept options that could not be written

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
        flags, extra = 0x100, None
        if options not in ("", "o="):
            number = parse_decimal(options[2:])
            if options[:2] != "o=" or len(options) > 5 or number < 0:
                raise FormatError(_FIELD, "the options must be o= and one to three digits", text, len(ids) + 2)
            flags = number & 1
            extra = {"seed": options[2:]} if options[2:] not in ("0", "1") else None
        return make_remote(trace_id, span_id, flags, extra)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* is valid, otherwise remove it."""
        if not context.is_valid:
            put(carrier, _FIELD, None)
            return
        text = f"{context.trace_id}/{ids_of(context)[1]:x}"
        kept = context.extra.get("seed")
        number = parse_decimal(kept) if type(kept) is str and len(kept) <= 3 else -1
        if kept is not None and number < 0:
            self.left_out += 1
        if not context.deferred:
            decision = context.flags & 1
            text += f";o={kept if number >= 0 and number & 1 == decision else decision}"
        put(carrier, _FIELD, text)

    def __reduce__(self) -> str:
        return "SEED"


SEED: Final = _Seed()
