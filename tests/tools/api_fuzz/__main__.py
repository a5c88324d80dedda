"""The command: runs each seed in a separate process."""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tracekit

from . import __doc__ as about
from . import calls, scopes  # noqa: F401  - their operations
from .run import OPERATIONS, Fault, Fuzz, Log

COMMAND = ["-m", "tests.tools.api_fuzz"]


def run_seed(options: argparse.Namespace, seed: int) -> bool:
    """Run *seed* in this process, print its faults, and return whether there were none."""
    logger = logging.getLogger("tracekit")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    log = None if options.log is None else Log(options.log)
    fuzz = Fuzz(seed, log=log, only=options.only, without=options.without, keep_going=options.keep_going)
    try:
        fuzz.run(options.calls, options.seconds)
    except Fault as fault:
        print(fault)
        return False
    for summary, count in fuzz.faults.most_common():
        print(f"{count} times: {summary}")
    print(f"seed {seed}, {tracekit.IMPLEMENTATION}: {fuzz.operations} operations, {len(fuzz.faults)} faults")
    return not fuzz.faults


def run_apart(arguments: list[str], options: argparse.Namespace, seed: int) -> bool:
    """Run *seed* in a new process and return whether it passed; print the last calls if not."""
    with tempfile.TemporaryDirectory() as folder:
        log = options.log or Path(folder, "calls")
        command = [sys.executable, *COMMAND, *arguments, "--seed", str(seed), "--log", str(log)]
        limit_s = 60 + (options.calls / 50 if options.seconds is None else 3 * options.seconds)
        try:
            environ = {"PYTHONFAULTHANDLER": "1", **os.environ}
            code = subprocess.run(command, env=environ, timeout=limit_s, check=False).returncode
            what = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, what = None, f"timeout after {limit_s:.0f} s"
        if code == 0:
            return True
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        print(f"seed {seed} failed, {what}. Replay: python {' '.join(command[1:])}\nlast calls:", flush=True)
        print("\n".join([f"  {line}" for line in lines[-12:]]), flush=True)
        return False


def main(arguments: list[str]) -> int:
    """Run the seeds that *arguments* select; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.api_fuzz", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    groups = ",".join(sorted({operation.group for operation in OPERATIONS}))
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="run one seed in this process")
    parser.add_argument("--seconds", type=float, help="duration of each seed")
    parser.add_argument("--calls", type=int, help="number of operations of each seed (default: 20000)")
    parser.add_argument("--log", type=Path, help="write each call to this file before making it")
    parser.add_argument("--only", type=_groups, help=f"groups of operations to run, of {groups}")
    parser.add_argument("--without", type=_groups, default=(), help="groups of operations to leave out")
    parser.add_argument("--keep-going", action="store_true", help="continue after a fault")
    options = parser.parse_args(arguments)
    if options.calls is None and options.seconds is None:
        options.calls = 20_000
    if options.seed is not None:
        return 0 if run_seed(options, options.seed) else 1
    seeds = range(options.first, options.first + options.seeds)
    failed = [seed for seed in seeds if not run_apart(arguments, options, seed)]
    print(f"{len(seeds)} seeds, {len(failed)} failed" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


def _groups(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
