"""Count the instructions that a row's work takes, repeatably, with valgrind: ``python -m bench.callgrind child``.

Two runs do the same work, one of them more often; the difference of their counts, divided by the number of further
repetitions, is the cost of the work, function by function. It is no measure of time: caches and mispredicted branches
are not counted.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from . import contender_tracekit, floors
from .measure import Subject, runner

FEW, MANY = 1000, 6000
TOTAL = "PROGRAM TOTALS"

_LINE = re.compile(r"\s*([\d,]+) \([\d. ]+%\)\s+(?:\S*:)?(\S.*?)(?: \[.*\])?$")


def main(arguments: list[str] | None = None) -> int:
    """Print instructions for each unit of work, in all and by function."""
    parser = argparse.ArgumentParser(prog="python -m bench.callgrind", description=__doc__)
    parser.add_argument("row", help="a row's key, as in rows.py, floor, token_floor, or otel_ and one of bridge.py")
    parser.add_argument("--functions", type=int, default=25, metavar="N", help="how many functions to name")
    parser.add_argument("--inclusive", action="store_true", help="include the functions that each one calls")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)  # this is the process that valgrind runs
    options = parser.parse_args(arguments)
    if options.count is not None:
        _work(options.row, options.count)
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        runs = [(count, Path(directory) / str(count)) for count in (FEW, MANY)]
        for run in [_start(options.row, count, out) for count, out in runs]:
            if run.wait():
                return 1
        few, many = (by_function(out, inclusive=options.inclusive) for _, out in runs)
    many.subtract(few)
    print(f"{options.row}: {many.pop(TOTAL) / (MANY - FEW):,.0f} instructions")
    for function, count in many.most_common(options.functions):
        print(f"{count / (MANY - FEW):10,.1f}  {function}")
    return 0


def _subject(row: str) -> Subject:
    if row in floors.CONTEXT_MANAGERS:
        return Subject("with floor():\n    pass", {"floor": floors.context_manager(row)})
    if row.startswith("otel_"):
        from . import bridge

        contender_tracekit.record()
        made = bridge.bridge.TracerProvider().get_tracer("bench")
        return bridge.subjects(made, bridge.installed, lambda: None)[row.removeprefix("otel_")]
    return contender_tracekit.subjects()[row]


def _work(row: str, count: int) -> None:
    subject = _subject(row)
    loops = count // subject.unrolled
    with ExitStack() as stack:
        stack.enter_context(subject.around())
        done = subject.run(repeat(None, loops) if subject.items is None else subject.items(loops))
        if subject.in_task:
            runner().run(done)
        os._exit(0)  # exporting and freeing the rest is no part of the work


def _start(row: str, count: int, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            "valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
            sys.executable, "-m", "bench.callgrind", row, f"--count={count}",
        ],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def by_function(out: Path, *, inclusive: bool) -> Counter[str]:
    command = [
        "callgrind_annotate",
        "--threshold=100",
        "--auto=no",
        f"--inclusive={'yes' if inclusive else 'no'}",
        str(out),
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            counts[match[2]] += int(match[1].replace(",", ""))
    return counts


if __name__ == "__main__":
    sys.exit(main())
