"""Named task groups: what cancelled a task, and which errors are recorded where."""

from __future__ import annotations

import asyncio
import gc
import math
import warnings

import anyio
import anyio.abc
import pytest
import trio
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio

from ..tools.groups import BODY, HAS_HANDLES, HAS_REASONS, SIBLING, failing, forever, leaves, named, raising, tree

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_is_logged", "time_stands_still")]


async def _sibling_raises(make):
    with raising(ValueError):
        async with make() as group:
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(failing, name="fetch")


async def _body_raises(make):
    with raising(ValueError):
        async with make() as group:
            group.start_soon(forever, name="job")
            raise ValueError("body")


async def _started_sibling_raises(make):
    async def server(*, task_status):
        task_status.started()
        raise ValueError("at once")

    with raising(ValueError):
        async with make() as group:
            group.start_soon(forever, name="job")
            await group.start(server, name="server")


async def _sibling_raises_then_the_deadline_passes(make):
    with anyio.CancelScope() as outer:

        async def stubborn():
            try:
                await anyio.sleep_forever()
            finally:
                outer.deadline = group.cancel_scope.deadline = -math.inf

        with raising(ValueError):
            async with make() as group:
                group.start_soon(stubborn, name="job")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(failing, name="fetch")


async def _the_deadline_passes_then_a_sibling_raises(make):
    async def breaks():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while cancelled")

    with raising(ValueError):
        async with make() as group:
            group.start_soon(breaks)
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.deadline = -math.inf


async def _the_groups_deadline(make):
    async with make() as group:
        group.start_soon(forever, name="job")
        group.cancel_scope.deadline = anyio.current_time()


async def _the_groups_deadline_in_the_body(make):
    async with make() as group:
        group.start_soon(forever, name="job")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.deadline = -math.inf
        await anyio.sleep_forever()


async def _move_on_around(make):
    with anyio.move_on_after(60) as outer:
        async with make() as group:
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            outer.deadline = anyio.current_time()


async def _fail_around(make):
    with pytest.raises(TimeoutError), anyio.fail_after(0.001):  # noqa: PT012
        async with make() as group:
            group.start_soon(forever, name="job")
            await anyio.sleep_forever()


async def _expired_before(make):
    with anyio.move_on_after(-1):
        async with make() as group:
            group.start_soon(forever, name="job")


async def _moved_away(make, cancel):
    """The group is entered under a deadline, which is moved before it comes, and cancelled after it would have."""
    with anyio.CancelScope() as outer, anyio.CancelScope() as between:
        soon = outer.deadline = anyio.current_time() + 0.02
        async with make() as group:
            outer.deadline = math.inf
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            while anyio.current_time() <= soon:
                await checkpoint()
            cancel(between, group)


async def _a_deadline_is_moved_away_and_a_scope_around_cancelled(make):
    await _moved_away(make, lambda between, _: between.cancel())


async def _a_deadline_is_moved_away_and_the_group_cancelled(make):
    await _moved_away(make, lambda _, group: group.cancel_scope.cancel())


async def _a_reason_is_given(make):
    async with make() as group:
        group.start_soon(forever, name="job")
        group.cancel_scope.cancel("time to go home")


async def _the_groups_scope(make):
    async with make() as group:
        group.start_soon(forever, name="job")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


async def _the_groups_scope_before_the_first_step(make):
    async with make() as group:
        group.start_soon(forever, name="job")
        group.cancel_scope.cancel()


async def _the_group_is_cancelled_and_then_a_sibling_raises(make):
    async def breaks():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while cancelled")

    async def stubborn():
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()

    with raising(ValueError):
        async with make() as group:
            group.start_soon(breaks)
            group.start_soon(stubborn, name="job")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()


async def _a_task_cancels_the_group(make):
    async def stop():
        group.cancel_scope.cancel()

    async with make() as group:
        group.start_soon(forever, name="job")
        group.start_soon(stop)


async def _a_scope_around(make):
    with anyio.CancelScope() as outer:
        async with make() as group:
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            outer.cancel()


async def _an_error_further_out(make):
    async def inner():
        async with make() as group:
            group.start_soon(forever, name="job")

    with raising(ValueError):
        async with anyio.create_task_group() as outer:
            outer.start_soon(inner)
            await anyio.wait_all_tasks_blocked()
            outer.start_soon(failing)


async def _a_task_by_itself(make):
    async with make() as group:
        handle = group.start_soon(forever, name="job")
        await anyio.wait_all_tasks_blocked()
        handle.cancel()


async def _a_task_by_itself_that_raises_then(make):
    async def breaks():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("at close")

    with raising(ValueError):
        async with make() as group:
            group.start_soon(forever, name="job")
            handle = group.start_soon(breaks, name="fetch")
            await anyio.wait_all_tasks_blocked()
            handle.cancel()


# How a group ends, what the span of its task "job" says, and what its own.
CAUSES = [
    (_sibling_raises, SIBLING, ""),
    (_body_raises, BODY, ""),
    (_started_sibling_raises, "by sibling: server raised ValueError", ""),
    (_sibling_raises_then_the_deadline_passes, SIBLING, ""),
    (_the_deadline_passes_then_a_sibling_raises, "by deadline", ""),
    (_the_groups_deadline, "by deadline", "by deadline"),
    (_the_groups_deadline_in_the_body, "by deadline", "by deadline"),
    (_fail_around, "by deadline", "by deadline"),
    (_the_groups_scope, "by caller", "by caller"),
    (_the_groups_scope_before_the_first_step, "by caller", "by caller"),
    (_the_group_is_cancelled_and_then_a_sibling_raises, "by caller", ""),
    (_a_task_cancels_the_group, "by caller", "by caller"),
    (_a_scope_around, "by caller", "by caller"),
    (_an_error_further_out, "by caller", "by caller"),
]
if HAS_REASONS:
    CAUSES += [
        (_expired_before, "by deadline", "by deadline"),
        (_move_on_around, "by deadline", "by deadline"),
        (_a_deadline_is_moved_away_and_a_scope_around_cancelled, "by caller", "by caller"),
        (_a_deadline_is_moved_away_and_the_group_cancelled, "by caller", "by caller"),
        (_a_reason_is_given, "by caller", "by caller"),
    ]
if HAS_HANDLES:
    CAUSES += [
        (_a_task_by_itself, "by caller", None),
        (_a_task_by_itself_that_raises_then, SIBLING, ""),
    ]


@pytest.mark.parametrize(("end", "of_task", "of_group"), CAUSES, ids=[end.__name__ for end, _, _ in CAUSES])
async def test_a_cancelled_span_says_by_what(end, of_task, of_group, exporter):
    await end(lambda: aio.create_task_group("group"))
    task, group = named(exporter, "job"), named(exporter, "group")
    assert task.status == ("cancelled", of_task)
    assert task.attributes["task.cancelled_by"] == of_task.split()[1].rstrip(":")
    assert not task.events
    if of_group:
        assert group.status == ("cancelled", of_group)
        assert group.attributes == {"task.cancelled_by": of_group.split()[1]}
    else:
        assert group.status.code == ("unset" if of_group is None else "error")
        assert group.attributes == {}


async def test_asyncios_own_cancellation_is_the_callers(anyio_backend, exporter):
    if anyio_backend[0] != "asyncio":
        pytest.skip("asyncio only")
    with pytest.raises(TimeoutError):  # noqa: PT012
        async with asyncio.timeout(0):
            async with aio.create_task_group("timeout") as group:
                group.start_soon(forever, name="by timeout")
    tasks = []

    async def cancelled_alone():
        tasks.append(asyncio.current_task())
        await anyio.sleep_forever()

    async with aio.create_task_group("group") as group:
        group.start_soon(cancelled_alone, name="alone")
        group.start_soon(forever, name="with it")
        await anyio.wait_all_tasks_blocked()
        tasks[0].cancel()
    statuses = {span.name: (*span.status, span.attributes.get("task.cancelled_by")) for span in exporter.spans}
    assert set(statuses) == {"timeout", "by timeout", "group", "alone", "with it"}
    assert set(statuses.values()) == {("cancelled", "by caller", "caller")}


async def test_a_task_that_asyncio_cancels_before_its_first_step_has_no_span(anyio_backend, exporter):
    if anyio_backend[0] != "asyncio":
        pytest.skip("asyncio only")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it never ran: asyncio says so
        async with aio.create_task_group("group") as group:
            before = asyncio.all_tasks()
            group.start_soon(forever)
            (task,) = asyncio.all_tasks() - before
            task.cancel()
        del task
        gc.collect()
    assert {span.name for span in exporter.spans} == {"group"}
    started = tracekit.statistics()
    assert started.open == 0


async def test_the_first_error_is_the_cause_for_all_and_each_is_recorded_once(exporter):
    async def breaks(kind):
        try:
            await anyio.sleep_forever()
        finally:
            raise kind("in turn")

    with raising(ValueError, KeyError, OSError):
        async with aio.create_task_group("group") as group:
            group.start_soon(breaks, KeyError, name="key")
            group.start_soon(breaks, OSError, name="os")
            group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(failing, name="fetch")
    assert tree(exporter) == "group [error]\n  fetch [error]\n  job [cancelled]\n  key [error]\n  os [error]"
    assert named(exporter, "job").status.description == SIBLING
    events = {span.name: [event.attributes["exception.type"] for event in span.events] for span in exporter.spans}
    assert events == {"group": [], "job": [], "key": ["KeyError"], "os": ["OSError"], "fetch": ["ValueError"]}
    assert named(exporter, "group").status.description.startswith("ExceptionGroup: ")


async def test_leaves_of_nested_groups_are_recorded_on_the_spans_that_raised_them(exporter):
    async def inner():
        async with aio.create_task_group("inner") as group:
            group.start_soon(failing, name="deep")
            raise OSError("body")

    with raising(ValueError, OSError):
        async with aio.create_task_group("outer") as group:
            group.start_soon(inner, name="task")
            group.start_soon(forever, name="job")
    events = [(span.name, event.attributes["exception.type"]) for span in exporter.spans for event in span.events]
    # The task had its first step, cancelled or not, and raised there.
    assert sorted(events) == [("deep", "ValueError"), ("inner", "OSError")]
    assert named(exporter, "job").status.description == "by sibling: task raised ExceptionGroup"
    assert tree(exporter) == ("outer [error]\n  job [cancelled]\n  task [error]\n    inner [error]\n      deep [error]")


async def test_an_error_in_the_middle_of_a_cancellation_is_an_error(exporter):
    async def breaks():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("at close")

    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            group.start_soon(breaks, name="breaks")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
    span = named(exporter, "breaks")
    assert span.status == ("error", "ValueError: at close")
    assert "task.cancelled_by" not in span.attributes


async def test_what_swallows_its_own_cancellation_was_not_cancelled(exporter):
    async def moves_on():
        with anyio.move_on_after(0):
            await anyio.sleep_forever()

    async with aio.create_task_group("group") as group:
        group.start_soon(moves_on, name="job")
    assert tree(exporter) == "group\n  job"


async def test_an_exception_group_that_does_not_split_passes_as_any_other(exporter):
    class Whole(BaseExceptionGroup):
        def split(self, _):
            raise RuntimeError("whole")

    async def breaks():
        raise Whole("all", [ValueError("one"), KeyboardInterrupt()])

    with pytest.raises(BaseExceptionGroup) as caught:
        async with aio.create_task_group("group") as group:
            group.start_soon(breaks, name="breaks")
    assert {type(leaf) for leaf in leaves(caught.value)} == {ValueError, KeyboardInterrupt}
    assert tree(exporter) == "group [error]\n  breaks [error]"


async def test_raw_groups_of_cancellations_are_cancellations(anyio_backend, exporter):
    if anyio_backend[0] != "trio":
        pytest.skip("trio only")

    async def nursery():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(trio.sleep_forever)

    async with aio.create_task_group("group") as group:
        group.start_soon(nursery, name="nursery")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.deadline = -math.inf
    assert named(exporter, "nursery").status == ("cancelled", "by deadline")
