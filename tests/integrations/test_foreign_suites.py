"""Tests of other projects pass under ``instrument()``; the slower and the external ones run by hand."""

from __future__ import annotations

import importlib.util

import pytest

from tests.tools import foreign_suites


@pytest.mark.skipif(importlib.util.find_spec("test.test_wsgiref") is None, reason="CPython's tests are not installed")
def test_cpythons_tests_of_wsgiref_pass_as_without_tracing(capsys):
    assert foreign_suites.main(["wsgiref"]) == 0
    assert "nothing fails with tracing that passes without" in capsys.readouterr().out


def test_a_suite_that_cannot_run_is_no_success(tmp_path, capsys):
    assert foreign_suites.main(["starlette", str(tmp_path)]) == 2


def test_an_unknown_suite_is_rejected(capsys):
    assert foreign_suites.main(["no such suite"]) == 2
