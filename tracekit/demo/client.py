"""The demo's client: checks out many carts at the same time, each in a separate trace, and checks each receipt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import httpx

import tracekit
from tracekit import aio
from tracekit.integrations.httpx import AsyncTraceTransport

from .catalogue import GOODS, cart, price_cents, seal

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMEOUT_S = 30.0
WARM = 3  # requests at the end, one after another: their times are not those of a crowd
_AT_ONCE = 100  # as many as httpx has connections: what waits for one costs it time that grows with the square


async def check_out(url: str, requests: int, *, on_answer: Callable[[], object]) -> list[str]:
    """Send *requests* to the storefront at *url*, return the faults of the answers.

    100 are sent at the same time, and the last `WARM` one after another.
    """
    problems: dict[int, str] = {}
    receipts: dict[int, list[str]] = {}

    async def send(number: int) -> None:
        async with turn:
            await buy(number)
        on_answer()

    async def buy(number: int) -> None:
        with tracekit.span("buy", parent=tracekit.ROOT, attributes={"cart.number": number}) as span:
            try:
                receipts[number] = await _receipt(storefront, number)
            except httpx.HTTPError as error:
                problems[number] = f"{type(error).__name__} {error}".strip()
                span.set_status("error", problems[number])

    turn = anyio.CapacityLimiter(_AT_ONCE)
    timeout = httpx.Timeout(_TIMEOUT_S, pool=None)
    async with httpx.AsyncClient(
        transport=AsyncTraceTransport(), base_url=url, timeout=timeout, trust_env=False
    ) as storefront:
        alone = min(WARM, requests // 2)
        async with aio.create_task_group() as tasks:
            for number in range(requests - alone):
                tasks.start_soon(send, number)
        for number in range(requests - alone, requests):
            await send(number)
    # Not sooner: to check a seal takes a while, and would delay the requests that are in progress.
    problems |= {number: "wrong receipt" for number, lines in receipts.items() if not _is_right(lines, number)}
    return [f"cart {number}: {problem}" for number, problem in sorted(problems.items())]


async def _receipt(storefront: httpx.AsyncClient, number: int) -> list[str]:
    async with storefront.stream("POST", f"/checkout/{number}") as response:
        response.raise_for_status()
        return [line async for line in response.aiter_lines()]


def _is_right(lines: list[str], number: int) -> bool:
    order = cart(number)
    expected = [
        {"item": name, "count": count, "price_cents": GOODS[name].price_cents * count}
        for name, count in order.items.items()
    ]
    end = {
        "tenant": order.tenant,
        "total_cents": price_cents(order),
        "picked": sorted(order.items),
        "seal": seal(order.tenant, order.items),
    }
    try:
        return [json.loads(line) for line in lines] == [*expected, end]
    except ValueError:
        return False
