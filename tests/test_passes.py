"""The tables of tests/conftest.py that say which tests run in one pass of ``make test`` alone, and which are slow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tracekit

from .conftest import ONE_FORM, SLOW
from .tools.forms import FORMS

TESTS = Path(__file__).parent
PACKAGE = Path(tracekit.__file__).parent


@pytest.mark.parametrize("pattern", [*ONE_FORM, *SLOW])
def test_every_pattern_matches_a_file(pattern):
    assert list(TESTS.glob(pattern))


@pytest.mark.parametrize("pattern", ONE_FORM)
def test_the_reasons_for_one_pass_are_true(pattern):
    """What is called not compiled has no type declarations, and a test file that is named instead runs in both passes."""
    reason = ONE_FORM[pattern]
    for name in re.findall(r"([\w/]+(?:\.py|/)) is not compiled", reason):
        assert (PACKAGE / name).exists()
        assert not [*(PACKAGE / name).rglob("*.pxd"), *PACKAGE.glob(name.removesuffix(".py") + ".pxd")]
    for name in re.findall(r"\b(?:\w+/)?test_\w+\.py", reason):
        text = (TESTS / name).read_text(encoding="utf-8")
        assert not re.search(r"^pytestmark.*one_form", text, re.MULTILINE)
        assert not any(Path(name).match(other) for other in ONE_FORM)


def test_a_case_with_a_form_is_of_one_pass(request, form):
    assert form in FORMS.values()
    assert request.node.get_closest_marker("one_form")
    is_plain = form is FORMS["plain"] and "compiled" in FORMS
    assert bool(request.node.get_closest_marker("plain")) == is_plain
    assert bool(request.node.get_closest_marker("slow")) == is_plain


def test_other_tests_run_in_both_passes(request):
    assert not request.node.get_closest_marker("one_form")
    assert not request.node.get_closest_marker("slow")
