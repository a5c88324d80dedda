"""What several wire formats share: checks of field values, and the count of values that they cannot write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core.codecs import parse_decimal
from .._core.errors import FormatError

if TYPE_CHECKING:
    from .._core.context import SpanContext


class Counting:
    """A format that counts in ``left_out`` the parts it could not write. It pickles as *constant*, its name in its module."""

    def __init__(self, constant: str) -> None:
        self._constant = constant
        self.left_out = 0

    def __reduce__(self) -> str:
        return self._constant


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


def read_options(field: str, text: str, ids: str, options: str) -> tuple[int, str | None]:
    """Return the flags in *options*, behind *ids* in *text*, and their digits where those say more than the flags.

    options = "" / "o=" [ 1*3DIGIT ]; bit 0: sampled; absent: undecided. Raises ``FormatError`` for anything else.
    """
    if options in ("", "o="):
        return 0x100, None
    number = parse_decimal(options[2:])
    if options[:2] != "o=" or len(options) > 5 or number < 0:
        raise FormatError(field, "the options must be o= and up to three digits", text, len(ids) + 2)
    return number & 1, options[2:] if options[2:] not in ("0", "1") else None


def write_options(context: SpanContext, kept: Any) -> tuple[str, bool]:
    """Return the options for *context*, with their delimiter, and whether *kept*, of ``read_options()``, is valid."""
    number = parse_decimal(kept) if type(kept) is str and len(kept) <= 3 else -1
    is_valid = kept is None or number >= 0
    if context.deferred:
        return "", is_valid
    decision = context.flags & 1
    return f";o={kept if number >= 0 and number & 1 == decision else decision}", is_valid
