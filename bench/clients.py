"""Print the time that tracing adds to a request, by client library, beside OpenTelemetry: ``python -m bench.clients``.

Instrumentations patch classes, so each contender runs in processes of its own, which take turns; a figure is the best
round of all its processes, and the added time is the difference from the bare library. http.client reads and writes
memory, httpx has a transport that answers at once, and aiohttp's client talks to aiohttp's server over loopback in one
event loop. OpenTelemetry is its contrib package of the row on the SDK; it has none for http.client alone, so urllib3,
which is built on it, is a row, too. The clock is the CPU time of the process, and nothing is exported.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENDERS = ["bare", "tracekit", "opentelemetry"]
TARGETS = {"http.client": 6.0, "urllib3": None, "httpx": 15.0, "httpx async": None, "aiohttp client + server": 15.0}
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
URL = "http://shop.example/items/3?page=2&q=shoes"
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


def http_client() -> Callable[[], object]:
    connection = http.client.HTTPConnection("shop.example")
    connection.sock = Loopback()  # type: ignore[assignment]

    def request() -> None:
        connection.request("GET", "/items/3?page=2&q=shoes", headers=HEADERS)
        connection.getresponse().read()

    return request


def urllib3_() -> Callable[[], object]:
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


def aiohttp_() -> Callable[[], object]:
    import aiohttp
    from aiohttp import web

    runner = asyncio.Runner()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def start() -> tuple[aiohttp.ClientSession, str]:
        app = web.Application()
        app.router.add_get("/items/{id}", handler)
        serving = web.AppRunner(app, access_log=None)
        await serving.setup()
        site = web.TCPSite(serving, "127.0.0.1", 0)
        await site.start()
        port = serving.addresses[0][1]
        return aiohttp.ClientSession(), f"http://127.0.0.1:{port}/items/3?page=2&q=shoes"

    session, url = runner.run(start())

    async def many() -> None:
        for _ in range(MANY):
            async with session.get(url, headers=HEADERS) as response:
                await response.read()

    return lambda: runner.run(many())


# OpenTelemetry instruments httpx's own transports; a client with another one is instrumented by itself.
_instrumented: list[Callable[[object], object]] = []


def _instrument_client(client: object) -> None:
    for instrument in _instrumented:
        instrument(client)


MANY = 50  # requests in one run of an event loop
ROWS: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "http.client": (http_client, 1),
    "urllib3": (urllib3_, 1),
    "httpx": (lambda: httpx_(False, _instrument_client), 1),
    "httpx async": (lambda: httpx_(True, _instrument_client), MANY),
    "aiohttp client + server": (aiohttp_, MANY),
}


def tracekit() -> Callable[[], object]:
    import tracekit
    from tracekit.integrations import aiohttp, http_client, httpx

    from .contender_tracekit import record

    record()
    for integration in (aiohttp, http_client, httpx):
        integration.instrument()
    return tracekit.flush


def opentelemetry() -> Callable[[], object]:
    import os

    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"  # the attributes that tracekit records
    from opentelemetry import trace
    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
    from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
    from opentelemetry.sdk.trace import TracerProvider

    from .contender_opentelemetry import _NullExporter, _processor

    provider = TracerProvider()
    provider.add_span_processor(_processor(_NullExporter()))
    trace.set_tracer_provider(provider)
    for instrumentor in (
        AioHttpClientInstrumentor,
        AioHttpServerInstrumentor,
        HTTPXClientInstrumentor,
        URLLib3Instrumentor,
    ):
        instrumentor().instrument()
    _instrumented.append(HTTPXClientInstrumentor.instrument_client)
    return provider.force_flush


def measure(contender: str, seconds: float, rounds: int) -> dict[str, float]:
    """Return microseconds per request, by row: the best of *rounds*, of *seconds* each."""
    flush = {"bare": lambda: None, "tracekit": tracekit, "opentelemetry": opentelemetry}[contender]
    after: Any = flush() if contender != "bare" else flush
    found = {}
    for row, (make, units) in ROWS.items():
        if contender == "opentelemetry" and row == "http.client":
            continue
        request = make()
        best = float("inf")
        for number in range(rounds + 1):
            spent = count = 0
            while not count or spent < seconds * 1e9:
                gc.disable()
                begin = time.process_time_ns()
                for _ in range(100 // units):
                    request()
                spent += time.process_time_ns() - begin
                gc.enable()
                count += 100 // units * units
                after()
            gc.collect()
            if number:
                best = min(best, spent / count / 1000)
        found[row] = best
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.clients", description=__doc__)
    parser.add_argument("--processes", type=int, default=3, help="of each contender")
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    seconds, rounds = (0.0, 1) if options.smoke else (0.05, 5)
    if options.one:
        print(json.dumps(measure(options.one, seconds, rounds)))
        return 0
    best: dict[str, dict[str, float]] = {contender: {} for contender in CONTENDERS}
    for _ in range(1 if options.smoke else options.processes):
        for contender in CONTENDERS:
            command = [sys.executable, "-m", "bench.clients", f"--one={contender}", *["--smoke"] * options.smoke]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]
            )
            for row, figure in json.loads(done.stdout).items():
                best[contender][row] = min(figure, best[contender].get(row, figure))
    print("| µs added per request | bare | tracekit | OpenTelemetry | target |\n|---|---|---|---|---|")
    for row, target in TARGETS.items():
        bare = best["bare"][row]
        added = [f"+{best[name][row] - bare:.1f}" if row in best[name] else "-" for name in CONTENDERS[1:]]
        print(f"| {row} | {bare:.1f} | {' | '.join(added)} | {'-' if target is None else f'{target:.0f}'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
