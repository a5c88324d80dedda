"""Check random programs: ``python -m tests.guarantees.programs --count 2000 --backend asyncio --statistics``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback

from tests.tools.backends import BACKENDS

from .running import Runner, check_programs


def main(count=2000, backends=None, *, statistics=False, first=None):
    """Check *count* random programs on each of *backends*; return how many backends failed."""
    failed = 0
    for backend in backends or BACKENDS:
        number = int.from_bytes(os.urandom(3)) * 1000 if first is None else first
        print(f"{backend}: {count} programs from number {number}", file=sys.stderr)
        with Runner(backend) as runner:
            try:
                check_programs(runner, count, number)
            except Exception as error:
                failed += 1
                print("".join(traceback.format_exception_only(error)), file=sys.stderr)
                continue  # what was counted while it shrank says nothing
        print(
            f"{backend}: {runner.programs} programs, {runner.spans:,} spans as planned"
            f" ({runner.missing:,} more were cancelled before they began)",
            file=sys.stderr,
        )
        if statistics:
            for kind, times in runner.kinds.most_common():
                print(f"{times:9,} {kind}", file=sys.stderr)
    return failed


def _options():
    parser = argparse.ArgumentParser(prog="python -m tests.guarantees.programs", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="how many programs a backend")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="this one alone; may be given again")
    parser.add_argument("--first", type=int, metavar="N", help="the number of the first program; random by default")
    parser.add_argument("--statistics", action="store_true", help="say how often each kind of node ran")
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    sys.exit(main(options.count, options.backend, statistics=options.statistics, first=options.first))
