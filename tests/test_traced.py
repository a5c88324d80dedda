"""``@traced``: functions and coroutines of any kind."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types

import anyio
import anyio.lowlevel
import pytest

import tracekit
from tracekit import traced
from tracekit.testing import span_tree

from .tools.current import here, suspend

pytestmark = pytest.mark.usefixtures("nothing_is_logged")


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


def test_a_function_without_a_qualified_name_gives_the_span_its_name(exporter):
    class Compiled:  # as mypyc makes of a coroutine function
        __name__ = property(lambda self: "price")

        def __call__(self):
            return here()

    assert traced(Compiled())() == "price"


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
