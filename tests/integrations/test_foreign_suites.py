"""Tests of other projects pass under ``instrument()``; the slower and the external ones run by hand."""

from __future__ import annotations

import importlib.util

import pytest

from tests.tools import foreign_suites

SUITE = """
import pathlib
import sys

import starlette

tracekit = sys.modules.get("tracekit")


def test_same():
    if tracekit is not None:
        with tracekit.span("work"):
            pass


def test_skipped():
    import pytest
    pytest.skip("everywhere")


def test_fails():
    assert False


def test_different():
    assert tracekit is None


def test_header():
    if tracekit is not None:
        with tracekit.span("work"):
            assert tracekit.inject({}) == {}


def test_unsteady():
    runs = pathlib.Path("runs")
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    assert len(runs.read_text()) != 2
"""


needs_cpythons = pytest.mark.skipif(
    importlib.util.find_spec("test.test_wsgiref") is None, reason="CPython's tests are not installed"
)


@needs_cpythons
def test_cpythons_tests_of_wsgiref_pass_as_without_tracing(capsys):
    assert foreign_suites.main(["wsgiref"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert row[1] == "`http_server`, `wsgi`"
    assert row[2] == row[3] != "0"
    assert row[4:] == ["0", "0"]


@needs_cpythons
def test_with_the_hooks_each_test_runs_in_a_span(capsys):
    assert foreign_suites.main(["threading", "-ktest_sched"]) == 0
    *_, traced, _, _, row = capsys.readouterr().out.splitlines()
    spans = int(traced.rpartition("; ")[2].partition(" ")[0])
    assert spans >= int(row.strip("| ").split(" | ")[2]) > 0


def test_each_test_is_compared(tmp_path, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_all.py").write_text(SUITE)
    (tmp_path / "starlette").mkdir()
    (tmp_path / "starlette" / "__init__.py").write_text("raise ImportError('not the installed one')")
    assert foreign_suites.main([f"starlette={tmp_path}"]) == 1
    out = capsys.readouterr().out
    assert "starlette, different: tests/test_all.py::test_different\n" in out
    assert "starlette, unsteady: tests/test_all.py::test_unsteady\n" in out
    assert out.splitlines()[-1].endswith(" | `asgi` | 4 | 2 | 1 | 1 |")


def test_a_suite_that_cannot_run_is_no_success(tmp_path, capsys):
    assert foreign_suites.main([f"starlette={tmp_path}"]) == 2


@pytest.mark.parametrize("arguments", [[], ["no such suite"], ["starlette", "no such suite"], ["-q"]])
def test_an_unknown_suite_is_rejected(capsys, arguments):
    assert foreign_suites.main(arguments) == 2
