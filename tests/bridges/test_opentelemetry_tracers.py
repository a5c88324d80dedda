"""What a provider is told about its tracers: names that are missing, a configurator, metrics of the SDK about itself."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from tracekit.bridges import opentelemetry as bridge


class Config:
    def __init__(self, is_enabled):
        self.is_enabled = is_enabled


def test_a_missing_name_is_logged_once(caplog):
    provider = bridge.TracerProvider()
    for name in ("", None, "", None):
        assert provider.get_tracer(name).start_span("work").is_recording()
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2, "one for each of the two values"


def test_a_tracer_that_the_configurator_turns_off_makes_the_invalid_span():
    provider = bridge.TracerProvider(_tracer_configurator=lambda scope: Config(scope.name != "noisy"))
    quiet, noisy = provider.get_tracer("quiet"), provider.get_tracer("noisy")
    assert quiet._is_enabled()
    assert not noisy._is_enabled()
    assert quiet.start_span("work").is_recording()
    assert noisy.start_span("work") is trace.INVALID_SPAN
    with noisy.start_as_current_span("work") as span:
        assert span is trace.INVALID_SPAN
    provider._set_tracer_configurator(tracer_configurator=lambda scope: Config(True))
    assert noisy.start_span("work").is_recording()


def test_a_configurator_that_raises_leaves_tracers_on(caplog):
    def failing(scope):
        raise ValueError("no rules")

    tracer = bridge.TracerProvider(_tracer_configurator=failing).get_tracer("shop")
    assert tracer._is_enabled()
    assert tracer._tracer_config.is_enabled
    assert tracer.start_span("work").is_recording()
    assert "no rules" in caplog.text


@pytest.mark.parametrize(
    ("sampler", "result", "live"), [(ALWAYS_ON, "RECORD_AND_SAMPLE", [1, 0]), (ALWAYS_OFF, "DROP", [None, None])]
)
def test_started_and_live_spans_are_counted_where_the_environment_asks(monkeypatch, sampler, result, live):
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    try:
        span = bridge.TracerProvider(sampler=sampler, meter_provider=meters).get_tracer("shop").start_span("work")
        counted = [_points(reader)]
        span.end()
        counted.append(_points(reader))
    finally:
        meters.shutdown()
    assert [found["otel.sdk.span.started"] for found in counted] == [(1, result), (1, result)]
    assert [found.get("otel.sdk.span.live", (None,))[0] for found in counted] == live


def test_nothing_is_counted_unless_the_environment_asks(monkeypatch):
    monkeypatch.delenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", raising=False)
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    try:
        bridge.TracerProvider(meter_provider=meters).get_tracer("shop").start_span("work").end()
        assert reader.get_metrics_data() is None
    finally:
        meters.shutdown()


def _points(reader):
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    points = {metric.name: metric.data.data_points[0] for metric in metrics if metric.name.startswith("otel.sdk.span.")}
    return {name: (point.value, point.attributes["otel.span.sampling_result"]) for name, point in points.items()}
