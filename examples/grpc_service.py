"""A gRPC service and its client, on asyncio: one trace from the client through the service to its database.

    python examples/grpc_service.py

needs grpcio and sqlalchemy. The methods take and return octets; with generated code nothing else changes.
"""

from __future__ import annotations

import asyncio

import grpc
import sqlalchemy

import tracekit
from tracekit.testing import MemoryExporter, span_tree

exporter = MemoryExporter()
tracekit.configure(service="prices", exporter=exporter)
tracekit.instrument("grpc", "sqlalchemy")

database = sqlalchemy.create_engine("sqlite://")


async def price(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    with database.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT length(:item) * 7"), {"item": request.decode()})
        return str(found.scalar()).encode()


async def items(request: bytes, context: grpc.aio.ServicerContext):
    for item in request.split():
        with tracekit.span("look up"):
            yield item


async def main() -> None:
    methods = {
        "Price": grpc.unary_unary_rpc_method_handler(price),
        "Items": grpc.unary_stream_rpc_method_handler(items),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Prices", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with tracekit.span("buy"):
            cost = await channel.unary_unary("/shop.Prices/Price")(b"teapot")
            found = [item async for item in channel.unary_stream("/shop.Prices/Items")(b"cup pot")]
    await server.stop(None)
    print(cost.decode(), len(found))


asyncio.run(main())
print(span_tree(exporter.spans))
