"""Stacks of suspended coroutines and of threads, and the event loops that run in threads.

They are read from outside: nothing is resumed, and errors of the program's objects are caught.

A suspended coroutine has no stack; the chain of its awaitables takes that place: ``cr_await``, ``gi_yieldfrom`` and
``ag_await``. The steps of an asynchronous generator hide it (CPython issue 76991), and the garbage collector's
``get_referents()`` finds it.

Without the GIL no frames, coroutines or Contexts of other threads are read, nor those of tasks that run there: while such
a thread runs, that crashes CPython 3.14, and nothing but CPython could stop it meanwhile.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.free_threading import HAS_GIL
from .._core.guard import ask, plain_text

if TYPE_CHECKING:
    from types import CodeType, FrameType

_WALK: Final = 4096  # frames or awaitables
_OUTERMOST: Final = 8  # kept of a longer stack, beside the innermost
_INNERMOST: Final = 24
_FILE: Final = 400  # characters, of the end
_NAME: Final = 200
_LOCALS: Final = 1000
_OUTER_FRAMES: Final = 64  # of a thread, searched for a loop
_LOOKS: Final = 8
_RESUMED: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR

_RUNS: Final = {"run_forever", "run_until_complete"}  # names in code that runs a loop

# Objects that stand for the next step of another one, which they do not name.
_HIDING: Final = {"anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}


class Place(NamedTuple):
    """A line of a stack."""

    function: str
    file: str
    line: int


class RunningThread(NamedTuple):
    """A thread: its innermost frame, None where it is not read, and the event loops that run in it."""

    frame: FrameType | None
    loops: list[Any]  # of asyncio
    roots: list[Any]  # the root tasks of trio
    guests: list[Any]  # the root tasks of loops in guest mode that this thread waits for, which run in another


class Stacks:
    """The stacks of many tasks at one time. Equal stacks are one object, because each object costs garbage collections."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, int], Place] = {}
        self._stacks: dict[tuple[int, ...], tuple[Place, ...]] = {}
        self._codes: list[CodeType] = []  # kept alive, as the keys are their ids

    def awaits(self, awaitable: Any) -> tuple[tuple[Place, ...], list[FrameType]]:
        """Return where each coroutine of the chain from *awaitable* on is suspended, outermost first, and frames.

        Of a chain of more than 32 the middle is left out. The frames are the first four.
        """
        frames: list[FrameType] = []
        codes: list[CodeType] = []
        lines: list[int] = []
        following, seen = awaitable, 0
        while following is not None and seen < _WALK:
            seen += 1
            frame, inner = ask(_inner, following, (None, None))
            if frame is not None:
                codes.append(frame.f_code)
                lines.append(frame.f_lineno or 0)
                if len(frames) < 4:
                    frames.append(frame)
            following = inner
        return self._stack(codes, lines), frames

    def places(self, frame: FrameType | None, outermost: FrameType | None = None) -> tuple[Place, ...]:
        """Return the stack that ends in *frame*, outermost first, from *outermost* on where that is part of it.

        Of more than 32 lines the middle is left out.
        """
        codes: list[CodeType] = []
        lines: list[int] = []
        while frame is not None and len(codes) < _WALK:
            codes.append(frame.f_code)
            lines.append(frame.f_lineno or 0)
            if frame is outermost:
                break
            frame = frame.f_back
        return self._stack(codes[::-1], lines[::-1])

    def _stack(self, codes: list[CodeType], lines: list[int]) -> tuple[Place, ...]:
        if len(codes) > _OUTERMOST + _INNERMOST:
            codes = codes[:_OUTERMOST] + codes[-_INNERMOST:]
            lines = lines[:_OUTERMOST] + lines[-_INNERMOST:]
        key = (*map(id, codes), *lines)
        found = self._stacks.get(key)
        if found is None:
            found = self._stacks[key] = tuple(map(self._place, codes, lines))
        return found

    def _place(self, code: CodeType, line: int) -> Place:
        key = id(code), line
        found = self._places.get(key)
        if found is None:
            file = plain_text(code.co_filename, 4 * _FILE)[-_FILE:]
            found = self._places[key] = Place(plain_text(code.co_qualname, _NAME), file, line)
            self._codes.append(code)
        return found


def _inner(awaitable: Any) -> tuple[FrameType | None, Any]:
    kind = type(awaitable)
    if hasattr(kind, "cr_frame"):
        return awaitable.cr_frame, awaitable.cr_await
    if hasattr(kind, "gi_frame"):
        return awaitable.gi_frame, awaitable.gi_yieldfrom
    if hasattr(kind, "ag_frame"):
        return awaitable.ag_frame, awaitable.ag_await
    if kind.__name__ in _HIDING:
        for referent in gc.get_referents(awaitable):
            names = ("cr_frame", "gi_frame", "ag_frame")
            if any(hasattr(type(referent), name) for name in names) or type(referent).__name__ in _HIDING:
                return None, referent
    return None, None


def stack_text(stack: tuple[Place, ...]) -> str:
    """Return *stack* as the lines of a traceback, without the source."""
    return "".join([f'  File "{place.file}", line {place.line}, in {place.function}\n' for place in stack])


def may_read(ident: int | None) -> bool:
    """Tell whether the frames, coroutines and Contexts of the thread *ident* may be read in this one."""
    return HAS_GIL or ident == threading.get_ident()


def frame_of(ident: int) -> FrameType | None:
    """Return the innermost frame of the thread *ident*, or None."""
    return sys._current_frames().get(ident) if may_read(ident) else None


def running_threads() -> dict[int | None, RunningThread]:
    """Return every thread by its identifier; None stands for the unknown threads of loops."""
    codes = _loop_codes()
    here = threading.get_ident()
    found: dict[int | None, RunningThread] = {}
    if not HAS_GIL:
        found[None] = _unread()  # first: a thread that is known takes precedence
        found |= {thread.ident: RunningThread(None, [], [], []) for thread in threading.enumerate() if thread.ident}
    for ident, innermost in (sys._current_frames() if HAS_GIL else {here: sys._getframe()}).items():
        loops: list[Any] = []
        roots: list[Any] = []
        guests: list[Any] = []
        outermost = _outermost(innermost)
        for _ in range(_LOOKS):
            # The coroutine has been suspended since its frame was read, so no frame calls it now.
            if not outermost[-1].f_code.co_flags & _RESUMED:
                break
            innermost = frame_of(ident) or innermost
            outermost = _outermost(innermost)
        for frame in reversed(outermost):
            name = codes.get(frame.f_code)
            if name is not None:
                holder = frame.f_locals.get(name)
                if name == "runner":
                    _add(roots, getattr(holder, "init_task", None))
                elif type(holder).__name__ == "GuestState":
                    is_host = frame.f_code.co_name == "guest_tick"
                    _add(roots if is_host else guests, getattr(getattr(holder, "runner", None), "init_task", None))
                else:
                    _add_loop(loops, holder)
            elif HAS_GIL and not _RUNS.isdisjoint(frame.f_code.co_names):
                # A loop in C has no frame; in its caller's it is a variable, or an attribute of one, as may be a loop
                # of another thread. Before 3.13, reading those keeps their values until the caller returns.
                for value in list(frame.f_locals.values())[:_LOCALS]:
                    _add_loop(loops, value)
                    for attribute in ask(_attributes, value, ()):
                        _add_loop(loops, attribute)
        if ident == here:
            _add(roots, _root_here())
            _add_loop(loops, _loop_here())
        found[ident] = RunningThread(innermost, loops, roots, guests)
    return found


def _unread() -> RunningThread:
    """Return the loops that the garbage collector knows, where frames do not tell their threads."""
    found = RunningThread(None, [], [], [])
    asyncio: Any = sys.modules.get("asyncio")
    trio: Any = sys.modules.get("trio._core._run")
    loops = getattr(asyncio, "AbstractEventLoop", ())
    runners = getattr(trio, "Runner", ())
    kinds: dict[type, bool] = {}
    for one in gc.get_objects():
        kind = type(one)
        is_either = kinds.get(kind)
        if is_either is None:
            is_either = kinds[kind] = issubclass(kind, loops) or issubclass(kind, runners)
        if is_either:
            if ask(lambda one: one.init_task in one.tasks, one, False):  # trio's, which runs
                _add(found.roots, one.init_task)
            _add_loop(found.loops, one)
    return found


def _outermost(frame: FrameType | None) -> deque[FrameType]:
    found: deque[FrameType] = deque(maxlen=_OUTER_FRAMES)
    for _ in range(_WALK):
        if frame is None:
            break
        found.append(frame)
        frame = frame.f_back
    return found


def _add(found: list[Any], value: Any) -> None:
    if value is not None and all(value is not other for other in found):
        found.append(value)


def _add_loop(loops: list[Any], value: Any) -> None:
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None or value is None:
        return
    if issubclass(type(value), asyncio.Runner):
        value = value._loop
    if issubclass(type(value), asyncio.AbstractEventLoop) and ask(type(value).is_running, value, False):
        _add(loops, value)


def _attributes(value: Any) -> list[Any]:
    return list(object.__getattribute__(value, "__dict__").values())[:_LOCALS]


def _loop_here() -> Any:
    asyncio: Any = sys.modules.get("asyncio")
    return None if asyncio is None else ask(methodcaller("_get_running_loop"), asyncio)


def _root_here() -> Any:
    trio: Any = sys.modules.get("trio")
    try:
        return None if trio is None else trio.lowlevel.current_root_task()
    except (AttributeError, RuntimeError):  # trio is being imported, or runs no loop here
        return None


def _loop_codes() -> dict[CodeType, str]:
    """Return the functions of asyncio and trio that run a loop, and the name of the variable that leads to it."""
    codes: dict[CodeType, str] = {}
    for module, path, variable in (
        ("asyncio.runners", "Runner.run", "self"),
        ("asyncio.base_events", "BaseEventLoop.run_forever", "self"),
        ("trio._core._run", "run", "runner"),
        ("trio._core._run", "GuestState.guest_tick", "self"),
    ):
        function: Any = sys.modules.get(module)
        for name in path.split("."):
            function = getattr(function, name, None)
        code = getattr(function, "__code__", None)
        if code is not None:
            codes[code] = variable
            for inner in code.co_consts:
                if getattr(inner, "co_name", "") == "get_events":
                    codes[inner] = variable
    return codes
