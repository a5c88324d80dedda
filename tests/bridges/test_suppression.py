"""Native integrations see the keys with which OpenTelemetry's instrumentations ask to be left alone."""

from __future__ import annotations

import pytest
from opentelemetry import context
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation

import tracekit
from tracekit.integrations._suppression import is_http_suppressed, is_suppressed


def test_nothing_is_suppressed_without_a_key(tracer):
    assert not is_suppressed()
    with tracer.start_as_current_span("a"):
        token = context.attach(context.set_value("other", True))
        assert not is_suppressed()
        assert not is_http_suppressed()
        context.detach(token)


def test_the_keys_of_the_instrumentations_are_seen_inside_spans(tracer):
    with suppress_instrumentation(), tracekit.span("inside"):
        assert is_suppressed()
        assert is_http_suppressed()
    with suppress_http_instrumentation(), tracer.start_as_current_span("inside"):
        assert is_http_suppressed()
        assert not is_suppressed()
    assert not is_http_suppressed()


@pytest.mark.parametrize(
    "key", ["suppress_instrumentation", context._SUPPRESS_INSTRUMENTATION_KEY], ids=["plain", "made at import"]
)
def test_the_key_of_either_age_counts(provider, key):
    token = context.attach(context.set_value(key, True))
    assert is_suppressed()
    context.detach(token)
    assert not is_suppressed()


def test_a_value_that_is_neither_true_nor_false_suppresses_nothing(provider):
    class Neither:
        def __bool__(self):
            raise ValueError

    token = context.attach(context.set_value("suppress_instrumentation", Neither()))
    assert not is_suppressed()
    context.detach(token)
