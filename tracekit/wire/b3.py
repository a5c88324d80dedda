"""B3, Zipkin's format, in one header or in several.

    b3       = decision / ids [ "-" [ decision ] [ "-" parent-id ] ]       ; at most 256 characters
    ids      = trace-id "-" span-id           ; 16 or 32 and 16 hex digits, not all zeros
    decision = "0" / "1" / "d"                ; denied, sampled, debug; absent: the receiver decides
    parent-id = *<any character except ",">   ; ignored, and never written

    X-B3-TraceId, X-B3-SpanId                 ; the ids, both or neither
    X-B3-ParentSpanId                         ; ignored, and never written
    X-B3-Sampled = "0" / "1"                  ; older peers also send "true" and "false"
    X-B3-Flags   = "1"                        ; debug, which implies sampled; any other value is ignored

Hex digits are read in either case and written in lower case. Of several values of an ``X-B3-`` header the first counts
("When extracting state headers, the first value wins"); several values of ``b3`` are an error. A decision may come
without ids. Debug is kept as ``extra["b3"] == "d"`` and written again, in either form, while the trace is sampled.
A trace id of 64 bits is written in 16 digits. Where both forms are configured, the first in the list wins.

Spec: https://github.com/openzipkin/b3-propagation
"""

from __future__ import annotations

from typing import Any, Final

from .._core.codecs import parse_hex
from .._core.context import SpanContext, make_remote
from .._core.errors import FormatError, bad_b3
from ..cython import compiled
from ._values import bad_hex, missing

if not compiled:
    from .._core.codecs import Sieve, join_b3, put, split_b3
    from .._core.context import from_words
    from .._core.interpreter import DEFERRED, SAMPLED

__all__ = ["MULTI", "SINGLE", "format_b3", "parse_b3", "read_b3", "write_b3"]

_SINGLE: Final = Sieve(("b3",))
_DECISIONS = {"0": 0, "1": 1, "false": 0, "true": 1}
_DEBUG: Final = {"b3": "d"}


def parse_b3(text: str) -> SpanContext | None:
    """Return the remote context in a ``b3`` value, or None if it is malformed."""
    high, low, span, decision = split_b3(text)
    if decision < 0:
        return None
    flags = DEFERRED if decision == 0 else 0 if decision == 48 else SAMPLED  # 48 is "0", 100 is "d"
    return from_words(high, low, span, flags, None, None, True, _DEBUG if decision == 100 else None)


def format_b3(context: SpanContext) -> str:
    """Return the ``b3`` value of *context*: its ids and decision, one of them, or an empty text."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return _text(context)


def _text(context: SpanContext) -> str:
    decision = 49 if context._bits & SAMPLED else 0 if context._bits & DEFERRED else 48
    # Debug implies sampled, so it must not override another format's decision.
    if decision == 49 and context._extra is not None and context._extra.get("b3") == "d":
        decision = 100
    if not context._is_valid():
        return chr(decision) if decision else ""
    return join_b3(context._high, context._low, context._span, decision)


def read_b3(carrier: Any) -> SpanContext | None:
    """Return the context in ``b3``, which may be a sampling decision alone, or None.

    Raises ``FormatError`` if it is malformed or has several values.
    """
    text: Any = _SINGLE.collect(carrier)[0]
    if text is None:
        return None
    context = parse_b3(text) if type(text) is str else None
    if context is None:
        raise bad_b3(text)
    return context


def write_b3(context: SpanContext, carrier: Any) -> None:
    """Set ``b3`` to the ids and the decision of *context*, or remove it if *context* has neither."""
    put(carrier, "b3", format_b3(context) or None)


_MULTI_FIELDS: Final = ("x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags")
_MULTI: Final = Sieve(_MULTI_FIELDS)


class _Single:
    name: str = "b3"
    fields: tuple[str, ...] = ("b3",)

    # The functions of the implementation in use, without a wrapper.
    read = staticmethod(read_b3)
    write = staticmethod(write_b3)

    def __reduce__(self) -> str:
        return "SINGLE"


class _Multi:
    name: str = "b3multi"
    fields: tuple[str, ...] = _MULTI_FIELDS

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the headers, which may be a sampling decision alone, or None."""
        found = _MULTI.collect(carrier)
        trace, span, _, sampled, flags = [value[0] if isinstance(value, list) else value for value in found]
        decision = DEFERRED
        if sampled is not None:
            if len(sampled) > 5 or sampled.lower() not in _DECISIONS:
                raise FormatError("x-b3-sampled", "must be 0 or 1", sampled)
            decision = _DECISIONS[sampled.lower()]
        extra = None
        if flags == "1":
            decision, extra = 1, {"b3": "d"}
        if trace is None and span is None:
            return None if decision == DEFERRED else make_remote(0, 0, decision, extra)
        trace_id, span_id = _id("x-b3-traceid", trace, 16, 32), _id("x-b3-spanid", span, 16)
        return make_remote(trace_id, span_id, decision, extra)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the headers for the ids and the decision of *context*, and remove all other B3 headers."""
        parts = format_b3(context).split("-")  # the fields of the single header
        has_ids = len(parts) > 1
        decision = "" if len(parts) == 2 else parts[-1]
        texts = {
            "x-b3-traceid": parts[0] if has_ids else None,
            "x-b3-spanid": parts[1] if has_ids else None,
            "x-b3-sampled": decision if decision in ("0", "1") else None,
            "x-b3-flags": "1" if decision == "d" else None,
        }
        _MULTI.put(carrier, texts)

    def __reduce__(self) -> str:
        return "MULTI"


def _id(field: str, text: str | None, *sizes: int) -> int:
    if text is None:
        raise missing(field)
    number = parse_hex(text.lower(), len(text)) if len(text) in sizes else 0
    if not number:
        reason = f"must be {' or '.join(map(str, sizes))} hex digits, not all zeros"
        raise FormatError(field, reason, text, bad_hex(text[:32]))
    return number


SINGLE: Final = _Single()
MULTI: Final = _Multi()
