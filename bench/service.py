"""Print what tracing costs a whole service at saturation: ``python -m bench.service``.

A uvicorn process with one worker on one core serves a Starlette application that makes eight spans a request, the
server's own among them, and exports them to a collector on loopback that reads and forgets. wrk sends requests over
eight connections from another core; without wrk, a generator in Python. Contenders take turns, window by window, since
a machine's speed drifts; "of untraced" is the median over the rounds, so both of a ratio were measured within seconds.
CPU is the server's, all threads, by the operating system's accounting. The collector counts the spans that arrive.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .service_child import CONNECTIONS, CONTENDERS, STEPS

ROOT = Path(__file__).parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PATH = "/items/42"


class Window(NamedTuple):
    """One contender under load for some seconds."""

    requests_per_s: float
    cpu_us: float  # of a request
    collections: tuple[float, ...]  # of a thousand requests, by generation


class Service:
    """A server process of one contender."""

    def __init__(self, contender: str, url: str, cores: set[int]) -> None:
        self.requests = 0
        self.process, (self.port,) = _child(cores, "serve", contender, url)

    def cpu_s(self) -> float:
        """Return the CPU time that all threads of the process have taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def figures(self) -> tuple[int, list[int]]:
        """Return the number of requests served, and of garbage collections by generation."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/figures", timeout=10) as answer:
            served, *collections = json.load(answer)
        return served, collections

    def measure(self, seconds: int, cores: set[int]) -> Window:
        """Have *seconds* of load made from *cores*."""
        (before, collections), cpu_s = self.figures(), self.cpu_s()
        took_s = _load(self.port, seconds, cores)
        cpu_s = self.cpu_s() - cpu_s
        self.requests, now = self.figures()
        count = self.requests - before
        made = [(after - before) / count * 1000 for before, after in zip(collections, now, strict=True)]
        return Window(count / took_s, cpu_s / count * 1e6, tuple(made))

    def stop(self) -> None:
        """Have the server shut down, which exports what is left."""
        self.process.terminate()
        self.process.wait(30)


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
    return process, json.loads(process.stdout.readline())


def _load(port: int, seconds: int, cores: set[int]) -> float:
    """Send requests for *seconds*; return how long that took."""
    if shutil.which("wrk"):
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}{PATH}"]
    else:
        command = [sys.executable, "-m", "bench.service_child", "load", "127.0.0.1", str(port), PATH, str(seconds)]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(done.stdout)
    found = re.search(r"requests in ([\d.]+)s", done.stdout)
    return float(found[1] if found else done.stdout)


def measure(contenders: list[str], rounds: int, seconds: int) -> tuple[dict[str, list[Window]], dict[str, float]]:
    """Return the windows of each contender, and the share of its spans that did not arrive."""
    available = sorted(os.sched_getaffinity(0))
    server_cores, other_cores = {available[0]}, {available[-1]}
    windows: dict[str, list[Window]] = {contender: [] for contender in contenders}
    with ExitStack() as stack:
        collector, ports = _child(other_cores, "collect", str(len(contenders)))
        stack.callback(collector.kill)
        services: dict[str, Service] = {}
        for contender, port in zip(contenders, ports, strict=True):
            services[contender] = Service(contender, f"http://127.0.0.1:{port}", server_cores)
            stack.callback(services[contender].process.kill)
            services[contender].measure(1, other_cores)  # a warm-up
        for number in range(rounds):
            for contender, service in services.items():
                windows[contender].append(service.measure(seconds, other_cores))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for service in services.values():
            service.stop()
        counts = json.loads(collector.communicate()[0])
    lost = {
        contender: 1 - arrived / (STEPS * service.requests)
        for (contender, service), arrived in zip(services.items(), counts, strict=True)
    }
    return windows, lost


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.service", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="windows of each contender (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a window (default: 3)")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(CONTENDERS):
        parser.error(f"no such contender: {', '.join(unknown)}")
    present = [
        "none",
        *[name for name in wanted if name != "none" and _child(os.sched_getaffinity(0), "installed", name)[1]],
    ]
    windows, lost = measure(present, options.rounds, options.seconds)
    print("\n".join(_table(windows, lost)))
    for name in wanted:
        if name not in windows and name != "none":
            print(f"\n{name} is not installed: pip install -e .[bench]")
    return 0


def _table(windows: dict[str, list[Window]], lost: dict[str, float]) -> list[str]:
    untraced = windows["none"]
    lines = [
        "| tracing by | requests a second | of untraced | CPU a request | of untraced's | added | spans lost | collections in 1,000 requests |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for contender, own in windows.items():
        cells = [
            f"{max(window.requests_per_s for window in own):,.0f}",
            f"{_ratio([one.requests_per_s for one in own], [one.requests_per_s for one in untraced]):.2f}",
            f"{min(window.cpu_us for window in own):,.0f} µs",
            f"{_ratio([one.cpu_us for one in own], [one.cpu_us for one in untraced]):.2f}",
            f"{_added(own, untraced):,.0f} µs",
            "" if contender == "none" else f"{lost[contender]:.1%}",
            " / ".join(f"{median(found):.1f}" for found in zip(*[window.collections for window in own], strict=True)),
        ]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return lines


def _ratio(own: list[float], untraced: list[float]) -> float:
    return median(one / other for one, other in zip(own, untraced, strict=True))


def _added(own: list[Window], untraced: list[Window]) -> float:
    return median(one.cpu_us - other.cpu_us for one, other in zip(own, untraced, strict=True))


if __name__ == "__main__":
    sys.exit(main())
