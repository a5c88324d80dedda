"""What tracing adds to a call: measured and printed for ``bench.servers``, ``bench.clients`` and ``bench.rpc``.

Instrumentations patch classes, so each contender runs in separate processes, which take turns; a figure is the best
round of all its processes, and the added time is the difference from the bare library. The clock is the CPU time of the
process, all threads, and nothing is exported. "opentelemetry" is its contrib package of the row on its SDK, "bridge" the
same package on tracekit. With ``--instructions ROW`` valgrind counts the instructions of one call
instead, the same on every run, in all and by function.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .callgrind import TOTAL, by_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).parents[1]
FEW, MANY = 200, 1200  # calls whose instructions are counted
# glibc maps a block of over 128 KiB anew each time, until the program has freed one: a read of asyncio's is as large, so
# the bare library would pay for what a contender's imports have settled. With fixed thresholds none does.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
CONTRIB = ("opentelemetry", "bridge")  # the contenders that use OpenTelemetry's contrib packages


class Row(NamedTuple):
    """A call: ``make(contender)`` returns a function that makes ``units`` of it."""

    make: Callable[[str], Callable[[], object]]
    target_us: float | None = None
    units: int = 1
    contenders: tuple[str, ...] = ("tracekit", *CONTRIB)  # beside the bare library


class Bench(NamedTuple):
    """The rows of one module. A contender's ``set_up()`` returns a function that empties its buffer of spans."""

    module: str
    rows: Mapping[str, Row]
    contenders: Mapping[str, Callable[[], Callable[[], object]]]
    needs: tuple[str, ...]  # instrumentations of OpenTelemetry, which is left out without them


def contrib(instrument: Callable[[], None]) -> dict[str, Callable[[], Callable[[], object]]]:
    """Return the contenders of ``CONTRIB``; *instrument* calls the instrumentors of contrib packages."""

    def sdk() -> Callable[[], object]:
        from opentelemetry import trace

        from .contender_opentelemetry import provider

        made, flush = provider()
        trace.set_tracer_provider(made)
        instrument()
        return flush

    def bridge() -> Callable[[], object]:
        import tracekit
        from tracekit.bridges import opentelemetry

        from .contender_tracekit import record

        record()
        opentelemetry.install()
        instrument()
        return tracekit.flush

    return dict(zip(CONTRIB, (sdk, bridge), strict=True))


def main(bench: Bench, arguments: list[str] | None = None) -> int:
    """Measure, print a table, and return the exit status."""
    contenders = ("bare", *bench.contenders)
    parser = argparse.ArgumentParser(prog=f"python -m {bench.module}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--processes", type=int, default=3, help="of each contender")
    parser.add_argument("--only", metavar="ROW", choices=list(bench.rows), help="measure one row")
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    parser.add_argument("--instructions", metavar="ROW", choices=list(bench.rows), help="count them for this row")
    parser.add_argument("--inclusive", action="store_true", help="include the functions that each one calls")
    parser.add_argument("--one", choices=contenders, help=argparse.SUPPRESS)  # this is the process of a contender
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)  # or the one that valgrind runs
    options = parser.parse_args(arguments)
    if options.count is not None:
        _call(bench, options.one, options.only, options.count)
    if options.instructions:
        return _count(bench, options.instructions, inclusive=options.inclusive)
    seconds, rounds = (0.0, 1) if options.smoke else (0.1, 5)
    if options.one:
        print(json.dumps(_measure(bench, options.one, options.only, seconds, rounds)), flush=True)
        os._exit(0)  # without waiting for servers
    missing = [name for name in bench.needs if not _is_there(f"opentelemetry.instrumentation.{name}")]
    if missing:
        print(
            f"OpenTelemetry is left out: opentelemetry-instrumentation-{missing[0]} is not installed", file=sys.stderr
        )
    best: dict[str, dict[str, float]] = {contender: {} for contender in contenders}
    for _ in range(1 if options.smoke else options.processes):
        for contender in contenders:
            if missing and contender in CONTRIB:
                continue
            command = [sys.executable, "-m", bench.module, f"--one={contender}"]
            command += ["--smoke"] * options.smoke + [f"--only={options.only}"] * bool(options.only)
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **MALLOC},
            )
            for row, figure in json.loads(done.stdout).items():
                best[contender][row] = min(figure, best[contender].get(row, figure))
    print(f"| µs added | {' | '.join(contenders)} | target |\n|---|{'---:|' * (len(contenders) + 1)}")
    for row, bare in best["bare"].items():
        added = [f"+{best[name][row] - bare:.1f}" if row in best[name] else "-" for name in contenders[1:]]
        target = bench.rows[row].target_us
        print(f"| {row} | {bare:.1f} | {' | '.join(added)} | {'-' if target is None else f'{target:.0f}'} |")
    return 0


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _measure(bench: Bench, contender: str, only: str | None, seconds: float, rounds: int) -> dict[str, float]:
    """Return microseconds per call, by row: the best of *rounds*, of *seconds* each."""
    empty = bench.contenders[contender]() if contender != "bare" else lambda: None
    found = {}
    for name, row in bench.rows.items():
        if contender not in ("bare", *row.contenders) or only not in (None, name):
            continue
        call = row.make(contender)
        best = float("inf")
        for number in range(rounds + 1):
            spent = count = 0
            while not count or spent < seconds * 1e9:
                gc.disable()
                begin = time.process_time_ns()
                for _ in range(100 // row.units):
                    call()
                spent += time.process_time_ns() - begin
                gc.enable()
                count += 100 // row.units * row.units
                empty()
            gc.collect()
            if number:
                best = min(best, spent / count / 1000)
        found[name] = best
    return found


def _call(bench: Bench, contender: str, name: str, count: int) -> None:
    row = bench.rows[name]
    if contender != "bare":
        bench.contenders[contender]()
    call = row.make(contender)
    gc.disable()
    for _ in range(count // row.units):
        call()
    os._exit(0)


def _count(bench: Bench, name: str, *, inclusive: bool) -> int:
    """Print the instructions of a call, bare and added by each contender; for tracekit, function by function, too."""
    counted = {}
    with tempfile.TemporaryDirectory() as directory:
        for contender in ("bare", *bench.rows[name].contenders):
            if contender in CONTRIB:
                continue
            runs = [(count, Path(directory) / f"{contender}{count}") for count in (FEW, MANY)]
            started = [
                subprocess.Popen(
                    [
                        "valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
                        sys.executable, "-m", bench.module, f"--one={contender}", f"--only={name}", f"--count={count}",
                    ],
                    env={**os.environ, "PYTHONHASHSEED": "0"},
                    cwd=ROOT,
                )
                for count, out in runs
            ]  # fmt: skip
            if [status for process in started if (status := process.wait())]:
                return 1
            few, many = (by_function(out, inclusive=inclusive) for _, out in runs)
            many.subtract(few)
            counted[contender] = many
    calls = MANY - FEW
    bare = counted.pop("bare")
    print(f"{name}: {bare[TOTAL] / calls:,.0f} instructions without tracing")
    for contender, found in counted.items():
        found.subtract(bare)
        print(f"{contender}: {found.pop(TOTAL) / calls:,.0f} added")
    for function, count in counted["tracekit"].most_common(50):
        print(f"{count / calls:10,.1f}  {function}")
    return 0
