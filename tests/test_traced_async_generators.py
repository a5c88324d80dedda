"""``@traced`` and ``stream()``: async generators and coroutines, whoever steps them and however they end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import weakref

import anyio
import anyio.lowlevel
import pytest
import trio

import tracekit
from tracekit import traced
from tracekit._handoffs.traced import _places
from tracekit.testing import span_tree

from .tools.current import here, suspend

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


def async_counting(steps=3):
    @traced("body")
    async def body():
        with tracekit.use_labels(of="body"):
            for number in range(steps):
                with tracekit.span(f"step {number}"):
                    await anyio.lowlevel.checkpoint()
                    yield here(), dict(tracekit.current_labels())
                    await anyio.lowlevel.checkpoint()
                assert here() == "body"

    return body()


@pytest.mark.anyio
async def test_the_consumer_of_an_async_generator_keeps_its_own_scope(anyio_backend, exporter):
    with tracekit.span("consumer") as consumer, tracekit.use_labels(of="consumer"):
        number = 0
        async for item in async_counting():
            assert item == (f"step {number}", {"of": "body"})
            assert tracekit.current_span() is consumer
            assert tracekit.current_labels() == {"of": "consumer"}
            with tracekit.span(f"use {number}"):
                await anyio.lowlevel.checkpoint()
            number += 1
    assert span_tree(exporter.spans) == (
        "consumer\n  body\n    step 0\n    step 1\n    step 2\n  use 0\n  use 1\n  use 2"
    )


@pytest.mark.anyio
async def test_a_stream_of_a_traced_async_generator_is_that_generator(anyio_backend, exporter):
    @traced("body")
    async def body():
        yield here()

    with tracekit.span("endpoint"):
        steps = body()
        assert tracekit.stream(steps) is steps
    with tracekit.span("other"):
        assert [item async for item in steps] == ["body"]
    assert span_tree(exporter.spans) == "endpoint\n  body\nother"
    assert not _places


class Rows:
    """An iterator of both kinds that is no generator, with a connection to close."""

    def __init__(self):
        self.left = 2
        self.is_closed = False

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration("value")
        self.left -= 1
        return here()

    def close(self):
        self.is_closed = True


class AsyncRows(Rows):
    __iter__ = __next__ = None

    def __aiter__(self):
        return self

    async def __anext__(self):
        await anyio.lowlevel.checkpoint()
        try:
            return Rows.__next__(self)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self):
        await anyio.lowlevel.checkpoint()
        self.is_closed = True


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_closing_a_stream_of_an_iterator_closes_that_and_dropping_it_does_not(steps, exporter):
    rows = Rows()
    with contextlib.closing(tracekit.stream(rows, "rows")) as stream:
        assert tracekit.stream(stream) is stream
        for _ in range(steps):
            assert next(stream) == "rows"
        if steps == 2:
            with pytest.raises(StopIteration, match="value"):
                next(stream)
    assert rows.is_closed
    rows = Rows()
    for _ in tracekit.stream(rows, "rows"):
        break
    assert next(rows) is None
    assert not rows.is_closed
    expected = {0: "", 1: "rows [cancelled]\n", 2: "rows\n"}[steps] + "rows [cancelled]"
    assert span_tree(exporter.spans) == expected


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("steps", [0, 1, 2])
async def test_closing_a_stream_of_an_async_iterator_closes_that_and_dropping_it_does_not(
    steps, anyio_backend, exporter
):
    rows = AsyncRows()
    async with contextlib.aclosing(tracekit.stream(rows, "rows")) as stream:
        assert tracekit.stream(stream) is stream
        for _ in range(steps):
            assert await anext(stream) == "rows"
        if steps == 2:
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
    assert rows.is_closed
    rows = AsyncRows()
    async for _ in tracekit.stream(rows, "rows"):
        break
    for _ in range(10):  # asyncio ends the stream in a task
        await anyio.lowlevel.checkpoint()
    assert await anext(rows) is None
    assert not rows.is_closed
    expected = {0: "", 1: "rows [cancelled]\n", 2: "rows\n"}[steps] + "rows [cancelled]"
    assert span_tree(exporter.spans) == expected


@pytest.mark.anyio
async def test_async_generators_of_many_tasks_do_not_touch_each_other(anyio_backend, exporter):
    async def consume(number):
        with tracekit.span(f"consumer {number}") as consumer:
            async for _ in async_counting(2):
                assert tracekit.current_span() is consumer
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(consume, number)
    expected = [f"consumer {number}\n  body\n    step 0\n    step 1" for number in range(5)]
    spans = exporter.spans
    for number in range(5):
        (root,) = (span for span in spans if span.name == f"consumer {number}")
        assert span_tree([s for s in spans if s.context.trace_id == root.context.trace_id]) == expected[number]


@pytest.mark.anyio
async def test_steps_made_by_alternating_tasks_keep_both_sides_apart(anyio_backend, exporter):
    steps = async_counting(3)
    seen = []

    async def step():
        with tracekit.span("stepper") as stepper:
            try:
                seen.append((await anext(steps))[0])
            except StopAsyncIteration:
                seen.append("end")
            assert tracekit.current_span() is stepper
        assert tracekit.current_span() is None

    for _ in range(4):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert seen == ["step 0", "step 1", "step 2", "end"]
    (body,) = (span for span in exporter.spans if span.name == "body")
    assert body.status.code == "unset"
    assert all(span.parent.span_id == body.context.span_id for span in exporter.spans if span.name.startswith("step "))


@pytest.mark.parametrize("leave", ["close", "throw"])
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("is_sampled", [False, True])
def test_a_step_that_another_context_ends_leaves_what_is_current_there(is_sampled, is_streamed, leave, exporter):
    """As where a task is destroyed while its coroutine waits in a step: since CPython 3.13 that closes the generator."""

    async def body():
        with tracekit.span("inner"):
            await suspend()
            yield

    async def consume():
        with tracekit.span("consumer"):
            steps = tracekit.stream(body()) if is_streamed else traced(body)()
            if leave == "close":
                return await anext(steps)
            return await steps.asend(None)

    def end():
        with tracekit.span("other") as other:
            if leave == "close":
                waiting.close()
            else:
                with pytest.raises(ZeroDivisionError):
                    waiting.throw(ZeroDivisionError())
            gc.collect()
            assert tracekit.current_span() is other
        assert here() is None

    waiting = consume()
    with tracekit.use_context(None if is_sampled else tracekit.SpanContext("1" * 32, "2" * 16)):
        contextvars.copy_context().run(waiting.send, None)
    contextvars.copy_context().run(end)


async def _async_break(steps):
    async for _ in steps:
        break
    await steps.aclose()


async def _aclose(steps):
    await anext(steps)
    await steps.aclose()


async def _aclose_elsewhere(steps):
    await anext(steps)
    async with anyio.create_task_group() as group:
        group.start_soon(steps.aclose)


async def _athrow_exit(steps):
    await anext(steps)
    with pytest.raises(GeneratorExit):
        await steps.athrow(GeneratorExit())


async def _cancel(steps):
    with anyio.CancelScope() as scope:
        await anext(steps)
        scope.cancel()
        await anext(steps)


async def _async_drop(steps):
    await anext(steps)
    del steps
    gc.collect()
    for _ in range(10):  # asyncio closes it in a task of its own
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("leave", [_async_break, _aclose, _aclose_elsewhere, _athrow_exit, _cancel, _async_drop])
async def test_an_async_generator_left_early_ends_once_as_cancelled(leave, anyio_backend, exporter):
    with tracekit.span("consumer") as consumer:
        await leave(async_counting())
        assert tracekit.current_span() is consumer
    assert span_tree(exporter.spans) == "consumer\n  body [cancelled]\n    step 0 [cancelled]"
    assert all(not span.events for span in exporter.spans)
    assert here() is None


@pytest.mark.anyio
async def test_an_async_context_manager_that_suppresses_all_suppresses_the_end_of_a_generator(anyio_backend, exporter):
    @contextlib.asynccontextmanager
    @traced("suppress")
    async def suppress():
        with contextlib.suppress(BaseException):
            yield

    async def body():
        async with suppress():
            yield
        with tracekit.span("after"):
            pass

    steps = body()
    await anext(steps)
    await steps.aclose()
    assert span_tree(exporter.spans) == "suppress [cancelled]\nafter"


@pytest.mark.anyio
async def test_sent_values_and_thrown_errors_reach_the_body(anyio_backend, exporter):
    @traced("body")
    async def body():
        got = None
        while got != "stop":
            try:
                got = yield got, here()
            except KeyError as error:
                assert here() == "body"
                got = repr(error)

    steps = body()
    assert await anext(steps) == (None, "body")
    assert await steps.asend("sent") == ("sent", "body")
    assert await steps.athrow(KeyError("thrown")) == ("KeyError('thrown')", "body")
    assert here() is None
    with pytest.raises(StopAsyncIteration):
        await steps.asend("stop")
    assert span_tree(exporter.spans) == "body"


@pytest.mark.anyio
async def test_an_error_thrown_in_is_no_context_of_later_errors(anyio_backend, exporter):
    @traced
    async def body():
        with contextlib.suppress(KeyError):
            yield
        try:
            raise ValueError("later")
        except ValueError as error:
            yield error.__context__

    steps = body()
    await anext(steps)
    assert await steps.athrow(KeyError("thrown")) is None
    await steps.aclose()


@pytest.mark.anyio
async def test_an_error_in_an_async_body_is_its_outcome(anyio_backend, exporter):
    @traced("body")
    async def body():
        yield 1
        await anyio.lowlevel.checkpoint()
        raise ValueError("in the body")

    steps = body()
    await anext(steps)
    assert here() is None
    with pytest.raises(ValueError, match="in the body"):
        await anext(steps)
    (span,) = exporter.spans
    assert span.status == ("error", "ValueError: in the body")
    assert len(span.events) == 1

    steps = async_counting()
    await anext(steps)
    with pytest.raises(KeyError):
        await steps.athrow(KeyError("thrown"))
    assert span_tree(exporter.spans[1:]) == "body [error]\n  step 0 [error]"


class Own(Exception):
    pass


@traced
def breaking():
    yield
    raise Own


@traced
async def async_breaking():
    yield
    raise Own


@pytest.mark.anyio
async def test_an_exception_that_leaves_a_generator_is_freed_when_it_was_handled(anyio_backend, exporter):
    async def freed(step):
        try:
            await step()
        except Own as error:
            seen = weakref.ref(error)
        return seen() is None

    gc.collect()
    gc.disable()
    try:
        steps, thrown, async_steps, async_thrown = breaking(), breaking(), async_breaking(), async_breaking()
        for one in (steps, thrown):
            next(one)
        for one in (async_steps, async_thrown):
            await anext(one)
        assert await freed(lambda: next(steps))
        assert await freed(lambda: thrown.throw(Own()))
        assert await freed(lambda: anext(async_steps))
        assert await freed(lambda: async_thrown.athrow(Own()))
    finally:
        gc.enable()


class Items:
    """An asynchronous iterator whose items can be watched."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        return Items()


@traced
async def items():
    while True:
        yield Items()


@pytest.mark.anyio
@pytest.mark.parametrize("make", [items, lambda: tracekit.stream(Items())], ids=["traced", "stream of an iterator"])
async def test_an_item_that_its_consumer_has_dropped_is_freed_before_the_next_one(make, anyio_backend, exporter):
    steps = make()
    for _ in range(2):
        item = weakref.ref(await anext(steps))
        assert item() is None
    await steps.aclose()


@pytest.mark.anyio
async def test_a_task_started_in_the_body_is_the_bodys_child(anyio_backend, exporter):
    async def job():
        with tracekit.span("job"):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:

        @traced("body")
        async def body():
            group.start_soon(job)
            yield 1
            group.start_soon(job)

        with tracekit.span("consumer"):
            async for _ in body():
                group.start_soon(job)
    assert span_tree(exporter.spans) == "consumer\n  body\n    job\n    job\n  job"


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_ends_its_coroutines_span_as_cancelled(anyio_backend, exporter):
    @traced("work")
    async def work():
        with tracekit.span("inner"):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert span_tree(exporter.spans) == "work [cancelled]\n  inner [cancelled]"


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("run", [asyncio.run, trio.run], ids=["asyncio", "trio"])
def test_async_generators_alive_when_their_loop_ends_are_closed_by_it_once(run, is_streamed, exporter):
    """The loop knows them alone, and not the generators of the program inside, which they close."""
    kept = []

    async def body():
        try:
            yield
        finally:
            with tracekit.span("cleanup"):
                if run is asyncio.run:  # trio cancels it
                    await asyncio.sleep(0)

    async def main():
        if run is asyncio.run:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: kept.append(context))
        for _ in range(10):
            kept.append(tracekit.stream(body(), "body") if is_streamed else traced("body")(body)())
            await anext(kept[-1])

    run(main() if run is asyncio.run else main)
    assert len(kept) == 10
    assert span_tree(exporter.spans).splitlines() == ["body [cancelled]", "  cleanup"] * 10


@pytest.mark.parametrize(
    "start",
    [
        lambda body, *args: body(*args),
        lambda body, *args: traced(body)(*args),
        lambda body, *args: tracekit.stream(body(*args)),
    ],
    ids=["plain", "traced", "stream"],
)
def test_an_async_generator_in_garbage_is_closed_by_its_loop_and_left_alone_after_that(start, monkeypatch):
    ended, unraisable = [], []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    async def body(cycle, name):
        cycle.append(name)
        try:
            yield name
        finally:
            ended.append(name)
            await asyncio.sleep(0)
            ended.append("cleanup")

    async def leave(name):
        cycle = []
        cycle.append(start(body, cycle, name))
        assert await anext(cycle[0]) == name

    async def main():
        await leave("in its time")
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        await leave("too late")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gc.collect()
    assert ended == ["in its time", "cleanup"]
    assert not unraisable


def test_the_loop_knows_generators_that_a_traced_iterator_of_the_program_starts(exporter):
    """An object with the methods of an async generator may start others in its first step."""
    ended = []

    async def inside():
        try:
            yield 1
        finally:
            ended.append("inside")

    class Steps:
        def __init__(self):
            self.kept = inside()

        def __aiter__(self):
            return self

        def __anext__(self):
            return self.kept.__anext__()

        def asend(self, value):
            return self.kept.asend(value)

        async def aclose(self):
            ended.append("closed")

    streamed = tracekit.stream(Steps(), "outside")

    async def main():
        assert await anext(streamed) == 1

    asyncio.run(main())
    assert sorted(ended) == ["closed", "inside"]
    assert span_tree(exporter.spans) == "outside [cancelled]"
