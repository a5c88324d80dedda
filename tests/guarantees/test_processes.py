"""Row 9: work in other processes: pools, forks, subprocesses, interpreters."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys

import anyio
import anyio.to_thread

from tests.guarantees.workers import trace_here, work  # by the name that a new process can import it under

from .scenario import ALL, ASYNCIO, cases, scenario

POSIX = ALL if sys.platform != "win32" else ()


def pool_of(t, method, **options):
    return t.processes.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method), **options)


async def result(future):
    return await anyio.to_thread.run_sync(future.result, 30)


async def submit_and_end(t, method):
    with pool_of(t, method) as pool:
        with t.span("request"):
            future = pool.submit(work, t.name, "job", "step")
        await result(future)


@scenario(
    row=9,
    title="`ProcessPoolExecutor` with fork: what the worker records comes back, the request over meanwhile",
    expect="""
    request
      job
        step
    """,
    backends=POSIX,
)
async def pool_fork(t):
    await submit_and_end(t, "fork")


@scenario(
    row=9,
    title="... with spawn",
    expect="""
    request
      job
        step
    """,
)
async def pool_spawn(t):
    await submit_and_end(t, "spawn")


@scenario(
    row=9,
    title="... with forkserver",
    expect="""
    request
      job
        step
    """,
    backends=POSIX,
)
async def pool_forkserver(t):
    await submit_and_end(t, "forkserver")


@scenario(
    row=9,
    title="a pool that the first request makes serves the second",
    expect="""
    first
      job
    second
      job
    """,
    backends=POSIX,
)
async def pool_reused(t):
    with contextlib.ExitStack() as stack:
        with t.span("first"):
            pool = stack.enter_context(pool_of(t, "fork"))
            await result(pool.submit(work, t.name, "job"))
        with t.span("second"):
            await result(pool.submit(work, t.name, "job"))


@scenario(
    row=9,
    title="`map` over a pool, in chunks",
    expect="""
    request
      a
      b
      c
    """,
    backends=POSIX,
)
async def pool_map(t):
    with pool_of(t, "fork") as pool, t.span("request"):
        await anyio.to_thread.run_sync(lambda: list(pool.map(work, [t.name] * 3, "abc", chunksize=2)))


@scenario(
    row=9,
    title="an exception in a worker comes back as it was, and so do the spans it left",
    expect="""
    request
      job [error]
    """,
    backends=POSIX,
)
async def pool_error(t):
    with pool_of(t, "fork") as pool, t.span("request"):
        try:
            await result(pool.submit(work, t.name, "job", "fail"))
        except ValueError as error:
            t.check(error.args == ("broken",), "changes errors")


@scenario(
    row=9,
    title="a worker that dies: the pool's own error, and the span that waited says so",
    expect="""
    request
    """,
    backends=POSIX,
)
async def pool_broken(t):
    from concurrent.futures.process import BrokenProcessPool

    with pool_of(t, "fork") as pool, t.span("request"), contextlib.suppress(BrokenProcessPool):
        await result(pool.submit(os._exit, 1))


@scenario(
    row=9,
    title="`to_process.run_sync`",
    expect="""
    request
      job
        step
    """,
)
async def to_process(t):
    with t.span("request"):
        await t.aio.to_process.run_sync(work, t.name, "job", "step")


@scenario(
    row=9,
    title="`loop.run_in_executor` with a pool of processes",
    expect="""
    request
      job
    """,
    backends=ASYNCIO if POSIX else (),
)
async def run_in_executor(t):
    with pool_of(t, "fork") as pool, t.span("request"):
        await t.aio.run_in_executor(pool, work, t.name, "job")


@scenario(
    row=9,
    title="`multiprocessing.Pool` with `wrap(fn)`, spawn: the trace is current in the worker",
    expect="""
    request
    """,
)
async def multiprocessing_pool(t):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with t.span("request") as span:
            found = pool.apply_async(t.wrap(trace_here), (t.name,))
        trace_id = await anyio.to_thread.run_sync(found.get, 30)
        pool.close()
        pool.join()
    t.check(trace_id == t.ids(span)[0], "lost")


@scenario(
    row=9,
    title="a span that is open at `fork` is exported once, by the parent",
    expect="""
    request
    """,
    backends=POSIX,
)
async def fork(t):
    def child():
        span.__exit__(None, None, None)
        count = len([node for node in t.nodes() if node.name == "request"])
        os._exit(count)

    span = t.span("request")
    span.__enter__()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    await anyio.to_thread.run_sync(process.join, 30)
    t.check(process.exitcode == 0, "exported twice")
    span.__exit__(None, None, None)


@scenario(
    row=9,
    title="`subprocess` with `environ()`: the child's environment names the trace",
    expect="""
    request
    """,
)
async def subprocess_environ(t):
    command = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT', ''))"]

    def run():
        return subprocess.run(command, env=t.processes.environ(), stdout=subprocess.PIPE, check=True).stdout

    with t.span("request") as span:
        out = await anyio.to_thread.run_sync(run)
    t.check(t.ids(span)[0].encode() in out, "not passed")


@scenario(
    row=9,
    title="a program started with TRACEPARENT joins that trace",
    expect="",
)
async def joins(t):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    programs = {
        "tracekit": "import tracekit; tracekit.configure(); c = tracekit.current_context(); print(c and c.trace_id)",
        "OpenTelemetry": "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider;"
        "trace.set_tracer_provider(TracerProvider());"
        "print(hex(trace.get_tracer('x').start_span('work').get_span_context().trace_id))",
        "OpenTelemetry API on tracekit": "import tracekit; from tracekit.bridges import opentelemetry;"
        "tracekit.configure(); opentelemetry.install(); from opentelemetry import trace;"
        "print(hex(trace.get_tracer('x').start_span('work').get_span_context().trace_id))",
        "ddtrace": "from ddtrace.trace import tracer; print(hex(tracer.trace('work').trace_id))",
    }
    environ = {**os.environ, "TRACEPARENT": f"00-{trace_id}-00f067aa0ba902b7-01"}
    command = [sys.executable, "-c", programs[t.name]]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=True
        )
    )
    t.check(trace_id.encode() in done.stdout, "does not join")


@scenario(
    row=9,
    title="`to_interpreter.run_sync`",
    expect="""
    request
      job
        step
    """,
    backends=ALL if sys.version_info >= (3, 13) else (),
)
async def to_interpreter(t):
    try:
        with t.span("request"):
            await t.aio.to_interpreter.run_sync(work, t.name, "job", "step")
    finally:
        # CPython 3.13 to 3.15 crashes at every fork() of a process that has an interpreter, idle ones of anyio included.
        idle = sys.modules["anyio.to_interpreter"]._idle_workers.get()
        while idle:
            idle.pop().destroy()


test_processes = cases(globals())
