"""Hand-offs by hand: take the current context to code that contextvars do not reach."""

from __future__ import annotations

import contextvars
import functools
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from .._core.context import SpanContext
from .._core.guard import type_name
from .._core.misuse import misused
from .._core.scopes import context_scope, current_context, current_scope, label_scope, linked_context, linked_scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
    from contextlib import AbstractContextManager

P = ParamSpec("P")
R = TypeVar("R")


# The current context, or a tuple: the context that a new trace is linked to, and one that holds the labels in force.
Place = SpanContext | tuple[SpanContext, SpanContext | None] | None


class Snapshot:
    """The context in which ``capture()`` was called: a copy of the ``contextvars.Context``.

    It can run any number of jobs, in any threads, at the same time. It keeps all values of the Context alive; to keep
    only the trace for long, keep ``context``.
    """

    __slots__ = ("_copy",)

    def __init__(self) -> None:
        current_context()  # removes scopes that were closed elsewhere, before the copy
        self._copy = contextvars.copy_context()

    @property
    def context(self) -> SpanContext | None:
        """The ids and labels that a span would continue here."""
        return self._copy.copy().run(current_context)

    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call *function* in a fresh copy: scopes that it leaves open do not reach the next job."""
        return self._copy.copy().run(function, *args, **kwargs)


def capture() -> Snapshot:
    """Capture the current context, for work that will run elsewhere."""
    return Snapshot()


def wrap(function: Callable[P, R], /) -> Callable[P, R]:
    """Return *function* such that each call runs in the context current now, in any thread, at any time.

    For callbacks, threads, pools and queues that were not made by tracekit. A coroutine function stays one. Any other,
    wrapped, can be pickled if *function* can; in another process it continues the trace as a remote one.
    """
    if not callable(function):
        misused(TypeError(f"wrap takes a function, not {type_name(function)}"))
        return function
    try:
        return _wrapper(function)
    except Exception as error:  # a mock or a lazy object, whose attributes are not those of a function
        misused(error)
        return function


def _wrapper(function: Callable[P, R]) -> Callable[P, R]:
    if kind_of(function) != "coroutine":
        return _Wrapped(function, capture())
    snapshot = capture()

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        return await _in_context(snapshot._copy.copy(), function, args, kwargs)

    return call  # type: ignore[return-value]


def kind_of(function: Any) -> Literal["", "async generator", "coroutine", "generator"]:
    """Return the kind of *function*, or of the ``__call__`` of an object; "" for an ordinary one."""
    import inspect  # not at the top: it would double the cost of importing tracekit

    while isinstance(function, functools.partial):
        function = function.func
    for called in (function, type(function).__call__):
        plain = getattr(called, "__func__", called) if inspect.ismethod(called) else called
        flags = plain.__code__.co_flags if inspect.isfunction(plain) else 0
        if inspect.iscoroutinefunction(called) or flags & inspect.CO_ITERABLE_COROUTINE:  # of types.coroutine
            return "coroutine"
        if inspect.isasyncgenfunction(called):
            return "async generator"
        if inspect.isgeneratorfunction(called):
            return "generator"
    return ""


class _Wrapped:
    """A function and the snapshot that it runs in."""

    def __init__(self, function: Callable[..., Any], snapshot: Snapshot) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function  # not in the class body, whose annotations would pass for those of the function
        self._snapshot = snapshot  # last: a callable object may have an attribute of that name

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._snapshot.run(self.__wrapped__, *args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind to an instance where the function would, as an attribute of a class."""
        bind = getattr(type(self.__wrapped__), "__get__", None)
        bound = self.__wrapped__ if bind is None else bind(self.__wrapped__, instance, owner)
        return self if bound is self.__wrapped__ else _Wrapped(bound, self._snapshot)

    def __reduce__(self) -> Any:
        return _rewrap, (self.__wrapped__, self._snapshot.run(place))

    def __repr__(self) -> str:
        return f"<tracekit.wrap({self.__wrapped__!r})>"


def _rewrap(function: Callable[..., Any], place: Place) -> Any:
    with at(place):
        return wrap(function)


def place() -> Place:
    """Return the current context in a form that can be pickled; ``at()`` makes it current in another process."""
    context = current_context()
    linked = linked_context(current_scope()) if context is None or not context.is_valid else None
    if linked is not None:
        return linked.replace(is_remote=True), context
    return None if context is None else context.replace(is_remote=True)


def at(place: Place) -> AbstractContextManager[Any]:
    """Make the result of ``place()`` in another process current."""
    if not isinstance(place, tuple):
        return context_scope(place)
    linked, labelled = place
    return linked_scope(linked) if labelled is None else _linked_and_labelled(linked, labelled)


@contextmanager
def _linked_and_labelled(linked: SpanContext, labelled: SpanContext) -> Iterator[None]:
    with linked_scope(linked), label_scope(labelled.labels):
        yield


def detached() -> AbstractContextManager[None]:
    """Inside ``with``, nothing is current, and a span is the root of a new trace, linked to the context outside.

    This holds for the whole life of work spawned inside: a background task, a ticker, a server, a pool of workers, a
    signal handler. Of the span outside, it keeps the ids only.
    """
    context = current_context()
    return linked_scope(context if context is not None and context.is_valid else None)


def run_in_context(
    context: contextvars.Context, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, R]:
    """Await ``function(*args)`` with each of its steps in *context*; ``context.run()`` would only make the coroutine.

    The coroutine stays in the task that awaits it, so cancel scopes and timeouts apply. *context* must not be running in
    another thread or further up in this task.
    """
    if not isinstance(context, contextvars.Context):
        raise TypeError(f"context must be a contextvars.Context, not {type(context).__name__}")
    return _in_context(context, function, args, kwargs)


async def _in_context(context: contextvars.Context, function: Any, args: Any, kwargs: Any) -> Any:
    made = context.run(function, *args, **kwargs)
    # The generator of a function under types.coroutine is awaitable as it is.
    return await _steps(context, made if isinstance(made, types.GeneratorType) else made.__await__())


@types.coroutine
def _steps(context: contextvars.Context, steps: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
    thrown: list[BaseException] = []
    try:
        waiting = context.run(next, steps)
        while True:
            try:
                sent = yield waiting
            except GeneratorExit:
                context.run(steps.close)
                raise
            except BaseException as exc:
                thrown.append(exc)
            # Not within the handler, whose exception would become the context of later ones.
            if thrown:
                waiting = context.run(steps.throw, thrown.pop())
            else:
                # As "await" does: an iterator need not have send().
                waiting = context.run(next, steps) if sent is None else context.run(steps.send, sent)
    except StopIteration as stop:
        result: R = stop.value
        return result
