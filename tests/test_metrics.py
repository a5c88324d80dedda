"""RED metrics: read by the parsers of Prometheus and OpenTelemetry, compared with OpenTelemetry's SDK."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import random
import signal
import threading

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

import tracekit
from tracekit import metrics
from tracekit._export import on_demand
from tracekit._metrics.histograms import MAX_BUCKETS, Exemplar, Exponential
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters.flight import FlightRecorder
from tracekit.exporters.tail import TailSampler
from tracekit.metrics import OTLPMetrics, RedMetrics, prometheus
from tracekit.testing import FakeClock, MemoryExporter

from .exporters.collector import Collector, Handler, Server, parse_json

# As the semantic conventions advise.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
HTTP = {"http.request.method": "GET", "http.route": "/users/{id}", "http.response.status_code": 200}


def measured(*spans, sampler=None, resource=None, **options):
    """Return the metrics of these spans: each is its kind, its attributes, and its seconds."""
    red = RedMetrics(MemoryExporter(), **options)
    tracekit.configure(service="shop", exporter=red, sampler=sampler, resource=resource)
    with FakeClock() as clock:
        for kind, attributes, seconds in spans:
            with tracekit.span("work", kind=kind, attributes=attributes):
                clock.tick(seconds)
    tracekit.flush(60)
    return red


def samples(text, parse=parse_prometheus):
    """Return the samples of *text* by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample
        for family in parse(text)
        for sample in family.samples
    }


def value(red, name, **labels):
    return samples(red.prometheus())[name, tuple(sorted(labels.items()))].value


def names(red):
    return {family.name for family in parse_prometheus(red.prometheus())} - {"target_info"}


# ---- which metrics


@pytest.mark.parametrize(
    ("kind", "attributes", "name", "labels"),
    [
        (
            "server",
            {**HTTP, "url.path": "/users/7", "url.scheme": "https"},
            "http_server_request_duration_seconds",
            {
                "http_request_method": "GET",
                "http_route": "/users/{id}",
                "http_response_status_code": "200",
                "url_scheme": "https",
            },
        ),
        (
            "client",
            {"http.request.method": "PUT", "server.address": "db", "server.port": 80, "url.full": "http://db/7"},
            "http_client_request_duration_seconds",
            {"http_request_method": "PUT", "server_address": "db", "server_port": "80"},
        ),
        (
            "server",
            {"rpc.system.name": "grpc", "rpc.method": "shop.Cart/Add", "server.address": "x"},
            "rpc_server_call_duration_seconds",
            {"rpc_system_name": "grpc", "rpc_method": "shop.Cart/Add"},
        ),
        (
            "client",
            {"rpc.system": "grpc", "rpc.service": "shop.Cart", "rpc.method": "Add", "rpc.grpc.status_code": 0},
            "rpc_client_call_duration_seconds",
            {"rpc_system": "grpc", "rpc_service": "shop.Cart", "rpc_method": "Add", "rpc_grpc_status_code": "0"},
        ),
        (
            "client",
            {"db.system.name": "postgresql", "db.query.text": "SELECT 1", "db.query.summary": "SELECT"},
            "db_client_operation_duration_seconds",
            {"db_system_name": "postgresql", "db_query_summary": "SELECT"},
        ),
        (
            "producer",
            {"messaging.system": "kafka", "messaging.destination.name": "orders"},
            "messaging_client_operation_duration_seconds",
            {"messaging_system": "kafka", "messaging_destination_name": "orders"},
        ),
        (
            "consumer",
            {"messaging.system": "kafka"},
            "messaging_process_duration_seconds",
            {"messaging_system": "kafka"},
        ),
        (
            "server",
            {"a": 1},
            "traces_span_metrics_duration_seconds",
            {"span_name": "work", "span_kind": "server", "status_code": "unset"},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_span_is_measured_as_the_conventions_name_it(kind, attributes, name, labels):
    red = measured((kind, attributes, 0.3))
    assert names(red) == {name}
    assert value(red, f"{name}_count", **labels) == 1
    assert value(red, f"{name}_sum", **labels) == pytest.approx(0.3)
    assert value(red, f"{name}_bucket", **labels, le="0.1") == 0
    assert value(red, f"{name}_bucket", **labels, le="0.5") == 1


def test_internal_spans_are_measured_on_request():
    assert names(measured(("internal", {}, 1))) == set()
    assert names(measured(("internal", {}, 1), internal=True)) == {"traces_span_metrics_duration_seconds"}


def test_errors_are_series_with_their_type():
    red = RedMetrics()
    tracekit.configure(exporter=red)
    with pytest.raises(KeyError), tracekit.span("a", kind="consumer", attributes={"messaging.system": "x"}):
        raise KeyError
    with tracekit.span("b", kind="consumer", attributes={"messaging.system": "x"}) as span:
        span.set_status("error")
    with tracekit.span("c", kind="consumer", attributes={"messaging.system": "x", "error.type": "500"}) as span:
        pass
    with (
        pytest.raises(KeyError),
        tracekit.span("d", kind="consumer", attributes={"messaging.system": "x"}, expected=KeyError),
    ):
        raise KeyError
    tracekit.flush(60)
    found = {
        dict(labels).get("error_type")
        for name, labels in samples(red.prometheus())
        if name == "messaging_process_duration_seconds_count"
    }
    assert found == {"KeyError", "_OTHER", "500", None}


def test_spans_go_on_to_the_exporter_and_its_account_counts():
    red = measured(("server", HTTP, 1))
    assert [span.name for span in red.exporter.spans] == ["work"]
    inner = TailSampler(MemoryExporter(), probability=0.0)
    red = RedMetrics(inner)
    tracekit.configure(exporter=red)
    before = tracekit.statistics().unsampled
    for _ in range(5):
        tracekit.span("s", kind="server").end()
    tracekit.flush(60)
    assert tracekit.statistics().unsampled == before + 5
    (count,) = [sample.value for (name, _), sample in samples(red.prometheus()).items() if name.endswith("_count")]
    assert count == 5


def test_a_failure_of_the_exporter_is_counted_as_without_metrics(caplog):
    class Broken(MemoryExporter):
        def export(self, spans):
            raise RuntimeError

    red = RedMetrics(Broken())
    tracekit.configure(exporter=red)
    before = tracekit.statistics().failed
    tracekit.span("s", kind="server").end()
    tracekit.flush(60)
    assert tracekit.statistics().failed == before + 1
    assert len(names(red)) == 1


def test_a_failure_to_measure_costs_no_span(caplog, monkeypatch):
    red = RedMetrics(MemoryExporter())
    monkeypatch.setattr(red._table, "add", lambda span: 1 // 0)
    tracekit.configure(exporter=red)
    tracekit.span("s", kind="server").end()
    tracekit.span("s", kind="server").end()
    tracekit.flush(60)
    assert len(red.exporter.spans) == 2
    assert len(caplog.records) == 1


# ---- sampling


def test_counts_are_those_of_all_spans_under_sampling():
    red = measured(*[("server", HTTP, 0.01)] * 20_000, sampler=tracekit.Ratio(0.1))
    (count,) = [sample.value for (name, _), sample in samples(red.prometheus()).items() if name.endswith("_count")]
    kept = len(red.exporter.spans)
    assert count == pytest.approx(10 * kept, rel=1e-3)  # each stands for ten; thresholds have four digits
    assert abs(count - 20_000) < 5 * math.sqrt(20_000 * 9)  # five standard deviations


def test_fractional_weights_are_rounded_without_ever_falling():
    red = measured(sampler=tracekit.Ratio(0.3))
    last = 0
    for _ in range(50):
        tracekit.span("s", kind="server").end()
        tracekit.flush(60)
        found = [sample.value for (name, _), sample in samples(red.prometheus()).items() if name.endswith("_count")]
        assert sum(found) >= last
        last = sum(found)
    assert last == round(len(red.exporter.spans) / (1 - tracekit.Ratio(0.3).threshold / 2**56))


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize("buckets", ["explicit", "exponential"])
def test_spans_that_stand_for_more_than_64_bits_cost_no_series(protocol, buckets):
    """A caller may choose the largest threshold for each of its traces."""
    with Collector() as collector:
        push = OTLPMetrics(collector.url.removesuffix("/v1/traces"), protocol=protocol, environ={})
        red = measured(("client", HTTP, 0.3), push=push, buckets=buckets)
        rarest = tracekit.SpanContext("f" * 32, "1" * 16, 1, state=tracekit.TraceState.parse("ot=th:" + "f" * 14))
        for _ in range(300):
            tracekit.span("s", kind="server", parent=rarest, start_ns=0).end(end_ns=10**9)
        tracekit.shutdown(60)
    kind = "histogram" if buckets == "explicit" else "exponential_histogram"
    metrics = received(collector)[-1].resource_metrics[0].scope_metrics[0].metrics
    assert [getattr(metric, kind).data_points[0].count for metric in metrics] == [1, 1 << 56]
    assert push.failed == 0
    counts = [sample.value for (name, _), sample in samples(red.prometheus()).items() if name.endswith("_count")]
    assert counts == [1, 1 << 56]


# ---- bounds


def test_series_beyond_the_limit_are_counted_in_one():
    spans = [("server", {**HTTP, "http.route": f"/{number}"}, 0.1) for number in range(100)]
    red = measured(*spans, max_series=10)
    found = [
        (dict(labels), sample.value)
        for (name, labels), sample in samples(red.prometheus()).items()
        if name.endswith("_count")
    ]
    assert len(found) == 10
    assert ({"otel_metric_overflow": "true"}, 91) in found
    assert sum(count for _, count in found) == 100


def test_values_of_series_are_bounded():
    red = measured(("server", {**HTTP, "http.route": "x" * 4000}, 1))
    assert "x" * 256 in red.prometheus()
    assert "x" * 257 not in red.prometheus()


def test_text_in_labels_is_escaped():
    route = 'a"b\\c\nd\u20ac\ud800'
    red = measured(("server", {**HTTP, "http.route": route}, 1))
    for parse in (parse_prometheus, parse_openmetrics):
        text = red.prometheus(openmetrics=parse is parse_openmetrics)
        routes = {dict(labels).get("http_route") for _, labels in samples(text, parse)}
        assert 'a"b\\c\nd\u20ac\ufffd' in routes


def test_an_int_of_thousands_of_digits_is_text_in_labels():
    huge = 10**5000
    red = measured(("server", {**HTTP, "http.response.status_code": huge}, 1), resource={"build": huge, "ids": (huge,)})
    found = {key: text for _, labels in samples(red.prometheus()) for key, text in labels}
    assert all(hex(huge)[:100] in found[key] for key in ("http_response_status_code", "build", "ids"))


# ---- Prometheus


@pytest.mark.parametrize("buckets", ["explicit", "exponential"])
def test_series_whose_labels_are_equal_as_text_are_one(buckets):
    same = ("GET\ud800", "GET\ufffd")
    spans = [
        ("server", {"http.request.method": name, "http.response.status_code": code}, 0.3)
        for name, code in [(same[0], 200), (same[1], "200"), (same[1], 200)]
    ]
    red = measured(*spans, buckets=buckets)
    for parse in (parse_prometheus, parse_openmetrics):
        text = red.prometheus(openmetrics=parse is parse_openmetrics)
        lines = [line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
        assert len(lines) == len(set(lines))
        figures = {name: sample.value for (name, _), sample in samples(text, parse).items()}
        assert figures["http_server_request_duration_seconds_count"] == 3
        assert figures["http_server_request_duration_seconds_sum"] == pytest.approx(0.9)


def test_openmetrics_has_exemplars_and_the_resource():
    red = measured(("server", HTTP, 0.3), ("server", HTTP, 0.02))
    text = red.prometheus(openmetrics=True)
    found = samples(text, parse_openmetrics)
    (exemplar,) = [
        sample.exemplar for (name, labels), sample in found.items() if ("le", "0.5") in labels and "_bucket" in name
    ]
    span = red.exporter.spans[0]
    assert exemplar.labels == {"trace_id": span.context.trace_id, "span_id": span.context.span_id}
    assert exemplar.value == pytest.approx(0.3)
    (target,) = [labels for name, labels in found if name == "target_info"]
    assert ("service_name", "shop") in target
    assert text.endswith("# EOF\n")
    (family,) = [family for family in parse_openmetrics(text) if family.type == "histogram"]
    assert (family.name, family.unit) == ("http_server_request_duration_seconds", "seconds")


def test_the_function_returns_the_metrics_made_last(monkeypatch):
    monkeypatch.setattr(metrics, "_latest", None)
    assert prometheus() == ""
    assert list(parse_openmetrics(prometheus(openmetrics=True))) == []
    red = measured(("server", HTTP, 0.3))
    assert prometheus() == red.prometheus() != ""
    assert prometheus(openmetrics=True) == red.prometheus(openmetrics=True)


def test_boundaries_may_be_given():
    red = measured(("server", {"a": 1}, 0.3), buckets=[0.25, 1])
    bounds = [dict(labels)["le"] for name, labels in samples(red.prometheus()) if name.endswith("_bucket")]
    assert bounds == ["0.25", "1.0", "+Inf"]


@pytest.mark.parametrize(
    "options",
    [
        {"buckets": "linear"},
        {"buckets": []},
        {"buckets": [1, 1]},
        {"buckets": [0, 1]},
        {"buckets": [1, math.inf]},
        {"buckets": [math.nan]},
        {"buckets": [True]},
        {"buckets": range(1, 300)},
        {"max_series": 1},
        {"max_series": "5"},
    ],
    ids=str,
)
def test_wrong_options_are_errors(options):
    with pytest.raises((TypeError, ValueError), match="must"):
        RedMetrics(**options)


# ---- exponential histograms


def reference(values):
    """Return OpenTelemetry's data point for *values*."""
    reader = InMemoryMetricReader()
    view = View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], views=[view])
    histogram = provider.get_meter("m").create_histogram("h")
    for number in values:
        histogram.record(number)
    (point,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    provider.shutdown()
    return point


@pytest.mark.parametrize("seed", range(20))
def test_exponential_buckets_are_those_of_opentelemetry(seed):
    rng = random.Random(seed)
    spread = rng.choice([0.01, 1, 5, 20])
    values = [math.exp(rng.gauss(-3, spread)) for _ in range(rng.choice([1, 2, 50, 500]))]
    values += [0.0] * rng.randrange(3) + [2.0 ** rng.randrange(-10, 3) for _ in range(rng.randrange(5))]
    ours, theirs = Exponential(), reference(values)
    for number in values:
        ours.add(1.0, Exemplar("", "", number, 0))
    offset, counts = ours.counts()
    buckets = [(at, count) for at, count in enumerate(counts, offset) if count]
    expected = [(at, count) for at, count in enumerate(theirs.positive.bucket_counts, theirs.positive.offset) if count]
    assert (ours.scale, round(ours.zero)) == (theirs.scale, theirs.zero_count)
    assert sum(counts) == sum(count for _, count in expected)
    # A value within rounding of a boundary may fall on either side.
    moved = sum(abs(count - dict(expected).get(at, 0)) for at, count in buckets)
    assert moved <= 2
    assert len(counts) <= MAX_BUCKETS
    assert ours.sum == pytest.approx(theirs.sum)


@pytest.mark.parametrize("extreme", [5e-324, 1.7976931348623157e308])
def test_any_duration_fits_into_the_buckets(extreme):
    ours = Exponential()
    for number in (1.0, extreme, 1e-9, 1e9):
        ours.add(1.0, Exemplar("", "", number, 0))
    assert sum(ours.counts()[1]) == 4
    assert len(ours.counts()[1]) <= MAX_BUCKETS


def test_exponential_histograms_have_a_count_and_a_sum_for_prometheus():
    red = measured(("server", {"a": 1}, 0.3), ("server", {"a": 1}, 0), buckets="exponential")
    labels = {"span_name": "work", "span_kind": "server", "status_code": "unset"}
    assert value(red, "traces_span_metrics_duration_seconds_count", **labels) == 2
    assert value(red, "traces_span_metrics_duration_seconds_bucket", **labels, le="+Inf") == 2


# ---- OTLP


def parse(body):
    if not body.startswith(b"{"):
        return ExportMetricsServiceRequest.FromString(body)
    return parse_json(body, ExportMetricsServiceRequest)


def received(collector):
    return [parse(body) for body in collector.others.get("/v1/metrics", [])]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize("buckets", ["explicit", "exponential"])
def test_a_collector_receives_all_series(protocol, buckets):
    with Collector() as collector:
        push = OTLPMetrics(collector.url.removesuffix("/v1/traces"), protocol=protocol, environ={})
        red = measured(("server", HTTP, 0.3), ("server", HTTP, 0.02), ("client", HTTP, 0.0), push=push, buckets=buckets)
        tracekit.shutdown(60)
    last = received(collector)[-1]
    (resource,) = last.resource_metrics
    assert ("service.name", "shop") in [(one.key, one.value.string_value) for one in resource.resource.attributes]
    server, client = resource.scope_metrics[0].metrics
    assert (server.name, server.unit) == ("http.server.request.duration", "s")
    assert client.name == "http.client.request.duration"
    kind = "histogram" if buckets == "explicit" else "exponential_histogram"
    data = getattr(server, kind)
    assert data.aggregation_temporality == 2
    (point,) = data.data_points
    assert (point.count, point.sum) == (2, pytest.approx(0.32))
    assert {one.key: one.value.string_value or one.value.int_value for one in point.attributes} == HTTP
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    if buckets == "explicit":
        assert list(point.explicit_bounds) == list(BOUNDS)
        assert sum(point.bucket_counts) == 2
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
        assert (point.bucket_counts[2], point.bucket_counts[7]) == (1, 1)
    else:
        base = 2 ** (2**-point.scale)
        lower = [base ** (point.positive.offset + at) for at, n in enumerate(point.positive.bucket_counts) if n]
        assert lower[0] < 0.02 <= lower[0] * base
        assert lower[-1] < 0.3 <= lower[-1] * base
        assert client.exponential_histogram.data_points[0].zero_count == 1
    first = received(collector)[0].resource_metrics[0].scope_metrics[0].metrics[0]
    exemplars = getattr(first, kind).data_points[0].exemplars
    wanted = {(span.context.trace_id, span.context.span_id) for span in red.exporter.spans[:2]}
    assert {(one.trace_id.hex(), one.span_id.hex()) for one in exemplars} == wanted


def test_without_a_thread_a_flush_and_the_end_of_the_program_send_all_series(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(on_demand, "start_thread", refuse)
    with Collector() as collector:
        measured(("server", HTTP, 0.3), push=OTLPMetrics(collector.url.removesuffix("/v1/traces"), environ={}))
        tracekit.shutdown(60)
    assert len(received(collector)) == 2


def test_without_a_thread_ctrl_c_reaches_the_caller_of_a_flush(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(on_demand, "start_thread", refuse)
    red = RedMetrics(push=OTLPMetrics("http://127.0.0.1:1", environ={}))
    red.export(measured(("server", HTTP, 0.3)).exporter.spans)
    red._push._send = interrupt
    with pytest.raises(KeyboardInterrupt):
        red.flush(60)
    red._push._send = lambda *_: None
    assert red.flush(60)


@pytest.mark.slow
def test_series_are_sent_in_intervals_without_a_flush():
    arrived = threading.Event()
    with Collector() as collector:
        push = OTLPMetrics(collector.url.removesuffix("/v1/traces"), interval_s=0.01, environ={})
        send, times = push._send, itertools.count()

        def sent(*arguments):
            send(*arguments)
            if next(times) == 2:
                arrived.set()

        push._send = sent
        red = RedMetrics(push=push)
        tracekit.configure(exporter=red)
        tracekit.span("s", kind="server").end()
        tracekit.flush(60)
        assert arrived.wait(60)  # again, although no span has ended since
        tracekit.shutdown(60)
    counts = [
        request.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points[0].count
        for request in received(collector)
    ]
    assert set(counts) == {1}


@pytest.mark.slow
def test_metrics_that_are_configured_again_are_sent_as_before(monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 0.01)
    arrived, times = threading.Event(), itertools.count()

    class Busy(Handler):
        def do_POST(self):
            self.body()
            at = next(times)
            self.answer(503 if at == 0 else 200)
            if at == 3:
                arrived.set()

    with Server(Busy) as server:
        push = OTLPMetrics(server.url.removesuffix("/v1/traces"), interval_s=0.01, environ={})
        red = RedMetrics(push=push)
        for _ in range(2):
            tracekit.configure(exporter=red)
        tracekit.span("s", kind="server").end()
        tracekit.flush(60)
        assert arrived.wait(60)  # again, although no span has ended since
        tracekit.shutdown(60)
    assert push.failed == 0  # the first request was tried again


@pytest.mark.slow
def test_a_collector_that_is_away_costs_no_span(caplog):
    push = OTLPMetrics("http://127.0.0.1:9", timeout_s=0.2, environ={})
    red = measured(("server", HTTP, 0.3), push=push)
    assert len(red.exporter.spans) == 1
    tracekit.shutdown(60)
    assert push.failed >= 1
    assert "data points lost" in caplog.text


def test_the_interval_comes_from_the_environment():
    assert OTLPMetrics(environ={}).interval_s == 60
    assert OTLPMetrics(environ={"OTEL_METRIC_EXPORT_INTERVAL": "5000"}).interval_s == 5
    environ = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:2/m"}
    assert OTLPMetrics(environ=environ).endpoint == "http://localhost:2/m"
    assert OTLPMetrics(environ={}).endpoint == "http://localhost:4318/v1/metrics"


@pytest.mark.parametrize("interval_s", [0, -1, True, "5", 1e9])
def test_a_wrong_interval_is_an_error(interval_s):
    with pytest.raises((TypeError, ValueError), match="interval_s must be"):
        OTLPMetrics(interval_s=interval_s, environ={})


def test_an_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="there is no argument 'spool'"):
        OTLPMetrics(spool="x", environ={})


# ---- processes


def count_in_child(red, queue):
    before = red.prometheus()
    tracekit.span("child", kind="server").end()
    tracekit.flush(60)
    queue.put((before, red.prometheus()))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_fork_begins_anew():
    red = measured(("server", HTTP, 1))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=count_in_child, args=(red, queue))
    with red._lock:  # as if the exporting thread measured just then
        child.start()
    before, after = queue.get()
    child.join()
    assert before == ""
    assert "http_server" not in after
    assert 'span_name="child"' in after
    assert "http_server" in red.prometheus()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_flush_in_the_child_of_a_fork_does_not_wait_for_the_parents_thread():
    with Collector() as collector:
        push = OTLPMetrics(collector.url.removesuffix("/v1/traces") + "/v1/metrics", interval_s=3600, environ={})
        red = measured(("server", HTTP, 1), push=push)
        assert red._background is not None
        assert red._background.is_served()
        child = os.fork()
        if not child:
            os._exit(0 if red.flush(0.0) else 1)  # there is nothing to wait for
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        red.shutdown()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="needs SIGUSR2")
def test_a_signal_handler_may_read_the_metrics_while_they_are_read(monkeypatch):
    red = measured(("server", HTTP, 0.1))
    text_of, inside = metrics.text_of, []

    def interrupted(table, openmetrics):
        if not inside:
            signal.raise_signal(signal.SIGUSR2)
        return text_of(table, openmetrics)

    def handle(number, frame):
        assert red._lock.acquire(blocking=False)  # else the next line would wait for ever
        red._lock.release()
        inside.append(red)
        inside.append(red.prometheus())

    monkeypatch.setattr(metrics, "text_of", interrupted)
    before = signal.signal(signal.SIGUSR2, handle)
    try:
        text = red.prometheus()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert inside == [red, text]


@pytest.mark.parametrize("front", [RedMetrics, TailSampler, FlightRecorder])
def test_an_exporter_may_have_none_in_the_place_of_a_method(front):
    class Plain(MemoryExporter):
        start = hurry = flush = None

    exporter = front(Plain())
    exporter.start()
    exporter.hurry()
    assert exporter.flush(1.0) is True
    exporter.shutdown()
