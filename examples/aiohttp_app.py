"""An aiohttp service and a client of it, both traced by one call. Run: python examples/aiohttp_app.py"""

import asyncio

import aiohttp
from aiohttp import web

import tracekit
from tracekit.integrations import aiohttp as tracing
from tracekit.testing import MemoryExporter, span_tree


async def price(request):
    with tracekit.span("add up"):
        tenant = tracekit.current_labels()["tenant"]  # set by the client, carried by the baggage header
    return web.Response(text=f"{tenant}: 42")


async def old_price(request):
    raise web.HTTPFound(f"/price/{request.match_info['cart']}")


async def main():
    app = web.Application()
    app.add_routes([web.get("/price/{cart}", price), web.get("/old/{cart}", old_price)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        with tracekit.span("buy"), tracekit.use_labels(tenant="acme"):
            async with session.get("/old/7") as answer:
                print(await answer.text())
    await runner.cleanup()


exporter = MemoryExporter()
tracekit.configure(service="shop", exporter=exporter)
tracing.instrument()
asyncio.run(main())
print(span_tree(exporter.spans))
