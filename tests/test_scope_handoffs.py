"""Scopes over every hand-off that needs no wrapper: tasks and threads of asyncio, uvloop, eager asyncio and trio."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

import tracekit
from tracekit.testing import span_tree

from .tools.backends import ASYNCIO, TRIO
from .tools.pipeline import Discard

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


@pytest.fixture
def left_open():
    """Spans that a test leaves open: ended with it, not when some later test collects garbage."""
    spans = []

    def open_and_leave():
        spans.append(tracekit.span("never left"))
        spans[-1].__enter__()
        tracekit.use_labels(never="closed").__enter__()

    yield open_and_leave
    for span in spans:
        span.__exit__(None, None, None)


# ---- task spawn


@contextlib.asynccontextmanager
async def _create_task():
    tasks = []

    async def spawn(job):
        tasks.append(asyncio.create_task(job()))

    yield spawn
    for task in tasks:
        await task


@contextlib.asynccontextmanager
async def _gather():
    futures = []

    async def spawn(job):
        futures.append(asyncio.gather(job()))

    yield spawn
    for future in futures:
        await future


@contextlib.asynccontextmanager
async def _asyncio_task_group():
    async with asyncio.TaskGroup() as group:

        async def spawn(job):
            group.create_task(job())

        yield spawn


def _callback(schedule):
    @contextlib.asynccontextmanager
    async def callback():
        loop = asyncio.get_running_loop()
        futures = []

        async def spawn(job):
            future = loop.create_future()
            futures.append(future)
            schedule(loop, lambda: future.set_result(asyncio.ensure_future(job())))

        yield spawn
        for future in futures:
            await (await future)

    return callback


@contextlib.asynccontextmanager
async def _run_coroutine_threadsafe():
    futures = []

    async def spawn(job):
        futures.append(asyncio.run_coroutine_threadsafe(job(), asyncio.get_running_loop()))

    yield spawn
    for future in futures:
        await asyncio.wrap_future(future)


@contextlib.asynccontextmanager
async def _start_soon():
    async with anyio.create_task_group() as group:

        async def spawn(job):
            group.start_soon(job)

        yield spawn


def _started(job):
    async def run(*, task_status):
        task_status.started()
        await job()

    return run


@contextlib.asynccontextmanager
async def _start():
    async with anyio.create_task_group() as group:

        async def spawn(job):
            await group.start(_started(job))

        yield spawn


@contextlib.asynccontextmanager
async def _nursery_start_soon():
    async with trio.open_nursery() as nursery:

        async def spawn(job):
            nursery.start_soon(job)

        yield spawn


@contextlib.asynccontextmanager
async def _nursery_start():
    async with trio.open_nursery() as nursery:

        async def spawn(job):
            await nursery.start(_started(job))

        yield spawn


ANYIO_SPAWNS = {"start_soon": _start_soon, "start": _start}
ASYNCIO_SPAWNS = {
    "create_task": _create_task,
    "gather": _gather,
    "TaskGroup": _asyncio_task_group,
    "call_soon": _callback(lambda loop, call: loop.call_soon(call)),
    "call_later": _callback(lambda loop, call: loop.call_later(0, call)),
    "call_soon_threadsafe": _callback(lambda loop, call: loop.call_soon_threadsafe(call)),
    "run_coroutine_threadsafe": _run_coroutine_threadsafe,
} | ANYIO_SPAWNS
TRIO_SPAWNS = {"nursery.start_soon": _nursery_start_soon, "nursery.start": _nursery_start} | ANYIO_SPAWNS

each_spawn = pytest.mark.parametrize(
    ("anyio_backend", "group"),
    [
        pytest.param(backend.values[0], group, id=f"{backend.id}-{name}")
        for backends, spawns in ((ASYNCIO, ASYNCIO_SPAWNS), ([TRIO], TRIO_SPAWNS))
        for backend in backends
        for name, group in spawns.items()
    ],
    indirect=["anyio_backend"],
)


@pytest.mark.anyio
@each_spawn
async def test_a_task_is_child_of_the_span_of_its_spawn_even_though_that_has_ended(anyio_backend, group, exporter):
    release = anyio.Event()

    async def job():
        await release.wait()
        with tracekit.span("child"):
            await anyio.lowlevel.checkpoint()

    with tracekit.span("owner of the group"):
        async with group() as spawn:
            with tracekit.use_labels(of="spawner"), tracekit.span("spawner"):
                await spawn(job)
            with tracekit.span("later"):
                release.set()
    spans = exporter.spans
    assert span_tree(spans) == "owner of the group\n  spawner\n    child\n  later"
    assert [dict(span.context.labels) for span in spans if span.name == "child"] == [{"of": "spawner"}]


@pytest.mark.anyio
@each_spawn
async def test_what_a_task_opens_reaches_neither_its_spawner_nor_its_siblings(anyio_backend, group, left_open):
    opened, release = anyio.Event(), anyio.Event()
    seen = []

    async def careless():
        left_open()
        opened.set()
        await release.wait()

    async def sibling():
        await opened.wait()
        seen.append((tracekit.current_span(), dict(tracekit.current_labels())))
        with tracekit.use_context(None):
            release.set()
            await anyio.lowlevel.checkpoint()

    with tracekit.span("parent") as parent:
        async with group() as spawn:
            await spawn(careless)
            assert tracekit.current_span() is parent
            await spawn(sibling)
            await opened.wait()
            assert tracekit.current_span() is parent
            assert not tracekit.current_labels()
        assert tracekit.current_span() is parent
    assert tracekit.current_span() is None
    assert seen == [(parent, {})]


@pytest.mark.slow  # collects garbage many times
@pytest.mark.anyio
@each_spawn
async def test_a_task_that_outlives_its_parent_pins_ids_and_nothing_else(anyio_backend, group):
    tracekit.configure(exporter=Discard())
    waiting, release = anyio.Event(), anyio.Event()
    parents = []

    async def job():
        waiting.set()
        await release.wait()
        parents.append(tracekit.span("child").parent)

    async def spawn_under_a_span(spawn):
        with tracekit.span("parent") as parent:
            await spawn(job)
            await waiting.wait()
            return weakref.ref(parent), parent.context

    async with group() as spawn:
        dead, context = await spawn_under_a_span(spawn)
        tracekit.flush(60)
        for _ in range(3):  # a loop may hold the last callback's frame a little longer
            await anyio.lowlevel.checkpoint()
        gc.collect()
        assert dead() is None
        release.set()
    assert parents == [context]


@pytest.mark.anyio
async def test_start_has_the_callers_scope_before_and_after_started(anyio_backend, exporter):
    release = anyio.Event()

    async def service(*, task_status):
        with tracekit.span("before"):
            await anyio.lowlevel.checkpoint()
        task_status.started()
        await release.wait()
        with tracekit.span("after"):
            pass

    async with anyio.create_task_group() as group:
        with tracekit.span("caller"):
            await group.start(service)
        release.set()
    assert span_tree(exporter.spans) == "caller\n  before\n  after"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_an_explicit_context_wins_over_the_spawner(anyio_backend, exporter):
    async def job():
        with tracekit.span("child"):
            pass

    chosen = tracekit.span("chosen")
    with tracekit.span("spawner"):
        await asyncio.create_task(job(), context=tracekit.new_context(chosen))
        await asyncio.create_task(job(), context=contextvars.Context())
    chosen.end()
    assert span_tree(exporter.spans) == "chosen\n  child\nspawner\nchild"


@pytest.mark.anyio
async def test_a_scope_closed_in_another_task_is_no_longer_current_in_its_own(anyio_backend):
    scope = tracekit.span("shared")

    async def close():
        with tracekit.span("closer") as closer:
            scope.__exit__(None, None, None)
            assert tracekit.current_span() is closer

    with tracekit.span("outer") as outer:
        scope.__enter__()
        async with anyio.create_task_group() as group:
            group.start_soon(close)
        assert tracekit.current_span() is outer
    assert tracekit.current_span() is None


# ---- threads, there and back


THERE = {
    "asyncio.to_thread": lambda job: asyncio.to_thread(job),
    "anyio.to_thread": lambda job: anyio.to_thread.run_sync(job),
    "trio.to_thread": lambda job: trio.to_thread.run_sync(job),
}
each_thread = pytest.mark.parametrize(
    ("anyio_backend", "there"),
    [
        pytest.param(backend.values[0], THERE[name], id=f"{backend.id}-{name}")
        for backend in [*ASYNCIO, TRIO]
        for name in (["trio.to_thread"] if backend is TRIO else ["asyncio.to_thread"]) + ["anyio.to_thread"]
    ],
    indirect=["anyio_backend"],
)


@pytest.mark.anyio
@each_thread
async def test_a_job_in_a_thread_is_child_of_its_submitter_even_though_that_has_ended(anyio_backend, there, exporter):
    def job():
        parent.end()
        with tracekit.span("job"):
            pass

    with tracekit.use_labels(tenant="acme"), tracekit.span("submitter") as parent:
        await there(job)
    spans = exporter.spans
    assert span_tree(spans) == "submitter\n  job"
    assert {dict(span.context.labels)["tenant"] for span in spans} == {"acme"}


@pytest.mark.anyio
@each_thread
async def test_a_careless_job_reaches_neither_its_submitter_nor_the_next_job(anyio_backend, there, left_open):
    def careless():
        found = tracekit.current_span(), dict(tracekit.current_labels())
        left_open()
        return threading.get_ident(), found

    workers = []
    with tracekit.span("submitter") as submitter:
        for _ in range(8):
            worker, found = await there(careless)
            workers.append(worker)
            assert found == (submitter, {})
            assert tracekit.current_span() is submitter
    assert len(set(workers)) < 8, "no worker was used twice: this test shows nothing"


@pytest.mark.anyio
@each_thread
async def test_many_jobs_run_at_once_under_one_parent(anyio_backend, there, exporter):
    barrier = threading.Barrier(4, timeout=20)

    def job():
        barrier.wait()
        with tracekit.span("job"):
            barrier.wait()

    with tracekit.span("submitter"):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(there, job)
    assert span_tree(exporter.spans) == "submitter\n" + "\n".join(["  job"] * 4)


def _call_soon_threadsafe(loop, job):
    done = threading.Event()

    def call():
        job()
        done.set()

    loop.call_soon_threadsafe(call)
    assert done.wait(20)


def _as_async(job):
    async def run():
        job()

    return run


BACK = {
    "anyio.from_thread.run": lambda _, job: anyio.from_thread.run(_as_async(job)),
    "anyio.from_thread.run_sync": lambda _, job: anyio.from_thread.run_sync(job),
    "trio.from_thread.run": lambda _, job: trio.from_thread.run(_as_async(job)),
    "trio.from_thread.run_sync": lambda _, job: trio.from_thread.run_sync(job),
    "run_coroutine_threadsafe": lambda loop, job: asyncio.run_coroutine_threadsafe(_as_async(job)(), loop).result(20),
    "call_soon_threadsafe": _call_soon_threadsafe,
}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("anyio_backend", "back"),
    [
        pytest.param(backend.values[0], BACK[name], id=f"{backend.id}-{name}")
        for backend in [*ASYNCIO, TRIO]
        for name in BACK
        if name.startswith("anyio") or name.startswith("trio") == (backend is TRIO)
    ],
    indirect=["anyio_backend"],
)
async def test_what_a_thread_calls_in_the_loop_is_child_of_the_threads_span(anyio_backend, back, exporter, left_open):
    loop = None if anyio_backend[0] == "trio" else asyncio.get_running_loop()

    def in_loop():
        with tracekit.span("back in the loop"):
            pass
        left_open()

    def in_worker():
        with tracekit.span("in the thread") as span:
            back(loop, in_loop)
            assert tracekit.current_span() is span

    with tracekit.span("request") as request:
        await anyio.to_thread.run_sync(in_worker)
        assert tracekit.current_span() is request
    assert span_tree(exporter.spans) == "request\n  in the thread\n    back in the loop"


@pytest.mark.parametrize("method", ["call", "start_task_soon"])
def test_what_a_program_calls_through_a_portal_is_child_of_the_callers_span(method, anyio_backend, exporter):
    name, options = anyio_backend

    async def job():
        with tracekit.span("in the loop"):
            await anyio.lowlevel.checkpoint()

    with tracekit.span("start-up"), anyio.from_thread.start_blocking_portal(name, options) as portal:
        with tracekit.span("caller"):
            if method == "call":
                portal.call(job)
            else:
                future = portal.start_task_soon(job)
        if method != "call":
            future.result(20)
    assert span_tree(exporter.spans) == "start-up\n  caller\n    in the loop"


@pytest.mark.anyio
async def test_a_span_ends_from_any_task(anyio_backend, exporter):
    span = tracekit.span("job")

    async def end():
        with tracekit.span("ender"):
            span.end()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(end)
    assert [ended.name for ended in exporter.spans].count("job") == 1


def test_what_stands_on_a_scope_stands_on_what_has_taken_its_place():
    # Found by random programs: a generator is stepped while its consumer holds a closed scope on top of replaced labels.
    labels, inner, link = tracekit.use_labels(a="1"), tracekit.span("inner"), tracekit.detached()

    @tracekit.traced
    def steps():
        yield

    def close():
        with tracekit.detached():
            inner.__exit__(None, None, None)
            link.__exit__(None, None, None)

    with tracekit.span("outer"):
        inner.__enter__()
        labels.__enter__()
    with link:
        contextvars.copy_context().run(close)
    generator = steps()
    next(generator)
    labels.__exit__(None, None, None)
    assert tracekit.current_context() is None
    generator.close()


def test_a_scope_that_a_generator_closes_is_gone_below_the_labels_of_its_consumer():
    # Found by random programs: in the body's chain of scopes it could be taken out at once, which was no news to the consumer.
    with tracekit.span("ended") as ended:
        pass
    opening = tracekit.use_span(ended)

    @tracekit.traced
    def steps():
        yield
        opening.__exit__(None, None, None)

    opening.__enter__()
    generator = steps()
    next(generator)
    with tracekit.use_labels(a="b"):
        assert next(generator, None) is None
        context = tracekit.current_context()
        assert (context.is_valid, dict(context.labels)) == (False, {"a": "b"})
        assert tracekit.current_span() is None
    assert tracekit.current_context() is None


@pytest.mark.parametrize(("kind", "closes"), [("span", True), ("labels", True), ("labels", False)])
def test_a_span_that_another_generator_ends_is_gone_below_labels(kind, closes):
    # Found by random programs: the labels stood on the original of *inner*, and ids of an ended span stayed current in them.
    @tracekit.traced
    def steps():
        while True:
            (yield)()

    def look():
        seen.append((tracekit.current_context().span_id, tracekit.current_span().name))

    seen = []
    outer, labels = tracekit.span("outer"), tracekit.use_labels(a="b")
    inner = tracekit.span("inner") if kind == "span" else tracekit.use_labels(c="d")
    first, second = steps(), steps()
    next(first)
    first.send(outer.__enter__)
    first.send(inner.__enter__)
    first.send(lambda: next(second))
    first.send(labels.__enter__)
    second.send(lambda: outer.__exit__(None, None, None))
    if closes:
        second.send(lambda: inner.__exit__(None, None, None))
    first.send(look)
    first.send(lambda: labels.__exit__(None, None, None))
    first.send(look)
    assert seen[0] == seen[1]
    first.close()
    second.close()


def commanded():
    """A traced generator that calls each function that it is sent."""

    @tracekit.traced
    def steps():
        while True:
            (yield)()

    generator = steps()
    next(generator)
    return generator


@pytest.mark.parametrize("kind", ["span", "labels"])
def test_labels_that_another_generator_closes_are_gone_in_the_task_that_makes_the_next_step(kind):
    # Found by random programs: a copy of *inner*, in the chain of the other body, stayed with the task of the step before.
    def look():
        seen.append((dict(tracekit.current_labels()), tracekit.current_span().name))

    seen, others = [], []
    labels = tracekit.use_labels(a="b")
    inner = tracekit.span("inner") if kind == "span" else tracekit.use_labels(c="d")
    task = contextvars.copy_context()
    generator = commanded()
    generator.send(look)
    generator.send(labels.__enter__)
    generator.send(inner.__enter__)
    generator.send(lambda: others.append(commanded()))
    others[0].send(lambda: labels.__exit__(None, None, None))
    others[0].send(lambda: inner.__exit__(None, None, None))
    task.run(generator.send, look)
    assert seen[1] == seen[0]
    others[0].close()
    generator.close()


def test_a_step_in_another_task_leaves_the_scopes_under_a_generator_as_they_are():
    # Found by random programs: the body no longer stood on *labels*, and all scopes below became those of the task.
    def close():
        labels.__exit__(None, None, None)
        first.send(lambda: outer.__exit__(None, None, None))

    outer, labels = tracekit.span("outer"), tracekit.use_labels(a="b")
    outer.__enter__()
    labels.__enter__()
    first = commanded()
    task = contextvars.copy_context()
    second = commanded()
    second.send(close)
    task.run(second.close)
    first.close()
    assert task.run(tracekit.current_span) is outer
    assert dict(task.run(tracekit.current_labels)) == {"a": "b"}
    assert tracekit.current_context() is None


def test_a_span_that_a_task_closes_is_gone_below_labels_though_the_task_looked_first():
    # Found by random programs: the task's look at the labels, which cannot take out what it inherited, counted here as well.
    inner = tracekit.span("inner")

    def close():
        with tracekit.span("of the task"):
            inner.__exit__(None, None, None)
        assert tracekit.current_context().span_id == inner.context.span_id

    with tracekit.span("outer") as outer, inner, tracekit.use_labels(a="b"):
        contextvars.copy_context().run(close)
        context = tracekit.current_context()
        assert (context.span_id, dict(context.labels)) == (outer.context.span_id, {"a": "b"})
        assert tracekit.current_span() is outer


def test_a_context_that_a_task_closes_is_gone_below_labels_in_the_context_that_opened_it():
    remote = tracekit.SpanContext("c" * 32, "0" * 15 + "1")
    outer = tracekit.use_context(remote)
    outer.__enter__()
    task = contextvars.copy_context()
    with tracekit.use_labels(a="b"):
        task.run(outer.__exit__, None, None, None)
        assert task.run(tracekit.current_context) is None
        context = tracekit.current_context()
        assert context is None or not context.is_valid
        assert tracekit.current_labels() == {"a": "b"}
