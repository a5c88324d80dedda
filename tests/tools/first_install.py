"""Install the project with an extra into an environment, and print progress at least every three seconds.

``python3 tests/tools/first_install.py .venv demo`` is the first command that people wait for (``make demo``). It needs the
standard library alone, and creates the environment if there is none.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

PERIOD_S = 2.0  # between lines
SHOWN_LINES = 40  # of the output of a command that fails

# Lines of pip -v, Cython and setuptools, and the step that each begins.
STEPS = [
    (re.compile(r"\s*Collecting ([\w.\[\],-]+)"), "fetching {0}"),
    (re.compile(r"\s*Installing build dependencies"), "fetching Cython and setuptools"),
    (re.compile(r"\s*\[ *(\d+)/(\d+)\] Cythonizing ([\w./]+)"), "Cython: {0} of {1} files, {2}"),
    (re.compile(r"\s*building '([\w.]+)' extension"), "C compiler: {count} of {files} modules, {0}"),
    (re.compile(r"\s*Installing collected packages"), "installing the packages"),
]


class Progress:
    """The current step of an installation, by its output."""

    def __init__(self) -> None:
        self.doing = ""
        self._compiled = 0
        self._files = "all"

    def read(self, line: str) -> bool:
        """Take one line of output, and return whether it begins another step."""
        for pattern, step in STEPS:
            if found := pattern.match(line):
                if step.startswith("Cython:"):
                    self._files = found[2]
                self._compiled += step.startswith("C compiler:")
                self.doing = step.format(*found.groups(), count=self._compiled, files=self._files)
                return True
        return False


def run(command: list[str], doing: str, start_s: float) -> int:
    """Run *command*, print a line for each step and at least every `PERIOD_S`; print its output only if it fails."""
    progress = Progress()
    progress.doing = doing
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        output = follow(process, progress, start_s)
    if process.returncode:
        sys.stdout.writelines(output)
        say(f"failed with status {process.returncode}: {' '.join(command)}", start_s)
    return process.returncode


def follow(process: subprocess.Popen[str], progress: Progress, start_s: float) -> deque[str]:
    """Print the progress of *process* until it closes its output, and return the last lines of that."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    output: deque[str] = deque(maxlen=SHOWN_LINES)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    say(progress.doing, start_s)
    last_s = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=max(0.0, last_s + PERIOD_S - time.monotonic()))
        except queue.Empty:
            say(progress.doing, start_s)
            last_s = time.monotonic()
            continue
        if line is None:
            return output
        output.append(line)
        progress.read(line)


def say(text: str, start_s: float) -> None:
    print(f"  {time.monotonic() - start_s:4.0f} s  {text}", flush=True)


def main(folder: str, extra: str) -> int:
    start_s = time.monotonic()
    python = Path(folder, "Scripts" if os.name == "nt" else "bin", "python")
    install = ["-m", "pip", "install", "--verbose", "--disable-pip-version-check", "--editable", f".[{extra}]"]
    if not python.exists() and run([sys.executable, "-m", "venv", folder], f"creating {folder}", start_s):
        return 1
    if run([str(python), *install], "reading pyproject.toml", start_s):
        return 1
    say("installed", start_s)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
