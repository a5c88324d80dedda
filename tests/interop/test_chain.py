"""One trace from Python through Go (HTTP), Go (gRPC), Python (gRPC), Node and Java back to Python, and also through Rust."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

import tracekit

from .services import FORMATS
from .trips import RANDOM, check_ids, check_w3c, origin, send, sent_labels, urls_of

REQUESTS = int(os.environ.get("TRACEKIT_INTEROP_REQUESTS") or 200)
THREADS = 8

CHAIN = ["go-http", "go-grpc", "tracekit-grpc", "node", "java", "tracekit-http"]


def whole_chain(start, ours, name, *more):
    """Python, Go over HTTP, Go over gRPC, Python over gRPC, the languages *more*, Node, Java, and Python over HTTP."""
    urls = [*urls_of("go", start("go"), name), f"grpc://{ours.rpc}/{name}"]
    for language in (*more, "node", "java"):
        urls += urls_of(language, start(language), name)
    return [*urls, f"http://{ours.web}/{name}"]


@pytest.mark.parametrize("is_sampled", [True, False], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_trace_goes_through_a_chain(start, ours, configured, name, is_sampled):
    urls, exporter = whole_chain(start, ours, name), configured(name)
    labels, context = sent_labels(name, "java"), origin(is_sampled)
    span, hops = send(ours, *urls, context=context, labels=labels)
    assert [hop.service for hop in hops] == CHAIN
    check_ids(span, hops, exporter)
    assert [(hop.service, hop.labels) for hop in hops] == [(hop.service, labels) for hop in hops]
    if name == "w3c":
        check_w3c(hops, context)


@pytest.mark.parametrize("name", FORMATS)
def test_a_trace_goes_through_a_chain_with_rust(start, ours, configured, name):
    """With the labels that OpenTelemetry Rust reads and writes unchanged: it cuts those of others at a bare "="."""
    urls, exporter = whole_chain(start, ours, name, "rust"), configured(name)
    labels = {key: value for key, value in sent_labels(name, "java").items() if not set("=%\\") & set(value)}
    span, hops = send(ours, *urls, context=origin(True), labels=labels)
    assert [hop.service for hop in hops] == [*CHAIN[:3], "rust", *CHAIN[3:]]
    check_ids(span, hops, exporter)
    assert [(hop.service, hop.labels) for hop in hops] == [(hop.service, labels) for hop in hops]
    if name == "w3c":
        check_w3c(hops, origin(True))


def test_every_request_keeps_its_own_trace(start, ours, configured):
    """TRACEKIT_INTEROP_REQUESTS through the whole chain, eight at a time, each with its own labels and tracestate."""
    urls, exporter = whole_chain(start, ours, "w3c"), configured(buffer_size=20 * REQUESTS)

    def request(number):
        labels = {"number": f"nº {number} + 1%", "tenant": "acme"}
        state = tracekit.TraceState({"n": str(number)})
        context = tracekit.SpanContext(f"{number + 1:032x}", "b" * 16, RANDOM | 1, state=state, is_remote=True)
        span, hops = send(ours, *urls, context=context, labels=labels)
        return span, hops, context, labels

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(request, range(REQUESTS)))
    calls = {one.context.span_id: one for one in exporter.spans if one.kind == "client"}
    for span, hops, context, labels in results:
        assert [hop.service for hop in hops] == CHAIN
        assert {hop.trace_id for hop in hops} == {context.trace_id}
        assert [hop.parent_id for hop in hops[1:]] == [hop.sent_id for hop in hops[:-1]]
        assert calls[hops[0].parent_id].parent.span_id == span.context.span_id
        assert [hop.labels for hop in hops] == [labels] * len(hops)
        check_w3c(hops, context)
    assert len({hop.span_id for _, hops, _, _ in results for hop in hops}) == len(CHAIN) * REQUESTS
    print(f"{REQUESTS} of {REQUESTS} requests right at {len(CHAIN)} hops")
