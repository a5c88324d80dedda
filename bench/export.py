"""Print what export sustains: spans made at a steady rate, encoded and sent over HTTP to a null collector on loopback.

``python -m bench.export``. The collector is another process, which discards all that it reads. A rate is sustained if
no span is dropped at the default settings of the buffer. CPU is that of the exporting thread, beside the program's own.
That thread encodes all spans here; with an ``OTLPExporter`` that no class extends, the program's threads encode most.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from . import inputs, report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATES = (10_000, 50_000, 100_000, 150_000, 200_000)
WAYS = ("http/protobuf", "http/protobuf, gzip", "http/json", "spool")
TICK_S = 0.002

_COLLECTOR = """
import asyncio

async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            size = next(int(line[15:]) for line in head.split(b"\\r\\n") if line.lower().startswith(b"content-length:"))
            kind = b"json" if b"application/json" in head else b"x-protobuf"
            while size > 0:
                size -= len(await reader.read(min(size, 1 << 20)))
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/" + kind + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except asyncio.IncompleteReadError:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Outcome(NamedTuple):
    """What came of one rate."""

    made_per_s: float
    dropped: int
    failed: int
    cpu_us: float
    share: float


class Timed(OTLPExporter):
    """Adds up the CPU time of the threads that export and send."""

    cpu_ns = 0

    def export(self, spans: Sequence[tracekit.Span]) -> None:
        begin = time.thread_time_ns()
        super().export(spans)
        self.cpu_ns += time.thread_time_ns() - begin

    def _send_batch(self, batch: object) -> object:
        begin = time.thread_time_ns()
        try:
            return super()._send_batch(batch)
        finally:
            self.cpu_ns += time.thread_time_ns() - begin


@contextmanager
def null_collector() -> Iterator[str]:
    """Give the URL of a collector that takes everything."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def run(url: str, way: str, rate: int, seconds: float, spool: str) -> Outcome:
    """Make *rate* spans a second for so long, export them in this *way*, and see what became of them."""
    protocol, _, compression = ("http/protobuf" if way == "spool" else way).partition(", ")
    exporter = Timed(
        url,
        protocol=protocol,
        compression=compression or "none",
        spool=f"{spool}/{rate}.db" if way == "spool" else None,
        environ={},
    )
    tracekit.configure(service="bench", exporter=exporter, environ={})
    before = tracekit.statistics()
    begin, cpu = time.monotonic(), time.thread_time()
    made = _make(rate, seconds)
    took, own = time.monotonic() - begin, time.thread_time() - cpu
    if not tracekit.flush(60):
        raise RuntimeError("not all could be sent")
    after = tracekit.statistics()
    exported = after.exported - before.exported
    tracekit.configure(environ={})
    return Outcome(
        made / took,
        after.dropped - before.dropped,
        after.failed - before.failed,
        exporter.cpu_ns / 1000 / max(exported, 1),
        own / took,
    )


def _make(rate: int, seconds: float) -> int:
    """Make spans in small portions, so that they come as steadily as a loop of requests would make them."""
    begin = time.monotonic()
    made = 0
    while (elapsed := time.monotonic() - begin) < seconds:
        for number in range(made, int(rate * elapsed)):
            with tracekit.span("work", attributes=inputs.attributes_of(number)) as span:
                span.add_event("cache miss")
        made = max(made, int(rate * elapsed))
        threading.Event().wait(TICK_S)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each rate is held (default: 5)")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="spans a second, with commas between")
    options = parser.parse_args()
    import tempfile

    print(f"tracekit {tracekit.__version__}, {tracekit.IMPLEMENTATION}; {report.machine()}.\n")
    print("| export by | spans a second, wanted | made | dropped | failed | CPU a span | the program's own share |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with null_collector() as url, tempfile.TemporaryDirectory() as spool:
        for way in WAYS:
            for rate in map(int, options.rates.split(",")):
                found = run(url, way, rate, options.seconds, spool)
                cells = (f"{rate:,}", f"{found.made_per_s:,.0f}", f"{found.dropped:,}", f"{found.failed:,}")
                print(f"| {way} | {' | '.join(cells)} | {found.cpu_us:.2f} µs | {found.share:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
