"""Threads that inherit the Context of their start, as free-threaded builds do: no worker sticks to its first request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import asyncio, contextvars, json, multiprocessing.pool, queue, sys, threading, weakref
from concurrent.futures import ThreadPoolExecutor
import tracekit
from tracekit import aio, threads
from tracekit.testing import MemoryExporter

exporter = MemoryExporter()
tracekit.configure(exporter=exporter)
if "hooks" in sys.argv:
    tracekit.install_hooks()
found = {"inherits": bool(getattr(sys.flags, "thread_inherit_context", 0))}

def job(name):
    with tracekit.span(name):
        pass

def tree(case):
    names = {span.context.span_id: span.name for span in exporter.spans}
    found[case] = {
        span.name: [names.get(span.parent.span_id, "?") if span.parent else None]
        + [names.get(link.context.span_id, "?") for link in span.links]
        for span in exporter.spans
        if not span.name.startswith("request")
    }
    exporter.clear()

def requests(submit):
    with tracekit.span("request 1"):
        submit("job 1")
    with tracekit.span("request 2"):
        submit("job 2")
    submit("job 0")

def in_thread(make):
    with tracekit.span("request 1"):
        thread = make()
        thread.start()
        thread.join()
    return thread

# One pool's worker, started by the first request.
pool = ThreadPoolExecutor(1)
requests(lambda name: pool.submit(job, name).result())
tree("pool")

with tracekit.span("request 1"):
    pool = multiprocessing.pool.ThreadPool(1)
    pool.apply(job, ("job 1",))
with tracekit.span("request 2"):
    pool.apply(job, ("job 2",))
pool.apply(job, ("job 0",))
pool.terminate()
tree("multiprocessing pool")

# A worker that looks at nothing during the first request.
pool = ThreadPoolExecutor(1)
with tracekit.span("request 1"):
    pool.submit(int).result()
pool.submit(job, "job").result()
tree("late")

# A thread that outlives its request.
go = threading.Event()
def late():
    job("during")
    go.wait()
    job("after")
with tracekit.span("request 1"):
    thread = threading.Thread(target=late)
    thread.start()
    while not any(span.name == "during" for span in exporter.spans):
        pass
go.set()
thread.join()
tree("outlives")

# Work that is handed over keeps its sender's trace, although the span has ended, in a worker that it started.
pool = ThreadPoolExecutor(1)
with tracekit.span("request 1"):
    go = threading.Event()
    future = pool.submit(tracekit.wrap(lambda: (go.wait(), job("job"))))
go.set()
future.result()
pool.submit(job, "other").result()
tree("wrap")

async def main():
    pool = ThreadPoolExecutor(1)
    go = threading.Event()
    with tracekit.span("request 1"):
        future = aio.run_in_executor(pool, lambda: (go.wait(), job("job")))
    go.set()
    await future
    await asyncio.get_running_loop().run_in_executor(pool, job, "other")
    tree("aio.run_in_executor")
    go = threading.Event()
    with tracekit.span("request 1"):
        task = asyncio.create_task(asyncio.to_thread(lambda: (go.wait(), job("job"))))
        await asyncio.sleep(0)
    go.set()
    await task
    tree("to_thread")
asyncio.run(main())

pool = ThreadPoolExecutor(1)
wrapped = threads.wrap_executor(pool)
requests(lambda name: wrapped.submit(job, name).result())
pool.submit(job, "bare").result()
tree("wrap_executor")

pool = threads.ThreadPoolExecutor(1)
requests(lambda name: pool.submit(job, name).result())
tree("threads pool")

class Value:
    pass
variable = contextvars.ContextVar("variable")
def start(kind, *args):
    variable.set(Value())
    kept.append(weakref.ref(variable.get()))
    thread = in_thread(lambda: kind(*args))
    variable.set(None)
    return thread
kept = []
alive = [
    contextvars.copy_context().run(start, threads.Thread, None, job, None, ("thread",)),
    contextvars.copy_context().run(start, threads.Timer, 0, job, ("timer",)),
]
tree("threads.Thread")
found["kept"] = [ref() is not None for ref in kept]

requests(lambda name: (thread := threading.Thread(target=job, args=(name,)), thread.start(), thread.join()))
tree("Thread")
if sys.version_info >= (3, 14):
    in_thread(lambda: threading.Thread(target=job, args=("copy",), context=contextvars.copy_context()))
    in_thread(lambda: threading.Thread(target=job, args=("empty",), context=contextvars.Context()))
    tree("Thread(context=)")

# Scopes that the thread opens itself, under a daemon thread that is linked already, under labels alone.
def nested():
    with tracekit.span("outer"):
        job("inner")
def labelled():
    with tracekit.use_labels(a="b"):
        nested()
in_thread(lambda: threading.Thread(target=labelled, daemon=True))
tree("nested")
with tracekit.use_labels(tenant="acme"):
    in_thread(lambda: threading.Thread(target=nested))
tree("labels")
with tracekit.detached():
    thread = threading.Thread(target=job, args=("detached",))
    thread.start()
    thread.join()
tree("detached")
now = tracekit.statistics()
found["sums"] = [now.started - now.ended, now.dropped]
print(json.dumps(found))
"""


def run(inherits, *arguments):
    flags = ["-X", f"thread_inherit_context={inherits}"] if sys.version_info >= (3, 14) else []
    command = [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(PROGRAM), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found.pop("inherits") == bool(inherits)
    assert found.pop("kept") == [False, False]
    assert found.pop("sums") == [0, 0]
    return found


ALWAYS = {
    "to_thread": {"job": ["request 1"]},
    "threads pool": {"job 1": ["request 1"], "job 2": ["request 2"], "job 0": [None]},
    "threads.Thread": {"thread": ["request 1"], "timer": ["request 1"]},
    "detached": {"detached": [None]},
}
FIRST = "request 1"


def test_without_inheritance_a_bare_thread_has_no_trace():
    found = run(0)
    assert ALWAYS.items() <= found.items()
    assert found["pool"] == found["multiprocessing pool"] == {"job 1": [None], "job 2": [None], "job 0": [None]}
    assert found["outlives"] == {"during": [None], "after": [None]}
    assert found["wrap"] == found["aio.run_in_executor"] == {"job": [FIRST], "other": [None]}
    assert found["wrap_executor"] == {"job 1": [FIRST], "job 2": ["request 2"], "job 0": [None], "bare": [None]}
    assert found["nested"] == found["labels"] == {"outer": [None], "inner": ["outer"]}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="threads inherit no Context before Python 3.14")
def test_an_inherited_span_is_the_parent_until_it_ends_and_then_a_link():
    found = run(1)
    assert ALWAYS.items() <= found.items()
    assert found["pool"] == {"job 1": [FIRST], "job 2": [None, FIRST], "job 0": [None, FIRST]}
    assert found["multiprocessing pool"] == found["pool"]
    assert found["late"] == {"job": [None, FIRST]}
    assert found["outlives"] == {"during": [FIRST], "after": [None, FIRST]}
    # The worker was started by the job that was handed over by hand: what wraps nothing is linked.
    assert found["wrap"] == {"job": [FIRST], "other": [None, FIRST]}
    # tracekit's own calls leave the worker to no request.
    assert found["aio.run_in_executor"] == {"job": [FIRST], "other": [None]}
    assert found["wrap_executor"] == {"job 1": [FIRST], "job 2": ["request 2"], "job 0": [None], "bare": [None]}
    assert found["Thread"] == {"job 1": [FIRST], "job 2": ["request 2"], "job 0": [None]}
    assert found["Thread(context=)"] == {"copy": [FIRST], "empty": [None]}
    assert found["nested"] == {"outer": [FIRST], "inner": ["outer"]}
    assert found["labels"] == {"outer": [FIRST], "inner": ["outer"]}


def test_hooks_give_the_same_trees_with_and_without_inheritance():
    found = run(0, "hooks")
    assert ALWAYS.items() <= found.items()
    assert found["pool"] == {"job 1": [FIRST], "job 2": ["request 2"], "job 0": [None]}
    assert found["outlives"] == {"during": [FIRST], "after": [FIRST]}
    if sys.version_info >= (3, 14):
        inherited = run(1, "hooks")
        # What asyncio submits through run_in_executor() is a bare pool's job; explicit contexts are the program's.
        assert inherited == found
