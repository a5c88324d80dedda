"""gRPC: a client span for each call of a channel, and a server span for each call that a server handles.

    tracekit.integrations.grpc.instrument()           # all channels and servers that are made from now on
    tracekit.integrations.grpc.instrument(channel)    # or one channel, before the stubs are made
    server = grpc.server(pool, interceptors=[server_interceptor()])
    server = grpc.aio.server(interceptors=[aio_server_interceptor()])

All four kinds of call, on ``grpc`` and ``grpc.aio``. A client's call object is the library's own. Its span ends with the
call's status, whenever that arrives: with the last message of a stream, at the deadline, when it is cancelled. A span
is one call of the channel itself, so interceptors around it that repeat a call have one for each attempt. A channel of
``grpc.aio`` contains its interceptors: their attempts are one span.

A server's span is current in the handler, and while each message of a stream is made, in whichever thread. It ends when
the handler has returned its last message, or when the client gives up on a stream. A method that the server does not
have makes no span. For streams, ``rpc.requests_per_rpc`` and, on servers, ``rpc.responses_per_rpc`` count the messages.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from ._grpc import KINDS, Client, Method, Server
from ._grpc_aio import AioInterceptor
from ._grpc_calls import AIO_METHODS, METHODS
from ._grpc_handlers import Handlers, Interceptor
from ._http import report
from ._patch import Patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["aio_server_interceptor", "instrument", "server_interceptor", "uninstrument"]

_CLIENT_OPTIONS = ("propagate_to",)
_FIELD = "_tracekit_client"  # of a channel that instrument(channel) traces
_INTERCEPTOR = "_tracekit_interceptor"  # of a server without interceptors, which traces its handlers

_patches = Patches()
_whole: list[Client | Server] = []


def server_interceptor(**options: Any) -> grpc.ServerInterceptor:
    """Return an interceptor for ``grpc.server()``, which should be the first.

    *options* are *trust*, *routes*, *forced_per_s* and *exclude*, see ``asgi.TraceMiddleware``; paths are
    ``/package.Service/Method``. Raises ``TypeError`` or ``ValueError`` for invalid ones.
    """
    return Interceptor(Server(**options))


def aio_server_interceptor(**options: Any) -> grpc.aio.ServerInterceptor:
    """Return an interceptor for ``grpc.aio.server()``; see ``server_interceptor()``."""
    return AioInterceptor(Server(**options))


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
            for kind, wrap in (AIO_METHODS if isinstance(target, grpc.aio.Channel) else METHODS).items():
                setattr(target, kind, functools.partial(_made, client, wrap, getattr(target, kind), target))
        return
    if _patches.is_active:
        return
    client = Client(**{name: value for name, value in options.items() if name in _CLIENT_OPTIONS})
    server = Server(**{name: value for name, value in options.items() if name not in _CLIENT_OPTIONS})
    _whole[:] = [client, server]
    from grpc import _channel
    from grpc import _server as _servers
    from grpc.aio import _channel as _aio_channel
    from grpc.aio import _server as _aio_servers

    servers = ((_servers._Server, Interceptor(server)), (_aio_servers.Server, AioInterceptor(server)))
    for made, interceptor in servers:
        _patches.replace(made, "__init__", functools.partial(_init, interceptor))
        _patches.replace(made, "add_generic_rpc_handlers", _add_generic)
        _patches.replace(made, "add_registered_method_handlers", _add_registered)
    for owner, wrappers in ((_channel.Channel, METHODS), (_aio_channel.Channel, AIO_METHODS)):
        for kind, wrap in wrappers.items():
            _patches.replace(owner, kind, functools.partial(_patched, client, wrap))


def uninstrument(target: grpc.Channel | grpc.aio.Channel | None = None) -> None:
    """Undo ``instrument(target)``. Stubs and servers that were made meanwhile stop tracing."""
    if target is not None:
        _check(target)
        client = vars(target).pop(_FIELD, None)
        if client is not None:
            client.is_active = False
            for kind in KINDS:
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


def _patched(client: Client, wrap: Any, original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def make(channel: Any, *args: Any, **kwargs: Any) -> Any:
        return _made(client, wrap, functools.partial(original, channel), channel, *args, **kwargs)

    return make


def _made(client: Client, wrap: Any, original: Callable[..., Any], channel: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the callable that *original* makes for a stub, traced."""
    inner = original(*args, **kwargs)
    try:
        path = args[0] if args else kwargs["method"]
        if client.is_active and not isinstance(inner, wrap):
            return wrap(inner, Method(client, channel, path))
    except Exception as error:  # the stub works untraced
        report(error)
    return inner


def _init(interceptor: Any, original: Callable[..., Any]) -> Any:
    """Return the function that replaces *original*, which initializes servers.

    Interceptors cost gRPC more than a call's span does. So a server that has none gets none: its handlers are replaced.
    """

    @functools.wraps(original)
    def init(
        server: Any, thread_pool: Any, generic_handlers: Any, interceptors: Any, *args: Any, **kwargs: Any
    ) -> None:
        if _patches.is_active:
            interceptors = tuple(interceptors or ())
            if not interceptors:
                setattr(server, _INTERCEPTOR, interceptor)
                generic_handlers = _traced(interceptor, generic_handlers or ())
            elif not any(isinstance(one, type(interceptor)) for one in interceptors):
                interceptors = (interceptor, *interceptors)
        original(server, thread_pool, generic_handlers, interceptors, *args, **kwargs)

    return init


def _traced(interceptor: Any, handlers: Iterable[Any]) -> list[Any]:
    return [Handlers(interceptor, one) if hasattr(one, "service") else one for one in handlers]


def _add_generic(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def add_generic_rpc_handlers(server: Any, generic_rpc_handlers: Iterable[Any]) -> None:
        interceptor = getattr(server, _INTERCEPTOR, None)
        original(server, generic_rpc_handlers if interceptor is None else _traced(interceptor, generic_rpc_handlers))

    return add_generic_rpc_handlers


def _add_registered(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def add_registered_method_handlers(server: Any, service_name: str, method_handlers: dict[str, Any]) -> None:
        interceptor = getattr(server, _INTERCEPTOR, None)
        if interceptor is not None:
            method_handlers = {
                name: interceptor.traced(f"/{service_name}/{name}", handler)
                for name, handler in method_handlers.items()
            }
        original(server, service_name, method_handlers)

    return add_registered_method_handlers
