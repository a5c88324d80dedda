"""anyio's names and signatures for hand-offs, each of which propagates the trace.

Write ``from tracekit import aio`` in place of ``import anyio`` for tasks, threads, processes and streams. Where anyio's
function already keeps the guarantee, it is re-exported. asyncio's queue and executor call are here too, and two
functions that inspect running loops: ``tasks()`` and ``watch_loop()``. anyio is imported with the first name that needs
it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._distribution import install_hint
from .._handoffs.by_hand import detached, run_in_context

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from . import from_thread, to_interpreter, to_process, to_thread
    from ._asyncio import Queue, run_in_executor
    from ._groups import TaskGroup, create_task_group
    from ._stacks import Place
    from ._streams import MemoryObjectReceiveStream, MemoryObjectSendStream, create_memory_object_stream
    from ._tasks import CurrentSpan, TaskInfo, tasks
    from ._watch import LoopWatch, watch_loop

__all__ = [
    "CurrentSpan",
    "LoopWatch",
    "MemoryObjectReceiveStream",
    "MemoryObjectSendStream",
    "Place",
    "Queue",
    "TaskGroup",
    "TaskInfo",
    "create_memory_object_stream",
    "create_task_group",
    "from_thread",
    "run_in_context",
    "run_in_executor",
    "spawn_detached",
    "tasks",
    "to_interpreter",
    "to_process",
    "to_thread",
    "watch_loop",
]

# The names in each part; a public module is its own name.
_PARTS = {
    "_asyncio": ("Queue", "run_in_executor"),
    "_groups": ("TaskGroup", "create_task_group"),
    "_stacks": ("Place",),
    "_streams": ("MemoryObjectReceiveStream", "MemoryObjectSendStream", "create_memory_object_stream"),
    "_tasks": ("CurrentSpan", "TaskInfo", "tasks"),
    "_watch": ("LoopWatch", "watch_loop"),
    **{name: (name,) for name in ("from_thread", "to_interpreter", "to_process", "to_thread")},
}

if not TYPE_CHECKING:  # or a type checker takes every name for one of this module

    def __getattr__(name: str) -> Any:
        part = next((part for part, names in _PARTS.items() if name in names), None)
        if part is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{part}")
        except ModuleNotFoundError as error:
            if error.name != "anyio":
                raise
            message = f"tracekit.aio.{name} needs anyio: {install_hint('aio')}"
            raise ModuleNotFoundError(message, name=error.name) from error
        # A signal handler may have interrupted the import of this part, which then lacks the name.
        value = globals()[name] = module if part == name else getattr(module, name)  # the next lookup finds it there
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def spawn_detached(
    task_group: Any, func: Callable[..., Coroutine[Any, Any, Any]], /, *args: Any, name: object = None
) -> Any:
    """Start ``func(*args)`` in *task_group*, where its spans are roots of new traces, linked to the current context.

    For work that outlives its starter: a periodic tick, a listener, a pool's worker. *task_group* is
    anyio's or tracekit's, a trio nursery or an ``asyncio.TaskGroup``; the result is that of its method.
    """
    with detached():
        if hasattr(task_group, "start_soon"):
            return task_group.start_soon(func, *args, name=name)
        return task_group.create_task(func(*args), name=name)
