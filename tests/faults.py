"""Measure losses: spans on their way to a collector with faults, counted at both ends; docs/OPERATIONS.md has the table.

``make faults``, or ``python -m tests.faults``. Real processes, real HTTP, a real file; only the waits are shorter than a
user's: a back-off begins with a millisecond instead of a second, a batch waits 50 ms at most before it is tried again
instead of 10 minutes, and no request gets more than 50 ms.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp import requests
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters._otlp.outbox import MAX_FAILURES
from tracekit.exporters.otlp import OTLPExporter

from . import faults_sigterm
from .exporters.collector import Collector, Proxy, Silence, babble, be_late, cut, lose_answer, refuse, take, truncate

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1800  # of a program that makes one batch per second
SPANS = 20  # per batch
FIRST_S, TIMEOUT_S = 0.001, 0.05
LARGEST = 1000  # bytes of a request to a collector with a small limit


class Failed(Exception):
    """A span was lost that should not have been, or was not counted."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"how many batches (default: {SECONDS})")
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and moments (default: 1)")
    parser.add_argument("--no-servers", action="store_true", help="leave out the rows of tests/faults_sigterm.py")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    _answers._FIRST_S = FIRST_S
    _sender._LONGEST_OF_A_BATCH_S = TIMEOUT_S
    requests._LEAST_BYTES = LARGEST
    print("| what goes wrong | spool | spans | arrived | twice | lost | counted as |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    try:
        for spool in (False, True):
            half(options.seconds, options.seed, spool=spool)
        for spool in (False, True):
            away(options.seconds, spool=spool)
        for spool in (False, True):
            silent(20, spool=spool)
        for spool in (False, True):
            poison(max(options.seconds, 2 * MAX_FAILURES), spool=spool)
        for spool in (False, True):
            silence(options.seconds, spool=spool)
        for spool in (False, True):
            small(options.seconds, spool=spool)
        full(options.seconds)
        damaged(options.seconds)
        killed(options.kills, options.seed)
        if not options.no_servers:
            stopped()
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def row(what: str, spool: bool, sent: int, names: Counter[str], counted: str) -> None:
    arrived = len(names)
    cells = (f"{sent:,}", f"{arrived:,}", f"{sum(names.values()) - arrived:,}", f"{sent - arrived:,}")
    print(f"| {what} | {'yes' if spool else 'no'} | {' | '.join(cells)} | {counted} |", flush=True)


@contextmanager
def exporting(url: str, spool: str | None, **options: Any) -> Iterator[tuple[OTLPExporter, Any]]:
    """Configure an exporter to *url*; yield it, and a function that returns the exported, failed and dropped spans."""
    exporter = OTLPExporter(url, environ={}, timeout_s=TIMEOUT_S, spool=spool, **options)
    before = tracekit.statistics()

    def since() -> tuple[int, int, int]:
        now = tracekit.statistics()
        if now.ended != now.exported + now.queued + now.dropped + now.failed + now.unsampled:
            raise Failed(f"the statistics do not add up: {now}")
        return now.exported - before.exported, now.failed - before.failed, now.dropped - before.dropped

    tracekit.configure(service="faults", exporter=exporter, environ={})
    yield exporter, since
    tracekit.configure(environ={})


def batch(number: int) -> None:
    for at in range(SPANS):
        tracekit.span(f"{number}/{at}", attributes={"number": number}).end()
    tracekit.flush(60)


def settle(exporter: OTLPExporter) -> None:
    """Wait until the spool is empty."""
    deadline = time.monotonic() + 120
    while exporter.ledger().waiting:
        if time.monotonic() > deadline:
            raise Failed(f"the spool does not empty: {exporter.ledger()}")
        exporter.flush(1)


def accounted(names: Counter[str], sent: int, since: Any, ledger: Any) -> str:
    """Return how the loss was counted; raise ``Failed`` if it was not, or if the spool should have prevented it."""
    exported, failed, dropped = since()
    if exported + failed + dropped != sent:
        raise Failed(f"{sent} sent, {exported} exported, {failed} failed, {dropped} dropped")
    lost = sent - len(names)
    if ledger is None:
        # A request that was cut after the collector had accepted it counts as failed, although it arrived.
        if not lost <= failed + dropped:
            raise Failed(f"{lost} lost, but {failed} failed and {dropped} dropped")
        return f"failed {failed:,}" if failed else "-"
    if ledger.put != ledger.sent + ledger.rejected + ledger.evicted + ledger.waiting + ledger.aside:
        raise Failed(f"the ledger does not add up: {ledger}")
    if lost > ledger.evicted + ledger.aside + failed:
        raise Failed(f"{lost} lost in spite of the spool: {ledger}")
    return ", ".join(f"{name} {count:,}" for name in ("evicted", "aside") if (count := getattr(ledger, name))) or "-"


def half(seconds: int, seed: int, *, spool: bool) -> None:
    """The collector fails half of its requests, in each of seven ways."""
    rng = random.Random(seed)
    faults = [cut, truncate, lose_answer, be_late, refuse(503), refuse(429, Retry_After="0"), babble(b"garbage")]
    with (
        tempfile.TemporaryDirectory() as directory,
        Collector() as collector,
        Proxy(collector.url, lambda _: rng.choice(faults) if rng.random() < 0.5 else None) as proxy,
        exporting(proxy.url, f"{directory}/spool.db" if spool else None) as (exporter, since),
    ):
        for number in range(seconds):
            batch(number)
        if spool:
            settle(exporter)
        names = collector.names
        counted = accounted(names, seconds * SPANS, since, exporter.ledger())
    row(f"{seconds:,} batches, half of all requests fail", spool, seconds * SPANS, names, counted)


def away(seconds: int, *, spool: bool) -> None:
    """The collector is away, then returns."""
    with Collector() as collector:
        port = collector.server_port
    with (
        tempfile.TemporaryDirectory() as directory,
        exporting(f"http://127.0.0.1:{port}", f"{directory}/spool.db" if spool else None) as (exporter, since),
    ):
        for number in range(seconds):
            batch(number)
        with Collector(port=port) as collector:
            batch(seconds)
            if spool:
                settle(exporter)
            names = collector.names
        counted = accounted(names, (seconds + 1) * SPANS, since, exporter.ledger())
    row(f"the collector is away for {seconds:,} batches, then back", spool, (seconds + 1) * SPANS, names, counted)


def silent(count: int, *, spool: bool) -> None:
    """The collector accepts connections and does not answer, then is replaced."""
    silence = Silence()
    with (
        tempfile.TemporaryDirectory() as directory,
        Collector(*[silence] * 100_000) as collector,
        exporting(collector.url, f"{directory}/spool.db" if spool else None) as (exporter, since),
    ):
        for number in range(count):
            batch(number)
        collector.answers = iter(())
        silence.over.set()
        batch(count)
        if spool:
            settle(exporter)
        names = collector.names
        counted = accounted(names, (count + 1) * SPANS, since, exporter.ledger())
    row(f"the collector never answers {count} batches, then does", spool, (count + 1) * SPANS, names, counted)


def answered(count: int, answer: Any, what: str, *, spool: bool) -> None:
    """Make *count* batches, which the collector answers by *answer*; only spans of batch 0 may be lost."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Collector() as collector,
        exporting(collector.url, f"{directory}/spool.db" if spool else None) as (exporter, since),
    ):
        collector.answers = itertools.repeat(answer)
        for number in range(count):
            batch(number)
        if spool:
            settle(exporter)
        names = collector.names
        counted = accounted(names, count * SPANS, since, exporter.ledger())
    if missing := [
        f"{number}/{at}" for number in range(1, count) for at in range(SPANS) if f"{number}/{at}" not in names
    ]:
        raise Failed(f"{len(missing)} lost that the collector would take: {missing[:3]}")
    row(what, spool, count * SPANS, names, counted)


def poison(count: int, *, spool: bool) -> None:
    """The collector never accepts the first batch."""

    def answer(handler: Any, request: Any) -> None:
        is_poison = any(name.startswith("0/") for name in names_in(request))
        (refuse(503) if is_poison else take)(handler, request)

    answered(count, answer, f"{count:,} batches, the first of which is always answered 503", spool=spool)


def silence(count: int, *, spool: bool) -> None:
    """The collector answers without content, in each of four ways."""
    heads = (b"204 No Content\r\n\r\n", b"200 OK\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n")
    chunked = b"200 OK\r\nTransfer-Encoding: chunked\r\n"
    answers = itertools.cycle(
        (*heads, chunked + b"\r\n0\r\n\r\n", chunked + b"Content-Type: text/html\r\n\r\n0\r\n\r\n")
    )

    def answer(handler: Any, request: Any) -> None:
        handler.server.keep(request)
        handler.wfile.write(b"HTTP/1.1 " + next(answers))

    answered(count, answer, f"{count:,} batches are answered 204, or 200 with an empty body", spool=spool)


def small(count: int, *, spool: bool) -> None:
    """The collector accepts a few spans per request."""

    def answer(handler: Any, request: Any) -> None:
        (refuse(413) if request.ByteSize() > LARGEST else take)(handler, request)

    answered(count, answer, f"{count:,} batches, and 413 for what is larger than {LARGEST} bytes", spool=spool)


def names_in(request: Any) -> Iterator[str]:
    for outer in request.resource_spans:
        for inner in outer.scope_spans:
            yield from (span.name for span in inner.spans)


def damaged(seconds: int) -> None:
    """The collector is away, and the spool is overwritten after half of the batches."""
    half = seconds // 2
    with Collector() as collector:
        port = collector.server_port
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "spool.db")
        with exporting(f"http://127.0.0.1:{port}", str(path)) as (_, _):
            for number in range(half):
                batch(number)
        octets = path.read_bytes()
        path.write_bytes(octets[:100] + b"\x05" * (len(octets) - 100))
        with exporting(f"http://127.0.0.1:{port}", str(path)) as (exporter, since):
            for number in range(half, seconds):
                batch(number)
            with Collector(port=port) as collector:
                settle(exporter)
                names = collector.names
            accounted(names, (seconds - half) * SPANS, since, exporter.ledger())
        if len(names) != (seconds - half) * SPANS or not Path(directory, "spool.db.damaged").exists():
            raise Failed(f"{len(names)} of {(seconds - half) * SPANS} spans arrived that came after the damage")
    what = f"the spool is overwritten after {half:,} of {seconds:,} batches, while the collector is away"
    row(what, True, seconds * SPANS, names, "in spool.db.damaged")


def full(seconds: int) -> None:
    """The collector is away until the spool is full."""
    limit = 1 << 20
    with Collector() as collector:
        port = collector.server_port
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/spool.db"
        with exporting(f"http://127.0.0.1:{port}", path, spool_bytes=limit) as (exporter, since):
            largest = 0
            for number in range(seconds):
                batch(number)
                largest = max(largest, sum(entry.stat().st_size for entry in os.scandir(directory)))
            with Collector(port=port) as collector:
                settle(exporter)
                names = collector.names
            counted = accounted(names, seconds * SPANS, since, exporter.ledger())
            newest = f"{seconds - 1}/{SPANS - 1}"
            if largest > limit or newest not in names:
                raise Failed(f"{largest} bytes in a spool of {limit}, newest there: {newest in names}")
    what = f"the collector is away for {seconds:,} batches, and the spool has 1 MiB; its files took {largest / limit:.2f} MiB at most"
    row(what, True, seconds * SPANS, names, counted)


_CHILD = """
import logging, sys
logging.disable(logging.CRITICAL)
import tracekit
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters.otlp import OTLPExporter
_answers._FIRST_S = {first}
url, spool, child = sys.argv[1:]
tracekit.configure(exporter=OTLPExporter(url, environ={{}}, timeout_s={timeout}, spool=spool), environ={{}})
exporter = tracekit._configure._pipeline._worker.intake.exporter
export = exporter.export
def export_and_say(spans):
    export(spans)
    print(*[span.name for span in spans], flush=True)  # from here on they must not be lost
exporter.export = export_and_say
number = 0
while True:
    for _ in range({spans}):
        number += 1
        tracekit.span(f"{{child}}/{{number}}").end()
    tracekit.flush(60)
"""


def killed(kills: int, seed: int) -> None:
    """Processes that share a spool are killed at random moments, while half of their requests fail."""
    rng = random.Random(seed)
    faults = [cut, truncate, lose_answer, refuse(503)]
    code = _CHILD.format(first=FIRST_S, timeout=TIMEOUT_S, spans=SPANS)
    promised: set[str] = set()
    with (
        tempfile.TemporaryDirectory() as directory,
        Collector() as collector,
        Proxy(collector.url, lambda _: rng.choice(faults) if rng.random() < 0.5 else None) as proxy,
    ):
        path = f"{directory}/spool.db"
        command = [sys.executable, "-c", code, proxy.url, path]
        for start in range(0, kills, 2):
            pair = []
            for child in range(start, min(start + 2, kills)):
                output = Path(directory, f"{child}.out")
                with output.open("w") as file:
                    pair.append((subprocess.Popen([*command, str(child)], stdout=file), output))
            while not all(output.stat().st_size for _, output in pair):
                time.sleep(0.001)
            for process, output in pair:
                time.sleep(rng.random() * 0.1)
                process.send_signal(signal.SIGKILL)
                process.wait()
                said = output.read_text()
                promised.update(said[: said.rfind("\n") + 1].split())
            if (found := _integrity(path)) != "ok":
                raise Failed(f"the spool is broken: {found}")
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{start + len(pair)} of {kills} killed ")
        with exporting(collector.url, path) as (exporter, _):
            exporter.start()
            settle(exporter)
            ledger = exporter.ledger()
        names = collector.names
    missing = promised - names.keys()
    if missing or ledger.put != ledger.sent:
        raise Failed(f"{len(missing)} of {len(promised)} spans that were spooled did not arrive: {ledger}")
    kept = Counter({name: count for name, count in names.items() if name in promised})
    row(f"SIGKILL at {kills} random moments, half of all requests fail", True, len(promised), kept, "-")


def stopped() -> None:
    """Servers get SIGTERM, and children of celery are recycled."""
    for what, spool, sent, names, counted in faults_sigterm.rows():
        if len(names) < sent:
            raise Failed(f"{what}: {len(names)} of {sent} spans arrived")
        row(what, spool, sent, names, counted)


def _integrity(path: str) -> str:
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
