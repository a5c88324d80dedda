"""Soak: a service under load while its collector, its disk, its clock and its processes do not hold still.

``make soak``, or ``python -m tests.soak --minutes 10``. uvicorn serves a Starlette application with ``TraceMiddleware``
in a child process, with a spool. Its process is replaced every few minutes, by SIGTERM, with requests on their way. In
between the conditions change: the collector fails half of its answers, answers nothing, or is well while the disk seems
full to the spool, and the program's clock is ahead. In the end memory, threads and descriptors of each process must be
flat, and the ledger exact: the collector has confirmed each span of each answered request once, but for those that the
ledger counts as evicted while the disk was full.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tracekit.exporters.otlp import OTLPExporter

from .exporters.collector import Collector, babble, cut, refuse, take, truncate

CLIENTS = 4
PERIOD_S = 5.0  # between samples
LEAST_SAMPLES = 6  # of each process, to judge its memory
GROWTH = 1.05  # of the resident memory after the warm-up ...
SLACK_MB = 2.0  # ... and so much for the allocator's arenas
DRAIN_S = 120.0
LIFE_S = 120.0  # of a process
CHANGE_S = 15.0  # from one condition to the next
STEP_S = 600  # of the program's clock
CONDITIONS = ("failing", "away", "clock ahead", "failing", "disk full")

APP = """
import asyncio, os, shutil, threading, time
import tracekit
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from tracekit.exporters.otlp import OTLPExporter
from tracekit.integrations.asgi import TraceMiddleware

exporter = OTLPExporter({url!r}, environ={{}}, spool={spool!r})
tracekit.configure(service="soak", exporter=exporter, environ={{}})

async def work(request):
    number = request.path_params["number"]
    with tracekit.span(number + "/work", attributes={{"text": "x" * 200, "number": int(number)}}) as span:
        span.add_event("step", {{"number": 1}})
    return PlainTextResponse(number)

async def state(request):
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    counts = tracekit.statistics()
    return JSONResponse({{
        "resident_mb": resident / (1 << 20),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "lost": counts.dropped + counts.failed,
        "adds_up": counts.ended == sum(counts[3:8]) and counts.started == counts.ended + counts.open,
    }})

real_time, real_usage = time.time, shutil.disk_usage

async def step(request):  # the wall clock of this program
    ahead = int(request.path_params["seconds"])
    time.time = lambda: real_time() + ahead
    return PlainTextResponse("")

async def fill(request):  # the disk, as the spool sees it
    shutil.disk_usage = lambda path: real_usage(path)._replace(free=0)
    return PlainTextResponse("")

async def free(request):
    await asyncio.to_thread(tracekit.flush, 30)
    shutil.disk_usage = real_usage
    await asyncio.sleep(0.5)  # until the spool is used again, and no span is on its way past it
    await asyncio.to_thread(tracekit.flush, 30)
    return PlainTextResponse("")

app = Starlette(
    routes=[
        Route("/state", state),
        Route("/test/step/{{seconds}}", step),
        Route("/test/fill", fill),
        Route("/test/free", free),
        Route("/{{number}}", work),
    ],
    middleware=[Middleware(TraceMiddleware, exclude=["/state", "/test"])],
)
"""


class Failed(Exception):
    """Something grows, or a span was lost or counted twice."""


class Counting(Collector):
    """A collector that is well, fails half of its answers, or is away; it counts the spans it confirmed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.confirmed: Counter[str] = Counter()
        self.share_of_failures = 0.5  # 0: it is well; 1: it is away
        self.failures = 0
        faults = [refuse(503), refuse(429, Retry_After="0"), cut, babble(b"garbage"), truncate]
        rng = random.Random(seed)

        def answer(handler: Any, request: Any) -> None:
            with self.lock:
                is_away = self.share_of_failures == 1.0
                fault = None if rng.random() >= self.share_of_failures else cut if is_away else rng.choice(faults)
                self.failures += fault is not None
                if fault is None:
                    self.confirmed.update(
                        name_of(span)
                        for resource in request.resource_spans
                        for scope in resource.scope_spans
                        for span in scope.spans
                    )
            (fault or take)(handler, request)

        self.answers = itertools.repeat(answer)

    def keep(self, request: Any) -> None:
        """Keep nothing: this process has to stay small too."""


def name_of(span: Any) -> str:
    """Return the path of a request's span, "/17", and the name of the span inside it, "17/work"."""
    paths = [attribute.value.string_value for attribute in span.attributes if attribute.key == "url.path"]
    return paths[0] if paths else span.name


class Load:
    """Clients that send numbered requests until they are stopped."""

    def __init__(self, port: int, rate: float) -> None:
        self.port, self.rate = port, rate
        self.numbers = itertools.count()
        self.answered: set[str] = set()
        self.errors = 0
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.is_over.wait(CLIENTS / self.rate):
            number = str(next(self.numbers))
            try:
                connection.request("GET", f"/{number}")
                body = connection.getresponse().read().decode()
            except (OSError, http.client.HTTPException):  # the server is stopping; the request may have been served
                connection.close()
                self.errors += 1
            else:
                if body != number:
                    self.errors += 1
                    continue
                self.answered.add(number)
        connection.close()

    def stop(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join()


class Conditions:
    """What the program runs under: one of ``CONDITIONS`` after the other."""

    def __init__(self, port: int, collector: Counting) -> None:
        self.port, self.collector = port, collector
        self.now = "failing"
        self.seen: Counter[str] = Counter()

    def become(self, name: str) -> None:
        """End the present condition, and begin *name*."""
        if name == self.now:
            return
        if self.now == "disk full":
            get(self.port, "/test/free")
        elif self.now == "clock ahead":
            get(self.port, "/test/step/0")
        self.now = name
        self.seen[name] += 1
        self.collector.share_of_failures = {"away": 1.0, "disk full": 0.0}.get(name, 0.5)
        if name == "disk full":
            get(self.port, "/test/fill")
        elif name == "clock ahead":
            get(self.port, f"/test/step/{STEP_S}")


def soak(
    seconds: float,
    *,
    requests: int = 0,
    rate: float = 200.0,
    seed: int = 1,
    life_s: float = LIFE_S,
    change_s: float = CHANGE_S,
) -> str:
    """Run for *seconds*, or until *requests* were answered; return a line about it, or raise ``Failed``.

    A process serves for *life_s*; with *requests* there are two. A condition lasts *change_s*; with *requests*, each
    process meets all of them.
    """
    lives = 2 if requests else max(2, round(seconds / life_s))
    with tempfile.TemporaryDirectory() as directory, Counting(seed) as collector, socket.socket() as listener:
        spool = f"{directory}/spool.db"
        Path(directory, "app.py").write_text(APP.format(url=collector.url, spool=spool), encoding="utf-8")
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # requests wait here while no server runs
        port = listener.getsockname()[1]
        process = serve(directory, listener.fileno())
        conditions = Conditions(port, collector)
        load = None
        try:
            wait_for(port)
            load = Load(port, rate)
            for life in range(1, lives + 1):
                if life > 1:
                    process = serve(directory, listener.fileno())
                samples = watch(process, port, load, conditions, seconds / lives, requests // lives, change_s)
                if not requests:
                    check_flat(samples)
                if life < lives:  # with requests on their way
                    stop(process)
            load.stop()
            stop(process)
        finally:
            if load is not None:
                load.stop()
            process.kill()
            process.wait()
        collector.share_of_failures = 0.0
        ledger = drain(collector.url, spool)
        expected = {name for number in load.answered for name in (f"/{number}", f"{number}/work")}
        missing = expected - collector.confirmed.keys()
        twice = [name for name, count in collector.confirmed.items() if count > 1]
        if len(missing) > ledger.evicted or twice:
            raise Failed(f"{len(missing)} of {len(expected)} spans are missing, {len(twice)} were sent again: {ledger}")
        direct = collector.confirmed.total() - ledger.sent  # past the spool, while the disk was full
        past = direct + ledger.evicted
        if ledger.put != ledger.sent + ledger.evicted or direct < 0 or (past and not conditions.seen["disk full"]):
            raise Failed(f"{collector.confirmed.total()} spans were confirmed: {ledger}")
        return (
            f"{len(load.answered):,} requests answered, {load.errors} interrupted, by {lives} processes;"
            f" {ledger.put:,} spans into the spool, {direct:,} past it while the disk was full,"
            f" {ledger.evicted:,} evicted then;"
            f" {collector.failures:,} failed answers, {conditions.seen['away']} outages,"
            f" {2 * conditions.seen['clock ahead']} steps of the clock: every other span was confirmed once"
        )


def serve(directory: str, descriptor: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "uvicorn", "app:app", f"--fd={descriptor}", "--log-level=critical"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([directory, *sys.path])}
    return subprocess.Popen(command, cwd=directory, env=environment, pass_fds=[descriptor])


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if process.wait(60) != -signal.SIGTERM:
        raise Failed(f"the server ended with {process.returncode}")


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read()
    finally:
        connection.close()


def wait_for(port: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(get(port, "/state"))
    return state


def watch(
    process: subprocess.Popen[bytes],
    port: int,
    load: Load,
    conditions: Conditions,
    seconds: float,
    requests: int,
    change_s: float,
) -> list[dict[str, Any]]:
    """Sample the state of the server until *seconds* are over or *requests* more were answered."""
    samples: list[dict[str, Any]] = []
    begin, answered = time.monotonic(), len(load.answered)
    deadline = begin + seconds
    while time.monotonic() < deadline and not 0 < requests <= len(load.answered) - answered:
        time.sleep(0.02 if requests else min(PERIOD_S, max(0.0, deadline - time.monotonic())))
        if process.poll() is not None:
            raise Failed(f"the server ended with {process.returncode}")
        sample = wait_for(port)
        if sample["lost"] or not sample["adds_up"]:
            raise Failed(f"the statistics are wrong: {sample}")
        samples.append(sample)
        if requests:
            passed = (len(load.answered) - answered) * len(CONDITIONS) // requests
        else:
            passed = int((time.monotonic() - begin) / change_s)
        conditions.become(CONDITIONS[passed % len(CONDITIONS)])
        if not requests:
            figures = ", ".join(f"{sample[name]:.0f} {name}" for name in ("threads", "descriptors"))
            print(
                f"{len(load.answered):,} requests, {conditions.collector.failures:,} failed answers,"
                f" {sample['resident_mb']:.1f} MiB, {figures}; now: {conditions.now}",
                flush=True,
            )
    conditions.become("failing")
    return samples


def check_flat(samples: list[dict[str, Any]]) -> None:
    """Compare the last third of *samples* with the second, after a warm-up of one third."""
    if len(samples) < LEAST_SAMPLES or len(samples) * PERIOD_S < 60:
        return  # too short to judge
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    for name in ("threads", "descriptors"):
        if max(sample[name] for sample in last) > max(sample[name] for sample in middle) + 1:
            raise Failed(f"{name} grow: {[sample[name] for sample in samples]}")
    before, after = (statistics.median(sample["resident_mb"] for sample in part) for part in (middle, last))
    if after > before * GROWTH + SLACK_MB:
        raise Failed(f"the resident memory grows from {before:.1f} to {after:.1f} MiB")


def drain(url: str, spool: str) -> Any:
    """Send the batches that are left in the spool; return its ledger."""
    exporter = OTLPExporter(url, environ={}, spool=spool)
    exporter.start()
    deadline = time.monotonic() + DRAIN_S
    while not exporter.flush(5.0):
        if time.monotonic() > deadline:
            raise Failed(f"the spool does not empty: {exporter.ledger()}")
    ledger = exporter.ledger()
    exporter.shutdown()
    return ledger


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second (default: 200)")
    parser.add_argument("--life", type=float, default=LIFE_S, help="seconds of a process (default: 120)")
    parser.add_argument("--change", type=float, default=CHANGE_S, help="seconds of a condition (default: 15)")
    parser.add_argument("--seed", type=int, default=1, help="of the collector's failures (default: 1)")
    options = parser.parse_args()
    try:
        print(
            soak(
                options.minutes * 60,
                rate=options.rate,
                seed=options.seed,
                life_s=options.life,
                change_s=options.change,
            )
        )
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
