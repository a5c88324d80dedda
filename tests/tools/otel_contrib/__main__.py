from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import __doc__ as description
from .suites import REQUIREMENTS, SUITES

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = REPOSITORY / ".cache" / "otel-contrib"
SUITE_S = 600
TRACERS = ("sdk", "tracekit")


def main() -> int:
    options = _options()
    python = environment(options.contrib)
    failed = 0
    print(f"{'suite':<16}{'SDK':>6}{'tracekit':>10}  failing on tracekit only")
    for suite in options.only or SUITES:
        directory = options.contrib / "instrumentation" / f"opentelemetry-instrumentation-{suite}"
        on_sdk, on_tracekit = (run(python, directory, tracer) for tracer in TRACERS)
        lost = sorted(on_sdk - on_tracekit)
        failed += len(lost)
        said = f"{len(lost)}" if on_sdk else "unavailable: none passes on the SDK"
        print(f"{suite:<16}{len(on_sdk):>6}{len(on_tracekit):>10}  {said}", flush=True)
        for test in lost:
            print(f"    {test}", flush=True)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.otel_contrib", description=description)
    parser.add_argument("contrib", type=Path, help="a checkout of opentelemetry-python-contrib")
    parser.add_argument("--sdk", type=Path, help="a checkout of opentelemetry-python")
    parser.add_argument("--only", action="append", metavar="SUITE", help="only this suite; may be repeated")
    return parser.parse_args()


def environment(contrib: Path) -> Path:
    return Path("/tmp/contrib-venv/bin/python")


def run(python: Path, directory: Path, tracer: str, *tests: str) -> set[str]:
    """Run the tests of *directory* on *tracer*, and return the names of those that passed."""
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "results"
        results.touch()
        variables = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "TRACEKIT_SUITE_TRACER": tracer,
            "TRACEKIT_SUITE_RESULTS": str(results),
        }
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "plugin",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:tracekit",
            *(tests or ["tests"]),
        ]
        with open(f"/tmp/contrib/log-{tracer}-{directory.name}", "w") as log:
            try:
                subprocess.run(
                    command, cwd=directory, env=variables, timeout=SUITE_S, stdout=log, stderr=subprocess.STDOUT
                )
            except subprocess.TimeoutExpired:
                print(f"{directory.name} on {tracer}: stopped after {SUITE_S} s", file=sys.stderr)
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {test for test, outcome in lines if outcome == "passed"} - {
        test for test, outcome in lines if outcome == "failed"
    }


if __name__ == "__main__":
    sys.exit(main())
