"""The library that made a span, in every place where spans are exported."""

from __future__ import annotations

import json

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tracekit
from tracekit._core.otlp import encode_spans
from tracekit.exporters._otlp.json import encode_spans_as_json


def _spans(exporter, provider):
    library = provider.get_tracer("library", "1.2", "https://schema/1", {"a": 1, "b": object(), "c": [1, 2]})
    for make in (library.start_span, trace.get_tracer("other").start_span, library.start_span):
        make("span").end()
    tracekit.span("native").end()
    return exporter.spans


def test_otlp_groups_spans_by_their_library(exporter, provider):
    request = ExportTraceServiceRequest.FromString(encode_spans(_spans(exporter, provider)))
    (resource_spans,) = request.resource_spans
    found = [
        (each.scope.name, each.scope.version, each.schema_url, len(each.spans)) for each in resource_spans.scope_spans
    ]
    assert found == [
        ("library", "1.2", "https://schema/1", 2),
        ("other", "", "", 1),
        ("tracekit", tracekit.__version__, "", 1),
    ]
    attributes = {item.key: item.value for item in resource_spans.scope_spans[0].scope.attributes}
    assert attributes["a"].int_value == 1
    assert [value.int_value for value in attributes["c"].array_value.values] == [1, 2]


def test_otlp_json_groups_spans_by_their_library(exporter, provider):
    (resource_spans,) = json.loads(encode_spans_as_json(_spans(exporter, provider)))["resourceSpans"]
    scopes = resource_spans["scopeSpans"]
    assert [(each["scope"]["name"], each.get("schemaUrl"), len(each["spans"])) for each in scopes] == [
        ("library", "https://schema/1", 2),
        ("other", None, 1),
        ("tracekit", None, 1),
    ]
    assert scopes[0]["scope"]["attributes"][0] == {"key": "a", "value": {"intValue": "1"}}


def test_tracers_of_the_same_arguments_are_the_same(provider):
    one = trace.get_tracer("library", "1", attributes={"a": 1})
    assert trace.get_tracer("library", "1", attributes={"a": 1}) is one
    assert trace.get_tracer("library", "1", attributes={"a": 2}) is not one
    assert trace.get_tracer("library", "2", attributes={"a": 1}) is not one
