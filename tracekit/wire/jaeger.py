"""Jaeger's own format.

    uber-trace-id   = trace-id ":" span-id ":" parent-id ":" [ flags ]     ; at most 256 characters; ":" may be "%3A"
    trace-id        = 1*32HEX        ; not all zeros, padded with zeros on the left
    span-id         = 1*16HEX        ; likewise
    parent-id       = *<any character except ":">     ; ignored, and written as "0"
    flags           = 1*2HEX         ; bit 0 sampled, 1 debug (with sampled only), 3 firehose; absent: undecided
    uberctx-<key>   = value          ; a label, URL-encoded; keys are in lower case
    jaeger-baggage  = key "=" value *( "," key "=" value )     ; labels too, for requests by hand
    jaeger-debug-id = value          ; without uber-trace-id: a new trace, sampled and debug

Hex digits are read in either case and written in lower case. Kept in ``extra["jaeger"]``, as pairs: ``flags``, all
bits except sampled, in hex, and ``debug-id``. An undecided context is written as not sampled, because peers reject
empty flags. A trace id of 64 bits is written in 16 digits.

Up to 64 labels and 8192 bytes are read; a malformed label is dropped alone and counted in ``labels.dropped``. Omitted
and counted in ``left_out``: labels whose keys have upper case or more than 248 characters, or whose encoded values
have more than 16384; debug ids of more than 256 characters; and the parts of labels that this format cannot express,
which are properties and all members but the last of a key.

Spec: https://www.jaegertracing.io/sdk-migration/#propagation-format
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import MAX_LABEL_BYTES, Sieve, escape_label, is_label_key, join_baggage, parse_hex, unescape_label
from .._core.context import SpanContext, ids_of, make_remote
from .._core.errors import FormatError
from ._values import DEFERRED, Counting, bad_hex, labels_of, parts_of, single

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._core.labels import Labels

__all__ = ["JAEGER"]

_PREFIX = "uberctx-"
_FIELDS: Final = ("uber-trace-id", "jaeger-debug-id", "jaeger-baggage")
_SIEVE = Sieve(_FIELDS, (_PREFIX,))
_PARTS = (("trace id", 32), ("span id", 16), ("parent id", 0), ("flags", 2))  # the number of digits; 0: any text
_SAMPLED = 0x01
_DEBUG = 0x02
_MAX_CHARS = 256  # leaves room for any parent id
_MAX_DEBUG_ID_CHARS = 256
_MAX_KEY_CHARS = 256 - len(_PREFIX)
_MAX_LABEL_CHARS = 2 * MAX_LABEL_BYTES  # encoded, which may take more characters here than in baggage


class _Jaeger(Counting):
    name: str = "jaeger"
    fields: tuple[str, ...] = _FIELDS
    prefixes: Final = (_PREFIX,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the fields, or None: ids, a decision from ``jaeger-debug-id``, or labels alone."""
        ids, debug_id, baggage, fields = _SIEVE.collect(carrier)
        labels = None if baggage is None and fields is None else _read_labels(baggage, fields or {})
        text = single("uber-trace-id", ids, _MAX_CHARS)
        if text is not None:
            context = _parse(text)
        elif debug_id is not None:
            context = make_remote(0, 0, _SAMPLED, {"jaeger": (("flags", "2"), ("debug-id", _parse_debug_id(debug_id)))})
        else:
            return SpanContext(labels=labels) if labels else None
        return context.replace(labels=labels) if labels else context

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the fields of *context*, which without ids are its debug id and its labels, and remove all others."""
        trace_id, span_id = ids_of(context)
        bits, debug_id = _words(context.extra.get("jaeger"))
        text = None
        if context.is_valid:
            flags = bits | _SAMPLED if context.sampled else bits & ~_DEBUG
            text = f"{trace_id:0{32 if trace_id >> 64 else 16}x}:{span_id:016x}:0:{flags:x}"
        if context.is_valid or not context.sampled:
            debug_id = None  # only the first span of a sampled trace needs it
        debug_id = debug_id and escape_label(debug_id)
        if debug_id and len(debug_id) > _MAX_DEBUG_ID_CHARS:
            debug_id = None
            self.left_out += 1
        texts = {"uber-trace-id": text, "jaeger-debug-id": debug_id}
        labels = context.labels
        unwritten = parts_of(labels)
        for key, value in labels.items():
            text = escape_label(value)
            if key == key.lower() and len(key) <= _MAX_KEY_CHARS and len(text) <= _MAX_LABEL_CHARS:
                texts[_PREFIX + key] = text
                unwritten -= 1
        self.left_out += unwritten
        _SIEVE.put(carrier, texts)


def _parse(value: str) -> SpanContext:
    text = value.replace("%3A", ":").replace("%3a", ":")
    parts = text.split(":")
    if len(parts) != 4:
        raise FormatError("uber-trace-id", "must be traceid:spanid:parentid:flags", value)
    numbers = []
    column = 1
    for part, (what, digits) in zip(parts, _PARTS, strict=True):
        if digits and (not 0 < len(part) <= digits or bad_hex(part)) and not (part == "" and what == "flags"):
            reason = f"the {what} must be 1 to {digits} hex digits"
            raise FormatError("uber-trace-id", reason, value, column if text == value else None)
        numbers.append(int(part or "0", 16) if digits else 0)
        column += len(part) + 1
    trace_id, span_id, _, flags = numbers
    if not trace_id or not span_id:
        raise FormatError("uber-trace-id", "ids must not be all zeros", value)
    if not parts[3]:
        return make_remote(trace_id, span_id, DEFERRED)
    more = flags & ~(_SAMPLED if flags & _SAMPLED else _DEBUG)
    return make_remote(trace_id, span_id, flags & _SAMPLED, {"jaeger": (("flags", f"{more:x}"),)} if more else None)


def _parse_debug_id(value: str | list[str]) -> str:
    value = single("jaeger-debug-id", value) or ""
    text = _decode(value) if len(value) <= 3 * _MAX_DEBUG_ID_CHARS and value.isascii() else ""
    if not 0 < len(escape_label(text)) <= _MAX_DEBUG_ID_CHARS:
        raise FormatError("jaeger-debug-id", f"must be 1 to {_MAX_DEBUG_ID_CHARS} characters, URL-encoded", value)
    return text


def _words(extra: object) -> tuple[int, str | None]:
    """Return the flags and the debug id in *extra*, which a program may have made."""
    bits, debug_id = 0, None
    for pair in extra if isinstance(extra, tuple) else ():
        match pair:
            case ("flags", str(text)) if 0 < len(text) <= 2:
                bits = parse_hex(text, len(text)) & ~_SAMPLED
            case ("debug-id", str(text)) if text:
                debug_id = text
    return bits, debug_id


def _read_labels(baggage: str | list[str] | None, fields: dict[str, str | list[str]]) -> Labels:
    pairs = [*_split(baggage), *((name[len(_PREFIX) :], text) for name, text in fields.items())]
    found: dict[str, str] = {}
    bad = 0
    for key, text in pairs:
        if isinstance(text, str) and len(text) <= _MAX_LABEL_CHARS and text.isascii() and is_label_key(key):
            found[key.lower()] = _decode(text)
        else:
            bad += 1
    return labels_of(found, bad)


def _split(baggage: str | list[str] | None) -> Iterator[tuple[str, str]]:
    if baggage is None:
        return
    text = join_baggage(baggage) if isinstance(baggage, list) else baggage
    if len(text) > MAX_LABEL_BYTES:
        yield "", text
        return
    for piece in text.split(","):
        key, equals, value = piece.partition("=")
        if piece.strip(" \t"):
            yield key.strip(" \t") if equals else "", value.strip(" \t")


def _decode(text: str) -> str:
    # The clients for Go and Java write a space as "+", as in a form; all clients write a plus as "%2B".
    return unescape_label(text.replace("+", " "))


JAEGER: Final = _Jaeger("JAEGER")
