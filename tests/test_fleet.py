"""The simulated fleet's statistics: estimates that are biased, or whose intervals are too short or too long, are found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import tracekit
from bench import fleet_coverage, fleet_sampling
from bench.fleet_costs import COLLECTOR_CPU_S, PROCESS_CPU_S
from bench.fleet_sampling import LEAST_KEPT, Estimate, Outcome
from tracekit._core.otlp import IS_QUICK

from .exporters.collector import Collector
from .tools.collector.rate import Timed, Usage

pytestmark = pytest.mark.one_form

FLEETS = 60
SEEDS = range(100, 120)


def fleets(weight=1.0, probability=0.25, trusted=0.25, seed=1):
    """Fleets of 400 traces kept with *probability*, which count as *weight* times 1 / *trusted*."""
    rng = random.Random(seed)
    for _ in range(FLEETS):
        one = Estimate()
        for _ in range(400):
            one.add(trusted, weight / trusted if rng.random() < probability else None)
        yield [Outcome("head", {"all": one}, [])]


def small_fleet(seed):
    return [
        fleet_sampling.head(10, 1200.0, 10.0, random.Random(seed)),
        fleet_sampling.rate(10, 200.0, random.Random(seed))[0],
        fleet_sampling.tail(10, 200.0, 4.0, random.Random(seed)),
    ]


def test_a_right_estimate_is_right():
    (row,) = fleet_coverage.rows(fleets(), LEAST_KEPT)
    assert row.is_right
    assert len(row.known) == FLEETS
    assert row.estimated != row.known


@pytest.mark.parametrize(
    "fault",
    [{"weight": 1.1}, {"weight": 0.9}, {"probability": 0.28}, {"probability": 0.22}],
    ids=["counts too large", "counts too small", "more are kept", "fewer are kept"],
)
def test_a_biased_estimate_is_wrong(fault):
    (row,) = fleet_coverage.rows(fleets(**fault), LEAST_KEPT)
    assert not row.is_right


def test_intervals_of_another_length_are_wrong():
    (row,) = fleet_coverage.rows(fleets(), LEAST_KEPT)
    short = row._replace(known=[1.6 * z for z in row.known], estimated=[1.6 * z for z in row.estimated])
    long = row._replace(known=[0.5 * z for z in row.known], estimated=[0.5 * z for z in row.estimated])
    assert not short.is_right
    assert not long.is_right
    assert not row._replace(estimated=[1.6 * z for z in row.estimated]).is_right


def test_a_few_heavy_traces_among_many_light_ones_carry_the_variance():
    one, equal = Estimate(), Estimate()
    for number in range(1000):
        equal.add(0.25, 4.0 if number % 4 == 0 else None)
        one.add(1.0, 1.0)
        one.add(0.01, 100.0 if number % 100 == 0 else None)
    assert equal.carriers == pytest.approx(250)
    assert one.kept == 1010
    assert one.carriers == pytest.approx(10)
    (row,) = fleet_coverage.rows(
        [[Outcome("head", {"all": one}, [])], [Outcome("head", {"all": equal}, [])]], LEAST_KEPT
    )
    assert (len(row.known), len(row.estimated)) == (2, 1)


@pytest.mark.slow
def test_the_samplers_estimates_are_unbiased_in_many_small_fleets():
    made = fleet_coverage.rows((small_fleet(seed) for seed in SEEDS), LEAST_KEPT)
    assert {row.sampling.split(",")[0] for row in made} == {"head", "rate", "tail"}
    assert [row for row in made if not row.is_right] == []


@pytest.mark.slow
def test_adjusted_counts_that_are_wrong_are_found(monkeypatch):
    right = fleet_sampling.adjusted_count
    monkeypatch.setattr(fleet_sampling, "adjusted_count", lambda context: 1.2 * right(context))
    made = fleet_coverage.rows((small_fleet(seed) for seed in SEEDS), LEAST_KEPT)
    assert {row.sampling.split(",")[0] for row in made if not row.is_right} == {"head", "rate", "tail"}


@pytest.mark.parametrize(("who", "cpu_s"), [("the process", PROCESS_CPU_S), ("the Collector", COLLECTOR_CPU_S)])
def test_the_costs_are_of_the_processor_times_that_the_page_has(who, cpu_s):
    page = Path(__file__).parents[1].joinpath("docs", "scale.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {who} |")]
    assert f"| {cpu_s:.2f} s |" in row


def test_spans_that_are_dropped_do_not_make_the_others_cheaper():
    usage = Usage(made=200_000, arrived=100_000, wall_s=2.0, making_s=0.2, exporting_s=0.1, collector_s=0.3)
    cells = {row.split("|")[1].strip(): row.split("|")[3].strip() for row in usage.lines()[2:]}
    assert cells == {
        "the program's thread": "0.10 s",
        "its exporting thread": "0.10 s",
        "the process": "0.20 s",
        "the Collector": "0.30 s",
    }
    assert usage.suffices
    assert not usage._replace(collector_s=2.1).suffices
    assert not usage._replace(making_s=1.0, exporting_s=1.1).suffices


def test_a_timed_exporter_gets_spans_as_the_exporter_of_users_does():
    with Collector() as collector:
        exporter = Timed(collector.url, "none")
        tracekit.configure(exporter=exporter, environ={})
        for _ in range(100):
            tracekit.span("work").end()
        assert tracekit.flush(30)
        tracekit.configure(environ={})
    assert exporter.prepared_export == exporter.export  # spans are prepared apart from their delivery ...
    assert bool(exporter.encoder(8192)) == IS_QUICK  # ... by the threads that end them
    assert exporter.batches == len(collector.requests)
    assert collector.names == {"work": 100}
    assert 0 < exporter.longest_s <= exporter.total_s
