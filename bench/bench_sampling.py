"""Samplers: what a decision about a new trace costs."""

from __future__ import annotations

import pytest

import tracekit
from tracekit import AlwaysOff, AlwaysOn, Rate, Ratio


class _OfTheUser:
    def sample(self, randomness, name, kind, attributes):
        return False, ""


@pytest.mark.parametrize(
    "sampler", [AlwaysOn(), AlwaysOff(), Ratio(0.01), Rate(100), _OfTheUser()], ids=lambda one: type(one).__name__
)
def bench_root_under(benchmark, configure, sampler):
    configure(sampler=sampler)

    def work():
        with tracekit.span("work", parent=tracekit.ROOT):
            pass

    benchmark(work)


def bench_rate_decision(benchmark):
    sampler = Rate(100)
    benchmark(sampler.sample, 0xCE929D0E0E4736, "work", "internal", {})


def bench_new_ratio(benchmark):
    benchmark(Ratio, 0.01)
