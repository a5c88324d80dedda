"""Datadog's headers.

    x-datadog-trace-id          = 1*20DIGIT         ; the low 64 bits, decimal
    x-datadog-parent-id         = 1*20DIGIT         ; decimal; absent or 0: a trace without a span
    x-datadog-sampling-priority = "-1" / "0" / "1" / "2"        ; user reject, reject, keep, user keep
    x-datadog-origin            = 1*256( printable ASCII )      ; where the trace began: rum, synthetics ...
    x-datadog-tags              = tag *( "," tag )              ; 512 characters at most
    tag                         = "_dd.p." key "=" value        ; "_dd.p.tid" is the high half of the trace id, 16hex

Priority, origin and tags go out again as they came, the priority while the decision stands. Tags of another prefix
are not for propagation and are left out. A malformed ``_dd.p.tid``, or tags too long, leave the note that Datadog's
own libraries leave: ``_dd.propagation_error``.

Spec: https://docs.datadoghq.com/tracing/trace_collection/trace_context_propagation/
"""

from __future__ import annotations

from typing import Any, Final

from .._accel import SpanContext, collect, ids_of, make_remote, parse_decimal, parse_hex, put
from .._errors import FormatError

__all__ = ["DATADOG"]

_TRACE_ID: Final = "x-datadog-trace-id"
_PARENT_ID: Final = "x-datadog-parent-id"
_PRIORITY: Final = "x-datadog-sampling-priority"
_ORIGIN: Final = "x-datadog-origin"
_TAGS: Final = "x-datadog-tags"
_TID = "_dd.p.tid"
_ERROR = "_dd.propagation_error"
_MAX_TAGS_CHARS = 512
_MAX_ORIGIN_CHARS = 256


class _Datadog:
    name: Final = "datadog"
    fields: Final = (_TRACE_ID, _PARENT_ID, _PRIORITY, _ORIGIN, _TAGS)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context; ``extra["datadog"]`` has what there is of priority, origin, tags and error."""
        found = collect(carrier, self.fields)
        for field, text in zip(self.fields, found, strict=True):
            if isinstance(text, list):
                raise FormatError(field, f"{len(text)} values, must be one")
        low_text, span_text, priority, origin, tags = found
        if not isinstance(low_text, str):
            return None
        low = parse_decimal(low_text)
        if low <= 0:
            raise FormatError(_TRACE_ID, "must be a decimal number of 64 bits, not 0", low_text)
        span_id = parse_decimal(span_text) if isinstance(span_text, str) else 0
        if span_id < 0:
            raise FormatError(_PARENT_ID, "must be a decimal number of 64 bits", span_text)
        flags = 0x100
        words: list[tuple[str, str]] = []
        if isinstance(priority, str):
            if priority not in ("-1", "0", "1", "2"):
                raise FormatError(_PRIORITY, "must be -1, 0, 1 or 2", priority)
            flags = int(priority) > 0
            words.append(("priority", priority))
        if isinstance(origin, str) and 0 < len(origin) <= _MAX_ORIGIN_CHARS and _is_text(origin):
            words.append(("origin", origin))
        high = 0
        if isinstance(tags, str):
            kept, high, error = _tags(tags)
            words += [("tags", kept)] * bool(kept) + [("error", error)] * bool(error)
        return make_remote(high << 64 | low, span_id, flags, {"datadog": tuple(words)} if words else None)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the headers of a context with a trace id whose low half is not 0, and take out those that do not apply."""
        trace_id, span_id = ids_of(context)
        low, high = trace_id & 0xFFFF_FFFF_FFFF_FFFF, trace_id >> 64
        if not low:
            for field in self.fields:
                put(carrier, field, None)
            return
        words = dict(context.extra.get("datadog", ()))
        put(carrier, _TRACE_ID, str(low))
        put(carrier, _PARENT_ID, str(span_id) if span_id else None)
        priority: str | None = None
        if not context.deferred:
            priority = words.get("priority", "0")
            if (int(priority) > 0) != context.sampled:
                priority = "1" if context.sampled else "0"
        put(carrier, _PRIORITY, priority)
        put(carrier, _ORIGIN, words.get("origin"))
        tags = words.get("tags", "")
        if high and f"{_TID}=" not in tags:
            tags = f"{tags},{_TID}={high:016x}" if tags else f"{_TID}={high:016x}"
        put(carrier, _TAGS, tags if 0 < len(tags) <= _MAX_TAGS_CHARS else None)


def _tags(text: str) -> tuple[str, int, str]:
    """Return the tags that propagate, the high half of the trace id, and what was wrong."""
    if len(text) > _MAX_TAGS_CHARS:
        return "", 0, "extract_max_size"
    kept: list[str] = []
    high, error = 0, ""
    for piece in text.split(","):
        key, equals, value = piece.partition("=")
        if not (equals and key and value and _is_text(piece)) or " " in key:
            return "", 0, "decoding_error"
        if key == _TID:
            high = parse_hex(value, 16)
            if not high:
                error = "malformed_tid"
                continue
        if key.startswith("_dd.p."):
            kept.append(piece)
    return ",".join(kept), high, error


def _is_text(text: str) -> bool:
    return text.isascii() and text.isprintable()


DATADOG: Final = _Datadog()
