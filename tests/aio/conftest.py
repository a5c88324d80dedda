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
    """Spans start at one time, so that trees sort those of a group by name: trio starts tasks in random order."""
    with FakeClock():
        yield


@pytest.fixture(params=["anyio", "named"])
def create(request):
    """A way to make a group, for what must be the same of both."""
    return anyio.create_task_group if request.param == "anyio" else functools.partial(aio.create_task_group, "group")
