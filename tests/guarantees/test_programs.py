"""A hundred random programs on each backend: every span has the parent, the links and the labels that the plan says."""

from __future__ import annotations

import pytest

from tests.tools.backends import BACKENDS

from .programs.running import Runner, check_programs


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hundred_random_programs_go_as_planned(backend):
    with Runner(backend) as runner:
        check_programs(runner, 100)
    assert runner.spans > 500, "the programs do something"
