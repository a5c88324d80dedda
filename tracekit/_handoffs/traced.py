"""``@traced`` and ``stream()``: a span around a call or an iteration, in a scope that its body alone sees."""

from __future__ import annotations

import functools
import sys
import weakref
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, overload

from .._core.attributes import MISSING
from .._core.body import Body, open_body
from .._core.guard import class_name, is_a, type_name
from .._core.misuse import misused
from .._core.scopes import (
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
from .by_hand import kind_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
    from types import CodeType, FrameType

    from .._core.scopes import Scope
    from .._core.span import Span
    from ._arguments import Recorder

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


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
    """Start a span for each call of a function, named after the function, or *name* with ``@traced("name")``.

    *kind*, *attributes* and *expected* are those of ``span()``. *capture_args* names arguments that become attributes
    of the same name, or as a mapping their names and the attributes' names: ``{"order": "shop.order.id"}``. Their
    values are converted and cut like all attributes; None is omitted. Arguments whose names denote secrets, also
    within mappings and objects, are recorded as ``REDACTED``.

    The function keeps its kind: coroutine function, generator function or async generator function. A
    generator's span starts with its first step and ends with its last; it is current only while
    the body runs, so the consumer keeps its own, whichever task or thread makes the step. With ``classmethod``,
    ``staticmethod`` and ``property`` either order works, except that a property itself cannot be traced.
    """
    given = (("kind", kind, "internal"), ("attributes", attributes, None), ("expected", expected, ()))
    options = {key: value for key, value, default in given if value is not default}
    name = target if is_a(target, str) else None
    decorate = functools.partial(_traced, name=name, capture_args=capture_args, options=options)
    return decorate if name is not None or target is MISSING else decorate(target)


def _traced(function: Any, *, name: str | None, capture_args: Any, options: dict[str, Any]) -> Any:
    if is_a(function, staticmethod) or is_a(function, classmethod):
        inner = _traced(function.__func__, name=name, capture_args=capture_args, options=options)
        return type(function)(inner)
    if is_a(function, type):
        message = f"traced takes a function, not the class {class_name(function)[0]}: decorate its methods"
        misused(TypeError(message))
        return function
    if not callable(function):
        advice = ": write @property above @traced" if is_a(function, property) else ""
        misused(TypeError(f"traced takes a function or a name, not {type_name(function)}{advice}"))
        return function
    try:
        return _replacement(function, name, capture_args, options)
    except Exception as error:  # a mock or a lazy object, whose attributes are not those of a function
        misused(error)
        return function


def _replacement(function: Any, name: str | None, capture_args: Any, options: dict[str, Any]) -> Any:
    if name is None:
        # Coroutine functions that mypyc compiled have a __name__ only.
        known: str | None = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
        name = known or type(function).__qualname__
    start: Callable[[], Span] = functools.partial(span, name, **options)
    record = recorder(function, capture_args)
    kind = kind_of(function)
    if kind == "async generator":
        return _traced_async_generator(function, start, record=record)
    if kind == "generator":
        return _traced_generator(function, start, record=record)
    if kind == "coroutine":
        return _traced_coroutine_function(function, start, record)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with start() as opened:
            if record is not None:
                record(opened, args, kwargs)
            return function(*args, **kwargs)

    return call


def _traced_coroutine_function(
    function: Callable[..., Coroutine[Any, Any, Any]], start: Callable[[], Span], record: Recorder | None = None
) -> Any:
    @functools.wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        with start() as opened:
            if record is not None:
                record(opened, args, kwargs)
            return await function(*args, **kwargs)

    return call


def untraced(
    coro: Any, name: str | None = None
) -> tuple[Callable[[], Span], Callable[[], Coroutine[Any, Any, Any]]] | None:
    """Return functions that start the span of *coro* and call its function without a span, if it is under ``@traced``.

    None if *coro* is not, or has begun. For a caller that opens the span itself, under *name* if given, and closes
    *coro*.
    """
    if getattr(coro, "cr_code", None) is not _COROUTINE:
        return None
    import inspect

    if inspect.getcoroutinestate(coro) != inspect.CORO_CREATED:
        return None
    found = inspect.getcoroutinelocals(coro)
    start, record, args, kwargs = (found[key] for key in ("start", "record", "args", "kwargs"))

    def begin() -> Span:
        opened: Span = start() if name is None else span(name, **start.keywords)
        if record is not None:
            record(opened, args, kwargs)
        return opened

    return begin, functools.partial(found["function"], *args, **kwargs)


def stream(steps: S, /, name: str | None = None) -> S:
    """Return *steps*, a generator, async generator or other iterator, with a span, and a separate scope for its body.

    The span starts with the first step, child of the span current where ``stream()`` is called (also when that has
    ended meanwhile), and ends with the last; it is named after the generator unless *name* is given.
    As with ``@traced``, it is current only while the body runs, whichever task or thread makes the step. A generator ends
    with its stream; another iterator goes on after a stream that is dropped, and ends with one that is closed.

    A generator under ``@traced`` has its span: without *name* it is returned itself, to start under the current span.
    """
    try:
        return _streamed(steps, name)
    except Exception as error:  # a lazy object
        misused(error)
        return steps


def _streamed(steps: S, name: str | None) -> S:
    if name is None and _is_placed(steps):
        return steps
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


# The scopes in which traced generators start that were passed to stream(), by the id of their frame.
_places: dict[int, tuple[Scope, weakref.ref[Any]]] = {}


def _is_placed(steps: Any) -> bool:
    """Return whether *steps* are traced, and if they are a generator's have its span start under the current one."""
    if isinstance(steps, _Steps | _AsyncSteps):
        return True
    if getattr(steps, "gi_code", None) is _GENERATOR:
        frame = steps.gi_frame
    elif getattr(steps, "ag_code", None) is _ASYNC_GENERATOR:
        frame = steps.ag_frame
    else:
        return False
    if frame is not None:  # it has not ended
        key = id(frame)
        _places[key] = _lasting(), weakref.ref(steps, lambda _: _places.pop(key, None))
    return True


def _place_of(frame: FrameType) -> Scope | None:
    """Return the scope in which the generator that has *frame* must start, if it was passed to ``stream()``."""
    scope, reference = _places.pop(id(frame), (None, None))
    steps: Any = None if reference is None else reference()
    # A generator that is closed before it starts frees its frame, and another may be at its address.
    is_of_frame = getattr(steps, "gi_frame", None) is frame or getattr(steps, "ag_frame", None) is frame
    return scope if is_of_frame else None


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
    if _places and under is None:
        under = _place_of(sys._getframe(1))
    return open_body(start, under)


def _traced_generator(
    function: Callable[P, Generator[Any, Any, Any]],
    start: Callable[[], Span],
    under: Scope | None = None,
    record: Recorder | None = None,
) -> Any:
    """Return a generator function that steps the generator of *function* inside a span."""

    @functools.wraps(function)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
        opened, body = _open(start, under)
        error: BaseException | None = None
        thrown: BaseException | None = None
        try:
            if record is not None:
                record(opened, args, kwargs)
            # Not a context manager, which costs a third more. Within "try", as a signal handler may raise after each call.
            enter, leave = body.enter, body.leave
            try:
                enter()
                generator = function(*args, **kwargs)
                passed = next(generator)
            finally:
                leave()
            send = generator.send
            while True:
                try:
                    # The item or the sent value; empty while the consumer, which may drop the item, goes on.
                    passed = yield (passed, passed := None)[0]
                except BaseException as caught:
                    thrown = caught
                try:
                    enter()
                    # After "except", or later exceptions of the body have it as their context.
                    passed = send(passed) if thrown is None else _throw(generator, thrown)
                finally:
                    leave()
                thrown = None
        except StopIteration as stop:
            error = thrown if isinstance(thrown, GeneratorExit) else None
            return stop.value
        except BaseException as raised:
            error = raised
            raise
        finally:
            body.close(opened, error)
            error = thrown = None  # whose traceback refers to this frame

    return steps


def _traced_async_generator(
    function: Callable[P, AsyncGenerator[Any, Any]],
    start: Callable[[], Span],
    under: Scope | None = None,
    record: Recorder | None = None,
) -> Any:
    """Return an asynchronous generator function that steps the asynchronous generator of *function* inside a span."""

    @functools.wraps(function)
    async def steps(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
        opened, body = _open(start, under)
        error: BaseException | None = None
        thrown: BaseException | None = None
        try:
            if record is not None:
                record(opened, args, kwargs)
            # Not a context manager, which costs a third more. Within "try", as a signal handler may raise after each call.
            enter, leave = body.enter, body.leave
            try:
                enter()
                generator = function(*args, **kwargs)
                passed = await _first_step(generator)
            finally:
                leave()
            send = generator.asend
            while True:
                try:
                    # The item or the sent value; empty while the consumer, which may drop the item, goes on.
                    passed = yield (passed, passed := None)[0]
                except BaseException as caught:
                    thrown = caught
                try:
                    enter()
                    passed = await (send(passed) if thrown is None else _athrow(generator, thrown))
                finally:
                    leave()
                thrown = None
        except StopAsyncIteration:
            error = thrown if isinstance(thrown, GeneratorExit) else None
        except BaseException as raised:
            error = raised
            raise
        finally:
            body.close(opened, error)
            error = thrown = None  # whose traceback refers to this frame

    return steps


def _first_step(generator: AsyncGenerator[T, Any]) -> Awaitable[T]:
    """Return the awaitable of the first step of *generator*, which another one steps and closes.

    asyncio and trio are not told of it: at their end, and where garbage is collected, they would close it themselves,
    beside or before the other one.
    """
    if type(generator) is not AsyncGeneratorType:  # its __anext__() may start generators of the program
        return anext(generator)
    hooks = sys.get_asyncgen_hooks()
    try:
        sys.set_asyncgen_hooks(None, _leave)
        return anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _leave(generator: AsyncGenerator[Any, Any]) -> None:
    """Do nothing with *generator*, a finalizer: without one the collector closes it, and it cannot await anything."""


def _throw(generator: Generator[T, Any, Any], exc: BaseException) -> T:
    """Throw *exc* into *generator*. GeneratorExit, too: close() would not let its body go on."""
    try:
        if isinstance(exc, GeneratorExit) and type(generator) is not GeneratorType:  # its close() may do more, or less
            close: Callable[[], Any] = generator.close
            result = close()
            raise exc if result is None else StopIteration(result)
        return generator.throw(exc)
    finally:
        del exc  # whose traceback refers to this frame


async def _athrow(generator: AsyncGenerator[T, Any], exc: BaseException) -> T:
    """The same as ``_throw()`` for an asynchronous generator."""
    try:
        if isinstance(exc, GeneratorExit) and type(generator) is not AsyncGeneratorType:
            await generator.aclose()
            raise exc
        return await generator.athrow(exc)
    finally:
        del exc


class _Steps:
    """The steps of an iterator that is no generator: closing them closes it, dropping them leaves it as it is."""

    def __init__(self, steps: Generator[Any, Any, Any], source: Any) -> None:
        self._steps = steps
        self._source = source

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return next(self._steps)

    def close(self) -> None:
        self._steps.close()
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


class _AsyncSteps:
    """The same as ``_Steps`` for an asynchronous iterator."""

    def __init__(self, steps: AsyncGenerator[Any, Any], source: Any) -> None:
        self._steps = steps
        self._source = source

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._steps.__anext__()

    async def aclose(self) -> None:
        await self._steps.aclose()
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()


def _traced_iterator(function: Callable[[], Any], start: Callable[[], Span], under: Scope) -> Any:
    source = function()

    def items() -> Generator[Any, Any, Any]:
        try:
            while True:
                yield next(source)
        except StopIteration as stop:
            return stop.value

    steps = _traced_generator(items, start, under)
    return lambda: _Steps(steps(), source)


def _traced_async_iterator(function: Callable[[], Any], start: Callable[[], Span], under: Scope) -> Any:
    source = function()

    async def items() -> AsyncGenerator[Any, Any]:
        steps = aiter(source)
        try:
            while True:
                yield await anext(steps)
        except StopAsyncIteration:
            pass

    steps = _traced_async_generator(items, start, under)
    return lambda: _AsyncSteps(steps(), source)


def _code_of(maker: Callable[..., Any]) -> CodeType:
    """Return the code that all functions made by *maker* share."""

    def example() -> None: ...

    code: CodeType = maker(example, span).__code__
    return code


_COROUTINE = _code_of(_traced_coroutine_function)
_GENERATOR = _code_of(_traced_generator)
_ASYNC_GENERATOR = _code_of(_traced_async_generator)
