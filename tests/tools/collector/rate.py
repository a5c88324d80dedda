"""A steady rate of spans from one process into the Collector's file, without loss."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from .server import Failed

if TYPE_CHECKING:
    from .server import Server

CHUNK = 500


def check(server: Server, rate: int, seconds: float) -> None:
    """Make *rate* spans a second, with two attributes each, and count those in the Collector's file."""
    exporter = OTLPExporter(server.url("http/protobuf"), environ={})
    # A second's spans: the default, 16,384, is too few at high rates on a machine that runs other programs.
    tracekit.configure(service="shop", exporter=exporter, environ={}, buffer_size=max(16_384, rate))
    before, begin, made = tracekit.statistics(), time.monotonic(), 0
    while (now := time.monotonic()) < begin + seconds:
        while made < (now - begin) * rate:
            for number in range(CHUNK):
                with tracekit.span("work", attributes={"item.id": number, "cached": True}):
                    pass
            made += CHUNK
        time.sleep(0.001)
    took = time.monotonic() - begin
    if not tracekit.flush(60):
        raise Failed("the spans were not sent")
    after = tracekit.statistics()
    server.stop()  # writes everything
    arrived = 0
    with open(server.file, "rb") as file:
        for line in file:  # at most one batch, of a few MiB
            arrived += line.count(b'"spanId":')
    print(f"{made / took:,.0f} spans a second for {took:.0f} s: {made:,} made, {arrived:,} arrived", flush=True)
    if arrived != made:
        raise Failed(f"{after.dropped - before.dropped} spans dropped, {after.failed - before.failed} failed")
