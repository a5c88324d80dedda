"""One run of the fuzz: chooses random calls, logs them, makes them and checks their results."""

from __future__ import annotations

import contextvars
import gc
import importlib
import importlib.machinery
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tracekit
import tracekit.testing

from . import hostile
from .values import Values, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

KEPT_CALLS = 50_000
# CPython 3.11 collects garbage in the middle of ContextVar.set(), which the plain form cannot detect: reading there may crash.
MAY_READ_IN_FINALIZERS = tracekit.IMPLEMENTATION == "compiled" or sys.version_info >= (3, 12)


class Fault(AssertionError):
    """A defect that the fuzz has found."""


class Operation:
    """A step of a run; *weight* is its relative frequency."""

    def __init__(self, group: str, weight: int, function: Callable[[Fuzz], object]) -> None:
        self.group = group
        self.weight = weight
        self.function = function


OPERATIONS: list[Operation] = []


def operation(group: str, weight: int) -> Callable[[Callable[[Fuzz], object]], Callable[[Fuzz], object]]:
    """Register the decorated function as an operation."""

    def register(function: Callable[[Fuzz], object]) -> Callable[[Fuzz], object]:
        OPERATIONS.append(Operation(group, weight, function))
        return function

    return register


def compiled_modules() -> list[Any]:
    """Return the extension modules of the package; none in the plain form."""
    if tracekit.IMPLEMENTATION == "plain":
        return []
    folder = Path(tracekit.__file__).parent
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]  # the one of this interpreter
    paths = [path.relative_to(folder.parent).as_posix() for path in sorted(folder.rglob(f"*{suffix}"))]
    return [importlib.import_module(path.removesuffix(suffix).replace("/", ".")) for path in paths]


def is_ours(kind: type) -> bool:
    """Return whether the package defines *kind*."""
    return str(type.__getattribute__(kind, "__module__")).partition(".")[0] == "tracekit"


class Log:
    """A file with the last calls of a process, at most ``KEPT_CALLS``."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._lines = 0

    def write(self, line: str) -> None:
        """Write *line* without a buffer, which a crash would lose."""
        if self._lines == KEPT_CALLS:
            os.ftruncate(self._file, 0)
            self._lines = 0
        self._lines += 1
        os.write(self._file, line.encode("utf-8", "backslashreplace") + b"\n")


class Fuzz(Values):
    """One run, determined by *seed*."""

    def __init__(
        self,
        seed: int,
        *,
        log: Log | None = None,
        only: Collection[str] | None = None,
        without: Collection[str] = (),
        keep_going: bool = False,
    ) -> None:
        super().__init__(random.Random(seed), hostile.Mischief(random.Random(seed + 1), self.again, self.in_finalizer))
        # For finalizers: the time of a collection must not change the sequence of calls.
        self.idle_rng = random.Random(seed + 2)
        self.seed = seed
        self.log = log
        self.keep_going = keep_going
        self.faults: Counter[str] = Counter()
        self.operations = 0
        self.depth = 0  # of nested calls
        self.budget = 0  # of misbehaving methods left in this operation
        self.recent: list[str] = []
        self.failed: list[tuple[str, BaseException | None]] = []  # in threads and finalizers
        chosen = [one for one in OPERATIONS if (only is None or one.group in only) and one.group not in without]
        self.functions = [one.function for one in chosen]
        self.weights = [one.weight for one in chosen]
        self.asks_pipeline = any(one.group == "pipeline" for one in chosen)
        # What a hostile method may do.
        self.reentrant = [one.function for one in chosen if one.group in ("scopes", "spans", "carriers")]

    def call(self, what: str, function: Callable[..., Any], *args: Any, allow: Any = (), **kwargs: Any) -> Any:
        """Call *function* and return its result, or None after a documented exception or one of *allow*.

        Hostile objects misbehave only during such a call.
        """
        outer, self.mischief.left = self.mischief.left, 0
        named = "".join([f", {name}={shown(value)}" for name, value in kwargs.items()])
        line = f"{self.operations} {'  ' * self.depth}{what}({', '.join(map(shown, args))}{named})"
        self.recent = [*self.recent[-20:], line]
        if self.log is not None:
            self.log.write(line)
        self.depth += 1
        self.mischief.left = outer if self.depth > 1 else self.budget
        try:
            return function(*args, **kwargs)
        except Fault:
            raise
        except BaseException as error:
            left, self.mischief.left = self.mischief.left, 0
            is_allowed = isinstance(error, allow) and not isinstance(error, SystemError)
            if "changed size during iteration" in str(error):
                # Raised by the iterator of a hostile container that changes itself; not of a plain one that was changed.
                is_allowed |= any(hostile.is_hostile_type(type(value)) for value in (*args, *kwargs.values()))
            if not is_allowed and not is_documented(error):
                self.fault(what, error)
            self.mischief.left = left
            return None
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.budget, self.mischief.left = self.mischief.left, 0

    def fault(self, what: str, error: BaseException | str, details: str = "") -> None:
        """Raise a ``Fault``; with ``keep_going``, count it instead and print the first of its kind."""
        trace = details if isinstance(error, str) else "".join(traceback.format_exception(error, limit=-12))
        told = error if isinstance(error, str) else f"{type(error).__name__}: {str(error)[:100]}"
        summary = f"{what}: {told}"
        report = "\n  ".join([f"seed {self.seed}, operation {self.operations}: {summary}", *self.recent[-8:]])
        if not self.keep_going:
            raise Fault(f"{report}\n{trace}")
        self.faults[summary] += 1
        if self.faults[summary] == 1:
            print(f"{report}\n{trace}", flush=True)

    # ---- the run

    def run(self, operations: int | None, seconds: float | None) -> None:
        """Run that many *operations*, or for *seconds*, then check that every span is accounted for."""
        tracekit.configure(environ={})
        gc.collect()
        gc.freeze()  # makes the many collections cheap
        open_before = tracekit.statistics().open
        handlers = sys.unraisablehook, threading.excepthook
        threshold = gc.get_threshold()
        sys.unraisablehook = lambda args: self.failed.append(("finalizer", args.exc_value))
        threading.excepthook = lambda args: self.failed.append((f"thread {args.thread}", args.exc_value))
        hostile.use(self.mischief)
        gc.set_threshold(self.rng.choice([1, 7, 50, 700]), 2, 2)
        gc.callbacks.append(self._collecting)
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        try:
            contextvars.Context().run(self._loop, operations, deadline)
        finally:
            gc.callbacks.remove(self._collecting)
            hostile.use(None)
            sys.unraisablehook, threading.excepthook = handlers
            gc.set_threshold(*threshold)
            gc.unfreeze()
        self.finish(open_before)

    def _loop(self, operations: int | None, deadline: float) -> None:
        tracekit.configure(exporter=tracekit.testing.MemoryExporter(), environ={})
        while operations is None or self.operations < operations:
            if self.operations % 16 == 0 and time.monotonic() >= deadline:
                return
            self.operations += 1
            self.budget = self.rng.choice([0, 0, 1, 2, 3, 10])
            (function,) = self.rng.choices(self.functions, self.weights)
            function(self)
            self.mischief.containers.clear()
            while self.failed:
                where, error = self.failed.pop()
                # A collection near the recursion limit makes finalizers fail.
                if not is_documented(error) and not isinstance(error, RecursionError):
                    self.fault(where, error or "failed")
            if self.operations % 2000 == 0:
                self.check()

    def again(self) -> None:
        """Make a random call from inside a hostile method."""
        if self.depth < 4 and self.reentrant:
            left, self.mischief.left = self.mischief.left, 0
            function = self.rng.choice(self.reentrant)
            self.mischief.left = left
            function(self)

    def in_finalizer(self) -> None:
        """Make a call from a finalizer or a callback of the collector: one that opens no scope."""
        rng = self.idle_rng
        match rng.randrange(10):
            case 0 if MAY_READ_IN_FINALIZERS:
                tracekit.current_span()
            case 1 if MAY_READ_IN_FINALIZERS:
                tracekit.current_context()
            case 2 if MAY_READ_IN_FINALIZERS:
                tracekit.inject({})
            case 3 if MAY_READ_IN_FINALIZERS:
                tracekit.span("of a finalizer")
            case 4 if MAY_READ_IN_FINALIZERS:
                tracekit.span("of a finalizer").end()
            case 5 if MAY_READ_IN_FINALIZERS:
                tracekit.capture()
            case 6 if MAY_READ_IN_FINALIZERS:
                tracekit.current_labels()
            case 7 | 8 if self.spans:
                span = self.spans[-1]
                for _ in range(rng.choice([1, 60])):
                    span.set_attribute(f"of a finalizer {rng.randrange(200)}", 1)
                    span.add_event("of a finalizer")
                    span.add_link(span)
            case 9 if self.asks_pipeline:
                tracekit.statistics()

    def _collecting(self, phase: str, info: Any) -> None:
        if threading.get_ident() == self.mischief.thread and self.idle_rng.random() < 0.3:
            self.in_finalizer()

    def check(self) -> Any:
        """Check that ``statistics()`` adds up, and return it."""
        tracekit.flush(20)
        try:
            counts = tracekit.statistics()
        except Exception as error:
            return self.fault("statistics", error)
        ended = counts.exported + counts.queued + counts.dropped + counts.failed + counts.unsampled
        if counts.started != counts.ended + counts.open or counts.ended != ended or min(counts) < 0:
            self.fault("statistics", "does not add up", str(counts))
        return counts

    def finish(self, open_before: int) -> None:
        """Drop all references, and check that every span has ended then."""
        self.mischief.containers.clear()
        for pool in self.pools:
            pool.clear()
        tracekit.configure(environ={})  # drops the exporter, which may hold spans
        # configure() waits 5 s for the exporter. One that is still at work may have a span open: see calls.Exporter.
        for thread in threading.enumerate():
            if thread.name == "tracekit-export":
                thread.join(30)
        # The traceback of an error holds every object of its frames. A finalizer may have failed after the last check.
        while self.failed:
            where, error = self.failed.pop()
            if not is_documented(error) and not isinstance(error, RecursionError):
                self.fault(where, error or "failed")
            del error
        gc.collect()
        counts = self.check()
        if counts is not None and counts.open != open_before:
            self.fault("statistics", f"{counts.open - open_before} spans stay open without a reference", holders())

    # ---- places

    def somewhere(self, function: Callable[[], Any]) -> Any:
        """Call *function* here, in the Context of another task, or in a thread."""
        dice = self.rng.random()
        context = self.pick(self.contexts)
        if dice >= 0.995:
            return self.in_thread(function)
        if dice < 0.5 or context is None:
            return function()
        entered = False

        def run() -> Any:
            nonlocal entered
            entered = True
            return function()

        try:
            return context.run(run)
        except RuntimeError:
            if entered:
                raise
            return function()  # that Context is entered already

    def in_thread(self, function: Callable[[], Any], stack: int = 0) -> Any:
        """Call *function* in a new thread with a *stack* of so many bytes (0: the default), and wait for it."""
        result: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            self.mischief.thread = threading.get_ident()
            try:
                result.append(function())
            except BaseException as error:
                errors.append(error)

        here = self.mischief.thread
        before = threading.stack_size(stack)
        thread = threading.Thread(target=run)
        try:
            thread.start()
        finally:
            threading.stack_size(before)
        thread.join()
        self.mischief.thread = here
        if errors:
            raise errors.pop()
        return result.pop()


def holders() -> str:
    """Return what refers to open spans and to scopes; first those holders to which the collector misses references.

    Such a holder is in a cycle through an object that the collector does not traverse, or a reference to it was never
    released.
    """
    things = gc.get_objects()
    seen = Counter([id(held) for thing in things for held in gc.get_referents(thing)])
    missed: list[str] = []
    others: list[str] = []
    for thing in things:
        for held in gc.get_referents(thing):
            if len(missed) + len(others) < 400 and _may_keep_open(held):
                count = sys.getrefcount(thing) - seen[id(thing)] - 3  # the list, the variable and the argument
                lines = missed if count > 0 else others
                lines.append(f"{shown(held)} is held by {shown(thing)}")
                if count > 0:
                    lines.append(f"    which {count} references hold that the collector does not see")
                referrers = [one for one in gc.get_referrers(thing) if one is not things]
                lines += [f"    which {shown(one)} holds" for one in referrers[:5]]
    return "\n".join(
        [f"threads: {', '.join([thread.name for thread in threading.enumerate()])}", *missed, *others][:100]
    )


def _may_keep_open(thing: Any) -> bool:
    kind = type(thing)
    if not is_ours(kind) or kind.__name__ not in ("Span", "Scope", "OtelSpan"):
        return False
    return kind.__name__ != "Span" or not thing.ended


def is_documented(error: BaseException | None) -> bool:
    """Return whether any call may raise *error*."""
    if isinstance(error, SystemError):
        return False
    if isinstance(error, RuntimeError) and "a scope opens once" in str(error):
        return True
    if isinstance(error, OverflowError) and "index-sized integer" in str(error):
        return True  # Python rejected the result of a hostile __len__
    return isinstance(error, (TypeError, ValueError)) or hostile.is_hostile(error)
