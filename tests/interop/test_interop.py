"""A trace and its labels through a service of OpenTelemetry Go, Java, JavaScript, Python and Rust, over real HTTP and gRPC."""

from __future__ import annotations

import pytest

from tracekit.wire import jaeger

from .conftest import MUST
from .services import FORMATS, LANGUAGES
from .trips import LABELS, STATES, arriving, check_ids, check_w3c, origin, send, sent_labels, urls_of

SERVICES = list(LANGUAGES) if MUST else ["python"]


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("language", SERVICES)
def test_a_trace_goes_through_a_language(start, ours, configured, language, name, is_sampled):
    urls, exporter = urls_of(language, start(language), name), configured(name)
    labels, context = sent_labels(name, language), origin(is_sampled)
    span, hops = send(ours, *urls, f"http://{ours.web}/{name}", context=context, labels=labels)
    check_ids(span, hops, exporter)
    assert [hop.labels for hop in hops] == [labels] * len(urls) + [arriving(labels, language)]
    if name == "w3c":
        check_w3c(hops, context)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("language", SERVICES)
def test_a_tracestate_goes_through_a_language(start, ours, configured, language, state):
    urls = urls_of(language, start(language), "w3c")
    configured()
    context = origin(True, STATES[state])
    _, hops = send(ours, *urls, f"http://{ours.web}/w3c", context=context)
    check_w3c(hops, context)


@pytest.mark.parametrize("language", sorted({"node", "python"} & {*SERVICES}))
def test_labels_in_jaeger_headers_go_through_a_language(start, ours, configured, language):
    """Without W3C Baggage, which the others also write; OpenTelemetry Go and Rust have no labels in Jaeger's format."""
    urls = urls_of(language, start(language), "jaeger")
    configured(formats=[jaeger.JAEGER])
    span, hops = send(ours, *urls, f"http://{ours.web}/jaeger")
    assert {hop.trace_id for hop in hops} == {span.context.trace_id}
    assert [hop.labels for hop in hops] == [LABELS, LABELS]
