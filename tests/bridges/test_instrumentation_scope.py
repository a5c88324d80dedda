"""The library that made a span, in every place where spans are exported."""

from __future__ import annotations

import io
import json
import sys

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tracekit
from tracekit._core.otlp import encode_spans
from tracekit.cli.main import main
from tracekit.exporters._otlp.json import encode_spans_as_json
from tracekit.exporters.console import ConsoleExporter
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader


def _spans(exporter, provider, **attributes):
    attributes = {"a": 1, "c": [1, 2], **attributes}
    library = provider.get_tracer("library", "1.2", "https://schema/1", attributes)
    for make in (library.start_span, trace.get_tracer("other").start_span, library.start_span):
        make("span").end()
    tracekit.span("native").end()
    return exporter.spans


def test_otlp_groups_spans_by_their_library(exporter, provider):
    request = ExportTraceServiceRequest.FromString(encode_spans(_spans(exporter, provider, d=object())))
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
    (resource_spans,) = json.loads(encode_spans_as_json(_spans(exporter, provider, d=object())))["resourceSpans"]
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


def _stored(tmp_path, spans):
    path = tmp_path / "traces.db"
    store = SQLiteExporter(path)
    store.export(spans)
    store.shutdown()
    return path


def test_sqlite_stores_the_library_with_each_span(exporter, provider, tmp_path):
    with tracekit.span("native"):
        _spans(exporter, provider)
    spans = exporter.spans
    with SQLiteReader(_stored(tmp_path, spans)) as reader:
        found = [span.instrumentation for span in reader.spans(spans[0].context.trace_id)]
    library = {
        "name": "library",
        "version": "1.2",
        "schema_url": "https://schema/1",
        "attributes": {"a": 1, "c": [1, 2]},
    }
    other = {"name": "other", "version": "", "schema_url": "", "attributes": {}}
    assert found == [{}, library, other, library, {}]


def test_a_huge_library_is_dropped_from_the_store_with_the_rest_of_a_huge_span(exporter, provider, tmp_path):
    library = provider.get_tracer("name" * 5000, attributes={"key": "x" * 4000, "bulk": ["y" * 4000] * 64})
    library.start_span("span").end()
    store = SQLiteExporter(tmp_path / "traces.db", max_bytes=1 << 20)
    row = store.probe(exporter.spans[0])
    store.shutdown()
    assert row.name == "span"
    assert row.instrumentation == {}
    library = provider.get_tracer("name" * 5000)
    library.start_span("span").end()
    row = store.probe(exporter.spans[1])
    store.shutdown()
    assert len(row.instrumentation["name"]) == 4096


def test_the_console_shows_the_library_that_is_not_tracekit(exporter, provider):
    stream = io.StringIO()
    with tracekit.span("native"):
        provider.get_tracer("library\x1b", "1.2").start_span("span").end()
    ConsoleExporter(stream).export(exporter.spans)
    _, native, span, *_ = stream.getvalue().splitlines()
    assert "[" not in native
    assert span.endswith("[library\\x1b 1.2]")


def test_traces_show_tells_the_library_on_request(exporter, provider, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with tracekit.span("native"):
        _spans(exporter, provider)
    path = str(_stored(tmp_path, exporter.spans))
    line = "scope library 1.2  https://schema/1  a=1  c=[1, 2]"
    for option, count in (("--scope", 2), ("--all", 2), ("--json", 0), (None, 0)):
        assert main(["traces", "show", path, *([option] if option else [])]) == 0
        shown = capsys.readouterr().out
        assert shown.count(line) == count
        assert shown.count("scope other") == count // 2
        if option == "--json":
            spans = json.loads(shown)["spans"]
            assert [span["instrumentation"].get("name") for span in spans] == [
                None,
                "library",
                "other",
                "library",
                None,
            ]


def test_without_the_sdk_an_exporter_can_group_spans_by_resource_and_library(exporter, provider, monkeypatch):
    for module in ("opentelemetry.sdk.resources", "opentelemetry.sdk.util.instrumentation"):
        monkeypatch.setitem(sys.modules, module, None)  # its import fails
    tracers = [provider.get_tracer("library", "1.2", None, {"n": number}) for number in (1, 2)]
    tracekit.configure(service="shop", exporter=exporter)  # with a resource that the bridge has not seen
    spans = [tracer.start_span("span") for tracer in (*tracers, tracers[0])]
    groups = {}
    for span in spans:
        groups.setdefault((span.resource, span.instrumentation_scope), []).append(span)
    assert list(groups.values()) == [[spans[0], spans[2]], [spans[1]]]
    assert spans[0].resource.attributes["service.name"] == "shop"
    assert (spans[1].instrumentation_scope.name, spans[1].instrumentation_scope.attributes) == ("library", {"n": 2})
