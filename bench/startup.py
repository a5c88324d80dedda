"""The cost of ``tracekit run`` at the start of a program: CPU time, wall time and memory, beside opentelemetry-instrument.

    python -m bench.startup [--rounds 15]
    python -m bench.startup --instructions

Each program runs alone, in a process whose CPU time and largest resident memory Linux counts. In each round the
contenders run once in random order, and a round's difference from plain Python is one observation: printed are the
median of the differences and, in brackets, the interval that holds the true median with a probability of 95 %.
"python again" is plain Python a second time, which shows the error of the measurement. The imports of a program vary by
more than tracekit takes; so "tracekit alone" is the CPU time of the start of ``tracekit run`` once the program has
imported its libraries. A budget is "kept" if that interval ends below it and no interval of differences lies above it,
"exceeded" if an interval lies above it, and otherwise "not decided": then more rounds are needed.

First come the imports alone: tracekit, OpenTelemetry's API, which records nothing, and its SDK. They run without
``site``, because the finder of an editable install imports half of what an import would otherwise have to.
"with instrumentors" also loads OpenTelemetry's instrumentors, for libraries that tracekit has no integration for.
With ``--instructions`` valgrind counts the instructions of "tracekit alone", the same on every run, and those of a first
span and its export after it.
The contenders run what ``tracekit run`` and ``opentelemetry-instrument`` execute, without the command that sets it up.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import tracekit
from tracekit._libraries import chosen
from tracekit.cli.run import environment

from .callgrind import TOTAL, by_function

__all__ = ["main"]

PROGRAMS = {
    "nothing": "pass",
    "json, logging, asyncio": "import json, logging, asyncio",
    "httpx": "import httpx",
    "fastapi": "import fastapi",
    "fastapi, httpx, sqlalchemy": "import fastapi, httpx, sqlalchemy",
    "uvicorn with these": "import uvicorn.main, fastapi, httpx, sqlalchemy",
}
IMPORTS = ("import tracekit", "import opentelemetry.trace", "import opentelemetry.sdk.trace")
# Not ru_maxrss: Linux counts the memory of the process that started this one in it.
PEAK = """
with open("/proc/self/status") as status:
    print(*[line for line in status if line.startswith("VmHWM")])
"""
# The libraries are imported before the count begins, because they take thirty times as many instructions.
ALONE = """
import os, subprocess, sys, time
{code}
sys.modules.pop("sitecustomize", None)
sys.path[:0] = {site!r}.split(os.pathsep)
{begin}
import sitecustomize
{work}
os._exit(0)
"""
COUNT = 'subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], check=True, capture_output=True)'
CLOCK = "begin = time.process_time()"
SHOW = "print((time.process_time() - begin) * 1e3, flush=True)"
FIRST_SPAN = """
import tracekit
with tracekit.span("first"): pass
tracekit.flush()
"""
BUDGET_MS, BUDGET_MB = 30, 5
IMPORT_MS, IMPORT_MB = 8, 3


class Spent(NamedTuple):
    """What a process took: milliseconds of its CPU time and of wall time, and mebibytes."""

    cpu_ms: float
    wall_ms: float
    mb: float


class Median(NamedTuple):
    """A median, and the interval that holds the true one with a probability of 95 %."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:7.1f} [{self.low:6.1f},{self.high:7.1f}] ms"


def median_of(values: list[float]) -> Median:
    """Return the median of *values*; its interval holds for any distribution, by the ranks of the values."""
    ordered = sorted(values)
    rank = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return Median(statistics.median(ordered), ordered[rank], ordered[-1 - rank])


def spend(code: str, variables: dict[str, str], *options: str) -> Spent:
    """Run *code* in a Python process that is started with *options*, and return the resources that it used."""
    with tempfile.NamedTemporaryFile() as file:
        output = [
            (os.POSIX_SPAWN_OPEN, 1, file.name, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        words = [sys.executable, *options, "-c", code + PEAK]
        begin = time.perf_counter()
        child = os.posix_spawn(sys.executable, words, variables, file_actions=output)
        _, status, usage = os.wait4(child, 0)
        wall_ms = (time.perf_counter() - begin) * 1e3
        if status:
            raise SystemExit(f"{code} failed")
        return Spent((usage.ru_utime + usage.ru_stime) * 1e3, wall_ms, int(file.read().split()[-2]) / 1024)


def alone(code: str, begin: str, work: str, variables: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return a program that imports *code*, does *begin*, starts as under ``tracekit run``, and does *work*."""
    variables = {**variables, "PYTHONHASHSEED": "0"}
    return ALONE.format(code=code, begin=begin, work=work, site=variables.pop("PYTHONPATH")), variables


def spend_alone(code: str, variables: dict[str, str]) -> float:
    """Return milliseconds of CPU time of the start of ``tracekit run`` after *code*."""
    script, variables = alone(code, CLOCK, SHOW, variables)
    return float(subprocess.run([sys.executable, "-c", script], check=True, env=variables, capture_output=True).stdout)


def count(code: str, work: str, variables: dict[str, str]) -> int:
    """Return the instructions of the start of ``tracekit run`` after *code*, and of *work*."""
    script, variables = alone(code, COUNT, work, variables)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        subprocess.run([*command, sys.executable, "-c", script], check=True, env=variables)
        return by_function(out, inclusive=False)[TOTAL]


def instructions(ways: dict[str, dict[str, str]]) -> int:
    """Print millions of instructions, and return the exit status."""
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    print(f"{'':28}{'start':>10}{'and a span':>16}")
    for name, code in PROGRAMS.items():
        counts = [count(code, work, ways["tracekit run"]) / 1e6 for work in ("", FIRST_SPAN)]
        print(f"{name:28}{counts[0]:8.1f} M{counts[1]:14.1f} M", flush=True)
    return 0


def contenders() -> dict[str, dict[str, str]]:
    """Return the environment of each contender."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "TRACEKIT_RUN"))}
    plain["OTEL_TRACES_EXPORTER"] = "sqlite"
    plain["OTEL_METRICS_EXPORTER"] = plain["OTEL_LOGS_EXPORTER"] = "none"
    found = {"python": plain, "python again": plain}
    os.environ["OTEL_TRACES_EXPORTER"] = "sqlite"
    own = [library.name for library in chosen() if library.package == "tracekit"]
    found["tracekit run"] = {**plain, **environment(only=",".join(own))}
    found["with instrumentors"] = {**plain, **environment()}
    spec = importlib.util.find_spec("opentelemetry.instrumentation.auto_instrumentation")
    if spec is not None and spec.origin is not None and importlib.util.find_spec("opentelemetry.sdk") is not None:
        folder = str(Path(spec.origin).parent)
        found["opentelemetry-instrument"] = {
            **plain,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_PYTHON_DISTRO": "",
            "PYTHONPATH": os.pathsep.join(filter(None, [folder, plain.get("PYTHONPATH")])),
        }
    return found


def take_turns(programs: dict[str, tuple[str, dict[str, str]]], rounds: int, *options: str) -> dict[str, list[Spent]]:
    """Run each of *programs*, code with its environment, once a round in random order."""
    runs: dict[str, list[Spent]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name in random.sample(list(programs), len(programs)):
            runs[name].append(spend(*programs[name], *options))
    return runs


def compare(runs: dict[str, list[Spent]]) -> dict[str, tuple[Median, Median, float]]:
    """Print what each contender takes more than "python", and return it: CPU time, wall time and memory."""
    base = runs.pop("python")
    print(f"  {'python':28}{statistics.median(one.cpu_ms for one in base):7.1f} ms CPU", end="")
    print(f"{min(one.mb for one in base):8.1f} MB")
    found = {}
    for name, taken in runs.items():
        pairs = list(zip(taken, base, strict=True))
        cpu = median_of([one.cpu_ms - other.cpu_ms for one, other in pairs])
        wall = median_of([one.wall_ms - other.wall_ms for one, other in pairs])
        mb = min(one.mb for one in taken) - min(one.mb for one in base)
        found[name] = cpu, wall, mb
        print(f"  {'+ ' + name:28}{cpu} CPU {wall} wall {mb:6.1f} MB", flush=True)
    return found


def verdict(mb: float, budget_ms: float, budget_mb: float, precise: Median, *others: Median) -> str:
    """Return "kept", "exceeded" or "not decided"."""
    if mb > budget_mb or any(one.low > budget_ms for one in (precise, *others)):
        return "exceeded"
    return "kept" if precise.high <= budget_ms else "not decided"


def imports(rounds: int) -> str:
    """Print what each import adds to Python; return the verdict about tracekit's."""
    folders = [str(Path(tracekit.__file__).parent.parent), *filter(lambda path: "site-packages" in path, sys.path)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    code = {"python": "pass", "python again": "pass", **{name: name for name in IMPORTS if _is_found(name)}}
    print("imports")
    added = compare(take_turns({name: (one, variables) for name, one in code.items()}, 2 * rounds, "-S"))
    cpu, _, mb = added["import tracekit"]
    return verdict(mb, IMPORT_MS, IMPORT_MB, cpu)


def _is_found(code: str) -> bool:
    try:
        return importlib.util.find_spec(code.removeprefix("import ")) is not None
    except ModuleNotFoundError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--instructions", action="store_true", help="count those of tracekit run, with valgrind")
    options = parser.parse_args()
    rounds = options.rounds
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the first round compiles
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACEKIT_SQLITE_PATH"] = os.path.join(folder, "traces.db")
        ways = contenders()
        if options.instructions:
            return instructions(ways)
        verdicts = [imports(rounds)]
        print(f"  the budget of {IMPORT_MS} ms and {IMPORT_MB} MB: {verdicts[0]}\n")
        for name, code in PROGRAMS.items():
            print(name)
            cpu, wall, mb = compare(take_turns({way: (code, one) for way, one in ways.items()}, rounds))["tracekit run"]
            own = median_of([spend_alone(code, ways["tracekit run"]) for _ in range(2 * rounds)])
            verdicts.append(verdict(mb, BUDGET_MS, BUDGET_MB, own, cpu, wall))
            print(f"  {'tracekit alone':28}{own} CPU")
            print(f"  the budget of {BUDGET_MS} ms and {BUDGET_MB} MB: {verdicts[-1]}\n", flush=True)
    return 0 if {*verdicts} == {"kept"} else 1


if __name__ == "__main__":
    sys.exit(main())
