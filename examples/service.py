"""A Starlette service with its client, traced end to end, in one process. Run: python examples/service.py"""

import anyio
import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import tracekit
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.integrations.httpx import AsyncTraceTransport
from tracekit.testing import MemoryExporter, span_tree


async def price(request):
    with tracekit.span("add up"):
        tenant = tracekit.current_labels()["tenant"]  # set by the client, carried by the baggage header
    return PlainTextResponse(f"{tenant}: 42")


service = TraceMiddleware(Starlette(routes=[Route("/price/{cart}", price)]))


async def main():
    # ASGITransport calls the service directly; over a network leave it out.
    transport = AsyncTraceTransport(httpx.ASGITransport(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.internal") as client:
        with tracekit.span("buy"), tracekit.use_labels(tenant="acme"):
            answer = await client.get("/price/7")
    print(answer.text)


exporter = MemoryExporter()
tracekit.configure(service="shop", exporter=exporter)
anyio.run(main)
print(span_tree(exporter.spans))
