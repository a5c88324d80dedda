"""Row 4: a generator's scope is its body's alone, whoever makes the steps, and its span ends once, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import warnings

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, TRIO, cases, scenario


def lines(t, name="steps", count=3):
    """A traced generator that opens a span around each yield."""

    @t.traced(name)
    def steps():
        for _ in range(count):
            with t.span("line"):
                yield

    return steps()


def lines_async(t, name="steps", count=3):
    @t.traced(name)
    async def steps():
        for _ in range(count):
            with t.span("line"):
                await checkpoint()
                yield

    return steps()


@scenario(
    row=4,
    title="the consumer of a generator sees its own span, the body sees the generator's",
    expect="""
    request
      steps
        line
        line
        line
      sent
      sent
      sent
    """,
)
async def consumer(t):
    with t.span("request"):
        for _ in lines(t):
            t.mark("sent")


@scenario(
    row=4,
    title="... of an async generator",
    expect="""
    request
      steps
        line
        line
        line
      sent
      sent
      sent
    """,
)
async def consumer_async(t):
    with t.span("request"):
        async for _ in lines_async(t):
            t.mark("sent")


@scenario(
    row=4,
    title="two generators stepped in turn",
    expect="""
    request
      a
        line
        line
      b
        line
        line
    """,
)
async def interleaved(t):
    with t.span("request"):
        for _ in zip(lines(t, "a", 2), lines(t, "b", 2), strict=True):
            pass


@scenario(
    row=4,
    title="`break` out of a generator, which is then collected",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
)
async def broken_off(t):
    with t.span("request"):
        for _ in lines(t):
            break
        gc.collect()
        t.mark("after")


@scenario(
    row=4,
    title="`aclose()` of an async generator in the middle",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
)
async def closed_async(t):
    with t.span("request"):
        async with contextlib.aclosing(lines_async(t)) as steps:
            async for _ in steps:
                break
        t.mark("after")


@scenario(
    row=4,
    title="an async generator that another task closes",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
)
async def closed_elsewhere(t):
    with t.span("request"):
        steps = lines_async(t)
        await anext(steps)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steps.aclose)
        t.mark("after")


@scenario(
    row=4,
    title="an async generator left to the loop's shutdown",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
    backends=ASYNCIO,
)
async def loop_shutdown(t):
    with t.span("request"):
        steps = lines_async(t)
        t.kept.append(steps)
        await anext(steps)
        t.mark("after")


@scenario(
    row=4,
    title="an async generator left to the garbage collector",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
    backends=ASYNCIO,
)
async def collected(t):
    with t.span("request"):
        await anext(lines_async(t))
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        t.mark("after")


@scenario(
    row=4,
    title="an async generator left to trio's end",
    expect="""
    request
      after
      steps [cancelled]
        line [cancelled]
    """,
    backends=TRIO,
)
async def trio_end(t):
    with t.span("request"):
        steps = lines_async(t)
        t.kept.append(steps)
        await anext(steps)
        t.mark("after")


@scenario(
    row=4,
    title="an error in the body",
    expect="""
    request
      after
      steps [error]
    """,
)
async def error_inside(t):
    @t.traced("steps")
    def steps():
        yield
        raise ValueError

    with t.span("request"):
        with contextlib.suppress(ValueError):
            for _ in steps():
                pass
        t.mark("after")


@scenario(
    row=4,
    title="an error thrown into the body, which handles it; then it is closed",
    expect="""
    request
      steps [cancelled]
        rescued
    """,
)
async def thrown_in(t):
    @t.traced("steps")
    def steps():
        try:
            yield 1
        except KeyError:
            t.mark("rescued")
            yield 2

    with t.span("request"):
        generator = steps()
        next(generator)
        t.check(generator.throw(KeyError()) == 2, "loses values")
        generator.close()


@scenario(
    row=4,
    title="values sent in, and the value returned",
    expect="""
    request
      steps
    """,
)
async def values(t):
    @t.traced("steps")
    def steps():
        got = yield 1
        return got + 1

    def outer():
        return (yield from steps())

    with t.span("request"):
        generator = outer()
        next(generator)
        try:
            generator.send(41)
        except StopIteration as stop:
            t.check(stop.value == 42, "loses values")


@scenario(
    row=4,
    title="a generator whose steps are made by threads in turn, as Starlette streams one",
    expect="""
    request
      steps
        line
        line
        line
    """,
)
async def threads_in_turn(t):
    with t.span("request"):
        steps = lines(t)
        while await anyio.to_thread.run_sync(next, steps, 0) != 0:
            pass


@scenario(
    row=4,
    title="a generator whose steps are made by two threads of their own",
    expect="""
    request
      steps
        line
        line
        line
    """,
)
async def bare_threads(t):
    def step():
        next(steps, None)

    with t.span("request"):
        steps = lines(t)
        next(steps)
        for _ in range(3):
            thread = threading.Thread(target=step)
            thread.start()
            await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=4,
    title="an async generator whose steps are made by tasks in turn, each with a span of its own",
    expect="""
    request
      a
        in a
      b
        in b
      steps
        line
        line
    """,
)
async def tasks_in_turn(t):
    async def step(name):
        with t.span(name):
            await anext(steps, None)
            t.mark(f"in {name}")

    with t.span("request"):
        steps = lines_async(t, count=2)
        await anext(steps)
        for name in "ab":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(step, name)


@scenario(
    row=4,
    title="the consumer is cancelled while the body waits",
    expect="""
    after
    request
      steps [cancelled]
    """,
)
async def cancelled(t):
    @t.traced("steps")
    async def steps():
        yield
        await anyio.sleep_forever()

    with t.span("request"), anyio.CancelScope() as scope:
        async for _ in steps():
            scope.cancel()
    t.mark("after")


@scenario(
    row=4,
    title="labels set in the body stay in the body",
    expect="""
    request
      steps
        line
    """,
)
async def labels_inside(t):
    @t.traced("steps")
    def steps():
        with t.labels(tenant="acme"):
            yield
            t.check(t.current_labels().get("tenant") == "acme", "labels lost")
            t.mark("line")

    with t.span("request"):
        for _ in steps():
            t.check("tenant" not in t.current_labels(), "labels leak")


@scenario(
    row=4,
    title="a span that the body opens and never closes does not stay current in the consumer",
    expect="""
    request
      after
      steps
    """,
)
async def left_open(t):
    @t.traced("steps")
    def steps():
        t.kept.append(t.span("forgotten"))
        t.kept[-1].__enter__()
        yield

    with t.span("request"):
        for _ in steps():
            pass
        t.mark("after")


@scenario(
    row=4,
    title="`stream(generator)` keeps to the span it was made under, which has ended when it is stepped",
    expect="""
    request
      steps
        line
    response
      sent
    """,
)
async def stream_later(t):
    def steps():
        with t.span("line"):
            yield

    with t.span("request"):
        generator = t.stream(steps(), "steps")
    with t.span("response"):
        for _ in generator:
            t.mark("sent")


@scenario(
    row=4,
    title="`stream(async generator)`, stepped in a task that was there before",
    expect="""
    request
      steps
        line
    worker
      sent
    """,
)
async def stream_elsewhere(t):
    given = []
    ready = anyio.Event()

    async def steps():
        with t.span("line"):
            await checkpoint()
            yield

    async def work():
        with t.span("worker"):
            await ready.wait()
            async for _ in given[0]:
                t.mark("sent")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await checkpoint()
        with t.span("request"):
            given.append(t.stream(steps(), "steps"))
            ready.set()


@scenario(
    row=4,
    title="a generator stepped in another `contextvars.Context` each time",
    expect="""
    request
      steps
        line
        line
        line
    """,
)
async def contexts_in_turn(t):
    with t.span("request"):
        steps = lines(t)
        for _ in range(4):
            contextvars.copy_context().run(next, steps, None)


@scenario(
    row=4,
    title="a generator nobody ever steps has no span",
    expect="""
    request
    """,
)
async def never_stepped(t):
    with t.span("request"), warnings.catch_warnings():
        lines(t).close()


@scenario(
    row=4,
    title="a generator without `@traced` that opens a span around a yield",
    expect="""
    request
      line
      sent
    """,
    actual="""
    request
      line
        sent
    """,
    instead="`@traced` or `stream()`",
)
async def undecorated(t):
    def steps():
        with t.span("line"):
            yield

    with t.span("request"):
        for _ in steps():
            t.mark("sent")


@scenario(
    row=4,
    title="a pytest-style fixture: `contextmanager` over a traced generator",
    expect="""
    steps
      line
    """,
)
async def as_context_manager(t):
    @contextlib.contextmanager
    def fixture():
        yield from lines(t, count=1)

    with fixture():
        pass


@scenario(
    row=4,
    title="recursion: a generator that steps another of its kind",
    expect="""
    steps
      line
      steps
        line
        steps
          line
    """,
)
async def recursive(t):
    @t.traced("steps")
    def steps(depth):
        t.mark("line")
        yield depth
        if depth:
            yield from steps(depth - 1)

    t.check(list(steps(2)) == [2, 1, 0], "loses values")


test_generators = cases(globals())
