"""What is lost when: spans on their way through a collector with faults, counted at both ends; docs/OPERATIONS.md shows it.

``make faults``, or ``python -m tests.faults``. Real processes, real HTTP, a real file; only waits are shorter than a
user's: a back-off begins with a millisecond instead of a second, and no request gets more than 50 ms.
"""

from __future__ import annotations

import argparse
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
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters.otlp import OTLPExporter

from .exporters.collector import Collector, Proxy, Silence, babble, be_late, cut, lose_answer, refuse, truncate

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 1800  # of a program that makes a batch a second
SPANS = 20  # a batch
FIRST_S, TIMEOUT_S = 0.001, 0.05


class Failed(Exception):
    """Something was lost that should not have been, or was not counted."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"how many batches (default: {SECONDS})")
    parser.add_argument("--kills", type=int, default=100, help="how many processes to kill (default: 100)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and moments (default: 1)")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    _sender._FIRST_S = FIRST_S
    print("| what goes wrong | spool | spans | arrived | twice | lost | counted as |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    try:
        for spool in (False, True):
            half(options.seconds, options.seed, spool=spool)
        for spool in (False, True):
            away(options.seconds, spool=spool)
        for spool in (False, True):
            silent(20, spool=spool)
        full(options.seconds)
        killed(options.kills, options.seed)
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
    """Configure an exporter to *url*; give it, and what says how many spans were exported, failed and dropped since."""
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
    """Return how the loss was counted; ``Failed`` if it was not, or if there is one in spite of a spool."""
    exported, failed, dropped = since()
    if exported + failed + dropped != sent:
        raise Failed(f"{sent} sent, {exported} exported, {failed} failed, {dropped} dropped")
    lost = sent - len(names)
    if ledger is None:
        # What broke off after the collector had taken it has arrived, and was counted as failed.
        if not lost <= failed + dropped:
            raise Failed(f"{lost} lost, but {failed} failed and {dropped} dropped")
        return f"failed {failed:,}" if failed else "-"
    if ledger.put != ledger.sent + ledger.rejected + ledger.evicted + ledger.waiting:
        raise Failed(f"the ledger does not add up: {ledger}")
    if lost > ledger.evicted + failed:
        raise Failed(f"{lost} lost in spite of the spool: {ledger}")
    return f"evicted {ledger.evicted:,}" if ledger.evicted else "-"


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
    """There is no collector, until there is one again."""
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
    """The collector accepts, and never answers, until it is replaced."""
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


def full(seconds: int) -> None:
    """The collector stays away for longer than the spool has room."""
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
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters.otlp import OTLPExporter
_sender._FIRST_S = {first}
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
    if missing or ledger.put != ledger.sent + ledger.rejected + ledger.evicted or ledger.evicted or ledger.rejected:
        raise Failed(f"{len(missing)} of {len(promised)} spans that were spooled did not arrive: {ledger}")
    kept = Counter({name: count for name, count in names.items() if name in promised})
    row(f"SIGKILL at {kills} random moments, half of all requests fail", True, len(promised), kept, "-")


def _integrity(path: str) -> str:
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
