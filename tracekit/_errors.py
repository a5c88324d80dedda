"""Errors of tracekit: whose fault it is decides the class.

A peer's fault is a :class:`FormatError`; the caller's fault is the built-in
``TypeError`` or ``ValueError``, which name the parameter.
"""

from __future__ import annotations

__all__ = ["FormatError", "bad_traceparent", "clip"]

_CLIP = 64


class FormatError(ValueError):
    """Text or bytes from outside break the grammar of their format.

    ``field`` names the header (or other field), ``reason`` says what is wrong with it.
    The offending value stands in the message escaped and clipped, never whole.
    """

    def __init__(self, field: str, reason: str, value: object = None) -> None:
        self.field = field
        self.reason = reason
        super().__init__(field, reason, value)

    def __str__(self) -> str:
        value = self.args[2]
        shown = "" if value is None else f": {clip(value)}"
        return f"bad {self.field}: {self.reason}{shown}"


def clip(value: object) -> str:
    """Return the ``repr`` of *value* in ASCII, cut to 64 characters, safe for a log line."""
    if isinstance(value, str | bytes) and len(value) > _CLIP:
        value = value[:_CLIP]
        return f"{ascii(value)[: _CLIP + 3]}…"
    return ascii(value)[: 2 * _CLIP]


def bad_traceparent(value: str | list[str]) -> FormatError:
    """Return the error that says what is wrong with a ``traceparent``, or with several of them."""
    if isinstance(value, list):
        return FormatError("traceparent", f"{len(value)} values, must be one")
    text = value[:512].strip(" \t")
    if text[:2] == "ff":
        reason = "version ff is forbidden"
    elif len(text) < 55 or (text[:2] == "00" and len(text) != 55) or len(value) > 512:
        reason = f"{len(value)} characters, must be 55"
    elif any("A" <= char <= "F" for char in text[:55]):
        reason = "hex digits must be lowercase"
    elif text[3:35] == "0" * 32 or text[36:52] == "0" * 16:
        reason = "ids must not be all zeros"
    else:
        reason = "must be version-traceid-spanid-flags in 2, 32, 16 and 2 lowercase hex digits"
    return FormatError("traceparent", reason, value)
