"""``@traced``: a span around each call of a function, coroutine, generator or async generator."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from ._accel import Span, adopt_scopes, span, swap_scope

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

__all__ = ["traced"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def traced(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def traced(name: str, /) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def traced(target: Any, /) -> Any:
    """Give each call of a function its span, named after the function or, as ``@traced("name")``, otherwise.

    The function stays what it is: a coroutine function, generator function or async generator function. A
    generator's span starts with its first step and ends with its last; it is current only while
    the body runs, so the consumer keeps its own, whichever task or thread makes the step.
    """
    if isinstance(target, str):
        return functools.partial(_traced, name=target)
    if isinstance(target, staticmethod | classmethod):
        return _traced(target, name=target.__func__.__qualname__)
    if not callable(target):
        raise TypeError(f"traced takes a function or a name, not {type(target).__name__}")
    return _traced(target, name=getattr(target, "__qualname__", type(target).__qualname__))


def _traced(function: Any, *, name: str) -> Any:
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_traced(function.__func__, name=name))
    if not callable(function):
        raise TypeError(f"traced takes a function, not {type(function).__name__}")
    import inspect  # not at the top: it would double the cost of importing tracekit

    if inspect.isasyncgenfunction(function):
        return _traced_async_generator(function, name)
    if inspect.isgeneratorfunction(function):
        return _traced_generator(function, name)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with span(name):
                return await function(*args, **kwargs)

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with span(name):
            return function(*args, **kwargs)

    return call


class _Body:
    """The scope of a generator's body: put in place for each step, and taken out with what the body left open."""

    __slots__ = ("_held", "_inside", "_span", "_under")

    def __init__(self, name: str) -> None:
        self._span: Span = span(name)
        self._held = self._inside = self._under = swap_scope(None)
        swap_scope(self._held)
        self._span.__enter__()
        self._inside = swap_scope(self._held)

    def __enter__(self) -> None:
        adopt_scopes(self._inside, self._under)
        self._held = swap_scope(self._inside)

    def __exit__(self, *_: object) -> None:
        self._inside = swap_scope(self._held)
        self._held = None

    def close(self, error: BaseException | None) -> None:
        held = swap_scope(self._inside)
        self._span.__exit__(None if error is None else type(error), error, None)
        swap_scope(held)
        self._inside = self._under = None


def _traced_generator(function: Callable[P, Generator[Any, Any, Any]], name: str) -> Any:
    @functools.wraps(function)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
        body = _Body(name)
        error: BaseException | None = None
        try:
            with body:
                generator = function(*args, **kwargs)
                item = next(generator)
            while True:
                try:
                    sent = yield item
                except GeneratorExit as exit:
                    error = exit
                    with body:
                        generator.close()
                    raise
                except BaseException as thrown:
                    with body:
                        item = generator.throw(thrown)
                else:
                    with body:
                        item = generator.send(sent)
        except StopIteration as stop:
            return stop.value
        except BaseException as raised:
            error = raised
            raise
        finally:
            body.close(error)

    return steps


def _traced_async_generator(function: Callable[P, AsyncGenerator[Any, Any]], name: str) -> Any:
    @functools.wraps(function)
    async def steps(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        body = _Body(name)
        error: BaseException | None = None
        try:
            with body:
                generator = function(*args, **kwargs)
                item = await anext(generator)
            while True:
                try:
                    sent = yield item
                except GeneratorExit as exit:
                    error = exit
                    with body:
                        await generator.aclose()
                    raise
                except BaseException as thrown:
                    with body:
                        item = await generator.athrow(thrown)
                else:
                    with body:
                        item = await generator.asend(sent)
        except StopAsyncIteration:
            return
        except BaseException as raised:
            error = raised
            raise
        finally:
            body.close(error)

    return steps
