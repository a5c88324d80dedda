"""Which new traces are kept: consistent ratios, a rate, the program's own sampler; and that a decision stays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import AlwaysOff, AlwaysOn, Rate, Ratio
from tracekit._sampling import NEVER, threshold, threshold_text
from tracekit.testing import MemoryExporter

same = settings(deadline=None, derandomize=True, database=None)


class TraceIds:
    """Trace ids as a table has them; span ids count."""

    def __init__(self, *trace_ids):
        self.trace_ids, self.count = list(trace_ids), 0

    def trace_id(self):
        return self.trace_ids.pop(0)

    def span_id(self):
        self.count += 1
        return self.count


@pytest.fixture
def ids():
    from tracekit._accel import set_ids

    yield lambda *trace_ids: set_ids(TraceIds(*trace_ids))
    set_ids(None)


def configured(sampler):
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, sampler=sampler)
    return memory


def root():
    with tracekit.span("root", parent=tracekit.ROOT) as span:
        pass
    return span.context


# ---- thresholds


@pytest.mark.parametrize(
    ("one_in", "text"),
    [
        (1, "0"),
        (2, "8"),
        (3, "aaab"),
        (4, "c"),
        (5, "cccd"),
        (8, "e"),
        (10, "e666"),
        (16, "f"),
        (100, "fd70a"),
        (1000, "ffbe77"),
        (10_000, "fff9724"),
        (1_000_000, "ffffef39"),
    ],
)
def test_the_threshold_of_one_in_n_is_spelled_as_opentelemetry_spells_it(one_in, text):
    ratio = Ratio(1 / one_in)
    assert threshold_text(ratio.threshold) == text
    assert ratio.state == f"ot=th:{text}"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1, "00000000000001"), (1 << 52, "1"), (1 << 51, "08"), (0x8 << 52, "8"), (0x0F << 48, "0f")],
)
def test_leading_zeros_of_a_threshold_stay(number, text):
    assert threshold_text(number) == text


@same
@given(st.floats(0, 1))
def test_a_threshold_is_within_its_precision_of_the_probability(probability):
    number = threshold(probability)
    assert 0 <= number <= NEVER
    assert number < NEVER or probability < 2**-53
    kept = (NEVER - number) / NEVER
    assert kept == pytest.approx(probability, rel=2**-11, abs=2**-55)
    if number < NEVER:
        assert len(threshold_text(number)) <= 14


@same
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_probability_never_has_the_larger_threshold(one, other):
    low, high = sorted((one, other))
    assert threshold(low) >= threshold(high)


@pytest.mark.parametrize("wrong", ["0.5", None, True, [1], 1j])
def test_a_ratio_of_the_wrong_type_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="probability must be a number"):
        Ratio(wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf"), 2])
def test_a_ratio_out_of_range_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="probability must be 0 to 1"):
        Ratio(wrong)


# ---- ratio


@pytest.mark.parametrize(
    ("low56", "kept"),
    [(0, False), (0x7FFFFFFFFFFFFF, False), (0x80000000000000, True), (0xFFFFFFFFFFFFFF, True)],
)
@pytest.mark.parametrize("high", [1 << 127, ((1 << 72) - 1) << 56])
def test_a_trace_is_kept_where_its_low_56_bits_are_not_below_the_threshold(high, low56, kept, ids):
    memory = configured(Ratio(0.5))
    ids(high | low56)
    context = root()
    assert context.sampled is kept
    assert str(context.state) == ("ot=th:8" if kept else "")
    assert len(memory.spans) == kept


@pytest.mark.parametrize(
    ("sampler", "kept", "state"),
    [
        (None, True, ""),
        (AlwaysOn(), True, ""),
        (AlwaysOff(), False, ""),
        (Ratio(1), True, "ot=th:0"),
        (Ratio(1.0), True, "ot=th:0"),
        (Ratio(0), False, ""),
        (Ratio(1e-300), False, ""),
    ],
)
def test_all_and_nothing(sampler, kept, state):
    memory = configured(sampler)
    for _ in range(20):
        context = root()
        assert (context.sampled, str(context.state)) == (kept, state)
    assert len(memory.spans) == 20 * kept


def test_a_ratio_keeps_its_share():
    configured(Ratio(0.25))
    kept = sum(root().sampled for _ in range(4000))
    assert 850 < kept < 1150, "five standard deviations either way"


@same
@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 2**128 - 1))
def test_services_with_different_ratios_agree_as_far_as_they_can(one, other, trace_id):
    low, high = sorted((one, other))
    from tracekit._accel import set_ids

    decisions = []
    for probability in (low, high):
        configured(Ratio(probability))
        set_ids(TraceIds(trace_id))
        decisions.append(root().sampled)
        set_ids(None)
    assert decisions in ([False, False], [False, True], [True, True])


def test_the_threshold_travels_with_the_trace():
    configured(Ratio(1 / 16))
    while not (context := root()).sampled:
        pass
    assert tracekit.inject({}, context)["tracestate"] == "ot=th:f"
    with tracekit.span("child", parent=context) as child:
        assert str(child.context.state) == "ot=th:f"


# ---- a decision stays


REMOTE_KEPT = tracekit.SpanContext("0" * 31 + "1", "b" * 16, 1, is_remote=True)
REMOTE_NOT = tracekit.SpanContext("f" * 32, "b" * 16, 0, is_remote=True)


@pytest.mark.parametrize("sampler", [AlwaysOn(), AlwaysOff(), Ratio(0.5), Rate(10)], ids=repr)
@pytest.mark.parametrize("parent", [REMOTE_KEPT, REMOTE_NOT], ids=["kept", "not kept"])
def test_what_the_caller_decided_is_kept_to(parent, sampler):
    memory = configured(sampler)
    with tracekit.span("server", parent=parent) as span, tracekit.span("inner") as inner:
        assert span.context.sampled is inner.context.sampled is parent.sampled
        assert span.parent == parent
    assert len(memory.spans) == 2 * parent.sampled


def test_the_decision_of_the_root_holds_for_the_whole_trace_over_configure():
    memory = configured(AlwaysOff())
    with tracekit.span("root"):
        configured(AlwaysOn())
        with tracekit.span("child") as child:
            assert not child.context.sampled
        assert memory.spans == []


@pytest.mark.parametrize(
    ("low56", "kept"), [(0x7FFFFFFFFFFFFF, False), (0x80000000000000, True)], ids=["below", "not below"]
)
def test_a_deferred_parent_leaves_the_decision_to_us(low56, kept):
    memory = configured(Ratio(0.5))
    deferred = tracekit.SpanContext(f"{(1 << 127) | low56:032x}", "b" * 16, is_remote=True, deferred=True)
    with tracekit.span("server", parent=deferred) as span:
        assert span.parent == deferred
        assert span.context.trace_id == deferred.trace_id
        assert (span.context.sampled, span.context.deferred) == (kept, False)
        assert str(span.context.state) == ("ot=th:8" if kept else "")
        with tracekit.span("inner") as inner:
            assert (inner.context.sampled, inner.context.deferred) == (kept, False)
    assert len(memory.spans) == 2 * kept


def test_a_deferred_parents_own_tracestate_stays_behind_the_threshold():
    configured(Ratio(1.0))
    deferred = tracekit.SpanContext(
        "f" * 32, "b" * 16, state=tracekit.TraceState.parse("vendor=1"), is_remote=True, deferred=True
    )
    with tracekit.span("server", parent=deferred) as span:
        assert str(span.context.state) == "ot=th:0,vendor=1"


def test_a_context_without_ids_that_was_decided_keeps_its_decision():
    configured(AlwaysOn())
    not_kept = tracekit.SpanContext(flags=0, deferred=False)
    with tracekit.span("root", parent=not_kept) as span:
        assert span.parent is None
        assert not span.context.sampled
    configured(AlwaysOff())
    kept = tracekit.SpanContext(flags=1, deferred=False)
    with tracekit.span("root", parent=kept) as span:
        assert span.context.sampled


def test_a_context_with_a_trace_id_only_is_a_root_in_that_trace():
    configured(Ratio(0.5))
    only_trace = tracekit.SpanContext("f" * 32)
    with tracekit.span("root", parent=only_trace) as span:
        assert span.parent is None
        assert span.context.trace_id == "f" * 32
        assert span.context.sampled


# ---- the program's own sampler


class Asked:
    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def sample(self, trace_id, name, kind, attributes):
        self.asked.append((trace_id, name, kind, dict(attributes)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_a_sampler_is_asked_once_for_each_new_trace():
    sampler = Asked((True, "vendor=x"))
    configured(sampler)
    with tracekit.span("root", kind="server", attributes={"a": 1}) as span, tracekit.span("child"):
        pass
    with tracekit.span("remote", parent=REMOTE_KEPT):
        pass
    assert sampler.asked == [(span.context.trace_id, "root", "server", {"a": 1})]
    assert str(span.context.state) == "vendor=x"
    with tracekit.span("root"):
        pass
    assert sampler.asked[1][1:] == ("root", "internal", {})


@pytest.mark.parametrize(
    ("answer", "kept", "state"),
    [
        ((True, ""), True, ""),
        ((1, "vendor=x"), True, "vendor=x"),
        ((False, "vendor=x"), False, ""),
        ((True, "Not A Tracestate"), True, ""),
        ((True, "a=b\r\nc"), True, ""),
        ((True, None), True, ""),
        (ValueError("broken"), False, ""),
        (True, False, ""),
        (None, False, ""),
        ((True,), False, ""),
        ((True, 5), False, ""),
    ],
    ids=repr,
)
def test_whatever_a_sampler_answers_or_raises_the_program_goes_on(answer, kept, state):
    memory = configured(Asked(answer))
    context = root()
    assert (context.sampled, str(context.state)) == (kept, state)
    assert len(memory.spans) == kept


def test_a_sampler_is_given_plain_text():
    class Name(str):
        __hash__ = None

        def __eq__(self, other):
            raise RuntimeError("hostile")

    sampler = Asked((True, ""))
    configured(sampler)
    tracekit.span(Name("root")).end()
    assert type(sampler.asked[0][1]) is str


def test_without_an_exporter_nobody_is_asked():
    sampler = Asked((True, ""))
    tracekit.configure(sampler=sampler)
    assert not root().sampled
    assert sampler.asked == []


# ---- rate


class Traffic:
    """New traces at a given load on a clock of its own."""

    def __init__(self, per_second):
        self.now_ns = 0
        self.random = random.Random(1)
        self.sampler = Rate(per_second, clock=lambda: self.now_ns)

    def run(self, load, seconds):
        """Let *load* traces a second come for *seconds*; return how many were kept in each second."""
        kept = []
        step = round(1e9 / load)
        end = self.now_ns + seconds * 1_000_000_000
        second, count = self.now_ns // 1_000_000_000, 0
        while self.now_ns < end:
            if self.now_ns // 1_000_000_000 != second:
                kept.append(count)
                second, count = self.now_ns // 1_000_000_000, 0
            is_kept, _ = self.sampler.sample(f"{self.random.getrandbits(128):032x}", "name", "internal", {})
            count += is_kept
            self.now_ns += step
        kept.append(count)
        return kept


@pytest.mark.parametrize(
    ("load", "seconds"), [(1, 300), (5, 100), (10, 100), (20, 100), (100, 60), (1000, 30), (10_000, 15), (100_000, 5)]
)
def test_a_rate_of_ten_keeps_ten_a_second_at_any_load(load, seconds):
    kept = Traffic(10).run(load, seconds)
    average = sum(kept) / len(kept)
    # 25 %: three standard deviations of what chance allows over these seconds.
    assert average == pytest.approx(min(load, 10), rel=0.25)


@pytest.mark.parametrize("per_second", [0.1, 1, 50, 1000])
def test_a_rate_is_kept_whatever_it_is(per_second):
    seconds = 300 if per_second < 1 else 20
    load = 200 if per_second < 1 else 5000
    kept = Traffic(per_second).run(load, seconds)
    # The first second may have what a burst is allowed, before the load is known.
    expected = per_second * seconds
    assert sum(kept) == pytest.approx(expected, rel=0.25, abs=3 * expected**0.5 + 2)


def test_a_burst_is_braked_at_once():
    traffic = Traffic(10)
    traffic.run(2, 30)
    kept = traffic.run(100_000, 3)
    assert kept[0] <= 40, "four times the target in the second of the burst"
    assert kept[-1] <= 20


def test_after_a_burst_the_rate_comes_back():
    traffic = Traffic(10)
    traffic.run(50_000, 3)
    kept = traffic.run(20, 60)
    assert sum(kept[-30:]) / 30 == pytest.approx(10, rel=0.25)


def test_after_silence_everything_is_kept_again():
    traffic = Traffic(10)
    traffic.run(10_000, 3)
    traffic.now_ns += 3600 * 1_000_000_000
    kept = traffic.run(5, 30)
    assert sum(kept[-20:]) == 100


@pytest.mark.parametrize("clock", [lambda: 0, iter(range(10**9, 0, -(10**6))).__next__], ids=["stands", "goes back"])
def test_a_clock_that_misbehaves_breaks_nothing(clock):
    sampler = Rate(10, clock=clock)
    kept = sum(sampler.sample(f"{number * 2**121 % 2**128:032x}", "name", "internal", {})[0] for number in range(500))
    assert 0 <= kept <= 500


def test_a_rate_says_the_threshold_it_used():
    traffic = Traffic(10)
    traffic.run(1000, 10)
    states = {traffic.sampler.sample("f" * 32, "name", "internal", {})}
    ((kept, state),) = states
    assert kept
    assert state.startswith("ot=th:f")
    assert tracekit.TraceState.parse(state)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("10", TypeError),
        (None, TypeError),
        (True, TypeError),
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
    ],
)
def test_a_wrong_rate_is_named(wrong, error):
    with pytest.raises(error, match="per_second must be"):
        Rate(wrong)


def test_a_rate_samples_real_spans():
    memory = configured(Rate(1000))
    for _ in range(100):
        root()
    assert 1 <= len(memory.spans) <= 100


def test_samplers_tell_what_they_do():
    assert [repr(sampler) for sampler in (AlwaysOn(), AlwaysOff(), Ratio(0.5), Rate(10))] == [
        "AlwaysOn()",
        "AlwaysOff()",
        "Ratio(0.5)",
        "Rate(10)",
    ]
