"""The asynchronous half of the gRPC integration: methods of ``grpc.aio`` channels, and an interceptor of its servers."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .. import Span, use_context
from ._grpc import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    OK,
    UNKNOWN,
    AsyncCounted,
    Counted,
    Known,
    Method,
    Server,
    end,
    fail,
    number_of,
    remember,
    settle,
)
from ._http import report
from ._suppression import is_suppressed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["AIO_METHODS", "AioInterceptor"]


# ---- clients


class _AioCall:
    """A method of a stub."""

    __slots__ = ("_inner", "_method")

    def __init__(self, inner: Any, method: Method) -> None:
        self._inner, self._method = inner, method

    def __call__(self, *args: Any, metadata: Any = None, **kwargs: Any) -> Any:
        """Start a call."""
        if not self._method.is_active or is_suppressed():
            return self._inner(*args, metadata=metadata, **kwargs)
        client_span, metadata = self._method.start(metadata)
        sent = None
        if self._is_stream:
            args, kwargs, sent = _counted(args, kwargs)
        try:
            call = self._inner(*args, metadata=metadata, **kwargs)
        except BaseException as error:
            fail(client_span, error)
            raise
        try:
            call.add_done_callback(functools.partial(_done, client_span, sent))
        except Exception as error:
            report(error)
            end(client_span)
        return call

    _is_stream = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _UnaryUnary(_AioCall, grpc.aio.UnaryUnaryMultiCallable):
    pass


class _UnaryStream(_AioCall, grpc.aio.UnaryStreamMultiCallable):
    pass


class _StreamUnary(_AioCall, grpc.aio.StreamUnaryMultiCallable):
    _is_stream = True


class _StreamStream(_AioCall, grpc.aio.StreamStreamMultiCallable):
    _is_stream = True


AIO_METHODS: dict[str, Any] = {
    "unary_unary": _UnaryUnary,
    "unary_stream": _UnaryStream,
    "stream_unary": _StreamUnary,
    "stream_stream": _StreamStream,
}


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


def _done(client_span: Span, sent: AsyncCounted | Counted | None, call: Any) -> None:
    """End the span of *call*, which has its status."""
    try:
        if client_span.is_recording:
            if sent is not None:
                client_span.set_attribute("rpc.requests_per_rpc", sent.count)
            code = number_of(_now(call.code()))
            settle(client_span, UNKNOWN if code is None else code, _now(call.details()))
    except Exception as error:
        report(error)
    end(client_span)


def _now(coroutine: Any) -> Any:
    """Return the result of a coroutine that need not wait, as the call is done; None if it waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    coroutine.close()
    return None


# ---- servers


class AioInterceptor(grpc.aio.ServerInterceptor):
    """Trace the handlers of *server*; *sync* does so for handlers that gRPC runs in threads."""

    def __init__(self, server: Server, sync: Any) -> None:
        self._server = server
        self._sync = sync
        self._known: Known = {}

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler, traced."""
        handler = await continuation(details)
        if handler is None or not self._server.is_active:
            return handler
        known = self._known.get(details.method)
        if known is not None and known[0] is handler:
            return known[1]
        try:
            return remember(self._known, details.method, handler, self._traced(details.method, handler))
        except Exception as error:  # a handler class of the program's own
            report(error)
            return handler

    def _traced(self, method: str | bytes, handler: Any) -> Any:
        path = method.decode("utf-8", "replace") if isinstance(method, bytes) else method
        streams_in, streams_out = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
        behavior = getattr(handler, kind)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        arguments = handler.request_deserializer, handler.response_serializer
        if inspect.isasyncgenfunction(behavior):
            return make(functools.partial(_stream, self._server, path, behavior, streams_in), *arguments)
        if inspect.iscoroutinefunction(behavior):
            return make(functools.partial(_coroutine, self._server, path, behavior, streams_in), *arguments)
        return self._sync(self._server, path, handler).handler


async def _coroutine(server: Server, path: str, behavior: Any, streams_in: bool, request: Any, context: Any) -> Any:
    server_span = server.start(path, context)
    if not isinstance(server_span, Span):
        if server_span is None:
            return await behavior(request, context)
        with use_context(server_span):
            return await behavior(request, context)
    received = None
    if streams_in:
        request = received = AsyncCounted(request)
    server_span.__enter__()
    try:
        response = await behavior(request, context)
    except BaseException as error:
        _raised(server_span, context, error, received)
        raise
    _returned(server_span, context, received)
    return response


async def _stream(
    server: Server, path: str, behavior: Any, streams_in: bool, request: Any, context: Any
) -> AsyncIterator[Any]:
    server_span = server.start(path, context)
    received = None
    count = 0
    if isinstance(server_span, Span):
        scope: Any = server_span
        if streams_in:
            request = received = AsyncCounted(request)
    else:
        scope = use_context(server_span) if server_span is not None else None
    # gRPC runs handler and generator in one task, so the scope stays open over the steps.
    if scope is not None:
        scope.__enter__()
    messages = behavior(request, context)
    try:
        async for message in messages:
            count += 1
            yield message
    except BaseException as error:
        if isinstance(server_span, Span):
            _raised(server_span, context, error, received, count)
        raise
    else:
        if isinstance(server_span, Span):
            _returned(server_span, context, received, count)
    finally:
        if scope is not None:
            scope.__exit__(None, None, None)
        await messages.aclose()


def _record(server_span: Span, received: AsyncCounted | None, count: int | None) -> None:
    if received is not None:
        server_span.set_attribute("rpc.requests_per_rpc", received.count)
    if count is not None:
        server_span.set_attribute("rpc.responses_per_rpc", count)


def _returned(server_span: Span, context: Any, received: AsyncCounted | None, count: int | None = None) -> None:
    """Record the status of a call whose handler has returned, and end the span."""
    if server_span.is_recording:
        try:
            _record(server_span, received, count)
            settle(server_span, number_of(context.code()) or OK, context.details(), is_server=True)
        except Exception as error:
            report(error)
    end(server_span)


def _raised(
    server_span: Span, context: Any, error: BaseException, received: AsyncCounted | None, count: int | None = None
) -> None:
    """Record that the handler has raised *error*, and end the span."""
    code: int | None = None
    try:
        if server_span.is_recording:
            _record(server_span, received, count)
            if isinstance(error, asyncio.CancelledError | GeneratorExit):  # the client gave up, or the deadline passed
                code = DEADLINE_EXCEEDED if context.time_remaining() == 0 else CANCELLED
            else:
                code = number_of(context.code()) or UNKNOWN
            if code in (CANCELLED, DEADLINE_EXCEEDED) or isinstance(error, grpc.aio.AbortError):
                settle(server_span, code, context.details(), is_server=True)
                end(server_span)
                return
    except Exception as failed:
        report(failed)
    fail(server_span, error, code)
