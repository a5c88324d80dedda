"""``@traced`` and ``stream()``: generators, whoever steps them and however they end. Their scope is active in the body only."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import tracekit
from tracekit import traced
from tracekit._core.codecs import IMPLEMENTATION
from tracekit._handoffs.traced import _places
from tracekit.testing import span_tree

from .tools.current import here
from .tools.garbage import collecting_elsewhere

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


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

    class Steps:
        """A generator of another kind, such as compiled ones."""

        def __iter__(self):
            return self

        def __next__(self):
            return None

        def send(self, value):
            return None

        def close(self):
            return "value" if sys.version_info >= (3, 13) else None

    steps = [body(), traced("traced")(body)(), tracekit.stream(body()), tracekit.stream(Steps(), "other")]
    for one in steps:
        next(one)
    assert len({one.close() for one in steps}) == 1
    assert [(span.name, span.status.code) for span in exporter.spans] == [
        ("traced", "cancelled"),
        (body.__qualname__, "cancelled"),
        ("other", "cancelled"),
    ]


def test_an_error_thrown_in_is_no_context_of_later_errors(exporter):
    @traced
    def body():
        with contextlib.suppress(KeyError):
            yield
        try:
            raise ValueError("later")
        except ValueError as error:
            yield error.__context__

    steps = body()
    next(steps)
    assert steps.throw(KeyError("thrown")) is None


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


def test_a_generator_that_ignores_its_close_goes_on(exporter):
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
    assert not exporter.spans
    assert list(steps) == []
    assert span_tree(exporter.spans) == "body"


def test_a_context_manager_that_suppresses_all_suppresses_the_end_of_a_generator(exporter):
    @contextlib.contextmanager
    @traced("suppress")
    def suppress():
        with contextlib.suppress(BaseException):
            yield

    def body():
        with suppress():
            yield
        with tracekit.span("after"):
            pass

    steps = body()
    next(steps)
    steps.close()
    assert span_tree(exporter.spans) == "suppress [cancelled]\nafter"


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


def test_the_body_has_its_scope_while_another_thread_collects_garbage(exporter):
    body = counting()
    with collecting_elsewhere():
        assert next(body) == ("step 0", {"of": "body"})
    with tracekit.span("consumer"):
        assert next(body) == ("step 1", {"of": "body"})
        with collecting_elsewhere():
            assert next(body) == ("step 2", {"of": "body"})
            assert here() == "consumer"
            body.close()
    assert span_tree(exporter.spans) == "body [cancelled]\n  step 0\n  step 1\n  step 2 [cancelled]\nconsumer"


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


class Item:
    """An item that can be watched."""


def items():
    yield Item()
    yield Item()


@pytest.mark.parametrize(
    "make",
    [traced(items), lambda: tracekit.stream(items()), lambda: tracekit.stream(map(type.__call__, (Item, Item)))],
    ids=["traced", "stream", "stream of an iterator"],
)
def test_an_item_that_its_consumer_has_dropped_is_freed_before_the_next_one(make, exporter):
    steps = make()
    for _ in range(2):
        item = weakref.ref(next(steps))
        assert item() is None
    steps.close()


def test_a_sent_value_is_freed_once_the_body_has_dropped_it(exporter):
    @traced
    def body():
        while True:
            yield

    steps = body()
    next(steps)
    sent = Item()
    seen = weakref.ref(sent)
    steps.send(sent)
    del sent
    assert seen() is None
    steps.close()


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
