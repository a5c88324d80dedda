"""The bound on forced sampling, tested through the middleware."""

from __future__ import annotations

import random

import pytest

import tracekit
from tracekit import AlwaysOff, AlwaysOn, Rate, Ratio, adjusted_count
from tracekit._sampling import NEVER
from tracekit.integrations import _forced, _server
from tracekit.integrations._forced import Forced
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.testing import MemoryExporter
from tracekit.wire import b3, datadog, jaeger, w3c, xray

from .peer import LABELS, UNSAMPLED, at_once, request_scope, run

HIGHEST = "f" * 32  # kept by every ratio


class Clock:
    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def ns(self):
        return int(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_server, "Forced", lambda per_second: Forced(per_second, clock=clock))
    monkeypatch.setattr(_forced, "_notices", _forced.Notices())
    return clock


class Service:
    """A service with *sampler*, the contexts that its app had, and the recorded spans."""

    def __init__(self, sampler, clock, formats=None, **options):
        self.exporter = MemoryExporter()
        tracekit.configure(exporter=self.exporter, sampler=sampler, formats=formats)
        self.clock = clock
        self.contexts = []
        self.app = TraceMiddleware(self.serve, **options)

    async def serve(self, scope, receive, send):
        self.contexts.append(tracekit.current_context())

    def request(self, *headers, **changes):
        run(self.app(request_scope(*headers, **changes), at_once, at_once))
        return self.contexts[-1]

    def flood(self, count, seconds, headers):
        """Send *count* requests spread over *seconds*, and return how many were recorded."""
        before = len(self.exporter.spans)
        for _ in range(count):
            self.clock.now_s += seconds / count
            self.request(*headers())
        return len(self.exporter.spans) - before


def traceparent(trace_id, flags="01"):
    return (b"traceparent", f"00-{trace_id}-00f067aa0ba902b7-{flags}".encode())


def from_strangers(seed=1):
    rng = random.Random(seed)
    return lambda: [traceparent(f"{rng.getrandbits(128):032x}")]


def from_an_attacker():
    return [traceparent(HIGHEST)]


@pytest.mark.parametrize("headers", [from_strangers(), from_an_attacker], ids=["strangers", "attacker"])
@pytest.mark.parametrize(
    ("sampler", "allowed"),
    [
        (AlwaysOff(), 0),
        (Ratio(0.001), 0.001),
    ],
    ids=str,
)
def test_forced_traces_are_bounded(clock, sampler, allowed, headers):
    service = Service(sampler, clock, forced_per_s=20)
    recorded = service.flood(4_000, 10, headers)
    assert 190 <= recorded <= 20 * 11 + allowed * 4_000 + 10


def test_the_default_is_a_hundred_a_second(clock):
    recorded = Service(AlwaysOff(), clock).flood(5_000, 10, from_strangers())
    assert 990 <= recorded <= 1_100


@pytest.mark.parametrize(
    ("sampler", "forced_per_s", "kept"),
    [(AlwaysOn(), 0, 1_000), (AlwaysOff(), float("inf"), 1_000), (AlwaysOff(), 0, 0), (AlwaysOff(), 0.5, 5)],
)
def test_the_bound_can_be_anything_from_zero_to_infinity_and_does_not_concern_always_on(
    clock, sampler, forced_per_s, kept
):
    service = Service(sampler, clock, forced_per_s=forced_per_s)
    assert abs(service.flood(1_000, 10, from_strangers()) - kept) <= 1


def test_all_decisions_of_an_upstream_service_with_the_same_ratio_are_followed(clock):
    rng = random.Random(7)
    ratio = Ratio(0.1)
    service = Service(ratio, clock, forced_per_s=1)

    def headers():
        trace_id = rng.getrandbits(128)
        sampled = trace_id % NEVER >= ratio.threshold
        return [traceparent(f"{trace_id:032x}", "01" if sampled else "00")]

    recorded = service.flood(5_000, 1, headers)
    assert recorded == sum(context.sampled for context in service.contexts)
    assert 450 <= recorded <= 550  # many more than one a second


def test_the_ratios_own_traces_are_preferred(clock):
    service = Service(Ratio(0.01), clock, forced_per_s=0)
    service.flood(10_000, 10, from_strangers())
    kept = service.exporter.spans
    assert 65 <= len(kept) <= 135
    threshold = Ratio(0.01).threshold
    assert all(int(span.context.trace_id, 16) % NEVER >= threshold for span in kept)


def test_an_unused_share_is_not_saved_up(clock):
    service = Service(Ratio(0.01), clock, forced_per_s=0)
    service.flood(10_000, 100, lambda: [UNSAMPLED])
    assert service.flood(50, 0, from_an_attacker) == 10


@pytest.mark.parametrize("headers", [{"b3": "d"}, {"b3": "1"}])
def test_the_sampler_decides_about_a_forced_trace_without_ids_that_is_not_followed(clock, headers):
    service = Service(Ratio(0.5), clock, formats=[b3.SINGLE], forced_per_s=0)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert 400 <= service.flood(1_000, 0, lambda: pairs) <= 600


@pytest.mark.parametrize("sampler", [Ratio(0.001), Rate], ids=str)
@pytest.mark.parametrize("trace_id", [HIGHEST, None])
def test_deferred_decisions_with_chosen_ids_are_bounded_too(clock, sampler, trace_id):
    sampler = Rate(50, clock=clock.ns) if sampler is Rate else sampler
    service = Service(sampler, clock, formats=[b3.SINGLE], forced_per_s=100)
    rng = random.Random(13)

    def headers():
        chosen = trace_id or f"{rng.getrandbits(128):032x}"
        return [(b"b3", f"{chosen}-00f067aa0ba902b7".encode())]

    service.flood(2_000, 5, headers)
    recorded = service.flood(4_000, 10, headers)
    most = 50 * 10 * 1.3 if isinstance(sampler, Rate) else 0.001 * 4_000 + 10
    assert 1 <= recorded <= most
    assert all(not context.deferred for context in service.contexts)


def test_deferred_decisions_get_the_whole_share(clock):
    service = Service(Ratio(0.1), clock, formats=[b3.SINGLE], forced_per_s=0)
    rng = random.Random(17)
    recorded = service.flood(5_000, 5, lambda: [(b"b3", b"%032x-00f067aa0ba902b7" % rng.getrandbits(128))])
    assert 425 <= recorded <= 575
    assert {str(context.state) for context in service.contexts if context.sampled} == {"ot=th:e666"}


@pytest.mark.parametrize("headers", [from_strangers(), from_an_attacker], ids=["strangers", "attacker"])
def test_a_rate_bounds_forced_traces_too(clock, headers):
    service = Service(Rate(50, clock=clock.ns), clock)
    service.flood(2_000, 5, headers)
    recorded = service.flood(4_000, 10, headers)
    assert (450 if headers is not from_an_attacker else 1) <= recorded <= 50 * 10 * 1.3


def test_a_rate_bounds_new_and_forced_traces_together(clock):
    service = Service(Rate(50, clock=clock.ns), clock)
    strangers = from_strangers()
    rng = random.Random(3)

    def headers():
        return strangers() if rng.random() < 0.5 else []

    service.flood(2_000, 5, headers)
    assert 450 <= service.flood(4_000, 10, headers) <= 550


def test_adjusted_counts_stay_right_under_a_rate(clock):
    rng = random.Random(11)
    upstream = Ratio(0.25)
    service = Service(Rate(50, clock=clock.ns), clock)
    total = 0

    def headers():
        nonlocal total
        while True:
            total += 1
            trace_id = rng.getrandbits(128)
            if trace_id % NEVER >= upstream.threshold:
                return [traceparent(f"{trace_id:032x}"), (b"tracestate", b"a=1,ot=th:c")]

    service.flood(2_000, 5, headers)
    service.exporter.clear()
    total = 0
    service.flood(8_000, 20, headers)
    spans = service.exporter.spans
    assert all(span.context.state["a"] == "1" for span in spans)
    assert abs(sum(map(adjusted_count, spans)) / total - 1) < 0.15
    assert all(adjusted_count(span) > 4 for span in spans)


def test_a_rate_that_keeps_all_traces_does_not_change_the_tracestate(clock):
    service = Service(Rate(1_000, clock=clock.ns), clock)
    for state in ("a=1", "ot=th:c;rv:ffffffffffffff"):
        service.clock.now_s += 1
        context = service.request(traceparent(HIGHEST), (b"tracestate", state.encode()))
        assert context.sampled
        assert str(context.state) == state


def test_a_trace_beyond_the_bound_is_unsampled_and_keeps_its_ids_labels_and_state(clock, caplog):
    service = Service(Ratio(0.01), clock, forced_per_s=0)
    for _ in range(3):
        context = service.request(
            traceparent("0" * 31 + "1"), LABELS, (b"tracestate", b"a=1,ot=th:0;rv:00000000000001;x:1")
        )
        assert (context.trace_id, context.sampled, context.deferred) == ("0" * 31 + "1", False, False)
        assert dict(context.labels) == {"tenant": "acme"}
        assert str(context.state) == "ot=rv:00000000000001;x:1,a=1"
    assert service.exporter.spans == []
    assert caplog.messages == [
        "callers ask for more traces to be recorded than the sampler and forced_per_s=0 allow: the others are not "
        "recorded (logged once)"
    ]
    assert tracekit.inject({}, context)["traceparent"].endswith("-00")


@pytest.mark.parametrize(
    ("format", "headers"),
    [
        (w3c.TRACECONTEXT, {"traceparent": "00-" + "0" * 31 + "1-00f067aa0ba902b7-01"}),
        (b3.SINGLE, {"b3": "0" * 31 + "1-00f067aa0ba902b7-d"}),
        (b3.SINGLE, {"b3": "d"}),
        (b3.SINGLE, {"b3": "1"}),
        (b3.MULTI, {"x-b3-flags": "1"}),
        (b3.MULTI, {"x-b3-traceid": "0" * 31 + "1", "x-b3-spanid": "00f067aa0ba902b7", "x-b3-flags": "1"}),
        (jaeger.JAEGER, {"uber-trace-id": "1:00f067aa0ba902b7:0:3"}),
        (jaeger.JAEGER, {"uber-trace-id": "1:00f067aa0ba902b7:0:1"}),
        (jaeger.JAEGER, {"jaeger-debug-id": "me"}),
        (xray.XRAY, {"x-amzn-trace-id": "Root=1-00000000-000000000000000000000001;Parent=00f067aa0ba902b7;Sampled=1"}),
        (xray.XRAY, {"x-amzn-trace-id": "Root=1-00000000-000000000000000000000001;Sampled=1"}),
        (
            datadog.DATADOG,
            {"x-datadog-trace-id": "1", "x-datadog-parent-id": "2", "x-datadog-sampling-priority": "2"},
        ),
    ],
)
def test_no_format_can_force_more(clock, format, headers):
    service = Service(AlwaysOff(), clock, formats=[format], forced_per_s=2)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    for _ in range(10):
        context = service.request(*pairs)
    assert len(service.exporter.spans) == 2
    assert not context.sampled
    sent = tracekit.inject({}, context)
    assert format.read(sent).sampled is False
    assert not sent.get("b3", "").endswith("-d")


@pytest.mark.parametrize(
    ("trust", "headers", "kept"),
    [
        ("restart", [traceparent(HIGHEST)], 0),
        ("link", [traceparent(HIGHEST)], 0),
        ("ignore", [traceparent(HIGHEST)], 0),
        ("continue", [UNSAMPLED], 0),
        ("continue", [], 0),
        ("continue", [traceparent(HIGHEST)], 5),
    ],
)
def test_only_continued_traces_can_be_forced(clock, trust, headers, kept):
    service = Service(AlwaysOff(), clock, trust=trust, forced_per_s=5)
    assert service.flood(50, 0.1, lambda: headers) == kept


def test_a_custom_sampler_is_asked_and_the_bound_holds_beyond_it(clock):
    asked = []

    class Own:
        def sample(self, randomness, name, kind, attributes):
            asked.append((name, kind, attributes["url.path"]))
            return attributes["url.path"] == "/pay", ""

    service = Service(Own(), clock, forced_per_s=3)
    for path in (b"/pay", b"/items"):
        for _ in range(10):
            service.request(traceparent(HIGHEST), raw_path=path)
    assert [span.attributes["url.path"] for span in service.exporter.spans] == ["/pay"] * 10 + ["/items"] * 3
    assert set(asked) == {("GET", "server", "/pay"), ("GET", "server", "/items")}


def test_a_sampler_that_raises_keeps_nothing(clock):
    class Broken:
        def sample(self, randomness, name, kind, attributes):
            raise RuntimeError("broken")

    service = Service(Broken(), clock, forced_per_s=0)
    assert not service.request(traceparent(HIGHEST)).sampled


def test_a_clock_that_goes_back_adds_nothing(clock):
    service = Service(AlwaysOff(), clock, forced_per_s=10)
    for step in (0, -500, 0.05, -1):
        clock.now_s += step
        service.flood(20, 0, lambda: [traceparent(HIGHEST)])
    assert len(service.exporter.spans) == 10


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("5", TypeError, "forced_per_s must be a number, not str"),
        (None, TypeError, "forced_per_s must be a number, not NoneType"),
        (True, TypeError, "forced_per_s must be a number, not bool"),
        (-1, ValueError, "forced_per_s must be 0 or more: -1"),
        (float("nan"), ValueError, "forced_per_s must be 0 or more: nan"),
    ],
)
def test_an_invalid_bound_is_an_error(wrong, error, message):
    with pytest.raises(error) as caught:
        TraceMiddleware(print, forced_per_s=wrong)
    assert str(caught.value) == message
