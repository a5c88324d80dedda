"""Row 17: awaiting inside another Context."""

from __future__ import annotations

import contextlib

import anyio
from anyio.lowlevel import checkpoint

from .by_hand import close, opened
from .scenario import cases, scenario

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
      work
        step
    """,
)
async def spawned_in_context(t):
    context = in_tenant(t)

    async with t.aio.create_task_group() as group:

        async def spawn():
            await checkpoint()
            group.start_soon(work(t))

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


test_contexts = cases(globals())
