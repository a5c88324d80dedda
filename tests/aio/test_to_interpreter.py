"""``to_interpreter``: jobs continue the trace, spans come back, and all else is as anyio does it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import types
from pathlib import Path

import anyio
import pytest

import tracekit
from tracekit import aio
from tracekit.testing import span_tree

from ..tools import jobs
from ..tools.accounts import statistics

anyio_to_interpreter = pytest.importorskip("anyio.to_interpreter", exc_type=ImportError)  # there since anyio 4.10

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.anyio
HAVE_INTERPRETERS = sys.version_info >= (3, 13)
# A process that has had interpreters cannot fork any more (CPython 3.13), which other tests do.
ALONE = "TRACEKIT_TESTS_INTERPRETERS"
needs_interpreters = pytest.mark.skipif(ALONE not in os.environ, reason="run by the test that starts a process for it")


async def find_jobs():
    """Have the one interpreter that the test uses find what it is to do; it has not the path of this one."""
    await anyio_to_interpreter.run_sync(exec, f"import sys; sys.path.insert(0, {str(ROOT)!r})")


async def outcome(api, function, *args):
    """What the caller of *function* in an interpreter gets to see, as values."""
    try:
        found = await api.to_interpreter.run_sync(function, *args)
        # Since Python 3.14 a function without state is handed over, as another one with the same code.
        return {"code": found.__code__} if isinstance(found, types.FunctionType) else found
    except Exception as error:
        found = jobs.describe_error(error)
        if isinstance(error, anyio.BrokenWorkerInterpreter):
            # What could not be handed over is named in a traceback.
            found |= {"text": found["text"].splitlines()[0], "attributes": ""}
        return found


def test_it_has_anyios_names_and_signature():
    assert set(aio.to_interpreter.__all__) == set(anyio_to_interpreter.__all__)
    expected, found = inspect.signature(anyio_to_interpreter.run_sync), inspect.signature(aio.to_interpreter.run_sync)
    assert list(found.parameters) == list(expected.parameters)
    assert [found.parameters[name].default for name in found.parameters] == [
        parameter.default for parameter in expected.parameters.values()
    ]


@pytest.mark.skipif(ALONE in os.environ or not HAVE_INTERPRETERS, reason="interpreters need Python 3.13")
def test_interpreters_in_a_process_of_their_own():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command, env=os.environ | {ALONE: "1"}, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed" in done.stdout


@pytest.mark.skipif(HAVE_INTERPRETERS, reason="this Python has interpreters")
async def test_without_interpreters_the_error_is_anyios():
    expected = await outcome(anyio, jobs.here)
    assert expected["type"] is RuntimeError
    assert await outcome(aio, jobs.here) == expected


@needs_interpreters
async def test_a_job_is_a_child_of_where_it_was_awaited_and_its_spans_come_back(exporter):
    await find_jobs()
    assert await aio.to_interpreter.run_sync(jobs.implementation) == "plain"
    with tracekit.span("one") as one, tracekit.use_labels(tenant="acme"):
        assert await aio.to_interpreter.run_sync(jobs.work, "work", "part") == "work"
        found = await aio.to_interpreter.run_sync(jobs.here)
    assert found[:2] == (one.context.trace_id, one.context.span_id)
    assert found[4:] == ({"tenant": "acme"}, True)
    with tracekit.span("two"):
        sent = await aio.to_interpreter.run_sync(jobs.everything)
        await aio.to_interpreter.run_sync(jobs.leave_open)
    assert await aio.to_interpreter.run_sync(jobs.here) is None
    await aio.to_interpreter.run_sync(jobs.collect)
    assert span_tree(exporter.spans) == "\n".join(
        [
            "one",
            "  work",
            "    part",
            "two",
            "  everything [error] ~ dddddddddddddddd ~ dddddddddddddddd",
            "  left open [cancelled]",
        ]
    )
    assert jobs.describe_span(next(span for span in exporter if span.name == "everything")) == sent
    statistics()


@needs_interpreters
async def test_errors_are_anyios_and_cost_no_spans(exporter):
    await find_jobs()
    cases = [(jobs.fail, kind) for kind in jobs.FAILURES if issubclass(type(jobs.FAILURES[kind]()), Exception)]
    cases += [(jobs.odd_value, kind) for kind in ("unpickle", "local")]
    cases += [(jobs.fail_unpicklably, kind) for kind in ("local", "argument", "keywords")]
    cases += [(jobs.work, lambda: None), (None, 1), (jobs.here, 1)]
    with tracekit.span("parent") as parent:
        for function, argument in cases:
            expected = await outcome(anyio, function, argument)
            assert await outcome(aio, function, argument) == expected
            assert isinstance(expected, dict), function
        await aio.to_interpreter.run_sync(jobs.work, "last")  # takes along what could not be sent
    # What anyio's own call recorded in the same interpreter has no parent.
    ours = [span for span in sorted(exporter, key=lambda span: span.start_ns) if span.parent is not None]
    assert [span.name for span in ours] == ["work"] * (len(cases) - 3) + ["last"]
    assert {span.parent.span_id for span in ours} == {parent.context.span_id}


@needs_interpreters
async def test_a_memoryview_is_handed_over_and_its_spans_come_with_the_next_result(exporter):
    await find_jobs()
    assert bytes(await aio.to_interpreter.run_sync(jobs.view)) == b"view"
    await aio.to_interpreter.run_sync(jobs.here)
    assert span_tree(exporter.spans) == "work"
