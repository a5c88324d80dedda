"""Task groups: anyio's own or, with a name, one whose spans record the wait and the canceller of each task."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Coroutine
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Self, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.abc

from .._core.scopes import current_context
from .._core.span import span
from .._handoffs.traced import untraced
from ._waits import note_wait

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator
    from types import TracebackType

    from anyio import TaskHandle

    from .._core.span import Span

T = TypeVar("T")
Args = TypeVarTuple("Args")


def create_task_group(name: str | None = None) -> anyio.abc.TaskGroup:
    """Return anyio's task group as it is, or with *name* a ``TaskGroup`` with spans.

    In both, a task is the child of the span current where it is started, whichever group runs it.
    """
    return anyio.create_task_group() if name is None else TaskGroup(name)


class TaskGroup(anyio.abc.TaskGroup):
    """anyio's task group with a span for itself, current in its body, and one for each task.

    A task's span is named after the task, or else its function, starts with the task's first step, and has
    the seconds until that in ``task.wait_s``. It is also the span of a function under ``@traced``. A cancelled task has
    the status "cancelled" and its canceller in ``task.cancelled_by``, and so has the group's own span:

    - "sibling": another task of the group, or its body, had raised;
    - "deadline": that of the group's ``cancel_scope``, or of an anyio scope around the group;
    - "caller": anything else: ``cancel()`` of a scope or task, an error further out, asyncio's own timeouts.

    Exceptions are anyio's, and recorded once, on the span that raised them. A task that is cancelled by
    ``asyncio.Task.cancel()`` before its first step never runs and has no span. In a task's handle, ``coro`` is the
    coroutine that runs the task's own in its span.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._group = anyio.create_task_group()
        self._cancellation = _Cancellation(self._group)
        self.cancel_scope = self._group.cancel_scope  # on trio there is none until the group is entered

    async def __aenter__(self) -> Self:
        own = span(self._name)
        own.__enter__()
        try:
            deadline = anyio.current_effective_deadline()
            await self._group.__aenter__()
        except BaseException as exc:
            own.__exit__(type(exc), exc, exc.__traceback__)
            raise
        self._span = own
        self._cancellation.name = own.name  # checked
        self._cancellation.deadline = deadline
        self.cancel_scope = self._group.cancel_scope
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        __tracebackhide__ = True
        if exc is not None:
            self._cancellation.leave(exc, None)
        closing = self._group.__aexit__(exc_type, exc, traceback)
        try:
            swallowed = await (_watch(closing, self._cancellation) if self._span.is_recording else closing)
        except BaseException as raised:
            self._cancellation.leave(raised, self._span)
            self._span.__exit__(type(raised), raised, raised.__traceback__)
            raise
        finally:
            del exc, traceback  # which refer to this frame once it raises the exception again
        if self.cancel_scope.cancelled_caught:
            self._cancellation.leave(None, self._span)
        self._span.__exit__(None, None, None)
        return swallowed

    def start_soon(  # type: ignore[misc]  # final since anyio 4.14, abstract before
        self, func: Callable[[Unpack[Args]], Coroutine[Any, Any, T]], *args: *Args, name: object = None
    ) -> TaskHandle[T]:
        """Start a task, child of the current span; return the result of anyio's ``start_soon``."""
        task = GroupTask(self._cancellation, func, name)
        try:
            task.handle = handle = self._group.start_soon(task, *args, name=name)  # type: ignore[arg-type]
        except BaseException:
            task.close()
            raise
        return handle

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: contextvars.Context | None = None
    ) -> TaskHandle[T]:
        """Start a task, child of the current span, or in *context* if given; needs anyio 4.14."""
        if not isinstance(coro, Coroutine):
            return self._group.create_task(coro, name=name, context=context)  # the error is anyio's
        task = GroupTask(self._cancellation, coro, name)
        task.coro = coro
        try:
            name = _task_name(coro) if name is None else name
            task.handle = handle = self._group.create_task(task.run(), name=name, context=context)
        except BaseException:
            task.close()
            raise
        return handle

    async def start(
        self, func: Callable[..., Coroutine[Any, Any, Any]], *args: object, name: object = None, **options: Any
    ) -> Any:
        """Start a task, child of the current span, and wait for its ``task_status.started()``, as anyio does."""
        __tracebackhide__ = True
        task = GroupTask(self._cancellation, func, name)
        task.deadline = anyio.current_effective_deadline()
        return await _watch(self._group.start(task, *args, name=name, **options), self._cancellation, task)


class GroupTask:
    """The callable that anyio gets in place of a task's function, with the names of that function."""

    def __init__(self, cancellation: _Cancellation, func: Any, name: object) -> None:
        self.__wrapped__ = func
        self.__module__ = getattr(func, "__module__", "")
        self.cancellation = cancellation
        self.is_named = name is not None
        self.name = _span_name(func) if name is None else str(name)
        self.coro: Any = None
        self.handle: Any = None
        self.is_in_group = True
        self.deadline = math.inf
        self.cancelled_by = ""
        current_context()  # removes scopes that were closed elsewhere, before the task inherits them
        self.spawned_ns = monotonic_ns()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "task_status" in kwargs:
            self.is_in_group = False
            kwargs["task_status"] = _Status(kwargs["task_status"], self)
        coro = self.__wrapped__(*args, **kwargs)
        if not isinstance(coro, Coroutine):
            return coro  # the error is anyio's
        self.coro = coro
        return self.run()

    async def run(self) -> Any:
        __tracebackhide__ = True
        waited_ns = monotonic_ns() - self.spawned_ns
        traced = untraced(self.coro, self.name if self.is_named else None)
        begin = functools.partial(span, self.name) if traced is None else traced[0]
        with begin() as own:
            self.name = own.name
            note_wait(self.cancellation.name, self.name, waited_ns)
            if own.is_recording:
                own.set_attribute("task.wait_s", waited_ns / 1e9)
                self.deadline = min(self.deadline, anyio.current_effective_deadline())
            try:
                if traced is not None:
                    self.coro.close()
                    self.coro = traced[1]()
                return await self.coro
            except BaseException as exc:
                self.cancellation.leave(exc, own, self)
                self.handle = None  # which holds the exception, whose traceback holds this frame
                raise

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # not set: an object that copy() made
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)

    def close(self) -> None:
        if self.coro is not None:
            self.coro.close()


class _Status:
    """A ``task_status`` that reports that the task has moved from the caller of ``start()`` into the group."""

    def __init__(self, status: anyio.abc.TaskStatus[Any], task: GroupTask) -> None:
        self._status = status
        self._task = task

    def started(self, value: Any = None) -> None:
        self._status.started(value)
        self._task.is_in_group = True


class _Cancellation:
    """The canceller of a group: recorded when the cancellation begins, and set on the spans that it ends."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self.group = group
        self.name = ""
        self.deadline = math.inf  # of the scopes around the group
        self._error = ""
        self._by = ""

    def leave(self, exc: BaseException | None, own: Span | None, task: GroupTask | None = None) -> None:
        """Record the effect of *exc* on the group when it leaves *task* or the body; end *own* if it is a cancellation."""
        try:
            if exc is not None and not _is_cancellation(exc):
                if task is None or task.is_in_group:
                    self._note(exc, task)
            elif own is None or own.is_recording:
                by = self._find(exc, task)
                if task is not None and not task.is_in_group:
                    task.cancelled_by = by
                elif task is None or self.group.cancel_scope.cancel_called:
                    self._by = self._by or by
                if own is not None:
                    own.set_attribute("task.cancelled_by", by)
                    own.set_status("cancelled", f"by sibling: {self._error}" if by == "sibling" else f"by {by}")
                    own.end()  # before __exit__() sets a status with less detail
        except Exception:  # no loop is running, or a custom exception group does not split
            pass

    def _note(self, exc: BaseException, task: GroupTask | None) -> None:
        """Record *exc* if it cancels the group, unless a task raised it that was cancelled already."""
        status = None if task is None else getattr(task.handle, "status", None)
        if status is not None and status.name == "CANCELLING":  # the task alone
            is_cancelled = self.group.cancel_scope.cancel_called
        else:
            is_cancelled = anyio.current_effective_deadline() == -math.inf
        if not self._error and not is_cancelled:
            self._error = f"{'the body' if task is None else task.name} raised {type(exc).__name__}"

    def _find(self, exc: BaseException | None, task: GroupTask | None) -> str:
        if task is not None and task.cancelled_by:
            return task.cancelled_by  # its starter was
        scope = self.group.cancel_scope
        by = "" if exc is None else _evidence(exc, scope)
        if by in {"deadline", "caller"}:
            return by
        if self._error:
            return "sibling"
        if self._by:
            return self._by
        if by:  # an error further out, or cancel() of the group's own scope
            return "caller"
        # anyio gave no reason: it is old, or the cancellation is asyncio's. Only the clock remains.
        now = anyio.current_time()
        if scope.cancel_called and scope.deadline <= now:
            return "deadline"
        deadlines = (self.deadline, math.inf if task is None else task.deadline)
        # -inf: cancelled before, for any reason
        return "deadline" if any(-math.inf < deadline <= now for deadline in deadlines) else "caller"


def _is_cancellation(exc: BaseException) -> bool:
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(cancelled)[1] is None
    return isinstance(exc, cancelled)


def _evidence(exc: BaseException, group_scope: anyio.CancelScope) -> str:
    """Return the cause that a cancellation names, or "group"; "" if it has neither, as before anyio 4.11."""
    while True:
        source = getattr(exc, "source", None)  # trio's
        if isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
        elif source == "unknown" and exc.__cause__ is not None:
            exc = exc.__cause__  # of several at once anyio makes a new one
        else:
            break
    if source is not None:
        return {"unknown": "", "deadline": "deadline", "nursery": "sibling"}.get(source, "caller")
    text = exc.args[0] if exc.args else ""
    if not isinstance(text, str) or not text.startswith("Cancelled via cancel scope "):
        return ""
    if text.endswith("; reason: deadline exceeded"):
        return "deadline"
    # anyio cancels the group's own scope too, without a reason, when something else has ended the group.
    is_the_groups = text.startswith(f"Cancelled via cancel scope {id(group_scope):x}")
    return "group" if is_the_groups and "; reason: " not in text else "caller"


@types.coroutine
def _watch(
    steps: Coroutine[Any, Any, T], cancellation: _Cancellation, task: GroupTask | None = None
) -> Generator[Any, Any, T]:
    """Await *steps* of the group or of a starting task; record an exception thrown in before other tasks are cancelled.

    asyncio does not tell the other tasks the reason.
    """
    __tracebackhide__ = True
    thrown: list[BaseException] = []
    try:
        waiting = steps.send(None)
        while True:
            try:
                sent = yield waiting
            except BaseException as exc:
                cancellation.leave(exc, None, task)
                thrown.append(exc)
            # Not within the handler, whose exception would become the context of the raised one.
            waiting = steps.throw(thrown.pop()) if thrown else steps.send(sent)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _span_name(func: Any) -> str:
    while isinstance(func, functools.partial):
        func = func.func
    name = getattr(func, "__qualname__", None) or getattr(func, "__name__", None)
    return name if isinstance(name, str) else type(func).__qualname__


def _task_name(coro: Coroutine[Any, Any, Any]) -> str:
    """Return the name that anyio gives to a coroutine's task."""
    frame = getattr(coro, "cr_frame", None)
    module = None if frame is None else frame.f_globals.get("__name__")
    return ".".join(part for part in (module, getattr(coro, "__qualname__", None)) if part)
