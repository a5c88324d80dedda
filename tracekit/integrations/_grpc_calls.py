"""Methods of the stubs of ``grpc`` and ``grpc.aio`` channels: each starts the span of a call, which ends with its status.

Compiled: see ``_client.py``.
"""

from __future__ import annotations

import functools
from typing import Any

import grpc
import grpc.aio

from ..cython import compiled
from ._grpc import KINDS, OK, UNKNOWN, AsyncCounted, Counted
from ._http import report

if not compiled:
    from .._core.span import Span  # noqa: TC001 - compiled, it comes from the .pxd
    from ._grpc import Method, end, end_with, fail, number_of, settle
    from ._suppression import is_suppressed


class _Stub:
    """The method *inner* of a stub, traced; other attributes are those of *inner*."""

    __slots__ = ("_inner", "_method")
    _is_stream = False  # of requests

    def __init__(self, inner: Any, method: Method) -> None:
        self._inner, self._method = inner, method

    def __getattr__(self, name: str) -> Any:
        # Not set, in an object that copy() made; or a cycle of these objects: C has no limit of recursion.
        if name == "_inner" or isinstance(self._inner, (_Stub, Counted)):
            raise AttributeError(name)
        return getattr(self._inner, name)


# ---- grpc


class _Call(_Stub):
    __slots__ = ()

    def _wait(self, call: Any, request: Any, timeout: Any, metadata: Any, args: Any, kwargs: Any) -> Any:
        if not self._method.is_active or is_suppressed():
            return call(request, timeout, metadata, *args, **kwargs)
        client_span, metadata = self._method.start(metadata)
        sent = None
        if self._is_stream:
            request = sent = Counted(request)
        try:
            response = call(request, timeout, metadata, *args, **kwargs)
        except BaseException as error:
            _count(client_span, sent)
            if isinstance(error, grpc.RpcError) and hasattr(error, "code"):
                end_with(client_span, error)
            else:
                fail(client_span, error)
            raise
        _count(client_span, sent)
        settle(client_span, OK)
        end(client_span)
        return response

    def _start(self, call: Any, request: Any, timeout: Any, metadata: Any, args: Any, kwargs: Any) -> Any:
        if not self._method.is_active or is_suppressed():
            return call(request, timeout, metadata, *args, **kwargs)
        client_span, metadata = self._method.start(metadata)
        sent = None
        if self._is_stream:
            request = sent = Counted(request)
        try:
            started = call(request, timeout, metadata, *args, **kwargs)
        except BaseException as error:
            fail(client_span, error)
            raise
        try:
            finish = functools.partial(_done, client_span, started, sent)
            if not started.add_callback(finish):
                finish()
        except Exception as error:  # a call object without callbacks, of an interceptor
            report(error)
            end(client_span)
        return started


class _UnaryUnary(_Call, grpc.UnaryUnaryMultiCallable):
    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make a call and wait for its response."""
        return self._wait(self._inner, request, timeout, metadata, args, kwargs)

    def with_call(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make a call, wait for its response, and return it with the call object."""
        return self._wait(self._inner.with_call, request, timeout, metadata, args, kwargs)

    def future(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Start a call."""
        return self._start(self._inner.future, request, timeout, metadata, args, kwargs)


class _StreamUnary(_Call, grpc.StreamUnaryMultiCallable):
    _is_stream = True

    # gRPC gives the first argument of streams another name.
    def __call__(
        self, request_iterator: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Make a call and wait for its response."""
        return self._wait(self._inner, request_iterator, timeout, metadata, args, kwargs)

    def with_call(
        self, request_iterator: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Make a call, wait for its response, and return it with the call object."""
        return self._wait(self._inner.with_call, request_iterator, timeout, metadata, args, kwargs)

    def future(
        self, request_iterator: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Start a call."""
        return self._start(self._inner.future, request_iterator, timeout, metadata, args, kwargs)


class _UnaryStream(_Call, grpc.UnaryStreamMultiCallable):
    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self._start(self._inner, request, timeout, metadata, args, kwargs)


class _StreamStream(_Call, grpc.StreamStreamMultiCallable):
    _is_stream = True

    def __call__(
        self, request_iterator: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return self._start(self._inner, request_iterator, timeout, metadata, args, kwargs)


METHODS: dict[str, Any] = dict(zip(KINDS, (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream), strict=True))


def _count(client_span: Span, sent: Counted | AsyncCounted | None) -> None:
    if sent is not None and client_span.is_recording:
        client_span.set_attribute("rpc.requests_per_rpc", sent.count)


def _done(client_span: Span, call: Any, sent: Counted | None) -> None:
    """End the span of *call*, which has its status: in a thread of gRPC's."""
    _count(client_span, sent)
    end_with(client_span, call)


# ---- grpc.aio


class _AioCall(_Stub):
    __slots__ = ()

    def __call__(self, *args: Any, metadata: Any = None, **kwargs: Any) -> Any:
        """Start a call."""
        if not self._method.is_active or is_suppressed():
            return self._inner(*args, metadata=metadata, **kwargs)
        client_span, metadata = self._method.start(metadata)
        if type(metadata) is list:  # interceptors expect a Metadata, which older channels make of a tuple only (1.60)
            metadata = tuple(metadata)
        sent = None
        if self._is_stream:
            args, kwargs, sent = _counted(args, kwargs)
        try:
            call = self._inner(*args, metadata=metadata, **kwargs)
        except BaseException as error:
            fail(client_span, error)
            raise
        try:
            call.add_done_callback(functools.partial(_aio_done, client_span, sent))
        except Exception as error:
            report(error)
            end(client_span)
        return call


class _AioUnaryUnary(_AioCall, grpc.aio.UnaryUnaryMultiCallable):
    pass


class _AioUnaryStream(_AioCall, grpc.aio.UnaryStreamMultiCallable):
    pass


class _AioStreamUnary(_AioCall, grpc.aio.StreamUnaryMultiCallable):
    _is_stream = True


class _AioStreamStream(_AioCall, grpc.aio.StreamStreamMultiCallable):
    _is_stream = True


AIO_METHODS: dict[str, Any] = dict(
    zip(KINDS, (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream), strict=True)
)


def _counted(args: Any, kwargs: Any) -> tuple[Any, Any, AsyncCounted | Counted | None]:
    """Return the arguments of a call with its requests counted; None for a call that writes them one by one."""
    requests = args[0] if args else kwargs.get("request_iterator")
    sent: AsyncCounted | Counted
    if hasattr(requests, "__aiter__"):
        sent = AsyncCounted(requests)
    elif hasattr(requests, "__iter__"):
        sent = Counted(iter(requests))
    else:
        return args, kwargs, None
    if args:
        return (sent, *args[1:]), kwargs, sent
    return args, {**kwargs, "request_iterator": sent}, sent


def _aio_done(client_span: Span, sent: AsyncCounted | Counted | None, call: Any) -> None:
    """End the span of *call*, which has its status."""
    try:
        _count(client_span, sent)
        if client_span.is_recording:
            code = number_of(_now(call.code()))
            if code is None:
                code = UNKNOWN
            settle(client_span, code, _now(call.details()) if code else "")
    except Exception as error:  # that of an interceptor, which ended the call
        fail(client_span, error)
    end(client_span)


def _now(coroutine: Any) -> Any:
    """Return the result of a coroutine that need not wait, as the call is done; None if it waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    return None
