"""The demo's client: checks out many carts at the same time, each in a trace of its own, and checks each receipt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import anyio
import httpx

import tracekit
from tracekit.integrations.httpx import AsyncTraceTransport

from .catalogue import GOODS, cart, price_cents, seal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Answer", "check_out"]

_TIMEOUT_S = 30.0
_RECEIPT_BYTES = 65536


class Answer(NamedTuple):
    """How one request went: its trace, and what was wrong, or ""."""

    trace_id: str
    problem: str


async def check_out(url: str, requests: int, *, on_answer: Callable[[], object]) -> list[Answer]:
    """Send *requests* to the storefront at *url*, all at the same time, and check what comes back."""
    traces: dict[int, str] = {}
    problems: dict[int, str] = {}
    receipts: dict[int, list[str]] = {}

    async def send(number: int) -> None:
        with tracekit.span("buy", parent=tracekit.ROOT, attributes={"cart.number": number}) as span:
            traces[number] = span.context.trace_id
            try:
                receipts[number] = await _receipt(storefront, number)
            except httpx.HTTPError as error:
                problems[number] = f"{type(error).__name__} {error}".strip()
                span.set_status("error", problems[number])
        on_answer()

    timeout = httpx.Timeout(_TIMEOUT_S, pool=None)
    async with (
        httpx.AsyncClient(
            transport=AsyncTraceTransport(), base_url=url, timeout=timeout, trust_env=False
        ) as storefront,
        anyio.create_task_group() as tasks,
    ):
        for number in range(requests):
            tasks.start_soon(send, number)
    # Not sooner: to check a seal takes a while, and would delay what is still under way.
    problems |= {number: "wrong receipt" for number, lines in receipts.items() if not _is_right(lines, number)}
    return [Answer(traces[number], problems.get(number, "")) for number in sorted(traces)]


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
