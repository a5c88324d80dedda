"""Rows 1, 2, 7 and 17: one task, the tasks that it spawns, a result that many wait for, and another Context."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars

import anyio
import trio
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, TRIO, cases, scenario


def opened(t, name):
    """Enter a span by hand; close() leaves it."""
    scope = t.span(name)
    scope.__enter__()
    return scope


def close(scope):
    scope.__exit__(None, None, None)


# ---- row 1: within one task


@scenario(
    row=1,
    title="nested `with`, one after the other, an `await` in each",
    expect="""
    a
      b
        c
      d
    after
    """,
)
async def nested(t):
    with t.span("a"):
        with t.span("b"), t.span("c"):
            await checkpoint()
        with t.span("d"):
            await checkpoint()
    t.mark("after")


@scenario(
    row=1,
    title="thirty coroutines below the span",
    expect="""
    a
      deep
    after
    """,
)
async def deep(t):
    async def descend(levels):
        await checkpoint()
        if levels:
            await descend(levels - 1)
        else:
            t.mark("deep")

    with t.span("a"):
        await descend(30)
    t.mark("after")


@scenario(
    row=1,
    title="the outer of two spans is closed first",
    expect="""
    a
      b
        in b
    after
    """,
)
async def outer_first(t):
    a = opened(t, "a")
    b = opened(t, "b")
    close(a)
    t.mark("in b")
    await checkpoint()
    close(b)
    t.mark("after")


@scenario(
    row=1,
    title="the middle one of three spans is closed first",
    expect="""
    a
      b
        c
          in c
      in a
    after
    """,
)
async def middle_first(t):
    a = opened(t, "a")
    b = opened(t, "b")
    c = opened(t, "c")
    close(b)
    t.mark("in c")
    close(c)
    t.mark("in a")
    close(a)
    t.mark("after")


@scenario(
    row=1,
    title="spans overlap in a chain, each closed after the next is opened",
    expect="""
    a
      b
        c
          d
            in d
    after
    """,
)
async def chain_of_overlaps(t):
    before = opened(t, "a")
    for name in ("b", "c", "d"):
        span = opened(t, name)
        close(before)
        before = span
        await checkpoint()
    t.mark("in d")
    close(before)
    t.mark("after")


@scenario(
    row=1,
    title="`ExitStack.pop_all()` keeps an inner span open beyond the outer one",
    expect="""
    request
      connection
        in connection
    after
    """,
)
async def exit_stack(t):
    with t.span("request"), contextlib.ExitStack() as stack:
        stack.enter_context(t.span("connection"))
        kept = stack.pop_all()
    t.mark("in connection")
    kept.close()
    t.mark("after")


@scenario(
    row=1,
    title="a span is ended inside its own `with`",
    expect="""
    a
      in a
    after
    """,
)
async def ended_but_open(t):
    with t.span("a") as a:
        t.end(a)
        await checkpoint()
        t.mark("in a")
    t.mark("after")


@scenario(
    row=1,
    title="an error leaves three spans and is caught outside",
    expect="""
    a
      b [error]
        c [error]
          d [error]
      in a
    """,
)
async def error_unwinds(t):
    with t.span("a"):
        with contextlib.suppress(LookupError), t.span("b"), t.span("c"), t.span("d"):
            await checkpoint()
            raise LookupError("no such item")
        t.mark("in a")


@scenario(
    row=1,
    title="a span is closed by a child task, then the parent goes on",
    expect="""
    a
      in child
    after
    """,
)
async def closed_by_a_child(t):
    async def child():
        t.mark("in child")
        await checkpoint()
        close(a)

    a = opened(t, "a")
    async with t.aio.create_task_group() as group:
        group.start_soon(child)
    t.mark("after")


@scenario(
    row=1,
    title="a child task closes the outer span while the parent is in the inner one",
    expect="""
    a
      b
        in b
    after
    """,
)
async def outer_closed_by_a_child(t):
    async def child():
        close(a)

    a = opened(t, "a")
    with t.span("b"):
        async with t.aio.create_task_group() as group:
            group.start_soon(child)
        t.mark("in b")
    t.mark("after")


@scenario(
    row=1,
    title="a context manager is entered in one task and left in another (lifespans, fixtures)",
    expect="""
    lifespan
      set up
    between
    other
      in other
    after
    """,
)
async def entered_here_left_there(t):
    @contextlib.asynccontextmanager
    async def resource():
        with t.span("lifespan"):
            t.mark("set up")
            yield

    manager = resource()

    async def leave():
        with t.span("other"):
            await manager.__aexit__(None, None, None)
            t.mark("in other")

    async with t.aio.create_task_group() as group:
        group.start_soon(manager.__aenter__)
    t.mark("between")
    async with t.aio.create_task_group() as group:
        group.start_soon(leave)
    t.mark("after")


@scenario(
    row=1,
    title="`asynccontextmanager` with a span around its `yield`",
    expect="""
    request
      transaction
        query
      in request
    """,
)
async def span_around_the_yield(t):
    @contextlib.asynccontextmanager
    async def transaction():
        with t.span("transaction"):
            await checkpoint()
            yield

    with t.span("request"):
        async with transaction():
            await checkpoint()
            t.mark("query")
        t.mark("in request")


@scenario(
    row=1,
    title="two `asynccontextmanager`s with spans are left in the order in which they were entered",
    expect="""
    first
      second
        in second
    after
    """,
)
async def managers_left_in_order(t):
    @contextlib.asynccontextmanager
    async def resource(name):
        with t.span(name):
            yield

    first, second = resource("first"), resource("second")
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    t.mark("in second")
    await second.__aexit__(None, None, None)
    t.mark("after")


@scenario(
    row=1,
    title="one span is made current twice, and ended in between",
    expect="""
    job
      step 1
      step 2
    after
    """,
)
async def used_twice(t):
    job = t.start("job")
    with t.use(job):
        t.mark("step 1")
    t.end(job)
    await checkpoint()
    with t.use(job):
        t.mark("step 2")
    t.mark("after")


@scenario(
    row=1,
    title="a remote context inside a local span, and back",
    expect="""
    a
      in a
    job <- remote
    """,
)
async def remote_in_local(t):
    with t.span("a"):
        with t.use_context(t.extract({"traceparent": f"00-{'4bf92f35' * 4}-{'00f067aa' * 2}-01"})), t.span("job"):
            await checkpoint()
        t.mark("in a")


@scenario(
    row=1,
    title="labels are in force inside their `with` alone, and those that are added later win",
    expect="""
    a
    """,
)
async def labels_are_scoped(t):
    with t.span("a"):
        with t.labels(tenant="acme", tier="free"):
            await checkpoint()
            with t.labels(tier="gold"):
                t.check(t.current_labels() == {"tenant": "acme", "tier": "gold"}, "wrong labels")
            t.check(t.current_labels() == {"tenant": "acme", "tier": "free"}, "wrong labels")
        t.check(t.current_labels() == {}, "labels stay")


# ---- row 2: spawning tasks

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


# ---- row 7: one result that many wait for


async def turns():
    """Let every task that can run do so, in whatever order."""
    for _ in range(5):
        await checkpoint()


class Shared:
    """A value that is loaded once, by a task of whoever asks first; the others wait for it."""

    def __init__(self, t, group):
        self.t, self.group = t, group
        self.may_load, self.done = anyio.Event(), anyio.Event()
        self.loading = None

    async def get(self, asker):
        if self.loading is None:
            self.loading = self.t.start("load")
            self.group.start_soon(self.load)
        else:
            self.t.add_link(self.loading, self.t.context(asker))
        await self.done.wait()

    async def load(self):
        with self.t.use(self.loading):
            await self.may_load.wait()
            self.t.mark("query")
        self.t.end(self.loading)
        self.done.set()


@scenario(
    row=7,
    title="a task shared by three: child of who asked first, linked to the others",
    expect="""
    request 1
      load ~ request 2 ~ request 3
        query
      rest 1
    request 2
      rest 2
    request 3
      rest 3
    """,
)
async def shared_task(t):
    async def request(number):
        with t.span(f"request {number}") as span:
            await shared.get(span)
            t.mark(f"rest {number}")

    async with t.aio.create_task_group() as group:
        shared = Shared(t, group)
        for number in (1, 2, 3):
            group.start_soon(request, number)
            await turns()
        shared.may_load.set()


@scenario(
    row=7,
    title="who asked first gives up; the load goes on under its ended span, for the other",
    expect="""
    request 1
      load ~ request 2
        query
    request 2
      rest
    """,
)
async def first_gives_up(t):
    async def first():
        with t.span("request 1") as span, scope:
            await shared.get(span)

    async def second():
        with t.span("request 2") as span:
            await shared.get(span)
            t.mark("rest")

    scope = anyio.CancelScope()
    async with t.aio.create_task_group() as group:
        shared = Shared(t, group)
        group.start_soon(first)
        await turns()
        scope.cancel()
        await turns()
        group.start_soon(second)
        await turns()
        shared.may_load.set()


@scenario(
    row=7,
    title="a batch of three keys: a root of its own, linked to every request",
    expect="""
    request 1
      rest
    request 2
      rest
    request 3
      rest
    batch ~ request 1 ~ request 2 ~ request 3
      query
    """,
)
async def batch_as_root(t):
    await batched(t, lambda askers: t.span("batch", links=askers, root=True))


@scenario(
    row=7,
    title="a batch of three keys: child of the request that filled it, linked to the others",
    expect="""
    request 1
      rest
    request 2
      rest
    request 3
      batch ~ request 1 ~ request 2
        query
      rest
    """,
)
async def batch_as_child(t):
    await batched(t, lambda askers: t.span("batch", links=askers[:-1]))


async def batched(t, span):
    """Load the keys of three requests at once, in a task that the last of them starts."""
    askers = []
    loaded = anyio.Event()

    async def load():
        with span(askers):
            await checkpoint()
            t.mark("query")
        loaded.set()

    async def request(number):
        with t.span(f"request {number}") as own:
            askers.append(t.context(own))
            if len(askers) == 3:
                group.start_soon(load)
            await loaded.wait()
            t.mark("rest")

    async with t.aio.create_task_group() as group:
        for number in (1, 2, 3):
            group.start_soon(request, number)
            await turns()


@scenario(
    row=7,
    title="one future, three waiters: each goes on in its own span",
    expect="""
    request 1
      rest
    request 2
      rest
    request 3
      rest
    resolver
    """,
    backends=ASYNCIO,
)
async def one_future(t):
    future = asyncio.get_running_loop().create_future()

    async def request(number):
        with t.span(f"request {number}"):
            await future
            t.mark("rest")

    tasks = [asyncio.create_task(request(number)) for number in (1, 2, 3)]
    await checkpoint()
    with t.span("resolver"):
        future.set_result(None)
        await checkpoint()
    await asyncio.gather(*tasks)


# ---- row 17: awaiting inside another Context

INSIDE = """
request
  back
tenant
  work
    step
"""


def in_tenant(t):
    """Return a Context in which the span "tenant" is current."""
    with t.span("tenant") as tenant:
        return t.new_context(tenant)


def work(t):
    async def run():
        with t.span("work"):
            await checkpoint()
            t.mark("step")
            await checkpoint()

    return run


@scenario(row=17, title="`run_in_context`: every step of the function runs in the given Context", expect=INSIDE)
async def run_in_context(t):
    context = in_tenant(t)
    with t.span("request"):
        await t.aio.run_in_context(context, work(t))
        t.mark("back")


@scenario(
    row=17,
    title="`await context.run(async_fn)`: only makes the coroutine there",
    expect=INSIDE,
    actual="""
    request
      back
      work
        step
    tenant
    """,
    instead="`run_in_context(context, async_fn)`",
)
async def awaited_context_run(t):
    context = in_tenant(t)
    with t.span("request"):
        await context.run(work(t))
        t.mark("back")


@scenario(
    row=17,
    title="`run_in_context` twice in one Context: the second finds what the first left open",
    expect="""
    request
      back
    tenant
      session
        step
    """,
)
async def twice_in_one_context(t):
    context = in_tenant(t)

    async def first():
        await checkpoint()
        return opened(t, "session")

    async def second(session):
        await checkpoint()
        t.mark("step")
        close(session)

    with t.span("request"):
        session = await t.aio.run_in_context(context, first)
        await t.aio.run_in_context(context, second, session)
        t.mark("back")


@scenario(
    row=17,
    title="`run_in_context` within `run_in_context`",
    expect="""
    request
      back in request
    one
      back in one
    two
      step
    """,
)
async def context_in_context(t):
    with t.span("one") as one:
        outer = t.new_context(one)
    with t.span("two") as two:
        inner = t.new_context(two)

    async def step():
        await checkpoint()
        t.mark("step")

    async def between():
        await t.aio.run_in_context(inner, step)
        await checkpoint()
        t.mark("back in one")

    with t.span("request"):
        await t.aio.run_in_context(outer, between)
        t.mark("back in request")


@scenario(
    row=17,
    title="`run_in_context` of two tasks at once, interleaved",
    expect="""
    request 1
      back 1
    request 2
      back 2
    tenant
      work
        step
    tenant
      work
        step
    """,
)
async def contexts_interleaved(t):
    async def request(number):
        context = in_tenant(t)
        with t.span(f"request {number}"):
            await t.aio.run_in_context(context, work(t))
            t.mark(f"back {number}")

    async with t.aio.create_task_group() as group:
        group.start_soon(request, 1)
        group.start_soon(request, 2)


@scenario(
    row=17,
    title="a task that is started inside `run_in_context` has its snapshot from there",
    expect="""
    request
      back
    tenant
      job
        inside
    """,
)
async def spawned_in_context(t):
    context = in_tenant(t)

    async with t.aio.create_task_group() as group:

        async def spawn():
            await checkpoint()
            group.start_soon(job(t))

        with t.span("request"):
            await t.aio.run_in_context(context, spawn)
            t.mark("back")


@scenario(
    row=17,
    title="cancelled inside `run_in_context`: it cleans up there, and the caller goes on in its own Context",
    expect="""
    request
      back
    tenant
      clean up
    """,
)
async def cancelled_in_context(t):
    context = in_tenant(t)

    async def waiting():
        try:
            await anyio.sleep_forever()
        finally:
            t.mark("clean up")

    with t.span("request"):
        with anyio.move_on_after(0.01):
            await t.aio.run_in_context(context, waiting)
        t.mark("back")


@scenario(
    row=17,
    title="an error leaves `run_in_context`",
    expect="""
    request [error]
    tenant
      failing [error]
    """,
)
async def error_in_context(t):
    context = in_tenant(t)

    async def failing():
        with t.span("failing"):
            await checkpoint()
            raise LookupError("no such item")

    with contextlib.suppress(LookupError), t.span("request"):
        await t.aio.run_in_context(context, failing)


test_tasks = cases(globals())
