"""Print what ``tracekit ui`` receives: spans from one sender over OTLP/HTTP, into the store, in a separate process.

``python -m bench.receiver``. The sender keeps one connection and sends the next batch after the answer, which comes
after the commit; so it sends as many spans a second as the receiver stores. CPU is that of the receiver's process, all its
threads together: its reciprocal is what one core stores. It is measured while the store fills, and at its size bound,
where each span also evicts one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tracekit
from tracekit._core.otlp import encode_spans
from tracekit.testing import MemoryExporter

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVER = """
import asyncio, sys, json
from tracekit.ui.server import Viewer
viewer = Viewer(sys.argv[1], port=0, http_port=0, grpc_port=0, max_bytes=int(sys.argv[2]))
print(json.dumps(viewer.urls), flush=True)
asyncio.run(viewer.serve())
"""
BATCH, TRACE = 512, 8
_FIXED64 = struct.Struct("<Q")
ATTRIBUTES = {
    "http.request.method": "POST",
    "http.route": "/checkout/{number}",
    "http.response.status_code": 200,
    "server.address": "shop.example",
    "network.peer.address": "10.0.0.7",
}


class Outcome(NamedTuple):
    """The result of one run."""

    spans: int
    stored: int
    per_s: float
    cpu_us: float
    rss_mb: tuple[float, float]


class Batches:
    """Requests of BATCH spans, TRACE of them a trace, with fresh ids and the present time in each."""

    def __init__(self, size: int = BATCH) -> None:
        memory = MemoryExporter()
        tracekit.configure(service="shop", exporter=memory, environ={})
        for _ in range(size // TRACE):
            with tracekit.span("POST /checkout/{number}", kind="server", attributes=ATTRIBUTES):
                for _ in range(TRACE - 1):
                    with tracekit.span("reserve", attributes=ATTRIBUTES):
                        pass
        tracekit.flush()
        spans = memory.spans
        self._octets = bytearray(encode_spans(spans))
        tracekit.configure(environ={})
        self.spans = len(spans)
        self._traces: dict[bytes, list[int]] = {}
        for span in spans:
            trace_id = bytes.fromhex(span.context.trace_id)
            if trace_id not in self._traces:
                self._traces[trace_id] = [found.start() for found in re.finditer(re.escape(trace_id), self._octets)]
        times = {time_ns for span in spans for time_ns in (span.start_ns, span.end_ns or 0)}
        self._end_ns = max(times)
        self._times = [
            (found.start() + 1, time_ns)
            for time_ns in times
            for found in re.finditer(b"[\x39\x41]" + re.escape(_FIXED64.pack(time_ns)), self._octets)
        ]

    def fresh(self) -> bytes:
        """Return the next request; span ids are unique in a trace, and stay."""
        octets = self._octets
        later_ns = time.time_ns() - self._end_ns
        for place, time_ns in self._times:
            _FIXED64.pack_into(octets, place, time_ns + later_ns)
        for places in self._traces.values():
            trace_id = os.urandom(16)
            for place in places:
                octets[place : place + 16] = trace_id
        return bytes(octets)


@contextmanager
def server(path: Path, max_bytes: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Give the process and the addresses of a receiver."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(path), str(max_bytes)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def run(total: int, max_bytes: int) -> Outcome:
    """Send *total* spans as fast as they are taken."""
    batches = Batches()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder, "spans.db"), max_bytes) as (pid, urls):
        host = urls["http"].removeprefix("http://")
        connection = http.client.HTTPConnection(host)
        sent = 0
        rss: list[float] = []
        cpu, begin = _cpu_s(pid), time.monotonic()
        while sent < total:
            connection.request("POST", "/v1/traces", batches.fresh(), {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            if response.status != 200 or response.read():
                raise RuntimeError(f"the receiver answered {response.status}")
            sent += batches.spans
            if len(rss) < sent * 10 // total:
                rss.append(_rss_mb(pid))
        took, cpu = time.monotonic() - begin, _cpu_s(pid) - cpu
        connection.close()
        pages = http.client.HTTPConnection(urls["pages"].removeprefix("http://"))
        pages.request("GET", "/api/status")
        stored = json.loads(pages.getresponse().read())["stored"]
        pages.close()
    return Outcome(sent, stored, sent / took, cpu * 1e6 / sent, (rss[1], rss[-1]))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=500_000)
    arguments = parser.parse_args()
    for title, max_bytes in (
        ("filling", 1 << 40),
        ("full: the oldest are evicted", max(1 << 20, arguments.spans * 300)),
    ):
        outcome = run(arguments.spans, max_bytes)
        print(f"{title}: sent {outcome.spans:,} spans in batches of {BATCH}, stored {outcome.stored:,}")
        print(f"  {outcome.per_s:,.0f} spans/s beside the sender")
        print(f"  {outcome.cpu_us:.1f} µs of CPU a span: one core stores {1e6 / outcome.cpu_us:,.0f} spans/s")
        print(f"  memory {outcome.rss_mb[0]:.0f} MB after a fifth, {outcome.rss_mb[1]:.0f} MB at the end")


if __name__ == "__main__":
    main()
