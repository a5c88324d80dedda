"""The applications of ``bench.service``, each of eight spans a request, the server's among them.

``spans``: a handler that does nothing but open seven spans, one after the other or inside each other.
``tasks``: a handler as services have them: it loads from three places at once, and answers with JSON.
``full``: a handler that asks other services and a database; libraries make most of the spans.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from .service_contenders import Tracing

PATH = "/items/42"


class App(NamedTuple):
    """Makes an application that answers ``PATH``; *steps* of a request's spans have a name that begins with ``STEP``.

    *make* takes the contender's tracing and the server's own port, and returns the number of served requests, as a
    function, and the application.
    """

    make: Callable[[Tracing, int], tuple[Callable[[], int], Any]]
    steps: int


def _spans(tracing: Tracing, _port: int) -> tuple[Callable[[], int], Any]:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    span = tracing.span
    served = 0

    async def item(request: Any) -> PlainTextResponse:
        nonlocal served
        served += 1
        number = request.path_params["number"]
        with span("step load", {"item.id": number, "cache.hit": False}):
            for table in ("items", "prices", "stock"):
                with span("step query", _query(table)):
                    pass
        with span("step render", {"template": "item.html"}):
            with span("step discount", {"customer.tier": "gold", "discount": 0.15}):
                pass
            with span("step template", {"template": "price.html", "currency": "EUR"}):
                text = f"item {number}"
        return PlainTextResponse(text)

    return lambda: served, tracing.middleware(Starlette(routes=[Route("/items/{number:int}", item)]))


def _query(table: str) -> dict[str, Any]:
    """Return the attributes of a query's span."""
    return {"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.collection.name": table}


ROWS: dict[str, list[dict[str, Any]]] = {
    "items": [{"id": 42, "name": "Lamp, brass", "weight_g": 1250, "tags": ["light", "brass", "table"]}],
    "prices": [
        {"currency": "EUR", "cents": 4990},
        {"currency": "USD", "cents": 5490},
        {"currency": "CHF", "cents": 4850},
    ],
    "stock": [{"place": "Rotterdam", "count": 12}, {"place": "Genoa", "count": 0}, {"place": "Basel", "count": 3}],
}


def _tasks(tracing: Tracing, _port: int) -> tuple[Callable[[], int], Any]:
    """Return an application whose handler runs three queries at once, and answers with their rows as JSON.

    Each query runs in a task of a ``TaskGroup``, so it has its own Context. It waits for a future that the event loop
    resolves in its next step, as a database's driver waits for its socket; there is no database. The spans are the
    server's, one around the queries, one in each of their tasks, one around the answer, and one each for the discount
    and for the JSON.
    """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    span = tracing.span
    served = 0

    async def query(table: str) -> list[dict[str, Any]]:
        with span("step query", _query(table)):
            loop = asyncio.get_running_loop()
            rows: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
            loop.call_soon(rows.set_result, ROWS[table])
            return await rows

    async def item(request: Any) -> JSONResponse:
        nonlocal served
        served += 1
        number = request.path_params["number"]
        with span("step load", {"item.id": number, "cache.hit": False}):
            async with asyncio.TaskGroup() as group:
                items, prices, stock = [group.create_task(query(table)) for table in ROWS]
        with span("step render", {"item.id": number}):
            with span("step discount", {"customer.tier": "gold", "discount": 0.15}):
                reduced = [price | {"cents": round(price["cents"] * 0.85)} for price in prices.result()]
            with span("step json", {"currencies": len(reduced)}):
                return JSONResponse({"item": items.result()[0], "prices": reduced, "stock": stock.result()})

    return lambda: served, tracing.middleware(Starlette(routes=[Route("/items/{number:int}", item)]))


def _full(tracing: Tracing, port: int) -> tuple[Callable[[], int], Any]:
    """Return an application with httpx, gRPC and SQLAlchemy, which calls itself on *port*.

    A Starlette handler asks SQLAlchemy (SQLite in memory), another handler of the same server through httpx, and a gRPC
    service in the same process. The spans are the server's, the statement's, the call's and its handler's for httpx and
    for gRPC, and two of the application.
    """
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


APPS = {"tasks": App(_tasks, 7), "spans": App(_spans, 7), "full": App(_full, 2)}
