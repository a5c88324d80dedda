"""The soak in short: some hundred requests, a collector that fails or is away, a full disk, a clock that steps, and a restart."""

from __future__ import annotations

import sys

import pytest

from . import soak


@pytest.mark.slow
@pytest.mark.one_form
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_every_span_of_some_hundred_requests_is_confirmed_once_across_a_restart():
    found = soak.soak(60.0, requests=600, rate=400.0)
    assert found.endswith(" spans were confirmed, each once")
    assert "\n2 times the collector's port was closed\n4 steps of the clock\n" in found
    assert "\n1 processes ended by SIGTERM\n1 recycled\n" in found


def samples(**figures):
    return [
        {"resident_mb": 50.0, "threads": 4, "descriptors": 12, **dict(zip(figures, values, strict=True))}
        for values in zip(*figures.values(), strict=True)
    ]


@pytest.mark.one_form
@pytest.mark.parametrize("name", ["resident_mb", "threads", "descriptors"])
def test_growth_after_the_warm_up_fails_and_growth_before_does_not(name):
    soak.check_flat(samples(**{name: [10, 20, 30, 40, *[50] * 12]}))
    with pytest.raises(soak.Failed, match=name.partition("_")[0]):
        soak.check_flat(samples(**{name: range(10, 90, 5)}))
