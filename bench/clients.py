"""Print the time that tracing adds to a request, by client library, beside OpenTelemetry: ``python -m bench.clients``.

See ``bench/added.py`` for the method. http.client reads and writes memory, httpx has a transport that answers at once,
and aiohttp's client talks to aiohttp's server over loopback in one event loop. OpenTelemetry has no package for http.client
alone, so urllib3, which is built on it, is a row, too.

aiohttp has two columns of a floor, with no tracer. "nothing" has an empty ``TraceConfig``, and a middleware on the server
that does nothing. "header" has a client middleware that sets one ``traceparent`` in place of the ``TraceConfig``.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import sys
from typing import TYPE_CHECKING, Any

from .added import CONTRIB, Bench, Row, contrib, main

if TYPE_CHECKING:
    from collections.abc import Callable

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
URL = "http://shop.example/items/3?page=2&q=shoes"
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"
HEADERS = {"accept": "*/*", "user-agent": "bench/1", "accept-encoding": "gzip"}


class Loopback:
    """A socket that discards all output and always has one response to read."""

    def sendall(self, data: bytes) -> None: ...
    def settimeout(self, timeout: float | None) -> None: ...
    def setsockopt(self, *_: Any) -> None: ...
    def close(self) -> None: ...
    def shutdown(self, how: int) -> None: ...

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(RESPONSE)


def http_client(_: str) -> Callable[[], object]:
    connection = http.client.HTTPConnection("shop.example")
    connection.sock = Loopback()  # type: ignore[assignment]

    def request() -> None:
        connection.request("GET", "/items/3?page=2&q=shoes", headers=HEADERS)
        connection.getresponse().read()

    return request


def urllib3_(_: str) -> Callable[[], object]:
    import urllib3
    import urllib3.connectionpool
    import urllib3.util.connection

    class Connection(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> Any:
            return Loopback()

        @property
        def is_connected(self) -> bool:
            return True

    urllib3.connectionpool.is_connection_dropped = lambda _: False
    urllib3.HTTPConnectionPool.ConnectionCls = Connection
    pool = urllib3.PoolManager()
    return lambda: pool.request("GET", URL, headers=HEADERS)


def httpx_(is_async: bool, made: Callable[[object], object]) -> Callable[[], object]:
    import httpx

    class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Any:
            return iter((b"ok",))

        async def __aiter__(self) -> Any:
            yield b"ok"

    class Memory(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-length": "2"}, stream=Body())

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-length": "2"}, stream=Body())

    if not is_async:
        client = httpx.Client(transport=Memory())
        made(client)
        return lambda: client.get(URL, headers=HEADERS)
    asynchronous = httpx.AsyncClient(transport=Memory())
    made(asynchronous)
    runner = asyncio.Runner()

    async def many() -> None:
        for _ in range(MANY):
            await asynchronous.get(URL, headers=HEADERS)

    return lambda: runner.run(many())


def aiohttp_(contender: str) -> Callable[[], object]:
    import aiohttp
    from aiohttp import web

    runner = asyncio.Runner()

    @web.middleware
    async def nothing(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return response

    async def header(request: aiohttp.ClientRequest, send: Any) -> aiohttp.ClientResponse:
        request.headers["traceparent"] = TRACEPARENT
        response: aiohttp.ClientResponse = await send(request)
        return response

    is_floor = contender in FLOORS
    options: dict[str, Any] = {
        "nothing": {"trace_configs": [aiohttp.TraceConfig()]},
        "header": {"middlewares": [header]},
    }.get(contender, {})

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def start() -> tuple[aiohttp.ClientSession, str]:
        app = web.Application(middlewares=[nothing] * is_floor)
        app.router.add_get("/items/{id}", handler)
        serving = web.AppRunner(app, access_log=None)
        await serving.setup()
        site = web.TCPSite(serving, "127.0.0.1", 0)
        await site.start()
        port = serving.addresses[0][1]
        return aiohttp.ClientSession(**options), f"http://127.0.0.1:{port}/items/3?page=2&q=shoes"

    session, url = runner.run(start())

    async def many() -> None:
        for _ in range(MANY):
            async with session.get(url, headers=HEADERS) as response:
                await response.read()

    return lambda: runner.run(many())


# OpenTelemetry instruments httpx's own transports; a client with another one is instrumented singly.
_instrumented: list[Callable[[object], object]] = []


def _instrument_client(client: object) -> None:
    for instrument in _instrumented:
        instrument(client)


MANY = 50  # requests in one run of an event loop
FLOORS = ("nothing", "header")
ROWS = {
    "http.client": Row(http_client, 6, contenders=("tracekit",)),
    "urllib3": Row(urllib3_),
    "httpx": Row(lambda _: httpx_(False, _instrument_client), 15),
    "httpx async": Row(lambda _: httpx_(True, _instrument_client), units=MANY),
    "aiohttp client + server": Row(aiohttp_, 15, MANY, (*FLOORS, "tracekit", *CONTRIB)),
}


def tracekit() -> Callable[[], object]:
    import tracekit
    from tracekit.integrations import aiohttp, http_client, httpx

    from .contender_tracekit import record

    record()
    for integration in (aiohttp, http_client, httpx):
        integration.instrument()
    return tracekit.flush


def _instrument_all() -> None:
    import os

    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # the attributes that tracekit records
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

    for instrumentor in (
        AioHttpClientInstrumentor,
        AioHttpServerInstrumentor,
        HTTPXClientInstrumentor,
        URLLib3Instrumentor,
    ):
        instrumentor().instrument()
    _instrumented.append(HTTPXClientInstrumentor.instrument_client)


BENCH = Bench(
    "bench.clients",
    ROWS,
    {**dict.fromkeys(FLOORS, lambda: lambda: None), "tracekit": tracekit, **contrib(_instrument_all)},
    ("aiohttp_client", "aiohttp_server", "httpx", "urllib3"),
)

if __name__ == "__main__":
    sys.exit(main(BENCH))
