"""Task groups: anyio's in all they do, and with a name a span for the group and for each task, and who cancelled it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import math
import traceback
import weakref
from types import SimpleNamespace

import anyio
import anyio.abc
import pytest
from anyio.lowlevel import checkpoint

import tracekit
from tracekit import aio

from ..tools.current import here
from ..tools.groups import (
    BODY,
    HAS_HANDLES,
    HAS_REASONS,
    SIBLING,
    failing,
    forever,
    job,
    named,
    raising,
    tree,
    with_handles,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_is_logged", "time_stands_still")]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now_ns=0)
    monkeypatch.setattr("tracekit.aio._groups.monotonic_ns", lambda: clock.now_ns)
    return clock


# ---- whose child a task is


async def test_an_unnamed_group_is_anyios_own(exporter):
    assert type(aio.create_task_group()) is type(anyio.create_task_group())
    with tracekit.span("caller"):
        async with aio.create_task_group() as group:
            group.start_soon(job)
    assert tree(exporter) == "caller\n  work"


async def test_a_named_group_has_a_span_and_each_task_one(exporter):
    async with aio.create_task_group("fan-out") as group:
        assert here() == "fan-out"
        group.start_soon(job)
        group.start_soon(job, name="second")
        if HAS_HANDLES:
            group.create_task(job(), name="third")
    assert here() is None
    expected = "fan-out\n  job\n    work\n  second\n    work"
    assert tree(exporter) == expected + ("\n  third\n    work" if HAS_HANDLES else "")


class Shop:
    @tracekit.traced
    async def reserve(self, item):
        assert tracekit.current_span().attributes["task.wait_s"] >= 0
        await checkpoint()

    @tracekit.traced("sell")
    async def sell_all(self, *, task_status=anyio.TASK_STATUS_IGNORED):
        task_status.started(here())
        raise ValueError("failed")


@pytest.mark.parametrize("how", ["start_soon", "partial", "create_task"])
async def test_the_span_of_a_traced_function_is_its_tasks(how, exporter):
    if how == "create_task" and not HAS_HANDLES:
        pytest.skip("needs anyio 4.14")
    async with aio.create_task_group("group") as group:
        for options in ({}, {"name": "second"}):
            if how == "start_soon":
                group.start_soon(Shop().reserve, "rope", **options)
            elif how == "partial":
                group.start_soon(functools.partial(Shop().reserve, item="rope"), **options)
            else:
                group.create_task(Shop().reserve("rope"), **options)
    assert tree(exporter) == "group\n  Shop.reserve\n  second"


async def test_a_traced_function_with_a_name_gives_it_to_its_task(exporter):
    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            group.start_soon(forever)
            assert await group.start(Shop().sell_all) == "sell"
    assert tree(exporter) == "group [error]\n  forever [cancelled]\n  sell [error]"
    assert named(exporter, "forever").status.description == "by sibling: sell raised ValueError"
    assert [len(span.events) for span in exporter.spans if span.name == "sell"] == [1]


async def test_a_decorator_over_a_traced_function_is_called(exporter):
    traced = Shop().reserve

    @functools.wraps(traced)
    async def decorated(item):
        with tracekit.span("decorator"):
            await tracekit.traced("within")(job)()

    async with aio.create_task_group("group") as group:
        group.start_soon(decorated, "rope")
    assert tree(exporter) == "group\n  Shop.reserve\n    decorator\n      within\n        work"


async def test_wrong_arguments_of_a_traced_function_are_an_error_of_its_task(exporter):
    with raising(TypeError):
        async with aio.create_task_group("group") as group:
            group.start_soon(Shop().reserve)
    assert tree(exporter) == "group [error]\n  Shop.reserve [error]"


class Callable:
    async def method(self):
        assert here() == "Callable.method"

    async def __call__(self):
        assert here() == "Callable"


class Compiled:
    """A coroutine function as mypyc makes it, without a qualified name."""

    __name__ = property(lambda self: "price")

    async def __call__(self):
        assert here() == "price"


async def test_a_tasks_span_is_named_after_the_task_or_else_its_function(exporter):
    async with aio.create_task_group("group") as group:
        group.start_soon(Callable().method)
        group.start_soon(Callable())
        group.start_soon(Compiled())
        group.start_soon(functools.partial(functools.partial(job)))
        group.start_soon(job, name=1)
        if HAS_HANDLES:
            group.create_task(job())
    names = {span.name for span in exporter.spans} - {"group", "work"}
    assert names == {"Callable.method", "Callable", "price", "job", "1"}


@pytest.mark.parametrize("how", ["start_soon", "start", "create_task"])
async def test_the_task_itself_has_the_name_that_anyio_gives_it(how, create, exporter):
    if how == "create_task" and not HAS_HANDLES:
        pytest.skip("needs anyio 4.14")
    names = []

    async def note(*, task_status=anyio.TASK_STATUS_IGNORED):
        names.append(anyio.get_current_task().name)
        task_status.started()

    async with create() as group:
        for name in (None, "named"):
            if how == "create_task":
                group.create_task(note(), name=name)
            elif how == "start":
                await group.start(note, name=name)
            else:
                group.start_soon(note, name=name)
    assert sorted(names) == sorted([f"{__name__}.{note.__qualname__}", "named"])


async def test_a_task_is_the_child_of_who_starts_it_not_of_the_groups_owner(exporter):
    async def spawner(group):
        with tracekit.span("spawner's work"):
            group.start_soon(job, name="spawned")
            await checkpoint()

    with tracekit.span("owner"):
        async with aio.create_task_group("group") as group:
            with tracekit.span("body"):
                group.start_soon(spawner, group, name="spawner")
    assert tree(exporter) == (
        "owner\n  group\n    body\n      spawner\n        spawner's work\n          spawned\n            work"
    )


async def test_a_task_whose_parent_ends_before_its_first_step_is_still_its_child(exporter):
    async with aio.create_task_group("group") as group:
        with tracekit.span("short") as short:
            group.start_soon(job)
        assert short.ended
        assert "job" not in {span.name for span in exporter.spans}
    assert tree(exporter) == "group\n  short\n    job\n      work"


async def test_a_task_started_from_outside_the_group_is_the_outsiders(exporter):
    async with anyio.create_task_group() as outer, aio.create_task_group("group") as group:

        async def outsider():
            with tracekit.span("outsider"):
                await group.start(server, name="server")
                group.start_soon(job)

        async def server(*, task_status):
            task_status.started()

        with tracekit.use_context(None):
            outer.start_soon(outsider)
        await anyio.wait_all_tasks_blocked()
    assert tree(exporter) == "group\noutsider\n  job\n    work\n  server"


async def test_groups_nest(exporter):
    async def inner(number):
        async with aio.create_task_group(f"inner {number}") as group:
            group.start_soon(job, name=f"job {number}")

    async with aio.create_task_group("outer") as group:
        group.start_soon(inner, 1, name="task 1")
        group.start_soon(inner, 2, name="task 2")
        async with aio.create_task_group("directly") as directly:
            group.start_soon(job, name="in outer")
            directly.start_soon(job, name="in directly")
    assert tree(exporter) == (
        "outer\n"
        "  directly\n    in directly\n      work\n    in outer\n      work\n"
        "  task 1\n    inner 1\n      job 1\n        work\n"
        "  task 2\n    inner 2\n      job 2\n        work"
    )


async def test_what_a_task_makes_current_reaches_nobody_else(exporter):
    seen, left_open = [], []

    async def leaky(number):
        left_open.append(tracekit.span(f"left open {number}"))
        left_open[-1].__enter__()
        tracekit.use_labels(of=str(number)).__enter__()
        await checkpoint()
        seen.append(here())

    async with aio.create_task_group("group") as group:
        for number in range(3):
            group.start_soon(leaky, number)
        await anyio.wait_all_tasks_blocked()
        assert here() == "group"
        assert tracekit.current_labels() == {}
    assert sorted(seen) == ["left open 0", "left open 1", "left open 2"]
    for span in left_open:
        span.end()


async def test_a_group_inside_a_traced_generator_is_the_bodys(exporter):
    @tracekit.traced("body")
    async def body():
        async with aio.create_task_group("group") as group:
            group.start_soon(job)
        yield here()
        async with aio.create_task_group("group 2"):
            pass

    with tracekit.span("consumer"):
        async for item in body():
            assert (item, here()) == ("body", "consumer")
    assert tree(exporter) == "consumer\n  body\n    group\n      job\n        work\n    group 2"


async def test_a_group_open_across_a_yield_is_current_in_the_body_only(exporter):
    @tracekit.traced("body")
    async def body():
        async with aio.create_task_group("group") as group:
            group.start_soon(job)
            yield here()
            assert here() == "group"

    with tracekit.span("consumer"):
        async for item in body():
            assert (item, here()) == ("group", "consumer")
    assert tree(exporter) == "consumer\n  body\n    group\n      job\n        work"


@with_handles
async def test_an_explicit_context_wins(exporter):
    with tracekit.span("elsewhere"):
        context = contextvars.copy_context()
    async with aio.create_task_group("group") as group:
        group.create_task(job(), context=context)
    assert context.run(here) == "elsewhere"
    assert tree(exporter) == "elsewhere\n  job\n    work\ngroup"


async def test_a_span_that_another_context_closed_is_not_inherited(exporter):
    closed = tracekit.span("closed")
    async with aio.create_task_group("group") as group:
        closed.__enter__()
        with tracekit.use_labels(a="b"):
            contextvars.copy_context().run(closed.__exit__, None, None, None)
            group.start_soon(job)
    assert tree(exporter) == "closed\ngroup\n  job\n    work"


async def test_the_time_a_task_waited_for_its_first_step_is_on_its_span(clock, exporter):
    async with aio.create_task_group("group") as group:
        group.start_soon(job, name="started soon")
        if HAS_HANDLES:
            group.create_task(job(), name="created")
        clock.now_ns += 1_500_000_000
        await anyio.wait_all_tasks_blocked()
        clock.now_ns += 5_000_000_000

        async def server(*, task_status):
            clock.now_ns += 5_000_000_000
            task_status.started()

        await group.start(server, name="started")
    assert named(exporter, "started soon").attributes == {"task.wait_s": 1.5}
    assert named(exporter, "started").attributes == {"task.wait_s": 0.0}
    if HAS_HANDLES:
        assert named(exporter, "created").attributes == {"task.wait_s": 1.5}


async def test_thousands_of_tasks_are_each_the_child_of_their_own_spawner(exporter):
    async def spawner(group, number):
        with tracekit.span("spawner", attributes={"number": number}):
            for _ in range(20):
                group.start_soon(leaf, number)

    async def leaf(number):
        tracekit.current_span().set_attribute("number", number)
        await checkpoint()

    async with aio.create_task_group("group") as group:
        for number in range(100):
            group.start_soon(spawner, group, number, name="task")
    spans = exporter.spans
    spawners = {span.context.span_id: span for span in spans if span.name == "spawner"}
    found = [span for span in spans if "leaf" in span.name]
    assert (len(spawners), len(found)) == (100, 2000)
    assert all(spawners[span.parent.span_id].attributes["number"] == span.attributes["number"] for span in found)
    assert {span.status.code for span in spans} == {"unset"}


# ---- start()


async def test_start_returns_the_started_value_and_the_task_goes_on(create, exporter):
    async def server(*, task_status):
        with tracekit.span("before"):
            await checkpoint()
        task_status.started("value")
        with tracekit.span("after"):
            await checkpoint()

    with tracekit.span("caller"):
        async with create() as group:
            with tracekit.span("starter"):
                assert await group.start(server, name="server") == "value"
                assert here() == "starter"
    lines = tree(exporter).splitlines()
    depth = {line.strip(): len(line) - len(line.lstrip()) for line in lines}
    assert depth["before"] == depth["after"] > depth["starter"]


async def test_a_task_that_fails_before_it_has_started_fails_its_starter_only(create, exporter):
    async def server(*, task_status):
        await checkpoint()
        raise ValueError("no port")

    async with create() as group:
        group.start_soon(job)
        with pytest.raises(ValueError, match="no port"):
            await group.start(server, name="server")
        await checkpoint()
        assert not group.cancel_scope.cancel_called


async def test_a_task_that_failed_before_it_had_started_is_nobodys_cause(exporter):
    async def server(*, task_status):
        raise ValueError("no port")

    async with aio.create_task_group("group") as group:
        group.start_soon(forever, name="job")
        with pytest.raises(ValueError, match="no port"):
            await group.start(server, name="server")
        group.cancel_scope.cancel()
    assert tree(exporter) == "group [cancelled]\n  job [cancelled]\n  server [error]"
    assert named(exporter, "job").status.description == "by caller"


async def test_a_starters_error_is_recorded_once(exporter):
    async def server(*, task_status):
        raise ValueError("no port")

    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            group.start_soon(forever, name="job")
            await group.start(server, name="server")
    assert [span.name for span in exporter.spans if span.events] == ["server"]
    assert named(exporter, "job").status.description == BODY


async def test_errors_of_start_are_anyios(create):
    async def never(*, task_status):
        await checkpoint()

    async def twice(*, task_status):
        task_status.started()
        with pytest.raises(RuntimeError, match=r"twice|already"):
            task_status.started()

    async def without():
        pass

    async with create() as group:
        with pytest.raises(RuntimeError, match="exited without calling"):
            await group.start(never)
        assert await group.start(twice) is None
        with pytest.raises(TypeError, match="task_status"):
            await group.start(without)


@pytest.mark.parametrize("delay", [0, 0.001] if HAS_REASONS else [0.001])
async def test_a_task_cancelled_before_it_has_started_says_by_what(delay, exporter):
    async def server(*, task_status):
        await anyio.sleep_forever()

    async with aio.create_task_group("group") as group:
        with anyio.move_on_after(delay):
            await group.start(server, name="too slow")
        with anyio.CancelScope() as scope:

            async def stop():
                scope.cancel()

            group.start_soon(stop, name="stop")
            await group.start(server, name="not wanted")
    assert tree(exporter) == "group\n  not wanted [cancelled]\n  stop\n  too slow [cancelled]"
    assert named(exporter, "too slow").status.description == "by deadline"
    assert named(exporter, "not wanted").status.description == "by caller"


async def test_a_task_that_waits_for_its_start_is_cancelled_by_the_starters_sibling(exporter):
    async def server(*, task_status):
        await anyio.sleep_forever()

    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            group.start_soon(failing, name="fetch")
            await group.start(server, name="server")
    assert named(exporter, "server").status.description == SIBLING


@with_handles
async def test_start_gives_a_handle_if_it_is_asked_for(exporter):
    async def server(*, task_status):
        task_status.started(1)
        return 2

    async with aio.create_task_group("group") as group:
        handle = await group.start(server, return_handle=True)
        assert (handle.start_value, await handle) == (1, 2)


# ---- as anyio's


async def test_a_named_group_passes_for_anyios(exporter):
    group = aio.create_task_group("group")
    assert isinstance(group, anyio.abc.TaskGroup)
    assert isinstance(group, aio.TaskGroup)
    async with group as entered:
        assert entered is group
        assert isinstance(group.cancel_scope, anyio.CancelScope)
        group.start_soon(forever)
        (group.cancel if HAS_HANDLES else group.cancel_scope.cancel)()
    assert group.cancel_scope.cancelled_caught


@with_handles
async def test_handles_are_anyios(create):
    async def answer(value):
        await checkpoint()
        return value

    async with create() as group:
        handles = [group.start_soon(answer, 1, name="first"), group.create_task(answer(2))]
        assert [type(handle) for handle in handles] == [anyio.TaskHandle] * 2
        assert [await handle for handle in handles] == [1, 2]
        assert [handle.name for handle in handles] == ["first", f"{__name__}.{answer.__qualname__}"]


def not_a_coroutine_function():
    return 5


def raises_at_the_call():
    raise LookupError("at the call")


async def takes_one(argument):
    pass


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (not_a_coroutine_function, ()),
        (functools.partial(job, 1), ()),
        (functools.partial(not_a_coroutine_function), ()),
        (raises_at_the_call, ()),
        (takes_one, ()),
        (job, (1, 2)),
        (5, ()),
        (None, ()),
    ],
)
async def test_what_cannot_be_started_fails_as_in_anyio(target, args, exporter):
    messages = []
    for make in (aio.create_task_group, functools.partial(aio.create_task_group, "group")):
        async with make() as group:
            with pytest.raises((TypeError, LookupError, AttributeError)) as caught:
                group.start_soon(target, *args)
            messages.append((type(caught.value), str(caught.value)))
    assert messages[0] == messages[1]
    assert tree(exporter) == "group"


@with_handles
async def test_what_is_no_coroutine_fails_as_in_anyio(create):
    async with create() as group:
        with pytest.raises(TypeError, match="expected a coroutine, got function"):
            group.create_task(job)


async def test_a_group_that_is_not_open_starts_nothing(create, exporter):
    async def server(*, task_status):
        raise AssertionError

    group = create()
    for _ in range(2):
        # Nothing is left behind that warns of never having been awaited.
        with pytest.raises(RuntimeError, match="not active"):
            group.start_soon(job)
        with pytest.raises(RuntimeError, match="not active"):
            await group.start(server)
        if HAS_HANDLES:
            with pytest.raises(RuntimeError, match="not active"):
                group.create_task(job())
        gc.collect()
        if not exporter.spans:
            async with group:
                with tracekit.span("inside"):
                    pass
    assert tracekit.statistics().open == 0


@with_handles
async def test_a_group_opens_once(create, exporter):
    group = create()
    async with group:
        with pytest.raises(RuntimeError, match="more than once"):
            await group.__aenter__()
        before = here()
        group.start_soon(job)
    assert here() is None
    assert before in {None, "group"}
    assert tracekit.statistics().open == 0


def shape(error):
    """All of an exception that can be compared; frames are not ours to hide."""
    if error is None:
        return None
    inner = tuple(map(shape, error.exceptions)) if isinstance(error, BaseExceptionGroup) else ()
    args = () if isinstance(error, BaseExceptionGroup | asyncio.CancelledError) else error.args
    return (
        type(error).__name__, args, inner, shape(error.__cause__), shape(error.__context__), error.__suppress_context__
    )  # fmt: skip


async def _task_raises(make):
    async with make() as group:
        group.start_soon(failing)


async def _body_and_task_raise(make):
    async with make() as group:
        group.start_soon(failing)
        raise KeyError("body")


async def _raises_while_handling(make):
    try:
        raise LookupError("before")
    except LookupError:
        async with make() as group:
            group.start_soon(failing)
            await anyio.sleep_forever()


async def _task_raises_while_the_group_closes(make):
    async def later():
        await anyio.wait_all_tasks_blocked()
        raise ValueError("late")

    async with make() as group:
        group.start_soon(later)


async def _cancelled_and_raises(make):
    async def breaks():
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("at close")

    with anyio.CancelScope() as scope:
        async with make() as group:
            group.start_soon(breaks)
            await anyio.wait_all_tasks_blocked()
            scope.cancel()


async def _nested_groups_raise(make):
    async with make() as group:
        group.start_soon(_body_and_task_raise, make)
        await anyio.sleep_forever()


async def _cancelled_from_outside(make):
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            async with make() as group:
                group.start_soon(forever)
        except BaseException as error:
            raise Exception(shape(error)) from None


@pytest.mark.parametrize(
    "program",
    [
        _task_raises,
        _body_and_task_raise,
        _raises_while_handling,
        _task_raises_while_the_group_closes,
        _cancelled_and_raises,
        _nested_groups_raise,
        _cancelled_from_outside,
    ],
)
async def test_what_is_raised_is_what_anyio_raises(program, exporter):
    shapes = []
    for make in (anyio.create_task_group, functools.partial(aio.create_task_group, "group")):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await program(make)
        shapes.append(shape(caught.value))
    assert shapes[0] == shapes[1]


async def test_an_exception_is_gone_when_it_was_handled_unless_anyio_keeps_it(exporter):
    class Own(Exception):
        pass

    async def breaks():
        raise Own

    async def is_gone(make):
        try:
            async with make() as group:
                group.start_soon(breaks, name="breaks")
        except* Own as caught:
            seen = weakref.ref(caught.exceptions[0])
        for _ in range(5):
            await checkpoint()
        return seen() is None

    async def is_cancellation_gone(make):
        with anyio.CancelScope() as scope:
            scope.cancel()
            try:
                async with make():
                    await checkpoint()
            except anyio.get_cancelled_exc_class() as caught:
                seen = weakref.ref(caught)
                raise
        return seen() is None

    gc.collect()
    gc.disable()
    try:
        for program in (is_gone, is_cancellation_gone):
            expected = await program(anyio.create_task_group)
            assert await program(lambda: aio.create_task_group("group")) == expected
    finally:
        gc.enable()


async def test_a_traceback_leads_to_the_line_that_raised(exporter):
    with pytest.raises(BaseExceptionGroup) as caught:
        async with aio.create_task_group("group") as group:
            group.start_soon(failing)
    (error,) = caught.value.exceptions
    assert traceback.extract_tb(error.__traceback__)[-1].name == "failing"


# ---- where nobody looks


async def test_a_named_group_in_a_program_that_records_nothing_propagates(monkeypatch):
    contexts, deadlines, causes = [], [], []
    monkeypatch.setattr("tracekit.aio._groups._Cancellation._find", lambda *_: causes.append(1))
    monkeypatch.setattr(anyio, "current_effective_deadline", lambda: deadlines.append(1) or math.inf)

    async def note():
        contexts.append(tracekit.current_context())
        await anyio.sleep_forever()

    async with aio.create_task_group("group") as group:
        contexts.append(tracekit.current_context())
        group.start_soon(note)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert here() is None
    assert (deadlines, causes) == ([1], [])  # nothing is found out that nobody will see
    assert contexts[0].trace_id == contexts[1].trace_id
    assert contexts[0].span_id != contexts[1].span_id
    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            group.start_soon(forever)
            group.start_soon(failing)


async def test_an_unsampled_group_costs_no_attributes(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    async with aio.create_task_group("group") as group:
        group.start_soon(job)
        group.start_soon(forever)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert exporter.spans == []
    assert tracekit.statistics().open == 0


async def test_a_recorded_task_in_an_unrecorded_group_still_knows_its_cause(exporter):
    with raising(ValueError):
        async with aio.create_task_group("group") as group:
            tracekit.configure(exporter=exporter)
            with tracekit.use_context(None), tracekit.span("elsewhere"):
                group.start_soon(forever, name="job")
            await anyio.wait_all_tasks_blocked()
            with tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16)):
                group.start_soon(failing, name="fetch")
    assert named(exporter, "job").status.description == SIBLING
