"""The generated C has no warning of ``-Wall -Wextra``, by each of the compilers that this machine has."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import tracekit

PACKAGE = Path(tracekit.__file__).parent
GENERATED = sorted(map(str, PACKAGE.rglob("*.c")))
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
FLAGS = ["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-isystem", sysconfig.get_path("include")]
if sys.version_info >= (3, 15):  # its types have a field that Cython 3.3 does not name
    FLAGS.append("-Wno-missing-field-initializers")
if sysconfig.get_config_var("Py_GIL_DISABLED"):  # no module uses all of free_threading.pxd, and clang names the rest
    FLAGS.append("-Wno-unused-function")

pytestmark = [
    pytest.mark.one_form,
    pytest.mark.slow,
    pytest.mark.skipif(not GENERATED, reason="nothing is compiled here"),
]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_generated_c_has_no_warnings(compiler):
    done = subprocess.run([compiler, *FLAGS, *GENERATED], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_warning_in_c_is_found(compiler, tmp_path):
    source = tmp_path / "module.c"
    source.write_text('#include "Python.h"\nint f(int unused) { return 0; }\n')
    done = subprocess.run([compiler, *FLAGS, str(source)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "unused" in done.stderr
