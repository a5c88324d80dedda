"""What an attribute may hold, and how everything else is brought into that shape.

Kept as they are: ``str``, ``bool``, ``int``, ``float``, ``bytes``; sequences (as tuples) and
string-keyed mappings (as dicts) of those and of ``None``, three levels deep. Subclasses
become their plain type. Anything else, ``None`` included, is left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

__all__ = ["MISSING", "clean"]

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "MISSING"})()

_DEPTH = 3


def clean(value: object, limit: int) -> tuple[Any, int]:
    """Return *value* as an attribute holds it and how often it was cut to *limit*; ``MISSING`` if it has no such form."""
    if value is None:
        return MISSING, 0
    try:
        return _clean(value, limit, _DEPTH)
    except Exception:  # a subclass with a raising method must not reach the program that is traced
        return MISSING, 0


def _clean(value: Any, limit: int, depth: int) -> tuple[Any, int]:
    if value is None or isinstance(value, bool):
        return value, 0
    if isinstance(value, str):
        text = str.__str__(value)
        return (text, 0) if len(text) <= limit else (text[:limit], 1)
    if isinstance(value, int):
        return int.__int__(value), 0
    if isinstance(value, float):
        return float.__float__(value), 0
    if isinstance(value, bytes | bytearray | memoryview):
        octets = bytes(value[: limit + 1])
        return (octets, 0) if len(octets) <= limit else (octets[:limit], 1)
    if depth == 0:
        return MISSING, 0
    if isinstance(value, Mapping):
        return _clean_mapping(value, limit, depth)
    if isinstance(value, Sequence | Set):
        return _clean_sequence(value, limit, depth)
    return MISSING, 0


def _clean_mapping(value: Mapping[Any, Any], limit: int, depth: int) -> tuple[Any, int]:
    cleaned: dict[str, Any] = {}
    cuts = 0
    for key, item in value.items():
        if len(cleaned) == limit:
            return cleaned, cuts + 1
        plain, cut = _clean(item, limit, depth - 1)
        cuts += cut
        if plain is MISSING or not isinstance(key, str):
            cuts += 1
        else:
            cleaned[str.__str__(key)[:limit]] = plain
    return cleaned, cuts


def _clean_sequence(value: Any, limit: int, depth: int) -> tuple[Any, int]:
    items: list[Any] = []
    cuts = 0
    for item in value:
        if len(items) == limit:
            cuts += 1
            break
        plain, cut = _clean(item, limit, depth - 1)
        cuts += cut
        if plain is MISSING:
            cuts += 1
        else:
            items.append(plain)
    return tuple(items), cuts
