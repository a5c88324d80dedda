"""Which form is in use, and why."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

import tracekit
from tracekit._core.free_threading import HAS_GIL


def run(program, **environ):
    environ = {**os.environ, **environ}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(("value", "forced"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_plain_form_can_be_forced(value, forced):
    is_built = importlib.util.find_spec("tracekit._speedups") is not None
    wanted = "plain" if forced or not is_built else "compiled"
    assert run("import tracekit; print(tracekit.IMPLEMENTATION)", TRACEKIT_NO_EXTENSIONS=value) == [wanted]


def test_a_sub_interpreter_gets_the_plain_form():
    """The extension loads into one interpreter a process; the others must not do without tracing for that."""
    program = """
        import tracekit
        try:
            import _interpreters
            run = _interpreters.exec
        except ModuleNotFoundError:
            import _xxsubinterpreters as _interpreters
            run = _interpreters.run_string
        number = _interpreters.create()
        print(tracekit.IMPLEMENTATION, flush=True)
        run(number, "import tracekit\\nwith tracekit.span('s') as s: print(tracekit.current_span() is s, flush=True)")
        _interpreters.destroy(number)
        with tracekit.span("s") as span:
            print(tracekit.current_span() is span)
        """
    assert run(program) == [tracekit.IMPLEMENTATION, "True", "True"]


@pytest.mark.skipif(not HAS_GIL, reason="without the GIL no extension is loaded")
def test_a_broken_extension_is_an_error_and_not_silently_plain(tmp_path):
    program = """
        import sys, importlib.abc, importlib.machinery
        class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
            def find_spec(self, name, path, target=None):
                if name == "tracekit._speedups":
                    return importlib.machinery.ModuleSpec(name, self)
            def create_module(self, spec):
                raise ImportError("undefined symbol: nothing")
            def exec_module(self, module):
                pass
        sys.meta_path.insert(0, Broken())
        try:
            import tracekit
        except ImportError as error:
            print(str(error).split()[0])
        """
    assert run(program, TRACEKIT_NO_EXTENSIONS="") == ["undefined"]
