"""``tracekit traces import``: what ``export`` writes, and files of other programs."""

import json

import pytest

import tracekit
from tracekit import Link, SpanContext
from tracekit.cli.main import main
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader

pytestmark = pytest.mark.one_form
REMOTE = SpanContext("a" * 32, "b" * 16, 1, is_remote=True)


@pytest.fixture
def path(tmp_path):
    """A store with spans of every kind in two traces of one service."""
    found = tmp_path / "traces.db"
    tracekit.configure(service="shöp", exporter=SQLiteExporter(found), resource={"host.name": "h1", "n": 3})
    values = {
        "text": 'say "hö"\n',
        "n": -5,
        "large": 2**60,
        "yes": True,
        "half": 0.5,
        "octets": b"\0\xff",
        "list": (1, 2),
    }
    values |= {"error": "disk", "no octets": {"base64": "zz"}}  # what a format itself may mean by such keys
    with tracekit.span("far", parent=REMOTE, kind="server", attributes=values) as far:
        far.add_event("paid", {"sum": 2.5, "message": "thanks", "event": "sale"})
        far.add_event("bare")
        with tracekit.span("near", kind="client", links=[Link(REMOTE, {"why": "x"})]) as near:
            near.set_status("error", "no: stock")
        with tracekit.span("ended") as ended:
            ended.set_status("ok")
        with tracekit.span("stopped") as stopped:
            stopped.set_status("cancelled", "TimeoutError")
    with tracekit.span("other"):
        pass
    tracekit.shutdown(60)
    return found


def spans_of(path):
    with SQLiteReader(path) as reader:
        return list(reader.select())


def micros(ns):
    return ns // 1000 * 1000


def as_jaeger(span):
    """What Jaeger's JSON keeps of a span."""
    attributes = {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value, separators=(",", ":"))
        for key, value in span.attributes.items()
    }
    start_ns = micros(span.start_ns)
    return span._replace(
        start_ns=start_ns,
        end_ns=start_ns + micros(span.end_ns - span.start_ns),
        attributes=attributes,
        events=[event | {"time_ns": micros(event["time_ns"])} for event in span.events],
        links=[link | {"attributes": {}} for link in span.links],
        flags=0,
        parent_is_remote=False,
        state="",
    )


def as_perfetto(span):
    return span._replace(flags=0, parent_is_remote=False, state="", resource={"service.name": span.service})


KEPT = {"otlp": lambda span: span, "jaeger": as_jaeger, "perfetto": as_perfetto}


@pytest.mark.parametrize("format", KEPT)
def test_exported_traces_are_imported_whole_and_once(path, tmp_path, capsys, format):
    file, copy = tmp_path / "trace.json", tmp_path / "copy.db"
    assert main(["traces", "export", str(path), "--format", format, "-o", str(file)]) == 0
    assert main(["traces", "import", str(copy), str(file)]) == 0
    assert capsys.readouterr().out == "5 spans imported\n"
    assert spans_of(copy) == [KEPT[format](span) for span in spans_of(path)]
    assert main(["traces", "import", str(copy), str(file)]) == 0
    assert capsys.readouterr().out == "0 spans imported, 5 were there already\n"
    assert len(spans_of(copy)) == 5


def test_an_import_adds_to_a_store_and_evicts_nothing_of_it(path, tmp_path, capsys):
    file = tmp_path / "trace.json"
    assert main(["traces", "export", str(path), "-o", str(file)]) == 0
    with SQLiteReader(path) as reader:
        (newest,) = reader.traces(limit=1)
    exporter = SQLiteExporter(path)
    exporter.delete([newest.trace_id])
    exporter.shutdown()
    assert main(["traces", "import", str(path), str(file)]) == 0
    assert capsys.readouterr().out == "1 span imported, 4 were there already\n"


def test_a_request_a_line_and_ids_of_64_bits_are_read(tmp_path, capsys):
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "one", "startTimeUnixNano": "1", "endTimeUnixNano": "2"}
    lines = [{"resourceSpans": [{"scopeSpans": [{"spans": [span | {"spanId": id * 16}]}]}]} for id in "234"]
    file, copy = tmp_path / "lines.json", tmp_path / "copy.db"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert main(["traces", "import", str(copy), str(file)]) == 0
    old = {"traceID": "1f", "spanID": "2", "operationName": "get", "startTime": 1, "duration": 2}
    tags = [
        {"key": "error", "type": "bool", "value": True},
        {"key": "blob", "type": "binary", "value": "AP8="},
        {"key": "big", "type": "int64", "value": "12"},
    ]
    file.write_text(json.dumps({"data": [{"spans": [old | {"tags": tags, "process": {"serviceName": "old"}}]}]}))
    assert main(["traces", "import", str(copy), str(file)]) == 0
    found = spans_of(copy)
    assert len(found) == 4
    assert found[0][:6] == ("0" * 30 + "1f", "0" * 15 + "2", None, False, "old", "get")
    assert (found[0].start_ns, found[0].end_ns, found[0].status) == (1000, 3000, "error")
    assert found[0].attributes == {"blob": {"base64": "AP8="}, "big": 12}


def test_a_span_without_an_end_and_its_library_come_back_from_jaegers_json(tmp_path, capsys):
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "one", "startTimeUnixNano": str(10**18 + 1)}
    scope = {"name": "library", "version": "1.5"}
    file, first, copy = tmp_path / "trace.json", tmp_path / "first.db", tmp_path / "copy.db"
    file.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"scope": scope, "spans": [span]}]}]}))
    assert main(["traces", "import", str(first), str(file)]) == 0
    assert main(["traces", "export", str(first), "--format", "jaeger", "-o", str(file)]) == 0
    assert main(["traces", "import", str(copy), str(file)]) == 0, capsys.readouterr().err
    (found,) = spans_of(copy)
    assert (found.name, found.start_ns, found.end_ns) == ("one", 10**18, 10**18)
    assert found.instrumentation == {**scope, "schema_url": "", "attributes": {}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "JSON"),
        ("{", "not JSON"),
        ("[]", "object was expected"),
        ("[" * 100_000, "not JSON"),
        ('{"spans": []}', "no resourceSpans, data, traceEvents"),
        ('{"resourceSpans": 5}', "must be an array"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": 5}]}]}]}', "text was expected"),
        ('{"data": 5}', "TypeError"),
        ('{"data": [{"spans": [{}]}]}', "KeyError"),
        ('{"data": [{"spans": [{"startTime": 1e999}]}]}', "OverflowError"),
        ('{"traceEvents": [{"ph": "X"}]}', "KeyError"),
        ('{"otherData": {"start_unix_ns": "1"}, "traceEvents": [{"ph": "X", "pid": []}]}', "TypeError"),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_stored(tmp_path, capsys, text, why):
    file, copy = tmp_path / "bad.json", tmp_path / "copy.db"
    file.write_text(text)
    assert main(["traces", "import", str(copy), str(file)]) == 2
    said = capsys.readouterr().err
    assert "bad.json cannot be imported" in said
    assert why in said
    assert not copy.exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["traces", "import", str(tmp_path / "copy.db"), str(tmp_path / "no.json")]) == 2
    assert "no.json cannot be read" in capsys.readouterr().err
