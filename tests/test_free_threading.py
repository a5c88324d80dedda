"""Threads that share a parent, and interpreters that run without the GIL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tracekit

from .tools import shared_parent, thread_stress

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
PACKAGE = Path(tracekit.__file__).parent
# In the list of modules whose functions run in a section: the names that Cython gives them in C.
GUARDED = set(re.findall(r"__PYX_HAVE__(\w+)", (PACKAGE / "_core" / "free_threading.pxd").read_text(encoding="utf-8")))
COMPILED = {
    "__".join(("tracekit", *path.relative_to(PACKAGE).with_suffix("").parts)): path.with_suffix(".py")
    for path in sorted(PACKAGE.rglob("*.pxd"))
    if path.with_suffix(".py").exists() and path.stem not in {"free_threading", "interpreter"}  # inlined
}
# Settings, which are kept for good when they are replaced.
REPLACED = {"tracekit___carriers", "tracekit___core__context"}


def test_threads_that_share_a_parent_which_ends_meanwhile_are_counted_exactly():
    spans = int(os.environ.get("TRACEKIT_TESTS_SHARED_SPANS", "1000"))
    assert shared_parent.race(8, spans) == []


def test_threads_write_read_end_and_leave_the_same_spans():
    turns = int(os.environ.get("TRACEKIT_TESTS_SHARED_SPANS", "1000")) // 4
    assert thread_stress.run(8, turns) == []


def test_the_implementation_is_one_that_is_safe_here():
    assert HAS_GIL or sys.version_info >= (3, 14) or tracekit.IMPLEMENTATION == "plain"


@pytest.mark.one_form
def test_compiled_modules_that_change_their_globals_have_one_thread_at_a_time():
    assert set(COMPILED) >= GUARDED
    changing = {
        name for name, path in COMPILED.items() if re.search(r"^ +global ", path.read_text("utf-8"), re.MULTILINE)
    }
    assert changing - GUARDED == REPLACED
    for name in REPLACED:
        assert "retire(" in COMPILED[name].read_text(encoding="utf-8")


@pytest.mark.one_form
@pytest.mark.parametrize("name", sorted(GUARDED))
def test_the_functions_of_a_guarded_module_begin_and_end_in_the_section(name):
    source = COMPILED[name].with_suffix(".c")
    if not source.exists():
        pytest.skip("no generated C beside the sources: the extensions were not built in place")
    text = source.read_text(encoding="utf-8")
    assert "  #define __Pyx_RefNannySetupContext(name, acquire_gil) TK_BEGIN\n" in text
    assert "  #define __Pyx_RefNannyFinishContext() TK_END\n" in text


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build for running without the GIL")
@pytest.mark.parametrize("gil", ["0", "1"])
def test_the_import_neither_warns_nor_turns_the_gil_on(gil):
    program = "import sys, tracekit; print(int(sys._is_gil_enabled()))"
    environ = {**os.environ, "PYTHON_GIL": gil}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environ
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, gil, "")
