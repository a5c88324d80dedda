"""The plain form of ``Items`` and ``Entries``, the attributes, events and links of a span.

``_speedups_items.pxi`` keeps them in arrays that the garbage collector does not count. Here they are a dict and a list,
which it does: in Python everything else is slower.
"""

from __future__ import annotations

from .free_threading import HAS_GIL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def has_text_keys(items: dict[Any, Any]) -> bool:
    """Tell whether all keys are of type str, and none of a subclass."""
    return all(type(key) is str for key in [*items])  # copied: a finalizer may change it


def _are_plain(items: dict[str, Any], max_length: int) -> bool:
    for value in items.values():
        kind = type(value)
        if kind is str:
            if len(value) > max_length:
                return False
        elif kind is not int and kind is not float and kind is not bool:
            return False
    return True


class Items(dict[str, "Any"]):
    """The attributes of a span, an event or a link, in the order in which their keys came."""

    __slots__ = ("left_out",)

    left_out: int  # how many items of an event or a link were left out

    def __new__(cls) -> Items:
        made = super().__new__(cls)
        made.left_out = 0
        return made

    put = add = dict.__setitem__
    has = dict.__contains__
    count = dict.__len__

    def fill(self, items: dict[str, Any], max_count: int, max_length: int) -> bool:
        """Put all *items* and return True; or put none where one would have to be converted, cut or left out."""
        if len(self) + len(items) > max_count or not _are_plain(items, max_length):
            return False
        self.update(items)
        return True

    def reserve(self, count: int) -> None:
        """Make room for *count* more."""

    def fits(self, max_count: int, max_length: int) -> bool:
        """Tell whether none would have to be converted, cut or left out."""
        return len(self) <= max_count and _are_plain(self, max_length)

    def mapping(self) -> dict[str, Any]:
        """Return the dict that holds them, always the same; later ones enter it, too. Without the GIL, a copy."""
        return self if HAS_GIL else dict(self)


class Entries:
    """The events of a span (a name, a time, attributes or None), or its links (a context, 0, attributes or None)."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: list[tuple[Any, int, Items | None]] = []

    def count(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def append(self, head: Any, number: int, items: Items | None) -> None:
        """Add one."""
        self._entries.append((head, number, items))

    def head(self, at: int) -> Any:
        """Return the name of the event, or the context of the link."""
        return self._entries[at][0]

    def number(self, at: int) -> int:
        """Return the time of the event."""
        return self._entries[at][1]

    def items(self, at: int) -> Items | None:
        """Return the attributes."""
        return self._entries[at][2]
