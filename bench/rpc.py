"""Print the time that tracing adds to a gRPC call and to a statement of SQLAlchemy: ``python -m bench.rpc``.

See ``bench/added.py`` for the method. gRPC's client talks to its server over loopback, in one process, and the span of
the client is the parent of the server's. Two columns have no tracer. "nothing" has an interceptor on the server,
and a function around the method of the stub, that do nothing. "header" is the floor of any tracer: a function around the
method writes a ``traceparent`` into the metadata, another one for each call, which HTTP/2 cannot refer to as one sent
before, and a function around the handler reads the metadata, the address of the peer and the status. "in memory" leaves
gRPC's core out, whose time varies more than tracing adds: the method of a stub calls a handler directly. The target is
for this row. A statement is ``SELECT`` with one parameter on SQLite in memory.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from .added import CONTRIB, Bench, Row, contrib, main

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 50  # calls in one run of an event loop
NUMBERS = itertools.count(1)


class Metadatum(NamedTuple):
    """As gRPC gives the metadata of a call to its handlers."""

    key: str
    value: str


METADATA = (Metadatum("user-agent", "grpc-python/1.85.3"), Metadatum("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"))


def _handlers(handler: Any) -> Any:
    import grpc

    methods = {"Buy": grpc.unary_unary_rpc_method_handler(handler)}
    return grpc.method_handlers_generic_handler("shop.Shop", methods)


def in_memory(contender: str) -> Callable[[], object]:
    import grpc

    class Context:
        def invocation_metadata(self) -> Any:
            return METADATA

        def peer(self) -> str:
            return "ipv4:127.0.0.1:50000"

        def code(self) -> None: ...

        def details(self) -> bytes:
            return b""

        def is_active(self) -> bool:
            return True

    class Channel:
        target = "127.0.0.1:50051"

        def unary_unary(self, *_: Any) -> Any:
            return call

    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    context, details = Context(), type("Details", (), {"method": "/shop.Shop/Buy"})
    if contender == "bare":
        return lambda: handler.unary_unary(b"1", context)

    def call(request: bytes, *_: Any) -> Any:
        return interceptor.intercept_service(lambda _: handler, details).unary_unary(request, context)

    interceptor: Any
    if contender in CONTRIB:
        from opentelemetry.instrumentation import grpc as theirs
        from opentelemetry.instrumentation.grpc import grpcext

        interceptor = theirs.server_interceptor()
        channel = grpcext.intercept_channel(Channel(), theirs.client_interceptor())
        their_stub = channel.unary_unary("/shop.Shop/Buy")
        return lambda: their_stub(b"1")
    from tracekit.integrations import _grpc, _grpc_calls
    from tracekit.integrations import grpc as tracing

    interceptor = tracing.server_interceptor()
    stub = _grpc_calls.METHODS["unary_unary"](call, _grpc.Method(_grpc.Client(), Channel(), "/shop.Shop/Buy"))
    return lambda: stub(b"1")


def in_threads(contender: str) -> Callable[[], object]:
    import grpc

    class Nothing(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            return continuation(details)

    def handler(request: bytes, _: Any) -> bytes:
        return request

    def reading(request: bytes, context: Any) -> bytes:
        context.invocation_metadata(), context.peer()
        response = handler(request, context)
        context.code()
        return response

    server = grpc.server(ThreadPoolExecutor(1), interceptors=[Nothing()] if contender == "nothing" else None)
    server.add_generic_rpc_handlers((_handlers(reading if contender == "header" else handler),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = _floor(contender, channel.unary_unary("/shop.Shop/Buy"))
    _keep.append((server, channel))
    return lambda: stub(b"1")


def _traceparent(number: int) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{number:032x}-{number:016x}-01"),)


def _floor(contender: str, stub: Any) -> Any:
    """Return *stub* with the least that a tracer puts around it."""
    if contender == "nothing":
        return lambda request, metadata=None: stub(request, metadata=metadata)
    if contender == "header":
        return lambda request: stub(request, metadata=_traceparent(next(NUMBERS)))
    return stub


def on_asyncio(contender: str) -> Callable[[], object]:
    import grpc.aio

    class Nothing(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            return await continuation(details)

    runner = asyncio.Runner()

    async def handler(request: bytes, _: Any) -> bytes:
        return request

    async def reading(request: bytes, context: Any) -> bytes:
        context.invocation_metadata(), context.peer()
        response = await handler(request, context)
        context.code()
        return response

    async def start() -> Any:
        server = grpc.aio.server(interceptors=[Nothing()] if contender == "nothing" else None)
        server.add_generic_rpc_handlers((_handlers(reading if contender == "header" else handler),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        _keep.append((server, channel))
        return _floor(contender, channel.unary_unary("/shop.Shop/Buy"))

    stub = runner.run(start())

    async def many() -> None:
        for _ in range(MANY):
            await stub(b"1")

    return lambda: runner.run(many())


def statement(_: str) -> Callable[[], object]:
    import sqlalchemy

    engine = sqlalchemy.create_engine("sqlite://")
    connection = engine.connect()
    connection.execute(sqlalchemy.text("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)"))
    query = sqlalchemy.text("SELECT name FROM items WHERE id = :id AND name <> 'x'")
    return lambda: connection.execute(query, {"id": 7}).all()


_keep: list[Any] = []
OVER_LOOPBACK = ("nothing", "header", "tracekit", *CONTRIB)
ROWS = {
    "gRPC unary, in memory": Row(in_memory, 15),
    "gRPC unary, in threads": Row(in_threads, contenders=OVER_LOOPBACK),
    "gRPC unary, asyncio": Row(on_asyncio, None, MANY, OVER_LOOPBACK),
    "SQLAlchemy statement": Row(statement, 8),
}


def _with_interceptors() -> Callable[[], object]:
    return lambda: None  # the rows have them


def tracekit() -> Callable[[], object]:
    import tracekit
    from tracekit.integrations import grpc, sqlalchemy

    from .contender_tracekit import record

    record()
    for integration in (grpc, sqlalchemy):
        integration.instrument()
    return tracekit.flush


def _instrument_all() -> None:
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "database"  # the attributes that tracekit records
    from opentelemetry.instrumentation.grpc import (
        GrpcAioInstrumentorClient,
        GrpcAioInstrumentorServer,
        GrpcInstrumentorClient,
        GrpcInstrumentorServer,
    )
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    for instrumentor in (
        GrpcAioInstrumentorClient,
        GrpcAioInstrumentorServer,
        GrpcInstrumentorClient,
        GrpcInstrumentorServer,
    ):
        instrumentor().instrument()
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)  # it works with SQLAlchemy 2.1, and does not say so


BENCH = Bench(
    "bench.rpc",
    ROWS,
    {"nothing": _with_interceptors, "header": _with_interceptors, "tracekit": tracekit, **contrib(_instrument_all)},
    ("grpc", "sqlalchemy"),
)

if __name__ == "__main__":
    sys.exit(main(BENCH))
