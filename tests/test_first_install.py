"""The progress of ``make demo``: a line for each step, and what failed."""

import sys
import time

import pytest

from tests.tools import first_install
from tests.tools.first_install import Progress, run

pytestmark = pytest.mark.one_form

OUTPUT = """\
Collecting anyio>=4.6
  Downloading anyio-4.13.0-py3-none-any.whl.metadata (4.5 kB)
  Installing build dependencies: started
    [ 1/33] Cythonizing tracekit/_carriers.py
    [33/33] Cythonizing tracekit/wire/w3c.py
  building 'tracekit._speedups' extension
  gcc -O2 -c build/speedups.c
  building 'tracekit._carriers' extension
Installing collected packages: sniffio, anyio
"""


def test_each_step_of_an_installation_is_named():
    progress = Progress()
    steps = [progress.doing for line in OUTPUT.splitlines() if progress.read(line)]
    assert steps == [
        "fetching anyio",
        "fetching Cython and setuptools",
        "Cython: 1 of 33 files, tracekit/_carriers.py",
        "Cython: 33 of 33 files, tracekit/wire/w3c.py",
        "C compiler: 1 of 33 modules, tracekit._speedups",
        "C compiler: 2 of 33 modules, tracekit._carriers",
        "installing the packages",
    ]


@pytest.mark.slow
def test_a_command_that_prints_nothing_still_gets_lines(monkeypatch, capsys, tmp_path):
    lines = []

    def say(*line):
        lines.append(line)
        if len(lines) == 3:
            (tmp_path / "over").touch()
        said(*line)

    said = first_install.say
    monkeypatch.setattr(first_install, "say", say)
    monkeypatch.setattr(first_install, "PERIOD_S", 0.01)
    until = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'over')!r}): time.sleep(0.01)"
    assert run([sys.executable, "-c", until], "waiting", time.monotonic()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split(" s  ")[1] for line in lines} == {"waiting"}


def test_a_command_that_fails_shows_its_output_and_its_status(capsys):
    command = [sys.executable, "-c", "print('no compiler'); raise SystemExit(3)"]
    assert run(command, "compiling", time.monotonic()) == 3
    assert "no compiler\n" in capsys.readouterr().out
