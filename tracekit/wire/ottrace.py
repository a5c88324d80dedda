"""OpenTracing's basic format, used by LightStep's tracers and OpenTelemetry's ``ottrace``.

    ot-tracer-traceid = 1*32HEX             ; not all zeros, padded with zeros on the left
    ot-tracer-spanid  = 1*16HEX             ; likewise
    ot-tracer-sampled = "true" / "false"    ; "1" and "0" are read too; absent: the receiver decides
    ot-baggage-<key>  = value               ; a label, not encoded; keys are in lower case

Both ids or neither. Hex digits are read in either case and written in lower case. A trace id of 64 bits is written in
16 digits, any other in 32, where some peers cut it in half.

Up to 64 labels and 8192 bytes are read; a malformed label is dropped alone and counted in ``labels.dropped``. Omitted
and counted in ``left_out``: labels whose keys have upper case or more than 245 characters; labels whose values are
not printable ASCII or have a space at either end, because nothing is encoded here; and the parts of labels that this
format cannot express, which are properties and all members but the last of a key.

No spec exists; the first implementation is https://github.com/opentracing/basictracer-go/blob/master/propagation_ot.go
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import MAX_LABEL_BYTES, Sieve, is_label_key, parse_hex
from .._core.context import SpanContext, ids_of, make_remote
from .._core.errors import FormatError
from ._values import DEFERRED, Counting, bad_hex, labels_of, missing, parts_of, single

if TYPE_CHECKING:
    from .._core.labels import Labels

__all__ = ["OTTRACE"]

_PREFIX = "ot-baggage-"
_FIELDS: Final = ("ot-tracer-traceid", "ot-tracer-spanid", "ot-tracer-sampled")
_SIEVE = Sieve(_FIELDS, (_PREFIX,))
_MAX_KEY_CHARS = 256 - len(_PREFIX)
_DECISIONS = {"false": 0, "true": 1, "0": 0, "1": 1}


class _OTTrace(Counting):
    name: str = "ottrace"
    fields: tuple[str, ...] = _FIELDS
    prefixes: Final = (_PREFIX,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the fields, which may be labels alone, or None."""
        *found, fields = _SIEVE.collect(carrier)
        labels = None if fields is None else _read_labels(fields)
        if found == [None, None, None]:
            return SpanContext(labels=labels) if labels else None
        trace, span, sampled = [single(field, value) for field, value in zip(_FIELDS, found, strict=True)]
        trace_id, span_id = _id("ot-tracer-traceid", trace, 32), _id("ot-tracer-spanid", span, 16)
        decision = DEFERRED
        if sampled is not None:
            if len(sampled) > 5 or sampled.lower() not in _DECISIONS:
                raise FormatError("ot-tracer-sampled", "must be true or false", sampled)
            decision = _DECISIONS[sampled.lower()]
        context = make_remote(trace_id, span_id, decision)
        return context.replace(labels=labels) if labels else context

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the labels, and if *context* is valid its ids and decision, and remove all other fields."""
        trace_id, span_id = ids_of(context)
        trace = span = sampled = None
        if context.is_valid:
            trace, span = f"{trace_id:0{32 if trace_id >> 64 else 16}x}", f"{span_id:016x}"
            sampled = None if context.deferred else "true" if context.sampled else "false"
        texts = {"ot-tracer-traceid": trace, "ot-tracer-spanid": span, "ot-tracer-sampled": sampled}
        labels = context.labels
        unwritten = parts_of(labels)
        for key, value in labels.items():
            if key == key.lower() and len(key) <= _MAX_KEY_CHARS and _is_plain(value):
                texts[_PREFIX + key] = value
                unwritten -= 1
        self.left_out += unwritten
        _SIEVE.put(carrier, texts)


def _id(field: str, text: str | None, digits: int) -> int:
    if text is None:
        raise missing(field)
    number = parse_hex(text.lower(), len(text)) if 0 < len(text) <= digits else 0
    if not number:
        reason = f"must be 1 to {digits} hex digits, not all zeros"
        raise FormatError(field, reason, text, bad_hex(text[:digits]))
    return number


def _read_labels(fields: dict[str, str | list[str]]) -> Labels:
    found: dict[str, str] = {}
    for name, text in fields.items():
        key = name[len(_PREFIX) :]
        if isinstance(text, str) and len(text) <= MAX_LABEL_BYTES and _is_plain(text) and is_label_key(key):
            found[key] = text
    return labels_of(found, len(fields) - len(found))


def _is_plain(value: str) -> bool:
    """Return whether *value* survives a header unchanged."""
    return value.isascii() and value.isprintable() and value == value.strip(" ")


OTTRACE: Final = _OTTrace("OTTRACE")
