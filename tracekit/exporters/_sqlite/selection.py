"""Spans that a query found, read in portions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Selection"]

_PORTION = 500
_T = TypeVar("_T")


class Selection(Generic[_T]):
    """Spans of a store, which are read in portions of 500 each time that they are iterated.

    It holds their row ids, 8 bytes a span, and no transaction, which would keep the log of a writer from shrinking.
    ``len()`` is the number of spans that were found; those that are deleted before they are read are left out.
    """

    def __init__(self, read: Callable[[Sequence[int]], Iterator[_T]], ids: array[int]) -> None:
        self._read = read
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[_T]:
        for begin in range(0, len(self._ids), _PORTION):
            yield from self._read(self._ids[begin : begin + _PORTION])
