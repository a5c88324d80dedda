"""The application of ``bench.service --full``: eight spans a request, six of them made by libraries.

A Starlette handler asks SQLAlchemy (SQLite in memory), another handler of the same server through httpx, and a gRPC
service in the same process. The spans are the server's, the statement's, the call's and its handler's for httpx and for
gRPC, and two of the application.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .service_contenders import Tracing


def full_application(tracing: Tracing, port: int) -> tuple[Callable[[], int], Any]:
    """Return the number of served requests, as a function, and the application, which calls itself on *port*."""
    tracing.instrument()
    import grpc
    import httpx
    import sqlalchemy
    from sqlalchemy.pool import StaticPool
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    span = tracing.span
    served = 0
    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    statement = sqlalchemy.text("SELECT :number * 7")
    clients: dict[str, Any] = {}

    async def price(request: bytes, _context: Any) -> bytes:
        return request

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        server = grpc.aio.server()
        methods = {"Price": grpc.unary_unary_rpc_method_handler(price)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Prices", methods),))
        grpc_port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
        ):
            clients.update(http=client, price=channel.unary_unary("/shop.Prices/Price"))
            yield
        await server.stop(0)

    async def item(request: Any) -> PlainTextResponse:
        nonlocal served
        served += 1
        number = request.path_params["number"]
        with span("step load", {"item.id": number, "cache.hit": False}):
            with engine.connect() as connection:
                found = connection.execute(statement, {"number": number}).scalar()
            stock = (await clients["http"].get("/stock")).text
            cost = await clients["price"](b"7")
        with span("step render", {"template": "item.html", "currency": "EUR"}):
            text = f"item {number} {found} {stock} {cost!r}"
        return PlainTextResponse(text)

    async def stock(_request: Any) -> PlainTextResponse:
        return PlainTextResponse("3")

    routes = [Route("/items/{number:int}", item), Route("/stock", stock)]
    return lambda: served, tracing.middleware(Starlette(routes=routes, lifespan=lifespan))
