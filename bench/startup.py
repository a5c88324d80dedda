"""The cost of ``tracekit run`` at the start of a program: CPU time and memory, beside none and opentelemetry-instrument.

    python -m bench.startup [--rounds 10]
    python -m bench.startup --instructions

Each program runs alone, the contenders take turns, and the figure is the least of all rounds: CPU time of the process and
its largest resident memory, as Linux counts them. "added" is what a contender takes more than plain Python.
First come the imports alone: tracekit, OpenTelemetry's API, which records nothing, and its SDK. They run without
``site``, because the finder of an editable install imports half of what an import would otherwise have to.
Of ``tracekit run`` the first column has tracekit's own integrations alone, the second also the instrumentors of
OpenTelemetry that are installed, whose imports are most of it.
With ``--instructions`` valgrind counts the instructions of the start alone, the same on every run: those that ``tracekit
run`` executes when the program has imported its libraries, and those of a first span and its export after it.
The contenders run what ``tracekit run`` and ``opentelemetry-instrument`` execute, without the command that sets it up.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import tracekit
from tracekit._libraries import chosen
from tracekit.cli.run import environment

from .callgrind import TOTAL, by_function

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]

PROGRAMS = {
    "nothing": "pass",
    "json, logging, asyncio": "import json, logging, asyncio",
    "httpx": "import httpx",
    "fastapi": "import fastapi",
    "fastapi, httpx, sqlalchemy": "import fastapi, httpx, sqlalchemy",
}
IMPORTS = {
    "import tracekit": "import tracekit",
    "import opentelemetry.trace": "import opentelemetry.trace",
    "import opentelemetry.sdk.trace": "import opentelemetry.sdk.trace",
}
# Not ru_maxrss: Linux counts the memory of the process that started this one in it.
PEAK = """
with open("/proc/self/status") as status:
    print(*[line for line in status if line.startswith("VmHWM")])
"""
# The libraries are imported before the count begins, because they take a hundred times as many instructions.
COUNTED = """
import os, subprocess, sys
{code}
sys.modules.pop("sitecustomize", None)
sys.path[:0] = {site!r}.split(os.pathsep)
subprocess.run(["callgrind_control", "--instr=on", str(os.getpid())], check=True, capture_output=True)
import sitecustomize
{work}
os._exit(0)
"""
FIRST_SPAN = """
import tracekit
with tracekit.span("first"): pass
tracekit.flush()
"""
BUDGET_MS, BUDGET_MB = 30, 5
IMPORT_MS, IMPORT_MB = 8, 3


def spend(code: str, variables: dict[str, str], *options: str) -> tuple[float, float]:
    """Run *code* with *options* of Python, and return milliseconds of CPU time and mebibytes of memory."""
    with tempfile.NamedTemporaryFile() as file:
        output = [
            (os.POSIX_SPAWN_OPEN, 1, file.name, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        words = [sys.executable, *options, "-c", code + PEAK]
        child = os.posix_spawn(sys.executable, words, variables, file_actions=output)
        _, status, usage = os.wait4(child, 0)
        if status:
            raise SystemExit(f"{code} failed")
        return (usage.ru_utime + usage.ru_stime) * 1e3, int(file.read().split()[-2]) / 1024


def count(code: str, work: str, variables: dict[str, str]) -> int:
    """Return the instructions of the start of ``tracekit run`` after *code*, and of *work*."""
    variables = {**variables, "PYTHONHASHSEED": "0"}
    script = COUNTED.format(code=code, work=work, site=variables.pop("PYTHONPATH"))
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
    found = {"python": plain}
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


def least_of(runs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the least time and the least memory of *runs*."""
    times, sizes = zip(*runs, strict=True)
    return min(times), min(sizes)


def imports(rounds: int) -> bool:
    """Print what each import adds to Python; return whether tracekit's is within its budget."""
    folders = [str(Path(tracekit.__file__).parent.parent), *filter(lambda path: "site-packages" in path, sys.path)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    code = {"python": "pass", **{name: code for name, code in IMPORTS.items() if _is_found(code)}}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in code}
    for _ in range(rounds):
        for name in code:
            runs[name].append(spend(code[name], variables, "-S"))
    base_ms, base_mb = least_of(runs.pop("python"))
    added = {
        name: (ms - base_ms, mb - base_mb) for name, (ms, mb) in zip(runs, map(least_of, runs.values()), strict=True)
    }
    for name, (ms, mb) in added.items():
        print(f"{name:34}{ms:6.1f} ms {mb:5.1f} MB")
    ms, mb = added["import tracekit"]
    is_within = ms <= IMPORT_MS and mb <= IMPORT_MB
    print(f"the budget of {IMPORT_MS} ms and {IMPORT_MB} MB is {'kept' if is_within else 'exceeded'}\n")
    return is_within


def _is_found(code: str) -> bool:
    try:
        return importlib.util.find_spec(code.removeprefix("import ")) is not None
    except ModuleNotFoundError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--instructions", action="store_true", help="count those of tracekit run, with valgrind")
    options = parser.parse_args()
    rounds = options.rounds
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the first round compiles
    is_within = options.instructions or imports(rounds)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACEKIT_SQLITE_PATH"] = os.path.join(folder, "traces.db")
        ways = contenders()
        if options.instructions:
            return instructions(ways)
        print(f"{'':28}{'python':>18}" + "".join(f"{'+ ' + way:>30}" for way in list(ways)[1:]))
        for name, code in PROGRAMS.items():
            runs: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, variables in ways.items():
                    runs[way].append(spend(code, variables))
            (base_ms, base_mb), *others = map(least_of, runs.values())
            added = [(ms - base_ms, mb - base_mb) for ms, mb in others]
            is_within = is_within and added[0][0] <= BUDGET_MS and added[0][1] <= BUDGET_MB
            cells = [f"{ms:18.1f} ms {mb:5.1f} MB" for ms, mb in added]
            print(f"{name:28}{base_ms:6.1f} ms {base_mb:5.1f} MB" + "".join(cells))
    print(f"the budget of {BUDGET_MS} ms and {BUDGET_MB} MB is {'kept' if is_within else 'exceeded'}")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
