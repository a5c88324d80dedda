"""asyncio's own queue and executor call, with the sender's or the caller's context; no anyio is needed."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from .._handoffs.by_hand import wrap
from .._handoffs.delivery import Deliveries, Delivery, Envelope, open_envelope, seal
from .._handoffs.hooks import starts_processes, starts_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from .._core.context import SpanContext

T = TypeVar("T")
Args = TypeVarTuple("Args")

_SHUT_DOWN: Any = getattr(asyncio, "QueueShutDown", ())  # from Python 3.13 on


class Queue(asyncio.Queue[T]):
    """An ``asyncio.Queue`` whose items carry the context of the task that put them there.

    ``get()`` gives the item, ``get_delivery()`` and ``deliveries()`` its sender's context too. The wait of an item
    begins when it is in the queue; before that, its sender waits.
    """

    # The context of the item that was taken last. Nothing awaits between taking and reading it.
    _came_with: tuple[SpanContext | None, int]

    def _put(self, item: T) -> None:
        super()._put(seal(item))  # type: ignore[arg-type]

    def _get(self) -> T:
        envelope: Envelope[T] = super()._get()  # type: ignore[assignment]
        self._came_with = envelope[1:]
        return envelope[0]

    async def get_delivery(self) -> Delivery[T]:
        """Take the next item with its sender's context, waiting for it."""
        return open_envelope((await super().get(), *self._came_with))

    def get_delivery_nowait(self) -> Delivery[T]:
        """Take the next item with its sender's context; raise ``asyncio.QueueEmpty`` if there is none."""
        return open_envelope((super().get_nowait(), *self._came_with))

    def deliveries(self) -> Deliveries[T]:
        """Iterate over items with their senders' contexts until the queue is shut down, if ever."""
        return Deliveries(self.get_delivery, _SHUT_DOWN)


def run_in_executor(executor: Executor | None, func: Callable[[Unpack[Args]], T], *args: *Args) -> asyncio.Future[T]:
    """Run *func* in an executor of any kind, the loop's own if None, like ``loop.run_in_executor``.

    *func* runs in the current context, in a separate copy of it; the spans of a process of
    ``concurrent.futures.ProcessPoolExecutor`` come back with the result.
    """
    loop = asyncio.get_running_loop()
    if not callable(func):  # fails as it does without tracekit
        return loop.run_in_executor(executor, func, *args)
    if starts_processes(executor):
        from ..processes import ProcessPoolExecutor, pack

        run, packed = (func, args) if isinstance(executor, ProcessPoolExecutor) else pack(func, *args)
        return loop.run_in_executor(executor, run, *packed)
    if executor is None or starts_threads(executor):
        # From an empty Context: since Python 3.14 a worker may inherit that of its first job.
        return Context().run(loop.run_in_executor, executor, wrap(func), *args)  # type: ignore[arg-type]
    return loop.run_in_executor(executor, wrap(func), *args)
