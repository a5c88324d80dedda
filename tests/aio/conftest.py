"""Fixtures of the tests of task groups."""

from __future__ import annotations

import functools

import anyio
import anyio.abc
import pytest

from tracekit import aio
from tracekit.testing import FakeClock


@pytest.fixture
def time_stands_still():
    """So that what trio starts in an order of its own stands in that of its name: see ``tree`` in ``tools/groups.py``."""
    with FakeClock():
        yield


@pytest.fixture(params=["anyio", "named"])
def create(request):
    """A way to make a group, for what must be the same of both."""
    return anyio.create_task_group if request.param == "anyio" else functools.partial(aio.create_task_group, "group")
