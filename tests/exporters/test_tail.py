"""The tail sampler: whole local traces are kept or discarded, within bounds, and every span is counted."""

from __future__ import annotations

import logging
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import Account, AlwaysOn, Ratio, TraceState
from tracekit._core.context import set_ids
from tracekit._sampling import NEVER
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.tail import TailSampler
from tracekit.testing import FakeClock, MemoryExporter, span_tree

from ..tools.estimates import Estimate
from ..tools.pipeline import Balance
from .collector import Collector

same = settings(deadline=None, derandomize=True, database=None)

HIGH, LOW = 2**56 - 1, 0  # randomness that every share keeps, and that only a share of all keeps


class Inner:
    """An exporter that records the names of its spans, by batch, and fails on demand."""

    def __init__(self, error=None):
        self.error, self.batches, self.flushed, self.is_shut_down = error, [], [], False

    def export(self, spans):
        if self.error is not None:
            raise self.error
        self.batches.append(list(spans))

    def shutdown(self):
        self.is_shut_down = True

    @property
    def names(self):
        return [span.name for batch in self.batches for span in batch]


class Clock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


def trace(random_bits, state=""):
    """A caller with a new id in a trace with these 56 random bits."""
    trace_id = f"{1 << 127 | random_bits:032x}"
    return tracekit.SpanContext(trace_id, os.urandom(8), 1, state=TraceState.parse(state), is_remote=True)


def tail(**options):
    """A sampler in use that keeps half, on a fixed clock, and the spans that it passes on."""
    clock = Clock()
    sampler = TailSampler(Inner(), **{"probability": 0.5, "clock": clock} | options)
    tracekit.configure(exporter=sampler)
    return sampler, sampler.exporter, clock


def th(span):
    return span.context.state.get("ot", "")


# ---- decisions


@pytest.mark.parametrize(("random_bits", "kept"), [(LOW, False), (1 << 55, True), ((1 << 55) - 1, False), (HIGH, True)])
def test_a_trace_is_kept_by_its_own_randomness_when_its_local_root_has_ended(random_bits, kept):
    sampler, inner, _ = tail()
    with tracekit.span("server", parent=trace(random_bits)):
        for _ in range(3):
            with tracekit.span("child"), tracekit.span("grandchild"):
                pass
        assert tracekit.flush(60)
        assert inner.names == []
        assert sampler.account() == (6, 0, 0)
    assert tracekit.flush(60)
    assert len(inner.names) == 7 * kept
    assert sampler.account() == (0, 0, 7 * (not kept))


def test_rv_of_the_tracestate_is_the_randomness_where_there_is_one():
    _, inner, _ = tail()
    tracekit.span("kept", parent=trace(LOW, "ot=rv:ffffffffffffff")).end()
    tracekit.span("not kept", parent=trace(HIGH, "ot=rv:00000000000000")).end()
    tracekit.flush(60)
    assert inner.names == ["kept"]
    assert th(inner.batches[0][0]) == "th:8;rv:ffffffffffffff"


@pytest.mark.parametrize(
    ("code", "options", "kept"),
    [
        ("error", {}, True),
        ("error", {"keep_errors": False}, False),
        ("cancelled", {}, False),
        ("ok", {}, False),
    ],
)
@pytest.mark.parametrize("where", ["root", "leaf"])
def test_an_error_anywhere_keeps_the_whole_local_trace(where, code, options, kept):
    _, inner, _ = tail(**options)
    with tracekit.span("root", parent=trace(LOW)) as root, tracekit.span("middle"), tracekit.span("leaf") as leaf:
        {"root": root, "leaf": leaf}[where].set_status(code)
    tracekit.flush(60)
    assert len(inner.names) == 3 * kept


@pytest.mark.parametrize(("took_s", "kept"), [(1.0, False), (1.000001, True), (5, True)])
def test_a_local_root_that_took_longer_than_the_limit_keeps_its_trace(took_s, kept):
    _, inner, _ = tail(keep_slower_than_s=1)
    with FakeClock() as clock, tracekit.span("root", parent=trace(LOW)), tracekit.span("child"):
        clock.tick(took_s)
    tracekit.flush(60)
    assert len(inner.names) == 2 * kept


def test_each_local_root_of_a_trace_is_decided_separately():
    sampler, inner, _ = tail()
    caller = trace(LOW)
    first, second = tracekit.span("first", parent=caller), tracekit.span("second", parent=caller)
    tracekit.span("in second", parent=second).end()
    tracekit.span("in first", parent=first).end()
    first.end()
    second.set_status("error")
    second.end()
    tracekit.flush(60)
    assert sorted(inner.names) == ["in second", "second"]
    assert sampler.account() == (0, 0, 2)


@pytest.mark.parametrize("kept", [True, False])
def test_spans_that_end_after_their_local_root_follow_its_decision(kept):
    sampler, inner, _ = tail()
    with tracekit.span("root", parent=trace(HIGH if kept else LOW)):
        with tracekit.span("child"):
            late = tracekit.span("late")
        later = tracekit.span("later", parent=late)
    tracekit.flush(60)
    later.end()
    tracekit.flush(60)
    assert sampler.account().queued == 1
    late.set_status("error")
    late.end()
    tracekit.flush(60)
    assert sampler.account() == (0, 0, 0 if kept else 4)
    assert sorted(inner.names) == (["child", "late", "later", "root"] if kept else [])
    assert {th(span) for batch in inner.batches for span in batch} == ({"th:8"} if kept else set())


# ---- bounds


def test_beyond_max_spans_the_oldest_group_is_decided_early():
    sampler, inner, _ = tail(max_spans=10)
    roots = [tracekit.span(f"root {bits:x}", parent=trace(bits)) for bits in (HIGH, LOW, HIGH)]
    for number in range(5):
        for at, root in enumerate(roots):
            tracekit.span(f"{at}.{number}", parent=root).end()
            tracekit.flush(60)
            assert sampler.account().queued <= 10
    assert inner.names == ["0.0", "0.1", "0.2", "0.3"]
    assert sampler.decided_early == 9
    for root in roots:
        root.end()
    tracekit.flush(60)
    assert sampler.account() == (0, 0, 6)
    assert sorted(inner.names) == sorted([f"{at}.{n}" for at in (0, 2) for n in range(5)] + [f"root {HIGH:x}"] * 2), (
        "by probability, every part of a trace is decided alike"
    )


def test_beyond_max_wait_a_trace_is_decided_at_the_next_call():
    for call in ("export", "flush"):
        sampler, inner, clock = tail(max_wait_s=10)
        root = tracekit.span("root", parent=trace(HIGH))
        tracekit.span("early", parent=root).end()
        tracekit.flush(60)
        clock.now_ns = 9_999_999_999
        tracekit.span("later", parent=root).end()
        tracekit.flush(60)
        assert sampler.account().queued == 2
        clock.now_ns += 1
        if call == "export":
            sampler.export([])
        else:
            assert sampler.flush(1.0)
        assert sorted(inner.names) == ["early", "later"]
        root.end()
        tracekit.flush(60)
        assert inner.names[2:] == ["root"]


def test_the_age_of_a_group_is_that_of_its_oldest_span():
    sampler, inner, clock = tail(max_wait_s=10)
    root = tracekit.span("root", parent=trace(HIGH))
    young, old = tracekit.span("young", parent=root), tracekit.span("old", parent=root)
    tracekit.span("in old", parent=old).end()
    tracekit.flush(60)
    clock.now_ns = 5_000_000_000
    young.end()  # waits for root, before the older ones do
    tracekit.flush(60)
    old.end()
    tracekit.flush(60)
    clock.now_ns = 10_000_000_000
    sampler.export([])
    assert sorted(inner.names) == ["in old", "old", "young"]
    root.end()


@pytest.mark.parametrize("why", ["error", "slow"])
def test_a_group_kept_early_for_an_error_or_as_slow_keeps_the_rest_of_its_trace(why):
    sampler, inner, clock = tail(max_wait_s=10, keep_slower_than_s=5 if why == "slow" else None)
    with tracekit.span("root", parent=trace(LOW)) as root:
        middle = tracekit.span("middle", parent=root)
        leaf = tracekit.span("leaf", parent=middle)
        if why == "error":
            leaf.set_status("error")
        leaf.end()
        tracekit.flush(60)
        clock.now_ns = 10_000_000_000
        sampler.export([])
        assert inner.names == ["leaf"]
        tracekit.span("leaf 2", parent=middle).end()
        middle.end()
        tracekit.span("leaf 3", parent=root).end()
    tracekit.flush(60)
    assert inner.names == ["leaf", "leaf 2", "middle", "leaf 3", "root"]
    assert {th(span) for batch in inner.batches for span in batch} == {""}
    assert sampler.account() == (0, 0, 0)


def test_the_number_of_remembered_decisions_is_bounded():
    sampler, inner, clock = tail(max_spans=8, max_wait_s=1)
    with tracekit.span("root", parent=trace(HIGH)):
        late = tracekit.span("late")
    for _ in range(100):
        tracekit.span("other", parent=trace(LOW)).end()
    tracekit.flush(60)
    assert len(sampler._decided) == 8
    late.end()
    tracekit.flush(60)
    assert inner.names == ["root"]
    clock.now_ns = 1_000_000_000
    sampler.export([])
    assert inner.names == ["root", "late"]
    assert sampler._groups == {}
    assert not sampler._oldest


def test_very_deep_and_very_wide_traces_are_kept_whole():
    sampler, inner, _ = tail()
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, buffer_size=20_000)
    root = above = tracekit.span("root", parent=trace(HIGH))
    chain = [root]
    for _ in range(3000):
        tracekit.span("beside", parent=above).end()
        above = tracekit.span("below", parent=above)
        chain.append(above)
    for span in reversed(chain):
        span.end()
    spans = memory.spans
    sampler.export(spans)
    assert sorted(span.context.span_id for batch in inner.batches for span in batch) == sorted(
        span.context.span_id for span in spans
    )
    assert max(map(len, inner.batches)) <= 2048


class SpanIds:
    """Span ids as a table has them."""

    def __init__(self, *span_ids):
        self.span_ids = list(span_ids)

    def span_id(self):
        return self.span_ids.pop(0)


@pytest.mark.parametrize("circle", [[7], [7, 8], [7, 8, 9]])
def test_ids_that_form_a_circle_are_decided_after_max_wait(circle):
    sampler, inner, clock = tail(max_wait_s=1)
    caller = trace(HIGH)
    set_ids(SpanIds(*circle))
    try:
        for above in [*circle[1:], circle[0]]:
            tracekit.span("round", parent=tracekit.SpanContext(caller.trace_id, f"{above:016x}", 1)).end()
    finally:
        set_ids(None)
    tracekit.flush(60)
    assert sampler.account() == (len(circle), 0, 0)
    clock.now_ns = 1_000_000_000
    sampler.export([])
    assert inner.names == ["round"] * len(circle)
    assert sampler._groups == {}
    assert not sampler._oldest


# ---- thresholds


@pytest.mark.parametrize(
    ("head", "after", "code"),
    [
        ("", "ot=th:8", "unset"),
        ("a=1", "ot=th:8,a=1", "unset"),
        ("ot=th:0", "ot=th:8", "unset"),
        ("a=1,ot=th:4;rv:ffffffffffffff", "ot=th:8;rv:ffffffffffffff,a=1", "unset"),
        ("a=1,ot=th:c;rv:ffffffffffffff", "a=1,ot=th:c;rv:ffffffffffffff", "unset"),
        ("a=1,ot=th:4;rv:ffffffffffffff", "a=1,ot=th:4;rv:ffffffffffffff", "error"),
        ("a=1,ot=th:4;rv:00000000000000", "a=1,ot=th:4;rv:00000000000000", "error"),
        ("", "", "error"),
    ],
)
def test_the_larger_threshold_is_written_where_probability_decided_and_none_elsewhere(head, after, code):
    _, inner, _ = tail()
    parent = trace(HIGH, head)
    with tracekit.span("root", parent=parent) as root, tracekit.span("child") as child:
        shared = child.context
        root.set_status(code)
    before = str(shared.state)
    tracekit.flush(60)
    assert [str(span.context.state) for span in inner.batches[0]] == [after, after]
    assert (str(parent.state), str(shared.state)) == (head, before), "propagated values do not change"
    assert child.context.id == shared.id
    assert span_tree(inner.batches[0]).startswith("root")


@settings(same, max_examples=15)
@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0, 0.3), st.integers(0, 2**32), st.booleans())
def test_the_adjusted_counts_of_kept_traces_add_up_to_the_number_of_traces(head, share, errors, seed, all_at_head):
    luck = random.Random(seed)
    inner = Inner()
    sampler = TailSampler(inner, probability=share, max_spans=50)
    tracekit.configure(exporter=sampler, sampler=AlwaysOn() if all_at_head else Ratio(head))
    rejected = 0 if all_at_head else Ratio(head).threshold
    probability = {"error": 1 - rejected / NEVER, "unset": 1 - max(rejected, Ratio(share).threshold) / NEVER}
    estimates = {"unset": Estimate(), "error": Estimate()}
    for _ in range(1500):
        code = "error" if luck.random() < errors else "unset"
        estimates[code].came(probability[code])
        caller = tracekit.SpanContext(f"{luck.getrandbits(127) + 1:032x}")
        with tracekit.span(code, parent=caller) as root:
            with tracekit.span("child"):
                pass
            root.set_status(code)
    assert tracekit.flush(60)
    for batch in inner.batches:
        for span in batch:
            if span.name != "child":
                count = tracekit.adjusted_count(span)
                assert count is not None or (all_at_head and span.name == "error")
                estimates[span.name].kept(1.0 if count is None else count)
    assert all(estimate.is_right for estimate in estimates.values())


# ---- any order, any batches


@st.composite
def programs(draw):
    """Local traces as (randomness, parents, errors): the parent of each span is an earlier one, the first is the root."""
    traces = draw(
        st.lists(
            st.tuples(
                st.sampled_from([LOW, HIGH]),
                st.lists(st.integers(0, 7), max_size=7),
                st.sets(st.integers(0, 7), max_size=2),
            ),
            min_size=1,
            max_size=6,
        )
    )
    total = sum(1 + len(parents) for _, parents, _ in traces)
    return traces, draw(st.permutations(range(total))), draw(st.lists(st.integers(1, 9), max_size=12))


def spans_of(traces):
    """Return finished spans, each with the number of its local trace."""
    memory = MemoryExporter()
    tracekit.configure(exporter=memory)
    caller = {bits: trace(bits) for bits in (LOW, HIGH)}  # several local roots in one trace
    made = []
    for number, (bits, parents, errors) in enumerate(traces):
        spans = [tracekit.span("root", parent=caller[bits])]
        for at, parent in enumerate(parents):
            spans.append(tracekit.span(f"span {at}", parent=spans[min(parent, at)]))
        for at, span in enumerate(spans):
            if at in errors:
                span.set_status("error")
            span.end()
        made += [(span, number) for span in spans]
    tracekit.flush(60)
    return made


def batches_of(spans, sizes):
    sizes = iter(sizes)
    while spans:
        size = next(sizes, len(spans))
        yield spans[:size]
        spans = spans[size:]


@settings(same, max_examples=250)
@given(programs())
def test_a_local_trace_is_passed_on_whole_or_not_at_all_in_any_order_and_batches(program):
    traces, order, sizes = program
    made = spans_of(traces)
    inner = Inner()
    sampler = TailSampler(inner, probability=0.5)
    came = 0
    for batch in batches_of([made[at][0] for at in order], sizes):
        sampler.export(batch)
        came += len(batch)
        account = sampler.account()
        assert came == len(inner.names) + account.queued + account.unsampled
    assert sampler.account().queued == 0
    assert sampler.decided_early == 0
    passed_on = [span for batch in inner.batches for span in batch]
    assert len(set(map(id, passed_on))) == len(passed_on)
    kept = {id(span) for span in passed_on}
    for number, (bits, _, _) in enumerate(traces):
        own = [span for span, of in made if of == number]
        outcomes = {id(span) in kept for span in own}
        assert len(outcomes) == 1
        # An error that was connected with the root when the root arrived keeps the whole trace.
        position = {id(made[at][0]): place for place, at in enumerate(order)}
        root = own[0]
        by_id = {span.context.span_id: span for span in own}

        def in_time(span, by_id=by_id, root=root, position=position):
            while position[id(span)] <= position[id(root)]:
                if span is root:
                    return True
                span = by_id[span.parent.span_id]
            return False

        has_error = any(span.status.code == "error" and in_time(span) for span in own)
        assert outcomes == {has_error or bits == HIGH}
        assert {th(span) for span in own if id(span) in kept} <= {"" if has_error else "th:8"}


@settings(same, max_examples=150)
@given(programs(), st.integers(1, 12), st.floats(0, 1))
def test_beyond_the_limits_every_span_is_passed_on_once_or_discarded(program, max_spans, share):
    traces, order, sizes = program
    made = spans_of(traces)
    inner, clock = Inner(), Clock()
    sampler = TailSampler(inner, probability=share, max_spans=max_spans, max_wait_s=3, clock=clock)
    for batch in batches_of([made[at][0] for at in order], sizes):
        sampler.export(batch)
        clock.now_ns += 1_000_000_000
        waiting = list(sampler._oldest)
        assert sampler.account().queued == sum(len(group.spans) for group in waiting) <= max_spans
        assert len(sampler._groups) == sampler._held + len(waiting)
        assert [group.since_ns for group in waiting] == sorted(group.since_ns for group in waiting)
        assert len(sampler._decided) <= max_spans
    sampler.shutdown()
    account = sampler.account()
    assert (account.queued, account.failed) == (0, 0)
    passed_on = [id(span) for batch in inner.batches for span in batch]
    assert len(set(passed_on)) == len(passed_on) == len(made) - account.unsampled
    # Without errors the limits change nothing: an early decision is the same.
    if not any(errors for _, _, errors in traces):
        by_randomness = sum(1 + len(parents) for bits, parents, _ in traces if bits >= sampler._threshold)
        assert len(passed_on) == by_randomness


# ---- the inner exporter


def test_spans_that_the_inner_exporter_rejects_are_counted_and_reported_once(caplog):
    sampler, inner, _ = tail()
    open_root = tracekit.span("open", parent=trace(HIGH))
    tracekit.span("held", parent=open_root).end()
    inner.error = OSError("disk full\nreally")
    before = tracekit.statistics()
    with caplog.at_level(logging.ERROR, "tracekit"):
        for _ in range(3):
            with tracekit.span("lost", parent=trace(HIGH)), tracekit.span("lost"):
                pass
            tracekit.flush(60)
    assert tracekit.statistics().failed == before.failed + 6
    assert sampler.account() == (1, 6, 0)
    (record,) = caplog.records
    assert record.getMessage().startswith("Inner failed, 2 spans lost: OSError: 'disk full\\nreally'")
    inner.error = None
    open_root.end()
    tracekit.flush(60)
    assert inner.names == ["held", "open"]
    assert sampler.account() == (0, 6, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=repr)
def test_an_exit_raised_by_the_inner_exporter_loses_no_other_span(error):
    sampler, inner, _ = tail()
    inner.error = error
    tracekit.span("lost", parent=trace(HIGH)).end()
    tracekit.flush(60)
    assert sampler.account() == (0, 1, 0)


def test_an_error_without_text_is_reported_by_its_type(caplog):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    sampler, inner, _ = tail()
    inner.error = Mute()
    tracekit.span("lost", parent=trace(HIGH)).end()
    tracekit.flush(60)
    assert sampler.account() == (0, 1, 0)
    assert "Mute" in caplog.text


def test_the_inner_exporters_account_is_part_of_the_account():
    class Slow(Inner):
        def account(self):
            return Account(queued=3, failed=2, unsampled=1)

    sampler = TailSampler(Slow(), probability=0.5)
    tracekit.configure(exporter=sampler)
    tracekit.span("not kept", parent=trace(LOW)).end()
    root = tracekit.span("root", parent=trace(LOW))
    tracekit.span("held", parent=root).end()
    tracekit.flush(60)
    assert sampler.account() == (4, 2, 2)
    root.end()


def test_flush_is_passed_on_to_an_exporter_that_can():
    class Flushing(Inner):
        def flush(self, timeout_s):
            self.flushed.append(timeout_s)
            return timeout_s > 1

    sampler = TailSampler(Flushing())
    assert sampler.flush(2.0)
    assert not sampler.flush(0.5)
    assert sampler.exporter.flushed == [2.0, 0.5]
    assert TailSampler(Inner()).flush(0.0)


def test_shutdown_decides_all_held_spans_first():
    sampler, inner, _ = tail()
    roots = [tracekit.span("root", parent=trace(bits)) for bits in (HIGH, LOW)]
    for root in roots:
        tracekit.span("child", parent=root).end()
    tracekit.shutdown(60)
    assert inner.names == ["child"]
    assert inner.is_shut_down
    assert sampler.account() == (0, 0, 1)
    for root in roots:
        root.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_forgets_the_spans_of_its_parent():
    sampler, inner, _ = tail()
    root = tracekit.span("root", parent=trace(HIGH))
    tracekit.span("held", parent=root).end()
    tracekit.span("not kept", parent=trace(LOW)).end()
    tracekit.flush(60)
    pid = os.fork()
    if pid == 0:
        try:
            fresh = sampler.account() == (0, 0, 0)
            tracekit.span("own", parent=trace(HIGH)).end()
            tracekit.shutdown(60)
            os._exit(0 if fresh and inner.names == ["own"] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert sampler.account() == (1, 0, 1)
    root.end()
    tracekit.flush(60)
    assert inner.names == ["held", "root"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"exporter": 1}, TypeError, r"exporter must have export\(\) and shutdown\(\), not int"),
        ({"exporter": Inner}, TypeError, "exporter must be an instance, not the class Inner"),
        ({"probability": 1.5}, ValueError, "probability must be 0 to 1: 1.5"),
        ({"probability": "1"}, TypeError, "probability must be a number, not str"),
        ({"keep_errors": 1}, TypeError, "keep_errors must be bool, not int"),
        ({"keep_slower_than_s": "1"}, TypeError, "keep_slower_than_s must be a number, not str"),
        ({"keep_slower_than_s": -1}, ValueError, "keep_slower_than_s must be 0 to 1000000000: -1"),
        ({"max_spans": 0}, ValueError, "max_spans must be at least 1: 0"),
        ({"max_spans": True}, TypeError, "max_spans must be int, not bool"),
        ({"max_wait_s": None}, TypeError, "max_wait_s must be a number, not NoneType"),
        ({"max_wait_s": float("nan")}, ValueError, "max_wait_s must be 0 to 1000000000: nan"),
    ],
)
def test_invalid_options_are_reported(options, error, message):
    with pytest.raises(error, match=message):
        TailSampler(**{"exporter": Inner()} | options)


# ---- in the pipeline, before a collector


def test_before_a_collector_statistics_add_up(caplog):
    with Collector() as collector:
        inner = OTLPExporter(collector.url, environ={})
        tracekit.configure(exporter=TailSampler(inner, probability=0.0), environ={}, export_interval_s=3600)
        balance = Balance()
        for number in range(20):
            with tracekit.span(f"root {number}") as root, tracekit.span(f"child {number}") as child:
                if number % 4 == 0:
                    child.set_status("error")
        left = tracekit.span("still open")
        with tracekit.use_span(left):
            tracekit.span("waits").end()
        assert tracekit.flush(20)
        assert (balance.exported, balance.unsampled, balance.queued) == (10, 30, 1)
        assert {span.name.split()[1] for span in collector.spans} == {"0", "4", "8", "12", "16"}
        left.set_status("error")
        left.end()
        assert tracekit.shutdown(20)
        assert (balance.exported, balance.unsampled, balance.queued) == (12, 30, 0)
        assert len(collector.spans) == 12
        del root
    assert not caplog.records


def test_without_a_collector_the_kept_spans_are_counted_and_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 1000.0)  # longer than the time limit: there is one try
    inner = OTLPExporter("http://127.0.0.1:1", environ={})
    tracekit.configure(exporter=TailSampler(inner, probability=1.0), environ={}, export_interval_s=3600)
    balance = Balance()
    for _ in range(3):
        tracekit.span("job").end()
        tracekit.flush(20)
    assert (balance.exported, balance.failed) == (0, 3)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "OTLPExporter failed, 1 span lost: DeliveryError: http://127.0.0.1:1/v1/traces"
    )


def test_a_spool_behind_it_starts_and_is_hurried(tmp_path):
    with Collector() as collector:
        for url in ("http://127.0.0.1:1", collector.url):
            inner = OTLPExporter(url, environ={}, spool=tmp_path / "spool.db")
            tracekit.configure(exporter=TailSampler(inner, probability=1.0), environ={})
            if url != collector.url:
                tracekit.span("left").end()
                tracekit.shutdown(20)
        assert tracekit.flush(20)
        assert [span.name for span in collector.spans] == ["left"]


class Bad:
    """Not a span: every attribute access fails."""


def test_a_span_that_cannot_be_inspected_does_not_lose_its_batch(caplog):
    memory = MemoryExporter()
    tracekit.configure(exporter=memory)
    with tracekit.span("root"), tracekit.span("child"):
        pass
    spans = memory.spans
    inner = MemoryExporter()
    sampler = TailSampler(inner, probability=1)
    sampler.export([Bad(), spans[0], Bad(), spans[1], Bad()])
    assert [span.name for span in inner._spans] == ["child", "root"]
    assert sampler.account() == Account(0, 3, 0)
    assert "1 span lost: AttributeError" in caplog.text


@pytest.mark.parametrize(
    "account", [lambda: 1 / 0, lambda: (1, 2, 3, 4), lambda: Account(failed=-1), lambda: Account("1")]
)
def test_an_invalid_inner_account_is_ignored(account, caplog):
    inner = MemoryExporter()
    sampler = TailSampler(inner, probability=0)
    tracekit.configure(exporter=sampler)
    balance = Balance()
    inner.account = account
    tracekit.span("job").end()
    assert tracekit.flush(60)
    assert (balance.unsampled, balance.exported) == (1, 0)
    assert "account() of MemoryExporter is ignored" in caplog.text


def test_an_inner_exporter_that_empties_its_list_does_not_change_the_count():
    class Empties(MemoryExporter):
        def export(self, spans):
            spans.clear()
            raise ValueError("down")

    tracekit.configure(exporter=TailSampler(Empties(), probability=1))
    balance = Balance()
    tracekit.span("job").end()
    assert tracekit.flush(60)
    assert (balance.failed, balance.exported, balance.queued) == (1, 0, 0)
