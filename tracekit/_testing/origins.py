"""The line that started a span, and the hand-off by which that code came to run, read from the stack."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from .._core.errors import clip

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# Packages that call functions of others: their lines do not identify the caller.
_MACHINERY = {
    "_pytest",
    "anyio",
    "asyncio",
    "concurrent",
    "contextlib",
    "functools",
    "multiprocessing",
    "threading",
    "trio",
}
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

_QUEUES = "tracekit.threads.Queue, tracekit.aio.Queue or aio.create_memory_object_stream() for what it is sent"
_HOOKS = "tracekit.wrap() or tracekit.install_hooks()"
_WRAP_TASK = "tracekit.wrap() where a thread, or a Context of its own, starts it"
# By the module of the innermost frame that calls the function it was handed: the name of the hand-off, its fix, and
# the fix where the context was handed over before there was one.
_HAND_OFFS = {
    "concurrent.futures._base": ("a callback of a Future", "tracekit.wrap()", ""),
    "concurrent.futures.thread": (
        "a job of a ThreadPoolExecutor",
        f"tracekit.threads.ThreadPoolExecutor, {_HOOKS}",
        _QUEUES,
    ),
    "multiprocessing.pool": ("a job of a multiprocessing.pool.ThreadPool", "tracekit.wrap()", _QUEUES),
    "socketserver": ("a request to a socketserver", "parent=tracekit.extract(headers) or tracekit.ROOT", ""),
    "trio._core._entry_queue": ("a callback of trio's run_sync_soon()", "tracekit.wrap()", ""),
    "trio._core._thread_cache": ("a call of trio.to_thread.run_sync()", "tracekit.wrap() where it is called", _QUEUES),
}


class Site(NamedTuple):
    """A line of a program."""

    file: str
    line: int


def calling_frame(files: str | tuple[str, ...] = PACKAGE) -> FrameType:
    """Return the innermost frame outside tracekit, or outside the files whose names begin with *files*."""
    frame: FrameType = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(files):
        frame = frame.f_back
    return frame


def is_machinery(frame: FrameType) -> bool:
    """Return whether *frame* is of a package that calls functions of others."""
    return _module(frame).partition(".")[0] in _MACHINERY


def started_at(caller: FrameType) -> Site:
    """Return the line of *caller*; or the first line of the function that it was given to call."""
    frame = sys._getframe(1) if is_machinery(caller) else caller
    while frame is not caller and frame.f_back is not None:
        # The function that @traced, or a task group, calls.
        function = frame.f_locals.get("function") or getattr(frame.f_locals.get("self"), "__wrapped__", None)
        code = getattr(function, "__code__", None)
        if code is not None:
            return Site(code.co_filename, code.co_firstlineno)
        frame = frame.f_back
    return line_of(caller)


def line_of(frame: FrameType) -> Site:
    """Return the line that *frame* is at."""
    return Site(frame.f_code.co_filename, frame.f_lineno)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def thread_text(thread: threading.Thread | None) -> str:
    """Return a thread's name as findings print it, or an empty text."""
    return "" if thread is None else f"thread {clip(thread.name)}"


def runs(thread: threading.Thread | None) -> bool:
    """Tell whether *thread* is known to be running still."""
    return thread is not None and thread.is_alive() and not is_foreign(thread)


def is_foreign(thread: threading.Thread) -> bool:
    """Tell whether *thread* was not started by ``threading``, which therefore knows neither its start nor its end."""
    return isinstance(thread, threading._DummyThread)


def _trio() -> Any:
    """Return ``trio.lowlevel`` if trio runs in this thread."""
    trio = sys.modules.get("trio.lowlevel")
    in_trio_task = getattr(trio, "in_trio_task", None)  # trio 0.23
    return trio if in_trio_task is not None and in_trio_task() else None


def _trio_nurseries(trio: Any) -> list[Any]:
    """Return the nurseries that trio itself opens: for ``run_sync_soon()``, for system tasks, for the main task."""
    return list(trio.current_root_task().child_nurseries)


def _asyncio() -> Any:
    """Return ``asyncio`` if it, and not trio, runs in this thread."""
    asyncio: Any = sys.modules.get("asyncio")
    return None if asyncio is None or asyncio._get_running_loop() is None or _trio() else asyncio


def is_main_task() -> bool:
    """Tell whether the main task of an event loop runs here."""
    trio, asyncio = _trio(), _asyncio()
    if trio is not None:
        return bool(trio.current_task().parent_nursery is _trio_nurseries(trio)[-1])
    if asyncio is not None:
        task = asyncio.current_task()
        for frame in _stack(sys._getframe()):
            if _module(frame) in {"asyncio.runners", "asyncio.base_events"}:
                main = frame.f_locals.get("task", frame.f_locals.get("future"))
                if main is not None:
                    return main is task
    return False


def lost_in(frame: FrameType, thread: threading.Thread | None, is_copy: bool) -> str:
    """Return the name of the hand-off that lost the context of *frame*, and the fix.

    *is_copy*: the Context was handed over correctly, and nothing was current in it yet.
    """
    where, fix, fix_copy = _find(frame, thread)
    text = (
        f"{where}, which began before there was one: use {fix_copy}" if is_copy and fix_copy else f"{where}: use {fix}"
    )
    below = frame.f_back
    if frame.f_code.co_flags & _GENERATOR and below is not None and _module(below) != "contextlib":
        text += f"; if {clip(frame.f_code.co_name)} is a generator that was made elsewhere, tracekit.stream()"
    return text


def _find(frame: FrameType, thread: threading.Thread | None) -> tuple[str, str, str]:
    """Return the name of the hand-off by which *frame* came to run, its fix, and its fix if there was no span yet."""
    trio, asyncio = _trio(), _asyncio()
    if asyncio is not None:
        task = asyncio.current_task()
        if task is None:
            return (
                "a callback of the event loop",
                "tracekit.wrap(), or parent=tracekit.ROOT where it is part of no trace",
                "",
            )
        return f"the asyncio task {clip(task.get_name())}", _WRAP_TASK, _QUEUES
    for caller in _stack(frame):
        module = _module(caller)
        if module == "trio._core._run":
            break
        if module == "concurrent.futures.thread" and thread is not None and thread.name.startswith("asyncio_"):
            return "a call of run_in_executor()", "tracekit.aio.run_in_executor() or tracekit.wrap()", _QUEUES
        if module in _HAND_OFFS:
            return _HAND_OFFS[module]
    if trio is not None:
        task = trio.current_task()
        if any(task.parent_nursery is nursery for nursery in _trio_nurseries(trio)[:-1]):
            return "a trio system task", "spawn_system_task(..., context=contextvars.copy_context())", ""
        return f"the trio task {clip(task.name)}", _WRAP_TASK, _QUEUES
    if thread is None:
        inside = "tracekit.capture() or contextvars.copy_context() inside the span"
        return "another contextvars.Context", inside, inside
    if isinstance(thread, threading.Timer):
        return "a threading.Timer", f"tracekit.threads.Timer, {_HOOKS}", ""
    if type(thread).__module__.startswith("anyio."):
        return "a call of anyio.to_thread.run_sync()", "tracekit.wrap() where it is called", _QUEUES
    if is_foreign(thread):
        return f"the {thread_text(thread)}, which threading did not start", "tracekit.wrap()", ""
    return f"the {thread_text(thread)}", f"tracekit.threads.Thread, {_HOOKS}", _QUEUES
