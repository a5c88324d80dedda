"""Errors of tracekit: the class depends on who is at fault.

A peer's fault is a :class:`FormatError`; the caller's fault is the built-in ``TypeError`` or ``ValueError``, which
name the parameter.
"""

from __future__ import annotations

_CLIP = 64
_HEX = frozenset("0123456789abcdef")


class FormatError(ValueError):
    """Raised for text or bytes from outside that break the grammar of their format.

    ``field`` names the header (or other field), ``reason`` describes the fault, ``column`` its
    position in the value, from 1, if it has one. The message shows the value escaped and cut.
    """

    def __init__(self, field: str, reason: str, value: object = None, column: int | None = None) -> None:
        self.field = field
        self.reason = reason
        self.column = column
        super().__init__(field, reason, value, column)

    def __str__(self) -> str:
        value = self.args[2]
        shown = "" if value is None else f": {clip(value)}"
        where = "" if self.column is None else f" at column {self.column}"
        return f"bad {self.field}: {self.reason}{where}{shown}"


def clip(value: object) -> str:
    """Return the ``repr`` of *value* in ASCII, cut to 64 characters, safe for a log line."""
    if isinstance(value, str | bytes) and len(value) > _CLIP:
        value = value[:_CLIP]
        return f"{ascii(value)[: _CLIP + 3]}…"
    return ascii(value)[: 2 * _CLIP]


def bad_traceparent(value: str | list[str]) -> FormatError:
    """Return the error that describes the fault of a ``traceparent``, or of several of them."""
    if isinstance(value, list):
        return FormatError("traceparent", f"{len(value)} values, must be one")
    text = value[:512].strip(" \t")
    start = len(value[:512]) - len(value[:512].lstrip(" \t"))
    column: int | None = None
    upper = next((at for at, char in enumerate(text[:55]) if "A" <= char <= "F"), None)
    if text[:2] == "ff":
        reason, column = "version ff is forbidden", 1
    elif len(text) < 55 or (text[:2] == "00" and len(text) != 55) or len(value) > 512:
        reason = f"{len(value)} characters, must be 55"
    elif upper is not None:
        reason, column = "hex digits must be lowercase", upper + 1
    elif text[3:35] == "0" * 32 or text[36:52] == "0" * 16:
        reason, column = "ids must not be all zeros", 4 if text[3:35] == "0" * 32 else 37
    else:
        reason = "must be version-traceid-spanid-flags in 2, 32, 16 and 2 lowercase hex digits"
        hyphens = (2, 35, 52, 55)
        wrong = (at for at, char in enumerate(text[:56]) if (char != "-") if at in hyphens or char not in _HEX)
        column = next((at + 1 for at in wrong), None)
        column = column or next(
            (at + 1 for at, char in enumerate(text[:55]) if char == "-" and at not in hyphens), None
        )
    return FormatError("traceparent", reason, value, None if column is None else start + column)


def bad_b3(value: str | list[str]) -> FormatError:
    """Return the error that describes the fault of a ``b3``, or of several of them."""
    if isinstance(value, list):
        return FormatError("b3", f"{len(value)} values, must be one")
    if len(value) > 256:
        return FormatError("b3", f"{len(value)} characters, must be 256 at most")
    if "," in value:
        return FormatError("b3", f"{value.count(',') + 1} values, must be one", value)
    parts = value.split("-")
    if len(parts) == 1:
        return FormatError("b3", "must be 0, 1 or d, or ids", value)
    column = 1
    for part, (name, sizes) in zip(parts, _B3, strict=False):
        if not sizes:
            if part not in ("", "0", "1", "d"):
                return FormatError("b3", "the decision must be 0, 1 or d", value, column)
        elif len(part) not in sizes or not _HEX.issuperset(part.lower()):
            return FormatError("b3", f"the {name} must be {' or '.join(map(str, sizes))} hex digits", value, column)
        elif not part.strip("0"):
            return FormatError("b3", "ids must not be all zeros", value, column)
        column += len(part) + 1
    return FormatError("b3", "must be traceid-spanid-decision-parentid, the last two optional", value)


_B3: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("trace id", (16, 32)),
    ("span id", (16,)),
    ("decision", ()),
)
