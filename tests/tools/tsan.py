"""Threads that share spans, under ThreadSanitizer: ``python -m tests.tools.tsan``, or ``make tsan``.

The interpreter, free-threaded and with ThreadSanitizer, is built in the folder that ``make pythons`` uses (needs root; 10
minutes, once). ``--python`` takes another: 3.14 or later, configured with ``--disable-gil --with-thread-sanitizer``. The C
files of the core in this checkout, which an installation in place has left, are compiled for it in a copy; then the
programs run that tests/test_free_threading.py runs. The exit status is 1 if a data race was reported, or a count is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .pythons import ENTER, SID, free_threaded

ROOT = Path(__file__).parents[2]
MODULES = ["_speedups", "_carriers", "wire/w3c", "wire/b3"]  # and all of _core
SETTINGS = "import sysconfig; print(sysconfig.get_paths()['include'], sysconfig.get_config_var('EXT_SUFFIX'))"


class Machine:
    """Where the interpreter *python* runs: here, or below ``SID``."""

    def __init__(self, python: str, is_here: bool) -> None:
        self.python = python
        self.folder = ROOT / ".cache" / "tsan" if is_here else SID / "tracekit" / "tsan"
        self.inside = str(self.folder) if is_here else "/tracekit/tsan"
        self._enter = [] if is_here else ENTER

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run *command* in the copy."""
        # ThreadSanitizer wants its memory where address randomisation may have put something else.
        program = 'cd "$0" && exec setarch -R "$@"'
        return subprocess.run([*self._enter, "sh", "-c", program, self.inside, *command], text=True, **options)

    def build(self) -> None:
        """Compile the core for the interpreter in the copy."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in ("tracekit", "tests"):
            ignored = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(ROOT / folder, self.folder / folder, ignore=ignored)
        done = self.run(self.python, "-c", SETTINGS, capture_output=True, check=True)
        include, suffix = done.stdout.split()
        core = sorted(f"_core/{path.stem}" for path in Path(ROOT, "tracekit", "_core").glob("*.c"))
        for module in [*MODULES, *core]:
            flags = ["-shared", "-fPIC", "-fsanitize=thread", "-O1", "-g", "-w", f"-I{include}"]
            self.run("gcc", *flags, f"tracekit/{module}.c", "-o", f"tracekit/{module}{suffix}", check=True)


def main() -> int:
    """Build and run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.tsan", description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="an interpreter; one is built if none is given")
    parser.add_argument("--turns", type=int, default=20_000, help="of each of the eight threads")
    options = parser.parse_args()
    python, reason = (options.python, "") if options.python else free_threaded("--with-thread-sanitizer")
    if reason:
        print(
            f"no interpreter with ThreadSanitizer can be built here: {reason}; pass one with --python", file=sys.stderr
        )
        return 1
    machine = Machine(python, bool(options.python))
    machine.build()
    variables = {**os.environ, "PYTHONPATH": machine.inside, "TSAN_OPTIONS": "exitcode=66"}
    failed = 0
    for program, count in (("shared_parent", "--spans"), ("thread_stress", "--turns")):
        command = [python, "-m", f"tests.tools.{program}", "--threads", "8", count, str(options.turns)]
        failed |= machine.run(*command, env=variables, check=False).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
