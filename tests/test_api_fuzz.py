"""Some thousand random calls with hostile objects, and what the fuzz makes of functions that are broken on purpose."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tracekit

from .tools.api_fuzz import __main__ as command
from .tools.api_fuzz import calls, hostile, run, scopes

ROOT = Path(__file__).parent.parent


def fuzz(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tests.tools.api_fuzz", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_some_thousand_calls_crash_nothing_and_every_span_is_accounted_for():
    done = fuzz("--seeds", "2", "--calls", "4000")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"{tracekit.IMPLEMENTATION}: 4000 operations, 0 faults") == 2


@pytest.mark.slow
def test_a_seed_makes_the_same_calls_again(tmp_path):
    logs = []
    groups = "scopes,generators,threads,spans,public,configure"
    for name in ("first", "second"):
        fuzz("--seed", "5", "--calls", "500", "--only", groups, "--keep-going", "--log", str(tmp_path / name))
        logs.append(re.sub(r" [0-9a-f]+>", ">", (tmp_path / name).read_text()))
    assert logs[0] == logs[1]
    assert logs[0].count("\n") > 400


def test_a_crash_is_told_with_the_last_calls_and_how_to_have_it_again(monkeypatch, capfd):
    crash = "import ctypes, sys; open(sys.argv[-1], 'w').write('1 span()\\n2 end()\\n'); ctypes.string_at(0)"
    monkeypatch.setattr(command, "COMMAND", ["-c", crash])
    assert command.main(["--first", "7", "--calls", "1"]) == 1
    told = capfd.readouterr().out
    assert "seed 7 failed, exit code -11" in told
    assert "--seed 7" in told
    assert "  1 span()\n  2 end()\n" in told
    assert "1 seeds, 1 failed: [7]" in told


def test_a_process_that_hangs_is_told_too(monkeypatch, capfd):
    def run(*arguments, **options):
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert command.main(["--seconds", "0"]) == 1
    assert "timeout after 60 s" in capfd.readouterr().out


def raises(error):
    def function(*args, **kwargs):
        raise type(error)(*error.args)  # anew: a traceback keeps all that its frames have

    return function


def broken_statistics():
    return tracekit.Statistics(2, 1, 0, 1, 0, 0, 0, 0)


def _in_a_thread(*args, **kwargs):
    thread = threading.Thread(target=raises(AttributeError("lost")))
    thread.start()
    thread.join()


class _Finalized:
    def __del__(self):
        raise AttributeError("lost")


def _in_a_finalizer(*args, **kwargs):
    _Finalized()


def _after_a_hostile_error(*args, **kwargs):
    try:
        raise hostile.mischief.error()
    except BaseException as error:
        raise SystemError("returned a result with an exception set") from error


def _kept_open(*args, **kwargs):
    _KEPT.append(tracekit.span("a"))


_KEPT = []
# What is broken, how, and what the fuzz says of it.
FAULTS = [
    ("current_span", raises(AttributeError("internal")), "AttributeError: internal"),
    ("current_labels", raises(RuntimeError("dictionary changed size")), "RuntimeError"),
    ("inject", raises(KeyError("a")), "KeyError"),
    ("extract", raises(SystemError("a")), "SystemError"),
    ("extract", _after_a_hostile_error, "SystemError"),
    ("extract", _in_a_thread, "thread .*AttributeError: lost"),
    ("extract", _in_a_finalizer, "finalizer: AttributeError: lost"),
    ("extract", _kept_open, r"(?s)\d+ spans stay open without a reference.*<Span \w+> is held by list"),
    ("statistics", raises(TypeError("unsupported operand")), "statistics: TypeError"),
    ("statistics", broken_statistics, "does not add up"),
]


@pytest.mark.parametrize(("name", "broken", "told"), FAULTS)
def test_what_is_broken_is_found(monkeypatch, name, broken, told):
    monkeypatch.setattr(tracekit, name, broken) if name != "statistics" else None
    made = run.Fuzz(1, only=["scopes", "carriers"])
    if name == "statistics":
        monkeypatch.setattr(tracekit, name, _from_the_second_on(broken))
    with pytest.raises(run.Fault, match=told):
        made.run(400, None)
    _KEPT.clear()


def _from_the_second_on(broken):
    """The first call is that of the run, before anything else."""
    plain, calls = tracekit.statistics, []

    def function():
        calls.append(1)
        return plain() if len(calls) == 1 else broken()

    return function


def test_the_traceback_of_a_finalizer_that_failed_last_keeps_no_span_open():
    def finalize():
        left_open = tracekit.span("a")
        raise TypeError(f"a documented error, whose traceback holds {left_open}")

    made = run.Fuzz(1, only=["scopes"])
    open_before = tracekit.statistics().open
    try:
        finalize()
    except TypeError as error:
        made.failed.append(("finalizer", error))
    assert tracekit.statistics().open == open_before + 1
    made.finish(open_before)


@pytest.mark.parametrize("error", [TypeError("a"), ValueError("a"), tracekit.FormatError("a", "b")])
def test_documented_errors_are_none(monkeypatch, error):
    monkeypatch.setattr(tracekit, "extract", raises(error))
    run.Fuzz(1, only=["carriers"]).run(100, None)


def test_a_run_that_keeps_going_counts_faults_of_a_kind_and_prints_the_first(monkeypatch, capsys):
    monkeypatch.setattr(tracekit, "current_span", raises(AttributeError("internal")))
    made = run.Fuzz(1, only=["scopes"], keep_going=True)
    made.in_finalizer = lambda: None  # its failures are counted separately
    made.run(500, None)
    assert list(made.faults) == ["current_span: AttributeError: internal"]
    assert made.faults.total() > 3
    assert capsys.readouterr().out.count("Traceback") == 1


def test_every_operation_is_chosen():
    groups = {operation.group for operation in run.OPERATIONS}
    assert {"scopes", "generators", "chains", "spans", "carriers", "public", "bare", "configure", "formats"} <= groups
    assert {operation.function.__module__ for operation in run.OPERATIONS} == {calls.__name__, scopes.__name__}


def test_the_classes_of_the_compiled_modules_are_found():
    names = {kind.__name__ for kind in calls.CLASSES}
    if tracekit.IMPLEMENTATION == "compiled":
        assert {"Span", "SpanContext"} <= names
        assert len(calls.FUNCTIONS) > 20
    else:
        assert not names
    assert set(calls.PUBLIC) | calls.OWN >= {name for name in tracekit.__all__ if callable(getattr(tracekit, name))}
