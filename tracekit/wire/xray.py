"""AWS X-Ray's tracing header.

    X-Amzn-Trace-Id = [ field ] *( OWS ";" OWS [ field ] )  ; in any order, at most 1024 characters
    field   = root / parent / sampled / key "=" value       ; an empty one of the three counts as absent
    root    = "Root=1-" 8hex "-" 24hex                      ; not all zeros; the trace id, in two pieces
    parent  = "Parent=" 16hex                               ; likewise; absent (load balancers): a trace without a span
    sampled = "Sampled=" ( "0" / "1" / "?" )                ; "?": the callee decides; absent: undecided

Hex digits are read in either case and written in lower case. All other fields (``Self``, ``Lineage``, ``CalledFrom``
...) are kept as ``extra["xray"]``, in pairs, and written again behind the three, in their order; one that is not
``key=value`` in printable ASCII is dropped alone. "?" is written again, in its place, while the decision is open.
Kept fields that no header can hold, or that exceed 1024 characters, are omitted and counted in ``left_out``.

Spec: https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
and https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, parse_hex, put
from .._core.context import ids_of, make_remote
from .._core.errors import FormatError
from ._values import DEFERRED, Counting, single

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["XRAY"]

_FIELD: Final = "x-amzn-trace-id"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 1024
_OWS = " \t"
_SHAPES = {"Root": "1-8hex-24hex, not all zeros", "Parent": "16 hex digits, not all zeros", "Sampled": "0, 1 or ?"}
_DECISIONS = {"0": 0, "1": 1, "?": DEFERRED}
_ASKED = ("Sampled", "?")


class _XRay(Counting):
    name: str = "xray"
    fields: tuple[str, ...] = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the header, or None."""
        text = single(_FIELD, _SIEVE.collect(carrier)[0], _MAX_CHARS)
        if text is None:
            return None
        known: dict[str, int] = {}
        kept: list[tuple[str, str]] = []
        end = 0
        for part in text.split(";"):
            column = end + 1 + len(part) - len(part.lstrip(_OWS))
            end += len(part) + 1
            piece = part.strip(_OWS)
            key, equals, value = piece.partition("=")
            if key in _SHAPES and value:
                if key in known:
                    raise FormatError(_FIELD, f"more than one {key}", text, column)
                known[key] = _number(key, value)
                if known[key] < 0:
                    raise FormatError(_FIELD, f"{key} must be {_SHAPES[key]}", text, column)
                if (key, value) == _ASKED:
                    kept.insert(0, _ASKED)
            elif key not in _SHAPES and equals and key and piece.isascii() and piece.isprintable():
                kept.append((key, value))
        if "Root" not in known:
            raise FormatError(_FIELD, "Root is missing", text)
        extra = {"xray": tuple(kept)} if kept else None
        return make_remote(known["Root"], known.get("Parent", 0), known.get("Sampled", DEFERRED), extra)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header if *context* has a trace id, otherwise remove it."""
        trace_id, span_id = ids_of(context)
        if not trace_id:
            put(carrier, _FIELD, None)
            return
        digits = context.trace_id
        text = f"Root=1-{digits[:8]}-{digits[8:]}"
        if span_id:
            text += f";Parent={context.span_id}"
        kept = context.extra.get("xray", ())
        pairs = [_pair(pair) for pair in kept] if isinstance(kept, tuple | list) else [None]
        if not context.deferred:
            text += f";Sampled={context.flags & 1}"
        elif _ASKED in pairs:
            text += ";Sampled=?"
        for pair in pairs:
            field = "" if pair is None or pair[0] in _SHAPES else f";{pair[0]}={pair[1]}"
            if field and len(text) + len(field) <= _MAX_CHARS:
                text += field
            elif pair != _ASKED:
                self.left_out += 1
        put(carrier, _FIELD, text)


def _number(key: str, value: str) -> int:
    """Return the number in the field *key*, or -1 if it is malformed."""
    if key == "Sampled":
        return _DECISIONS.get(value, -1)
    if key == "Parent":
        return parse_hex(value.lower(), 16) or -1
    if len(value) != 35 or value[:2] != "1-" or value[10] != "-":
        return -1
    return parse_hex(value[2:10].lower() + value[11:].lower(), 32) or -1


def _pair(kept: object) -> tuple[str, str] | None:
    """Return *kept*, which a program may have made, if it is a pair that survives a header unchanged."""
    if not isinstance(kept, tuple | list) or [type(word) for word in kept] != [str, str]:
        return None
    key, value = kept
    text = f"{key}={value}"
    is_whole = key and "=" not in key and ";" not in text and text == text.strip(" ")
    return (key, value) if is_whole and text.isascii() and text.isprintable() else None


XRAY: Final = _XRay("XRAY")
