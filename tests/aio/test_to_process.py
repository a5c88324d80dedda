"""``to_process``: jobs continue the trace, spans come back, and all else is as anyio does it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import multiprocessing
import os
import subprocess
import sys

import anyio
import anyio.to_process
import anyio.to_thread
import pytest

import tracekit
from tracekit import aio
from tracekit.aio import to_process
from tracekit.processes import ProcessPoolExecutor
from tracekit.testing import span_tree

from ..tools import jobs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("workers_find_the_tests", "every_span_is_accounted_for")]

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@pytest.fixture
def fifo(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs on this system")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def outcome(api, function, *args):
    """What the caller of *function* in a worker gets to see, as values."""
    try:
        return await api.to_process.run_sync(function, *args)
    except Exception as error:
        return jobs.describe_error(error)
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()):
            raise
        return jobs.describe_error(error)


async def test_a_job_is_a_child_of_where_it_was_awaited_and_the_worker_does_not_stick_to_it(exporter):
    with tracekit.span("one") as one, tracekit.use_labels(tenant="acme"):
        assert await aio.to_process.run_sync(jobs.work, "work", "part") == "work"
        found = await aio.to_process.run_sync(jobs.here)
    assert found[:2] == (one.context.trace_id, one.context.span_id)
    assert found[4:] == ({"tenant": "acme"}, True)
    with tracekit.span("two"):
        sent = await aio.to_process.run_sync(jobs.everything)
        await aio.to_process.run_sync(jobs.leave_open)
    assert await aio.to_process.run_sync(jobs.here) is None
    assert await aio.to_process.run_sync(jobs.variable) == "unset"
    await aio.to_process.run_sync(jobs.collect)  # ends "left open" with the last Context that holds it
    await aio.to_process.run_sync(jobs.work, "root")
    assert span_tree(exporter.spans) == "\n".join(
        [
            "one",
            "  work",
            "    part",
            "two",
            "  everything [error] ~ dddddddddddddddd ~ dddddddddddddddd",
            "  left open [cancelled]",
            "root",
        ]
    )
    assert jobs.describe_span(next(span for span in exporter if span.name == "everything")) == sent


async def test_tasks_have_their_own_jobs_each(exporter):
    async def request(name):
        with tracekit.span(name):
            await aio.to_process.run_sync(jobs.work, f"{name}'s")

    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(request, name)
    assert sorted(span_tree([s for s in exporter if s.name[0] == name]) for name in "abc") == [
        f"{name}\n  {name}'s" for name in "abc"
    ]


async def test_errors_are_anyios_and_cost_no_spans(exporter):
    cases = [(jobs.fail, kind) for kind in jobs.FAILURES if kind != "exit"]
    cases += [(jobs.odd_value, kind) for kind in ("pickle", "unpickle", "local")]
    cases += [(jobs.fail_unpicklably, kind) for kind in ("local", "argument", "keywords")]
    cases += [(jobs.work, lambda: None), (None, 1), (jobs.here, 1)]
    with tracekit.span("parent") as parent:
        for function, argument in cases:
            expected = await outcome(anyio, function, argument)
            assert await outcome(aio, function, argument) == expected
            # Errors that could not be pickled hold a traceback's text nowhere: all of the outcome is the same.
            assert isinstance(expected, dict), function
        assert parent.events == ()
    # What anyio's own call recorded in the same worker has no parent.
    ours = [span for span in exporter if span.parent is not None]
    assert [span.name for span in ours if span.name != "pickling"] == ["work"] * (len(cases) - 3)
    assert {span.parent.span_id for span in ours} == {parent.context.span_id}


async def test_a_worker_that_dies_is_anyios_error_and_the_awaiting_span_says_so(exporter):
    with tracekit.span("parent") as parent:
        expected = await outcome(anyio, jobs.exit_at_once)
        assert parent.events == ()
        for _ in range(2):
            assert await outcome(aio, jobs.exit_at_once) == expected
        assert expected["type"] is anyio.BrokenWorkerProcess
        assert [(event.name, dict(event.attributes)) for event in parent.events] == [
            ("spans lost", {"reason": "worker process died"})
        ]
        assert await aio.to_process.run_sync(jobs.work) == "work"
    assert span_tree(exporter.spans) == "parent\n  work"


async def test_system_exit_ends_the_worker_after_its_spans_were_sent(exporter):
    with tracekit.span("parent"):
        with pytest.raises(SystemExit) as caught:
            await aio.to_process.run_sync(jobs.fail, "exit")
        assert caught.value.code == 3
    assert span_tree(exporter.spans) == "parent\n  work [error]"


async def test_a_cancellable_job_is_killed_with_what_it_recorded_and_others_are_waited_for(exporter, fifo):
    with tracekit.span("parent") as parent:
        await aio.to_process.run_sync(jobs.here)  # anyio leaves a worker behind that is cancelled while it starts
        async with anyio.create_task_group() as group:

            async def cancel():
                await anyio.to_thread.run_sync(fifo.read_text)
                group.cancel_scope.cancel()

            group.start_soon(cancel)
            await aio.to_process.run_sync(jobs.begin_and_never_end, fifo, cancellable=True)
        assert group.cancel_scope.cancelled_caught
        assert await aio.to_process.run_sync(jobs.work, "after") == "after"
        with anyio.CancelScope() as scope:
            scope.cancel()
            await aio.to_process.run_sync(jobs.work)
        assert parent.events == ()
    assert span_tree(exporter.spans) == "parent\n  after"


async def test_the_limiter_limits():
    limiter = anyio.CapacityLimiter(1)
    assert await aio.to_process.run_sync(jobs.implementation, limiter=limiter) in {"compiled", "plain"}
    assert to_process.current_default_process_limiter() is anyio.to_process.current_default_process_limiter()
    with pytest.raises(TypeError, match="unexpected keyword argument 'abandon_on_cancel'"):
        await aio.to_process.run_sync(jobs.here, abandon_on_cancel=True)


def test_it_has_anyios_names_and_signature():
    assert set(to_process.__all__) == set(anyio.to_process.__all__)
    expected, found = inspect.signature(anyio.to_process.run_sync), inspect.signature(to_process.run_sync)
    assert list(found.parameters) == list(expected.parameters)
    assert [found.parameters[name].default for name in found.parameters] == [
        parameter.default for parameter in expected.parameters.values()
    ]


def test_process_worker_is_anyios():
    program = "import tracekit.aio.to_process; tracekit.aio.to_process.process_worker()"
    done = subprocess.run([sys.executable, "-c", program], input=b"", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"READY\n", b"")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_run_in_executor_takes_the_trace_into_a_pool(exporter):
    context = multiprocessing.get_context(METHOD)
    with ProcessPoolExecutor(1, mp_context=context) as pool, tracekit.span("parent"):
        assert await asyncio.get_running_loop().run_in_executor(pool, jobs.work, "loop's") == "loop's"
        assert await aio.run_in_executor(pool, jobs.work, "ours") == "ours"
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool, tracekit.span("other") as other:
        found = await aio.run_in_executor(pool, jobs.here)
    assert found[:2] == (other.context.trace_id, other.context.span_id)
    assert span_tree(exporter.spans) == "parent\n  loop's\n  ours\nother"
