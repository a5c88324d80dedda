"""A Collector that is stopped, restarted, replaced and out of memory, with a spool: every span arrives."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from .server import ARRIVE_S, Failed, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from .server import Server

SPANS = 5_000
TINY = {"COLLECTOR_MEMORY_MIB": "2", "COLLECTOR_MEMORY_SPIKE_MIB": "1"}  # less than the Collector's heap when it starts


def check(server: Server, protocol: str, spool: Path, rejected: str = "") -> None:
    """Interrupt *server* in each way, and compare the ledger of *spool* and the file with the spans that ended.

    Every tenth span has the attribute *rejected*, if *server* is a Collector that rejects spans with it.
    """
    exporter = OTLPExporter(server.url(protocol), protocol=protocol, spool=spool, timeout_s=5, environ={})
    tracekit.configure(service="shop", exporter=exporter, environ={}, buffer_size=4 * SPANS, export_interval_s=0.05)
    sent: list[str] = []
    not_taken: list[str] = []

    def produce(count: int = SPANS) -> None:
        for number in range(count):
            is_rejected = bool(rejected) and number % 10 == 0
            with tracekit.span(
                "work", attributes={"number": number, **({rejected: number} if is_rejected else {})}
            ) as span:
                pass
            (not_taken if is_rejected else sent).append(span.context.span_id)

    def produce_until(over: threading.Event) -> None:
        while not over.wait(0.005):  # at most 10,000 spans a second, in many batches
            produce(50)

    def settle(waiting: int | None = 0) -> None:
        """Send what can be sent; *waiting* spans remain in the spool."""
        tracekit.flush(30)
        wait_until(lambda: tracekit.statistics().queued == 0, ARRIVE_S, "the buffer was not emptied")
        if waiting == 0:
            wait_until(lambda: exporter.flush(5), ARRIVE_S, "the spool was not emptied")
        ledger = exporter.ledger()
        assert ledger is not None
        ended = len(sent) + len(not_taken)
        if (ledger.put, ledger.waiting) != (ended, waiting):
            raise Failed(f"{ended} spans ended, {waiting} should be waiting: {ledger}")
        print(
            f"    {ledger.put} put, {ledger.sent} sent, {ledger.rejected} rejected, {ledger.waiting} waiting",
            flush=True,
        )

    print("  running")
    produce()
    settle()
    print("  stopped")
    server.stop()
    produce()
    settle(waiting=SPANS)
    print("  started again, out of memory: memory_limiter answers with an error")
    server.start(**TINY)
    wait_until(lambda: b"Memory usage is above" in server.log.read_bytes(), ARRIVE_S, "memory_limiter did not act")
    produce()
    settle(waiting=2 * SPANS)
    print("  started again with memory")
    server.stop()
    server.start()
    settle()
    print("  replaced while spans are sent")
    replaced = threading.Event()
    producer = threading.Thread(target=produce_until, args=(replaced,))
    before = exporter.ledger()
    assert before is not None
    producer.start()

    def are_sent(more: int) -> bool:
        ledger = exporter.ledger()
        return ledger is not None and ledger.sent >= before.sent + more

    try:
        wait_until(lambda: are_sent(500), ARRIVE_S, "500 spans were not sent")
        server.stop()
        server.start()
        wait_until(lambda: are_sent(1500), ARRIVE_S, "nothing was sent after the replacement")
    finally:
        replaced.set()
        producer.join()
    settle()
    server.stop()  # writes everything
    ledger, arrived = exporter.ledger(), Counter(server.span_ids)
    assert ledger is not None
    if (ledger.put, ledger.sent, ledger.rejected) != (len(sent) + len(not_taken), len(sent), len(not_taken)):
        raise Failed(f"{len(sent)} spans ended, and {len(not_taken)} that are rejected: {ledger}")
    if missing := set(sent) - arrived.keys():
        raise Failed(f"{len(missing)} spans of {len(sent)} are not in the Collector's file")
    if unknown := arrived.keys() - set(sent):
        raise Failed(f"{len(unknown)} spans in the Collector's file were never sent, or are rejected")
    twice = sum(arrived.values()) - len(sent)
    print(
        f"  {len(sent)} of {len(sent)} spans arrived, {twice} of them twice, {len(not_taken)} were rejected; {ledger}",
        flush=True,
    )
