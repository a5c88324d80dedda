"""Row 6: work that outlives what started it: background tasks, ticks, listeners, servers, pools."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import weakref
from functools import partial

import anyio
import trio
from anyio.lowlevel import checkpoint

from .scenario import ASYNCIO, TRIO, cases, scenario


@scenario(
    row=6,
    title="a background task in a group that outlives the request",
    expect="""
    request
    job ~ request
      step
    """,
)
async def background(t):
    async def job():
        with t.span("job"):
            t.mark("step")

    async with anyio.create_task_group() as tasks:
        with t.span("request"):
            t.aio.spawn_detached(tasks, job)


@scenario(
    row=6,
    title="each turn of a periodic task is a trace of its own",
    expect="""
    request
    tick ~ request
    tick ~ request
    tick ~ request
    """,
)
async def periodic(t):
    async def ticks():
        for _ in range(3):
            t.mark("tick")
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        with t.span("request"):
            t.aio.spawn_detached(tasks, ticks)


@scenario(
    row=6,
    title="what a detached task spawns in turn is detached, too",
    expect="""
    request
    job ~ request
    """,
)
async def grandchild(t):
    async def outer():
        async with anyio.create_task_group() as inner:
            inner.start_soon(job)

    async def job():
        t.mark("job")

    async with anyio.create_task_group() as tasks:
        with t.span("request"):
            t.aio.spawn_detached(tasks, outer)


@scenario(
    row=6,
    title="`asyncio.create_task` in `detached()`",
    expect="""
    request
      before
      after
    job ~ request
    """,
    backends=ASYNCIO,
)
async def native_task(t):
    async def job():
        t.mark("job")

    with t.span("request"):
        t.mark("before")
        with t.detached():
            task = asyncio.create_task(job())
        t.mark("after")
        await task


@scenario(
    row=6,
    title="a trio nursery in `detached()`",
    expect="""
    request
    job ~ request
    """,
    backends=TRIO,
)
async def native_nursery(t):
    async def job():
        t.mark("job")

    async with trio.open_nursery() as nursery:
        with t.span("request"), t.detached():
            nursery.start_soon(job)


@scenario(
    row=6,
    title="`call_soon` that reschedules itself for ever",
    expect="""
    request
    tick ~ request
    tick ~ request
    """,
    backends=ASYNCIO,
)
async def self_rescheduling(t):
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tick(left):
        t.mark("tick")
        if left:
            loop.call_soon(tick, left - 1)
        else:
            done.set()

    with t.span("request"), t.detached():
        loop.call_soon(tick, 1)
    await done.wait()


@scenario(
    row=6,
    title="a server set up under a start-up span: its connections do not inherit it",
    expect="""
    startup
    connection ~ startup
    connection ~ startup
    """,
    backends=ASYNCIO,
)
async def server(t):
    async def serve(reader, writer):
        with t.span("connection"):
            writer.write(await reader.readline())
            await writer.drain()
        writer.close()

    with t.span("startup"), t.detached():
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = listener.sockets[0].getsockname()
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"ping\n")
        assert await reader.readline() == b"ping\n"
        writer.close()
        await writer.wait_closed()
    listener.close()
    await listener.wait_closed()


@scenario(
    row=6,
    title="a listener on trio, set up under a start-up span",
    expect="""
    startup
    connection ~ startup
    """,
    backends=TRIO,
)
async def trio_server(t):
    async def serve(stream):
        with t.span("connection"):
            await stream.send_all(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        with t.span("startup"), t.detached():
            (listener,) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), serve, 0)
        async with await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
            await stream.send_all(b"ping")
            assert await stream.receive_some() == b"ping"
        nursery.cancel_scope.cancel()


@scenario(
    row=6,
    title="`loop.add_signal_handler` under a start-up span",
    expect="""
    startup
    reload ~ startup
    """,
    backends=ASYNCIO if sys.platform != "win32" else (),
)
async def signal_handler(t):
    loop = asyncio.get_running_loop()
    called = asyncio.Event()

    def reload():
        t.mark("reload")
        called.set()

    with t.span("startup"), t.detached():
        loop.add_signal_handler(signal.SIGUSR1, reload)
    os.kill(os.getpid(), signal.SIGUSR1)
    await called.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


@scenario(
    row=6,
    title="a thread that listens for as long as the program runs",
    expect="""
    startup
    message ~ startup
    message ~ startup
    """,
)
async def listener_thread(t):
    def listen():
        for _ in range(2):
            t.mark("message")

    with t.span("startup"), t.detached():
        thread = t.threads.Thread(target=listen)
        thread.start()
    await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=6,
    title="labels of the request do not follow detached work",
    expect="""
    request
    job ~ request
    """,
)
async def no_labels(t):
    async def job():
        with t.span("job"):
            t.check(t.current_labels() == {}, "labels leak")

    async with anyio.create_task_group() as tasks:
        with t.span("request"), t.labels(tenant="acme"):
            t.aio.spawn_detached(tasks, job)


@scenario(
    row=6,
    title="detached inside detached: the link goes to nothing but the nearest span",
    expect="""
    request
    job ~ request
    last ~ job
    """,
)
async def nested(t):
    async def job():
        with t.span("job"), t.detached():
            t.mark("last")

    async with anyio.create_task_group() as tasks:
        with t.span("request"):
            t.aio.spawn_detached(tasks, job)


@scenario(
    row=6,
    title="nothing is current where it is detached: a root without a link",
    expect="""
    job
    """,
)
async def from_nowhere(t):
    with t.detached():
        t.mark("job")


@scenario(
    row=6,
    title="a long-lived task keeps no attribute of the request that spawned it",
    expect="""
    job
    request
    """,
)
async def nothing_is_pinned(t):
    class Body:
        pass

    body = Body()
    alive = weakref.ref(body)
    release = anyio.Event()

    async def job():
        await release.wait()

    async with t.aio.create_task_group() as tasks:
        with t.span("request"), t.detached():
            tasks.start_soon(job)
            await checkpoint()
        del body
        gc.collect()
        t.check(alive() is None, "pins")
        t.mark("job")
        release.set()


@scenario(
    row=6,
    title="a task group opened in `detached()`: its tasks' exceptions come back as ever",
    expect="""
    request
    job [error] ~ request
    """,
)
async def errors_come_back(t):
    async def job():
        with t.span("job"):
            raise ValueError("broken")

    with t.span("request"), contextlib.suppress(BaseExceptionGroup), t.detached():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job)


@scenario(
    row=6,
    title="a pool of threads whose workers the first request starts, without `detached()`",
    expect="""
    first
      job
    second
      job
    """,
)
async def pool(t):
    with t.threads.ThreadPoolExecutor(1) as executor:
        with t.span("first"):
            executor.submit(t.mark, "job").result(60)
        with t.span("second"):
            executor.submit(t.mark, "job").result(60)


@scenario(
    row=6,
    title="a daemon thread that the first request starts, without a word (hooks installed)",
    expect="""
    first
      job
    second
    work of others ~ first
    """,
)
async def daemon_thread(t):
    t.install_hooks()
    try:
        first_done, second_done = threading.Event(), threading.Event()

        def listen():
            t.mark("job")
            first_done.set()
            second_done.wait(20)
            t.mark("work of others")

        with t.span("first"):
            thread = threading.Thread(target=listen, daemon=True)
            thread.start()
            await anyio.to_thread.run_sync(first_done.wait, 5)
        with t.span("second"):
            second_done.set()
        await anyio.to_thread.run_sync(thread.join, 5)
    finally:
        t.remove_hooks()


test_detached = cases(globals())
