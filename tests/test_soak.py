"""The soak in short: some hundred requests, a collector that fails or is away, a full disk, a clock that steps, and a restart."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from tracekit.exporters._otlp.outbox import Outbox

from . import soak
from .exporters.collector import Collector


@pytest.mark.slow
@pytest.mark.one_form
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_every_span_of_some_hundred_requests_is_confirmed_once_across_a_restart():
    found = soak.soak(60.0, requests=600, rate=400.0)
    assert found.endswith(" spans were confirmed, each once but for those")
    assert "\n2 times the collector's port was closed\n4 steps of the clock\n" in found
    assert "\n1 processes ended by SIGTERM\n1 recycled\n" in found


@pytest.mark.slow
@pytest.mark.one_form
def test_a_batch_that_a_process_was_sending_when_it_ended_is_waited_for(tmp_path):
    spool = str(tmp_path / "spool.db")
    outbox = Outbox(spool)
    outbox.put(b"", spans=3, content_type="application/x-protobuf", content_encoding="")
    assert outbox.take(2.0) is not None
    outbox.close()
    with Collector() as collector:
        ledger = soak.drain(collector.url, spool)
    assert (ledger.put, ledger.sent, ledger.waiting) == (3, 3, 0)


def judged(*, evicted=0, **wrong):
    """Judge a run of two requests with all faults, but for what is *wrong*."""
    names = {"/1", "1/work", "/2", "2/work"}
    collector = SimpleNamespace(confirmed=Counter({"/0": 1, **dict.fromkeys(names, 1)}), failures=1, ahead=1)
    seen = Counter({"away": 1, "clock ahead": 1, "disk full": 1})
    conditions = SimpleNamespace(seen=seen, faults=SimpleNamespace(failed_writes=1))
    load = SimpleNamespace(answered={"1", "2"}, errors=0)
    ledger = SimpleNamespace(put=4 + evicted, sent=4, evicted=evicted)
    lives = wrong.get("lives", [soak.Life("SIGTERM"), soak.Life("recycled")])
    for name in ("failures", "ahead"):
        setattr(collector, name, wrong.get(name, 1))
    collector.confirmed += Counter(wrong.get("more", {}))
    collector.confirmed -= Counter(wrong.get("less", {}))
    seen.subtract(Counter(wrong.get("unseen", {})))
    return soak.judge(names, load, collector, conditions, ledger, lives)


@pytest.mark.one_form
def test_the_report_counts_each_fault():
    assert judged().endswith("4 of their 4 spans were confirmed, each once but for those")


@pytest.mark.one_form
def test_the_last_spans_of_a_process_may_be_sent_again():
    lives = [soak.Life("SIGTERM", last=frozenset({"/1"})), soak.Life("recycled")]
    report = judged(more={"/1": 1}, lives=lives)
    assert "\n1 spans sent again, because a process ended" in report
    with pytest.raises(soak.Failed, match="1 were sent again"):
        judged(more={"/2": 1}, lives=lives)


@pytest.mark.one_form
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"failures": 0}, "no failed answers"),
        ({"ahead": 0}, "no spans of the time ahead"),
        ({"unseen": {"away": 1}}, "no times the collector's port was closed"),
        ({"unseen": {"clock ahead": 1}}, "no steps of the clock"),
        ({"unseen": {"disk full": 1}}, "no full disks"),
        ({"less": {"/0": 1}}, "no spans past the spool"),
        ({"lives": [soak.Life("SIGTERM")]}, "no recycled"),
        ({"lives": [soak.Life("recycled")]}, "no processes ended by SIGTERM"),
        ({"more": {"/1": 1}}, "0 of 4 spans are missing, 1 were sent again"),
        ({"less": {"/1": 1}, "more": {"/3": 1}}, "1 of 4 spans are missing"),
        ({"less": {"/1": 1, "1/work": 1}, "evicted": 1}, "2 of 4 spans are missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_loses_or_repeats_a_span_or_lacks_a_fault_fails(wrong, said):
    with pytest.raises(soak.Failed, match=said):
        judged(**wrong)


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
