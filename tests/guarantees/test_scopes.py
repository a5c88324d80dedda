"""Row 1: one task, and scopes that are closed in any order."""

from __future__ import annotations

import contextlib

from anyio.lowlevel import checkpoint

from .by_hand import close, opened
from .scenario import cases, scenario


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


test_scopes = cases(globals())
