"""Fixtures of the tests of hooks."""

from __future__ import annotations

import pytest

import tracekit

from ..tools.hooks import ORIGINALS, in_place


@pytest.fixture(autouse=True)
def _always_removed(caplog):
    yield
    tracekit.remove_hooks()
    assert in_place() == ORIGINALS
    assert not caplog.get_records("call")


@pytest.fixture
def hooks():
    tracekit.install_hooks()
