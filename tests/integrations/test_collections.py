"""Tracing makes the garbage collector run no more often than the program alone does."""

from __future__ import annotations

import asyncio
import gc

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import tracekit
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.testing import MemoryExporter

from .peer import at_once, request_scope

REQUESTS = 1000
PARTS = 7


async def _answer(request):
    for part in range(PARTS):
        with tracekit.span("part", attributes={"number": part, "table": "items", "is_cached": False}) as span:
            span.add_event("row", {"key": part})
    return PlainTextResponse("ok")


def _collections_of(app):
    """Return how many collections the requests trigger, while all their spans are buffered."""

    async def serve(count):
        for number in range(count):
            await app(request_scope(path=f"/items/{number}"), at_once, at_once)

    with asyncio.Runner() as runner:
        runner.run(serve(10))
        tracekit.flush(60)
        gc.collect()
        before = sum(generation["collections"] for generation in gc.get_stats())
        runner.run(serve(REQUESTS))
        return sum(generation["collections"] for generation in gc.get_stats()) - before


@pytest.mark.skipif(tracekit.IMPLEMENTATION == "plain", reason="only C keeps spans away from the collector")
@pytest.mark.parametrize("sampler", [tracekit.AlwaysOn(), tracekit.AlwaysOff()])
def test_buffered_spans_trigger_no_collections(sampler):
    app = Starlette(routes=[Route("/items/{number:int}", _answer)])
    tracekit.configure()
    untraced = _collections_of(app)
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, sampler=sampler, export_interval_s=3600.0, environ={})
    # One more: the threshold may have been nearly reached before.
    assert _collections_of(TraceMiddleware(app)) <= untraced + 1
    tracekit.flush(60)
    expected = (REQUESTS + 10) * (PARTS + 1) if isinstance(sampler, tracekit.AlwaysOn) else 0
    assert len(exporter.spans) == expected
