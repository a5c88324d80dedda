"""``watch_loop()``: mark spans whose code blocks the event loop.

A daemon thread looks at the loop every half threshold. On asyncio and uvloop a timer that is due as often counts turns,
so an idle loop wakes for it; on trio an instrument notes when each turn starts and ends. While a turn takes too long,
the thread reads the stack of the loop's thread and marks the span that is current there: the span may end before the
loop turns again, so the mark cannot wait for that. Two looks in a row must find the same span and task, so a turn of
many short steps blames none.

C code that holds the GIL keeps this thread from looking, and then it looks late: see ``LoopWatch._wake()``.

Times are lower bounds. On asyncio a blocking call that starts before the timer is due counts from then on.
"""

from __future__ import annotations

import contextvars
import heapq
import sys
import threading
import time
import weakref
from itertools import count
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from .._core.checks import check_number
from .._core.guard import ask, plain_text
from .._core.scopes import inside_context, thread_context
from .._export.notices import Notices, describe
from .._export.threads import EXPORT_CONTEXT
from .._forks import call_in_child
from ._stacks import Place, Stacks, frame_of, may_read, stack_text
from ._tasks import context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._core.span import Span

_WORST: Final = 10
_NAME: Final = 200
_BLOCKED: Final = "tracekit.loop.blocked_ms"
_EVENT: Final = "tracekit.loop.blocked"
_FAILED: Final = "watch_loop() failed: %s (reported once per cause)"

_notices = Notices()
_watches: dict[int, LoopWatch] = {}  # by the id of the loop of asyncio or the root task of trio
_numbers = count()


class Stall(NamedTuple):
    """A turn of a loop that took too long. ``span`` and ``trace_id`` are "" without a span."""

    time_ns: int  # Unix time at which it was over
    blocked_s: float
    task: str
    span: str
    trace_id: str
    span_id: str
    stack: tuple[Place, ...]  # empty where no look fell into it


class _Part:
    """The part of a long turn in which one span is current."""

    def __init__(self, turn: int, since_ns: int, context: Any, task: str) -> None:
        found, span = (None, None) if context is None else ask(inside_context, context, (None, None))
        self.turn = turn
        self.since_ns = since_ns
        self.span: Span | None = span
        self.ids: tuple[str, str] = ("", "") if found is None else (found.trace_id, found.span_id)
        self.task = task
        self.ms = 0.0  # at the last look
        self.before_ms = 0.0  # of earlier stalls of the span
        self.is_marked = False
        self.stack: tuple[Place, ...] = ()

    def mark(self, now_ns: int, ident: int) -> None:
        """Record on the span that it blocks the loop."""
        self.ms = round((now_ns - self.since_ns) / 1e6, 3)
        span = self.span
        if not self.is_marked:
            self.is_marked = True
            self.stack = Stacks().places(frame_of(ident))
            if span is not None and span.is_recording:
                before = span.attributes.get(_BLOCKED)
                self.before_ms = before if isinstance(before, float) else 0.0
                span.add_event(_EVENT, {"code.stacktrace": stack_text(self.stack)} if self.stack else None)
        if span is not None and span.is_recording:
            span.set_attribute(_BLOCKED, self.before_ms + self.ms)


class LoopWatch:
    """A watch over one event loop, until the loop ends, ``stop()``, or the end of ``with``."""

    def __init__(self, backend: str, threshold_s: float, key: int) -> None:
        self._key = key
        self.backend = backend
        self.threshold_s = threshold_s
        self.thread = threading.current_thread().name
        self.stalls = 0  # turns that took longer than the threshold
        self.blocked_s = 0.0  # in these turns
        self.pauses = 0  # times in which no thread ran: the process was stopped, or C code held the GIL
        self.paused_s = 0.0
        self._ident = threading.get_ident()
        self._threshold_ns = round(threshold_s * 1e9)
        self._interval_s = threshold_s / 2
        self._worst: list[tuple[float, int, Stall]] = []
        self._part: _Part | None = None
        self._longest: _Part | None = None  # of this turn's parts
        self._lock = threading.Lock()  # the loop takes it after a stall only
        self._has_stopped = False
        self._stopping = threading.Lock()  # released to stop; waiting for it costs less than for an Event
        self._stopping.acquire()
        self._turns: _Timer | _Instrument
        self._cpu_ns = _thread_clock()
        self._woken_ns, self._woken_cpu_ns = monotonic_ns(), self._cpu_ns()
        self._watchdog = threading.Thread(target=self._run, name="tracekit-loop-watch", daemon=True)

    @property
    def is_active(self) -> bool:
        """Whether the loop is still watched."""
        return not self._has_stopped

    @property
    def worst(self) -> list[Stall]:
        """The ten longest stalls, the longest first."""
        return [stall for _, _, stall in sorted(self._worst.copy(), reverse=True)]

    def stop(self) -> None:
        """Stop watching; the thread has ended when this returns. Calling it again has no effect."""
        self._end()
        watchdog = self._watchdog
        if watchdog.ident is not None and watchdog is not threading.current_thread():
            watchdog.join(10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _end(self) -> None:
        self._has_stopped = True
        try:
            self._stopping.release()
        except RuntimeError:  # it was stopped before
            pass
        self._part = self._longest = None
        if _watches.get(self._key) is self:
            _watches.pop(self._key, None)  # stop() and the watchdog may both be here

    def _run(self) -> None:
        try:
            while not self._stopping.acquire(timeout=self._interval_s) and not self._has_stopped:
                if self._turns.has_ended():
                    break
                self._wake()
        except Exception as error:  # a defect of ours costs the watch, and nothing else
            _notices.say("error", type(error), _FAILED, describe(error))
        finally:
            self._end()

    def _wake(self) -> None:
        """Look whether the loop turns; called every half threshold in the watchdog's thread.

        If this thread wakes late, no thread ran, and the loop gets another chance, unless the loop's thread used the
        processor: then C code held the GIL, and this thread runs when that code returns.
        """
        now_ns, cpu_ns = monotonic_ns(), self._cpu_ns()
        is_late = now_ns - self._woken_ns > self._threshold_ns + self._threshold_ns // 2
        is_held = is_late and (cpu_ns - self._woken_cpu_ns) * 2 >= self._threshold_ns
        self._woken_ns, self._woken_cpu_ns = now_ns, cpu_ns
        turn, since_ns = self._turns.state()
        if (is_late and not is_held) or since_ns == 0 or now_ns - since_ns < self._threshold_ns // 2:
            return
        with self._lock:
            if self._turns.state()[0] == turn:
                self._sample(turn, since_ns, monotonic_ns(), is_held)

    def _sample(self, turn: int, since_ns: int, now_ns: int, is_held: bool) -> None:
        before = self._part
        task, context = self._turns.current()
        if not may_read(self._ident):
            context = None
        is_first = before is None or before.turn != turn
        part = _Part(turn, since_ns if is_first else now_ns, thread_context(self._ident) or context, task)
        if before is None or is_first or (before.ids, before.task) != (part.ids, part.task):
            self._part = part
            self._longest = None if is_first else self._longest
            if not is_held:
                return
        else:
            part = before
        if now_ns - part.since_ns >= self._threshold_ns:
            self._mark(part, now_ns)

    def _mark(self, part: _Part, now_ns: int) -> None:
        part.mark(now_ns, self._ident)
        if self._longest is None or self._longest.ms < part.ms:
            self._longest = part

    def _turned(self, blocked_ns: int) -> None:
        """Record the end of a turn that took *blocked_ns*; called in the loop's thread, for long turns only."""
        try:
            with self._lock:
                self._note(blocked_ns, monotonic_ns())
        except Exception as error:
            _notices.say("error", type(error), _FAILED, describe(error))

    def _note(self, blocked_ns: int, now_ns: int) -> None:
        part, self._part = self._part, None
        if part is None and blocked_ns >= 2 * self._threshold_ns:
            self.pauses += 1
            self.paused_s += blocked_ns / 1e9
            return
        if part is not None and part.is_marked:
            self._mark(part, now_ns)
        longest, self._longest = self._longest, None
        self.stalls += 1
        self.blocked_s += blocked_ns / 1e9
        if longest is None:
            stall = Stall(time.time_ns(), blocked_ns / 1e9, "", "", "", "", ())
        else:
            name = "" if longest.span is None else plain_text(longest.span.name, _NAME)
            stall = Stall(time.time_ns(), blocked_ns / 1e9, longest.task, name, *longest.ids, longest.stack)
        entry = (stall.blocked_s, next(_numbers), stall)
        if len(self._worst) < _WORST:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)


def _thread_clock() -> Callable[[], int]:
    """Return a clock of the processor time of this thread for other threads, in nanoseconds; else of the process."""
    try:
        clock = time.pthread_getcpuclockid(threading.get_ident())
    except (AttributeError, OSError):
        return time.process_time_ns
    return lambda: time.clock_gettime_ns(clock)


class _Timer:
    """Counts the turns of an asyncio loop, by a timer."""

    def __init__(self, watch: LoopWatch, loop: Any) -> None:
        self._watch = watch
        self._loop = weakref.ref(loop)
        self._interval_ns = round(watch._interval_s * 1e9)
        self._turn = 0
        self._has_rested = False
        self._schedule(loop, monotonic_ns())

    def _schedule(self, loop: Any, now_ns: int) -> None:
        self._due_ns = now_ns + self._interval_ns
        # In an empty Context, so that no trace is held.
        loop.call_later(self._watch._interval_s, self._beat, context=contextvars.Context())

    def _beat(self) -> None:
        now_ns = monotonic_ns()
        late_ns = 0 if self._has_rested else now_ns - self._due_ns
        self._turn += 1
        self._has_rested = False
        loop = self._loop()
        if loop is None or not self._watch.is_active:
            return
        self._schedule(loop, now_ns)
        if late_ns >= self._watch._threshold_ns:
            self._watch._turned(late_ns)

    def state(self) -> tuple[int, int]:
        """Return the number of the turn, and since when its end is overdue; 0 while the loop is not running."""
        loop = self._loop()
        if loop is None or not loop.is_running():
            self._has_rested = True
        return self._turn, 0 if self._has_rested else self._due_ns

    def has_ended(self) -> bool:
        """Return whether the loop was closed."""
        loop = self._loop()
        return loop is None or loop.is_closed()

    def current(self) -> tuple[str, Any]:
        """Return the name and the Context of the task that runs; it is in another thread."""
        task = ask(sys.modules["asyncio"].current_task, self._loop())
        if task is None:
            return "", None
        return plain_text(ask(lambda task: task.get_name(), task), _NAME), ask(context_of, task)


class _Instrument:
    """Notes the turns of trio's loop; trio calls the methods of these names."""

    def __init__(self, watch: LoopWatch, root: Any) -> None:
        self._watch = watch
        self._root = weakref.ref(root)
        self._turn = 0
        self._since_ns = monotonic_ns()

    def after_io_wait(self, timeout: float) -> None:
        """Note that a turn starts."""
        self._turn += 1
        self._since_ns = monotonic_ns()

    def before_io_wait(self, timeout: float) -> None:
        """Note that a turn has ended."""
        since_ns, self._since_ns = self._since_ns, 0
        took_ns = monotonic_ns() - since_ns
        if since_ns and took_ns >= self._watch._threshold_ns and self._watch.is_active:
            self._watch._turned(took_ns)

    def after_run(self) -> None:
        """Stop with the loop."""
        self._watch._end()

    def state(self) -> tuple[int, int]:
        """Return the number of the turn, and when it started; 0 while the loop waits."""
        return self._turn, self._since_ns

    def has_ended(self) -> bool:
        """Return whether the loop has ended."""
        return self._root() is None

    def current(self) -> tuple[str, Any]:
        """Return the name and the Context of the task that runs; it is in another thread."""
        root = self._root()
        waiting: list[Any] = [] if root is None else [root]
        for _ in range(10_000):
            if not waiting:
                break
            task = waiting.pop()
            if getattr(task.coro, "cr_running", False):
                return plain_text(task.name, _NAME), task.context
            for nursery in task.child_nurseries:
                waiting += nursery.child_tasks
        return "", None


def watch_loop(threshold_ms: float = 100) -> LoopWatch:
    """Watch the running event loop of asyncio, uvloop or trio, and mark spans whose code blocks it for *threshold_ms*.

    Such a span gets the attribute ``tracekit.loop.blocked_ms``, the sum over its stalls, and for each an event
    ``tracekit.loop.blocked`` with the stack in ``code.stacktrace``. The page ``/debug/loop`` shows the worst.
    A loop has one watch; a second call returns it. Its thread ends with the loop, within half a threshold.

    *threshold_ms* is 1 to 60000. Raises ``RuntimeError`` outside a running loop.
    """
    check_number("threshold_ms", threshold_ms, 1, 60_000)
    root, loop = _running_loop()
    key = id(loop if root is None else root)
    before = _watches.get(key)
    if before is not None and not before._turns.has_ended():
        return before
    watch = LoopWatch("asyncio" if root is None else "trio", threshold_ms / 1000, key)
    if root is None:
        watch._turns = _Timer(watch, loop)
    else:
        watch._turns = instrument = _Instrument(watch, root)
        sys.modules["trio"].lowlevel.add_instrument(instrument)
    _watches[key] = watch
    try:
        EXPORT_CONTEXT.copy().run(watch._watchdog.start)
    except BaseException:  # no more threads, for example
        watch._end()
        raise
    return watch


def _running_loop() -> tuple[Any, Any]:
    """Return the root task of trio or else the loop of asyncio that runs here."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
            return trio.lowlevel.current_root_task(), None
        except RuntimeError:
            pass
    asyncio: Any = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError("watch_loop() must be called in a running event loop")
    return None, loop


def watches() -> list[LoopWatch]:
    """Return the active watches of this process."""
    return [watch for watch in list(_watches.values()) if watch.is_active]


call_in_child(_watches.clear)  # their threads are the parent's
