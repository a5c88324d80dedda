"""gRPC: a client span for each call of a channel, and a server span for each call that a server handles.

    tracekit.integrations.grpc.instrument()           # all channels and servers that are made from now on
    tracekit.integrations.grpc.instrument(channel)    # or one channel, before the stubs are made
    server = grpc.server(pool, interceptors=[server_interceptor()])
    server = grpc.aio.server(interceptors=[aio_server_interceptor()])

All four kinds of call, on ``grpc`` and ``grpc.aio``. A client's call object is the library's own. Its span ends with the
call's status, whenever that arrives: with the last message of a stream, at the deadline, when it is cancelled. A span
is one call of the channel itself, so interceptors that repeat a call have one for each attempt.

A server's span is current in the handler, and while each message of a stream is made, in whichever thread. It ends when
the handler has returned its last message, or when the client gives up on a stream. A method that the server does not
have makes no span. For streams, ``rpc.requests_per_rpc`` and, on servers, ``rpc.responses_per_rpc`` count the messages.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from .. import Span, SpanContext, use_context
from .._core.scopes import Body, current_scope, swap_scope
from ._grpc import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    OK,
    UNKNOWN,
    Client,
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
from ._grpc_aio import AIO_METHODS, AioInterceptor
from ._http import report
from ._patch import Patches
from ._suppression import is_suppressed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["aio_server_interceptor", "instrument", "server_interceptor", "uninstrument"]

_CLIENT_OPTIONS = ("propagate_to",)
_FIELD = "_tracekit_client"  # of a channel that instrument(channel) traces
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

_patches = Patches()
_whole: list[Client | Server] = []


def server_interceptor(**options: Any) -> grpc.ServerInterceptor:
    """Return an interceptor for ``grpc.server()``, which should be the first.

    *options* are *trust*, *routes*, *forced_per_s* and *exclude*, see ``asgi.TraceMiddleware``; paths are
    ``/package.Service/Method``. Raises ``TypeError`` or ``ValueError`` for invalid ones.
    """
    return _Interceptor(Server(**options))


def aio_server_interceptor(**options: Any) -> grpc.aio.ServerInterceptor:
    """Return an interceptor for ``grpc.aio.server()``; see ``server_interceptor()``."""
    return AioInterceptor(Server(**options), _Sync)


def instrument(target: grpc.Channel | grpc.aio.Channel | None = None, **options: Any) -> None:
    """Trace the calls of *target*, or all channels and servers that are made from now on.

    *options* are *propagate_to* for channels, and those of ``server_interceptor()`` for servers. A second call changes
    nothing. Raises ``TypeError`` for other objects, and for invalid options.
    """
    if target is not None:
        _check(target)
        client = Client(**options)
        if not hasattr(target, _FIELD):
            setattr(target, _FIELD, client)
            for kind, wrap in _wrappers(target).items():
                setattr(target, kind, functools.partial(_made, client, wrap, getattr(target, kind), target))
        return
    if _patches.is_active:
        return
    client = Client(**{name: value for name, value in options.items() if name in _CLIENT_OPTIONS})
    server = Server(**{name: value for name, value in options.items() if name not in _CLIENT_OPTIONS})
    _whole[:] = [client, server]
    from grpc import _channel
    from grpc.aio import _channel as _aio_channel

    for owner, wrappers in ((_channel.Channel, METHODS), (_aio_channel.Channel, AIO_METHODS)):
        for kind, wrap in wrappers.items():
            _patches.replace(owner, kind, functools.partial(_patched, client, wrap))
    _patches.replace(grpc, "server", functools.partial(_server, _Interceptor(server)))
    _patches.replace(grpc.aio, "server", functools.partial(_server, AioInterceptor(server, _Sync)))


def uninstrument(target: grpc.Channel | grpc.aio.Channel | None = None) -> None:
    """Undo ``instrument(target)``. Stubs and servers that were made meanwhile stop tracing."""
    if target is not None:
        _check(target)
        client = vars(target).pop(_FIELD, None)
        if client is not None:
            client.is_active = False
            for kind in _KINDS:
                vars(target).pop(kind, None)
        return
    _patches.restore()
    for one in _whole:
        one.is_active = False
    _whole.clear()


def _check(target: object) -> None:
    if isinstance(target, grpc.Server | grpc.aio.Server):
        raise TypeError("a server gets its interceptors when it is made: interceptors=[server_interceptor()]")
    if not isinstance(target, grpc.Channel | grpc.aio.Channel):
        raise TypeError(f"target must be a grpc.Channel or grpc.aio.Channel, not {type(target).__name__}")


def _wrappers(channel: Any) -> dict[str, Any]:
    return AIO_METHODS if isinstance(channel, grpc.aio.Channel) else METHODS


def _patched(client: Client, wrap: Any, original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def make(channel: Any, *args: Any, **kwargs: Any) -> Any:
        return _made(client, wrap, functools.partial(original, channel), channel, *args, **kwargs)

    return make


def _made(client: Client, wrap: Any, original: Callable[..., Any], channel: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what *original* makes for a stub, traced."""
    inner = original(*args, **kwargs)
    try:
        path = args[0] if args else kwargs["method"]
        if client.is_active and not isinstance(inner, wrap):
            return wrap(inner, Method(client, channel, path))
    except Exception as error:  # the stub works untraced
        report(error)
    return inner


def _server(interceptor: Any, original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def server(*args: Any, **kwargs: Any) -> Any:
        if _patches.is_active:
            given = args[2] if len(args) > 2 else kwargs.get("interceptors")
            inside = tuple(given or ())
            if not any(isinstance(one, type(interceptor)) for one in inside):
                inside = (interceptor, *inside)
            if len(args) > 2:
                args = (*args[:2], inside, *args[3:])
            else:
                kwargs["interceptors"] = inside
        return original(*args, **kwargs)

    return server


# ---- clients


class _Call:
    """A method of a stub."""

    __slots__ = ("_inner", "_method")

    def __init__(self, inner: Any, method: Method) -> None:
        self._inner, self._method = inner, method

    def _wait(self, call: Any, request: Any, timeout: Any, metadata: Any, args: Any, kwargs: Any) -> Any:
        if not self._method.is_active or is_suppressed():
            return call(request, timeout, metadata, *args, **kwargs)
        client_span, metadata = self._method.start(metadata)
        sent = None
        if self._is_stream:
            request = sent = Counted(request)
        try:
            response = call(request, timeout, metadata, *args, **kwargs)
        except grpc.RpcError as error:
            _count(client_span, sent)
            _end_with(client_span, error)
            raise
        except BaseException as error:
            fail(client_span, error)
            raise
        _count(client_span, sent)
        settle(client_span, OK)
        client_span.end()
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

    _is_stream = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _OneResponse(_Call):
    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make a call and wait for its response."""
        return self._wait(self._inner, request, timeout, metadata, args, kwargs)

    def with_call(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make a call, wait for its response, and return it with the call object."""
        return self._wait(self._inner.with_call, request, timeout, metadata, args, kwargs)

    def future(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Start a call."""
        return self._start(self._inner.future, request, timeout, metadata, args, kwargs)


class _UnaryUnary(_OneResponse, grpc.UnaryUnaryMultiCallable):
    pass


class _StreamUnary(_OneResponse, grpc.StreamUnaryMultiCallable):
    _is_stream = True


class _UnaryStream(_Call, grpc.UnaryStreamMultiCallable):
    def __call__(self, request: Any, timeout: Any = None, metadata: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self._start(self._inner, request, timeout, metadata, args, kwargs)


class _StreamStream(_UnaryStream, grpc.StreamStreamMultiCallable):
    _is_stream = True


METHODS: dict[str, Any] = dict(zip(_KINDS, (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream), strict=True))


def _count(client_span: Span, sent: Counted | None) -> None:
    if sent is not None and client_span.is_recording:
        client_span.set_attribute("rpc.requests_per_rpc", sent.count)


def _done(client_span: Span, call: Any, sent: Counted | None) -> None:
    """End the span of *call*, which has its status: in a thread of gRPC's."""
    _count(client_span, sent)
    _end_with(client_span, call)


def _end_with(client_span: Span, call: Any) -> None:
    """End the span with the status of *call*, a call object or the error that is one."""
    try:
        if client_span.is_recording:
            code = number_of(call.code())
            settle(client_span, UNKNOWN if code is None else code, call.details())
    except Exception as error:  # of an interceptor's own call object
        report(error)
    end(client_span)


# ---- servers


class _Interceptor(grpc.ServerInterceptor):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._known: Known = {}

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the handler, traced."""
        handler = continuation(details)
        if handler is None or not self._server.is_active:
            return handler
        known = self._known.get(details.method)
        if known is not None and known[0] is handler:
            return known[1]
        return remember(self._known, details.method, handler, _Sync(self._server, details.method, handler).handler)


class _Sync:
    """A synchronous handler of a method, traced: ``handler``."""

    __slots__ = ("_behavior", "_method", "_server", "_streams_in", "_streams_out", "handler")

    def __init__(self, server: Server, method: str, handler: Any) -> None:
        self._server, self._method, self.handler = server, method, handler
        try:
            self._streams_in, self._streams_out = handler.request_streaming, handler.response_streaming
            kind = f"{'stream' if self._streams_in else 'unary'}_{'stream' if self._streams_out else 'unary'}"
            self._behavior = getattr(handler, kind)
            if getattr(self._behavior, "experimental_non_blocking", False):  # answers by a callback of gRPC's own
                return
            serve: Any = self._stream if self._streams_out else self._unary
            if hasattr(self._behavior, "experimental_thread_pool"):
                serve = functools.partial(serve)
                serve.experimental_thread_pool = self._behavior.experimental_thread_pool
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            self.handler = make(serve, handler.request_deserializer, handler.response_serializer)
        except Exception as error:  # a handler class of the program's own
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
        held = swap_scope(None)
        swap_scope(held)
        under = current_scope()
        server_span.__enter__()
        responses = _Responses(server_span, context, received, Body(swap_scope(held), under))
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
            self._messages = iter(behavior(request, self._context))
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
            settle(server_span, OK if context.is_active() else _gone(context))
        else:
            settle(server_span, code, context.details(), is_server=True)
    except Exception as error:
        report(error)


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
                settle(server_span, code if code is not None else _gone(context), context.details(), is_server=True)
                end(server_span)
                return
    except Exception as failed:
        report(failed)
    fail(server_span, error, UNKNOWN if code is None else code)
