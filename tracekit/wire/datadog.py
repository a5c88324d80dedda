"""Datadog's headers.

    x-datadog-trace-id          = 1*20DIGIT         ; the low 64 bits, decimal, not 0
    x-datadog-parent-id         = 1*20DIGIT         ; decimal; absent or 0: a trace without a span
    x-datadog-sampling-priority = "-1" / "0" / "1" / "2"        ; user reject, reject, keep, user keep; may be absent
    x-datadog-origin            = 1*256( printable ASCII )      ; where the trace began: rum, synthetics ...
    x-datadog-tags              = tag *( "," tag ) [ "," ]      ; at most 512 characters
    tag                         = key "=" OWS value OWS         ; printable ASCII, no space in a key, no comma
    "_dd.p.tid"                 = 16hex             ; tag for the high half of the trace id: lower case, not all zeros

Priority, origin and tags are kept as ``extra["datadog"]``, in pairs, and written again unchanged, the priority as
long as the decision is the same. A malformed or repeated origin is dropped alone, and so are tags that do not begin
with ``_dd.p.``, which are not for propagation. A malformed ``_dd.p.tid`` is dropped alone; tags that are malformed,
repeated or over the limit are dropped together. A pair ``error`` gives the reason in the words of Datadog's libraries
(``_dd.propagation_error``), which also forbid upper case in ``_dd.p.tid``.

Omitted and counted in ``left_out``: kept words that no header can hold, all tags but ``_dd.p.tid`` when they exceed the
limit, and any context whose trace id is 0 in its low 64 bits.

Spec: https://docs.datadoghq.com/tracing/trace_collection/trace_context_propagation/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, parse_decimal, parse_hex
from .._core.context import ids_of, make_remote
from .._core.errors import FormatError
from ._values import DEFERRED, Counting, missing, single

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["DATADOG"]

_TRACE_ID: Final = "x-datadog-trace-id"
_PARENT_ID: Final = "x-datadog-parent-id"
_PRIORITY: Final = "x-datadog-sampling-priority"
_ORIGIN: Final = "x-datadog-origin"
_TAGS: Final = "x-datadog-tags"
_FIELDS: Final = (_TRACE_ID, _PARENT_ID, _PRIORITY, _ORIGIN, _TAGS)
_SIEVE = Sieve(_FIELDS)
_DECISIONS = {"-1": 0, "0": 0, "1": 1, "2": 1}
_PREFIX = "_dd.p."
_TID = "_dd.p.tid"
_MAX_TAGS_CHARS = 512
_MAX_ORIGIN_CHARS = 256


class _Datadog(Counting):
    name: str = "datadog"
    fields: tuple[str, ...] = _FIELDS

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the headers, or None."""
        found = _SIEVE.collect(carrier)
        if found == [None] * 5:
            return None
        trace, span, priority = [single(field, value) for field, value in zip(_FIELDS, found[:3], strict=False)]
        origin, tags = found[3:]
        if trace is None:
            raise missing(_TRACE_ID)
        low = _number(_TRACE_ID, trace)
        if not low:
            raise FormatError(_TRACE_ID, "must not be 0", trace)
        span_id = 0 if span is None else _number(_PARENT_ID, span)
        flags = DEFERRED
        words: list[tuple[str, str]] = []
        if priority is not None:
            if priority not in _DECISIONS:
                raise FormatError(_PRIORITY, "must be -1, 0, 1 or 2", priority)
            flags = _DECISIONS[priority]
            words.append(("priority", priority))
        if isinstance(origin, str) and _is_origin(origin):
            words.append(("origin", origin))
        high, kept, error = (0, "", "") if tags is None else _read_tags(tags)
        words += [(key, word) for key, word in (("tags", kept), ("error", error)) if word]
        return make_remote(high << 64 | low, span_id, flags, {"datadog": tuple(words)} if words else None)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the headers if the low half of the trace id is not 0, and remove all other Datadog headers."""
        trace_id, span_id = ids_of(context)
        low, high = trace_id & 0xFFFF_FFFF_FFFF_FFFF, trace_id >> 64
        priority = origin = tags = None
        if low:
            words = self._words(context.extra.get("datadog", ()))
            origin = words.get("origin")
            tags = self._format_tags(words.get("tags", ""), f"{_TID}={high:016x}" if high else "")
            if not context.deferred:
                decision = context.flags & 1
                priority = words.get("priority", "")
                priority = priority if _DECISIONS.get(priority) == decision else str(decision)
        elif trace_id:
            self.left_out += 1
        texts = {
            _TRACE_ID: str(low) if low else None,
            _PARENT_ID: str(span_id) if low and span_id else None,
            _PRIORITY: priority,
            _ORIGIN: origin,
            _TAGS: tags,
        }
        _SIEVE.put(carrier, texts)

    def _words(self, kept: object) -> dict[str, str]:
        """Return the valid words in *kept*, which a program may have made."""
        words: dict[str, str] = {}
        for pair in kept if isinstance(kept, tuple | list) else (kept,):
            is_pair = isinstance(pair, tuple | list) and [type(word) for word in pair] == [str, str]
            key, word = pair if is_pair else ("", "")
            is_good = _is_origin(word) if key == "origin" else word in _DECISIONS if key == "priority" else True
            if key in ("priority", "origin", "tags", "error") and is_good:
                words[key] = word
            else:
                self.left_out += 1
        return words

    def _format_tags(self, kept: str, tid: str) -> str | None:
        """Return the valid tags in *kept*, with *tid* as the only ``_dd.p.tid``."""
        tags = [tag for tag in kept.split(",") if tag and (tag == tid or not tag.startswith(f"{_TID}="))]
        good = [tag for tag in tags if tag.startswith(_PREFIX) and _is_tag(tag)]
        if tid and tid not in good:
            good.append(tid)
            tags.append(tid)
        text = ",".join(good)
        if len(text) > _MAX_TAGS_CHARS:
            good, text = [tid] if tid else [], tid  # dropping it too would change the trace id
        self.left_out += len(tags) - len(good)
        return text or None


def _number(field: str, text: str) -> int:
    number = parse_decimal(text)
    if number < 0:
        column = next((at for at, char in enumerate(text[:21], 1) if char not in "0123456789"), 1)
        raise FormatError(field, "must be a decimal number of 64 bits", text, column)
    return number


def _read_tags(text: str | list[str]) -> tuple[int, str, str]:
    """Return the high half of the trace id, the tags that propagate, and the error in Datadog's words or ""."""
    if isinstance(text, list):
        return 0, "", "decoding_error"
    if len(text) > _MAX_TAGS_CHARS:
        return 0, "", "extract_max_size"
    tags: dict[str, str] = {}
    for piece in text.removesuffix(",").split(",") if text else ():
        key, equals, value = piece.partition("=")
        tags[key] = value.strip(" ")
        if not equals or not _is_tag(f"{key}={tags[key]}"):
            return 0, "", "decoding_error"
    high, error = 0, ""
    if _TID in tags:
        high = parse_hex(tags[_TID], 16)
        if not high:
            del tags[_TID]
            error = "malformed_tid"
    return high, ",".join([f"{key}={value}" for key, value in tags.items() if key.startswith(_PREFIX)]), error


def _is_tag(tag: str) -> bool:
    """Return whether *tag*, which has no comma, survives a header unchanged."""
    key, _, value = tag.partition("=")
    return bool(key and value and value == value.strip(" ") and " " not in key) and _is_text(tag)


def _is_origin(text: str) -> bool:
    return 0 < len(text) <= _MAX_ORIGIN_CHARS and text == text.strip(" ") and _is_text(text)


def _is_text(text: str) -> bool:
    return text.isascii() and text.isprintable()


DATADOG: Final = _Datadog("DATADOG")
