"""Soak: a service under load while its collector, its disk, its clock and its processes do not hold still.

``make soak``, or ``python -m tests.soak --minutes 10``. uvicorn serves a Starlette application with ``TraceMiddleware``
in a child process, with a spool. Its process is replaced every few minutes with requests on their way, in turn by SIGTERM
and as a worker that has served its number of requests (``--limit-max-requests``). In between the conditions change: the
collector fails half of its answers, its port is closed, or it is well while the disk fills; and the program's clock is
ahead. Clock and disk change below Python, in ``soak_faults.c``. In the end memory, threads and descriptors of each
process must be flat, and the ledger exact: the collector has confirmed each span of each answered request once, but for
those that the ledger counts as evicted while the disk was full, and the last request before a process ended, whose
answer it may not have recorded. Each condition must have left its traces.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

from tracekit.exporters.otlp import OTLPExporter

from .exporters.collector import Collector, Server, babble, cut, refuse, take, truncate

CLIENTS = 4
PERIOD_S = 2.5  # between samples
LEAST_SAMPLES = 15  # of each process, to judge its memory
GROWTH = 1.05  # of the resident memory after the warm-up ...
SLACK_MB = 2.0  # ... and so much for the allocator's arenas
DRAIN_S = 120.0
LIFE_S = 120.0  # of a process
CHANGE_S = 15.0  # from one condition to the next
STEP_S = 600  # of the program's clock
LEFT = 4 << 20  # octets on the disk when it begins to be full, less than the spool keeps free; later there are none
CONDITIONS = ("failing", "away", "clock ahead", "failing", "disk full")

APP = """
import asyncio, os, sys, threading, time
import tracekit, uvicorn
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
        "clock": time.time(),
        "lost": counts.dropped + counts.failed,
        "adds_up": counts.ended == sum(counts[3:8]) and counts.started == counts.ended + counts.open,
    }})

async def flush(request):
    await asyncio.sleep(0.5)  # no span is on its way past the spool when the disk has room again
    await asyncio.to_thread(tracekit.flush, 30)
    return PlainTextResponse("")

async def recycle(request):
    config.limit_max_requests = 1  # exceeded: it ends as one that was started with this limit
    vars(server).pop("limit_max_requests", None)  # a cached property
    return PlainTextResponse("")

app = Starlette(
    routes=[
        Route("/state", state),
        Route("/test/flush", flush),
        Route("/test/recycle", recycle),
        Route("/{{number}}", work),
    ],
    middleware=[Middleware(TraceMiddleware, exclude=["/state", "/test"])],
)

config = uvicorn.Config(app, fd=int(sys.argv[1]), log_level="critical")
server = uvicorn.Server(config)

server.run()
"""


class Failed(Exception):
    """Something grows, or a span was lost or counted twice."""


class Faults:
    """The clock and the disk of the program: the numbers that ``soak_faults.c`` reads, and the library made of it."""

    def __init__(self, directory: str) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        if compiler is None:
            raise Failed("a C compiler is needed")
        library, file = f"{directory}/faults.so", Path(directory, "faults")
        source = Path(__file__).with_name("soak_faults.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        file.write_bytes(struct.pack("qqq", 0, -1, 0))
        self.environ = {"LD_PRELOAD": library, "SOAK_FAULTS": str(file)}
        with open(file, "r+b") as opened:
            self._map = mmap(opened.fileno(), 24)

    def step(self, ahead_s: int) -> None:
        """Set the wall clock *ahead_s* ahead."""
        struct.pack_into("q", self._map, 0, ahead_s)

    def leave(self, octets: int) -> None:
        """Leave *octets* on the disk; a negative number means no limit."""
        struct.pack_into("q", self._map, 8, octets)

    @property
    def failed_writes(self) -> int:
        number: int = struct.unpack_from("q", self._map, 16)[0]
        return number


class Counting(Collector):
    """A collector that is well, fails half of its answers, or has closed its port; it counts the spans it confirmed."""

    def __init__(self, seed: int) -> None:
        self.confirmed: Counter[str] = Counter()
        self.share_of_failures = 0.5
        self.failures = self.ahead = self.busy = 0
        self.is_closing = False
        self.last: set[str] = set()  # the spans of the request that was confirmed last
        self.changed = threading.Condition()
        super().__init__()
        faults = [refuse(503), refuse(429, Retry_After="0"), cut, babble(b"garbage"), truncate]
        rng = random.Random(seed)

        def answer(handler: Any, request: Any) -> None:
            with self.changed:
                fault = rng.choice(faults) if rng.random() < self.share_of_failures else None
                fault = cut if self.is_closing else fault
                self.failures += fault is not None
                self.busy += 1
                if fault is None:
                    self.count(request)
            try:
                (fault or take)(handler, request)
            finally:
                with self.changed:
                    self.busy -= 1
                    self.changed.notify_all()

        self.answers = itertools.repeat(answer)

    def count(self, request: Any) -> None:
        latest_ns = time.time_ns() + STEP_S * 500_000_000
        self.last = set()
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    name = name_of(span)
                    self.last.add(name)
                    self.confirmed[name] += 1
                    self.ahead += span.start_time_unix_nano > latest_ns

    def keep(self, request: Any) -> None:
        """Keep nothing: this process has to stay small too."""

    def leave(self) -> None:
        """Close the port and every connection, once what was confirmed has been answered."""
        with self.changed:
            self.is_closing = True
            self.changed.wait_for(lambda: not self.busy)
        Server.server_close(self)
        self.connections.clear()

    def come_back(self) -> None:
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.is_closing = False
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()


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

    def __init__(self, port: int, collector: Counting, faults: Faults) -> None:
        self.port, self.collector, self.faults = port, collector, faults
        self.now = "failing"
        self.seen: Counter[str] = Counter()

    def become(self, name: str) -> None:
        """End the present condition, and begin *name*; if it lasts, it becomes worse."""
        if name == self.now:
            if name == "disk full":
                self.faults.leave(0)
            return
        if self.now == "disk full":
            get(self.port, "/test/flush")
            self.faults.leave(-1)
            get(self.port, "/test/flush")
        elif self.now == "clock ahead":
            self.faults.step(0)
            self.expect_clock(0)
        elif self.now == "away":
            self.collector.come_back()
        self.now = name
        self.seen[name] += 1
        self.collector.share_of_failures = 0.0 if name == "disk full" else 0.5
        if name == "disk full":
            self.faults.leave(LEFT)
        elif name == "clock ahead":
            self.faults.step(STEP_S)
            self.expect_clock(STEP_S)
        elif name == "away":
            self.collector.leave()

    def expect_clock(self, ahead_s: int) -> None:
        is_s = wait_for(self.port)["clock"] - time.time()
        if abs(is_s - ahead_s) > STEP_S / 2:
            raise Failed(f"the program's clock is {is_s:.0f} s ahead, not {ahead_s}")


class Life(NamedTuple):
    """A process of the service: how it ended, and how its figures changed after the warm-up, if it was long enough."""

    end: str
    change: str = ""
    last: frozenset[str] = frozenset()  # the spans that the collector confirmed last


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
    change_s = min(change_s, seconds / lives / len(CONDITIONS))
    done: list[Life] = []
    with tempfile.TemporaryDirectory() as directory, Counting(seed) as collector, socket.socket() as listener:
        spool = f"{directory}/spool.db"
        Path(directory, "app.py").write_text(APP.format(url=collector.url, spool=spool), encoding="utf-8")
        faults = Faults(directory)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # requests wait here while no server runs
        port = listener.getsockname()[1]
        conditions = Conditions(port, collector, faults)
        load = process = None
        try:
            for life in range(1, lives + 1):
                process = serve(directory, listener.fileno(), faults)
                wait_for(port)
                load = load or Load(port, rate)
                samples = watch(process, port, load, conditions, seconds / lives, requests // lives, change_s)
                change = "" if requests else check_flat(samples)
                if life % 2:
                    terminate(process)  # with requests on their way
                else:
                    recycle(process, port)
                done.append(Life("SIGTERM" if life % 2 else "recycled", change, frozenset(collector.last)))
        finally:
            listener.close()  # or clients would wait for an answer of the last process
            if load is not None:
                load.stop()
            if process is not None:
                process.kill()
                process.wait()
        collector.share_of_failures = 0.0
        ledger = drain(collector.url, spool)
        expected = {name for number in load.answered for name in (f"/{number}", f"{number}/work")}
        return judge(expected, load, collector, conditions, ledger, done)


def judge(
    expected: set[str], load: Load, collector: Counting, conditions: Conditions, ledger: Any, lives: list[Life]
) -> str:
    """Compare the *expected* spans with the confirmed ones and the *ledger*; return the report or raise ``Failed``."""
    missing = expected - collector.confirmed.keys()
    again = {name for name, count in collector.confirmed.items() if count > 1}
    copies = sum(collector.confirmed[name] - 1 for name in again)
    twice = again.difference(*(life.last for life in lives))
    if len(missing) > ledger.evicted or twice:
        raise Failed(f"{len(missing)} of {len(expected)} spans are missing, {len(twice)} were sent again: {ledger}")
    direct = collector.confirmed.total() - copies - ledger.sent  # past the spool, while the disk was full
    if ledger.put != ledger.sent + ledger.evicted or direct < 0:
        raise Failed(f"{collector.confirmed.total()} spans were confirmed: {ledger}")
    seen = conditions.seen
    proofs = {
        "failed answers": collector.failures,
        "times the collector's port was closed": seen["away"],
        "steps of the clock": 2 * seen["clock ahead"],
        "spans of the time ahead": collector.ahead,
        "full disks": seen["disk full"],
        "spans past the spool meanwhile": direct,
        "processes ended by SIGTERM": sum(life.end == "SIGTERM" for life in lives),
        "recycled": sum(life.end == "recycled" for life in lives),
    }
    if absent := [name for name, count in proofs.items() if not count]:
        raise Failed(f"the run proves nothing: no {', no '.join(absent)}")
    lines = [f"process {number}, {life.end}: {life.change}" for number, life in enumerate(lives, 1) if life.change]
    lines += [f"{count:,} {name}" for name, count in proofs.items()]
    # Not a proof: the spool looks at the disk before it writes, so there may be none.
    lines.append(f"{conditions.faults.failed_writes:,} writes found no room")
    lines.append(f"{ledger.put:,} spans into the spool, {ledger.sent:,} sent from it, {ledger.evicted:,} evicted")
    lines.append(f"{len(load.answered):,} requests answered, {load.errors:,} interrupted")
    lines.append(f"{copies:,} spans sent again, because a process ended before it recorded the answer")
    lines.append(
        f"{len(expected) - len(missing):,} of their {len(expected):,} spans were confirmed, each once but for those"
    )
    return "\n".join(lines)


def serve(directory: str, descriptor: int, faults: Faults) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, **faults.environ}
    command = [sys.executable, "app.py", str(descriptor)]
    return subprocess.Popen(command, cwd=directory, env=environment, pass_fds=[descriptor])


def terminate(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if process.wait(60) != -signal.SIGTERM:
        raise Failed(f"the server ended with {process.returncode}")


def recycle(process: subprocess.Popen[bytes], port: int) -> None:
    """Have the server end as one that has served its number of requests."""
    get(port, "/test/recycle")
    if process.wait(60):
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


def check_flat(samples: list[dict[str, Any]]) -> str:
    """Compare the last third of *samples* with the second, after a warm-up of one third; return the figures."""
    if len(samples) < LEAST_SAMPLES:
        return ""  # too short to judge
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    texts = []
    for name in ("threads", "descriptors"):
        before, after = (max(sample[name] for sample in part) for part in (middle, last))
        if after > before + 1:
            raise Failed(f"{name} grow: {[sample[name] for sample in samples]}")
        texts.append(f"{before} to {after} {name}")
    before, after = (statistics.median(sample["resident_mb"] for sample in part) for part in (middle, last))
    if after > before * GROWTH + SLACK_MB:
        raise Failed(f"the resident memory grows from {before:.1f} to {after:.1f} MiB")
    return f"{before:.1f} to {after:.1f} MiB, {', '.join(texts)}"


def drain(url: str, spool: str) -> Any:
    """Send the batches that are left in the spool; return its ledger."""
    exporter = OTLPExporter(url, environ={}, spool=spool)
    exporter.start()
    deadline = time.monotonic() + DRAIN_S
    # A process that ended while it sent a batch has left its lease: flush() does not wait for that.
    while not exporter.flush(5.0) or exporter.ledger().waiting:
        if time.monotonic() > deadline:
            raise Failed(f"the spool does not empty: {exporter.ledger()}")
        time.sleep(0.1)
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
