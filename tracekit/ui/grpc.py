"""The OTLP/gRPC receiver: grpcio's server, with bytes in place of messages.

Spec: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc

from ..exporters._otlp.messages import RESPONSE, encode_message
from ..exporters.sqlite import StoreError
from .receiver import response_of
from .rows import Malformed
from .store import MAX_REQUEST_BYTES, Busy, TooLarge

if TYPE_CHECKING:
    from .store import Signal, SpanStore

_SERVICES: Final[dict[str, Signal]] = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "traces",
    "opentelemetry.proto.collector.logs.v1.LogsService": "logs",
}
# grpcio rejects further ones with RESOURCE_EXHAUSTED, and senders drop their spans. Waiting calls cost little: a body is
# read in a thread of the pool.
_MAX_CALLS = 200


def start(store: SpanStore, port: int) -> tuple[Any, int]:
    """Start a server on the loopback interface; return it and its port. Raises ``OSError`` if *port* is in use.

    A request of more than ``MAX_REQUEST_BYTES`` is answered with RESOURCE_EXHAUSTED by grpcio.
    """

    def export(signal: Signal, octets: bytes, context: Any) -> bytes:
        def fail(code: grpc.StatusCode, reason: str) -> NoReturn:
            store.failed()
            context.abort(code, reason)
            raise AssertionError("abort() raises")

        try:
            store.reserve(len(octets))
        except Busy:
            fail(grpc.StatusCode.UNAVAILABLE, "too many requests wait to be stored")
        try:
            return encode_message(response_of(store.put(octets, signal), signal), RESPONSE)
        except Malformed as error:
            fail(grpc.StatusCode.INVALID_ARGUMENT, f"cannot decode the request: {error}")
        except TooLarge:
            fail(grpc.StatusCode.INVALID_ARGUMENT, f"a request may have {MAX_REQUEST_BYTES} bytes")
        except StoreError as error:
            fail(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            store.release(len(octets))

    server = grpc.server(
        ThreadPoolExecutor(2, thread_name_prefix="tracekit-otlp-grpc"),
        options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=_MAX_CALLS,
    )
    for service, signal in _SERVICES.items():
        handlers = {"Export": grpc.unary_unary_rpc_method_handler(partial(export, signal))}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError as error:
        raise OSError(f"port {port} cannot be bound") from error
    server.start()
    return server, port
