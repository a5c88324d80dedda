"""Columns of a store by the types of a row's fields, and the values of their cells.

SQLite stores any type in any column, and another program may have written it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable

_decode = json.JSONDecoder(parse_constant=str).decode  # json.loads() with an option makes a decoder for each call


def columns_of(row: type) -> str:
    """Return the definition of a column for each field of *row*, a NamedTuple, in SQL."""
    return ",\n            ".join([f"{name} {_BY_TYPE[kind][0]}" for name, kind in get_type_hints(row).items()])


def readers_of(row: type) -> list[Callable[[Any], Any]]:
    """Return a function for each field of *row*, a NamedTuple, that makes a value of the field's type of any cell."""
    return [_BY_TYPE[kind][1] for kind in get_type_hints(row).values()]


def int_of(value: Any) -> int:
    """Return *value*, or 0 if it is no int."""
    return value if isinstance(value, int) else 0


def json_of(text: Any) -> Any:
    """Return the value of *text*, or None if it is no JSON."""
    try:
        return json.loads(text, parse_constant=str) if isinstance(text, bytes) else _decode(text)
    except (TypeError, ValueError, RecursionError):
        return None


def mapping_of(text: Any) -> dict[str, Any]:
    """Return the JSON object in *text*, or an empty one."""
    value = json_of(text)
    return value if isinstance(value, dict) else {}


def _sequence_of(text: Any) -> list[Any]:
    value = json_of(text)
    return value if isinstance(value, list) else []


_BY_TYPE: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    str: ("TEXT NOT NULL", str),
    str | None: ("TEXT", lambda value: None if value is None else str(value)),
    int: ("INTEGER NOT NULL", int_of),
    bool: ("INTEGER NOT NULL", bool),
    dict[str, Any]: ("TEXT NOT NULL", mapping_of),
    list[Any]: ("TEXT NOT NULL", _sequence_of),
    Any: ("TEXT NOT NULL", json_of),
}
