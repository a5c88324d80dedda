"""``tasks()``: every task of asyncio and trio and every thread, with its span and the calls that it waits in.

It works from any thread, also while the loops run; it wakes no loop and enters no Context. Tasks are read one after the
other, so a task that runs meanwhile may be shown a little earlier or later than another.
"""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
import time
import weakref
from operator import attrgetter, methodcaller
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._core.guard import ask, plain_text, type_name
from .._core.scopes import inside_context, thread_context
from .._export.notices import Notices, describe
from ._stacks import Place, Stacks, may_read, running_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

_PACKAGE: Final = __name__.partition(".")[0]
_LIMIT: Final = 10_000
_NAME: Final = 200
_AWAITED_BY: Final = 16
# A thread whose innermost Python function is in one of these modules waits: for a lock, a job or the network.
_WAITING: Final = {
    "concurrent.futures.thread",
    "queue",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    *(f"trio._core._{name}" for name in ("io_epoll", "io_kqueue", "io_windows", "thread_cache")),
    *(f"{_PACKAGE}.{name}" for name in ("_export.threads", "_export.worker", "exporters._otlp.background")),
    f"{_PACKAGE}.aio._watch",
}


class CurrentSpan(NamedTuple):
    """The span that is current in a task. ``name`` is "" where only its ids are known, for ended and remote ones.

    ``age_s`` is None there, and where the span is not recorded.
    """

    name: str
    trace_id: str
    span_id: str
    age_s: float | None
    has_ended: bool


class TaskInfo(NamedTuple):
    """A task or a thread.

    ``id`` is unique in its snapshot, and ``parent`` the id of the task that owns its nursery or task group, else of the
    task that waits for it, if one does, else of the thread of the loop; None for a thread. ``group`` is the name or
    kind of that group and ``group_id`` distinguishes it from others, both "" without one.
    ``backend`` is "asyncio", "trio" or "thread"; ``state`` is "running", "ready" (its next step is scheduled),
    "waiting", "cancelling" (waiting, and cancelled), for threads "running" or "waiting".
    ``awaits`` is the chain of suspended calls, outermost first, or the stack of a running one; of more than 32 the
    middle is left out. ``waits_for`` names the innermost object of the chain, "" where there is none.
    ``age_s`` is known for tasks of named groups, and None for others, which are at least ``seen_s`` old: that is the time
    since the first ``tasks()`` that saw them, 0 at the first look.
    ``idle_s`` is the least time since the task's last step: since the first ``tasks()`` that saw it waiting for the same
    thing, None at the first look and where it is not known.
    """

    id: str
    name: str
    backend: str
    state: str
    thread: str
    parent: str | None
    group: str
    group_id: str
    span: CurrentSpan | None
    age_s: float | None
    seen_s: float
    idle_s: float | None
    awaits: tuple[Place, ...]
    waits_for: str
    awaited_by: tuple[str, ...]


class _Seen(NamedTuple):
    """A task or thread at an earlier look: its first look, the mark of its step, and when that mark was first seen."""

    task: Any  # a weak reference
    first_ns: int
    mark: Any
    since_ns: int


_notices = Notices()
_seen: dict[int, _Seen] = {}
_roots: list[tuple[Any, int | None]] = []  # weak references to the root tasks of trio, and their threads


def tasks() -> list[TaskInfo]:
    """Return every asyncio task, trio task and thread of the process, at most 10,000 tasks.

    Callable from any thread; never raises. Tasks of trio are found in the loops that ``trio.run()`` runs, and on Python
    3.14 those of asyncio in loops that run. Without the GIL tasks of other threads have no span and no stack.
    """
    return snapshot()


def snapshot(pace: Callable[[], None] = lambda: None) -> list[TaskInfo]:
    """Do the same as ``tasks()``, and call *pace* between tasks."""
    try:
        return _Look(pace).infos()
    except Exception as error:  # the program is at its recursion limit, or an object of it is hostile in a new way
        _notices.say("error", type(error), "tasks() failed: %s (reported once per cause)", describe(error))
        return []


class _Look:
    """One reading of all tasks."""

    def __init__(self, pace: Callable[[], None]) -> None:
        self.pace = pace
        self.now_ns = monotonic_ns()
        self.time_ns = time.time_ns()
        self.threads = running_threads()
        self.stacks = Stacks()
        known = {thread.ident: thread for thread in threading.enumerate()}
        self.names = {ident: plain_text(ask(attrgetter("name"), thread), _NAME) for ident, thread in known.items()}
        self.known = known
        self.room = _LIMIT
        self.seen: dict[int, _Seen] = {}
        self.waiters: dict[int, Any] = {}  # by the id of a future: the task that waits for it

    def infos(self) -> list[TaskInfo]:
        global _seen
        found = [self.thread(ident) for ident in self.threads if ident is not None]
        found += self.asyncio()
        for root, ident in self.roots():
            found += self.trio(root, ident)
        _seen = self.seen
        return found

    def roots(self) -> list[tuple[Any, int | None]]:
        """Return the root tasks of trio and their threads; in guest mode a thread is known once a look found it."""
        global _roots
        roots: dict[int, tuple[Any, int | None]] = {}
        for reference, ident in _roots:
            root = reference()
            if root is not None and may_read(ident) and getattr(root.coro, "cr_frame", None) is not None:
                roots[id(root)] = root, ident if ident in self.threads else None
        for thread_ident, thread in self.threads.items():
            roots.update({id(root): (root, thread_ident) for root in thread.roots})
            for root in thread.guests:
                roots.setdefault(id(root), (root, None))
        _roots = [(weakref.ref(root), ident) for root, ident in roots.values()]
        return list(roots.values())

    def thread(self, ident: int) -> TaskInfo:
        frame = self.threads[ident].frame
        if frame is not None and ident == threading.get_ident():
            while frame.f_back is not None and _is_ours(frame):
                frame = frame.f_back
        module = None if frame is None else frame.f_globals.get("__name__")
        state = "waiting" if type(module) is str and module in _WAITING else "running"
        span = self.span(thread_context(ident)) if may_read(ident) else None
        name = self.names.get(ident, "")
        stack = self.stacks.places(frame)
        known = self.known.get(ident)
        seen_s, _ = (0.0, None) if known is None else self.seen_and_idle_s(known, None)
        return TaskInfo(
            id=_id(ident),
            name=name,
            backend="thread",
            state=state,
            thread=name,
            parent=None,
            group="",
            group_id="",
            span=span,
            age_s=None,
            seen_s=seen_s,
            idle_s=None,
            awaits=stack,
            waits_for=stack[-1].function if stack else "",
            awaited_by=(),
        )

    # ---- asyncio

    def asyncio(self) -> Iterable[TaskInfo]:
        module: Any = sys.modules.get("asyncio")
        if module is None:
            return []
        threads = {id(loop): ident for ident, thread in self.threads.items() for loop in thread.loops}
        loops = [*{id(loop): loop for thread in self.threads.values() for loop in thread.loops}.values()]
        current = {id(ask(module.current_task, loop)) for loop in loops}
        found = []
        for task in _asyncio_tasks(module, loops):
            if ask(lambda task: bool(task.done()), task, True):
                continue
            if self.room <= 0:
                break
            self.room -= 1
            self.pace()
            waiter = ask(attrgetter("_fut_waiter"), task)
            found.append((task, waiter))
            if waiter is not None:
                for future in (waiter, *ask(_children, waiter, ())):
                    self.waiters[id(future)] = task
        infos = []
        for task, waiter in found:
            self.pace()
            loop = ask(methodcaller("get_loop"), task)
            # A frame of another thread may have the loop in a variable.
            ident = ask(_thread_of, loop) or threads.get(id(loop))
            is_current = id(task) in current
            infos.append(ask(lambda task: self.asyncio_task(task, waiter, ident, is_current), task))  # noqa: B023
        return [info for info in infos if info is not None]

    def asyncio_task(self, task: Any, waiter: Any, ident: int | None, is_current: bool) -> TaskInfo:
        coro = task.get_coro()
        is_read = may_read(ident)
        stack, frames = self.stacks.awaits(coro) if is_read else ((), [])
        if is_current:
            state = "running"
            if is_read and ident in self.threads and coro is not None:
                stack = self.stacks.places(self.threads[ident].frame, getattr(coro, "cr_frame", None)) or stack
        elif waiter is None:
            state = "ready"
        else:
            state = "cancelling" if task.cancelling() else "waiting"
        kind, group, owner = _asyncio_group(task)
        named = _named(frames)
        awaited_by = self.awaited_by(task)
        if owner is None and awaited_by:
            owner = awaited_by[0]
        parent = _id(id(owner)) if owner is not None and owner is not task else None
        if parent is None and ident is not None and ident in self.threads:
            parent = _id(ident)
        seen_s, idle_s = self.seen_and_idle_s(task, None if waiter is None else ask(weakref.ref, waiter))
        return TaskInfo(
            id=_id(id(task)),
            name=plain_text(task.get_name(), _NAME),
            backend="asyncio",
            state=state,
            thread=self.names.get(ident, ""),
            parent=parent,
            group=kind if named is None else plain_text(named.cancellation.name, _NAME),
            group_id="" if group is None else _id(id(group)),
            span=self.span(ask(context_of, task)) if is_read else None,
            age_s=None if named is None else max(self.now_ns - named.spawned_ns, 0) / 1e9,
            seen_s=seen_s,
            idle_s=idle_s,
            awaits=stack,
            waits_for="" if waiter is None or is_current else _described(waiter),
            awaited_by=tuple([_id(id(other)) for other in awaited_by[:_AWAITED_BY]]),
        )

    def awaited_by(self, task: Any) -> list[Any]:
        """Return the tasks that wait for *task*, directly or through gather() and the like."""
        found: dict[int, Any] = {}
        waiting = self.waiters.get(id(task))
        if waiting is not None:
            found[id(waiting)] = waiting
        for future in list(getattr(task, "_asyncio_awaited_by", None) or ()):  # Python 3.14
            other = self.waiters.get(id(future), future)
            if hasattr(type(other), "get_coro"):
                found[id(other)] = other
        return list(found.values())

    # ---- trio

    def trio(self, root: Any, ident: int | None) -> list[TaskInfo]:
        infos: list[TaskInfo] = []
        waiting: list[tuple[Any, Any, Any]] = [(root, None, None)]
        while waiting and self.room > 0:
            task, owner, nursery = waiting.pop()
            self.room -= 1
            self.pace()
            info = ask(lambda task: self.trio_task(task, ident, owner, nursery), task)  # noqa: B023
            if info is not None:
                infos.append(info)
            for nursery in task.child_nurseries:
                waiting += [(child, task, nursery) for child in nursery.child_tasks]
        return infos

    def trio_task(self, task: Any, ident: int | None, owner: Any, nursery: Any) -> TaskInfo:
        coro = task.coro
        is_read = may_read(ident)
        stack, frames = self.stacks.awaits(coro) if is_read else ((), [])
        is_running = is_read and getattr(coro, "cr_running", False)
        while stack and stack[-1].file.endswith("_traps.py"):  # where every wait of trio ends
            stack = stack[:-1]
        waits_for = stack[-1].function if stack and not is_running else ""
        kind = "" if nursery is None else "trio.Nursery"
        if is_running:
            state = "running"
            read = () if ident is None else self.stacks.places(self.threads[ident].frame, coro.cr_frame)
            stack = read or stack
        elif getattr(task, "_next_send_fn", None) is not None:
            state = "ready"
        else:
            # trio has no state for it: a task waits in spite of a cancellation where that cannot be delivered yet.
            state = "cancelling" if getattr(task._cancel_status, "effectively_cancelled", False) else "waiting"
        named = _named(frames)
        steps = getattr(task, "_schedule_points", None)
        seen_s, idle_s = self.seen_and_idle_s(task, steps if state in ("waiting", "cancelling") else None)
        return TaskInfo(
            id=_id(id(task)),
            name=plain_text(task.name, _NAME),
            backend="trio",
            state=state,
            thread="" if ident is None else self.names.get(ident, ""),
            parent=_id(id(owner)) if owner is not None else None if ident is None else _id(ident),
            group=kind if named is None else plain_text(named.cancellation.name, _NAME),
            group_id="" if nursery is None else _id(id(nursery)),
            span=self.span(task.context) if is_read else None,
            age_s=None if named is None else max(self.now_ns - named.spawned_ns, 0) / 1e9,
            seen_s=seen_s,
            idle_s=idle_s,
            awaits=stack,
            waits_for=waits_for,
            awaited_by=() if owner is None else (_id(id(owner)),),
        )

    # ---- both

    def span(self, context: Any) -> CurrentSpan | None:
        found, span = (None, None) if context is None else ask(inside_context, context, (None, None))
        if found is None:
            return None
        if span is None:
            return CurrentSpan("", found.trace_id, found.span_id, None, False)
        age_s = max(self.time_ns - span.start_ns, 0) / 1e9 if span.start_ns else None  # 0 where it is not recorded
        return CurrentSpan(plain_text(span.name, _NAME), found.trace_id, found.span_id, age_s, span.ended)

    def seen_and_idle_s(self, task: Any, mark: Any) -> tuple[float, float | None]:
        """Return for how many seconds *task* is known to exist, and to have had the same *mark*, None if it changed.

        *mark* is a weak reference to the future that the task waits for, or the number of its steps; None if unknown.
        """
        before = _seen.get(id(task))
        if before is not None and before.task() is not task:
            before = None
        is_same = before is not None and mark is not None and _is_same(before.mark, mark)
        first_ns = self.now_ns if before is None else before.first_ns
        since_ns = before.since_ns if before is not None and is_same else self.now_ns
        self.seen[id(task)] = _Seen(weakref.ref(task), first_ns, mark, since_ns)
        return (self.now_ns - first_ns) / 1e9, (self.now_ns - since_ns) / 1e9 if is_same else None


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return type(name) is str and name.partition(".")[0] == _PACKAGE


def _is_same(before: Any, mark: Any) -> bool:
    if type(mark) is weakref.ref:
        target = mark()
        return target is not None and type(before) is weakref.ref and before() is target
    return bool(before == mark)


def _id(number: int) -> str:
    return f"{number:x}"


def _thread_of(loop: Any) -> Any:
    ident = loop._thread_id  # asyncio's own loops
    return ident if type(ident) is int else None


def _asyncio_tasks(module: Any, loops: list[Any]) -> Iterable[Any]:
    """Return the tasks of all loops, without the loop of ``asyncio.all_tasks()`` that other threads can starve."""
    if sys.version_info >= (3, 14):
        return [task for loop in loops for task in ask(module.all_tasks, loop, ())]
    found: dict[int, Any] = {}
    for name in ("_all_tasks", "_scheduled_tasks"):  # 3.11, 3.12
        references = getattr(getattr(module.tasks, name, None), "data", ())
        for reference in list(references):  # one step of the interpreter
            task = reference()
            if task is not None:
                found[id(task)] = task
    for task in list(getattr(module.tasks, "_eager_tasks", ())):
        found[id(task)] = task
    return found.values()


def context_of(task: Any) -> Any:
    """Return the Context of an asyncio *task*, or None."""
    if hasattr(task, "get_context"):
        return task.get_context()
    # Python 3.11: the first Context that the task refers to is its own, that of a callback follows.
    context = getattr(task, "_context", None)
    if context is not None:
        return context
    return next((item for item in gc.get_referents(task) if type(item) is contextvars.Context), None)


def _children(future: Any) -> Iterable[Any]:
    children = getattr(future, "_children", ())  # of gather()
    return children if type(children) is list else ()


def _described(future: Any) -> str:
    children = _children(future)
    if children:
        return f"gather() of {len(list(children))}"
    if hasattr(type(future), "get_coro"):
        return f"task {plain_text(ask(methodcaller('get_name'), future), _NAME)}"
    return type_name(future)


def _asyncio_group(task: Any) -> tuple[str, Any, Any]:
    """Return the kind of the task group of *task*, the group and the task that owns it, by the group's callback."""
    for entry in list(getattr(task, "_callbacks", None) or ())[:8]:
        callback = entry[0] if type(entry) is tuple else entry
        group = getattr(callback, "__self__", None)
        if type(group).__module__ == "asyncio.taskgroups":
            return "asyncio.TaskGroup", group, getattr(group, "_parent_task", None)
        code = getattr(callback, "__code__", None)
        if code is not None and code.co_name == "task_done" and "self" in code.co_freevars:
            group = callback.__closure__[code.co_freevars.index("self")].cell_contents
            if type(group).__module__ == "anyio._backends._asyncio":
                return "anyio.TaskGroup", group, getattr(group.cancel_scope, "_host_task", None)
    return "", None, None


def _named(frames: Iterable[Any]) -> Any:
    """Return the task of a named group among the outermost *frames* of a chain."""
    groups: Any = sys.modules.get(f"{__package__}._groups")
    if groups is not None:
        for frame in frames:
            if frame.f_code is groups.GroupTask.run.__code__:
                return frame.f_locals.get("self")
    return None
