"""Row 15: what one test leaves open is not there in the next; the leak detector's own tests are elsewhere."""

from __future__ import annotations

import contextvars

import anyio
from anyio.lowlevel import checkpoint

from .scenario import cases, scenario


def leave_open(t, name):
    t.kept.append(t.span(name))
    t.kept[-1].__enter__()


@scenario(
    row=15,
    title="tests one after the other in Contexts of their own",
    expect="""
    second
    """,
)
async def contexts_of_their_own(t):
    base = contextvars.copy_context()
    base.copy().run(leave_open, t, "first")
    base.copy().run(t.mark, "second")


@scenario(
    row=15,
    title="tests as tasks that a shared runner starts",
    expect="""
    second
    """,
)
async def shared_runner(t):
    async def first():
        leave_open(t, "first")
        await checkpoint()

    async def second():
        t.mark("second")

    for test in (first, second):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(test)


@scenario(
    row=15,
    title="tests in one task of a shared runner, which keeps its Context (pytest plugin loaded)",
    expect="""
    second
    """,
    actual="""
    second <- ?
    """,
    instead="the pytest plugin, which is on wherever tracekit is installed",
)
async def one_task(t):
    async def first():
        leave_open(t, "first")

    async def second():
        t.mark("second")

    await first()
    await second()


test_isolation = cases(globals())
