"""Threads that share a parent, and interpreters that run without the GIL."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig

import pytest

import tracekit

from .tools.shared_parent import race

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


def test_threads_that_share_a_parent_which_ends_meanwhile_are_counted_exactly():
    spans = int(os.environ.get("TRACEKIT_TESTS_SHARED_SPANS", "1000"))
    assert race(8, spans) == []


def test_the_implementation_is_one_that_is_safe_here():
    assert HAS_GIL or tracekit.IMPLEMENTATION == "plain"


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build for running without the GIL")
@pytest.mark.parametrize("gil", ["0", "1"])
def test_the_import_neither_warns_nor_turns_the_gil_on(gil):
    program = "import sys, tracekit; print(int(sys._is_gil_enabled()))"
    environ = {**os.environ, "PYTHON_GIL": gil}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environ
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, gil, "")
