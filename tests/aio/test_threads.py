"""Threads: what anyio does with contexts on the way there and back is what is promised, on each backend."""

from __future__ import annotations

import contextvars
import functools
import inspect
import sys
import threading
from contextlib import asynccontextmanager
from queue import SimpleQueue

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio
from tracekit.aio import from_thread, to_thread
from tracekit.testing import FakeClock, span_tree

pytestmark = pytest.mark.usefixtures("nothing_is_logged")

variable = contextvars.ContextVar("variable", default=None)


@pytest.fixture(autouse=True)
def _time_stands_still():
    """So that what runs at the same time stands in the order of its name: see ``tree``."""
    with FakeClock():
        yield


@pytest.fixture
def portal(anyio_backend):
    with from_thread.start_blocking_portal(*anyio_backend) as portal:
        yield portal


def tree(exporter):
    return span_tree(sorted(exporter.spans, key=lambda span: span.name))


def here():
    span = tracekit.current_span()
    return None if span is None else span.name


def work(name="work"):
    with tracekit.span(name):
        pass
    return threading.get_ident()


async def work_async(name="work"):
    with tracekit.span(name):
        await checkpoint()


def in_threads(*functions):
    """Run each function in a thread of its own, from where nothing is current, all at the same time."""
    barrier, errors = threading.Barrier(len(functions)), SimpleQueue()

    def run(function):
        try:
            barrier.wait(20)
            function()
        except BaseException as error:
            errors.put(error)

    threads = [threading.Thread(target=contextvars.Context().run, args=(run, function)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not errors.empty():
        raise errors.get()


@pytest.mark.parametrize(("ours", "theirs"), [(to_thread, anyio.to_thread), (from_thread, anyio.from_thread)])
def test_all_that_anyio_has_is_here_and_is_anyios(ours, theirs):
    names = getattr(theirs, "__all__", ours.__all__)
    assert sorted(ours.__all__) == sorted(names)
    assert all(getattr(ours, name) is getattr(theirs, name) for name in names)


# ---- to a thread


@pytest.mark.anyio
async def test_a_job_is_the_child_of_who_submits_it(exporter):
    with tracekit.span("caller"), tracekit.use_labels(tenant="acme"):
        await aio.to_thread.run_sync(work)
        assert await aio.to_thread.run_sync(tracekit.current_labels) == {"tenant": "acme"}
        assert here() == "caller"
    assert await aio.to_thread.run_sync(here) is None
    assert tree(exporter) == "caller\n  work"


@pytest.mark.anyio
async def test_a_job_that_leaves_a_span_open_does_not_reach_the_next_on_its_thread(exporter):
    left_open, threads = [], []

    def leaky():
        seen = here(), variable.get(), dict(tracekit.current_labels())
        variable.set("leaked")
        left_open.append(tracekit.span("left open"))
        left_open[-1].__enter__()
        tracekit.use_labels(leaked="yes").__enter__()
        threads.append(threading.get_ident())
        return seen

    while len(set(threads)) == len(threads):  # until a thread is used again
        assert await to_thread.run_sync(leaky) == (None, None, {})
    assert here() is None
    with tracekit.span("caller"):
        assert await to_thread.run_sync(leaky) == ("caller", None, {})
    for span in left_open:
        span.end()


@pytest.mark.anyio
async def test_two_jobs_at_once_do_not_see_each_other(exporter):
    barrier = threading.Barrier(8)

    def meet(number):
        with tracekit.span(f"job {number}"):
            barrier.wait(20)
            assert here() == f"job {number}"
            barrier.wait(20)

    with tracekit.span("caller"):
        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(to_thread.run_sync, meet, number)
    assert tree(exporter) == "caller" + "".join(f"\n  job {number}" for number in range(8))


@pytest.mark.anyio
async def test_a_job_that_waits_for_its_turn_keeps_the_parent_that_has_ended_meanwhile(exporter):
    limiter = anyio.CapacityLimiter(1)
    entered, release = threading.Event(), threading.Event()

    def hold():
        entered.set()
        release.wait(20)

    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(to_thread.run_sync, hold, limiter=limiter))
        assert await to_thread.run_sync(entered.wait, 10)
        with tracekit.span("inherited"):
            group.start_soon(functools.partial(to_thread.run_sync, work, "of a task", limiter=limiter))

        async def own():
            span.__enter__()
            await to_thread.run_sync(work, "of the same task", limiter=limiter)

        span = tracekit.span("closed elsewhere")
        group.start_soon(own)
        while limiter.statistics().tasks_waiting < 2:
            await checkpoint()
        span.__exit__(None, None, None)
        release.set()
    assert tree(exporter) == "closed elsewhere\n  of the same task\ninherited\n  of a task"


@pytest.mark.anyio
async def test_an_abandoned_job_goes_on_under_its_parent(exporter):
    entered, release, done = threading.Event(), threading.Event(), threading.Event()

    def abandoned():
        entered.set()
        release.wait(20)
        work()
        done.set()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def submit():
                with tracekit.span("caller"):
                    await to_thread.run_sync(abandoned, abandon_on_cancel=True)

            group.start_soon(submit)
            assert await to_thread.run_sync(entered.wait, 10)
            scope.cancel()
    release.set()
    assert await to_thread.run_sync(done.wait, 10)
    assert tree(exporter) == "caller [cancelled]\n  work"


@pytest.mark.anyio
async def test_a_jobs_error_is_recorded_where_it_was_raised(exporter):
    def fails():
        with tracekit.span("job"):
            raise ValueError("in the thread")

    with pytest.raises(ValueError, match="in the thread"), tracekit.span("caller"):
        await to_thread.run_sync(fails)
    assert tree(exporter) == "caller [error]\n  job [error]"
    assert {span.name: len(span.events) for span in exporter.spans} == {"caller": 0, "job": 1}


# ---- back to the loop


@pytest.mark.anyio
async def test_what_a_job_calls_in_the_loop_is_the_jobs(exporter):
    def job():
        with tracekit.span("job"), tracekit.use_labels(of="job"):
            from_thread.run(work_async, "async")
            from_thread.run_sync(work, "sync")
            assert from_thread.run_sync(tracekit.current_labels) == {"of": "job"}
            assert here() == "job"

    with tracekit.span("caller"):
        await to_thread.run_sync(job)
        assert here() == "caller"
    assert tree(exporter) == "caller\n  job\n    async\n    sync"


@pytest.mark.anyio
@pytest.mark.parametrize("abandon_on_cancel", [False, True])
async def test_what_such_a_call_leaves_open_reaches_nobody(abandon_on_cancel, exporter):
    left_open = []

    def leak():
        variable.set("leaked")
        left_open.append(tracekit.span("left open"))
        left_open[-1].__enter__()

    async def leak_async():
        leak()
        await checkpoint()

    def job():
        with tracekit.span("job"):
            from_thread.run_sync(leak)
            assert from_thread.run_sync(here) == "job"
            from_thread.run(leak_async)
            assert from_thread.run_sync(here) == "job"
            assert here() == "job"
            return variable.get()

    with tracekit.span("caller"):
        assert await to_thread.run_sync(job, abandon_on_cancel=abandon_on_cancel) is None
        assert (here(), variable.get()) == ("caller", None)
        await checkpoint()
        assert (here(), variable.get()) == ("caller", None)
    for span in left_open:
        span.end()


@pytest.mark.anyio
async def test_a_task_that_a_job_starts_is_the_jobs_and_outlives_it(exporter):
    release = anyio.Event()

    async def later():
        await release.wait()
        await work_async()

    def job():
        with tracekit.span("job"):
            from_thread.run_sync(group.start_soon, later)

    with tracekit.span("owner"):
        async with aio.create_task_group("group") as group:
            await to_thread.run_sync(job)
            release.set()
    assert tree(exporter).replace(later.__qualname__, "later") == "owner\n  group\n    job\n      later\n        work"


@pytest.mark.anyio
async def test_the_way_there_and_back_nests(exporter):
    async def down(depth):
        with tracekit.span(f"task {depth}"):
            if depth:
                await to_thread.run_sync(up, depth - 1)

    def up(depth):
        with tracekit.span(f"job {depth}"):
            from_thread.run(down, depth)

    await down(2)
    assert tree(exporter) == "task 2\n  job 1\n    task 1\n      job 0\n        task 0"


@pytest.mark.anyio
async def test_a_job_learns_that_it_is_cancelled(exporter):
    entered, cancelled = threading.Event(), threading.Event()

    def job():
        with tracekit.span("job"):
            entered.set()
            cancelled.wait(20)
            from_thread.check_cancelled()

    async with aio.create_task_group("group") as group:
        group.start_soon(functools.partial(to_thread.run_sync, job), name="task")
        await anyio.to_thread.run_sync(entered.wait, 10)
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await checkpoint()
        cancelled.set()
    assert tree(exporter) == "group [cancelled]\n  task [cancelled]\n    job [cancelled]"


@pytest.mark.anyio
@pytest.mark.skipif("token" not in inspect.signature(from_thread.run).parameters, reason="needs anyio 4.11")
async def test_a_foreign_thread_with_a_token_brings_its_own_context(exporter):
    token = anyio.lowlevel.current_token()

    def foreign(name):
        with tracekit.span(name):
            from_thread.run(work_async, f"{name} async", token=token)
            from_thread.run_sync(work, f"{name} sync", token=token)

    with tracekit.span("loop"):
        functions = [functools.partial(foreign, name) for name in ("a", "b", "c")]
        await to_thread.run_sync(contextvars.Context().run, in_threads, *functions)
    assert tree(exporter) == "a\n  a async\n  a sync\nb\n  b async\n  b sync\nc\n  c async\n  c sync\nloop"


# ---- portals


def test_a_call_through_a_portal_is_its_callers(portal, exporter):
    with tracekit.span("caller"), tracekit.use_labels(of="caller"):
        portal.call(work_async, "call async")
        portal.call(work, "call sync")
        portal.start_task_soon(work_async, "task").result()
        assert portal.call(tracekit.current_labels) == {"of": "caller"}
        assert here() == "caller"
    assert portal.call(here) is None
    assert tree(exporter) == "caller\n  call async\n  call sync\n  task"


def test_a_portal_does_not_stick_to_who_started_it(anyio_backend, exporter):
    with tracekit.span("starter"):
        manager = from_thread.start_blocking_portal(*anyio_backend)
        portal = manager.__enter__()
        portal.call(work, "of the starter")

    def use(name):
        assert portal.call(here) is None
        portal.call(work, f"of nobody {name}")
        with tracekit.span(name):
            portal.call(work_async, f"of {name}")

    in_threads(*[functools.partial(use, name) for name in "abc"])
    with tracekit.use_context(None):
        portal.call(work, "of nobody here")
    manager.__exit__(None, None, None)
    assert tree(exporter) == (
        "a\n  of a\nb\n  of b\nc\n  of c\nof nobody a\nof nobody b\nof nobody c\nof nobody here\nstarter\n  of the starter"
    )


def test_a_provider_whose_portal_was_started_under_a_span_does_not_stick_to_it(anyio_backend, exporter):
    provider = from_thread.BlockingPortalProvider(*anyio_backend)
    with tracekit.span("first"), provider as kept:
        kept.call(work, "of first")

        def other():
            with provider as portal:
                assert portal is kept
                portal.call(work, "of nobody")
                with tracekit.span("second"):
                    portal.call(work_async, "of second")

        in_threads(other)
    assert tree(exporter) == "first\n  of first\nof nobody\nsecond\n  of second"


@pytest.mark.anyio
async def test_a_portal_in_a_running_loop_is_used_by_many_each_with_its_own_context(exporter):
    def use(name):
        with tracekit.span(name):
            for number in range(20):
                portal.call(work_async, f"of {name} {number:02}")
        portal.call(work, f"of nobody {name}")

    with tracekit.span("starter"):
        async with from_thread.BlockingPortal() as portal:
            functions = [functools.partial(use, name) for name in "abc"]
            await to_thread.run_sync(contextvars.Context().run, in_threads, *functions)
    numbers = [f"{number:02}" for number in range(20)]
    expected = [line for name in "abc" for line in [name, *[f"  of {name} {number}" for number in numbers]]]
    assert tree(exporter).splitlines() == [*expected, "of nobody a", "of nobody b", "of nobody c", "starter"]


def test_a_portals_task_outlives_its_caller(portal, exporter):
    release = portal.call(anyio.Event)

    async def later():
        await release.wait()
        await work_async()

    with tracekit.span("caller"):
        future = portal.start_task_soon(later)
    with tracekit.span("other"):
        portal.call(release.set)
    future.result(60)
    assert tree(exporter) == "caller\n  work\nother"


def test_a_started_task_is_its_starters_before_and_after(portal, exporter):
    async def server(*, task_status):
        await work_async("before")
        task_status.started("value")
        await work_async("after")

    with tracekit.span("caller"):
        future, value = portal.start_task(server)
        future.result(60)
    assert value == "value"
    assert tree(exporter) == "caller\n  after\n  before"


def test_a_cancelled_portal_task_ends_its_span_as_cancelled(portal, exporter):
    entered = threading.Event()

    async def forever():
        with tracekit.span("work"):
            entered.set()
            await anyio.sleep_forever()

    with tracekit.span("caller"):
        future = portal.start_task_soon(forever)
        assert entered.wait(20)
        future.cancel()
        portal.call(anyio.wait_all_tasks_blocked)
    assert tree(exporter) == "caller\n  work [cancelled]"


def test_a_context_manager_through_a_portal_is_its_users_at_both_ends(portal, exporter):
    @asynccontextmanager
    async def resource():
        await work_async("enter")
        with tracekit.span("inside"):
            yield here()
        await work_async("exit")

    with tracekit.span("user") as user:
        manager = portal.wrap_async_context_manager(resource())
        with manager as value:
            assert value == "inside"
            assert here() == "user"  # it runs in a task: what it makes current stays there
            user.end()
    assert tree(exporter) == "user\n  enter\n  exit\n  inside"


def test_what_a_portal_call_leaves_open_reaches_nobody(portal, exporter):
    left_open = []

    def leak():
        variable.set("leaked")
        left_open.append(tracekit.span("left open"))
        left_open[0].__enter__()

    portal.call(leak)
    assert portal.call(here) is None
    assert portal.call(variable.get) is None
    assert (here(), variable.get()) == (None, None)
    left_open[0].end()


@pytest.mark.skipif(not hasattr(from_thread.BlockingPortal, "call_async"), reason="needs anyio 4.16")
@pytest.mark.anyio
async def test_a_call_from_another_loop_is_its_callers(portal, exporter):
    with tracekit.span("caller"):
        await portal.call_async(work_async, "async")
        await portal.call_async(work, "sync")
    assert await portal.call_async(here) is None
    assert tree(exporter) == "caller\n  async\n  sync"


@pytest.mark.parametrize("name", ["to_thread", "from_thread"])
def test_the_modules_are_reached_through_aio_as_through_anyio(name):
    assert getattr(aio, name) is sys.modules[f"tracekit.aio.{name}"]
