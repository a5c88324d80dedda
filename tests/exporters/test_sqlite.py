import json
import logging
import math
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tracekit
from tracekit.exporters.sqlite import Counts, SQLiteExporter, SQLiteReader, StoreError, _delete_oldest
from tracekit.testing import CountingIds, FakeClock

from .files import another_program, directory_in_its_place, finish, not_a_database, rows, script, total_bytes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "traces.db"


@pytest.fixture
def store(path):
    """Configure tracing to write to *path*; calling the fixture flushes and returns a reader."""
    tracekit.configure(service="shop", exporter=SQLiteExporter(path), resource={"host.name": "h1"})
    readers = []

    def read():
        assert tracekit.flush(60)
        readers.append(SQLiteReader(path))
        return readers[-1]

    yield read
    for reader in readers:
        reader.close()
    tracekit.shutdown(60)


def recorded(name="work", **options):
    """Return a finished span that no pipeline exports."""
    spans = []
    tracekit.configure(service="shop", exporter=SimpleNamespace(export=spans.extend, shutdown=lambda: None))
    tracekit.span(name, **options).end()
    tracekit.configure()
    return spans[0]


def store_in(path, *spans):
    """Write *spans* to *path* with an exporter, and close it."""
    exporter = SQLiteExporter(path)
    try:
        exporter.export(spans)
    finally:
        exporter.shutdown()


# Storing and reading


def test_a_stored_span_is_complete(store):
    caller = tracekit.SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1, is_remote=True)
    with CountingIds(), FakeClock() as clock, tracekit.use_context(caller), tracekit.use_labels(tenant="acmé"):
        span = tracekit.span("GET /", kind="server", attributes={"n": 1, "t": ("a", None), "b": b"\0\xff"})
        span.add_event("cache miss", {"key": "k"})
        span.add_link(tracekit.SpanContext("1" * 32, "2" * 16), {"why": "batch"})
        span.set_status("error", "boom")
        clock.tick(2)
        span.end()
    (found,) = store().spans("0af7")
    assert found._asdict() == {
        "trace_id": caller.trace_id,
        "span_id": "0000000000000001",
        "parent_id": caller.span_id,
        "parent_is_remote": True,
        "service": "shop",
        "name": "GET /",
        "kind": "server",
        "start_ns": 1_700_000_000_000_000_000,
        "end_ns": 1_700_000_002_000_000_000,
        "status": "error",
        "description": "boom",
        "flags": 1,
        "state": "",
        "labels": {"tenant": "acmé"},
        "attributes": {"n": 1, "t": ["a", None], "b": {"base64": "AP8="}},
        "events": [{"name": "cache miss", "time_ns": 1_700_000_000_000_000_000, "attributes": {"key": "k"}}],
        "links": [{"trace_id": "1" * 32, "span_id": "2" * 16, "attributes": {"why": "batch"}}],
        "resource": dict(span.resource),
        "instrumentation": {},
        "dropped_attributes": 0,
        "dropped_events": 0,
        "dropped_links": 0,
        "truncated_values": 0,
    }


def test_traces_are_summarized_newest_first(store):
    with CountingIds(), FakeClock() as clock:
        with tracekit.span("first"):
            clock.tick(1)
        with tracekit.span("second"):
            failing = tracekit.span("failing")
            clock.tick(2)
            failing.set_status("error")
            failing.end()
            tracekit.configure(service="stock", exporter=SQLiteExporter(store().path))
            tracekit.span("elsewhere").end()
    newest, oldest = store().traces()
    assert newest == (
        f"{2:032x}",
        "second",
        "shop",
        ("shop", "stock"),
        3,
        1_700_000_001_000_000_000,
        2_000_000_000,
        "error",
        1,
        None,
    )
    assert oldest[1:6] == ("first", "shop", ("shop",), 1, 1_700_000_000_000_000_000)


@pytest.mark.parametrize("sort", ["start", "duration", "spans", "errors"])
def test_a_limit_of_0_gives_no_trace(store, sort):
    tracekit.span("one").end()
    tracekit.flush(60)
    reader = store()
    assert [len(reader.traces(limit=limit, sort=sort)) for limit in (1, 0, -1)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["c", "b", "a"]),
        ({"limit": 2}, ["c", "b"]),
        ({"service": "shop"}, ["c", "b", "a"]),
        ({"service": "sho"}, []),
        ({"status": "error"}, ["b"]),
        ({"status": "cancelled"}, ["c"]),
        ({"name": "chil"}, ["b"]),
        ({"name": "%"}, []),
        ({"name": "b", "status": "error"}, []),  # one span must match all of them
    ],
)
def test_traces_are_selected_by_service_name_and_status_of_one_span(store, wanted, found):
    with FakeClock() as clock:
        for name in "abc":
            with tracekit.span(name) as span:
                clock.tick()
                if name == "b":
                    with tracekit.span("child") as child:
                        child.set_status("error")
                if name == "c":
                    span.set_status("cancelled")
    assert [trace.name for trace in store().traces(**wanted)] == found


def test_a_trace_without_its_root_is_named_after_its_first_span(store):
    remote = tracekit.SpanContext("1" * 32, "2" * 16, 1, is_remote=True)
    with FakeClock() as clock:
        for name in ("earlier", "later"):
            tracekit.span(name, parent=remote).end()
            clock.tick()
    (trace,) = store().traces()
    assert (trace.name, trace.status) == ("earlier", "unset")


def test_orphans_are_spans_whose_parent_is_absent_remote_or_not(store):
    with tracekit.span("root") as root:
        tracekit.span("child").end()
    open_parent = tracekit.span("not ended")
    tracekit.span("orphan", parent=open_parent).end()
    tracekit.span("orphan of another trace's span id", parent=root.context.replace(is_remote=True)).end()
    tracekit.span("remote", parent=tracekit.SpanContext("1" * 32, root.context.span_id, 1, is_remote=True)).end()
    assert store().counts() == Counts(traces=3, spans=5, orphans=2)
    open_parent.end()
    assert store().counts() == Counts(traces=3, spans=6, orphans=1)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [("1", f"{1:0<32}"), (f"{2:0<32}", f"{2:0<32}"), ("aB", f"{'ab':0<32}")],
)
def test_a_trace_is_found_by_a_unique_prefix(store, prefix, found):
    for start in ("1", "2", "ab", "ac"):
        tracekit.span("x", parent=tracekit.SpanContext(f"{start:0<32}", "2" * 16, 1)).end()
    assert store().find(prefix) == found
    assert [span.trace_id for span in store().spans(prefix)] == [found]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("3", "no trace begins with '3'"),
        ("a", "several traces begin with 'a': .*: give more digits of one of ab0{30}, ac0{30}$"),
        ("", "several traces begin with ''"),
        ("%", "no trace begins with '%'"),
        ("\x1b[31m\ud800", r"no trace begins with '\\x1b\[31m\\ud800'"),
        ("1" * 1000, f"no trace begins with '{'1' * 40}'"),
    ],
)
def test_a_prefix_of_no_trace_or_of_several_is_an_error(store, prefix, message):
    for start in ("1", "ab", "ac"):
        tracekit.span("x", parent=tracekit.SpanContext(f"{start:0<32}", "2" * 16, 1)).end()
    with pytest.raises(StoreError, match=message):
        store().spans(prefix)


def test_an_empty_file_has_no_traces_before_the_first_writer(store, path):
    path.touch()
    with SQLiteReader(path) as reader:
        assert (reader.counts(), reader.traces()) == ((0, 0, 0), [])
        with pytest.raises(StoreError, match="no trace begins with"):
            reader.spans("00")
        tracekit.span("x").end()
        tracekit.flush(60)
        assert reader.counts().spans == 1


def test_a_reader_changes_nothing_and_makes_no_file(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        SQLiteReader(tmp_path / "none.db")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_survives_values_of_another_program(store, path):
    tracekit.span("x").end()
    store()
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE spans SET name = x'ff00', service = 7, start_ns = 'soon', attributes = '[' || ?, events = '{}', links = 3.5",
        ("9" * 5000,),
    )
    connection.commit()
    connection.close()
    (span,) = store().spans(store().traces()[0].trace_id)
    assert (span.service, span.start_ns, span.attributes, span.events, span.links) == ("7", 0, {}, [], [])


# Values that JSON and SQLite cannot hold


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (-0.0, -0.0),
        (2**63 - 1, 2**63 - 1),
        (2**63, "0x8000000000000000"),
        (-(2**63) - 1, "-0x8000000000000001"),
        pytest.param(1 << 20000, "<int of 20001 bits>", id="a very long int"),
        (b"", {"base64": ""}),
        ("a\0b", "a\0b"),
        ("\ud83d\ude00", "😀"),
        ("\ud800x", "\ufffdx"),
        ({"\udc00": (1, [True, None])}, {"\ufffd": [1, [True, None]]}),
        ([[["deep", {}]]], [[["deep", None]]]),  # the core keeps three levels
    ],
)
def test_values_that_json_cannot_hold_are_converted(store, value, stored):
    tracekit.span("x", attributes={"v": value}).end()
    reader = store()
    (span,) = reader.spans(reader.traces()[0].trace_id)
    assert span.attributes == {"v": stored}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([63, 64, 20_000]).map(lambda bits: -(1 << bits) - 1),
    st.floats(),
    st.binary(max_size=8),
    st.text(st.characters(), max_size=8),  # including surrogates and NUL
)
texts = st.text(st.characters(), max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner),
        st.sets(st.integers(), max_size=3),
        st.dictionaries(texts, inner, max_size=4),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(texts, values, max_size=4), texts, texts)
def test_any_span_is_stored_as_valid_json_and_text(attributes, name, description):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "traces.db")
        exporter = SQLiteExporter(path)
        tracekit.configure(exporter=exporter, resource=attributes)
        with tracekit.span(name, attributes=attributes) as span:
            span.add_event(name, attributes)
            span.add_link(span, attributes)
            span.set_status("error", description)
        tracekit.shutdown(60)
        (row,) = rows(
            path, "SELECT name, description, attributes, events, links, labels, resource FROM spans, resources"
        )

    def constant(name):
        raise AssertionError(f"{name} is not JSON")

    documents = [json.loads(text, parse_constant=constant) for text in row[2:]]
    assert [type(document) for document in documents] == [dict, list, list, dict, dict]
    assert documents[0].keys() <= {clean(key) for key in attributes}
    assert documents[0] == documents[1][0]["attributes"] == documents[2][0]["attributes"]
    assert row[:2] == (clean(name).replace("\0", "\ufffd"), clean(description).replace("\0", "\ufffd"))


def clean(text):
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def test_text_columns_are_cut_and_times_are_clamped(store, path):
    tracekit.span("n" * 10_000, start_ns=10**30).end(10**31)
    store()
    ((name, start, end),) = rows(path, "SELECT name, start_ns, end_ns FROM spans")
    assert (len(name), start, end) == (4096, 2**63 - 1, 2**63 - 1)


def test_a_span_that_is_too_large_loses_its_bulk_which_is_counted(path):
    tracekit.configure(exporter=SQLiteExporter(path, max_bytes=1 << 20), limits=tracekit.Limits(value_length=1 << 20))
    with tracekit.span("large", attributes={"big": "x" * 50_000, "small": 1}) as span:
        span.add_event("e")
    tracekit.span("next", attributes={"small": 1}).end()
    tracekit.flush(60)
    with SQLiteReader(path) as reader:
        next_one, large = (reader.spans(trace.trace_id)[0] for trace in reader.traces())
    assert (large.attributes, large.dropped_attributes, large.events, large.dropped_events) == ({}, 2, [], 1)
    assert next_one.attributes == {"small": 1}


# Several processes

WRITE = """
import sys, tracekit
from tracekit.exporters.sqlite import SQLiteExporter
path, service, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
tracekit.configure(service=service, exporter=SQLiteExporter(path, lock_timeout_s=60), export_interval_s=0.01)
for number in range(count // 2):
    with tracekit.span("parent"):
        tracekit.span("child", attributes={"number": number}).end()
    if number % 100 == 0:
        tracekit.flush(90)
tracekit.flush(90)
assert tracekit.statistics().exported == count, tracekit.statistics()
"""


def test_processes_write_one_file_concurrently_while_it_is_read(path):
    writers = [script(WRITE, path, f"writer-{number}", 3000) for number in range(5)]
    seen = []
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            with SQLiteReader(path) as reader:
                counts = reader.counts()
                seen.append(counts.spans)
                for trace in reader.traces(limit=3):
                    assert reader.spans(trace.trace_id)
        time.sleep(0)
    for writer in writers:
        finish(writer)
    with SQLiteReader(path) as reader:
        assert reader.counts() == Counts(traces=7500, spans=15000, orphans=0)
        assert {trace.service for trace in reader.traces(limit=7500)} == {f"writer-{number}" for number in range(5)}
    assert seen == sorted(seen)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


FORK = """
import os, sys, threading, tracekit
from tracekit.exporters.sqlite import SQLiteExporter
path = sys.argv[1]
tracekit.configure(service="parent", exporter=SQLiteExporter(path, lock_timeout_s=60), export_interval_s=0.001)
stop = threading.Event()
def work():
    while not stop.is_set():
        for _ in range(50):
            tracekit.span("parent's").end()
        tracekit.flush(60)
thread = threading.Thread(target=work)
thread.start()
children = []
for number in range(12):
    while tracekit.statistics().exported < 50 * number:
        pass
    pid = os.fork()
    if not pid:
        if number % 3 == 0:
            sys.exit(0)  # the exit of a child that never exports must not harm the parent's connection
        for _ in range(100):
            tracekit.span("child's").end()
        assert tracekit.flush(60)
        tracekit.shutdown(60)
        sys.exit(0 if tracekit.statistics().exported == 100 else 3)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
stop.set()
thread.join()
tracekit.flush(60)
tracekit.shutdown(60)
print(tracekit.statistics().exported, *codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forks_in_the_middle_lose_and_repeat_nothing(path):
    exported, *codes = map(int, finish(script(FORK, path)).split())
    assert codes == [0] * 12
    stored = dict(rows(path, "SELECT name, count(*) FROM spans GROUP BY name"))
    assert stored == {"parent's": exported, "child's": 800}
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT count(*) FROM (SELECT DISTINCT trace_id, span_id FROM spans)") == [(exported + 800,)]


FORK_AND_LET_GO = """
import os, sys, threading, types, tracekit
from tracekit.exporters import sqlite
from tracekit.exporters._sqlite import file as _sqlite_file
spans = []
tracekit.configure(exporter=types.SimpleNamespace(export=spans.extend, shutdown=lambda: None))
tracekit.span("x").end()
tracekit.flush(60)
exporter = sqlite.SQLiteExporter(sys.argv[1])
exporter.export(spans)
inherited = exporter._file._connection
forking, done = threading.Event(), []
os.register_at_fork(before=forking.set)  # runs before the exporter's hook, which was registered earlier
def write():
    with exporter._file.transaction() as connection:
        inside.set()
        forking.wait()
        connection.execute("UPDATE spans SET name = 'half'")
        connection.execute("UPDATE spans SET name = 'whole'")
    done.append(True)
inside = threading.Event()
thread = threading.Thread(target=write)
thread.start()
inside.wait()
pid = os.fork()
if not pid:
    wrong = not done, exporter._file._connection is not None, _sqlite_file._forks.inherited != [inherited], inherited.in_transaction
    exporter.export(spans)
    exporter.shutdown()
    wrong += (exporter._file._connection is inherited, inherited.execute("SELECT 1").fetchone() != (1,))  # not closed
    print(*map(int, wrong), flush=True)
    os._exit(0)
thread.join()
os.waitpid(pid, 0)
exporter.export(spans)
exporter.shutdown()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_waits_for_a_transaction_and_the_child_does_not_use_the_connection(path):
    assert finish(script(FORK_AND_LET_GO, path)).split() == ["0"] * 6
    assert rows(path, "SELECT name FROM spans ORDER BY id") == [("whole",), ("x",), ("x",)]


# Bounds


def test_the_file_stays_within_its_bound_and_keeps_the_newest_whole_traces(path):
    limit = 1 << 20
    failed = tracekit.statistics().failed
    tracekit.configure(service="shop", exporter=SQLiteExporter(path, max_bytes=limit), buffer_size=8192)
    largest = 0
    for number in range(30):
        for _ in range(100):
            with tracekit.span("root", attributes={"number": number, "text": "x" * 300}):
                for _ in range(2):
                    tracekit.span("child", attributes={"text": "y" * 200}).end()
        assert tracekit.flush(60)
        largest = max(largest, path.stat().st_size)
        assert total_bytes(path) <= 2 * limit
    assert tracekit.statistics().failed == failed
    assert limit // 2 < largest <= limit
    with SQLiteReader(path) as reader:
        counts = reader.counts()
        assert counts.orphans == 0
        assert counts.spans == 3 * counts.traces > 400
        numbers = {reader.spans(trace.trace_id)[0].attributes["number"] for trace in reader.traces(limit=counts.traces)}
    assert max(numbers) == 29
    assert numbers == set(range(min(numbers), 30))
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_batch_larger_than_the_file_leaves_its_newest_part(path):
    failed = tracekit.statistics().failed
    exporter = SQLiteExporter(path, max_bytes=1 << 20)
    tracekit.configure(exporter=exporter, buffer_size=8192, export_interval_s=3600)
    for number in range(4000):
        tracekit.span("x", attributes={"number": number, "text": "é" * 500}).end()
    assert tracekit.flush(60)
    assert tracekit.statistics().failed == failed
    assert path.stat().st_size <= 1 << 20
    assert rows(path, "SELECT max(attributes) FROM spans WHERE attributes LIKE '{\"number\":3999,%'") != [(None,)]


def test_eviction_from_a_large_store_takes_as_many_steps_as_from_a_small_one(path):
    # A query with both max() and min() reads the whole table.
    spans = []
    tracekit.configure(exporter=SimpleNamespace(export=spans.extend, shutdown=lambda: None), buffer_size=1 << 14)
    for _ in range(10_000):
        tracekit.span("work").end()
    assert tracekit.flush(60)
    exporter = SQLiteExporter(path)
    steps = []
    for part in (spans[:1000], spans[1000:]):
        exporter.export(part)
        with exporter._file.explained(), exporter._file.transaction("ROLLBACK") as connection:
            calls = []
            connection.set_progress_handler(lambda calls=calls: calls.append(1), 100)
            assert _delete_oldest(connection, 100).spans == 100
            connection.set_progress_handler(None, 0)
        steps.append(len(calls))
    exporter.shutdown()
    assert steps[1] < 1.3 * steps[0]


def test_one_endless_trace_loses_its_oldest_spans_only(path):
    tracekit.configure(exporter=SQLiteExporter(path, max_bytes=1 << 20), buffer_size=8192)
    with FakeClock() as clock:
        root = tracekit.span("endless")
        for number in range(3000):
            clock.tick(3600)
            tracekit.span("step", parent=root, attributes={"number": number, "text": "x" * 300}).end()
            if number % 500 == 499:
                assert tracekit.flush(60)
    numbers = [json.loads(text)["number"] for (text,) in rows(path, "SELECT attributes FROM spans ORDER BY id")]
    assert numbers == list(range(numbers[0], 3000))
    assert len(numbers) > 400


@pytest.fixture
def time_in_hand(monkeypatch):
    """The exporter's clocks: ``now.s`` is Unix time; the monotonic clock advances an hour with each call."""
    now = SimpleNamespace(s=1_700_000_000.0, monotonic=0.0)

    def monotonic():
        now.monotonic += 3600
        return now.monotonic

    clock = SimpleNamespace(time=lambda: now.s, monotonic=monotonic, sleep=time.sleep)
    monkeypatch.setattr("tracekit.exporters.sqlite.time", clock)
    return now


def test_old_spans_are_deleted_and_their_pages_given_back(path, time_in_hand):
    exporter = SQLiteExporter(path, max_age_s=3600)
    old, young = recorded("old", attributes={"text": "x" * 1000}), recorded("young")
    for _ in range(10):
        exporter.export([old] * 300)
    time_in_hand.s += 3599
    exporter.export([young])
    before = path.stat().st_size, rows(path, "SELECT count(*) FROM spans")
    time_in_hand.s += 2
    for _ in range(10):
        exporter.export([])
    exporter.shutdown()
    assert before[1] == [(3001,)]
    assert rows(path, "SELECT name FROM spans") == [("young",)]
    assert path.stat().st_size < before[0] / 4


def test_spans_that_a_clock_stored_that_was_ahead_are_as_old_as_the_next_ones(path, time_in_hand):
    exporter = SQLiteExporter(path, max_age_s=3600)
    time_in_hand.s += 10 * 365 * 86400
    exporter.export([recorded("ahead")] * 2500)
    time_in_hand.s -= 10 * 365 * 86400
    exporter.export([recorded("old")] * 2500)
    time_in_hand.s += 3599
    exporter.export([recorded("young")])
    before = rows(path, "SELECT name, count(*) FROM spans GROUP BY name")
    time_in_hand.s += 2
    exporter.export([])
    exporter.shutdown()
    assert before == [("ahead", 2500), ("old", 2500), ("young", 1)]
    assert rows(path, "SELECT name, count(*) FROM spans GROUP BY name") == [("young", 1)]


def test_a_smaller_bound_than_last_time_shrinks_the_file(path, time_in_hand):
    exporter = SQLiteExporter(path)
    span = recorded(attributes={"text": "x" * 1000})
    for _ in range(4):
        exporter.export([span] * 1000)
    exporter.shutdown()
    assert path.stat().st_size > 4 << 20
    exporter = SQLiteExporter(path, max_bytes=1 << 20)
    for _ in range(10):
        exporter.export([span])
    exporter.shutdown()
    assert path.stat().st_size <= 1 << 20


def test_a_reader_that_blocks_the_log_for_ever_cannot_fill_the_disk(path):
    exporter = SQLiteExporter(path, max_bytes=1 << 20, lock_timeout_s=0.1)
    span = recorded(attributes={"text": "x" * 1000})
    exporter.export([span])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM spans").fetchone()

    def fill():
        for _ in range(100):
            exporter.export([span] * 100)

    with pytest.raises(StoreError, match=r"a reader blocks the write-ahead log: .*: end what has a transaction open"):
        fill()
    assert total_bytes(path) < 3 << 20
    reader.close()
    exporter.export([span])
    exporter.shutdown()


# Failures: each is reported with its cause, and ends with it


def another_version(path):
    store_in(path, recorded())
    rows(path, "PRAGMA user_version = 7")
    return lambda: rows(path, "PRAGMA user_version = 6")


def damaged(path):
    store_in(path, *[recorded(attributes={"text": "x" * 1000})] * 200)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\x05" * (len(whole) - 100))
    return path.unlink


def locked(path):
    store_in(path, recorded())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


def locked_before_it_is_ours(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


FAILURES = [
    pytest.param(not_a_database, "not a SQLite database", "move that file away", id="not a database"),
    pytest.param(another_program, "another program's database", "name another path", id="another program's"),
    pytest.param(
        another_version, "has schema version 7, this tracekit knows 6", "the tracekit that wrote it", id="version"
    ),
    pytest.param(damaged, "damaged", "move it away", id="damaged"),
    pytest.param(directory_in_its_place, "is a directory", "name a file in it", id="directory"),
    pytest.param(locked, "locked by another process", "fuser or lsof", id="locked"),
    pytest.param(locked_before_it_is_ours, "locked by another process", "fuser or lsof", id="locked while new"),
]


@pytest.mark.parametrize(("spoil", "wrong", "way_out"), FAILURES)
def test_a_failure_names_cause_file_and_remedy_and_ends_with_its_cause(path, caplog, spoil, wrong, way_out):
    mend = spoil(path)
    tracekit.configure(exporter=SQLiteExporter(path, lock_timeout_s=0.01))
    before = tracekit.statistics()
    for _ in range(3):
        tracekit.span("lost").end()
        assert tracekit.flush(60)
    after = tracekit.statistics()
    assert (after.failed - before.failed, after.exported - before.exported) == (3, 0)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    message = record.getMessage()
    assert f"StoreError: {wrong}: {path}: " in message
    assert way_out in message
    mend()
    tracekit.span("kept").end()
    assert tracekit.flush(60)
    assert tracekit.statistics().exported - before.exported == 1
    tracekit.shutdown(60)
    assert ("kept",) in rows(path, "SELECT name FROM spans")


@pytest.mark.parametrize(("spoil", "wrong", "way_out"), FAILURES[:5])
def test_a_reader_reports_the_same_failure(path, spoil, wrong, way_out):
    spoil(path)
    with pytest.raises(StoreError, match=wrong) as caught, SQLiteReader(path) as reader:
        reader.traces()
    assert way_out in str(caught.value)


def test_another_programs_database_is_not_changed(path):
    another_program(path)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        store_in(path, recorded())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_directory_is_named_and_used_once_it_is_there(tmp_path):
    path = tmp_path / "later" / "traces.db"
    exporter = SQLiteExporter(path)
    with pytest.raises(StoreError, match=r"no such directory: .*traces\.db: make it first: mkdir -p .*later$"):
        exporter.export([recorded()])
    path.parent.mkdir()
    exporter.export([recorded()])
    exporter.shutdown()
    assert path.exists()


def test_a_path_in_a_message_cannot_control_the_terminal(tmp_path):
    with pytest.raises(StoreError) as caught:
        store_in(tmp_path / "\x1b[31m\n" / "x.db", recorded())
    assert str(caught.value).isprintable()


def test_a_file_that_is_removed_is_created_again(path):
    exporter = SQLiteExporter(path)
    exporter.export([recorded("before")])
    for file in path.parent.iterdir():
        file.unlink()
    exporter.export([recorded("after")])
    exporter.shutdown()
    assert rows(path, "SELECT name FROM spans") == [("after",)]


# Permissions do not apply to root, so the process below changes its user first.
READ_ONLY = """
import os, pathlib, sys, types
import tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError
directory = pathlib.Path(sys.argv[1])
spans = []
tracekit.configure(exporter=types.SimpleNamespace(export=spans.extend, shutdown=lambda: None))
tracekit.span("x").end()
tracekit.flush(60)
exporter = SQLiteExporter(directory / "traces.db")
exporter.export(spans)
exporter.shutdown()
os.chmod(directory / "traces.db", 0o444)
os.chmod(directory, 0o555)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for name in ("traces.db", "new.db"):
    try:
        SQLiteExporter(directory / name).export(spans)
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions work otherwise on this system")
def test_a_file_or_directory_without_permission_is_reported():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        lines = finish(script(READ_ONLY, directory)).splitlines()
        os.chmod(directory, 0o755)
    way_out = "make the file and its directory writable for this user, or name another path"
    assert lines == [
        f"read-only: {directory}/traces.db: {way_out}",
        f"no permission: {directory}/new.db: {way_out}",
    ]


READ = """
import os, pathlib, sys
import urllib.parse  # pathlib needs it from 3.13 on, and the other user may not be able to read it
import tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader
directory = pathlib.Path(sys.argv[1])
path = directory / "traces.db"

def write(name):
    tracekit.configure(exporter=SQLiteExporter(path, mode=0o644))
    tracekit.span(name).end()
    tracekit.flush(60)

write("first")
tracekit.shutdown(60)
os.chmod(directory, 0o555)
user = os.geteuid()
if user == 0:
    os.seteuid(65534)
reader = SQLiteReader(path)
print(reader.counts().spans)
os.seteuid(user)
os.chmod(directory, 0o755)
write("second")
print(reader.counts().spans)
reader.close()
tracekit.shutdown(60)
"""


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions work otherwise on this system")
def test_a_file_in_a_read_only_directory_is_read_and_followed_once_it_is_written():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        lines = finish(script(READ, directory)).splitlines()
    assert lines == ["1", "2"]


FULL = """
import resource, sys, tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader
tracekit.configure(exporter=SQLiteExporter(sys.argv[1]), export_interval_s=3600)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
for _ in range(20):
    for _ in range(100):
        tracekit.span("x", attributes={"text": "x" * 500}).end()
    tracekit.flush(60)
full = tracekit.statistics()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for _ in range(100):
    tracekit.span("after").end()
tracekit.flush(60)
tracekit.shutdown(60)
after = tracekit.statistics()
assert 0 < full.exported < full.failed, full
assert (after.exported - full.exported, after.failed) == (100, full.failed), after
with SQLiteReader(sys.argv[1]) as reader:
    assert reader.counts().spans == after.exported
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
def test_a_full_disk_only_loses_spans_that_do_not_fit(path):
    process = script(FULL, path)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (0, "done\n"), err
    (line,) = err.splitlines()  # once, for one cause
    assert line.startswith("SQLiteExporter failed, 100 spans lost: StoreError: ")
    assert f"{path}: " in line
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_full_file_system_is_distinguished_from_the_bound_of_the_file(path, monkeypatch):
    exporter = SQLiteExporter(path)
    exporter.export([recorded()])
    exporter._file._connection.execute("PRAGMA max_page_count = 1")  # no more pages, though far from max_bytes
    with pytest.raises(StoreError, match=r"no space left: .*: free some on its disk"):
        exporter.export([recorded(attributes={"text": "x" * 4000})] * 50)
    exporter.export([recorded()])
    exporter.shutdown()
    assert rows(path, "SELECT count(*) FROM spans") == [(2,)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": b"x"}, TypeError, "path must be str or a path, not bytes"),
        ({"path": 1}, TypeError, "int"),
        ({"path": ""}, ValueError, "path must name a file: ''"),
        ({"path": "a\0b"}, ValueError, "path must name a file"),
        ({"path": "\ud800"}, ValueError, r"path must name a file: '\\ud800'"),
        ({"max_age_s": "1"}, TypeError, "max_age_s must be a number, not str"),
        ({"max_age_s": True}, TypeError, "max_age_s must be a number, not bool"),
        ({"max_age_s": 0}, ValueError, "max_age_s must be above 0: 0"),
        ({"max_age_s": math.nan}, ValueError, "max_age_s must be above 0: nan"),
        ({"lock_timeout_s": -1}, ValueError, "lock_timeout_s must be above 0: -1"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes must be int, not float"),
        ({"max_bytes": 1000}, ValueError, "max_bytes must be at least 1048576: 1000"),
    ],
)
def test_invalid_options_are_reported(options, error, message):
    with pytest.raises(error, match=message):
        SQLiteExporter(**{"path": "traces.db", **options})


def test_a_relative_path_is_resolved_by_the_constructor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exporter = SQLiteExporter(":memory:")
    monkeypatch.chdir("/")
    exporter.export([recorded()])
    exporter.shutdown()
    assert (tmp_path / ":memory:").exists()


def test_a_probe_stores_a_span_and_leaves_nothing(path):
    exporter = SQLiteExporter(path)
    exporter.export([recorded("kept")])
    assert exporter.probe(recorded("probe", attributes={"n": 1})).attributes == {"n": 1}
    exporter.shutdown()
    assert rows(path, "SELECT name FROM spans") == [("kept",)]


def test_no_file_is_created_before_the_first_span(path):
    exporter = SQLiteExporter(path)
    exporter.shutdown()
    assert not path.exists()


def test_every_message_starts_with_its_cause(tmp_path):
    # The pipeline logs once per cause, the first characters of the message.
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    said = []
    for spoil in (not_a_database, another_program):
        mend = spoil(deep / "x.db")
        with pytest.raises(StoreError) as caught:
            store_in(deep / "x.db", recorded())
        said.append(str(caught.value)[:80])
        mend()
    assert len(set(said)) == 2
