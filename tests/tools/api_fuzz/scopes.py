"""Operations on scopes: opened and closed in any order and any Context, in threads, generators, tasks and forks."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import tracekit

from .run import Fuzz, operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SMALL_STACK = 256 * 1024
LONGEST = 40_000 if tracekit.IMPLEMENTATION == "plain" else 200_000


@operation("scopes", 30)
def start(fuzz: Fuzz) -> None:
    parent = None
    if fuzz.rng.random() < 0.5:
        parent = fuzz.rng.choice([fuzz.pick(fuzz.spans), fuzz.pick(fuzz.remote), tracekit.ROOT])
    fuzz.keep(fuzz.spans, fuzz.somewhere(lambda: fuzz.call("span", tracekit.span, "a", parent=parent)))


@operation("scopes", 60)
def enter(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans, newest=4)  # few, so that the same span is often entered again
    if span is not None:
        fuzz.somewhere(lambda: fuzz.call("span enter", span.__enter__))


@operation("scopes", 60)
def leave(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans, newest=4)
    if span is not None:
        error = fuzz.exception() if fuzz.rng.random() < 0.1 else None
        kind = None if error is None else type(error)
        fuzz.somewhere(lambda: fuzz.call("span exit", span.__exit__, kind, error, None))


@operation("scopes", 20)
def make_scope(fuzz: Fuzz) -> None:
    match fuzz.rng.randrange(5):
        case 0 | 1:
            made = fuzz.call("use_span", tracekit.use_span, fuzz.pick(fuzz.spans))
        case 2:
            made = fuzz.call("use_context", tracekit.use_context, fuzz.pick(fuzz.remote))
        case 3:
            made = fuzz.call("use_labels", tracekit.use_labels, {"a": str(fuzz.operations)})
        case _:
            made = fuzz.somewhere(lambda: fuzz.call("detached", tracekit.detached))
    fuzz.keep(fuzz.scopes, made)


@operation("scopes", 30)
def open_scope(fuzz: Fuzz) -> None:
    scope = fuzz.pick(fuzz.scopes)
    if scope is not None:
        fuzz.somewhere(lambda: fuzz.call("scope enter", scope.__enter__))


@operation("scopes", 40)
def close_scope(fuzz: Fuzz) -> None:
    scope = fuzz.pick(fuzz.scopes)
    if scope is not None:
        fuzz.somewhere(lambda: fuzz.call("scope exit", scope.__exit__, None, None, None))


@operation("scopes", 20)
def copy_context(fuzz: Fuzz) -> None:
    fuzz.keep(fuzz.contexts, fuzz.somewhere(lambda: fuzz.call("copy_context", contextvars.copy_context)))


@operation("scopes", 4)
def other_contexts(fuzz: Fuzz) -> None:
    if fuzz.rng.random() < 0.3:
        fuzz.keep(fuzz.contexts, contextvars.Context())
    fuzz.keep(fuzz.contexts, fuzz.call("new_context", tracekit.new_context, fuzz.pick(fuzz.spans)))
    fuzz.call("from_context", tracekit.from_context, fuzz.pick(fuzz.contexts))


@operation("scopes", 40)
def forget(fuzz: Fuzz) -> None:
    pool = fuzz.rng.choice(fuzz.pools)
    if pool:
        fuzz.call("forget", pool.pop, fuzz.rng.randrange(len(pool)), allow=IndexError)


@operation("scopes", 20)
def look(fuzz: Fuzz) -> None:
    name = fuzz.rng.choice(["current_span", "current_context", "current_labels"])
    fuzz.somewhere(lambda: fuzz.call(name, getattr(tracekit, name)))


@operation("scopes", 10)
def end(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans)
    if span is not None:
        fuzz.call("end", span.end)


@operation("scopes", 4)
def watch(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans)
    if span is not None:
        fuzz.keep(fuzz.watchers, weakref.ref(span, lambda _: fuzz.in_finalizer()))


@operation("scopes", 4)
def hand_over(fuzz: Fuzz) -> None:
    snapshot = fuzz.somewhere(lambda: fuzz.call("capture", tracekit.capture))
    work = fuzz.rng.choice([enter, leave, look])
    if snapshot is not None:
        fuzz.call("run", snapshot.run, work, fuzz)
    wrapped = fuzz.call("wrap", tracekit.wrap, work)
    fuzz.somewhere(lambda: fuzz.call("wrapped", wrapped, fuzz))


# What threads, tasks and generators do while other scopes are open.
WITHIN = [start, enter, enter, leave, leave, make_scope, open_scope, close_scope, copy_context, forget, look, end]


@operation("threads", 1)
def thread(fuzz: Fuzz) -> None:
    fuzz.in_thread(lambda: [fuzz.rng.choice(WITHIN)(fuzz) for _ in range(8)])


@operation("race", 1)
def race(fuzz: Fuzz) -> None:
    """Open and close the same spans and scopes in three threads at once; their order differs from run to run."""
    others = [Fuzz(fuzz.rng.getrandbits(32), only=()) for _ in range(3)]
    faults: list[BaseException] = []

    def work(other: Fuzz) -> None:
        try:
            for _ in range(100):
                other.rng.choice(WITHIN)(other)
        except BaseException as error:
            faults.append(error)

    for other in others:
        other.spans, other.scopes, other.contexts = fuzz.spans, fuzz.scopes, fuzz.contexts
        other.mischief.thread = -1
    threads = [threading.Thread(target=work, args=(other,)) for other in others]
    fuzz.call("race", len, threads)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    for fault in faults:
        fuzz.fault("race", fault)


# ---- generators and tasks


def body(fuzz: Fuzz) -> Iterator[int]:
    """Run random operations between steps, leaving scopes open."""
    for number in range(fuzz.rng.randrange(5)):
        fuzz.rng.choice(WITHIN)(fuzz)
        yield number
    fuzz.rng.choice(WITHIN)(fuzz)


async def async_body(fuzz: Fuzz) -> AsyncIterator[int]:
    """The same as an async generator."""
    for number in body(fuzz):
        yield number


class Steps:
    """An iterator over an async generator that never suspends."""

    def __init__(self, steps: Any) -> None:
        self._steps = steps

    def __next__(self) -> Any:
        return self._result(self._steps.__anext__())

    def throw(self, error: BaseException) -> Any:
        return self._result(self._steps.athrow(error))

    def close(self) -> Any:
        return self._result(self._steps.aclose())

    def _result(self, step: Any) -> Any:
        try:
            step.send(None)
        except StopIteration as stop:
            return stop.value


@operation("generators", 6)
def make_steps(fuzz: Fuzz) -> None:
    match fuzz.rng.randrange(4):
        case 0:
            made = fuzz.somewhere(lambda: fuzz.call("traced", tracekit.traced(body), fuzz))
        case 1:
            made = fuzz.somewhere(lambda: fuzz.call("stream", tracekit.stream, body(fuzz)))
        case 2:
            made = Steps(fuzz.somewhere(lambda: fuzz.call("traced", tracekit.traced(async_body), fuzz)))
        case _:
            made = fuzz.somewhere(lambda: fuzz.call("stream", tracekit.stream, iter([1, 2, 3]), "iterator"))
    fuzz.keep(fuzz.steps, made)


@operation("generators", 40)
def step(fuzz: Fuzz) -> None:
    steps = fuzz.pick(fuzz.steps)
    if steps is None:
        return
    match fuzz.rng.randrange(10):
        case 0:
            name, arguments = "close", []
        case 1 if hasattr(steps, "throw"):  # a generator, and no other iterator
            name, arguments = "throw", [fuzz.mischief.error()]
        case _:
            name, arguments = "__next__", []
    allow: tuple[type[BaseException], ...] = (StopIteration, StopAsyncIteration, GeneratorExit)
    if getattr(steps, "gi_running", True):
        allow = (*allow, RuntimeError)  # it may be running: this call may be part of its step
    fuzz.somewhere(lambda: fuzz.call(name, getattr(steps, name), *arguments, allow=allow))


@operation("generators", 1)
def tasks(fuzz: Fuzz) -> None:
    """Run an event loop with tasks that share spans and scopes."""

    @tracekit.traced
    async def work() -> None:
        for _ in range(fuzz.rng.randrange(4)):
            fuzz.rng.choice(WITHIN)(fuzz)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*[work() for _ in range(4)])

    def run() -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()

    if fuzz.depth == 0:
        fuzz.in_thread(lambda: fuzz.call("tasks", run))  # a loop may be running in this thread


# ---- processes


@operation("fork", 1)
def fork(fuzz: Fuzz) -> None:
    """Continue in a forked child, whose statistics must add up too."""
    if fuzz.depth or fuzz.rng.random() < 0.8 or not hasattr(os, "fork"):
        return
    fuzz.call("fork", len, fuzz.spans)
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            fuzz.fault("fork", "the child failed")
        return
    code = 1
    try:
        fuzz.keep_going = False
        for _ in range(20):
            fuzz.rng.choice(WITHIN)(fuzz)
        fuzz.check()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# ---- chains whose recursive deallocation would overflow the stack


def entries(length: int) -> None:
    """Enter one span many times without exit."""
    span = tracekit.span("a")
    for _ in range(length):
        span.__enter__()


def entries_and_exits(length: int) -> None:
    """Enter one span many times and exit it as often."""
    span = tracekit.span("a")
    for _ in range(length):
        span.__enter__()
    for _ in range(length):
        span.__exit__(None, None, None)


def scopes(length: int) -> None:
    """Nest many scopes."""
    span = tracekit.span("a")
    for _ in range(length):
        tracekit.use_span(span).__enter__()


def labels(length: int) -> None:
    """Nest spans and labels; at most 1000, since the cost of open labels is quadratic."""
    for number in range(min(length, 1000)):
        tracekit.use_labels(a=str(number)).__enter__()
        tracekit.span("a").__enter__()


def stand_ins(length: int) -> None:
    """Replace one scope many times while tasks hold the copies, so that finally each copy holds the next one."""
    tasks: list[contextvars.Context] = []

    def work() -> None:
        under = [tracekit.span("a").__enter__() for _ in range(length)]
        tracekit.span("a").__enter__()
        while under:
            tasks.append(contextvars.copy_context())
            under.pop().__exit__(None, None, None)

    contextvars.Context().run(work)
    while tasks:
        tasks.pop()


def tasks_of_tasks(length: int) -> None:
    """Start each task inside a span of the task before."""
    context = contextvars.copy_context()
    for _ in range(min(length, 20_000)):
        context.run(tracekit.span("a").__enter__)
        context = context.run(contextvars.copy_context)


CHAINS: list[Callable[[int], None]] = [entries, entries_and_exits, scopes, labels, stand_ins, tasks_of_tasks]


@operation("chains", 1)
def chain(fuzz: Fuzz) -> None:
    """Build and deallocate a chain in a thread with a small stack."""
    if fuzz.depth or fuzz.rng.random() < 0.9:
        return
    build = fuzz.rng.choice(CHAINS)
    length = fuzz.rng.choice([1000, 20_000, LONGEST])

    def work() -> None:
        contextvars.Context().run(build, length)  # the Context is deallocated here too

    fuzz.call(f"chain of {length} {build.__name__}", fuzz.in_thread, work, SMALL_STACK)
