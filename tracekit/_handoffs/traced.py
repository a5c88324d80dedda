"""``@traced`` and ``stream()``: a span around a call or an iteration, in a scope that its body alone sees."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from .._core.attributes import MISSING
from .._core.guard import class_name, type_name
from .._core.misuse import misused
from .._core.scopes import (
    Body,
    context_scope,
    current_context,
    current_scope,
    label_scope,
    linked_context,
    linked_scope,
    swap_scope,
)
from .._core.span import span
from ._arguments import recorder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping

    from .._core.scopes import Scope
    from .._core.span import Span
    from ._arguments import Recorder

__all__ = ["stream", "traced"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


@overload
def traced(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def traced(
    name: str = ...,
    /,
    *,
    kind: Literal["internal", "server", "client", "producer", "consumer"] = ...,
    attributes: Mapping[str, Any] | None = ...,
    capture_args: Iterable[str] | Mapping[str, str] = ...,
    expected: type[BaseException] | tuple[type[BaseException], ...] = ...,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def traced(
    target: Any = MISSING,
    /,
    *,
    kind: Any = "internal",
    attributes: Any = None,
    capture_args: Any = (),
    expected: Any = (),
) -> Any:
    """Give each call of a function its span, named after the function or, as ``@traced("name")``, otherwise.

    *kind*, *attributes* and *expected* are those of ``span()``. *capture_args* names arguments that become attributes
    of the same name, or as a mapping their names and the attributes' names: ``{"order": "shop.order.id"}``. Their
    values are converted and cut as all attributes are; None is left out. Arguments whose names denote secrets, also
    within mappings and objects, are recorded as ``REDACTED``.

    The function keeps its kind: coroutine function, generator function or async generator function. A
    generator's span starts with its first step and ends with its last; it is current only while
    the body runs, so the consumer keeps its own, whichever task or thread makes the step. With ``classmethod``,
    ``staticmethod`` and ``property`` either order works, except that a property itself cannot be traced.
    """
    given = (("kind", kind, "internal"), ("attributes", attributes, None), ("expected", expected, ()))
    options = {key: value for key, value, default in given if value is not default}
    if isinstance(target, str):
        return functools.partial(_traced, name=target, capture_args=capture_args, options=options)
    if target is MISSING:
        return functools.partial(_traced, name=None, capture_args=capture_args, options=options)
    return _traced(target, name=None, capture_args=capture_args, options=options)


def _traced(function: Any, *, name: str | None, capture_args: Any, options: dict[str, Any]) -> Any:
    if isinstance(function, staticmethod | classmethod):
        inner = _traced(function.__func__, name=name, capture_args=capture_args, options=options)
        return type(function)(inner)
    if isinstance(function, type):
        message = f"traced takes a function, not the class {class_name(function)[0]}: decorate its methods"
        misused(TypeError(message))
        return function
    if not callable(function):
        advice = ": write @property above @traced" if isinstance(function, property) else ""
        misused(TypeError(f"traced takes a function or a name, not {type_name(function)}{advice}"))
        return function
    import inspect  # not at the top: it would double the cost of importing tracekit

    if name is None:
        name = getattr(function, "__qualname__", type(function).__qualname__)
    start: Callable[[], Span] = functools.partial(span, name, **options)
    record = recorder(function, capture_args)
    if inspect.isasyncgenfunction(function):
        return _traced_async_generator(function, start, record=record)
    if inspect.isgeneratorfunction(function):
        return _traced_generator(function, start, record=record)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with start() as opened:
                if record is not None:
                    record(opened, args, kwargs)
                return await function(*args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with start() as opened:
            if record is not None:
                record(opened, args, kwargs)
            return function(*args, **kwargs)

    return call


def stream(steps: S, /, name: str | None = None) -> S:
    """Return *steps*, a generator, async generator or other iterator, with a span, and a separate scope for its body.

    The span starts with the first step, child of the span current where ``stream()`` is called (also when that has
    ended meanwhile), and ends with the last; it is named after the generator unless *name* is given.
    As with ``@traced``, it is current only while the body runs, whichever task or thread makes the step.
    """
    if name is None:
        name = getattr(steps, "__qualname__", type(steps).__qualname__)
    elif not isinstance(name, str):
        misused(TypeError(f"name must be str, not {type_name(name)}"))
        name = type(steps).__qualname__
    source: Any = steps
    make: Callable[..., Any]
    if hasattr(source, "__anext__"):
        make = _traced_async_generator if hasattr(source, "asend") else _traced_async_iterator
    elif hasattr(source, "__next__"):
        make = _traced_generator if hasattr(source, "send") else _traced_iterator
    else:
        misused(TypeError(f"steps must be an iterator or async iterator, not {type_name(steps)}"))
        return steps
    streamed: S = make(lambda: source, functools.partial(span, name), _lasting())()
    return streamed


def _lasting() -> Scope:
    """Return a scope that is never closed, in which the current context stays current."""
    context = current_context()
    linked = linked_context(current_scope()) if context is None or not context.is_valid else None
    if linked is None:
        return context_scope(context)
    lasting = linked_scope(linked)
    if context is not None and context.labels:
        held = swap_scope(lasting)
        lasting = label_scope(context.labels)
        lasting.__enter__()
        swap_scope(held)
    return lasting


def _open(start: Callable[[], Span], under: Scope | None) -> tuple[Span, Body]:
    """Start the span of a generator's body, in *under* or where this runs; return it with the scopes of the body."""
    held = swap_scope(None)
    swap_scope(held if under is None else under)
    under = current_scope()
    opened = start()
    opened.__enter__()
    return opened, Body(swap_scope(held), under)


def _close(opened: Span, body: Body, error: BaseException | None) -> None:
    body.enter()
    opened.__exit__(None if error is None else type(error), error, None)
    body.leave()


def _traced_generator(
    function: Callable[P, Generator[Any, Any, Any]],
    start: Callable[[], Span],
    under: Scope | None = None,
    record: Recorder | None = None,
) -> Any:
    @functools.wraps(function)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
        opened, body = _open(start, under)
        if record is not None:
            record(opened, args, kwargs)
        enter, leave = body.enter, body.leave  # not a context manager: that costs a third more
        error: BaseException | None = None
        try:
            enter()
            try:
                generator = function(*args, **kwargs)
                item = next(generator)
            finally:
                leave()
            send = generator.send
            while True:
                try:
                    sent = yield item
                except GeneratorExit as exit:
                    error = exit
                    enter()
                    try:
                        generator.close()
                    finally:
                        leave()
                    raise
                except BaseException as thrown:
                    enter()
                    try:
                        item = generator.throw(thrown)
                    finally:
                        leave()
                else:
                    enter()
                    try:
                        item = send(sent)
                    finally:
                        leave()
        except StopIteration as stop:
            return stop.value
        except BaseException as raised:
            error = raised
            raise
        finally:
            _close(opened, body, error)

    return steps


def _traced_async_generator(
    function: Callable[P, AsyncGenerator[Any, Any]],
    start: Callable[[], Span],
    under: Scope | None = None,
    record: Recorder | None = None,
) -> Any:
    @functools.wraps(function)
    async def steps(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        opened, body = _open(start, under)
        if record is not None:
            record(opened, args, kwargs)
        enter, leave = body.enter, body.leave  # not a context manager: that costs a third more
        error: BaseException | None = None
        try:
            enter()
            try:
                generator = function(*args, **kwargs)
                item = await anext(generator)
            finally:
                leave()
            send = generator.asend
            while True:
                try:
                    sent = yield item
                except GeneratorExit as exit:
                    error = exit
                    enter()
                    try:
                        await generator.aclose()
                    finally:
                        leave()
                    raise
                except BaseException as thrown:
                    enter()
                    try:
                        item = await generator.athrow(thrown)
                    finally:
                        leave()
                else:
                    enter()
                    try:
                        item = await send(sent)
                    finally:
                        leave()
        except StopAsyncIteration:
            return
        except BaseException as raised:
            error = raised
            raise
        finally:
            _close(opened, body, error)

    return steps


def _traced_iterator(function: Callable[[], Iterator[Any]], start: Callable[[], Span], under: Scope) -> Any:
    def items() -> Generator[Any, Any, Any]:
        return (yield from function())

    return _traced_generator(items, start, under)


def _traced_async_iterator(function: Callable[[], AsyncIterator[Any]], start: Callable[[], Span], under: Scope) -> Any:
    async def items() -> AsyncGenerator[Any, Any]:
        async for item in function():
            yield item

    return _traced_async_generator(items, start, under)
