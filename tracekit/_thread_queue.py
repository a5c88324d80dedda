"""``queue.Queue`` whose items carry their sender's context."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any, TypeVar

from ._delivery import Delivery, Envelope, open_envelope, seal

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Queue"]

T = TypeVar("T")

_SHUT_DOWN: Any = getattr(queue, "ShutDown", ())  # from Python 3.13 on


class Queue(queue.Queue[T]):
    """A ``queue.Queue`` whose items carry what was current where they were put.

    ``get()`` gives the item, ``get_delivery()`` and ``deliveries()`` its sender's context too. An item waits from
    when it is in the queue: before, it is its sender that waits.
    """

    def _put(self, item: T) -> None:
        super()._put(seal(item))  # type: ignore[arg-type]

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the next item, as ``queue.Queue.get`` does."""
        return self._get_envelope(block, timeout)[0]

    def get_delivery(self, block: bool = True, timeout: float | None = None) -> Delivery[T]:
        """Take the next item with its sender's context, waiting and failing as ``get()`` does."""
        return open_envelope(self._get_envelope(block, timeout))

    def get_delivery_nowait(self) -> Delivery[T]:
        """Take the next item with its sender's context; raise ``queue.Empty`` if there is none."""
        return self.get_delivery(block=False)

    def deliveries(self) -> Iterator[Delivery[T]]:
        """Iterate over items with their senders' contexts: until the queue is shut down, where it can be, or for ever."""
        while True:
            try:
                delivery = self.get_delivery()
            except _SHUT_DOWN:
                return
            yield delivery

    def _get_envelope(self, block: bool, timeout: float | None) -> Envelope[T]:
        return super().get(block, timeout)  # type: ignore[return-value]
