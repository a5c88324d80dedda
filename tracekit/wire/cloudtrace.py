"""Google Cloud's older trace header.

    X-Cloud-Trace-Context = trace-id [ "/" [ span-id ] ] [ ";o=" [ options ] ]     ; 200 characters at most
    trace-id = 32hex                                         ; lowercase
    span-id  = 1*20DIGIT                                     ; DECIMAL, 64 bits; absent or 0: a trace without a span
    options  = 1*3DIGIT                                      ; bit 0: sampled; absent: nobody has decided

Options above 1 go out again as they came, while the decision stands.

Spec: https://cloud.google.com/trace/docs/trace-context#legacy-http-header
"""

from __future__ import annotations

from typing import Any, Final

from .._accel import SpanContext, collect, ids_of, make_remote, parse_decimal, parse_hex, put
from .._errors import FormatError

__all__ = ["CLOUDTRACE"]

_FIELD: Final = "x-cloud-trace-context"
_MAX_CHARS = 200


class _CloudTrace:
    name: Final = "cloudtrace"
    fields: Final = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context of the header."""
        (text,) = collect(carrier, self.fields)
        if text is None:
            return None
        if isinstance(text, list):
            raise FormatError(_FIELD, f"{len(text)} values, must be one")
        if len(text) > _MAX_CHARS:
            raise FormatError(_FIELD, f"{len(text)} characters, must be {_MAX_CHARS} at most")
        ids, semicolon, options = text.partition(";")
        digits, slash, span = ids.partition("/")
        trace_id = parse_hex(digits, 32)
        if not trace_id:
            raise FormatError(_FIELD, "the trace id must be 32 lowercase hex digits, not all zeros", text, 1)
        span_id = parse_decimal(span) if span else 0
        if span_id < 0:
            raise FormatError(_FIELD, "the span id must be a decimal number of 64 bits", text, len(digits) + 2)
        flags, extra = 0x100, None
        if semicolon:
            number = parse_decimal(options[2:]) if len(options) > 2 else 0
            if options[:2] != "o=" or len(options) > 5 or number < 0:
                raise FormatError(_FIELD, "the options must be o= and up to three digits", text, len(ids) + 2)
            if len(options) > 2:
                flags = number & 1
                extra = {"cloudtrace": options[2:]} if options[2:] not in ("0", "1") else None
        return make_remote(trace_id, span_id, flags, extra)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header where there is a trace id."""
        trace_id, span_id = ids_of(context)
        if not trace_id:
            return put(carrier, _FIELD, None)
        text = f"{context.trace_id}/{span_id}" if span_id else context.trace_id
        if not context.deferred:
            text += f";o={_options(context)}"
        put(carrier, _FIELD, text)


def _options(context: SpanContext) -> str:
    kept = context.extra.get("cloudtrace", "")
    return kept if kept and int(kept) & 1 == context.flags & 1 else str(context.flags & 1)


CLOUDTRACE: Final = _CloudTrace()
