"""Rows 3 and 8: work handed to threads and back, and code that interrupts whatever runs."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import multiprocessing.pool
import os
import signal
import subprocess
import sys
import threading
import weakref

import anyio
import anyio.from_thread
import anyio.to_thread
import trio
from anyio.lowlevel import checkpoint

from .scenario import ALL, ASYNCIO, TRIO, cases, scenario


def leave_open(t, name):
    """Open a span and forget about it."""
    t.kept.append(t.span(name))
    t.kept[-1].__enter__()


class Hooks:
    """Inside ``with``, the tracer's patches of the standard library are on; a peer's always are."""

    def __init__(self, t):
        self.t = t

    def __enter__(self):
        self.t.install_hooks()

    def __exit__(self, *_):
        self.t.remove_hooks()


# ---- row 3: to threads


@scenario(
    row=3,
    title="`to_thread.run_sync`",
    expect="""
    request
      job
    """,
)
async def to_thread(t):
    with t.span("request"):
        await t.aio.to_thread.run_sync(t.mark, "job")


@scenario(
    row=3,
    title="`to_thread.run_sync`, ten at once from siblings",
    expect="\n".join(f"request {number}\n  job {number}" for number in range(10)),
)
async def to_thread_siblings(t):
    async def request(number):
        with t.span(f"request {number}"):
            await t.aio.to_thread.run_sync(t.mark, f"job {number}")

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(request, number)


@scenario(
    row=3,
    title="a job that leaves a span open does not reach the next job in that thread",
    expect="""
    after
    first
    second
      job
    """,
)
async def forgetful_job(t):
    limiter = anyio.CapacityLimiter(1)

    async def run(function, *args):
        await anyio.to_thread.run_sync(function, *args, limiter=limiter)

    with t.span("first"):
        await run(leave_open, t, "forgotten")
    with t.span("second"):
        await run(t.mark, "job")
    await run(t.mark, "after")


@scenario(
    row=3,
    title="`ThreadPoolExecutor.submit`, the request over before the job begins",
    expect="""
    request
      job
    """,
)
async def executor_late(t):
    gate = threading.Event()
    with t.threads.ThreadPoolExecutor(1) as executor:
        executor.submit(gate.wait, 5)
        with t.span("request"):
            future = executor.submit(t.mark, "job")
        gate.set()
        await anyio.to_thread.run_sync(future.result, 5)


@scenario(
    row=3,
    title="a pool of one thread serves two requests",
    expect="""
    after
    first
      job
    second
      job
    """,
)
async def executor_reused(t):
    with t.threads.ThreadPoolExecutor(1) as executor:
        for name in ("first", "second"):
            with t.span(name):
                executor.submit(t.mark, "job").result(60)
        executor.submit(t.mark, "after").result(60)


@scenario(
    row=3,
    title="a pool's job that leaves a span open does not reach the next",
    expect="""
    after
    request
    """,
)
async def executor_forgetful(t):
    with t.threads.ThreadPoolExecutor(1) as executor:
        with t.span("request"):
            executor.submit(leave_open, t, "forgotten").result(60)
        executor.submit(t.mark, "after").result(60)


@scenario(
    row=3,
    title="`ThreadPoolExecutor.map`",
    expect="""
    request
      a
      b
      c
    """,
)
async def executor_map(t):
    with t.threads.ThreadPoolExecutor(2) as executor, t.span("request"):
        list(executor.map(t.mark, "abc"))


@scenario(
    row=3,
    title="`loop.run_in_executor` with the loop's own executor",
    expect="""
    request
      job
    """,
    backends=ASYNCIO,
)
async def run_in_executor(t):
    with t.span("request"):
        await t.aio.run_in_executor(None, t.mark, "job")


@scenario(
    row=3,
    title="`asyncio.to_thread`, the request over before the job begins",
    expect="""
    request
      job
    """,
    backends=ASYNCIO,
)
async def asyncio_to_thread(t):
    gate = threading.Event()

    def job():
        gate.wait(20)
        t.mark("job")

    with t.span("request"):
        task = asyncio.create_task(asyncio.to_thread(job))
    await asyncio.sleep(0)
    gate.set()
    await task


@scenario(
    row=3,
    title="`trio.to_thread.run_sync`, and back by `trio.from_thread.run`",
    expect="""
    request
      job
        back
    """,
    backends=TRIO,
)
async def trio_threads(t):
    async def back():
        t.mark("back")

    def job():
        with t.span("job"):
            trio.from_thread.run(back)

    with t.span("request"):
        await trio.to_thread.run_sync(job)


@scenario(
    row=3,
    title="`Thread`, the request over before it runs",
    expect="""
    request
      job
    """,
)
async def thread_late(t):
    gate = threading.Event()

    def job():
        gate.wait(20)
        t.mark("job")

    with t.span("request"):
        thread = t.threads.Thread(target=job)
        thread.start()
    gate.set()
    await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="`Thread` made in one span and started in another: the start counts",
    expect="""
    made
    started
      job
    """,
)
async def thread_started_later(t):
    with t.span("made"):
        thread = t.threads.Thread(target=t.mark, args=("job",))
    with t.span("started"):
        thread.start()
        await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="`Timer` that fires when the request is over",
    expect="""
    request
      job
    """,
)
async def timer(t):
    with t.span("request"):
        timer = t.threads.Timer(0.001, t.mark, ("job",))
        timer.start()
    await anyio.to_thread.run_sync(timer.join)


@scenario(
    row=3,
    title="one captured context, many threads at once",
    expect="""
    request
      job
      job
      job
      job
    """,
)
async def one_snapshot(t):
    barrier = threading.Barrier(4)

    def job():
        with t.span("job"):
            barrier.wait(20)

    with t.span("request"):
        run = t.capture().run
    threads = [threading.Thread(target=run, args=(job,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="`threading.Thread(context=)` with a copy of the request's, on any build",
    expect="""
    request
      job
    """,
    backends=ALL if sys.version_info >= (3, 14) else (),
)
async def thread_context(t):
    with t.span("request"):
        thread = threading.Thread(target=t.mark, args=("job",), context=contextvars.copy_context())
        thread.start()
        await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="a stock pool's worker, started under the first request: the second request's job is only linked to the first",
    expect="""
    job ~ request
    request
    second request
    """,
    backends=ALL if getattr(sys.flags, "thread_inherit_context", 0) else (),
)
async def stock_pool_that_inherits(t):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with t.span("request"):
            pool.submit(int).result()
        with t.span("second request"):
            pool.submit(t.mark, "job").result()


@scenario(
    row=3,
    title="a thread starts a thread",
    expect="""
    request
      outer
        inner
    """,
)
async def thread_in_thread(t):
    def outer():
        with t.span("outer"):
            thread = t.threads.Thread(target=t.mark, args=("inner",))
            thread.start()
            thread.join()

    with t.span("request"):
        thread = t.threads.Thread(target=outer)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="plain `threading.Thread`, unchanged code",
    expect="""
    request
      job
    """,
)
async def unchanged_thread(t):
    with Hooks(t), t.span("request"):
        thread = threading.Thread(target=t.mark, args=("job",))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)


@scenario(
    row=3,
    title="plain `ThreadPoolExecutor`, unchanged code, a pool for two requests",
    expect="""
    after
    first
      job
    second
      job
    """,
)
async def unchanged_executor(t):
    with Hooks(t), concurrent.futures.ThreadPoolExecutor(1) as executor:
        for name in ("first", "second"):
            with t.span(name):
                executor.submit(t.mark, "job").result(60)
        executor.submit(t.mark, "after").result(60)


@scenario(
    row=3,
    title="plain `threading.Timer`, unchanged code, the request over",
    expect="""
    request
      job
    """,
)
async def unchanged_timer(t):
    with Hooks(t):
        with t.span("request"):
            timer = threading.Timer(0.001, t.mark, ("job",))
            timer.start()
        await anyio.to_thread.run_sync(timer.join)


@scenario(
    row=3,
    title="plain `subprocess`, unchanged code: TRACEPARENT in the child",
    expect="""
    request
    """,
)
async def unchanged_subprocess(t):
    command = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT', ''))"]
    with Hooks(t), t.span("request") as span:
        done = await anyio.to_thread.run_sync(lambda: subprocess.run(command, stdout=subprocess.PIPE, check=True))
    t.check(t.ids(span)[0].encode() in done.stdout, "not passed")


@scenario(
    row=3,
    title="`multiprocessing.pool.ThreadPool`, a pool for two requests",
    expect="""
    first
      job
    second
      job
    """,
)
async def thread_pool(t):
    with multiprocessing.pool.ThreadPool(1) as pool:
        for name in ("first", "second"):
            with t.span(name):
                pool.apply(t.wrap(t.mark), ("job",))


@scenario(
    row=3,
    title="a bare `threading.Thread` without hooks",
    expect="""
    request
      job
    """,
    instead="`threads.Thread`, `wrap(fn)` or `install_hooks()`",
)
async def bare_thread(t):
    with t.span("request"):
        thread = threading.Thread(target=t.mark, args=("job",))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)


# ---- row 3: and back


@scenario(
    row=3,
    title="`from_thread.run` and `run_sync`",
    expect="""
    request
      job
        back
        back
    """,
)
async def from_thread(t):
    async def back():
        t.mark("back")

    def job():
        with t.span("job"):
            t.aio.from_thread.run(back)
            t.aio.from_thread.run_sync(t.mark, "back")

    with t.span("request"):
        await t.aio.to_thread.run_sync(job)


@scenario(
    row=3,
    title="a portal's `call` and `start_task_soon`, each with its caller's span",
    expect="""
    caller a
      call a
      soon a
    caller b
      call b
      soon b
    opener
    """,
)
async def portal(t):
    async def mark(name):
        await checkpoint()
        t.mark(name)

    def call(portal, name):
        with t.span(f"caller {name}"):
            portal.call(mark, f"call {name}")
            portal.start_task_soon(mark, f"soon {name}").result(60)

    with t.span("opener"):
        portal = t.aio.from_thread.BlockingPortal()
        await portal.__aenter__()
    async with anyio.create_task_group() as tasks:
        for name in "ab":
            tasks.start_soon(anyio.to_thread.run_sync, call, portal, name)
    await portal.stop()
    await portal.__aexit__(None, None, None)


@scenario(
    row=3,
    title="`start_blocking_portal`, opened by one request and used by the next",
    expect="""
    first
      job
    second
      job
    """,
)
async def blocking_portal(t):
    async def job():
        t.mark("job")

    def work():
        with t.span("first"):
            opened = t.aio.from_thread.start_blocking_portal()
            portal = opened.__enter__()
            portal.call(job)
        with t.span("second"):
            portal.call(job)
        opened.__exit__(None, None, None)

    await anyio.to_thread.run_sync(work)


@scenario(
    row=3,
    title="a span left open by `from_thread.run_sync` stays out of the event loop's tasks",
    expect="""
    after
    request
    """,
)
async def forgetful_callback(t):
    with t.span("request"):
        await t.aio.to_thread.run_sync(lambda: t.aio.from_thread.run_sync(leave_open, t, "forgotten"))
    t.mark("after")


@scenario(
    row=3,
    title="`call_soon_threadsafe` and `run_coroutine_threadsafe` from a thread",
    expect="""
    request
      job
        coroutine
        soon
    """,
    backends=ASYNCIO,
)
async def threadsafe(t):
    loop = asyncio.get_running_loop()

    async def coroutine():
        t.mark("coroutine")

    def job():
        with t.span("job"):
            loop.call_soon_threadsafe(t.mark, "soon")
            asyncio.run_coroutine_threadsafe(coroutine(), loop).result(60)

    with t.span("request"):
        await asyncio.to_thread(job)


@scenario(
    row=3,
    title="trio's `run_sync_soon` from a thread",
    expect="""
    request
      soon
    """,
    actual="""
    request
    soon
    """,
    instead="`wrap(fn)`",
    backends=TRIO,
)
async def run_sync_soon(t):
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def soon():
        t.mark("soon")
        done.set()

    with t.span("request"):
        await trio.to_thread.run_sync(token.run_sync_soon, soon)
    await done.wait()


@scenario(
    row=3,
    title="... with `wrap(fn)`",
    expect="""
    request
      soon
    """,
    backends=TRIO,
)
async def run_sync_soon_wrapped(t):
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def soon():
        t.mark("soon")
        done.set()

    def job():
        token.run_sync_soon(t.wrap(soon))

    with t.span("request"):
        await trio.to_thread.run_sync(job)
    await done.wait()


@scenario(
    row=3,
    title="a future's callback, wrapped, called by the thread that sets it",
    expect="""
    request
      done
    """,
)
async def done_callback(t):
    future = concurrent.futures.Future()
    with t.span("request"):
        done = t.wrap(lambda _: t.mark("done"))
        future.add_done_callback(done)
    thread = threading.Thread(target=future.set_result, args=(1,))
    thread.start()
    await anyio.to_thread.run_sync(thread.join)


# ---- row 8: interruptions


@scenario(
    row=8,
    title="a signal handler, wrapped where nothing was current, interrupts a span",
    expect="""
    handled
    request
    """,
    backends=ALL if sys.platform != "win32" else (),
)
async def signal_handler(t):
    with t.use_context(None) if t.name == "tracekit" else t.detached():
        handler = t.wrap(lambda *_: t.mark("handled"))
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with t.span("request"):
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(100):  # a handler runs between two instructions, soon after
                await checkpoint()
    finally:
        signal.signal(signal.SIGUSR1, before)


@scenario(
    row=8,
    title="a signal handler as it is",
    expect="""
    handled
    request
    """,
    actual="""
    request
      handled
    """,
    instead="`detached()` or `wrap(fn)` where it is set up",
    backends=ALL if sys.platform != "win32" else (),
)
async def bare_signal_handler(t):
    before = signal.signal(signal.SIGUSR1, lambda *_: t.mark("handled"))
    try:
        with t.span("request"):
            os.kill(os.getpid(), signal.SIGUSR1)
            for _ in range(100):
                await checkpoint()
    finally:
        signal.signal(signal.SIGUSR1, before)


@scenario(
    row=8,
    title="`__del__` with a captured context, run by whoever drops the last reference",
    expect="""
    maker
      released
    user
    """,
)
async def finalizer(t):
    class Resource:
        def __init__(self):
            self.release = t.wrap(lambda: t.mark("released"))

        def __del__(self):
            self.release()

    with t.span("maker"):
        resource = Resource()
    with t.span("user"):
        del resource
        gc.collect()


@scenario(
    row=8,
    title="`weakref.finalize` with a wrapped function, run in the middle of somebody else's span",
    expect="""
    maker
      released
    user
    """,
)
async def finalize(t):
    class Resource:
        pass

    with t.span("maker"):
        resource = Resource()
        weakref.finalize(resource, t.wrap(lambda: t.mark("released")))
    with t.span("user"):
        del resource
        gc.collect()


@scenario(
    row=8,
    title="`__del__` as it is, run by whoever drops the last reference",
    expect="""
    maker
    released
    user
    """,
    actual="""
    maker
    user
      released
    """,
    instead="`wrap(fn)` or `detached()` where the object is made",
)
async def bare_finalizer(t):
    class Resource:
        def __del__(self):
            t.mark("released")

    with t.span("maker"):
        resource = Resource()
    with t.span("user"):
        del resource
        gc.collect()


@scenario(
    row=8,
    title="`loop.add_signal_handler` with a wrapped function: its maker's, whatever it interrupts",
    expect="""
    maker
      handled
    request
    """,
    backends=ASYNCIO if sys.platform != "win32" else (),
)
async def loop_signal_handler(t):
    loop = asyncio.get_running_loop()
    called = asyncio.Event()

    def handle():
        t.mark("handled")
        called.set()

    with t.span("maker"):
        handler = t.wrap(handle)
    with t.span("request"):
        loop.add_signal_handler(signal.SIGUSR1, handler)
        os.kill(os.getpid(), signal.SIGUSR1)
        await called.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


test_threads = cases(globals())
