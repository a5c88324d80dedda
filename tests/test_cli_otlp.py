"""What the command line says of a collector and of a spool."""

from __future__ import annotations

import json

import pytest

import tracekit
from tracekit.cli.main import main
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters.otlp import OTLPExporter
from tracekit.testing import MemoryExporter

from .exporters.collector import Collector, GrpcCollector, refuse, reject
from .tools.ports import free_port


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def findings(capsys, *arguments):
    status = main(["doctor", *arguments, "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert status == (0 if all(check["ok"] for check in checks.values()) else 1)
    return checks


def doctor(capsys, *arguments):
    check = findings(capsys, *arguments)["endpoint"]
    return check["ok"], check["text"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_doctor_sends_a_span_to_a_collector_and_says_so(capsys, monkeypatch, compression):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with Collector() as collector:
        ok, text = doctor(capsys, "--endpoint", collector.url)
        assert ok, text
        (span,) = collector.spans
        assert span.name == "tracekit doctor"
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
        assert text.startswith(f"{collector.url} (http/protobuf) accepted a span of trace {span.trace_id.hex()} in ")


def test_the_span_of_the_doctor_has_the_resource_of_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with Collector() as collector:
        ok, text = doctor(capsys, "--endpoint", collector.url)
        (request,) = collector.requests
    assert ok, text
    resource = request.resource_spans[0].resource
    assert {one.key: one.value.string_value for one in resource.attributes}["service.name"] == "shop"


def test_doctor_sends_to_the_endpoint_of_the_environment(capsys, monkeypatch):
    pytest.importorskip("grpc")
    with GrpcCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        ok, text = doctor(capsys, "--endpoint")
        assert ok, text
        assert len(collector.spans) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuse(404), "answered 404 Not Found: the path of an OTLP/HTTP endpoint usually ends in /v1/traces"),
        (refuse(401), "answered 401 Unauthorized: it requires authentication: set headers"),
        (refuse(503), "answered 503 Service Unavailable"),
        (refuse(200, b"<html>", Content_Type="text/html"), "but as no OTLP collector does"),
        (reject(1, "too old"), "rejected the span: too old"),
    ],
)
def test_doctor_says_what_a_collector_has_against_a_span(capsys, answer, said):
    with Collector(answer) as collector:
        ok, text = doctor(capsys, "--endpoint", collector.url)
    assert not ok
    assert said in text


def test_doctor_says_where_nobody_listens(capsys):
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    assert doctor(capsys, "--endpoint", url) == (
        False,
        f"{url} cannot be reached: is a collector listening there? (Connection refused)",
    )


def test_doctor_says_what_is_no_endpoint(capsys):
    ok, text = doctor(capsys, "--endpoint", "localhost")
    assert not ok
    assert text == "endpoint must be a URL such as http://localhost:4318: 'localhost'"


def test_doctor_names_an_invalid_variable_of_otlp_where_it_sends_although_nothing_is_exported(capsys, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" not in findings(capsys)
    with Collector() as collector:
        found = findings(capsys, "--endpoint", collector.url)
    assert found["endpoint"]["ok"], found
    assert not found["OTEL_EXPORTER_OTLP_TIMEOUT"]["ok"]


def test_doctor_leaves_a_spool_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEKIT_SPOOL", str(tmp_path / "spool.db"))
    with Collector() as collector:
        ok, text = doctor(capsys, "--endpoint", collector.url)
    assert ok, text
    assert list(tmp_path.iterdir()) == []


# ---- the spool


@pytest.fixture
def spool(tmp_path):
    """A spool in which five spans wait, two were sent and one was rejected."""
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, environ={})
    for _ in range(8):
        tracekit.span("job").end()
    spans, path = memory.spans, tmp_path / "spool.db"
    with Collector(reject(1, "one too many")) as collector:
        exporter = OTLPExporter(collector.url, environ={}, spool=path)
        exporter.export(spans[:3])
        assert exporter.flush(20)
        exporter.shutdown()
    exporter = OTLPExporter(f"http://127.0.0.1:{free_port()}", environ={}, spool=path)
    exporter.export(spans[3:])
    exporter.shutdown()
    return path


def test_spool_of_an_empty_file_leaves_it_empty(tmp_path, capsys):
    path = tmp_path / "other.lock"
    path.touch()
    assert main(["spool", str(path), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out).values()) == {0}
    assert [(one.name, one.stat().st_size) for one in tmp_path.iterdir()] == [("other.lock", 0)]


def test_spool_says_what_became_of_every_span(spool, capsys):
    assert main(["spool", str(spool)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["put", "8", "spans"],
        ["sent", "2", "spans"],
        ["rejected", "1", "span"],
        ["evicted", "0", "spans"],
        ["waiting", "5", "spans"],
    ]


def test_spool_says_what_was_set_aside(tmp_path, capsys):
    outbox = Outbox(tmp_path / "spool.db")
    outbox.put(b"", spans=7, content_type="", content_encoding="")
    outbox._file._connection.execute("INSERT INTO leases SELECT id, 1, 0, 0, 32, 0, 1 FROM batches")
    outbox.close()
    assert main(["spool", str(tmp_path / "spool.db")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["aside", "7", "spans"]


def test_spool_as_json_is_the_ledger_and_nothing_else(spool, capsys):
    assert main(["spool", str(spool), "--json"]) == 0
    ledger = json.loads(capsys.readouterr().out)
    assert ledger.pop("waiting_bytes") > 0
    assert ledger == {"put": 8, "sent": 2, "rejected": 1, "evicted": 0, "waiting": 5, "aside": 0}


def test_a_spool_that_is_not_there_is_one_line_and_not_made(tmp_path, capsys):
    path = tmp_path / "none.db"
    assert main(["spool", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"tracekit: there is no such file: {path}: name the file of OTLPExporter(spool=…)\n"
    )
    assert not path.exists()


def test_a_file_of_something_else_is_one_line(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("no spool" * 1000)
    assert main(["spool", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_text() == "no spool" * 1000
