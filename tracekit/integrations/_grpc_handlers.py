"""The synchronous servers of the gRPC integration: an interceptor, and handlers that open the span of a call.

Compiled: see ``_client.py``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from grpc import _server

from .. import SpanContext, use_context
from .._core.body import open_body
from ..cython import compiled
from ._grpc import CANCELLED, DEADLINE_EXCEEDED, OK, UNKNOWN, Counted, kind_of
from ._http import report

if not compiled:
    from .._core.span import Span
    from ._grpc import Server, end, fail, number_of, settle

if TYPE_CHECKING:
    from .._core.body import Body


_MAX_KNOWN: Final = 1024


class Tracing:
    """Traces the handlers that a server finds for its calls."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: dict[Any, tuple[Any, Any]] = {}  # by method: its handler, and the same one traced

    def traced(self, method: Any, handler: Any) -> Any:
        """Return *handler*, traced."""
        if handler is None or not self._server.is_active:
            return handler
        known = self._known.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        traced = self._wrapped(method, handler)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[method] = handler, traced
        return traced

    def _wrapped(self, method: Any, handler: Any) -> Any:
        """Return *handler* in a new traced one, or itself if it cannot be traced."""
        return Sync(self._server, method, handler).handler


class Interceptor(Tracing, grpc.ServerInterceptor):
    """Traces the handlers of a server of ``grpc``."""

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler, traced."""
        return self.traced(details.method, continuation(details))


class Handlers(grpc.GenericRpcHandler):
    """The handlers of *inner*, traced by *interceptor*, which gRPC does not know: a call costs it less."""

    def __init__(self, interceptor: Any, inner: Any) -> None:
        self._traced, self._inner = interceptor.traced, inner

    def service(self, details: Any) -> Any:
        """Return the handler of a call, or None."""
        return self._traced(details.method, self._inner.service(details))


class Sync:
    """A synchronous handler of a method, traced: ``handler``."""

    __slots__ = ("_behavior", "_method", "_server", "_streams_in", "_streams_out", "handler")

    def __init__(self, server: Server, method: str, handler: Any) -> None:
        self._server, self._method, self.handler = server, method, handler
        try:
            self._streams_in, self._streams_out = handler.request_streaming, handler.response_streaming
            kind = kind_of(handler)
            self._behavior = getattr(handler, kind)
            if getattr(self._behavior, "experimental_non_blocking", False):  # answers by gRPC's callback
                return
            serve: Any = self._stream if self._streams_out else self._unary
            if hasattr(self._behavior, "experimental_thread_pool"):
                serve = functools.partial(serve)
                serve.experimental_thread_pool = self._behavior.experimental_thread_pool
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            self.handler = make(serve, handler.request_deserializer, handler.response_serializer)
        except Exception as error:  # a custom handler class
            report(error)

    def _unary(self, request: Any, context: Any) -> Any:
        server_span = self._server.start(self._method, context)
        if not isinstance(server_span, Span):
            return self._untraced(server_span, request, context)
        received = None
        if self._streams_in:
            request = received = Counted(request)
        server_span.__enter__()
        try:
            response = self._behavior(request, context)
        except BaseException as error:
            _count_received(server_span, received)
            _raised(server_span, context, error)
            raise
        _count_received(server_span, received)
        _returned(server_span, context)
        end(server_span)
        return response

    def _stream(self, request: Any, context: Any) -> Any:
        server_span = self._server.start(self._method, context)
        if not isinstance(server_span, Span):
            return self._untraced(server_span, request, context)
        received = None
        if self._streams_in:
            request = received = Counted(request)
        _, body = open_body(lambda: server_span, None)
        responses = _Responses(server_span, context, received, body)
        responses.begin(self._behavior, request)
        return responses

    def _untraced(self, not_traced: SpanContext | None, request: Any, context: Any) -> Any:
        if not_traced is None:
            return self._behavior(request, context)
        with use_context(not_traced):
            return self._behavior(request, context)


class _Responses:
    """Iterator of a handler's messages, each made where the span is current."""

    __slots__ = ("_body", "_context", "_count", "_messages", "_received", "_span")

    def __init__(self, server_span: Span, context: Any, received: Counted | None, body: Body) -> None:
        self._span, self._context, self._received, self._body = server_span, context, received, body
        self._count = 0

    def begin(self, behavior: Any, request: Any) -> None:
        """Call the handler."""
        self._body.enter()
        try:
            self._messages = behavior(request, self._context)
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._body.leave()
        try:
            # gRPC drops the iterator, unfinished, when the client has given up.
            if self._context.add_callback(self._terminated) is False:  # None, in grpc.aio
                self._terminated()
        except Exception as error:
            report(error)

    def __iter__(self) -> _Responses:
        return self

    def __next__(self) -> Any:
        self._body.enter()
        try:
            message = next(self._messages)
        except StopIteration:
            self._record()
            _returned(self._span, self._context)
            end(self._span)
            raise
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._body.leave()
        self._count += 1
        return message

    next = __next__

    def close(self) -> None:
        """Close the handler's generator."""
        close = getattr(self._messages, "close", None)
        if close is not None:
            close()

    def _fail(self, error: BaseException) -> None:
        self._record()
        _raised(self._span, self._context, error)

    def _record(self) -> None:
        if self._span.is_recording:
            _count_received(self._span, self._received)
            self._span.set_attribute("rpc.responses_per_rpc", self._count)

    def _terminated(self) -> None:
        # In a thread of gRPC's, also after a normal end.
        if not self._span.ended:
            self._record()
            _returned(self._span, self._context)
            self._span.end()


def _count_received(server_span: Span, received: Counted | None) -> None:
    if received is not None and server_span.is_recording:
        server_span.set_attribute("rpc.requests_per_rpc", received.count)


def _returned(server_span: Span, context: Any) -> None:
    """Record the status of a call whose handler has returned."""
    if not server_span.is_recording or not hasattr(context, "code"):  # grpc.aio does not tell a synchronous handler
        return
    try:
        code = number_of(context.code())
        if code is None:
            settle(server_span, OK if _is_active(context) else _gone(context))
        else:
            settle(server_span, code, context.details() if code else "", True)
    except Exception as error:
        report(error)


def _is_active(context: Any) -> bool:
    """Return ``context.is_active()``, for gRPC's contexts without its lock, which takes longer than a span's end."""
    if type(context) is _server._Context:
        state = context._state
        return not state.statused and state.client is not _server._CANCELLED
    active: bool = context.is_active()
    return active


def _gone(context: Any) -> int:
    """Return the status of a call that ended before its handler."""
    return CANCELLED if context.time_remaining() else DEADLINE_EXCEEDED


def _raised(server_span: Span, context: Any, error: BaseException) -> None:
    """Record that the handler has raised *error*, and end the span."""
    code: int | None = None
    try:
        if isinstance(error, grpc.aio.AbortError):  # its code is not known here
            end(server_span)
            return
        if server_span.is_recording and hasattr(context, "code"):
            code = number_of(context.code())
            is_abort = type(error) is Exception and not error.args and code is not None  # of context.abort()
            if is_abort or not context.is_active():  # or the request iterator's, for a client that has gone
                settle(server_span, code if code is not None else _gone(context), context.details(), True)
                end(server_span)
                return
    except Exception as failed:
        report(failed)
    fail(server_span, error, UNKNOWN if code is None else code)
