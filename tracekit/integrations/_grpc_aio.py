"""The asynchronous servers of the gRPC integration: an interceptor, and handlers that open the span of a call.

Not compiled: gRPC asks ``inspect`` whether a handler is a coroutine function.
"""

from __future__ import annotations

import asyncio
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
    Server,
    end,
    fail,
    kind_of,
    number_of,
    settle,
)
from ._grpc_handlers import Tracing
from ._http import report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class AioInterceptor(Tracing, grpc.aio.ServerInterceptor):
    """Traces the handlers of a server of ``grpc.aio``."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler, traced."""
        return self.traced(details.method, await continuation(details))

    def _wrapped(self, method: str | bytes, handler: Any) -> Any:
        path = method.decode("utf-8", "replace") if isinstance(method, bytes) else method
        try:
            streams_in, kind = handler.request_streaming, kind_of(handler)
            behavior = getattr(handler, kind)
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            arguments = handler.request_deserializer, handler.response_serializer
            if inspect.isasyncgenfunction(behavior):
                return make(_stream(self._server, path, behavior, streams_in), *arguments)
            if inspect.iscoroutinefunction(behavior):
                return make(_coroutine(self._server, path, behavior, streams_in), *arguments)
        except Exception as error:  # a custom handler class
            report(error)
            return handler
        return super()._wrapped(path, handler)  # gRPC runs it in a thread


def _coroutine(server: Server, path: str, behavior: Any, streams_in: bool) -> Any:
    """Return a handler that calls the coroutine function *behavior* inside a span."""

    async def serve(request: Any, context: Any) -> Any:
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

    return serve


def _stream(server: Server, path: str, behavior: Any, streams_in: bool) -> Any:
    """Return a handler that steps the asynchronous generator function *behavior* inside a span."""

    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
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
            # Before 3.12, a generator whose step was dropped with its task stays "running", and aclose() raises.
            if not messages.ag_running:
                await messages.aclose()

    return serve


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
            code = number_of(context.code()) or OK
            settle(server_span, code, context.details() if code else "", True)
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
            is_cancelled = isinstance(error, asyncio.CancelledError | GeneratorExit)
            sent = number_of(context.code()) if is_cancelled and context.done() else None
            if sent is not None:  # the server stopped, or the task was cancelled, while context.abort() sent its status
                code = sent
            elif is_cancelled:  # the client gave up, or the deadline passed
                code = DEADLINE_EXCEEDED if context.time_remaining() == 0 else CANCELLED
            else:
                code = number_of(context.code()) or UNKNOWN
            if code in (CANCELLED, DEADLINE_EXCEEDED) or sent is not None or isinstance(error, grpc.aio.AbortError):
                settle(server_span, code, context.details(), True)
                end(server_span)
                return
    except Exception as failed:
        report(failed)
    fail(server_span, error, code)
