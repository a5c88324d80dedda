"""A steady rate of spans from one process into the Collector's file: without loss, and the processor time of both.

The Collector runs its Go code on one core (``GOMAXPROCS=1``). Processor time is the operating system's accounting, in
user and kernel mode: for this process from the first span until the last is sent, for the Collector from its start to
its end. So it says whether one core each suffices also on a machine that runs other programs.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from .server import Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .server import Server

CHUNK = 500  # spans between two looks at the clock
TABLES = ("items", "prices", "stock", "orders", "customers")
REACHED = 0.99  # of the rate: the clock is read once a chunk


class Usage(NamedTuple):
    """Processor seconds of a run of *wall_s*, in which *made* spans were made, and *arrived* in the Collector's file."""

    made: int
    arrived: int
    wall_s: float
    making_s: float  # by the thread that makes spans
    exporting_s: float  # by the other threads of this process
    collector_s: float

    def lines(self) -> list[str]:
        """Return a Markdown table: processor time of each part."""
        making, exporting = self.making_s / self.made, self.exporting_s / max(1, self.arrived)
        rows = [
            ("the program's thread", self.making_s, making),
            ("its exporting thread", self.exporting_s, exporting),
            ("the process", self.making_s + self.exporting_s, making + exporting),
            ("the Collector", self.collector_s, self.collector_s / max(1, self.arrived)),
        ]
        lines = ["| | CPU, of one core | CPU seconds for 100,000 spans | spans a second on one core |"]
        lines.append("| --- | ---: | ---: | ---: |")
        for name, cpu_s, each in rows:
            lines.append(f"| {name} | {cpu_s / self.wall_s:.0%} | {each * 1e5:.2f} s | {1 / max(each, 1e-9):,.0f} |")
        return lines

    @property
    def suffices(self) -> bool:
        """Whether neither process has used more than one core."""
        return max(self.making_s + self.exporting_s, self.collector_s) <= self.wall_s


class Timed(OTLPExporter):
    """Times each request until the Collector's answer; spans are encoded before, where they end."""

    def __init__(self, url: str, compression: str) -> None:
        super().__init__(url, compression=compression, environ={})
        self.batches = 0
        self.longest_s = self.total_s = 0.0

    def deliver(self, parcels: Sequence[Any]) -> None:
        begin = time.monotonic()
        try:
            super().deliver(parcels)
        finally:
            took = time.monotonic() - begin
            self.batches += 1
            self.total_s += took
            self.longest_s = max(self.longest_s, took)


def check(server: Server, rate: int, seconds: float, compression: str, batch: int | None) -> None:
    """Make *rate* spans a second, with five attributes each, and count those in the Collector's file."""
    exporter = Timed(server.url("http/protobuf"), compression)
    # A second's spans: the default, 16,384, is too few at high rates on a machine that runs other programs.
    size = max(16_384, rate)
    tracekit.configure(service="shop", exporter=exporter, environ={}, buffer_size=size, batch_size=batch)
    before, begin, made, behind = tracekit.statistics(), time.monotonic(), 0, 0
    last, pause_s = begin, 0.0
    process_s, thread_s, children_s = time.process_time(), time.thread_time(), _children_s()
    while (now := time.monotonic()) < begin + seconds:
        last, pause_s = now, max(pause_s, now - last)
        while made < (now - begin) * rate:
            for number in range(CHUNK):
                attributes = {
                    "item.id": number,
                    "customer.id": made,
                    "http.route": "/items/{number}",
                    "cache.hit": False,
                    "db.collection.name": TABLES[number % len(TABLES)],
                }
                with tracekit.span("work", attributes=attributes):
                    pass
            made += CHUNK
        behind = max(behind, tracekit.statistics().queued)
        time.sleep(0.001)
    took = time.monotonic() - begin
    if not tracekit.flush(60):
        raise Failed("the spans were not sent")
    making_s = time.thread_time() - thread_s
    exporting_s = time.process_time() - process_s - making_s
    after = tracekit.statistics()
    server.stop()  # writes everything
    collector_s = _children_s() - children_s
    arrived = 0
    with open(server.file, "rb") as file:
        for line in file:  # at most one batch, of a few MiB
            arrived += line.count(b'"spanId":')
    usage = Usage(made, arrived, took, making_s, exporting_s, collector_s)
    octets = server.file.stat().st_size
    print(
        f"{made / took:,.0f} spans a second for {took:.0f} s: {made:,} made, {arrived:,} arrived in {octets:,} octets"
    )
    mean_ms, spans = exporter.total_s / exporter.batches * 1e3, arrived / exporter.batches
    print(
        f"{exporter.batches:,} exports, one at a time, took {mean_ms:.1f} ms each for {spans:,.0f} spans, {exporter.longest_s:.2f} s"
        f" at most: {exporter.total_s / took:.0%} of the time\n{behind:,} spans waited at most, with a buffer of"
        f" {size:,}; the longest pause of the program was {pause_s:.2f} s\n",
        flush=True,
    )
    print("\n".join(usage.lines()), flush=True)
    if arrived != made:
        raise Failed(f"{after.dropped - before.dropped} spans dropped, {after.failed - before.failed} failed")
    if made / took < REACHED * rate:
        raise Failed(f"this process made {made / took:,.0f} spans a second, not {rate:,}")
    if not usage.suffices:
        raise Failed("nothing was lost, but one core each does not suffice")
    print(f"\nheld: {rate:,} spans a second, none lost, on one core each", flush=True)


def _children_s() -> float:
    """Return the processor time of the child processes that have ended."""
    used = os.times()
    return used.children_user + used.children_system
