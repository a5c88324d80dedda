"""Print what tracing costs a whole service, in requests a second, latency, CPU and memory: ``python -m bench.service``.

A uvicorn process on one core serves a Starlette application that makes eight spans a request, the server's own among
them, and exports them to a collector on loopback that reads and forgets. wrk sends requests from another core; without
wrk, a generator in Python. Contenders take turns, window by window, since a machine's speed drifts; a ratio is the
median over the rounds, so both of its figures were measured within seconds.

A round has three windows: saturation, and two for the latencies. At 70 % of the untraced service's requests a second all
contenders get the same load, which is a higher utilization for a traced one, so queueing alone multiplies its p99. The
other window has 70 % of each contender's own rate, where all are equally busy: a higher p99 there comes from tracing
itself, for example from pauses for the exporting thread. Both last until about ``--requests`` requests are answered: a full
garbage collection of the ``full`` application stops it for 30 to 40 ms, traced or not, every 1,500 requests, so in a
shorter window the p99 tells whether one or two of them fell into it. They also visit the objects of the tracer and of
its HTTP library, so in a small application they are a part of tracing's p99. With ``--freeze`` each server calls
``gc.freeze()`` before its first request, which takes what exists then out of them. The extra ``bench`` installs uvloop
and httptools, as ``uvicorn[standard]`` does; with ``--plain`` uvicorn uses asyncio and h11, as without that extra.
CPU and resident memory are the server's, by the operating system's accounting. The collector counts the spans that
arrive; of ddtrace all do at any share, since Datadog's agent needs them for its statistics. ``--app`` names the
application, see ``service_apps.py``, and with ``--workers 2`` two processes share the port.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .service_apps import APPS, PATH
from .service_contenders import CONTENDERS
from .service_figures import LOAD, Result, Window, summaries, table
from .service_picture import picture

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
BUSY_CONNECTIONS = 8  # of each worker, at saturation
PAUSE_MS = 10  # between the requests of a connection below saturation; their number sets the load
SATURATED = 0.85  # of a worker's core: with less, the load or another process was the limit


class Setup(NamedTuple):
    """What all contenders of a run have in common: the application, and how it is served."""

    app: str
    workers: int = 1
    freeze: bool = False
    plain: bool = False  # asyncio and h11, also where uvloop and httptools are installed

    def title(self) -> str:
        """Name uvicorn's event loop and parser, which are most of an untraced request's cost, and the rest."""
        loop = "uvloop" if find_spec("uvloop") and not self.plain else "asyncio"
        parser = "httptools" if find_spec("httptools") and not self.plain else "h11"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        frozen = ", frozen" if self.freeze else ""
        return f"uvicorn with {loop} and {parser}, {workers}, application {self.app!r}{frozen}"


class Service:
    """The server processes of one contender: one, or several workers on one port."""

    def __init__(self, contender: str, url: str, share: float, setup: Setup, cores: list[set[int]]) -> None:
        self.contender = contender
        self.busy: list[Window] = []
        self.calm: list[Window] = []
        self.own: list[Window] = []
        self.resident_mb = 0.0
        self.served = 0
        self.port = 0
        self.workers: list[subprocess.Popen[str]] = []
        try:
            for own in cores:
                flags = ["--freeze"] * setup.freeze + ["--plain"] * setup.plain
                options = [str(share), str(self.port), setup.app, *flags]
                worker, (self.port,) = _child(own, "serve", contender, url, *options)
                self.workers.append(worker)
        except BaseException:
            self.kill()
            raise

    def _cpu_s(self) -> float:
        """Return the CPU time that all threads of the workers have taken."""
        ticks = 0
        for worker in self.workers:
            fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_S

    def measure(self, seconds: float, cores: set[int], per_s: float = 0.0) -> Window:
        """Have *seconds* of load made from *cores*: about *per_s* requests a second, or, if 0, as many as are served."""
        cpu_s = self._cpu_s()
        if per_s:
            found = load(self.port, seconds, max(1, round(per_s * PAUSE_MS / 1000)), PAUSE_MS, cores)
        else:
            found = load(self.port, seconds, BUSY_CONNECTIONS * len(self.workers), 0, cores)
        cpu_s = self._cpu_s() - cpu_s
        pages = [int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) for worker in self.workers]
        self.resident_mb = max(self.resident_mb, sum(pages) * PAGE / 2**20)
        count = found["requests"]
        return Window(count / found["seconds"], cpu_s / count * 1e6, tuple(found["latency_ms"]))

    def stop(self) -> None:
        """Have the workers shut down, which exports the remaining spans."""
        for worker in self.workers:
            worker.send_signal(signal.SIGINT)
        for worker in self.workers:
            self.served += int(worker.communicate(timeout=30)[0] or 0)

    def kill(self) -> None:
        """End the workers that still run."""
        for worker in self.workers:
            worker.kill()
            worker.wait()


def _child(cores: set[int], *arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process on *cores*; return it and the ports that it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.service_child", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.wait()}")
    return process, json.loads(line)


def load(port: int, seconds: float, connections: int, pause_ms: float, cores: set[int]) -> dict[str, Any]:
    """Send requests for *seconds*; return their number, the time, and the latencies."""
    if shutil.which("wrk") and seconds.is_integer():
        script = str(Path(__file__).with_name("service.lua"))
        url = f"http://127.0.0.1:{port}{PATH}"
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "20s",
            "-s",
            script,
            url,
            "--",
            str(pause_ms),
        ]
    else:
        numbers = [str(seconds), str(connections), str(pause_ms)]
        command = [sys.executable, "-m", "bench.service_child", "load", "127.0.0.1", str(port), PATH, *numbers]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=seconds + 30,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    found: dict[str, Any] = json.loads(done.stdout.rstrip().rpartition("\n")[2])
    if found["failed"] or not found["requests"]:
        raise RuntimeError(done.stdout)
    return found


def measure(
    contenders: list[str],
    share: float,
    rounds: int,
    seconds: float,
    requests: int,
    setup: Setup,
    say: Callable[[str], None],
) -> list[Result]:
    """Return a result for each of *contenders*; one that fails is left out, and reported with *say*."""
    available = sorted(os.sched_getaffinity(0))
    server_cores = [{available[number % len(available)]} for number in range(setup.workers)]
    load_cores = {available[-1]}
    results: list[Result] = []
    with ExitStack() as stack:
        collector, ports = _child(load_cores, "collect", str(len(contenders)))
        stack.callback(collector.wait)
        stack.callback(collector.kill)
        services: dict[str, tuple[int, Service]] = {}

        def attempt(name: str, work: Callable[[], object]) -> bool:
            try:
                work()
            except (RuntimeError, subprocess.SubprocessError, OSError, ValueError) as error:
                say(f"{name} failed and is left out: {error}")
                if name == "none":
                    raise
                services.pop(name, None)
                return False
            return True

        untraced = 0.0

        def start(place: int, name: str) -> None:
            nonlocal untraced
            service = Service(name, f"http://127.0.0.1:{ports[place]}", share, setup, server_cores)
            stack.callback(service.kill)
            services[name] = place, service
            warm = service.measure(min(1.0, seconds), load_cores)
            warm = service.measure(min(1.0, seconds), load_cores)
            untraced = untraced or warm.requests_per_s

        for place, name in enumerate(contenders):
            say(f"starting {name}")
            attempt(name, lambda: start(place, name))  # noqa: B023
        for number in range(rounds):
            for name, (_, service) in [*services.items()]:

                def windows(service: Service = service) -> None:
                    busy = service.measure(seconds, load_cores)
                    service.busy.append(busy)
                    used = busy.requests_per_s * busy.cpu_us / 1e6 / setup.workers
                    if used < SATURATED:
                        say(f"{service.contender} used {used:.0%} of its cores: not saturated, do not trust the ratio")
                    for found, rate in ((service.calm, untraced), (service.own, busy.requests_per_s)):
                        long = max(seconds, float(math.ceil(requests / (LOAD * busy.requests_per_s))))
                        found.append(service.measure(long, load_cores, LOAD * rate))

                attempt(name, windows)
            say(f"{share:.0%} sampled: round {number + 1} of {rounds}")
        for name, (_, service) in [*services.items()]:
            attempt(name, service.stop)
        counts = json.loads(collector.communicate(timeout=30)[0])
        for name, (place, service) in services.items():
            arrived = counts[place] / (APPS[setup.app].steps * max(1, service.served))
            results.append(Result(name, share, service.busy, service.calm, service.own, service.resident_mb, arrived))
    return results


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="windows of each contender (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of a window (default: 2); wrk needs whole ones"
    )
    parser.add_argument(
        "--requests", type=int, default=10_000, help="least length of a window for latencies, about (default: 10000)"
    )
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--sampling", default="1,0.1,0.01", help="shares of sampled traces (default: 1,0.1,0.01)")
    parser.add_argument("--workers", type=int, default=1, help="server processes (default: 1)")
    parser.add_argument("--app", choices=list(APPS), default="tasks", help="the application (default: tasks)")
    parser.add_argument("--freeze", action="store_true", help="have each server call gc.freeze() once it is set up")
    parser.add_argument("--plain", action="store_true", help="serve with asyncio and h11, not uvloop and httptools")
    parser.add_argument("--svg", metavar="PATH", help="also draw the results at the first share of --sampling")
    return parser


def main() -> int:
    parser = command_line()
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(CONTENDERS):
        parser.error(f"no such contender: {', '.join(unknown)}")
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin:4.0f} s  {text}", file=sys.stderr, flush=True)

    present = ["none", *[name for name in wanted if name != "none" and _is_installed(name)]]
    setup = Setup(options.app, options.workers, options.freeze, options.plain)
    results: list[Result] = []
    for share in map(float, options.sampling.split(",")):
        results += measure(present, share, options.rounds, options.seconds, options.requests, setup, say)
    title = f"{_machine()}, {setup.title()}"
    print(f"{title}.\n")
    print("\n".join(table(results)))
    for name in wanted:
        if name not in present:
            print(f"\n{name} is not installed: pip install -e .[bench]")
    if options.svg:
        first = [result for result in results if result.share == results[0].share]
        Path(options.svg).write_text(picture(summaries(first), title), encoding="utf-8")
        say(f"wrote {options.svg}")
    return 0


def _is_installed(contender: str) -> bool:
    command = [sys.executable, "-m", "bench.service_child", "installed", contender]
    return bool(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout))


def _machine() -> str:
    from .report import machine

    return machine()


if __name__ == "__main__":
    sys.exit(main())
