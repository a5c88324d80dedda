"""Print what OpenTelemetry's instrumentations add to a call, on the SDK and on tracekit: ``python -m bench.instrumentations``.

A call is made to a stub, so that nothing is measured but the library and its instrumentation. Each tracer runs in a
separate process, one after the other, several times; a figure is the least CPU time of a call, less that of the bare
library. The SDK has a BatchSpanProcessor, tracekit its exporter; both discard the spans.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import json
import os
import subprocess
import sys
from time import process_time_ns
from typing import Any

TRACERS = ("none", "sdk", "tracekit")
CALLS = 300


def main() -> int:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.instrumentations", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each tracer")
    parser.add_argument("--worker", choices=TRACERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker)))
        return 0
    best: dict[str, dict[str, float]] = {tracer: {} for tracer in TRACERS}
    for _ in range(options.rounds):
        for tracer in TRACERS:
            command = [sys.executable, "-m", "bench.instrumentations", "--worker", tracer]
            for name, spent in json.loads(subprocess.check_output(command)).items():
                best[tracer][name] = min(spent, best[tracer].get(name, spent))
    print("| instrumentation | library alone | added on the SDK | added on tracekit | SDK over tracekit |")
    print("|---|---|---|---|---|")
    for name, alone in best["none"].items():
        sdk, ours = (best[tracer][name] - alone for tracer in TRACERS[1:])
        print(f"| {name} | {alone:.1f} µs | {sdk:.1f} µs | {ours:.1f} µs | {sdk / ours:.1f}x |")
    return 0


def measure(tracer: str) -> dict[str, float]:
    """Return the least CPU time of a call, in microseconds, by instrumentation."""
    _set_up(tracer)
    found = {}
    for name, (module, kind, prepare) in LIBRARIES.items():
        if kind:
            try:
                instrumentor = getattr(importlib.import_module(f"opentelemetry.instrumentation.{module}"), kind)()
            except ImportError:
                continue
            if tracer != "none":
                instrumentor.instrument()
        with contextlib.ExitStack() as stack:
            call = prepare(stack, tracer != "none")
            found[name] = min(_time(call) for _ in range(10))
    return found


def _set_up(tracer: str) -> None:
    if tracer == "sdk":
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        class Discard(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:
                return SpanExportResult.SUCCESS

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(Discard()))
        trace.set_tracer_provider(provider)
    elif tracer == "tracekit":
        import tracekit
        from tracekit.bridges import opentelemetry

        class Drop:
            def export(self, spans: Any) -> None:
                pass

            def shutdown(self) -> None:
                pass

        tracekit.configure(exporter=Drop(), environ={})
        opentelemetry.install()


def _time(call: Any) -> float:
    gc.collect()
    gc.disable()
    begin = process_time_ns()
    for _ in range(CALLS):
        call()
    spent = process_time_ns() - begin
    gc.enable()
    return spent / CALLS / 1000


# ---- the libraries: each makes a call, without a network


def _sqlite3(stack: contextlib.ExitStack, _: bool) -> Any:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    stack.callback(connection.close)
    cursor = connection.cursor()
    return lambda: cursor.execute("SELECT 1")


def _redis(_: contextlib.ExitStack, __: bool) -> Any:
    import redis

    class Stub(redis.connection.AbstractConnection):
        def connect(self) -> None:
            pass

        def send_command(self, *_: Any, **__: Any) -> bool:
            return False

        disconnect = can_read = send_command

        def read_response(self, *args: Any, **kwargs: Any) -> bytes:
            return b"value"

        _connect = _host_error = connect

        def repr_pieces(self) -> list[Any]:
            return []

    client = redis.Redis(connection_pool=redis.ConnectionPool(connection_class=Stub, db=0))
    return lambda: client.get("key")


def _jinja2(_: contextlib.ExitStack, __: bool) -> Any:
    import jinja2

    return jinja2.Environment().from_string("hello {{ name }}").render


def _asyncio(stack: contextlib.ExitStack, _: bool) -> Any:
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)

    async def work() -> None:
        pass

    async def ten() -> None:
        for _ in range(10):
            await asyncio.create_task(work())

    return lambda: loop.run_until_complete(ten())


def _requests(_: contextlib.ExitStack, __: bool) -> Any:
    import requests

    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request: Any, **_: Any) -> requests.Response:
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, request.url
            response.raw = None
            response._content = b""
            return response

        def close(self) -> None:
            pass

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", Adapter())
    return lambda: session.get("http://shop/cart")


def _wsgi(_: contextlib.ExitStack, is_traced: bool) -> Any:
    from wsgiref.util import setup_testing_defaults

    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    def app(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"body"]

    handler = OpenTelemetryMiddleware(app) if is_traced else app

    def call() -> None:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        list(handler(environ, lambda *_: None))

    return call


def _asgi(stack: contextlib.ExitStack, is_traced: bool) -> Any:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    async def send(message: Any) -> None:
        pass

    handler = OpenTelemetryMiddleware(app) if is_traced else app
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/cart",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"shop"), (b"user-agent", b"bench")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    return lambda: loop.run_until_complete(handler(dict(scope), None, send))


def _grpc(_: contextlib.ExitStack, is_traced: bool) -> Any:
    from types import SimpleNamespace

    from opentelemetry import trace
    from opentelemetry.instrumentation.grpc._client import OpenTelemetryClientInterceptor

    info = SimpleNamespace(full_method="/shop.Cart/Get", timeout=None)
    interceptor = OpenTelemetryClientInterceptor(trace.get_tracer("bench"))

    def invoke(*_: Any) -> object:
        return SimpleNamespace()

    if not is_traced:
        return lambda: invoke(None, {})
    return lambda: interceptor.intercept_unary(None, {}, info, invoke)


os.environ["OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE"] = "work"
LIBRARIES: dict[str, tuple[str, str, Any]] = {
    "sqlite3, execute": ("sqlite3", "SQLite3Instrumentor", _sqlite3),
    "redis, get": ("redis", "RedisInstrumentor", _redis),
    "jinja2, render": ("jinja2", "Jinja2Instrumentor", _jinja2),
    "asyncio, 10 tasks": ("asyncio", "AsyncioInstrumentor", _asyncio),
    "requests, get": ("requests", "RequestsInstrumentor", _requests),
    "grpc, a unary call": ("grpc", "", _grpc),
    "asgi, a request": ("asgi", "", _asgi),
    "wsgi, a request": ("wsgi", "", _wsgi),
}


if __name__ == "__main__":
    sys.exit(main())
