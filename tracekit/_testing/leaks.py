"""Detect misuse of spans during a test: the findings of the pytest plugin's strict mode.

A ``Watch`` observes every span. It takes no lock, as a finaliser or a signal handler may start or end one in the
middle of anything; it keeps every span alive, so that one that was never ended is found and not collected.

Whether a trace was lost is seen from where its root starts. The test's own Contexts are known by a Token, which can
be reset in no other. A Context that was copied from one of them holds the number of spans that the test had
opened by then: if it has opened more since, what starts a root there was sent something without its context. Any other
Context, such as a bare thread's, cannot have inherited anything.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections import Counter
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, Self

from .._core.context import SpanContext
from .._core.errors import clip
from .._core.scopes import current_context, current_scope, current_span
from .._core.span import set_observer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextvars import Token
    from types import FrameType, TracebackType
    from typing import Any

    from .._core.scopes import Scope
    from .._core.span import Root, Span

__all__ = ["FINDINGS", "Watch"]

FINDINGS = ("open", "ended-twice", "late-write", "late-child", "root")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# The frames between here and the caller of a span: this module, and the core where it runs uncompiled.
_OWN = (f"{_PACKAGE}_testing{os.sep}leaks.", f"{_PACKAGE}_core{os.sep}")
# Packages whose lines say nothing about the caller of a function that was handed to them.
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

# Which watch this Context belongs to, and how many spans its test had opened when it was made.
_mark: ContextVar[tuple[int, int]] = ContextVar("tracekit_watch", default=(0, 0))
_numbers = count(1)
_watching: Watch | None = None


class _Site(NamedTuple):
    file: str
    line: int


class _Life:
    """One span, and where it started and ended."""

    __slots__ = ("ended", "late_parent", "lost", "span", "started", "thread")

    def __init__(self, span: Span, started: _Site, thread: threading.Thread | None) -> None:
        self.span = span
        self.started = started
        self.ended: _Site | None = None
        self.thread = thread  # where it is not the test's own
        self.late_parent: Span | None = None
        self.lost = ""  # in which hand-off, and what mends it


class Watch:
    """Inside ``with``, observe every span; ``findings()`` reports the misuse, with files relative to *folder*."""

    def __init__(self, folder: str) -> None:
        self.is_paused = False  # what starts meanwhile is not the test's
        self._folder = os.path.join(folder, "")
        self._number = next(_numbers)
        self._lives: dict[int, _Life] = {}
        self._by_id: dict[tuple[str, str], _Life] = {}
        self._late: list[tuple[Span, str, _Site]] = []
        self._errors: list[Exception] = []  # this module's own
        self._thread = threading.current_thread()
        self._threads_before = set(threading.enumerate())
        # The test's own Contexts, and the scopes that were current in them before its first line.
        self._tokens: list[Token[tuple[int, int]]] = []
        self._outermost: list[Scope | None] = [None]
        # The spans that the test itself has opened: how many, which are open, and the Context when the last one closed.
        self._opened = 0
        self._open: set[int] = set()
        self._threads_after: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        global _watching
        self._before, _watching = _watching, self
        self._own()
        set_observer(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _watching
        _watching = self._before
        set_observer(_watching)

    def begin(self) -> None:
        """Mark the start of the test: this Context belongs to it, and the current scopes were made for it."""
        if not self._is_own():
            self._own()
        self._outermost.append(current_scope())
        span = current_span()
        if span is not None and not span.ended and id(span) not in self._open:
            self._count(span)

    # ---- the observer's methods; none may raise into the program

    def started(self, span: Span, parent: Span | SpanContext | Root | None) -> None:
        """Note where *span* starts, and any misuse in that."""
        if self.is_paused:
            return
        try:
            self._note(span, parent)
        except Exception as error:
            self._fail(error)

    def ended(self, span: Span) -> None:
        """Note where *span* ends."""
        life = self._lives.get(id(span))
        if life is None:
            return
        try:
            caller = _caller()
            life.ended = life.started if _is_machinery(caller) else _line(caller)
            if id(span) in self._open:
                self._open.discard(id(span))
                if not self._open:
                    self._threads_after = set(threading.enumerate())
        except Exception as error:
            self._fail(error)

    def late(self, span: Span, method: str) -> None:
        """Note that *method* of *span* was called after its end."""
        try:
            # Spans of an earlier test's tasks are not this test's, and late writes of tracekit are not misuse.
            is_known = id(span) in self._lives or (not self.is_paused and self._is_own())
            if is_known and _caller(_OWN) is _caller():
                self._late.append((span, method, _line(_caller())))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, RecursionError | MemoryError):  # those are the program's
            self._errors.append(error)

    def _note(self, span: Span, parent: Span | SpanContext | Root | None) -> None:
        caller = _caller()
        thread = threading.current_thread()
        life = _Life(span, _started_at(caller), None if thread is self._thread else thread)
        self._lives[id(span)] = life
        self._by_id.setdefault((span.context.trace_id, span.context.span_id), life)
        if span.ended:  # another process recorded it
            return
        is_own = self._is_own() or self._is_main_task()
        if parent is None and span.parent is None and not is_own and self._is_lost(thread):
            life.lost = _hand_off(caller, life.thread, _mark.get()[0] == self._number)
        above = self._parent(span, parent)
        if above is not None and above.ended:
            life.late_parent = above
        if is_own:
            self._count(span)

    def _parent(self, span: Span, given: Span | SpanContext | Root | None) -> Span | None:
        """Return the parent of *span*, unless it is of another process, or given as a context that may have ended."""
        context = span.parent
        if context is None or context.is_remote or isinstance(given, SpanContext):
            return None
        if given is not None:
            return given  # type: ignore[return-value]  # a root has no parent
        life = self._by_id.get((context.trace_id, context.span_id))
        return current_span() or (None if life is None else life.span)

    # ---- whose Context this is

    def _own(self) -> None:
        """Make the running Context one of the test's own."""
        self._tokens.append(_mark.set((self._number, self._opened)))

    def _is_own(self) -> bool:
        for index, token in enumerate(self._tokens):
            try:
                _mark.reset(token)
            except (ValueError, RuntimeError):
                continue
            self._tokens[index] = _mark.set((self._number, self._opened))  # a Token works once
            return True
        return False

    def _is_main_task(self) -> bool:
        """Tell whether this is the main task of an event loop that the test itself runs; its Context is then its own."""
        if _mark.get()[0] != self._number or threading.current_thread() is not self._thread or not _is_main_task():
            return False
        self._own()
        return True

    def _count(self, span: Span) -> None:
        """Count *span*, which the test itself opened, also for the Contexts that are copied from here on."""
        self._opened += 1
        self._open.add(id(span))
        self._is_own()

    def _is_lost(self, thread: threading.Thread) -> bool:
        """Tell whether a root that starts here, in a Context that is not the test's, should have had a parent."""
        scope = current_scope()
        if scope is not None and current_context() is None and not any(scope is base for base in self._outermost):
            return False  # use_context(None), detached(): on purpose
        number, opened = _mark.get()
        if number == self._number:
            return opened < self._opened
        # Not from a thread that was started after all was over; of one that is not Python's that is not known.
        return bool(self._open) or thread in self._threads_after or (self._opened > 0 and _is_foreign(thread))

    # ---- afterwards

    @property
    def spans(self) -> list[Span]:
        """Every span that was started, in order."""
        return [life.span for life in self._lives.copy().values()]

    def findings(self, allow: Collection[str] = ()) -> list[tuple[str, str]]:
        """Return the findings that are not in *allow*: the word of ``FINDINGS`` and a line of text each."""
        if self._errors:
            raise self._errors[0]
        found: list[tuple[str, _Site, str]] = []
        for life in self._lives.copy().values():
            found += [(word, life.started, f"{clip(life.span.name)} {text}") for word, text in self._wrong(life)]
        for span, method, site in self._late.copy():
            name, before = clip(span.name), self._had_ended(span)
            if method == "end":
                found.append(("ended-twice", site, f"{name} was ended again: it {before}"))
            else:
                found.append(("late-write", site, f"{method}() on {name}, which {before}"))
        told = Counter([(word, f"{self._place(site)}: {word}: {text}") for word, site, text in found])
        return [
            (word, line if times == 1 else f"{line} ({times} times)")
            for (word, line), times in told.items()
            if word not in allow
        ]

    def _wrong(self, life: _Life) -> Iterator[tuple[str, str]]:
        """Yield the findings about the start of a span, and about a missing end."""
        links = {link.context.span_id for link in life.span.links}
        if not life.span.ended:
            still = f"; the {_thread(life.thread)} that opened it is still running" if _runs(life.thread) else ""
            yield "open", f"was never ended{still}"
        above = life.late_parent
        if above is not None and above.context.span_id not in links:
            under = f"was started under {clip(above.name)}, which {self._had_ended(above)}, without a link to it"
            yield "late-child", f"{under}: use tracekit.detached() for what outlives its parent"
        if life.lost and not links:
            yield "root", f"is a root, its context was lost in {life.lost}"

    def threads(self) -> list[str]:
        """Return the threads that were started meanwhile and still run, but for the one that exports spans."""
        started = set(threading.enumerate()) - self._threads_before
        return sorted([_thread(thread) for thread in started if _runs(thread) and thread.name != "tracekit-export"])

    def end_open(self) -> None:
        """End the spans that are still open, as the garbage collector would have."""
        set_observer(None)
        for span in self.spans:
            if not span.ended:
                if span.status.code == "unset":
                    span.set_status("cancelled", "abandoned: nobody ended the span")
                span.end()
        set_observer(self)

    def _had_ended(self, span: Span) -> str:
        life = self._lives.get(id(span))
        return "had ended before" if life is None or life.ended is None else f"had ended at {self._place(life.ended)}"

    def _place(self, site: _Site) -> str:
        return f"{site.file.removeprefix(self._folder)}:{site.line}"


def _caller(files: str | tuple[str, ...] = _PACKAGE) -> FrameType:
    """Return the innermost frame outside tracekit, or outside the files whose names begin with *files*."""
    frame: FrameType = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(files):
        frame = frame.f_back
    return frame


def _is_machinery(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] in _MACHINERY


def _started_at(caller: FrameType) -> _Site:
    """Return the line of *caller*; where that only calls a function it was handed, the first line of the function."""
    frame = sys._getframe(1) if _is_machinery(caller) else caller
    while frame is not caller and frame.f_back is not None:
        # What @traced, or a task group, calls.
        function = frame.f_locals.get("function") or getattr(frame.f_locals.get("self"), "__wrapped__", None)
        code = getattr(function, "__code__", None)
        if code is not None:
            return _Site(code.co_filename, code.co_firstlineno)
        frame = frame.f_back
    return _line(caller)


def _line(frame: FrameType) -> _Site:
    return _Site(frame.f_code.co_filename, frame.f_lineno)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _stack(frame: FrameType | None) -> list[FrameType]:
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _thread(thread: threading.Thread | None) -> str:
    return "" if thread is None else f"thread {clip(thread.name)}"


def _runs(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive() and not _is_foreign(thread)


def _is_foreign(thread: threading.Thread) -> bool:
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


def _is_main_task() -> bool:
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


def _hand_off(frame: FrameType, thread: threading.Thread | None, is_copy: bool) -> str:
    """Say in which hand-off the context was lost that should be current in *frame*, and what mends it.

    *is_copy* tells that the Context was handed over as it should be, and that nothing was current yet.
    """
    where, mend, mend_copy = _find(frame, thread)
    text = (
        f"{where}, which began before there was one: use {mend_copy}"
        if is_copy and mend_copy
        else f"{where}: use {mend}"
    )
    below = frame.f_back
    if frame.f_code.co_flags & _GENERATOR and below is not None and _module(below) != "contextlib":
        text += f"; if {clip(frame.f_code.co_name)} is a generator that was made elsewhere, tracekit.stream()"
    return text


def _find(frame: FrameType, thread: threading.Thread | None) -> tuple[str, str, str]:
    """Return the name of the hand-off by which *frame* came to run, what mends it, and what mends it where it came early."""
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
    if _is_foreign(thread):
        return f"the {_thread(thread)}, which threading did not start", "tracekit.wrap()", ""
    return f"the {_thread(thread)}", f"tracekit.threads.Thread, {_HOOKS}", _QUEUES
