"""Files of SQLite in tests: their rows and size, files that are in the way, and processes that write them."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import tracekit

ROOT = Path(tracekit.__file__).parents[1]


def rows(path, query, *values):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def total_bytes(path):
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


def not_a_database(path):
    path.write_bytes(b"no database\n" * 1000)
    return path.unlink


def another_program(path):
    rows(path, "CREATE TABLE theirs (x)")
    return path.unlink


def directory_in_its_place(path):
    path.mkdir()
    return path.rmdir


def script(code, *arguments, **options):
    """Start *code* in a new Python process with the same implementation."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error,ignore::DeprecationWarning"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    return out
