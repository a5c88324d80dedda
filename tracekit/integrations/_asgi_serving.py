"""A call of the ASGI middleware, compiled: it resumes the app's coroutine itself.

In the plain form a call is the coroutine of ``TraceMiddleware.__call__``.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ..cython import binding, cclass, compiled, final, freelist, no_gc_clear, nonecheck

if not compiled:
    from ._asgi_exchange import Exchange, Requests, tk_raised, tk_resume

    def quicken(kind: type) -> None:
        """C sets the slot of the class that calls use."""


if TYPE_CHECKING:
    from collections.abc import Awaitable

_RETURNED = object()


@final
@no_gc_clear  # a cycle goes through the app's coroutine, whose frame is cleared
@freelist(64)
@binding(False)
@cclass
class Serving:
    """A call of the middleware, to be awaited once: opens the exchange, resumes the app's coroutine, closes the exchange.

    Compiled form only: a coroutine around the app's would cost a tenth of all that tracing adds to a request. To those
    who look at its frames, it is the app's coroutine.
    """

    if not compiled:
        __slots__ = (
            "_coroutine", "_exchange", "_has_begun", "_is_running", "_middleware", "_receive", "_scope", "_send"
        )  # fmt: skip

        _middleware: Any
        _scope: Any
        _receive: Any
        _send: Any
        _exchange: Exchange | None
        _coroutine: Any  # None before the first step, and after the last
        _has_begun: bool
        _is_running: bool

    def __await__(self) -> Serving:
        return self

    def __iter__(self) -> Serving:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Resume the app's coroutine with *value*."""
        result = self._step(value)
        if result is _RETURNED:
            raise StopIteration
        return result

    def throw(self, *error: Any) -> Any:
        """Raise an exception in the app's coroutine."""
        self._check()
        if not self._has_begun:
            self._has_begun = True
            self._coroutine = _nothing()
        self._is_running = True
        try:
            result = self._coroutine.throw(*error)
        except StopIteration:
            self._end(None)
            raise StopIteration from None  # without the app's value: a call returns None
        except BaseException as raised:
            self._end(raised)
            raise
        self._is_running = False
        return result

    def close(self) -> None:
        """Close the app's coroutine."""
        if self._is_running:
            self._check()
        self._has_begun = True
        if self._coroutine is None:
            return
        self._is_running = True
        try:
            self._coroutine.close()
        except BaseException as raised:
            self._end(raised)
            raise
        self._end(GeneratorExit())

    def __dealloc__(self) -> None:
        if self._coroutine is not None:
            self._coroutine = None  # closes it, with the span open
            self._end(GeneratorExit())

    @property  # type: ignore[misc]  # object's can be set
    def __class__(self) -> Any:
        """The class of coroutines, for ``inspect.iscoroutine()``: some task groups start nothing else."""
        return CoroutineType

    @property
    def cr_frame(self) -> Any:
        """The frame of the app's coroutine."""
        return getattr(self._coroutine, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        """The object that the app's coroutine awaits."""
        return getattr(self._coroutine, "cr_await", None)

    @property
    def cr_code(self) -> Any:
        """The code of the app's coroutine."""
        return getattr(self._coroutine, "cr_code", None)

    @property
    def cr_origin(self) -> None:
        """The place of the call, which only coroutines record."""

    @property
    def cr_state(self) -> str:
        """The state as ``inspect.getcoroutinestate()`` names it (from CPython 3.15 on, it asks the coroutine)."""
        if self._is_running:
            return "CORO_RUNNING"
        if self._coroutine is not None:
            return "CORO_SUSPENDED"
        return "CORO_CLOSED" if self._has_begun else "CORO_CREATED"

    @property
    def cr_running(self) -> bool:
        """Whether the app's coroutine is running."""
        return self._is_running

    @property
    def cr_suspended(self) -> bool:
        """Whether the app's coroutine waits."""
        return self._coroutine is not None and not self._is_running

    def __getattr__(self, name: str) -> Any:
        """The names of the app's coroutine: Cython allows no properties of these names."""
        if name not in ("__name__", "__qualname__"):
            raise AttributeError(f"'coroutine' object has no attribute {name!r}", name=name, obj=self)
        return getattr(self._coroutine, name, "__call__" if name == "__name__" else "TraceMiddleware.__call__")

    def _check(self) -> None:
        if self._is_running:
            raise ValueError("coroutine already executing")
        if self._has_begun and self._coroutine is None:
            raise RuntimeError("cannot reuse already awaited coroutine")

    def _step(self, value: Any) -> Any:
        self._check()
        if not self._has_begun and value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        self._is_running = True
        try:
            if not self._has_begun:
                self._begin()
            result = tk_resume(self._coroutine, value, _RETURNED)
        except StopIteration as raised:  # of the call of an app: it would end this call, as if the app had returned
            self._end(raised)
            raise RuntimeError("coroutine raised StopIteration") from raised
        except BaseException as raised:
            self._end(raised)
            raise
        if result is _RETURNED:
            self._end(None)
        else:
            self._is_running = False
        return result

    @nonecheck(True)
    def _begin(self) -> None:
        """Open the exchange and call the app."""
        self._has_begun = True
        middleware, scope = self._middleware, self._scope
        requests: Requests = middleware._requests
        exchange = requests.open(scope, self._receive, self._send)
        if exchange is None:
            self._coroutine = middleware._pass(scope, self._receive, self._send)
        else:
            self._exchange = exchange
            self._coroutine = middleware.app(scope, exchange._receiver(), exchange._sender())
        self._middleware = self._scope = self._receive = self._send = None
        if type(self._coroutine) is not CoroutineType:
            self._coroutine = _wait_for(self._coroutine)

    def _end(self, error: BaseException | None) -> None:
        """Close the exchange after the app has returned, or has raised *error*."""
        self._coroutine = None
        self._is_running = False
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.leave(error)

    def _fail(self) -> None:
        """Handle an exception that the app's coroutine has raised in C."""
        try:
            tk_raised()
        except BaseException as raised:
            self._end(raised)
            raise


def quicken_middleware(kind: type) -> None:
    """Have calls of an instance of *kind*, the middleware's class, return a ``Serving``. The plain form changes nothing."""
    if not hasattr(kind, "_pass"):
        raise TypeError("kind must be a class of the middleware")
    quicken(kind)


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable


async def _nothing() -> None: ...


def _serving(middleware: Any, scope: Any, receive: Any, send: Any) -> Serving:
    serving = Serving.__new__(Serving)
    serving._middleware = middleware
    serving._scope = scope
    serving._receive = receive
    serving._send = send
    return serving
