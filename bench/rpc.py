"""Print the time that tracing adds to a gRPC call and to a statement of SQLAlchemy: ``python -m bench.rpc``.

As in ``bench.clients``, each contender runs in processes of its own, which take turns; a figure is the best round of all
its processes, and the added time is the difference from the bare library. The clock is the CPU time of the process, all
threads, and nothing is exported. gRPC's client talks to its server over loopback, in one process, and the span of the
client is the parent of the server's. "in memory" leaves gRPC's core out, whose time varies more than tracing adds: the
method of a stub calls a handler directly. OpenTelemetry is its contrib package on the SDK; its interceptors have no way
around the core. A statement is ``SELECT`` with one parameter on SQLite in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENDERS = ["bare", "tracekit", "opentelemetry"]
TARGETS = {
    "gRPC unary, in memory": 15.0,
    "gRPC unary, in threads": 15.0,
    "gRPC unary, asyncio": 15.0,
    "SQLAlchemy statement": 8.0,
}
MANY = 50  # calls in one run of an event loop
METADATA = (("user-agent", "grpc-python/1.85.3"), ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01"))


def _handlers(handler: Any) -> Any:
    import grpc

    methods = {"Buy": grpc.unary_unary_rpc_method_handler(handler)}
    return grpc.method_handlers_generic_handler("shop.Shop", methods)


def in_memory(contender: str) -> Callable[[], object]:
    import grpc

    class Context:
        def invocation_metadata(self) -> Any:
            return METADATA

        def peer(self) -> str:
            return "ipv4:127.0.0.1:50000"

        def code(self) -> None: ...

        def details(self) -> bytes:
            return b""

        def is_active(self) -> bool:
            return True

    class Channel:
        target = "127.0.0.1:50051"

    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    context, details = Context(), type("Details", (), {"method": "/shop.Shop/Buy"})
    if contender == "bare":
        return lambda: handler.unary_unary(b"1", context)
    from tracekit.integrations import _grpc
    from tracekit.integrations import grpc as tracing

    interceptor = tracing.server_interceptor()

    def call(request: bytes, *_: Any) -> Any:
        return interceptor.intercept_service(lambda _: handler, details).unary_unary(request, context)

    stub = tracing.METHODS["unary_unary"](call, _grpc.Method(_grpc.Client(), Channel(), "/shop.Shop/Buy"))
    return lambda: stub(b"1")


def in_threads(_: str) -> Callable[[], object]:
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((_handlers(lambda request, _: request),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = channel.unary_unary("/shop.Shop/Buy")
    _keep.append((server, channel))
    return lambda: stub(b"1")


def on_asyncio(_: str) -> Callable[[], object]:
    import grpc.aio

    runner = asyncio.Runner()

    async def handler(request: bytes, _: Any) -> bytes:
        return request

    async def start() -> Any:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_handlers(handler),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        _keep.append((server, channel))
        return channel.unary_unary("/shop.Shop/Buy")

    stub = runner.run(start())

    async def many() -> None:
        for _ in range(MANY):
            await stub(b"1")

    return lambda: runner.run(many())


def statement(_: str) -> Callable[[], object]:
    import sqlalchemy

    engine = sqlalchemy.create_engine("sqlite://")
    connection = engine.connect()
    connection.execute(sqlalchemy.text("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)"))
    query = sqlalchemy.text("SELECT name FROM items WHERE id = :id AND name <> 'x'")
    return lambda: connection.execute(query, {"id": 7}).all()


_keep: list[Any] = []
ROWS: dict[str, tuple[Callable[[str], Callable[[], object]], int]] = {
    "gRPC unary, in memory": (in_memory, 1),
    "gRPC unary, in threads": (in_threads, 1),
    "gRPC unary, asyncio": (on_asyncio, MANY),
    "SQLAlchemy statement": (statement, 1),
}


def tracekit() -> Callable[[], object]:
    import tracekit
    from tracekit.integrations import grpc, sqlalchemy

    from .contender_tracekit import record

    record()
    for integration in (grpc, sqlalchemy):
        integration.instrument()
    return tracekit.flush


def opentelemetry() -> Callable[[], object]:
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "database"  # the attributes that tracekit records
    from opentelemetry import trace
    from opentelemetry.instrumentation.grpc import (
        GrpcAioInstrumentorClient,
        GrpcAioInstrumentorServer,
        GrpcInstrumentorClient,
        GrpcInstrumentorServer,
    )
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.sdk.trace import TracerProvider

    from .contender_opentelemetry import _NullExporter, _processor

    provider = TracerProvider()
    provider.add_span_processor(_processor(_NullExporter()))
    trace.set_tracer_provider(provider)
    for instrumentor in (
        GrpcAioInstrumentorClient,
        GrpcAioInstrumentorServer,
        GrpcInstrumentorClient,
        GrpcInstrumentorServer,
    ):
        instrumentor().instrument()
    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)  # it works with SQLAlchemy 2.1, and does not say so
    return provider.force_flush


def measure(contender: str, seconds: float, rounds: int) -> dict[str, float]:
    """Return microseconds per call, by row: the best of *rounds*, of *seconds* each."""
    if contender == "bare":
        flush: Callable[[], object] = lambda: None  # noqa: E731
    else:
        flush = {"tracekit": tracekit, "opentelemetry": opentelemetry}[contender]()
    found = {}
    for row, (make, units) in ROWS.items():
        if contender == "opentelemetry" and make is in_memory:
            continue
        call = make(contender)
        best = float("inf")
        for number in range(rounds + 1):
            spent = count = 0
            while not count or spent < seconds * 1e9:
                gc.disable()
                begin = time.process_time_ns()
                for _ in range(100 // units):
                    call()
                spent += time.process_time_ns() - begin
                gc.enable()
                count += 100 // units * units
                flush()
            gc.collect()
            if number:
                best = min(best, spent / count / 1000)
        found[row] = best
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.rpc", description=__doc__)
    parser.add_argument("--processes", type=int, default=3, help="of each contender")
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    seconds, rounds = (0.0, 1) if options.smoke else (0.1, 5)
    if options.one:
        print(json.dumps(measure(options.one, seconds, rounds)), flush=True)
        os._exit(0)  # without waiting for servers
    best: dict[str, dict[str, float]] = {contender: {} for contender in CONTENDERS}
    missing = [name for name in ("grpc", "sqlalchemy") if not _is_there(f"opentelemetry.instrumentation.{name}")]
    if missing:
        print(
            f"OpenTelemetry is left out: opentelemetry-instrumentation-{missing[0]} is not installed", file=sys.stderr
        )
    for _ in range(1 if options.smoke else options.processes):
        for contender in CONTENDERS:
            if missing and contender == "opentelemetry":
                continue
            command = [sys.executable, "-m", "bench.rpc", f"--one={contender}", *["--smoke"] * options.smoke]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1]
            )
            for row, figure in json.loads(done.stdout).items():
                best[contender][row] = min(figure, best[contender].get(row, figure))
    print("| µs added | bare | tracekit | OpenTelemetry | target |\n|---|---|---|---|---|")
    for row, target in TARGETS.items():
        bare = best["bare"][row]
        added = [f"+{best[name][row] - bare:.1f}" if row in best[name] else "-" for name in CONTENDERS[1:]]
        print(f"| {row} | {bare:.1f} | {' | '.join(added)} | {target:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
