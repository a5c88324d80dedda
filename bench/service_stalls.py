"""Measure what stops the event loop of ``bench.service`` at half of its capacity: ``python -m bench.service_stalls``.

At half load requests rarely queue, so a late tick of the loop is a stall: of the exporting thread while it holds the
GIL, or of the machine, which the untraced row shows. A tick is due every millisecond; the columns are how many ticks of
a thousand were later than that. The holds are CPU time of the exporting thread, without a pause: encoding a portion,
and freeing a piece. What the threads of requests encode is not among them. Two cores that nothing else uses are needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .service import BUSY_CONNECTIONS, PAUSE_MS, load
from .service_apps import APPS
from .service_contenders import CONTENDERS

ROOT = Path(__file__).parents[1]
TICK_S = 0.001
LATE_MS = (0.2, 0.5, 1.0, 2.0, 5.0)
SHARE = 0.5


class _Ticker:
    """Records how late each tick of the loop is, in milliseconds, from the first request on."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.late: list[float] = []
        self.loop: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self._next()
        await self.app(scope, receive, send)

    def _next(self) -> None:
        self.loop.call_later(TICK_S, self._tick, time.monotonic() + TICK_S)

    def _tick(self, due: float) -> None:
        self.late.append((time.monotonic() - due) * 1000)
        self._next()


def _watch_holds() -> dict[str, list[float]]:
    """Have the exporting thread record its holds of the GIL, in milliseconds."""
    from tracekit._export.worker import Worker
    from tracekit.exporters import otlp

    holds: dict[str, list[float]] = {"encoding": [], "freeing": []}
    encode, export = otlp.encode_spans, Worker._export

    def timed_encode(spans: Any, pause: Any = None) -> bytes:
        begin = time.thread_time()

        def timed_pause() -> None:
            nonlocal begin
            holds["encoding"].append((time.thread_time() - begin) * 1000)
            pause()
            begin = time.thread_time()

        octets = encode(spans, timed_pause)
        holds["encoding"].append((time.thread_time() - begin) * 1000)
        return octets

    def timed_export(self: Any, batch: list[Any], count: int) -> None:
        kept = [*batch]
        export(self, batch, count)
        batch.clear()
        begin = time.thread_time()
        kept.clear()
        holds["freeing"].append((time.thread_time() - begin) * 1000)

    otlp.encode_spans = timed_encode
    Worker._export = timed_export  # type: ignore[method-assign]
    return holds


def serve(contender: str, url: str, app: str) -> None:
    """Serve until SIGINT, and print the late ticks and the holds."""
    import uvicorn

    tracing = CONTENDERS[contender].start(url, 1.0)
    holds = _watch_holds() if contender == "tracekit" else {}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        ticker = _Ticker(APPS[app].make(tracing, port)[1])
        print(port, flush=True)
        try:
            uvicorn.Server(uvicorn.Config(ticker, log_level="warning", access_log=False)).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
    late = ticker.late[len(ticker.late) // 2 :]  # the first half has the window at full load
    print(json.dumps({"late": sorted(late), **{name: sorted(times) for name, times in holds.items()}}))


def measure(contender: str, url: str, app: str, seconds: float) -> tuple[float, dict[str, list[float]]]:
    """Return the requests a second at half load, and the output of the server."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "bench.service_stalls", f"--serve={contender}", f"--url={url}", f"--app={app}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]),
    ) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        busy = load(port, seconds, BUSY_CONNECTIONS, 0, {cores[-1]})
        wanted = SHARE * busy["requests"] / busy["seconds"]
        half = load(port, 2 * seconds, max(1, round(wanted * PAUSE_MS / 1000)), PAUSE_MS, {cores[-1]})
        server.send_signal(2)
        found = json.loads(server.stdout.readline())
    return half["requests"] / half["seconds"], found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.service_stalls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="at full load; at half load twice as many")
    parser.add_argument("--app", choices=list(APPS), default="tasks", help="the application (default: tasks)")
    parser.add_argument("--serve", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.url, options.app)
        return
    command = [sys.executable, "-m", "bench.service_child", "collect", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as collector:
        assert collector.stdout is not None
        (port,) = json.loads(collector.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        found = {name: measure(name, url, options.app, options.seconds) for name in ("none", "tracekit")}
        collector.communicate()
    print(f"| tracing by | requests a second | {' | '.join(f'later than {ms:g} ms' for ms in LATE_MS)} |")
    print(f"| --- |{' ---: |' * (1 + len(LATE_MS))}")
    for name, (rate, figures) in found.items():
        late = figures["late"]
        shares = [f"{1000 * sum(one > ms for one in late) / len(late):.1f}" for ms in LATE_MS]
        print(f"| {name} | {rate:,.0f} | {' | '.join(shares)} |")
    print("\n| hold of the GIL | count | median | p99 | longest |\n| --- | ---: | ---: | ---: | ---: |")
    for name in ("encoding", "freeing"):
        times = found["tracekit"][1][name]
        at = [times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]]
        print(f"| {name} | {len(times):,} | {' | '.join(f'{ms:.3f} ms' for ms in at)} |")


if __name__ == "__main__":
    main()
