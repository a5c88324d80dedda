"""AWS X-Ray's tracing header.

    X-Amzn-Trace-Id = field *( OWS ";" OWS field )          ; in any order, 1024 characters at most
    field   = root / parent / sampled / key "=" value       ; others are kept
    root    = "Root=1-" 8hex "-" 24hex                      ; lowercase; the trace id, in two pieces
    parent  = "Parent=" 16hex                               ; absent: a load balancer's, a trace without a span
    sampled = "Sampled=" ( "0" / "1" / "?" )                ; "?" or absent: nobody has decided

What else there is (``Self``, ``Lineage``, ``CalledFrom`` ...) goes out again behind the three, in its order.

Spec: https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader
"""

from __future__ import annotations

from typing import Any, Final

from .._accel import SpanContext, collect, ids_of, make_remote, parse_hex, put
from .._errors import FormatError

__all__ = ["XRAY"]

_FIELD: Final = "x-amzn-trace-id"
_MAX_CHARS = 1024
_DECISIONS = {"0": 0, "1": 1, "?": 0x100}


class _XRay:
    name: Final = "xray"
    fields: Final = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context of the header; ``extra["xray"]`` has the fields that it does not know."""
        (text,) = collect(carrier, self.fields)
        if text is None:
            return None
        if isinstance(text, list):
            raise FormatError(_FIELD, f"{len(text)} values, must be one")
        if len(text) > _MAX_CHARS:
            raise FormatError(_FIELD, f"{len(text)} characters, must be {_MAX_CHARS} at most")
        if not (text.isascii() and text.isprintable()):
            raise FormatError(_FIELD, "must be printable ASCII", text)
        known: dict[str, int] = {}
        others: list[tuple[str, str]] = []
        column = 1
        for piece in text.split(";"):
            key, equals, value = piece.strip(" ").partition("=")
            number = _known(key, value)
            if not equals and key:
                raise FormatError(_FIELD, "a field must be key=value", text, column)
            if number is not None:
                if number < 0:
                    raise FormatError(_FIELD, f"{key} must be {_SHAPES[key]}", text, column)
                if key in known:
                    raise FormatError(_FIELD, f"{key} stands there twice", text, column)
                known[key] = number
            elif key or value:
                others.append((key, value))
            column += len(piece) + 1
        if "Root" not in known:
            raise FormatError(_FIELD, "Root is missing", text)
        extra = {"xray": tuple(others)} if others else None
        return make_remote(known["Root"], known.get("Parent", 0), known.get("Sampled", 0x100), extra)

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set the header where there is a trace id."""
        put(carrier, _FIELD, _format(context))


_SHAPES = {"Root": "1-8hex-24hex, lowercase and not all zeros", "Parent": "16 lowercase hex digits, not all zeros"}
_SHAPES["Sampled"] = "0, 1 or ?"


def _known(key: str, value: str) -> int | None:
    """Return the number that a known field holds, -1 where it is malformed; None for others."""
    if key == "Root":
        if len(value) != 35 or value[:2] != "1-" or value[10] != "-":
            return -1
        return parse_hex(value[2:10] + value[11:], 32) or -1
    if key == "Parent":
        return parse_hex(value, 16) or -1
    return _DECISIONS.get(value, -1) if key == "Sampled" else None


def _format(context: SpanContext) -> str | None:
    trace_id, span_id = ids_of(context)
    if not trace_id:
        return None
    digits = context.trace_id
    text = f"Root=1-{digits[:8]}-{digits[8:]}"
    if span_id:
        text += f";Parent={context.span_id}"
    if not context.deferred:
        text += f";Sampled={context.flags & 1}"
    for key, value in context.extra.get("xray", ()):
        text += f";{key}={value}"
    return text


XRAY: Final = _XRay()
