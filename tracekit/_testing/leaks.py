"""Detect misuse of spans during a test: the findings of the pytest plugin's strict mode.

A ``Watch`` observes every span. It takes no lock, because a finalizer or a signal handler may start or end a span at
any point; it keeps every span alive, so that one that was never ended is found instead of collected.

A root that starts in the wrong Context means a lost trace. A Token identifies the test's own Contexts, because it
can be reset in no other. A Context that was copied from one of them holds the number of spans that the test had
opened by then: if the test has opened more since, code that starts a root there was sent work without its context. Any
other Context, such as a bare thread's, cannot have inherited anything.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Self

from .._core.context import SpanContext
from .._core.errors import clip
from .._core.scopes import current_context, current_scope, current_span
from .._core.span import set_observer
from .origins import (
    PACKAGE,
    Site,
    calling_frame,
    is_foreign,
    is_machinery,
    is_main_task,
    line_of,
    lost_in,
    runs,
    started_at,
    thread_text,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextvars import Token

    from .._core.scopes import Scope
    from .._core.span import Root, Span

FINDINGS = ("open", "ended-twice", "late-write", "late-child", "root")

# The frames between here and the caller of a span: this module and the core where it runs uncompiled.
_OWN = (f"{PACKAGE}_testing{os.sep}leaks.", f"{PACKAGE}_core{os.sep}")

# The watch that this Context belongs to, and the number of spans that its test had opened when the Context was made.
_mark: ContextVar[tuple[int, int]] = ContextVar("tracekit_watch", default=(0, 0))
_numbers = count(1)
_watching: Watch | None = None


class _Life:
    """One span, and where it started and ended."""

    __slots__ = ("ended", "late_parent", "lost", "span", "started", "thread")

    def __init__(self, span: Span, started: Site, thread: threading.Thread | None) -> None:
        self.span = span
        self.started = started
        self.ended: Site | None = None
        self.thread = thread  # where it is not the test's own
        self.late_parent: Span | None = None
        self.lost = ""  # the hand-off that lost its context, and the fix


class Watch:
    """Inside ``with``, observe every span; ``findings()`` reports the misuse, with files relative to *folder*."""

    def __init__(self, folder: str) -> None:
        self.is_paused = False  # while it is, spans that start are not the test's
        self._folder = os.path.join(folder, "")
        self._number = next(_numbers)
        self._lives: dict[int, _Life] = {}
        self._by_id: dict[tuple[str, str], _Life] = {}
        self._late: list[tuple[Span, str, Site]] = []
        self._errors: list[Exception] = []  # this module's own
        self._thread = threading.current_thread()
        self._threads_before = set(threading.enumerate())
        # The test's own Contexts, and the scopes that were current in them before its first line.
        self._tokens: list[Token[tuple[int, int]]] = []
        self._outermost: list[Scope | None] = [None]
        # The spans that the test itself opened: their number, the open ones, and the threads when the last one closed.
        self._opened = 0
        self._open: set[int] = set()
        self._threads_after: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        global _watching
        self._before, _watching = _watching, self
        self._own()
        set_observer(self)
        return self

    def __exit__(self, *exc: object) -> None:
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
            caller = calling_frame()
            life.ended = life.started if is_machinery(caller) else line_of(caller)
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
            if is_known and calling_frame(_OWN) is calling_frame():
                self._late.append((span, method, line_of(calling_frame())))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, RecursionError | MemoryError):  # those are the program's
            self._errors.append(error)

    def _note(self, span: Span, parent: Span | SpanContext | Root | None) -> None:
        caller = calling_frame()
        thread = threading.current_thread()
        life = _Life(span, started_at(caller), None if thread is self._thread else thread)
        self._lives[id(span)] = life
        self._by_id.setdefault((span.context.trace_id, span.context.span_id), life)
        if span.ended:  # another process recorded it
            return
        is_own = self._is_own() or self._is_main_task()
        if parent is None and span.parent is None and not is_own and self._is_lost(thread):
            life.lost = lost_in(caller, life.thread, _mark.get()[0] == self._number)
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
        """Tell whether this is the main task of a loop that the test itself runs, whose Context is the test's."""
        if _mark.get()[0] != self._number or threading.current_thread() is not self._thread or not is_main_task():
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
        # Not in a thread that started after the last span closed; the start of a thread that is not Python's is unknown.
        return bool(self._open) or thread in self._threads_after or (self._opened > 0 and is_foreign(thread))

    # ---- afterwards

    @property
    def spans(self) -> list[Span]:
        """Every span that was started, in order."""
        return [life.span for life in self._lives.copy().values()]

    def findings(self, allow: Collection[str] = ()) -> list[tuple[str, str]]:
        """Return the findings that are not in *allow*: the word of ``FINDINGS`` and a line of text each."""
        if self._errors:
            raise self._errors[0]
        found: list[tuple[str, Site, str]] = []
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
            still = f"; the {thread_text(life.thread)} that opened it is still running" if runs(life.thread) else ""
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
        return sorted([thread_text(thread) for thread in started if runs(thread) and thread.name != "tracekit-export"])

    def end_open(self) -> None:
        """End the spans that are still open, as the garbage collector would have."""
        set_observer(None)
        for span in self.spans:
            if not span.ended:
                if span.status.code == "unset":
                    span.set_status("cancelled", "abandoned: the span was not ended")
                span.end()
        set_observer(self)

    def _had_ended(self, span: Span) -> str:
        life = self._lives.get(id(span))
        return "had ended before" if life is None or life.ended is None else f"had ended at {self._place(life.ended)}"

    def _place(self, site: Site) -> str:
        return f"{site.file.removeprefix(self._folder)}:{site.line}"
