"""Checks of field values that several wire formats share."""

from __future__ import annotations

from .._core.errors import FormatError

__all__ = ["bad_hex", "missing", "single"]


def single(field: str, value: str | list[str] | None, max_chars: int | None = None) -> str | None:
    """Return the value of *field* or None; raise ``FormatError`` for several values or more than *max_chars*."""
    if isinstance(value, list):
        raise FormatError(field, f"{len(value)} values, must be one")
    if value is not None and max_chars is not None and len(value) > max_chars:
        raise FormatError(field, f"{len(value)} characters, must be {max_chars} at most")
    return value


def missing(field: str) -> FormatError:
    """Return the error for a *field* that is absent although its companions are present."""
    return FormatError(field, "missing, and without it the others mean nothing")


def bad_hex(text: str, start: int = 1) -> int | None:
    """Return the column of the first character in *text* that is not a hex digit, counted from *start*, or None."""
    return next((at for at, char in enumerate(text, start) if char not in "0123456789abcdefABCDEF"), None)
