"""``@traced``: functions, coroutines, generators and async generators, whoever steps them and however they end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.lowlevel
import pytest
import trio

import tracekit
from tracekit import traced
from tracekit._core.codecs import IMPLEMENTATION
from tracekit._handoffs.traced import _places
from tracekit.testing import span_tree

from .tools.current import here

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


# ---- functions


@traced("plain")
def plain(a, /, b: int = 2, *args, c, **kwargs) -> str:
    """The docstring."""
    return here(), a, b, args, c, kwargs


@traced("coroutine")
async def coroutine(a, /, b: int = 2, *args, c, **kwargs) -> str:
    """The docstring."""
    await anyio.lowlevel.checkpoint()
    return here(), a, b, args, c, kwargs


@traced("generator")
def generator(a, /, b: int = 2, *args, c, **kwargs) -> str:
    """The docstring."""
    yield here(), a, b, args, c, kwargs


@traced("async generator")
async def async_generator(a, /, b: int = 2, *args, c, **kwargs) -> str:
    """The docstring."""
    await anyio.lowlevel.checkpoint()
    yield here(), a, b, args, c, kwargs


KINDS = {
    "plain": (plain, lambda call: call),
    "coroutine": (coroutine, inspect.iscoroutinefunction),
    "generator": (generator, inspect.isgeneratorfunction),
    "async generator": (async_generator, inspect.isasyncgenfunction),
}
TESTS = [inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction]


async def result(kind, *args, **kwargs):
    outcome = KINDS[kind][0](*args, **kwargs)
    if kind == "plain":
        return outcome
    if kind == "coroutine":
        return await outcome
    if kind == "generator":
        return next(outcome)
    async for item in outcome:
        got = item
    return got


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_a_traced_function_of_any_kind_runs_inside_its_span(kind, exporter, anyio_backend):
    with tracekit.span("caller"):
        assert await result(kind, 1, 3, 4, c=5, d=6) == (kind, 1, 3, (4,), 5, {"d": 6})
        assert here() == "caller"
    assert {span.name for span in exporter.spans} == {"caller", kind}


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_function_stays_what_it_was(kind):
    function, is_kind = KINDS[kind]
    assert is_kind(function)
    assert sum(test(function) for test in TESTS) == (kind != "plain")
    assert function.__name__ == function.__qualname__ == kind.replace(" ", "_")
    assert function.__doc__ == "The docstring."
    assert function.__module__ == __name__
    assert str(inspect.signature(function)) == "(a, /, b: 'int' = 2, *args, c, **kwargs) -> 'str'"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.anyio
async def test_wrong_arguments_are_the_functions_own_error(kind, exporter, anyio_backend):
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'c'"):
        await result(kind, 1)
    assert here() is None


class Service:
    @traced
    def method(self):
        return here()

    @traced
    @staticmethod
    def static():
        return here()

    @staticmethod
    @traced
    def static_outside():
        return here()

    @classmethod
    @traced
    def of_class(cls):
        return cls, here()

    @property
    @traced("property")
    def value(self):
        return here()

    @traced
    async def coroutine(self):
        return here()

    @traced
    def generator(self):
        yield here()


def test_methods_of_any_kind_are_named_by_their_qualified_name(exporter):
    service = Service()
    assert service.method() == "Service.method"
    assert service.static() == Service.static() == "Service.static"
    assert service.static_outside() == "Service.static_outside"
    assert service.of_class() == (Service, "Service.of_class")
    assert service.value == "property"
    assert list(service.generator()) == ["Service.generator"]
    assert asyncio.run(service.coroutine()) == "Service.coroutine"


@pytest.mark.parametrize("name", [None, "named"])
def test_a_class_method_may_be_traced_outside_too(name, exporter):
    class Outside:
        def method(self):
            return self, here()

    Outside.method = (traced if name is None else traced(name))(classmethod(Outside.method))
    assert Outside.method() == (Outside, name or f"{Outside.__qualname__}.method")


def test_other_callables_may_be_traced_too(exporter):
    class Callable:
        def __call__(self, value):
            return here(), value

    assert traced(functools.partial(Callable(), 5))() == ("partial", 5)
    assert traced("named")(Callable())(6) == ("named", 6)
    assert traced(Callable())(7)[1] == 7
    assert traced(len)("abc") == 3
    assert len(exporter.spans) == 4


class Makes:
    """Objects and functions that make what a coroutine function or generator function makes."""

    class Coroutine:
        async def __call__(self):
            return await suspend()

    class Generator:
        def __call__(self):
            yield here()

    class AsyncGenerator:
        async def __call__(self):
            yield await suspend()

    @types.coroutine
    def method(self):
        return (yield from suspend())


@types.coroutine
def suspend():
    yield
    return here()


@pytest.mark.parametrize(
    "function",
    [Makes.Coroutine(), Makes.Generator(), Makes.AsyncGenerator(), suspend, Makes().method],
    ids=["coroutine", "generator", "async generator", "types.coroutine", "method"],
)
@pytest.mark.parametrize("is_partial", [False, True])
def test_a_span_is_current_in_the_steps_that_objects_and_functions_of_types_coroutine_make(
    is_partial, function, exporter
):
    made = traced("body")(functools.partial(function) if is_partial else function)()
    assert exporter.spans == []

    async def result():
        if inspect.isgenerator(made):
            return list(made)
        return [item async for item in made] if inspect.isasyncgen(made) else [await made]

    assert asyncio.run(result()) == ["body"]
    assert [span.name for span in exporter.spans] == ["body"]


@pytest.mark.parametrize("wrong", [5, None, b"name", ["name"]])
def test_what_cannot_be_called_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="traced takes a function"):
        traced(wrong)
    with pytest.raises(TypeError, match="traced takes a function"):
        traced("name")(wrong)


def test_an_error_goes_through_and_is_recorded_once(exporter):
    error = ValueError("no")

    @traced("inner")
    def inner():
        raise error

    @traced("outer")
    def outer():
        inner()

    with pytest.raises(ValueError, match="no") as raised:
        outer()
    assert raised.value is error
    first, second = exporter.spans
    assert span_tree([first, second]) == "outer [error]\n  inner [error]"
    assert (len(first.events), len(second.events)) == (1, 0)


# ---- generators: the scope is active only while the body runs


def counting(steps=3):
    @traced("body")
    def body():
        try:
            with tracekit.use_labels(of="body"):
                for number in range(steps):
                    with tracekit.span(f"step {number}"):
                        yield here(), dict(tracekit.current_labels())
                    assert here() == "body"
        finally:
            assert here() in {"body", f"step {steps - 1}", "step 0"}

    return body()


def test_the_consumer_keeps_its_own_scope_and_the_body_its_own(exporter):
    with tracekit.span("consumer") as consumer, tracekit.use_labels(of="consumer"):
        for number, item in enumerate(counting()):
            assert item == (f"step {number}", {"of": "body"})
            assert tracekit.current_span() is consumer
            assert tracekit.current_labels() == {"of": "consumer"}
            with tracekit.span(f"use {number}"):
                pass
    assert span_tree(exporter.spans) == (
        "consumer\n  body\n    step 0\n    step 1\n    step 2\n  use 0\n  use 1\n  use 2"
    )


def test_generators_interleave_without_touching_each_other(exporter):
    with tracekit.span("consumer"):
        for number, (left, right) in enumerate(zip(counting(), counting(), strict=True)):
            assert left == right == (f"step {number}", {"of": "body"})
            assert here() == "consumer"
    assert span_tree(exporter.spans) == "consumer\n" + "  body\n    step 0\n    step 1\n    step 2\n" * 1 + (
        "  body\n    step 0\n    step 1\n    step 2"
    )


def test_a_generators_span_lasts_from_its_first_step_to_its_last(exporter):
    with tracekit.span("maker"):
        steps = counting()
    with tracekit.span("stepper"):
        next(steps)
    assert len(exporter.spans) == 2
    assert len(list(steps)) == 2
    assert here() is None
    body = exporter.spans[-1]
    assert (body.name, body.status.code) == ("body", "unset")
    assert len(exporter.spans) == 6


def test_a_generator_that_is_never_stepped_has_no_span(exporter):
    steps = counting()
    steps.close()
    del steps
    gc.collect()
    assert exporter.spans == []


def test_sent_values_thrown_errors_and_the_return_value_pass_through(exporter):
    @traced("body")
    def body():
        got = []
        while True:
            try:
                got.append((yield here()))
            except KeyError as error:
                got.append(repr(error))
                assert here() == "body"
            if len(got) == 3:
                return got

    def delegate():
        return (yield from body())

    steps = delegate()
    assert next(steps) == "body"
    assert steps.send("sent") == "body"
    assert steps.throw(KeyError("thrown")) == "body"
    with pytest.raises(StopIteration) as stop:
        steps.send("last")
    assert stop.value.value == ["sent", "KeyError('thrown')", "last"]
    assert [(span.name, span.status.code) for span in exporter.spans] == [("body", "unset")]


def test_closing_a_generator_returns_what_closing_its_body_does(exporter):
    def body():
        try:
            yield
        except GeneratorExit:
            return "value"  # which close() returns since Python 3.13

    steps = [body(), traced("traced")(body)(), tracekit.stream(body())]
    for one in steps:
        next(one)
    assert len({one.close() for one in steps}) == 1
    assert [(span.name, span.status.code) for span in exporter.spans] == [
        ("traced", "cancelled"),
        (body.__qualname__, "cancelled"),
    ]


def test_an_error_thrown_in_that_the_body_lets_through_is_the_spans_outcome(exporter):
    steps = counting()
    next(steps)
    with pytest.raises(KeyError):
        steps.throw(KeyError("thrown"))
    assert here() is None
    assert span_tree(exporter.spans) == "body [error]\n  step 0 [error]"


def _break(steps):
    for _ in steps:
        break
    steps.close()


def _drop(steps):
    next(steps)
    del steps
    gc.collect()


def _close(steps):
    next(steps)
    steps.close()


def _throw_exit(steps):
    next(steps)
    with pytest.raises(GeneratorExit):
        steps.throw(GeneratorExit())


@pytest.mark.parametrize("leave", [_break, _drop, _close, _throw_exit])
def test_a_generator_left_early_ends_once_as_cancelled(leave, exporter):
    with tracekit.span("consumer") as consumer:
        leave(counting())
        gc.collect()
        assert tracekit.current_span() is consumer
    assert span_tree(exporter.spans) == "consumer\n  body [cancelled]\n    step 0 [cancelled]"
    assert all(not span.events for span in exporter.spans)


def test_an_error_while_it_is_closed_is_the_generators_outcome(exporter):
    @traced("body")
    def body():
        try:
            yield 1
        finally:
            raise ValueError("at close")

    steps = body()
    next(steps)
    with pytest.raises(ValueError, match="at close"):
        steps.close()
    assert span_tree(exporter.spans) == "body [error]"


def test_a_generator_that_ignores_its_close_is_told_so(exporter):
    @traced("body")
    def body():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    steps = body()
    next(steps)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        steps.close()
    assert span_tree(exporter.spans) == "body [error]"


@pytest.mark.parametrize("other", [False, True], ids=["same thread", "other threads"])
def test_steps_made_by_alternating_threads_keep_both_sides_apart(other, exporter):
    steps = counting(4)
    seen = []

    def step():
        with tracekit.span("stepper") as stepper:
            seen.append(next(steps)[0])
            assert tracekit.current_span() is stepper
        assert tracekit.current_span() is None

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for number in range(4):
            pool = (first, second)[number % 2]
            pool.submit(step).result() if other else step()
        assert (first if other else second).submit(list, steps).result() == []
    assert seen == ["step 0", "step 1", "step 2", "step 3"]
    lines = span_tree(exporter.spans).splitlines()
    assert [line for line in lines if "body" in line or "step " in line] == [
        "  body",
        "    step 0",
        "    step 1",
        "    step 2",
        "    step 3",
    ]


def test_what_the_body_leaves_open_is_closed_for_the_consumer_too(exporter):
    left = tracekit.span("left open")

    @traced("body")
    def body():
        left.__enter__()
        yield here()
        yield here()

    with tracekit.span("consumer"):
        for item in body():
            assert item == "left open"
            assert here() == "consumer"
        assert here() == "consumer"
    left.__exit__(None, None, None)
    assert here() is None


def test_a_body_sees_a_scope_that_another_context_closed_as_closed(exporter):
    @traced("body")
    def body():
        with tracekit.span("inner") as inner:
            yield inner
            yield here()

    steps = body()
    inner = next(steps)
    thread = threading.Thread(target=inner.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert next(steps) == "body"
    steps.close()
    assert here() is None


def test_a_body_that_closes_what_it_stands_on_takes_over_no_scope_of_another_context(exporter):
    outer = tracekit.span("outer")
    outer.__enter__()

    def elsewhere():
        outer.__exit__(None, None, None)
        consumer = tracekit.span("consumer")

        @traced("body")
        def body():
            yield here()
            consumer.__exit__(None, None, None)
            yield here()
            yield here()

        with consumer:
            assert list(body()) == ["body"] * 3
        assert here() == "outer"  # as this Context was given

    tracekit.new_context(outer).run(elsewhere)
    assert here() is None


@pytest.mark.parametrize("closed", ["consumer", "outer"])
def test_a_body_that_closed_what_it_stood_on_goes_on_in_another_thread(closed, exporter):
    spans = {name: tracekit.span(name) for name in ("outer", "consumer")}

    @traced("body")
    def body():
        spans[closed].__exit__(None, None, None)
        with tracekit.span("inner"):
            yield here()
            yield here()
        yield here()

    with spans["outer"], spans["consumer"]:
        steps = body()
        seen = [next(steps)]
        with ThreadPoolExecutor(1) as pool:
            seen += [pool.submit(next, steps).result() for _ in range(2)]
        assert (*seen, here()) == ("inner", "inner", "body", "outer" if closed == "consumer" else "consumer")
        steps.close()
    assert here() is None


@pytest.mark.parametrize("closed", ["outermost", "outer", "consumer"])
@pytest.mark.parametrize("is_stepped_by_another", [False, True])
def test_a_body_closes_what_is_under_it_and_its_consumer_has_opened_more_on_that(
    closed, is_stepped_by_another, exporter
):
    spans = {name: tracekit.span(name) for name in ("outermost", "outer", "consumer")}

    @traced("body")
    def body():
        yield
        spans[closed].__exit__(None, None, None)
        yield here()

    @traced("between")
    def between(steps):
        with tracekit.span("opened between"):
            yield next(steps)
            yield here()

    with spans["outermost"], spans["outer"], spans["consumer"]:
        steps = body()
        next(steps)
        with tracekit.use_labels(a="1"), tracekit.span("later"):
            if is_stepped_by_another:
                other = between(steps)
                assert list(other) == ["body", "opened between"]
            else:
                assert next(steps) == "body"
            assert (here(), tracekit.current_labels()) == ("later", {"a": "1"})
        left = [name for name in spans if name != closed]
        assert (here(), tracekit.current_labels()) == (left[-1], {})
    steps.close()
    assert here() is None


@pytest.mark.parametrize("labels", [{}, {"tenant": "acme"}])
def test_a_stream_begins_under_what_was_current_at_the_call_though_that_was_closed_since(labels, exporter):
    seen = []

    def body():
        seen.append(dict(tracekit.current_labels()))
        yield

    with tracekit.span("request"), contextlib.ExitStack() as scopes:
        detached = tracekit.detached()
        detached.__enter__()
        closed = tracekit.use_labels(**labels)
        closed.__enter__()
        steps = tracekit.stream(body(), "body")
        closed.__exit__(None, None, None)
        scopes.enter_context(tracekit.span("other"))
        detached.__exit__(None, None, None)  # with "other" above it
        assert list(steps) == [None]
        assert here() == "other"
    assert seen == [labels]
    assert span_tree(exporter.spans) == "request\nother ~ request\nbody ~ request"


def test_a_stream_of_a_traced_generator_is_that_generator_and_starts_where_it_was_streamed(exporter):
    @traced
    def body():
        yield here()

    with tracekit.span("endpoint"):
        steps = body()
        assert tracekit.stream(steps) is steps
        assert tracekit.stream(tracekit.stream(steps)) is steps
        unused = tracekit.stream(body())
    with tracekit.span("other"):
        assert list(steps) == [body.__qualname__]
        assert list(tracekit.stream(steps)) == []  # it has ended
    with tracekit.span("plain"):
        assert list(body()) == [body.__qualname__]
    unused.close()
    del steps, unused
    assert span_tree(exporter.spans) == f"endpoint\n  {body.__qualname__}\nother\nplain\n  {body.__qualname__}"
    assert not _places


def test_the_place_of_a_closed_generator_is_not_that_of_another_at_its_address(exporter):
    with tracekit.span("endpoint"):
        closed = tracekit.stream(plain_steps())
    closed.close()
    another = plain_steps()
    _places[id(another.gi_frame)] = _places.popitem()[1]  # as if the freed frame were reused
    with tracekit.span("other"):
        assert list(another) == [1]
    assert span_tree(exporter.spans) == "endpoint\nother\n  steps"
    assert not _places


def test_a_stream_of_a_traced_generator_has_the_name_it_is_given(exporter):
    with tracekit.span("endpoint"):
        assert list(tracekit.stream(plain_steps(), "stream")) == [1]
    assert span_tree(exporter.spans) == "endpoint\n  stream\n    steps"


@traced("steps")
def plain_steps():
    yield 1


@pytest.mark.skipif(IMPLEMENTATION == "plain", reason="in the plain form a signal may arrive in the middle of a change")
def test_an_exception_from_a_signal_handler_in_a_step_leaves_the_consumers_span_current(exporter):
    @traced("body")
    def body():
        for number in range(5):
            with tracekit.span("inner"):
                yield number

    def scenario(at):
        left = at

        def handler(frame, event, argument):  # as CPython looks for signals after each call
            nonlocal left
            if event == "c_return" and frame.f_code.co_filename == traced.__code__.co_filename:
                left -= 1
                if left == 0:
                    raise TimeoutError

        with tracekit.span("consumer") as consumer:
            try:
                sys.setprofile(handler)
                for _ in body():
                    pass
            except TimeoutError:
                pass
            finally:
                sys.setprofile(None)
            assert tracekit.current_span() is consumer, f"after call {at}"
        assert here() is None
        return left > 0

    at = 1
    while not scenario(at):
        at += 1
    assert at > 15


def test_nested_traced_generators_stack_like_calls(exporter):
    @traced("outer")
    def outer():
        for item in counting(2):
            assert here() == "outer"
            yield item
            assert here() == "outer"

    with tracekit.span("consumer"):
        for _ in outer():
            assert here() == "consumer"
    assert span_tree(exporter.spans) == "consumer\n  outer\n    body\n      step 0\n      step 1"


def test_many_generators_leave_nothing_behind(exporter):
    gc.collect()
    before = sum(type(thing) is tracekit.Span for thing in gc.get_objects())
    for _ in range(200):
        steps = counting()
        next(steps)
        del steps
    exporter.clear()
    gc.collect()
    assert sum(type(thing) is tracekit.Span for thing in gc.get_objects()) <= before


# ---- async generators


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


def test_an_async_generator_alive_when_its_loop_ends_is_closed_by_it(exporter):
    kept = []

    async def main():
        steps = async_counting()
        kept.append(steps)
        await anext(steps)

    asyncio.run(main())
    kept.append(exporter.spans)
    assert span_tree(kept[-1]) == "body [cancelled]\n  step 0 [cancelled]"
    exporter.clear()
    kept.clear()

    async def trio_main():
        steps = async_counting()
        kept.append(steps)
        await anext(steps)

    trio.run(trio_main)
    assert {span.status.code for span in exporter.spans} <= {"cancelled", "error"}
    assert len(exporter.spans) == 2
