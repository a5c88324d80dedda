"""The command line in a pseudo-terminal, and in a pipe whose reader is gone."""

import os
import subprocess
import sys
from pathlib import Path

import tracekit

_COMMAND = [sys.executable, "-m", "tracekit"]
_PATH = str(Path(tracekit.__file__).parents[1])


def in_terminal(*arguments, width, **env):
    """Run ``tracekit`` in a terminal of *width* columns; return its status and its output."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {**os.environ, "PYTHONPATH": _PATH, "TERM": "xterm-256color", **env}
    del environment["COLUMNS"]
    process = subprocess.Popen(
        [*_COMMAND, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(ours)
    return process.wait(60), b"".join(chunks).decode().replace("\r\n", "\n")


def without_reader(*arguments):
    """Run ``tracekit`` with its output in a pipe that nothing reads; return its status and its errors."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*_COMMAND, *map(str, arguments)],
            stdout=write_end,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _PATH},
            timeout=60,
        )
    finally:
        os.close(write_end)
    return done.returncode, done.stderr
