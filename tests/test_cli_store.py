"""The commands over a store: search, figures, files for other programs, deletion, completion."""

import errno
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit.cli import exchange
from tracekit.cli.main import main
from tracekit.exporters._files import jaeger, otlp
from tracekit.exporters._otlp.json import encode_spans_as_json
from tracekit.exporters._sqlite import reader as reading
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader
from tracekit.testing import CountingIds, FakeClock, MemoryExporter
from tracekit.ui.queries import Queries
from tracekit.ui.search import Search

from .exporters.collector import parse_json

DAY_NS = 86400 * 10**9


class Both:
    """A store, and the spans themselves."""

    def __init__(self, path):
        self.store = SQLiteExporter(path)
        self.memory = MemoryExporter()

    def export(self, spans):
        self.store.export(spans)
        self.memory.export(spans)

    def shutdown(self):
        self.store.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traces.db"


@pytest.fixture
def spans(path):
    """Twelve traces, 0 to 11 s apart; trace n has n + 1 spans, takes n ms, and every fourth fails."""
    exporter = Both(path)
    tracekit.configure(service="shop", exporter=exporter)
    with CountingIds(), FakeClock() as clock:
        for number in range(12):
            clock.tick(1)
            attributes = {
                "http.response.status_code": 500 if number % 4 == 3 else 200,
                "number": number,
                "even": not number % 2,
            }
            with tracekit.span(f"GET /{number % 3}", kind="server", attributes=attributes) as root:
                for _ in range(number):
                    tracekit.span("step").end()
                clock.tick(number / 1000)
                if number % 4 == 3:
                    root.set_status("error", "no stock")
    tracekit.shutdown(60)
    return exporter.memory.spans


def change(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def listed(capsys, path, *arguments):
    assert main(["traces", "list", str(path), "--limit", "100", *arguments, "--json"]) == 0
    return [trace["spans"] - 1 for trace in json.loads(capsys.readouterr().out)["traces"]]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (["--where", "http.response.status_code=500"], [11, 7, 3]),
        (["--where", "even=true", "--where", "number=4"], [4]),
        (["--where", "number=12"], []),
        (["--slower", "9ms"], [11, 10, 9]),
        (["--faster", "1.5ms"], [1, 0]),
        (["--status", "error"], [11, 7, 3]),
        (["--name", "/2"], [11, 8, 5, 2]),
        (["--name", "step"], [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        (["--sort", "duration", "--limit", "2"], [11, 10]),
        (["--sort", "spans", "--name", "/0"], [9, 6, 3, 0]),
        (["--sort", "errors", "--limit", "3"], [3, 7, 11]),
        (["--service", "stock"], []),
    ],
)
def test_list_searches_and_sorts(spans, path, capsys, arguments, numbers):
    assert sorted(listed(capsys, path, *arguments)) == sorted(numbers)
    if "errors" not in arguments:  # traces with as many errors are in no particular order
        assert listed(capsys, path, *arguments) == numbers


@pytest.mark.parametrize(
    "search", [{"attributes": {"number": "3"}}, {"slower_ns": 10**7}, {"name": "GET /1"}, {"status": "error"}]
)
def test_a_search_gives_the_same_by_an_index_and_by_a_scan(spans, path, monkeypatch, search):
    from tracekit.exporters._sqlite import search as module

    with SQLiteReader(path) as reader:
        found = [reader.traces(limit=limit, **search) for limit in (1, 2, 100)]
        monkeypatch.setattr(module, "_MISSES", 0)
        monkeypatch.setattr(module, "_FEW", 0)
        assert [reader.traces(limit=limit, **search) for limit in (1, 2, 100)] == found


def test_the_newest_traces_are_found_by_their_start_though_others_end_later(path):
    tracekit.configure(exporter=SQLiteExporter(path))
    with FakeClock() as clock:
        long = tracekit.span("long", parent=tracekit.ROOT)
        for number in range(30):
            clock.tick(1)
            tracekit.span(f"short {number}", parent=tracekit.ROOT).end()
            tracekit.span("part", parent=long).end()
        long.end()
    tracekit.shutdown(60)
    with SQLiteReader(path) as reader:
        assert [trace.name for trace in reader.traces(limit=3)] == ["short 29", "short 28", "short 27"]
        assert [trace.name for trace in reader.traces(limit=31)][-1] == "long"


def test_since_is_a_span_of_time_or_a_date(spans, path, capsys, monkeypatch):
    start_ns = min(span.start_ns for span in spans)
    monkeypatch.setattr("time.time_ns", lambda: start_ns + 60 * 10**9)
    assert len(listed(capsys, path, "--since", "58s")) == 10
    assert listed(capsys, path, "--since", "2100-01-01") == []
    assert len(listed(capsys, path, "--since", "1970-01-02T00:00+00:00")) == 12


@pytest.mark.parametrize("text", ["5", "5 minutes", "x", "-1s", "1e30d", "nan s"])
def test_a_time_that_is_none_says_how_to_write_one(path, capsys, text):
    assert main(["traces", "list", str(path), f"--since={text}"]) == 2
    assert "must be 30s, 5m, 2h, 1d … or a date" in capsys.readouterr().err


def test_lines_of_json_are_a_trace_each(spans, path, capsys):
    assert main(["traces", "list", str(path), "--limit", "2", "--jsonl"]) == 0
    assert [json.loads(line)["spans"] for line in capsys.readouterr().out.splitlines()] == [12, 11]


@pytest.mark.slow
def test_follow_goes_on_with_traces_that_arrive(spans, path):
    command = [sys.executable, "-m", "tracekit", "traces", "list", str(path), "--limit", "1", "--follow", "--jsonl"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(tracekit.__file__).parents[1]
    ) as process:
        assert json.loads(process.stdout.readline())["spans"] == 12
        tracekit.configure(service="late", exporter=SQLiteExporter(path))
        with FakeClock(max(span.end_ns for span in spans) + DAY_NS):
            tracekit.span("new").end()
        tracekit.shutdown(60)
        found = json.loads(process.stdout.readline())
        while found["name"] != "new":  # it was given the newest first, and gives the rest, too
            found = json.loads(process.stdout.readline())
        assert found["service"] == "late"
        path.unlink()  # after it, another file
        tracekit.configure(service="other", exporter=SQLiteExporter(path))
        tracekit.span("first").end()
        tracekit.shutdown(60)
        assert json.loads(process.stdout.readline())["name"] == "first"
        process.terminate()


def test_stats_are_figures_of_each_name(spans, path, capsys):
    assert main(["traces", "stats", str(path), "--json"]) == 0
    names = {row["name"]: row for row in json.loads(capsys.readouterr().out)["names"]}
    assert {name: (row["spans"], row["errors"]) for name, row in names.items()} == {
        "step": (66, 0),
        "GET /0": (4, 1),
        "GET /1": (4, 1),
        "GET /2": (4, 1),
    }
    assert [names["GET /0"][key] // 10**6 for key in ("p50_ns", "p95_ns", "p99_ns", "slowest_ns")] == [6, 9, 9, 9]
    assert main(["traces", "stats", str(path), "--name", "GET", "--limit", "1"]) == 0
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split() == ["spans", "errors", "p50", "p95", "p99", "slowest", "name", "service"]
    assert row.split()[:2] == ["4", "1"]
    assert main(["traces", "stats", str(path), "--service", "none"]) == 0
    assert capsys.readouterr().out.startswith("no span matches")


def messages(text):
    """Return the spans of an OTLP JSON request, as the official schema reads them, by id."""
    request = parse_json(text.encode())
    return {
        span.span_id: (resource.resource.SerializeToString(), scope.scope.SerializeToString(), span.SerializeToString())
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_exported_otlp_is_the_request_that_the_exporter_would_have_sent(path, tmp_path, capsys):
    exporter = Both(path)
    tracekit.configure(service="shop", exporter=exporter, resource={"host.name": "h1"})
    values = {
        "text": "é",
        "int": 1 << 40,
        "float": 0.5,
        "yes": True,
        "bytes": b"\0\xff",
        "list": [1, "a"],
        "map": {"a": (1, 2)},
    }
    remote = tracekit.SpanContext("e" * 32, "f" * 16, 1, state=tracekit.TraceState.parse("a=b"), is_remote=True)
    with tracekit.span("root", kind="server", parent=remote, attributes=values) as root:
        root.add_event("read", values)
        with tracekit.span("failed") as failed:
            failed.set_status("error", "no stock")
        with tracekit.span("stopped") as stopped:
            stopped.set_status("cancelled", "why")
    tracekit.shutdown(60)
    output = tmp_path / "out.json"
    assert main(["traces", "export", str(path), "--output", str(output)]) == 0
    assert messages(output.read_text()) == messages(encode_spans_as_json(exporter.memory.spans).decode())
    assert list(tmp_path.glob("*.part")) == []


def test_an_export_replaces_a_file_and_keeps_its_permissions_and_links_to_it(spans, path, tmp_path):
    output, link = tmp_path / "out.json", tmp_path / "link.json"
    output.write_text("before")
    output.chmod(0o600)
    link.symlink_to(output)
    assert main(["traces", "export", str(path), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert (len(messages(output.read_text())), output.stat().st_mode & 0o777) == (len(spans), 0o600)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="the system has no such name")
def test_an_export_to_the_name_of_standard_output_replaces_nothing(spans, path, tmp_path):
    output = tmp_path / "out.json"
    output.write_text("before\n")
    command = [sys.executable, "-m", "tracekit", "traces", "export", str(path), "-o", "/dev/stdout"]
    with output.open("a") as file:
        assert subprocess.call(command, stdout=file, cwd=Path(tracekit.__file__).parents[1]) == 0
    first, _, rest = output.read_text().partition("\n")
    assert (first, len(messages(rest))) == ("before", len(spans))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_an_export_to_a_pipe_or_a_device_leaves_it_in_its_place(spans, path, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # or the command would wait for one
    with open(reader, encoding="utf-8") as file:
        assert main(["traces", "export", str(path), spans[0].context.trace_id, "-o", str(pipe)]) == 0
        assert pipe.is_fifo()
        assert len(messages(file.read())) == 1


@pytest.mark.parametrize("command", ["list", "show", "stats", "export"])
def test_a_full_disk_under_standard_output_is_one_line(command, spans, path, monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    assert main(["traces", command, str(path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"tracekit: [Errno {errno.ENOSPC}] No space left on device"


def test_exported_jaeger_json_has_every_span_with_its_parent_and_process(spans, path, capsys):
    trace_id = spans[-1].context.trace_id
    assert main(["traces", "export", str(path), trace_id, "--format", "jaeger"]) == 0
    (trace,) = json.loads(capsys.readouterr().out)["data"]
    assert trace["traceID"] == trace_id
    assert trace["processes"]["p1"]["serviceName"] == "shop"
    (root,) = [span for span in trace["spans"] if not span["references"]]
    assert (root["operationName"], root["duration"], root["processID"]) == ("GET /2", 11_000, "p1")
    tags = {tag["key"]: (tag["type"], tag["value"]) for tag in root["tags"]}
    assert tags["error"] == ("bool", True)
    assert tags["http.response.status_code"] == ("int64", 500)
    children = [span["references"] for span in trace["spans"] if span is not root]
    assert children == [[{"refType": "CHILD_OF", "traceID": trace_id, "spanID": root["spanID"]}]] * 11


def test_exported_jaeger_json_has_ints_that_a_browser_rounds_as_text(path, capsys):
    tracekit.configure(service="shop", exporter=SQLiteExporter(path))
    tracekit.span("work", attributes={"large": -(2**53), "safe": 2**53 - 1}).end()
    tracekit.shutdown(60)
    assert main(["traces", "export", str(path), "--format", "jaeger"]) == 0
    (trace,) = json.loads(capsys.readouterr().out)["data"]
    tags = {tag["key"]: (tag["type"], tag["value"]) for tag in trace["spans"][0]["tags"]}
    assert (tags["large"], tags["safe"]) == (("int64", "-9007199254740992"), ("int64", 2**53 - 1))


def test_exported_perfetto_json_has_a_slice_for_each_span(spans, path, capsys):
    assert main(["traces", "export", str(path), "--format", "perfetto"]) == 0
    events = json.loads(capsys.readouterr().out)["traceEvents"]
    assert sum(event["ph"] == "X" for event in events) == len(spans)


@pytest.mark.parametrize("portion", [1, 7, 1000])
def test_exported_otlp_is_the_same_in_portions_of_any_size(spans, path, tmp_path, monkeypatch, portion):
    monkeypatch.setattr(otlp, "_PORTION", portion)
    monkeypatch.setattr(reading, "_PORTION", portion)
    output = tmp_path / "out.json"
    assert main(["traces", "export", str(path), "--output", str(output)]) == 0
    assert messages(output.read_text()) == messages(encode_spans_as_json(spans).decode())


def test_spans_without_ids_leave_no_gap_in_exported_otlp(spans, path, capsys, monkeypatch):
    monkeypatch.setattr(otlp, "_PORTION", 1)
    change(path, "UPDATE spans SET span_id = 'none' WHERE name = 'step' OR name = 'GET /0'")
    assert main(["traces", "export", str(path)]) == 0
    kept = messages(capsys.readouterr().out)
    assert len(kept) == 8
    change(path, "UPDATE spans SET span_id = 'none'")
    assert main(["traces", "export", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"resourceSpans": []}


def test_an_invalid_tracestate_costs_itself_in_exported_otlp(spans, path, capsys):
    change(path, "UPDATE spans SET state = 'Not A State' WHERE name = 'step'")
    assert main(["traces", "export", str(path)]) == 0
    assert messages(capsys.readouterr().out) == messages(encode_spans_as_json(spans).decode())


@pytest.mark.parametrize("write", [otlp.write_otlp, jaeger.write_jaeger])
def test_an_export_writes_while_it_reads(spans, path, monkeypatch, write):
    monkeypatch.setattr(otlp, "_PORTION", 2)
    written = []

    def followed(spans):
        for span in spans:
            written.append(file.tell())
            yield span

    with SQLiteReader(path) as reader, io.StringIO() as file:
        write(followed(reader.select()), file)
    assert sorted(written) == written
    assert len(set(written)) >= len(spans) // 2


def test_selected_spans_come_by_trace_and_start_each_time_that_they_are_iterated(spans, path, monkeypatch):
    monkeypatch.setattr(reading, "_PORTION", 5)
    with SQLiteReader(path) as reader:
        selection = reader.select()
        found = [(span.trace_id, span.start_ns) for span in selection]
        again = [(span.trace_id, span.start_ns) for span in selection]
        one = [span.name for span in reader.select([spans[0].context.trace_id, "none"])]
    assert found == again == sorted((span.context.trace_id, span.start_ns) for span in spans)
    assert (len(selection), one) == (78, ["GET /0"])


def test_selected_spans_come_by_their_start_alone(spans, path):
    ids = {spans[0].context.trace_id, spans[-1].context.trace_id}
    change(path, f"UPDATE spans SET start_ns = 5 WHERE trace_id = '{spans[-1].context.trace_id}' AND name = 'step'")
    with SQLiteReader(path) as reader:
        starts = [span.start_ns for span in reader.select(order="start")]
        some = list(reader.select(sorted(ids), order="start", since_ns=6))
    assert starts == sorted(starts)
    assert starts[:11] == [5] * 11
    assert {span.trace_id for span in some} == ids
    assert [span.name for span in some] == ["GET /0", "GET /2"]


def test_a_selection_that_is_read_blocks_no_writer_and_leaves_out_what_is_deleted_meanwhile(spans, path, monkeypatch):
    monkeypatch.setattr(reading, "_PORTION", 5)
    connection = sqlite3.connect(path, isolation_level=None)
    with SQLiteReader(path) as reader:
        rest = iter(reader.select())
        first = next(rest)
        connection.execute("DELETE FROM spans WHERE name = 'step'")
        (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        names = [span.name for span in rest]
    connection.close()
    assert busy == 0
    assert first.name == "GET /0"
    assert len([name for name in names if name != "step"]) == 11
    assert names.count("step") < 5  # those of the portion that had been read


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_export_counts_on_a_terminal(spans, path, tmp_path, monkeypatch, capsys):
    arguments = ["traces", "export", str(path)]
    assert main([*arguments, "-o", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(exchange, "_PROGRESS_S", -1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main([*arguments, "-o", str(tmp_path / "out.json")]) == 0
    assert re.fullmatch(r"\r78 of 78 spans, [0-9,]+ a second  \n", sys.stderr.getvalue())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main([*arguments, "--format", "perfetto", "-o", str(tmp_path / "out.json")]) == 0
    # The format reads the spans twice.
    assert sys.stderr.getvalue().count("78 of 78 spans") == sys.stderr.getvalue().count("\n") == 2
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())  # shows the spans
    assert main(arguments) == 0
    assert sys.stderr.getvalue() == ""
    assert len(messages(sys.stdout.getvalue())) == 78


def test_a_file_that_cannot_be_written_is_one_line_and_the_old_one_stays(spans, path, tmp_path, capsys):
    assert main(["traces", "export", str(path), "-o", str(tmp_path / "none" / "out.json")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("called", "shown"),
    [("GET /orders/{id}", "GET → GET /orders/{id}"), ("GET", "GET"), ("a\x1bb", r"GET → a\x1bb")],
)
def test_the_root_of_a_client_is_listed_with_the_operation_that_it_called_as_in_the_viewer(path, capsys, called, shown):
    tracekit.configure(service="shop", exporter=SQLiteExporter(path))
    with tracekit.span("GET", kind="client"), tracekit.span("inner"), tracekit.span(called, kind="server"):
        pass
    tracekit.shutdown(60)
    assert main(["traces", "list", str(path)]) == 0
    assert re.search(rf" unset +{re.escape(shown)} +shop$", capsys.readouterr().out, re.MULTILINE)
    with Queries(path) as reader:
        (trace,) = reader.search(Search(), limit=1)["traces"]
        (found,) = reader.traces()
    assert (trace["name"], trace["calls"]) == (found.name, found.calls) == ("GET", called)


def test_deleted_traces_are_gone_and_others_stay(spans, path, capsys):
    trace_id = spans[-1].context.trace_id
    assert main(["traces", "delete", str(path), trace_id]) == 0
    assert capsys.readouterr().out == "12 spans removed\n"
    assert listed(capsys, path) == list(range(10, -1, -1))
    assert main(["traces", "delete", str(path), "--before", "2100-01-01"]) == 0
    assert capsys.readouterr().out == "66 spans removed\n"
    assert listed(capsys, path) == []


def test_delete_without_a_choice_deletes_nothing(spans, path, capsys):
    assert main(["traces", "delete", str(path)]) == 2
    assert "name traces, or a time" in capsys.readouterr().err
    assert len(listed(capsys, path)) == 12


def test_the_view_has_a_row_for_each_trace(spans, path):
    import sqlite3

    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT spans, duration_ns, errors FROM traces ORDER BY start_ns").fetchall()
    connection.close()
    assert rows == [(number + 1, number * 10**6, int(number % 4 == 3)) for number in range(12)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_is_a_script_of_the_shell(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "traces" in capsys.readouterr().out


def test_completion_without_shtab_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "completion needs shtab: pip install" in capsys.readouterr().err


def test_the_status_code_comes_first_in_a_line_of_attributes(spans, path, capsys):
    assert main(["traces", "show", str(path), spans[-1].context.trace_id]) == 0
    assert re.search(r"^\W*http\.response\.status_code=500  number=11", capsys.readouterr().out, re.MULTILINE)
