"""The demo's second service: a bare ASGI application on hypercorn and trio, with a task group and a thread.

``python -m tracekit.demo.warehouse FILE`` writes its spans to FILE.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.trio
import trio
from hypercorn.config import Config

import tracekit
from tracekit import aio
from tracekit.integrations.asgi import TraceMiddleware

from . import child
from .catalogue import GOODS, seal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_BODY_BYTES = 65536

logger = logging.getLogger("warehouse")


class BadOrder(Exception):
    """Raised for a request that the warehouse cannot serve."""


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """Answer ``POST /reservations``: ``{"items": {name: count}}`` in, ``{"picked": [...], "seal": "..."}`` out."""
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    if (scope["method"], scope["path"]) != ("POST", "/reservations"):
        return await _answer(send, 404, {"error": "only POST /reservations is here"})
    request = tracekit.current_span()  # the middleware's
    if request is not None:
        request.update_name("POST /reservations")
    try:
        items = _items(await _body(receive))
    except BadOrder as error:
        logger.warning("bad order: %s", error)
        return await _answer(send, 400, {"error": str(error)})
    return await _answer(send, 200, await reserve(items))


async def reserve(items: dict[str, int]) -> dict[str, Any]:
    """Fetch all *items* at the same time, then seal the box in a thread."""
    picked: list[str] = []
    async with aio.create_task_group() as tasks:
        for name, count in items.items():
            tasks.start_soon(pick, name, count, picked)
    tenant = tracekit.current_labels().get("tenant", "")  # not an argument: it is propagated with the trace
    code = await aio.to_thread.run_sync(seal_box, tenant, items)
    return {"picked": sorted(picked), "seal": code}


@tracekit.traced
async def pick(name: str, count: int, picked: list[str]) -> None:
    """Walk to the shelf, a millisecond each, and fetch *count* of *name*."""
    span = tracekit.current_span()
    if span is not None:
        span.set_attribute("item.name", name)
        span.set_attribute("item.count", count)
    await trio.sleep(GOODS[name].shelf / 1000)
    picked.append(name)


@tracekit.traced
def seal_box(tenant: str, items: dict[str, int]) -> str:
    """Seal the box; runs in a thread."""
    span = tracekit.current_span()
    if span is not None:
        span.set_attribute("thread.name", threading.current_thread().name)
    return seal(tenant, items)


async def _body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadOrder("the caller went away")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _BODY_BYTES:
            raise BadOrder("the order is too long")
    return body


def _items(body: bytes) -> dict[str, int]:
    try:
        items = json.loads(body)["items"]
        orders = [name in GOODS and type(count) is int and 0 < count < 1000 for name, count in items.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BadOrder('an order is {"items": {name: count}}') from None
    if not orders or not all(orders):
        raise BadOrder("an order names goods of the catalogue, 1 to 999 of each")
    return dict(items)


async def _answer(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    for step in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{step}.complete"})


async def _serve() -> None:
    stop = trio.Event()
    token = trio.lowlevel.current_trio_token()
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.backlog = 1024
    config.loglevel = "WARNING"
    config.graceful_timeout = 3.0
    async with aio.create_task_group() as tasks:
        child.on_stop(partial(token.run_sync_soon, stop.set))
        traced_app: Any = TraceMiddleware(app)  # hypercorn's type for an application is narrower than ASGI's
        serve = partial(hypercorn.trio.serve, traced_app, config, shutdown_trigger=stop.wait)
        (url,) = await tasks.start(serve)
        child.announce(url)


def main(arguments: list[str]) -> None:
    """Serve until told to stop."""
    (path,) = arguments
    with child.recording("warehouse", path):
        trio.run(_serve)


if __name__ == "__main__":
    main(sys.argv[1:])
