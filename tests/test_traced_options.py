"""The options of ``@traced``, ``expected=`` of spans, and other ways to write a span that users try."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys

import anyio.lowlevel
import pytest

import tracekit
from tracekit import aio, traced
from tracekit.testing import span_tree


class Missing(LookupError):
    pass


def only(exporter):
    (span,) = exporter.spans
    return span


def test_options_are_those_of_the_span(exporter):
    @traced(kind="client", attributes={"peer": "db"})
    def query():
        return 5

    assert query() == 5
    span = only(exporter)
    assert (span.name, span.kind, dict(span.attributes)) == (query.__qualname__, "client", {"peer": "db"})


def test_an_unknown_option_is_an_error_of_the_decoration():
    with pytest.raises(TypeError, match="flavour"):
        traced(flavour="sweet")


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_methods_take_options_in_either_order_of_decorators(order, exporter):
    trace = traced("m", capture_args=["value"])

    class Service:
        def method(self, value):
            return self, value

    method = Service.method
    for kind in (classmethod, staticmethod):
        Service.method = kind(trace(method)) if order == "inside" else trace(kind(method))
        if kind is classmethod:
            assert Service.method(1) == Service().method(1) == (Service, 1)
        else:
            assert Service.method(7, value=1) == (7, 1)
    assert [dict(span.attributes) for span in exporter.spans] == [{"value": 1}] * 3


@pytest.mark.parametrize("decorate", [traced, traced("name"), traced()])
def test_a_class_is_a_type_error_that_names_the_alternative(decorate):
    class Service:
        pass

    with pytest.raises(TypeError, match="not the class Service: decorate its methods"):
        decorate(Service)


def test_a_property_is_a_type_error_that_gives_the_order():
    with pytest.raises(TypeError, match="write @property above @traced"):
        traced(property(len))


# ---- capture_args


def attributes(exporter, function, *args, **kwargs):
    exporter.clear()
    function(*args, **kwargs)
    return dict(only(exporter).attributes)


def test_named_arguments_are_recorded_however_they_are_passed(exporter):
    @traced(capture_args=("a", "b", "c", "rest", "more"))
    def function(a, b=2, *rest, c=3, **more):
        pass

    assert attributes(exporter, function, 1) == {"a": 1, "b": 2, "c": 3, "rest": (), "more": {}}
    assert attributes(exporter, function, 1, 5, 6, c=7, d=8) == {"a": 1, "b": 5, "c": 7, "rest": (6,), "more": {"d": 8}}
    assert attributes(exporter, function, b=5, a=1) == {"a": 1, "b": 5, "c": 3, "rest": (), "more": {}}


def test_arguments_may_have_other_names_as_attributes(exporter):
    function = traced(capture_args={"order": "shop.order.id"})(lambda order, other: None)
    assert attributes(exporter, function, 7, 8) == {"shop.order.id": 7}


@pytest.mark.skipif(sys.version_info < (3, 14), reason="there such names must exist, or be in quotes")
def test_annotations_of_a_function_with_recorded_arguments_may_name_what_is_defined_later(exporter):
    source = """class Order:
        @traced("merge", capture_args=["count"])
        def merge(self, other: Order | Later, count: int) -> Order:
            return other
    """
    scope = {"traced": traced}
    exec(compile(source, "orders", "exec", dont_inherit=True), scope)
    assert attributes(exporter, scope["Order"]().merge, None, 3) == {"count": 3}


def test_a_keyword_that_is_no_parameter_is_recorded_where_the_function_takes_any(exporter):
    function = traced(capture_args=["extra"])(lambda **more: None)
    assert attributes(exporter, function, extra=1, other=2) == {"extra": 1}


def test_none_is_left_out_and_not_counted_as_dropped(exporter):
    traced(capture_args=["a"])(lambda a=None: None)()
    assert (dict(only(exporter).attributes), only(exporter).dropped_attributes) == ({}, 0)


@dataclasses.dataclass
class Login:
    user: str
    api_key: str


@pytest.mark.parametrize("name", ["password", "apiKey", "access_token"])
def test_an_argument_whose_name_denotes_a_secret_is_redacted(name, exporter):
    scope = {}
    exec(f"def function({name}): pass", scope)
    function = traced(capture_args=[name])(scope["function"])
    assert attributes(exporter, function, "s3cret") == {name: "REDACTED"}


def test_secrets_within_arguments_are_redacted(exporter):
    function = traced(capture_args=["a"])(lambda a: None)
    assert attributes(exporter, function, Login("ann", "s3cret")) == {"a": {"user": "ann", "api_key": "REDACTED"}}
    nested = [{"ok": 1, "auth": {"password": "s3cret"}}, {"token": ["s3cret"]}]
    assert "s3cret" not in str(attributes(exporter, function, nested))
    assert attributes(exporter, function, {"ok": (1, {"b": 2})}) == {"a": {"ok": (1, {"b": 2})}}


def test_arguments_are_bounded_by_the_limits(exporter):
    tracekit.configure(exporter=exporter, limits=tracekit.Limits(value_length=4))
    traced(capture_args=["a"])(lambda a: None)("x" * 100)
    assert (only(exporter).attributes["a"], only(exporter).truncated_values) == ("xxxx", 1)


def test_an_argument_that_cannot_be_converted_costs_only_itself(exporter):
    class Hostile:
        def __str__(self):
            raise RuntimeError

    assert attributes(exporter, traced(capture_args=["a", "b"])(lambda a, b: None), Hostile(), 1) == {"b": 1}


@pytest.mark.parametrize("wrong", ["name", 5, ["nope"], [5]])
def test_wrong_capture_args_are_reported_at_the_decoration(wrong):
    with pytest.raises((TypeError, ValueError), match="capture_args must"):
        traced(capture_args=wrong)(lambda a: None)


def test_arguments_of_coroutines_and_generators_are_recorded(exporter):
    @traced(capture_args=["a"])
    async def coroutine(a):
        pass

    @traced(capture_args=["a"])
    def generator(a):
        yield

    @traced(capture_args=["a"])
    async def async_generator(a):
        yield

    async def main():
        await coroutine(1)
        assert list(generator(2)) == [None]
        assert [_ async for _ in async_generator(3)] == [None]

    asyncio.run(main())
    assert inspect.iscoroutinefunction(coroutine)
    assert [span.attributes["a"] for span in exporter.spans] == [1, 2, 3]


def test_the_functions_own_type_error_stays(exporter):
    with pytest.raises(TypeError, match="missing 1 required"):
        traced(capture_args=["a"])(lambda a, b: None)(1)


def test_nothing_is_converted_for_a_span_that_is_not_recorded():
    class Unwanted:
        def __str__(self):
            raise AssertionError

    tracekit.configure(sampler=tracekit.AlwaysOff())
    traced(capture_args=["a"])(lambda a: None)(Unwanted())


@pytest.mark.anyio
async def test_a_task_of_a_named_group_keeps_the_options(anyio_backend, exporter):
    @traced("work", kind="consumer", capture_args=["a"], expected=Missing)
    async def work(a):
        raise Missing

    with pytest.raises(ExceptionGroup):
        async with aio.create_task_group("group") as group:
            group.start_soon(work, 1)
    with pytest.raises(ExceptionGroup):
        async with aio.create_task_group("group") as group:
            group.start_soon(work, 2, name="named")
    found = [span for span in exporter.spans if "a" in span.attributes]
    assert [(span.name, span.kind, span.attributes["a"], span.status.code) for span in found] == [
        ("work", "consumer", 1, "unset"),
        ("named", "consumer", 2, "unset"),
    ]


# ---- expected


def test_an_expected_exception_is_an_event_and_the_status_stays_unset(exporter):
    with pytest.raises(Missing), tracekit.span("find", expected=LookupError):
        raise Missing("no 5")
    span = only(exporter)
    assert (span.status.code, span.status.description) == ("unset", "")
    (event,) = span.events
    assert event.name == "exception"
    assert dict(event.attributes) == {
        "exception.type": f"{__name__}.Missing",
        "exception.message": "no 5",
    }


def test_it_is_an_error_of_the_span_outside_with_its_stack(exporter):
    with pytest.raises(Missing), tracekit.span("outer"), tracekit.span("inner", expected=(KeyError, Missing)):
        raise Missing
    inner, outer = exporter.spans
    assert span_tree([inner, outer]) == "outer [error]\n  inner"
    assert "raise Missing" in outer.events[0].attributes["exception.stacktrace"]


def test_another_exception_is_an_error(exporter):
    with pytest.raises(ValueError, match="x"), tracekit.span("find", expected=(KeyError,)):
        raise ValueError("x")
    assert only(exporter).status == ("error", "ValueError: x")


def test_each_exception_of_a_group_is_judged(exporter):
    with pytest.raises(ExceptionGroup), tracekit.span("all expected", expected=KeyError):
        raise ExceptionGroup("g", [KeyError(1), ExceptionGroup("h", [KeyError(2)])])
    with pytest.raises(ExceptionGroup), tracekit.span("one error", expected=KeyError):
        raise ExceptionGroup("g", [KeyError(1), ValueError(2)])
    with pytest.raises(ExceptionGroup), tracekit.span("the group", expected=ExceptionGroup):
        raise ExceptionGroup("g", [ValueError(2)])
    found = [
        (span.status.code, [event.attributes["exception.type"] for event in span.events]) for span in exporter.spans
    ]
    assert found == [("unset", ["KeyError"] * 2), ("error", ["KeyError", "ValueError"]), ("unset", ["ExceptionGroup"])]


def test_an_expected_cancellation_is_no_cancellation(exporter):
    with pytest.raises(asyncio.CancelledError), tracekit.span("race", expected=asyncio.CancelledError):
        raise asyncio.CancelledError
    assert only(exporter).status.code == "unset"


def test_traced_takes_expected_too(exporter):
    @traced(expected=(StopIteration, Missing))
    async def find():
        raise Missing

    with pytest.raises(Missing):
        asyncio.run(find())
    assert only(exporter).status.code == "unset"


@pytest.mark.parametrize("wrong", [5, "KeyError", [KeyError], (KeyError, int), KeyError()])
def test_wrong_expected_is_a_type_error(wrong, exporter):
    with pytest.raises(TypeError, match="expected must be a class of exceptions"):
        tracekit.span("s", expected=wrong)
    assert exporter.spans == []


# ---- other ways to write a span


@pytest.mark.anyio
async def test_async_with_is_the_same_as_with(anyio_backend, exporter):
    async def fail():
        async with tracekit.span("outer") as outer, tracekit.span("inner") as inner:
            assert tracekit.current_span() is inner
            assert inner.parent == outer.context
            await anyio.lowlevel.checkpoint()
            raise Missing

    with pytest.raises(Missing):
        await fail()
    assert span_tree(exporter.spans) == "outer [error]\n  inner [error]"
    assert tracekit.current_span() is None


def test_a_span_as_decorator_is_a_type_error_that_names_traced(exporter):
    with pytest.raises(TypeError, match=r"use @tracekit\.traced\('work'\)"):

        @tracekit.span("work")
        def work():
            pass
