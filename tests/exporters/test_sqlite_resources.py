"""The table of resources in a store of spans: one row for each, as long as a span may refer to it."""

import contextlib
import json
import sqlite3
from types import SimpleNamespace

import pytest

import tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader

from .files import finish, rows, script

pytestmark = pytest.mark.one_form


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traces.db"


def recorded(host, count=1, **options):
    """Return *count* finished spans, each a trace, of a process on *host*."""
    spans = []
    exporter = SimpleNamespace(export=spans.extend, shutdown=lambda: None)
    tracekit.configure(service="shop", exporter=exporter, resource={"host.name": host})
    for _ in range(count):
        tracekit.span("work", **options).end()
    tracekit.configure()
    return spans


def stored(path):
    """Return the hosts of the stored resources, sorted."""
    return sorted([json.loads(text)["host.name"] for (text,) in rows(path, "SELECT resource FROM resources")])


def found(path):
    """Return the host of each stored span, sorted."""
    with SQLiteReader(path) as reader:
        return sorted([span.resource["host.name"] for span in reader.select()])


def test_a_resource_is_stored_once_for_all_batches_and_exporters(path):
    first, second = SQLiteExporter(path), SQLiteExporter(path)
    both = recorded("a", 2) + recorded("b")
    for exporter in (first, second, first):
        exporter.export(both)
    first.shutdown()
    second.shutdown()
    assert stored(path) == ["a", "b"]
    assert found(path) == ["a"] * 6 + ["b"] * 3


def test_a_resource_goes_with_the_batch_of_its_last_span(path):
    exporter = SQLiteExporter(path)
    (once,), twice, (last,) = recorded("once"), recorded("twice", 2), recorded("last")
    exporter.export([once, twice[0]])
    exporter.export([twice[1], last])
    kept = []
    for span in (once, twice[0], twice[1], last):
        exporter.delete([span.context.trace_id])
        kept.append(stored(path))
    exporter.shutdown()
    assert kept == [["last", "once", "twice"], ["last", "twice"], ["last", "twice"], []]


def test_a_resource_is_kept_for_a_span_that_gets_the_id_of_a_deleted_one(path):
    exporter = SQLiteExporter(path)
    (oldest,), (newest,), (again,) = recorded("a"), recorded("b"), recorded("a")
    exporter.export([oldest])
    exporter.export([newest])
    exporter.delete([newest.context.trace_id])
    exporter.export([again])
    exporter.delete([oldest.context.trace_id])
    exporter.shutdown()
    assert found(path) == ["a"]


def test_resources_of_spans_that_are_too_old_go_with_them(path, monkeypatch):
    now = SimpleNamespace(s=1_700_000_000.0, monotonic=0.0)

    def monotonic():
        now.monotonic += 3600
        return now.monotonic

    monkeypatch.setattr("tracekit.exporters.sqlite.time", SimpleNamespace(time=lambda: now.s, monotonic=monotonic))
    exporter = SQLiteExporter(path, max_age_s=60)
    exporter.export(recorded("old"))
    now.s += 61
    exporter.export(recorded("young"))
    exporter.export([])
    exporter.shutdown()
    assert stored(path) == found(path) == ["young"]


def test_a_resource_for_each_span_leaves_the_file_below_its_bound(path):
    limit = 1 << 20
    exporter = SQLiteExporter(path, max_bytes=limit)
    spans = [recorded(f"{number:04}" + "é" * 2000)[0] for number in range(400)]
    for start in range(0, len(spans), 20):
        exporter.export(spans[start : start + 20])
        assert path.stat().st_size <= limit
    exporter.shutdown()
    assert exporter.account().failed == 0
    assert exporter.evicted == len(spans) - len(found(path)) > 0
    # Each is kept while an older span is: none that is needed is missing, and no more than the oldest are left over.
    assert found(path) == stored(path)
    assert found(path)[-1] == spans[-1].resource["host.name"]


def test_a_batch_that_fails_leaves_no_resource(path):
    exporter = SQLiteExporter(path)
    exporter.export(recorded("kept"))
    (row,) = rows(path, "SELECT * FROM spans")
    assert exporter.store([(*row[1:19], '{"host.name":"lost"}', *row[20:-1], 1 << 63)], 1000) == 0
    exporter.shutdown()
    assert stored(path) == ["kept"]


def test_a_span_whose_resource_another_program_deleted_has_none(path):
    exporter = SQLiteExporter(path)
    exporter.export(recorded("gone"))
    exporter.shutdown()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM resources")
    with SQLiteReader(path) as reader:
        (span,) = reader.select()
    assert (span.name, span.resource) == ("work", {})


@pytest.mark.slow
def test_processes_that_write_evict_and_are_killed_leave_each_span_its_own_resource(path):
    write = """
import sys, tracekit
from tracekit.exporters.sqlite import SQLiteExporter

path, number = sys.argv[1:]
spans = []
memory = type("Memory", (), {"export": lambda self, found: spans.extend(found), "shutdown": lambda self: None})
exporter = SQLiteExporter(path, max_bytes=1 << 20, lock_timeout_s=60)
for turn in range(1_000_000 if number == "killed" else 60):
    for host in ("shared", f"{number}-{turn}"):
        tracekit.configure(exporter=memory(), resource={"host.name": host, "padding": "x" * 2000})
        for _ in range(10):
            tracekit.span("work", attributes={"host": host}).end()
        tracekit.shutdown(60)
    exporter.export(spans)
    if turn % 7 == 3:
        exporter.delete([span.context.trace_id for span in spans])  # the ids of the newest rows are used again
    spans.clear()
    print(exporter.evicted, flush=True)
"""
    writers = [script(write, path, number) for number in ("one", "two", "killed")]
    killed = writers.pop()
    for _ in range(20):
        assert killed.stdout.readline()
    killed.kill()
    killed.communicate()
    evicted = [int(finish(writer).split()[-1]) for writer in writers]
    assert sum(evicted) > 0
    with SQLiteReader(path) as reader:
        spans = list(reader.select())
    assert spans
    assert [span.resource["host.name"] for span in spans] == [span.attributes["host"] for span in spans]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
