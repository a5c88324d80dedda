"""The same programs on OpenTelemetry's SDK and on the bridge: what they see and what is exported is the same.

Each program gets a tracer and returns what it has seen. Intended differences are in docs/opentelemetry.md, and have tests
in the other files.
"""

from __future__ import annotations

import pytest
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tracekit.bridges import opentelemetry as bridge

from . import provider_programs, span_programs  # noqa: F401 (each adds to PROGRAMS)
from .same_programs import PROGRAMS


def _attributes(attributes, dropped=None):
    """Return *attributes*, or where some were dropped, their values."""
    found = {key: value for key, value in attributes.items() if key != "exception.stacktrace"}
    dropped = getattr(attributes, "dropped", 0) if dropped is None else dropped
    return list(found.values()) if dropped else found


def _outcome(run, tracer, memory):
    seen = run(tracer)
    spans = memory.get_finished_spans()
    names = {span.context.span_id: index for index, span in enumerate(spans)}
    exported = []
    for span in spans:
        events = [
            (event.name, _attributes(event.attributes),
             "exception.stacktrace" in event.attributes, getattr(event.attributes, "dropped", 0))
            for event in span.events
        ]  # fmt: skip
        links = [
            (link.context.trace_id, _attributes(link.attributes), getattr(link.attributes, "dropped", 0))
            for link in span.links
        ]
        exported.append(
            {
                "name": span.name,
                "kind": span.kind,
                "parent": None if span.parent is None else names.get(span.parent.span_id, "other"),
                "attributes": _attributes(span.attributes, span.dropped_attributes),
                "status": (span.status.status_code, span.status.description),
                "events": events,
                "links": links,
                "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
                "scope": (span.instrumentation_scope.name, span.instrumentation_scope.version),
                "state": span.context.trace_state.delete("ot").to_header(),  # tracekit's threshold of sampling
                "remote": span.context.is_remote,
            }
        )
    return seen, exported


def _run(make, run, processor=None, **options):
    memory = InMemorySpanExporter()
    provider = make(**options)
    if processor is not None:
        provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    try:
        return _outcome(run, provider.get_tracer("library", "1.0"), memory)
    finally:
        provider.shutdown()


@pytest.mark.parametrize(("run", "options"), PROGRAMS)
def test_a_program_sees_and_exports_the_same(run, options, exporter, monkeypatch):
    for name, value in options.get("environ", {}).items():
        monkeypatch.setenv(name, value)
    given = {"limits": "span_limits"}
    arguments = {given.get(key, key): value for key, value in options.items() if key != "environ"}
    expected = _run(sdk.TracerProvider, run, **arguments)
    tracekit.configure(exporter=exporter, environ=options.get("environ", {}))
    bridge.install()
    try:
        assert _run(bridge.TracerProvider, run, **arguments) == expected
    finally:
        bridge.uninstall()
