"""The cost of ``tracekit run`` at the start of a program: CPU time and memory, beside none and opentelemetry-instrument.

    python -m bench.startup [--rounds 10]

Each program runs alone, the contenders take turns, and the figure is the least of all rounds: CPU time of the process and
its largest resident memory, as the operating system counts them. "added" is what a contender takes more than plain Python.
Of ``tracekit run`` the first column has tracekit's own integrations alone, the second also the instrumentors of
OpenTelemetry that are installed, whose imports are most of it.
The contenders run what ``tracekit run`` and ``opentelemetry-instrument`` execute, without the command that sets it up.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from tracekit._libraries import chosen
from tracekit.cli.run import environment

__all__ = ["main"]

PROGRAMS = {
    "nothing": "pass",
    "json, logging, asyncio": "import json, logging, asyncio",
    "httpx": "import httpx",
    "fastapi": "import fastapi",
    "fastapi, httpx, sqlalchemy": "import fastapi, httpx, sqlalchemy",
}
BUDGET_MS, BUDGET_MB = 30, 5


def spend(code: str, variables: dict[str, str]) -> tuple[float, float]:
    """Run *code*, and return milliseconds of CPU time and mebibytes of memory."""
    quiet = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", code], variables, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{code} failed")
    return (usage.ru_utime + usage.ru_stime) * 1e3, usage.ru_maxrss / 1024


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    is_within = True
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACEKIT_SQLITE_PATH"] = os.path.join(folder, "traces.db")
        ways = contenders()
        print(f"{'':28}{'python':>18}" + "".join(f"{'+ ' + way:>30}" for way in list(ways)[1:]))
        for name, code in PROGRAMS.items():
            least: dict[str, tuple[float, float]] = {}
            for _ in range(rounds):
                for way, variables in ways.items():
                    spent = spend(code, variables)
                    least[way] = tuple(map(min, spent, least.get(way, spent)))
            (base_ms, base_mb), *others = least.values()
            added = [(ms - base_ms, mb - base_mb) for ms, mb in others]
            is_within = is_within and added[0][0] <= BUDGET_MS and added[0][1] <= BUDGET_MB
            cells = [f"{ms:18.1f} ms {mb:5.1f} MB" for ms, mb in added]
            print(f"{name:28}{base_ms:6.1f} ms {base_mb:5.1f} MB" + "".join(cells))
    print(f"the budget of {BUDGET_MS} ms and {BUDGET_MB} MB is {'kept' if is_within else 'exceeded'}")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
