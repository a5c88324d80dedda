"""The demo's first service: Starlette on uvicorn and asyncio, with a task group, a thread and a streamed answer.

``python -m tracekit.demo.storefront FILE WAREHOUSE_URL`` writes its spans to FILE. ``tracekit conform URL/conform`` checks
the trace headers that it reads and sends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import tracekit
from tracekit import aio
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.integrations.httpx import AsyncTraceTransport

from . import child
from .catalogue import GOODS, Cart, cart, price_cents

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request

_MOST_CALLS = 16


async def checkout(request: Request) -> StreamingResponse:
    """Answer ``POST /checkout/{number}`` with a receipt, line by line."""
    number = request.path_params["number"]
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise HTTPException(404, "no such cart")
    order = cart(int(number))
    # Labels travel with the trace: the warehouse reads them, and its spans carry them.
    with tracekit.use_labels(tenant=order.tenant, cart=number), tracekit.span("checkout") as span:
        span.set_attribute("cart.items", len(order.items))
        answer: dict[str, Any] = {}
        async with aio.create_task_group() as tasks:
            tasks.start_soon(reserve, request.app.state.warehouse, order, answer)
            tasks.start_soon(price, order, answer)
    return StreamingResponse(receipt(order, answer), media_type="application/x-ndjson")


@tracekit.traced
async def reserve(warehouse: httpx.AsyncClient, order: Cart, answer: dict[str, Any]) -> None:
    """Have the warehouse set the goods aside."""
    response = await warehouse.post("/reservations", json={"items": dict(order.items)})
    response.raise_for_status()
    answer.update(response.json())


@tracekit.traced
async def price(order: Cart, answer: dict[str, Any]) -> None:
    """Price the cart in a thread: it would block the event loop."""
    answer["total_cents"] = await aio.to_thread.run_sync(add_up, order)


@tracekit.traced
def add_up(order: Cart) -> int:
    """Return the price in cents; runs in a thread."""
    span = tracekit.current_span()
    if span is not None:
        span.set_attribute("thread.name", threading.current_thread().name)
    return price_cents(order)


@tracekit.traced
async def receipt(order: Cart, answer: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Write the receipt, long after ``checkout`` has returned."""
    for name, count in order.items.items():
        yield receipt_line({"item": name, "count": count, "price_cents": GOODS[name].price_cents * count})
        await anyio.sleep(0.001)
    yield receipt_line({"tenant": order.tenant, **answer})


@tracekit.traced
def receipt_line(content: dict[str, Any]) -> bytes:
    """Return one line of the receipt."""
    return json.dumps(content).encode() + b"\n"


async def conform(request: Request) -> Response:
    """Answer ``POST /conform``: call back whoever asks for it, as ``tracekit conform`` does, on this machine alone."""
    # A web page can have a browser send us anything, but not under this name without asking us first.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "must be application/json")
    try:
        calls = [(httpx.URL(call["url"]), call["arguments"]) for call in await request.json()]
    except (ValueError, TypeError, KeyError, httpx.InvalidURL) as error:
        raise HTTPException(400, 'must be [{"url": URL, "arguments": LIST}, ...]') from error
    if len(calls) > _MOST_CALLS or not all(_is_here(url) for url, _ in calls):
        raise HTTPException(403, f"must be at most {_MOST_CALLS} http URLs with a loopback address")
    for url, arguments in calls:
        try:
            await request.app.state.client.post(url, json=arguments)
        except httpx.HTTPError as error:
            raise HTTPException(502, f"no answer from {url.host}") from error
    return Response()


def _is_here(url: httpx.URL) -> bool:
    """Return whether *url* is this machine's, by an address: the address of a name can change."""
    try:
        return url.scheme == "http" and ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def application(warehouse_url: str) -> Starlette:
    """Return the storefront, for the warehouse at *warehouse_url*."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        timeout = httpx.Timeout(30.0, pool=None)
        async with (
            httpx.AsyncClient(
                transport=AsyncTraceTransport(), base_url=warehouse_url, timeout=timeout, trust_env=False
            ) as warehouse,
            httpx.AsyncClient(transport=AsyncTraceTransport(), timeout=timeout, trust_env=False) as client,
        ):
            app.state.warehouse, app.state.client = warehouse, client
            yield

    routes = [Route("/checkout/{number}", checkout, methods=["POST"]), Route("/conform", conform, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()
            child.announce(f"http://{host}:{port}")

    def stop(self) -> None:
        self.should_exit = True


def main(arguments: list[str]) -> None:
    """Serve until told to stop."""
    path, warehouse_url = arguments
    app = TraceMiddleware(application(warehouse_url))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=3)
    server = _Server(config)
    with child.recording("storefront", path):
        # uvicorn repeats the signal that ended it: it must find a handler, or the process dies before it flushes.
        child.on_stop(server.stop)
        server.run(sockets=[socket.create_server(("127.0.0.1", 0), backlog=1024)])


if __name__ == "__main__":
    main(sys.argv[1:])
