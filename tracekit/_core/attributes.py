"""What an attribute may hold, and how everything else is brought into that shape.

Kept as they are: ``str``, ``bool``, ``int``, ``float``, ``bytes``; sequences (as tuples) and
string-keyed mappings (as dicts) of those and of ``None``, three levels deep. Subclasses
become their plain type. Anything else, ``None`` included, is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

__all__ = ["CANCELLED_KEY", "MISSING", "clean", "int_text", "whole"]

# What says of a span that was cancelled why, in formats whose status knows success and error only.
CANCELLED_KEY = "tracekit.cancelled"


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()

_DEPTH = 3
_MAX_INT_BITS = 16384


def clean(value: object, limit: int) -> tuple[Any, int]:
    """Return *value* as an attribute holds it and how often it was cut; ``MISSING`` if it has no such form.

    *limit* bounds the characters of a text and the elements of a sequence or mapping; all that a value holds
    at any depth is bounded by eight times as many.
    """
    if value is None:
        return MISSING, 0
    try:
        return _Cleaner(limit).clean(value, _DEPTH)
    except Exception:  # a subclass with a raising method must not reach the program that is traced
        return MISSING, 0


def int_text(number: int) -> str:
    """Return what stands for an int that a format has no room for; hexadecimal, as decimal would take quadratic time."""
    return hex(number) if number.bit_length() <= _MAX_INT_BITS else f"<int of {number.bit_length()} bits>"


def whole(text: str) -> str:
    """Return *text* with lone surrogates, which no UTF-8 holds, as U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Cleaner:
    """One value being cleaned, and how many more elements may be read of it."""

    __slots__ = ("left", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = 8 * limit

    def clean(self, value: Any, depth: int) -> tuple[Any, int]:
        if value is None or isinstance(value, bool):
            return value, 0
        if isinstance(value, str):
            text = str.__str__(value)
            return (text, 0) if len(text) <= self.limit else (text[: self.limit], 1)
        if isinstance(value, int):
            return int.__int__(value), 0
        if isinstance(value, float):
            return float.__float__(value), 0
        if isinstance(value, bytes | bytearray | memoryview):
            octets = bytes(value[: self.limit + 1])
            return (octets, 0) if len(octets) <= self.limit else (octets[: self.limit], 1)
        if depth == 0:
            return MISSING, 0
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, Sequence | Set):
            return self._sequence(value, depth)
        return MISSING, 0

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> tuple[Any, int]:
        cleaned: dict[str, Any] = {}
        cuts = 0
        for count, (key, item) in enumerate(value.items()):
            if count == self.limit or self.left == 0:
                return cleaned, cuts + 1
            self.left -= 1
            plain, cut = self.clean(item, depth - 1)
            cuts += cut
            if plain is MISSING or not isinstance(key, str):
                cuts += 1
            else:
                cleaned[str.__str__(key)[: self.limit]] = plain
        return cleaned, cuts

    def _sequence(self, value: Any, depth: int) -> tuple[Any, int]:
        items: list[Any] = []
        cuts = 0
        for count, item in enumerate(value):
            if count == self.limit or self.left == 0:
                cuts += 1
                break
            self.left -= 1
            plain, cut = self.clean(item, depth - 1)
            cuts += cut
            if plain is MISSING:
                cuts += 1
            else:
                items.append(plain)
        return tuple(items), cuts
