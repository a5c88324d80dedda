"""The tables of tests/conftest.py that say which tests run in one pass of ``make test`` alone, and which are slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ONE_FORM, SLOW
from .tools.forms import FORMS

TESTS = Path(__file__).parent


@pytest.mark.parametrize("pattern", [*ONE_FORM, *SLOW])
def test_every_pattern_matches_a_file(pattern):
    assert list(TESTS.glob(pattern))


def test_a_case_with_a_form_is_of_one_pass(request, form):
    assert form in FORMS.values()
    assert request.node.get_closest_marker("one_form")
    assert bool(request.node.get_closest_marker("slow")) == (form is FORMS["plain"] and "compiled" in FORMS)


def test_other_tests_run_in_both_passes(request):
    assert not request.node.get_closest_marker("one_form")
    assert not request.node.get_closest_marker("slow")
