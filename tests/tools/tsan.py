"""Threads that share spans, under ThreadSanitizer: ``python -m tests.tools.tsan PYTHON``, which ``make tsan`` runs.

*PYTHON* is a free-threaded interpreter, 3.14 or later, configured with ``--disable-gil --with-thread-sanitizer``. The C files
of the core in this checkout, which an installation in place has left, are compiled for it in ``.cache/tsan``; then the
programs run that tests/test_free_threading.py runs. The exit status is 1 if a data race was reported, or a count is wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / ".cache" / "tsan"
MODULES = ["_speedups", "_carriers", "wire/w3c", "wire/b3"]
MODULES += [f"_core/{name}" for name in ("buffer", "context", "otlp", "scopes", "span", "tracer")]
SETTINGS = "import sysconfig; print(sysconfig.get_paths()['include'], sysconfig.get_config_var('EXT_SUFFIX'))"


def build(python: str) -> None:
    """Compile the core for *python* in the copy."""
    shutil.rmtree(COPY, ignore_errors=True)
    for folder in ("tracekit", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    done = subprocess.run([python, "-c", SETTINGS], capture_output=True, text=True, check=True)
    include, suffix = done.stdout.split()
    for module in MODULES:
        source = COPY / "tracekit" / f"{module}.c"
        command = ["gcc", "-shared", "-fPIC", "-fsanitize=thread", "-O1", "-g", "-w", f"-I{include}", str(source)]
        subprocess.run([*command, "-o", str(source.with_name(source.stem + suffix))], check=True)


def main() -> int:
    """Build and run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.tsan", description=__doc__.partition("\n")[0])
    parser.add_argument("python", metavar="PYTHON")
    parser.add_argument("--turns", type=int, default=20_000, help="of each of the eight threads")
    options = parser.parse_args()
    build(options.python)
    variables = {**os.environ, "PYTHONPATH": str(COPY), "TSAN_OPTIONS": "exitcode=66"}
    failed = 0
    for program, count in (("shared_parent", "--spans"), ("thread_stress", "--turns")):
        command = [options.python, "-m", f"tests.tools.{program}", "--threads", "8", count, str(options.turns)]
        # ThreadSanitizer wants its memory where address randomisation may have put something else.
        failed |= subprocess.run(["setarch", "-R", *command], cwd=COPY, env=variables, check=False).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
