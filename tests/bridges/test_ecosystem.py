"""Libraries that speak OpenTelemetry's API, unchanged, on the bridge: against servers on loopback."""

from __future__ import annotations

import contextlib
import socketserver
import threading

import aiohttp
import anyio
import anyio.lowlevel
import httpx
import pytest
import redis
from aiohttp import web
from fastapi import FastAPI
from opentelemetry import baggage, context
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tracekit.testing import span_tree

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("provider")]


@contextlib.contextmanager
def instrumented(instrumentor):
    instrumentor.instrument()
    try:
        yield
    finally:
        instrumentor.uninstrument()


@contextlib.asynccontextmanager
async def aiohttp_server(handler):
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield "http://{}:{}/".format(*site._server.sockets[0].getsockname()[:2])
    finally:
        await runner.cleanup()


class RedisLike(socketserver.StreamRequestHandler):
    """Answers what the tests ask of redis, in its protocol; a redis server is not everywhere."""

    def handle(self):
        while line := self.rfile.readline():
            command = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                command.append(self.rfile.read(length + 2)[:-2])
            name = command[0].upper()
            if name == b"GET":
                self.wfile.write(b"$5\r\nvalue\r\n")
            elif name == b"INCRBY":
                self.wfile.write(b"-ERR value is not an integer\r\n")
            else:
                self.wfile.write(b"+OK\r\n")


@pytest.fixture
def redis_port():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), RedisLike) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_telemetry_of_fastapi_and_native_spans_are_one_trace(exporter, provider):
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    app = FastAPI(telemetry={"auto_configure": False})

    @app.get("/items/{item}")
    async def read(item: int):
        with tracekit.span("query"):
            await anyio.lowlevel.checkpoint()
        return {"tenant": baggage.get_baggage("tenant")}

    async def main():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            with tracekit.use_labels(tenant="a"), tracekit.span("caller", kind="client"):
                headers = tracekit.inject({})
            return await client.get("/items/1", headers=headers)

    response = anyio.run(main)
    assert response.json() == {"tenant": "a"}
    spans = {span.name: span for span in exporter.spans}
    server = spans["GET /items/{item}"]
    assert server.kind == "server"
    assert server.parent.span_id == spans["caller"].context.span_id
    assert server.parent.is_remote
    # FastAPI's own spans of the endpoint are between those of the program.
    assert spans["query"].parent == spans["fastapi.endpoint"].context
    assert spans["fastapi.endpoint"].parent == server.context
    assert server.attributes["http.route"] == "/items/{item}"
    assert server.attributes["http.response.status_code"] == 200
    assert server.instrumentation.name == "fastapi"
    assert [span.name for span in memory.get_finished_spans()] == [span.name for span in exporter.spans]


def test_an_error_in_an_endpoint_of_fastapi_is_on_its_span(exporter):
    app = FastAPI(telemetry={"auto_configure": False})

    @app.get("/")
    async def fail():
        raise ValueError("broken")

    async def main():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/")

    assert anyio.run(main).status_code == 500
    failed = [span.name for span in exporter.spans if span.status.code == "error"]
    assert failed == ["fastapi.endpoint", "GET /"]


def test_commands_to_redis_are_children_of_native_spans(exporter, redis_port):
    with (
        instrumented(RedisInstrumentor()),
        redis.Redis(host="127.0.0.1", port=redis_port) as client,
        tracekit.span("request"),
    ):
        assert client.get("key") == b"value"
        with pytest.raises(redis.ResponseError):
            client.incr("key")
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("a")
            pipeline.get("b")
            pipeline.execute()
    spans = {span.name: span for span in exporter.spans}
    assert set(spans) >= {"request", "GET", "INCRBY", "GET GET"}  # and what a connection begins with
    assert all(span.parent == spans["request"].context for name, span in spans.items() if name != "request")
    assert spans["GET"].kind == "client"
    assert spans["GET"].attributes["db.statement"] == "GET ?"
    assert spans["INCRBY"].status.code == "error"
    assert [event.attributes["exception.type"] for event in spans["INCRBY"].events] == [
        "redis.exceptions.ResponseError"
    ]


def test_an_aiohttp_client_propagates_span_and_labels(exporter):
    async def handler(request):
        with tracekit.use_context(tracekit.extract(request.headers)), tracekit.span("handler", kind="server"):
            return web.Response(text=tracekit.current_labels()["tenant"])

    async def main():
        async with aiohttp_server(handler) as url, aiohttp.ClientSession() as session:
            token = context.attach(baggage.set_baggage("tenant", "a"))
            with tracekit.span("caller"):
                async with session.get(url) as response:
                    text = await response.text()
            context.detach(token)
            return text

    with instrumented(AioHttpClientInstrumentor()):
        assert anyio.run(main) == "a"
    assert span_tree(exporter.spans) == "caller\n  GET\n    handler"
    client = next(span for span in exporter.spans if span.kind == "client")
    assert client.attributes["http.status_code"] == 200


def test_a_suppressed_instrumentation_makes_no_span_in_tasks_and_native_spans(exporter):
    async def handler(request):
        return web.Response(text=request.headers.get("traceparent", "none"))

    async def main():
        async with aiohttp_server(handler) as url, aiohttp.ClientSession() as session:
            found = []

            async def get():
                async with session.get(url) as response:
                    found.append(await response.text())

            with suppress_instrumentation(), tracekit.span("native"):
                async with anyio.create_task_group() as group:
                    group.start_soon(get)
                await get()
            await get()
            return found

    with instrumented(AioHttpClientInstrumentor()):
        first, second, third = anyio.run(main)
    assert (first, second) == ("none", "none")
    assert third != "none"
    assert span_tree(exporter.spans) == "native\nGET"


def test_both_apis_nest_over_tasks_and_threads(exporter, tracer):
    async def leaf(name):
        with tracekit.span(name):
            await anyio.lowlevel.checkpoint()

    def in_thread():
        with tracer.start_as_current_span("thread"), tracekit.span("native in thread"):
            pass

    async def main():
        with tracekit.span("native"), tracer.start_as_current_span("api"):
            async with anyio.create_task_group() as group:
                group.start_soon(leaf, "task")
            with tracekit.span("inner"):
                await anyio.to_thread.run_sync(in_thread)

    anyio.run(main)
    assert span_tree(exporter.spans) == ("native\n  api\n    task\n    inner\n      thread\n        native in thread")


def test_an_instrumentor_that_is_called_after_tracekits_is_reported_once(caplog):
    tracekit.instrument("httpx")
    try:
        for _ in range(2):
            with instrumented(HTTPXClientInstrumentor()):
                pass
    finally:
        tracekit.uninstrument("httpx")
    with instrumented(HTTPXClientInstrumentor()):
        pass
    (line,) = caplog.messages
    assert line.startswith("httpx is traced twice, because the program has called opentelemetry.instrumentation.")
