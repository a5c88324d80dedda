"""Print tracekit beside fastrace, a tracer in Rust, measured in turns in one run: ``python -m bench.rust``.

The figure of a compiled language on the same machine: what no library for Python can be expected to fall below. fastrace
is built with cargo the first time; without cargo that is printed, and nothing is measured. It stops the CPU clock of its
process around chunks of spans, as ``bench.measure`` does here, and exports to a reporter that does nothing.

fastrace has ids, a start, an end and properties; a span is a record in a buffer of its thread. It has no ContextVar to
set, and neither kinds, links nor a status. "floor" is the context manager of ``floor.pyx``, which only sets a ContextVar.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tools.builds import BuildError, Missing, rust

from .. import contender_tracekit, floors, report
from ..measure import Budget, Subject, best, interleave

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OURS, FASTRACE, FLOOR = "tracekit", "fastrace", "floor"
HERE = Path(__file__).parent
FULL = Budget(processes=1, rounds=10, slice_s=0.008, repeats=1, growth_chunk=1)
SMOKE = Budget(processes=1, rounds=1, slice_s=0.00001, repeats=1, growth_chunk=1)

ROWS = {
    "child": "`with span()`, child, recorded; fastrace's local span",
    "start_end": "start + end, not made current; fastrace's span for other threads",
    "root": "`with span()`, root, recorded; fastrace's start + end",
    "unsampled_child": "unsampled span, child",
    "off": "`with span()`, tracing not configured; without a parent",
    "set_attribute": "`set_attribute`; `add_property`",
}


class Fastrace:
    """A row of the Rust program, with the method of ``Subject`` that ``interleave()`` calls."""

    def __init__(self, process: subprocess.Popen[str], row: str) -> None:
        self.process, self.row = process, row

    def time(self, slice_s: float) -> float:
        """Return nanoseconds for each unit of work, of one slice."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(self.row, slice_s * 1e9, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def measure(program: Path, budget: Budget) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each row's key and figures."""
    ours = contender_tracekit.subjects()
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for row in ROWS:
            print(f"  {row}", file=sys.stderr, flush=True)
            subjects: dict[str, Subject | Fastrace] = {OURS: ours[row], FASTRACE: Fastrace(process, row)}
            if row == "child" and (floor := floor_subject()):
                subjects[FLOOR] = floor
            yield row, best(interleave(subjects, budget))  # type: ignore[arg-type]
        assert process.stdin is not None
        process.stdin.close()


def floor_subject() -> Subject | None:
    """The floor of ``with span()``, or None without a compiler."""
    try:
        return Subject("with floor():\n    pass", {"floor": floors.context_manager("floor")})
    except Exception as error:
        print(f"  no floor: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def cells(row: str, figures: Mapping[str, float]) -> list[str]:
    """Return the line of a row in the table."""
    ratio = f"{figures[OURS] / figures[FASTRACE]:.1f}x"
    floor = report.amount(figures[FLOOR], "ns") if FLOOR in figures else "-"
    return [ROWS[row], report.amount(figures[OURS], "ns"), report.amount(figures[FASTRACE], "ns"), ratio, floor]


def main(arguments: list[str] | None = None) -> int:
    """Build, measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.rust", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    options = parser.parse_args(arguments)
    try:
        program = rust(HERE)
    except Missing as reason:
        print(f"SKIPPED, fastrace: {reason}")
        return 0
    except BuildError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    figures = dict(measure(program, SMOKE if options.smoke else FULL))
    manifest = tomllib.loads((HERE / "Cargo.toml").read_text())
    version = manifest["dependencies"]["fastrace"]["version"].lstrip("=")
    print(f"tracekit {contender_tracekit.VERSION}, fastrace {version}; {report.machine()}.\n")
    head = ["", OURS, FASTRACE, "tracekit / fastrace", FLOOR]
    print(report.table(head, [cells(row, found) for row, found in figures.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
