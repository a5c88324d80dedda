"""Threads without a loop: the standard library's threads, pools and queue, and work that keeps its sender's trace."""

from __future__ import annotations

import contextvars
import queue
import threading
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from ._handoffs.by_hand import capture, wrap
from ._handoffs.delivery import Delivery, Envelope, open_envelope, seal
from ._handoffs.hooks import start_inside, starts_processes, starts_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["Queue", "Thread", "ThreadPoolExecutor", "Timer", "wrap_executor"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_SHUT_DOWN: Any = getattr(queue, "ShutDown", ())  # from Python 3.13 on


class Thread(threading.Thread):
    """A ``threading.Thread`` that runs in the context of the call of ``start()``, though its span may have ended.

    It runs in a copy of that Context; an explicit *context*, from Python 3.14 on, takes precedence.
    """

    def start(self) -> None:
        """Start the thread, as ``threading.Thread.start`` does."""
        # From an empty Context: since Python 3.14 the thread may inherit its starter's, and keep it while it lives.
        start_inside(self, capture().run, partial(contextvars.Context().run, super().start))


class Timer(Thread, threading.Timer):
    """A ``threading.Timer`` that calls its function in the context of the call of ``start()``."""


class ThreadPoolExecutor(futures.ThreadPoolExecutor):
    """A ``concurrent.futures.ThreadPoolExecutor`` whose jobs run in the context of their submission.

    Each runs in a separate Context: scopes that a job leaves open do not reach the next job on the same thread. The
    threads, and *initializer*, do not inherit the context of the first submission.
    """

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[R]:
        """Schedule ``fn(*args, **kwargs)``, as ``Executor.submit`` does."""
        # From an empty Context: since Python 3.14 a worker may inherit that of its first job.
        return contextvars.Context().run(super().submit, capture().run, fn, *args, **kwargs)  # type: ignore[arg-type]


def wrap_executor(executor: futures.Executor) -> futures.Executor:
    """Return an executor that hands its jobs to *executor*, of any kind, each in the context of its submission.

    For executors made by other code. An executor of processes is rejected: ``tracekit.processes`` has one that
    also brings back the spans recorded there.
    """
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must be an Executor, not {type(executor).__name__}")
    if starts_processes(executor):
        raise TypeError("wrap_executor is for threads; for processes use tracekit.processes.ProcessPoolExecutor")
    return _WrappedExecutor(executor)


class _WrappedExecutor(futures.Executor):
    def __init__(self, executor: futures.Executor) -> None:
        self._executor = executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[R]:
        # An object that is not callable fails as it does without tracekit.
        fn = wrap(fn) if callable(fn) else fn
        if starts_threads(self._executor):
            return contextvars.Context().run(self._executor.submit, fn, *args, **kwargs)  # see ThreadPoolExecutor
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, **options: Any) -> None:
        self._executor.shutdown(wait, **options)

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._executor.__exit__(kind, exc, traceback)

    def __repr__(self) -> str:
        return f"<tracekit.threads.wrap_executor({self._executor!r})>"


class Queue(queue.Queue[T]):
    """A ``queue.Queue`` whose items carry the context of the call of ``put()``.

    ``get()`` returns the item, ``get_delivery()`` and ``deliveries()`` its sender's context too. The waiting time
    of an item starts when it is in the queue, not when its sender starts to wait for room.
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
        """Iterate over items with their senders' contexts until the queue is shut down, if ever."""
        try:
            while True:
                yield self.get_delivery()
        except _SHUT_DOWN:
            pass

    def _get_envelope(self, block: bool, timeout: float | None) -> Envelope[T]:
        return super().get(block, timeout)  # type: ignore[return-value]
