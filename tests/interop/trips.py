"""Requests with labels through services, and what must be right at each hop."""

from __future__ import annotations

import itertools
from urllib.parse import unquote

import tracekit

LABELS = {
    "tenant": "acme",
    "spaces": "two  words",
    "plus": "a+b",
    "percent": "100%25",
    "equals": "a=b",
    "quotes": """it's "so" \\""",
    "separators": "a,b;c",
    "text": "Zürich 日本 €",
}
STATES = {"none": {}, "one": {"x": "1"}, "two": {"vendor@tenant": "a b:c?", "x": "~!"}}
RANDOM = 2  # W3C's flag that the trace id is random
READ_SAMPLED = {"rust"}  # OpenTelemetry Rust reads the sampled flag alone
DROP_RANDOM = {"node"}  # OpenTelemetry JS writes the sampled flag alone, as level 1 of the recommendation has it


def origin(is_sampled, state=STATES["two"]):
    """A caller's context, with W3C's random flag."""
    state = tracekit.TraceState(state)
    return tracekit.SpanContext("a" * 32, "b" * 16, RANDOM | is_sampled, state=state, is_remote=True)


def send(ours, *urls, context=None, labels=LABELS):
    """Make a request in a span under *context* with *labels*; return the span and the hops."""
    with tracekit.use_context(context), tracekit.use_labels(labels), tracekit.span("client") as span:
        return span, ours.travel(*urls)


def check_ids(span, hops, exporter):
    """Every hop is a child of the span that called it, in the trace of *span*, and has its decision."""
    assert {hop.trace_id for hop in hops} == {span.context.trace_id}
    assert len({hop.span_id for hop in hops}) == len(hops) or not span.context.sampled
    assert {hop.flags & 1 for hop in hops} == {int(span.context.sampled)}
    for before, hop in itertools.pairwise(hops):
        assert hop.parent_id == before.sent_id, hop.service
    if span.context.sampled:
        calls = {one.context.span_id: one for one in exporter.spans if one.kind == "client"}
        assert calls[hops[0].parent_id].parent.span_id == span.context.span_id
        for hop in hops:
            if hop.service.startswith("tracekit") and hop.sent_id:
                assert calls[hop.sent_id].parent.span_id == hop.span_id
    else:
        assert exporter.spans == []


def check_w3c(hops, context):
    """Flags and tracestate at each hop are those of *context*, but for the random flag where a service drops it."""
    flags = context.flags
    for hop in hops:
        if hop.service in READ_SAMPLED:
            flags &= ~RANDOM
        assert (hop.service, hop.flags) == (hop.service, flags)
        assert (hop.service, hop.tracestate) == (hop.service, str(context.state))
        if hop.service in DROP_RANDOM:
            flags &= ~RANDOM


def urls_of(language, hosts, name):
    """The URLs of a language's services in the format *name*."""
    urls = [f"http://{hosts[0]}/{name}"]
    return [*urls, f"grpc://{hosts[1]}/{name}"] if language == "go" else urls


def sent_labels(name, *languages):
    """The labels to send: OpenTelemetry Java writes Jaeger's as they are, which HTTP cannot carry beyond ASCII."""
    is_ascii = name == "jaeger" and "java" in languages
    return {key: value for key, value in LABELS.items() if not is_ascii or value.isascii()}


def arriving(labels, language):
    """*labels* behind the propagator for W3C Baggage of a language.

    OpenTelemetry Python writes a space as "+", which the format has as a plus. OpenTelemetry Rust escapes neither "%"
    nor a backslash, and the latter makes a value invalid.
    """
    if language == "python":
        return {key: value.replace(" ", "+") for key, value in labels.items()}
    if language == "rust":
        return {key: unquote(value) for key, value in labels.items() if "\\" not in value}
    return labels
