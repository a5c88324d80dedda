"""Row 2: the tasks that a task spawns."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys

import anyio
import trio
from anyio.lowlevel import checkpoint

from .by_hand import close, opened
from .scenario import ASYNCIO, TRIO, cases, scenario

ENDED = """
request
  job
    inside
"""


def job(t):
    """Return a coroutine function with a span that is open across a step of the loop."""

    async def run():
        with t.span("job"):
            await checkpoint()
            t.mark("inside")

    return run


@scenario(row=2, title="`create_task`; the parent ends before the task's first step", expect=ENDED, backends=ASYNCIO)
async def create_task(t):
    with t.span("request"):
        task = asyncio.create_task(job(t)())
    await task


@scenario(row=2, title="`gather`; the parent ends before", expect=ENDED, backends=ASYNCIO)
async def gather(t):
    with t.span("request"):
        future = asyncio.gather(job(t)())
    await future


@scenario(row=2, title="`asyncio.TaskGroup`; the parent ends before", expect=ENDED, backends=ASYNCIO)
async def task_group(t):
    async with asyncio.TaskGroup() as group:
        with t.span("request"):
            group.create_task(job(t)())


@scenario(
    row=2,
    title="`asyncio.TaskGroup.cancel()`: the tasks are cancelled, the request goes on",
    expect="""
    request
      job [cancelled]
      rest
    """,
    backends=ASYNCIO if sys.version_info >= (3, 15) else (),
)
async def task_group_cancel(t):
    async def work():
        with t.span("job"):
            group.cancel()
            await asyncio.sleep(3600)

    with t.span("request"):
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
        t.mark("rest")


@scenario(row=2, title="`start_soon`; the parent ends before", expect=ENDED)
async def start_soon(t):
    async with t.aio.create_task_group() as group:
        with t.span("request"):
            group.start_soon(job(t))


@scenario(row=2, title="a trio nursery's `start_soon`; the parent ends before", expect=ENDED, backends=TRIO)
async def nursery(t):
    async with trio.open_nursery() as nursery:
        with t.span("request"):
            nursery.start_soon(job(t))


@scenario(row=2, title="`call_soon`, which starts a task; the parent ends before", expect=ENDED, backends=ASYNCIO)
async def call_soon(t):
    loop = asyncio.get_running_loop()
    started = loop.create_future()
    with t.span("request"):
        loop.call_soon(lambda: started.set_result(loop.create_task(job(t)())))
    await (await started)


@scenario(row=2, title="`call_later` and `call_at`; the parent ends before", expect=ENDED, backends=ASYNCIO)
async def call_later(t):
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def first():
        with t.span("job"):
            loop.call_at(loop.time() + 0.001, second)

    def second():
        t.mark("inside")
        done.set_result(None)

    with t.span("request"):
        loop.call_later(0.001, first)
    await done


@scenario(
    row=2,
    title="`add_done_callback`; whoever resolves the future is not the parent",
    expect="""
    request
      callback
    resolver
    """,
    backends=ASYNCIO,
)
async def done_callback(t):
    future = asyncio.get_running_loop().create_future()
    with t.span("request"):
        future.add_done_callback(lambda _: t.mark("callback"))
    with t.span("resolver"):
        future.set_result(None)
        await checkpoint()
        await checkpoint()


@scenario(
    row=2,
    title="a task's parent and grandparent end, newest last, before its first step",
    expect="""
    request
      part
        job
          inside
    """,
    backends=ASYNCIO,
)
async def grandparent_ends_first(t):
    request = opened(t, "request")
    part = opened(t, "part")
    task = asyncio.create_task(job(t)())
    close(request)
    close(part)
    await task


@scenario(
    row=2,
    title="started after its parent's outer span was closed: the open inner one is the parent",
    expect="""
    request
      part
        job
          inside
    """,
)
async def spawned_out_of_order(t):
    request = opened(t, "request")
    part = opened(t, "part")
    close(request)
    async with t.aio.create_task_group() as group:
        group.start_soon(job(t))
        close(part)


@scenario(
    row=2,
    title="`start_soon` from a task of the group: the spawner is the parent, not the group's owner",
    expect="""
    owner
      spawner
        job
          inside
    """,
)
async def spawned_by_a_sibling(t):
    async def spawner(group):
        with t.span("spawner"):
            await checkpoint()
            group.start_soon(job(t))

    with t.span("owner"):
        async with t.aio.create_task_group() as group:
            group.start_soon(spawner, group)


@scenario(
    row=2,
    title="`start`: before and after `started()` alike, also when the caller's span ends in between",
    expect="""
    server
      caller
        before
        after
    """,
)
async def start(t):
    async def listen(*, task_status):
        t.mark("before")
        task_status.started()
        await caller_ended.wait()
        t.mark("after")

    caller_ended = anyio.Event()
    with t.span("server"):
        async with t.aio.create_task_group() as group:
            with t.span("caller"):
                await group.start(listen)
            caller_ended.set()


@scenario(
    row=2,
    title="a trio nursery's `start`, called by a task that is not its owner",
    expect="""
    server
      caller
        before
        after
    """,
    backends=TRIO,
)
async def nursery_start(t):
    async def listen(task_status):
        t.mark("before")
        task_status.started()
        await caller_ended.wait()
        t.mark("after")

    async def call(nursery):
        with t.span("caller"):
            await nursery.start(listen)
        caller_ended.set()

    caller_ended = trio.Event()
    with t.span("server"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, nursery)


@scenario(
    row=2,
    title="`create_task(context=…)`: the given Context wins over the spawner's",
    expect="""
    request
    tenant
      job
        inside
    """,
    backends=ASYNCIO,
)
async def explicit_context(t):
    with t.span("tenant") as tenant:
        context = t.new_context(tenant)
    with t.span("request"):
        await asyncio.create_task(job(t)(), context=context)


@scenario(
    row=2,
    title="`create_task(context=contextvars.Context())`: an empty Context begins a trace",
    expect="""
    request
    job
      inside
    """,
    backends=ASYNCIO,
)
async def empty_context(t):
    with t.span("request"):
        await asyncio.create_task(job(t)(), context=contextvars.Context())


@scenario(
    row=2,
    title="`call_soon(context=…)`: the given Context wins",
    expect="""
    request
    tenant
      callback
    """,
    backends=ASYNCIO,
)
async def explicit_context_of_a_callback(t):
    with t.span("tenant") as tenant:
        context = t.new_context(tenant)
    with t.span("request"):
        asyncio.get_running_loop().call_soon(t.mark, "callback", context=context)
        await checkpoint()
        await checkpoint()


@scenario(
    row=2,
    title="what a task has open reaches neither its parent nor its siblings",
    expect="""
    request
      first
        in first
      second
        in second
      third
      meanwhile
    """,
)
async def siblings(t):
    first_is_open, second_is_done = anyio.Event(), anyio.Event()

    async def first():
        with t.span("first"):
            first_is_open.set()
            await second_is_done.wait()
            t.mark("in first")

    async def second():
        with t.span("second"):
            t.mark("in second")

    with t.span("request"):
        async with t.aio.create_task_group() as group:
            group.start_soon(first)
            await first_is_open.wait()
            t.mark("meanwhile")
            group.start_soon(second)
            group.start_soon(t.traced("third")(checkpoint))
            await checkpoint()
            second_is_done.set()


@scenario(
    row=2,
    title="a task that never closes its scope leaves its parent and later tasks alone",
    expect="""
    request
      careless
      later
      after
    """,
)
async def careless_task(t):
    async def careless():
        span = t.start("careless")
        scope = t.use(span)
        scope.__enter__()
        t.kept.append(scope)
        t.end(span)

    async def later():
        t.mark("later")

    with t.span("request"):
        async with t.aio.create_task_group() as group:
            group.start_soon(careless)
        async with t.aio.create_task_group() as group:
            group.start_soon(later)
        t.mark("after")


@scenario(
    row=2,
    title="an awaited task's span is not the awaiter's",
    expect="""
    request
      worker
      own
        in own
    """,
    backends=ASYNCIO,
)
async def awaiting_is_not_inheriting(t):
    async def worker():
        with t.span("worker"):
            await checkpoint()

    with t.span("request"):
        task = asyncio.ensure_future(worker())
        with t.span("own"):
            await task
            t.mark("in own")


@scenario(
    row=2,
    title="fifty tasks of two requests, interleaved at every step",
    expect="\n".join(f"request {number}\n" + "  job\n    step 1\n    step 2\n" * 25 + "  rest" for number in (1, 2)),
)
async def interleaved(t):
    async def work():
        with t.span("job"):
            await checkpoint()
            with t.span("step 1"):
                await checkpoint()
            with t.span("step 2"):
                await checkpoint()

    async def request(number):
        with t.span(f"request {number}"):
            async with t.aio.create_task_group() as group:
                for _ in range(25):
                    group.start_soon(work)
            t.mark("rest")

    async with t.aio.create_task_group() as group:
        group.start_soon(request, 1)
        group.start_soon(request, 2)


@scenario(
    row=2,
    title="labels that a task sets are its own",
    expect="""
    request
      acme
        in acme
      other
    """,
)
async def labels_of_a_task(t):
    labelled, looked = anyio.Event(), anyio.Event()

    async def acme():
        with t.span("acme"), t.labels(tenant="acme"):
            labelled.set()
            await looked.wait()
            t.check(t.current_labels() == {"tier": "free", "tenant": "acme"}, "wrong labels")
            t.mark("in acme")

    async def other():
        await labelled.wait()
        with t.span("other"):
            t.check(t.current_labels() == {"tier": "free"}, "labels leak")
        looked.set()

    with t.span("request"), t.labels(tier="free"):
        async with t.aio.create_task_group() as group:
            group.start_soon(acme)
            group.start_soon(other)
            await labelled.wait()
            t.check(t.current_labels() == {"tier": "free"}, "labels leak")


@scenario(
    row=2,
    title="labels reach a task that starts after they were taken back",
    expect="""
    request
      job
    """,
    backends=ASYNCIO,
)
async def labels_at_the_spawn(t):
    async def work():
        with t.span("job"):
            t.check(t.current_labels() == {"tenant": "acme"}, "labels lost")

    with t.span("request"), t.labels(tenant="acme"):
        task = asyncio.create_task(work())
    await task


@scenario(
    row=2,
    title="a tick that starts the next one with `call_later` from inside its own span",
    expect="""
    start
      tick
        tick
          tick
            tick
    """,
    backends=ASYNCIO,
)
async def ticks(t):
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tick(left):
        with t.span("tick"):
            if left:
                loop.call_later(0, tick, left - 1)
            else:
                done.set_result(None)

    with t.span("start"):
        loop.call_later(0, tick, 3)
    await done


@scenario(
    row=2,
    title="a chain of tasks, each started by the last after its parent has ended",
    expect="""
    start
      link
        link
          link
    """,
)
async def chain_of_tasks(t):
    async def link(group, left):
        with t.span("link"):
            await checkpoint()
            if left:
                group.start_soon(link, group, left - 1)

    async with t.aio.create_task_group() as group:
        with t.span("start"):
            group.start_soon(link, group, 2)


@scenario(
    row=2,
    title="`shield`: the work goes on after its request was cancelled",
    expect="""
    request
      work
        step
    after
    """,
    backends=ASYNCIO,
)
async def shield(t):
    cancelled = asyncio.Event()
    works = []

    async def work():
        with t.span("work"):
            await cancelled.wait()
            t.mark("step")

    async def request():
        with t.span("request"), contextlib.suppress(asyncio.CancelledError):
            works.append(asyncio.ensure_future(work()))
            await asyncio.shield(works[0])

    task = asyncio.create_task(request())
    await checkpoint()
    await checkpoint()
    task.cancel()
    await task
    cancelled.set()
    await works[0]
    t.mark("after")


@scenario(
    row=2,
    title="`wait_for` and `as_completed`, each from within a span of its own",
    expect="""
    request
      waiting
        job
          inside
        after the wait
      completing
        fast
        slow
        after both
    """,
    backends=ASYNCIO,
)
async def wait_for_and_as_completed(t):
    fast_is_done = asyncio.Event()

    async def fast():
        t.mark("fast")
        fast_is_done.set()

    async def slow():
        await fast_is_done.wait()
        t.mark("slow")

    with t.span("request"):
        with t.span("waiting"):
            await asyncio.wait_for(job(t)(), 5)
            t.mark("after the wait")
        with t.span("completing"):
            for future in asyncio.as_completed([slow(), fast()]):
                await future
            t.mark("after both")


@scenario(
    row=2,
    title="a group is cancelled: its tasks clean up where they were started, and the parent goes on",
    expect="""
    request
      clean up 1
      clean up 2
      after
    """,
)
async def cancelled_group(t):
    async def work(name):
        try:
            await anyio.sleep_forever()
        finally:
            t.mark(name)

    with t.span("request"):
        async with t.aio.create_task_group() as group:
            group.start_soon(work, "clean up 1")
            group.start_soon(work, "clean up 2")
            await checkpoint()
            await checkpoint()
            group.cancel_scope.cancel()
        t.mark("after")


@scenario(
    row=2,
    title="a task is started after another task has closed the current span",
    expect="""
    a
    job
      inside
    """,
)
async def spawned_after_a_foreign_close(t):
    async def child():
        close(a)

    a = opened(t, "a")
    async with t.aio.create_task_group() as group:
        group.start_soon(child)
    t.current()  # any call will do
    async with t.aio.create_task_group() as group:
        group.start_soon(job(t))


@scenario(
    row=2,
    title="another task has closed the current span, and nothing of the tracer's is called before the next spawn",
    expect="""
    a
    job
      inside
    """,
    actual="""
    a
      job
        inside
    """,
    instead="`current_context()`",
)
async def spawned_blindly_after_a_foreign_close(t):
    async def child():
        close(a)

    a = opened(t, "a")
    async with t.aio.create_task_group() as group:
        group.start_soon(child)
    async with t.aio.create_task_group() as group:
        group.start_soon(job(t))


@scenario(
    row=2,
    title="`copy_context().run` long after the span that it was copied in",
    expect="""
    request
      callback
      callback
    other
    """,
)
async def copied_context(t):
    with t.span("request"):
        context = contextvars.copy_context()
    await checkpoint()
    with t.span("other"):
        context.run(t.mark, "callback")
        context.run(t.mark, "callback")


test_tasks = cases(globals())
