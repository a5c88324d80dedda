"""Row 7: one result that many wait for."""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, cases, scenario


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


test_fan_in = cases(globals())
