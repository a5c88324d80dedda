"""Samplers: consistent ratios, rates and custom samplers; a decision holds for the whole trace."""

from __future__ import annotations

import random
from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from bench.rate import SETTLED_S, SHAPES, Traffic, follow
from tracekit import AlwaysOff, AlwaysOn, Rate, Ratio
from tracekit._sampling import NEVER, threshold, threshold_text
from tracekit.testing import MemoryExporter

from .tools.estimates import Estimate

same = settings(deadline=None, derandomize=True, database=None)


class TraceIds:
    """Given trace ids, and counting span ids."""

    def __init__(self, *trace_ids):
        self.trace_ids, self.count = list(trace_ids), 0

    def trace_id(self):
        return self.trace_ids.pop(0)

    def span_id(self):
        self.count += 1
        return self.count


@pytest.fixture
def ids():
    from tracekit._core.context import set_ids

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
def test_a_trace_is_kept_if_its_low_56_bits_are_not_below_the_threshold(high, low56, kept, ids):
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
    from tracekit._core.context import set_ids

    decisions = []
    for probability in (low, high):
        configured(Ratio(probability))
        set_ids(TraceIds(trace_id))
        decisions.append(root().sampled)
        set_ids(None)
    assert decisions in ([False, False], [False, True], [True, True])


def test_the_threshold_is_propagated():
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
def test_the_callers_decision_is_followed(parent, sampler):
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
def test_a_deferred_decision_is_made_here(low56, kept):
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


def test_a_deferred_parents_tracestate_follows_the_threshold():
    configured(Ratio(1.0))
    deferred = tracekit.SpanContext(
        "f" * 32, "b" * 16, state=tracekit.TraceState.parse("vendor=1"), is_remote=True, deferred=True
    )
    with tracekit.span("server", parent=deferred) as span:
        assert str(span.context.state) == "ot=th:0,vendor=1"


def test_a_decision_without_ids_is_followed():
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


# ---- randomness and threshold of a tracestate that came in


def state_of(text):
    return tracekit.TraceState.parse(text)


def deferred(state, trace_id="f" * 32):
    return tracekit.SpanContext(trace_id, "b" * 16, state=state_of(state), is_remote=True, deferred=True)


def only_trace_id(state, trace_id="f" * 32):
    return tracekit.SpanContext(trace_id, state=state_of(state))


class Threshold:
    """A custom sampler that is equivalent to ``Ratio``."""

    def __init__(self, probability):
        self.ratio = Ratio(probability)

    def sample(self, randomness, name, kind, attributes):
        return self.ratio.sample(randomness, name, kind, attributes)


@pytest.mark.parametrize("make", [deferred, only_trace_id])
@pytest.mark.parametrize("sampler", [Ratio(0.5), Threshold(0.5)], ids=lambda sampler: type(sampler).__name__)
@pytest.mark.parametrize(
    ("state", "low56", "kept", "after"),
    [
        # rv, if present, instead of the trace id
        ("ot=rv:6e6d1a75832a2f", 2**56 - 1, False, "ot=rv:6e6d1a75832a2f"),
        ("ot=rv:7fffffffffffff", 2**56 - 1, False, "ot=rv:7fffffffffffff"),
        ("ot=rv:80000000000000", 0, True, "ot=th:8;rv:80000000000000"),
        ("a=1,ot=rv:ffffffffffffff;x:Y.z_-,b=2", 0, True, "ot=th:8;rv:ffffffffffffff;x:Y.z_-,a=1,b=2"),
        # an earlier threshold is removed by any decision
        ("ot=th:c;rv:ffffffffffffff", 0, True, "ot=th:8;rv:ffffffffffffff"),
        ("ot=rv:00000000000000;th:0,a=1", 2**56 - 1, False, "ot=rv:00000000000000,a=1"),
        ("a=1,ot=th:0", 0, False, "a=1"),
        ("ot=th:0", 0, False, ""),
        ("a=1,ot=th:0,b=2", 2**56 - 1, True, "ot=th:8,a=1,b=2"),
        # an invalid rv is ignored
        ("ot=rv:6e6d1a75832a2", 2**56 - 1, True, "ot=th:8;rv:6e6d1a75832a2"),
        ("ot=rv:00000000000000a", 2**56 - 1, True, "ot=th:8;rv:00000000000000a"),
        ("ot=rv:0000000000000A", 2**56 - 1, True, "ot=th:8;rv:0000000000000A"),
        ("ot=rv:", 0, False, "ot=rv:"),
        ("at=rv:ffffffffffffff", 0, False, "at=rv:ffffffffffffff"),
        ("o@ot=rv:ffffffffffffff", 0, False, "o@ot=rv:ffffffffffffff"),
        # a malformed member is ignored, and replaced by a threshold
        ("ot=rv:ffffffffffffff;rv:ffffffffffffff", 0, False, "ot=rv:ffffffffffffff;rv:ffffffffffffff"),
        ("ot=rv:ffffffffffffff;", 0, False, "ot=rv:ffffffffffffff;"),
        ("ot=rv:ffffffffffffff;1x:1", 0, False, "ot=rv:ffffffffffffff;1x:1"),
        ("ot=rv:ffffffffffffff;x:a b", 0, False, "ot=rv:ffffffffffffff;x:a b"),
        ("ot=th,a=1", 2**56 - 1, True, "ot=th:8,a=1"),
        ("ot=th:0;rv:00000000000000;x", 2**56 - 1, True, "ot=th:8"),
    ],
)
def test_a_decision_is_made_by_rv_and_written_into_the_tracestate(make, sampler, state, low56, kept, after):
    configured(sampler)
    with tracekit.span("server", parent=make(state, f"{1 << 127 | low56:032x}")) as span:
        assert (span.context.sampled, str(span.context.state)) == (kept, after)
        with tracekit.span("inner") as inner:
            assert (inner.context.sampled, str(inner.context.state)) == (kept, after)


def test_a_sampler_without_an_entry_removes_an_earlier_threshold():
    for sampler in (AlwaysOn(), Asked((True, ""))):
        configured(sampler)
        with tracekit.span("server", parent=deferred("ot=th:8;rv:ffffffffffffff,a=1")) as span:
            assert str(span.context.state) == "ot=rv:ffffffffffffff,a=1"


def test_a_samplers_other_members_come_first_too():
    configured(Asked((True, "vendor=x,ot=th:4")))
    with tracekit.span("server", parent=deferred("a=1,vendor=y,ot=rv:ffffffffffffff")) as span:
        assert str(span.context.state) == "ot=th:4;rv:ffffffffffffff,vendor=x,a=1"


def test_a_threshold_that_does_not_fit_is_left_out():
    configured(Ratio(0.5))
    full = "ot=rv:ffffffffffffff;x:" + "y" * 236
    with tracekit.span("server", parent=deferred(full)) as span:
        assert str(span.context.state) == full
    with tracekit.span("server", parent=deferred(full[:-5])) as span:
        assert len(span.context.state["ot"]) == 256
        assert tracekit.adjusted_count(span) == 2.0


def test_a_thirty_third_member_pushes_out_the_last():
    configured(Ratio(0.5))
    others = [f"v{number}=1" for number in range(32)]
    with tracekit.span("server", parent=deferred(",".join(others))) as span:
        assert str(span.context.state) == ",".join(["ot=th:8", *others[:31]])


def test_without_an_exporter_no_decision_is_made_and_the_tracestate_is_kept():
    tracekit.configure(sampler=Ratio(0.5))
    for make in (deferred, only_trace_id):
        with tracekit.span("relay", parent=make("a=1,ot=th:8;rv:00000000000000")) as span:
            assert str(span.context.state) == "a=1,ot=th:8;rv:00000000000000"
            assert span.context.deferred


@pytest.mark.parametrize("sampler", [AlwaysOn(), AlwaysOff(), Ratio(0.5)], ids=repr)
@pytest.mark.parametrize("flags", [0, 1])
def test_the_tracestate_of_a_decided_trace_is_not_changed(sampler, flags):
    configured(sampler)
    text = "a=1 ,ot=rv:00000000000000;th:8"
    parent = tracekit.SpanContext("f" * 32, "b" * 16, flags, state=state_of(text), is_remote=True)
    with tracekit.span("server", parent=parent) as span:
        assert str(span.context.state) == text


@pytest.mark.parametrize("flags", [0, 2])
@pytest.mark.parametrize(("low56", "kept"), [(0, False), (2**56 - 1, True)])
def test_a_trace_id_is_taken_to_be_random_whatever_its_flag_says(flags, low56, kept):
    configured(Ratio(0.5))
    parent = tracekit.SpanContext(f"{1 << 127 | low56:032x}", "b" * 16, flags, is_remote=True, deferred=True)
    with tracekit.span("server", parent=parent) as span:
        assert span.context.sampled is kept
        assert span.context.flags == flags | kept


# ---- adjusted counts


@pytest.mark.parametrize(
    ("flags", "state", "count"),
    [
        (1, "ot=th:0", 1.0),
        (1, "ot=th:8", 2.0),
        (1, "a=1,ot=th:c;rv:ffffffffffffff", 4.0),
        (1, "ot=th:c;rv:c0000000000000", 4.0),
        (1, "ot=th:ffffffffffffff", 2.0**56),
        (1, "ot=th:08", 256 / 248),
        (1, "ot=th:000000000001", 1.0),
        (1, "", None),
        (1, "a=1", None),
        (1, "ot=rv:ffffffffffffff", None),
        (1, "ot=th:", None),
        (1, "ot=th:C", None),
        (1, "ot=th:800000000000000", None),
        (1, "ot=th:8;th:8", None),
        (1, "ot=th:c;rv:bfffffffffffff", None),
        (0, "ot=th:8", 0.0),
        (0, "", 0.0),
    ],
)
def test_an_adjusted_count_follows_from_threshold_and_decision(flags, state, count):
    context = tracekit.SpanContext("f" * 32, "b" * 16, flags, state=state_of(state))
    found = tracekit.adjusted_count(context)
    assert found == (count if count is None else pytest.approx(count, rel=1e-12))


def test_the_adjusted_count_of_a_deferred_context_is_unknown_and_that_of_other_types_an_error():
    assert tracekit.adjusted_count(deferred("ot=th:8")) is None
    with pytest.raises(TypeError, match="context must be a SpanContext or a Span, not str"):
        tracekit.adjusted_count("ot=th:8")
    configured(Ratio(1.0))
    with tracekit.span("root") as span:
        assert tracekit.adjusted_count(span) == 1.0


@settings(same, max_examples=12)
@given(st.lists(st.floats(0.02, 1), min_size=1, max_size=4), st.integers(0, 2**32), st.booleans())
def test_adjusted_counts_add_up_in_every_service_of_a_chain(probabilities, seed, says_rv):
    """Each service has another ratio and additional requests, and passes some requests on to the next."""
    luck = random.Random(seed)
    memory = configured(AlwaysOn())
    estimates = [Estimate() for _ in probabilities]
    arriving = []
    for at, probability in enumerate(probabilities):
        sampler = Ratio(probability)
        tracekit.configure(service=str(at), exporter=memory, sampler=sampler)
        for _ in range(400):
            state = state_of(f"ot=rv:{luck.getrandbits(56):014x}" if says_rv else "")
            parent = tracekit.SpanContext(f"{luck.getrandbits(127) + 1:032x}", state=state)
            arriving.append((parent, 1 - sampler.threshold / NEVER))
        leaving = []
        for parent, exact in arriving:
            with tracekit.span("request", parent=parent):
                estimates[at].came(exact)
                if luck.random() < 0.7:
                    leaving.append((tracekit.extract(tracekit.inject({})), exact))
        arriving = leaving
    for span in memory.spans:
        estimates[int(span.resource["service.name"])].kept(tracekit.adjusted_count(span))
    assert all(estimate.is_right for estimate in estimates)


# ---- custom samplers


class Asked:
    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def sample(self, randomness, name, kind, attributes):
        self.asked.append((randomness, name, kind, dict(attributes)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Entry(StrEnum):
    VENDOR = "vendor=x"


def test_a_sampler_is_asked_once_for_each_new_trace():
    sampler = Asked((True, "vendor=x"))
    configured(sampler)
    with tracekit.span("root", kind="server", attributes={"a": 1}) as span, tracekit.span("child"):
        pass
    with tracekit.span("remote", parent=REMOTE_KEPT):
        pass
    assert sampler.asked == [(int(span.context.trace_id[-14:], 16), "root", "server", {"a": 1})]
    assert str(span.context.state) == "vendor=x"
    with tracekit.span("root"):
        pass
    assert sampler.asked[1][1:] == ("root", "internal", {})


@pytest.mark.parametrize(
    ("answer", "kept", "state"),
    [
        ((True, ""), True, ""),
        ((1, "vendor=x"), True, "vendor=x"),
        ((True, Entry.VENDOR), True, "vendor=x"),
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
def test_invalid_answers_and_errors_of_a_sampler_do_not_reach_the_program(answer, kept, state):
    memory = configured(Asked(answer))
    context = root()
    assert (context.sampled, str(context.state)) == (kept, state)
    assert len(memory.spans) == kept


@pytest.mark.parametrize("answer", [ValueError("broken"), None])
def test_a_sampler_that_fails_is_logged_once(answer, caplog):
    kind = type(f"Answers{type(answer).__name__}", (Asked,), {})  # reported by its name
    configured(kind(answer))
    for _ in range(2):
        assert not root().sampled
    assert [record.getMessage() for record in caplog.records] == [
        f"the sampler {kind.__name__} failed: its trace is not recorded; further failures are not logged"
    ]


def test_a_sampler_that_asks_another_is_reported_by_its_own_name(caplog):
    sampler = type("AsksAnother", (Asked,), {})(ValueError("broken"))
    sampler.sampler = Ratio(1.0)
    configured(sampler)
    assert not root().sampled
    assert caplog.records[0].getMessage().startswith("the sampler AsksAnother failed")


def test_samplers_of_this_module_can_be_called_directly():
    for sampler in (AlwaysOn(), AlwaysOff(), Ratio(0), Ratio(0.5), Ratio(1.0)):
        for randomness in (0, (1 << 55) - 1, 1 << 55, 2**56 - 1):
            configured(sampler)
            with tracekit.span("root", parent=tracekit.SpanContext(f"{1 << 127 | randomness:032x}")) as span:
                expected = span.context.sampled, str(span.context.state)
            assert sampler.sample(randomness, "root", "internal", {}) == expected


def test_a_subclass_that_overrides_sample_is_asked():
    class NoHealth(Ratio):
        def sample(self, randomness, name, kind, attributes):
            return (False, "") if name == "health" else super().sample(randomness, name, kind, attributes)

    memory = configured(NoHealth(1.0))
    for name in ("health", "work"):
        tracekit.span(name).end()
    assert [span.name for span in memory.spans] == ["work"]


def test_a_sampler_is_given_plain_text():
    class Name(str):
        __hash__ = None

        def __eq__(self, other):
            raise RuntimeError("hostile")

    sampler = Asked((True, ""))
    configured(sampler)
    tracekit.span(Name("root")).end()
    assert type(sampler.asked[0][1]) is str


def test_without_an_exporter_no_sampler_is_asked():
    sampler = Asked((True, ""))
    tracekit.configure(sampler=sampler)
    assert not root().sampled
    assert sampler.asked == []


# ---- rate


def courses():
    for shape in SHAPES:
        for arrival in ["even", "random"] if max(map(shape.load, range(shape.end_s))) <= 10_000 else ["random"]:
            yield pytest.param(shape, arrival == "random", id=f"{shape.name}, {arrival}, target {shape.target}")


@pytest.mark.parametrize(("shape", "at_random"), list(courses()))
def test_a_rate_stays_within_a_tenth_of_its_target_at_any_load(shape, at_random):
    course = follow(shape, at_random=at_random)
    assert abs(course.deviation) <= 0.1
    assert course.should * 0.9 <= sum(course.kept) <= shape.target * len(course.kept) * 1.1


@pytest.mark.parametrize("at_random", [False, True], ids=["even", "random"])
@pytest.mark.parametrize(("load", "per_second"), [(1, 10), (5, 10), (50, 100), (90, 100), (900, 1000)])
def test_all_traces_are_kept_if_there_are_fewer_than_the_target(load, per_second, at_random):
    came, kept = Traffic(per_second, at_random=at_random).run(load, 30)
    assert kept[SETTLED_S:] == came[SETTLED_S:]


@pytest.mark.parametrize("per_second", [0.1, 1, 50, 1000])
def test_any_rate_is_kept(per_second):
    seconds, load = (1000, 20) if per_second < 1 else (60, 2000)
    kept = sum(Traffic(per_second, at_random=True).run(load, seconds)[1])
    # At the start, two traces or a fifth of a second's worth may be kept at once.
    assert kept == pytest.approx(per_second * seconds, rel=0.05, abs=8)


def test_a_burst_is_limited_at_once_and_compensated():
    traffic = Traffic(10)
    traffic.run(2, 30)
    kept = traffic.run(100_000, 3)[1]
    assert kept[0] <= 20, "twice the target in the second of the burst"
    assert sum(kept) <= 40


def test_regular_bursts_once_a_second_are_kept_at_the_rate():
    traffic = Traffic(10)
    kept = 0
    for second in range(60):
        for _ in range(200):
            kept += traffic.sampler.sample(traffic.random.getrandbits(56), "name", "internal", {})[0]
        traffic.now_ns = second * 1_000_000_000
    assert kept == pytest.approx(600, rel=0.1)


def test_after_a_pause_all_traces_are_kept_again():
    traffic = Traffic(10)
    traffic.run(10_000, 3)
    traffic.now_ns += 3600 * 1_000_000_000
    came, kept = traffic.run(5, 30)
    assert kept == came


@pytest.mark.parametrize("load", [50, 3000, lambda at_s: 20 if at_s % 10 < 9 else 5000], ids=["50", "3000", "bursts"])
@pytest.mark.parametrize("seed", range(4))
def test_the_sum_of_adjusted_counts_under_a_rate_is_the_number_of_traces(load, seed):
    traffic = Traffic(20, at_random=True, seed=seed)
    came, _ = traffic.run(load, 30)
    estimate = variance = 0.0
    for state, count in traffic.states.items():
        context = tracekit.SpanContext("f" * 32, "b" * 16, 1, state=tracekit.TraceState.parse(state))
        stands_for = tracekit.adjusted_count(context)
        estimate += count * stands_for
        variance += count * stands_for * (stands_for - 1)
    assert abs(estimate - sum(came)) <= 4 * variance**0.5 + 1


@pytest.mark.parametrize("clock", [lambda: 0, iter(range(10**9, 0, -(10**6))).__next__], ids=["stands", "goes back"])
def test_an_erratic_clock_is_no_error(clock):
    sampler = Rate(10, clock=clock)
    kept = sum(sampler.sample(number * 2**49 % 2**56, "name", "internal", {})[0] for number in range(500))
    assert 2 <= kept <= 500


def test_a_rate_writes_its_current_threshold():
    traffic = Traffic(10)
    traffic.run(1000, 10)
    states = {traffic.sampler.sample(2**56 - 1, "name", "internal", {})}
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
        (float("inf"), ValueError),
        (10**400, ValueError),
    ],
)
def test_an_invalid_rate_is_an_error(wrong, error):
    with pytest.raises(error, match="per_second must be"):
        Rate(wrong)


def test_a_rate_samples_real_spans():
    memory = configured(Rate(1000))
    for _ in range(100):
        root()
    assert 1 <= len(memory.spans) <= 100


def test_samplers_have_a_readable_repr():
    assert [repr(sampler) for sampler in (AlwaysOn(), AlwaysOff(), Ratio(0.5), Rate(10))] == [
        "AlwaysOn()",
        "AlwaysOff()",
        "Ratio(0.5)",
        "Rate(10)",
    ]


class Fixed(Rate):
    """A rate with a constant threshold."""

    def __init__(self, threshold):
        super().__init__(10)
        self._in_force = threshold, f"ot=th:{threshold_text(threshold)}"

    def _adapt(self, since_ns, elapsed_ns):
        pass


QUARTER, HALF = 3 * NEVER // 4, NEVER // 2


@pytest.mark.parametrize(
    ("rate", "randomness", "before", "after"),
    [
        (HALF, HALF, 0, HALF),
        (HALF, HALF - 1, 0, -1),
        (HALF, NEVER - 1, -1, HALF),  # unknown
        (HALF, NEVER - 1, NEVER, HALF),  # out of range
        (HALF, HALF, QUARTER, HALF),  # contradicts the decision
        (0, QUARTER, QUARTER, QUARTER),
        (HALF, QUARTER, QUARTER, -1),
        (HALF, QUARTER + NEVER // 8 - 1, QUARTER, -1),
        (HALF, QUARTER + NEVER // 8, QUARTER, QUARTER + NEVER // 8),
        (NEVER - 1, NEVER - 1, 0, NEVER - 1),
    ],
)
def test_a_rate_thins_sampled_traces(rate, randomness, before, after):
    assert Fixed(rate).thin(randomness, before) == after


@given(
    st.integers(0, NEVER - 1),
    st.integers(0, NEVER - 1),
    st.integers(-1, NEVER),
)
@same
def test_a_thinned_trace_never_contradicts_its_threshold(rate, randomness, before):
    after = Fixed(rate).thin(randomness, before)
    assert after == -1 or (before if before <= randomness else 0) <= after <= randomness


def test_thinned_traces_count_towards_the_rate():
    now = [0]
    rate = Rate(10, clock=lambda: now[0])
    rng = random.Random(5)
    kept = 0
    for number in range(20_000):
        now[0] += 1_000_000
        is_kept = rate.thin(rng.randrange(HALF, NEVER), HALF) >= 0
        kept += is_kept and number >= 10_000
    assert 90 <= kept <= 110
