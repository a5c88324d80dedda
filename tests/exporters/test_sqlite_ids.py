"""Ids of rows in the store: never used again, whoever deletes the newest rows."""

import sqlite3
from itertools import pairwise

import pytest

from tracekit.exporters._sqlite.logs import StoredLog
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError
from tracekit.ui.queries import Queries

from .files import rows
from .test_sqlite import recorded


def change(path, statement):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()


def by_the_exporter(exporter, trace_id):
    exporter.delete([trace_id])


def of_all(exporter, trace_id):
    exporter.delete([], before_ns=1 << 62)


def by_another_program(exporter, trace_id):
    for table in ("spans", "logs"):
        change(exporter.path, f"DELETE FROM {table}")


def log(trace_id):
    values = dict.fromkeys(StoredLog._fields, "") | {
        "trace_id": trace_id,
        "time_ns": 0,
        "severity": 9,
        "body": '"b"',
        "attributes": "{}",
        "dropped_attributes": 0,
    }
    return (0, *values.values())


@pytest.mark.parametrize("delete", [by_the_exporter, of_all, by_another_program])
def test_the_ids_of_deleted_rows_are_not_used_again(tmp_path, delete):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    seen = {"spans": [], "logs": []}
    for _ in range(3):
        span = recorded()
        exporter.export([span] * 3)
        exporter.store_logs([log(span.context.trace_id)] * 3, 1000)
        for table, ids in seen.items():
            ids += [id for (id,) in rows(exporter.path, f"SELECT id FROM {table} ORDER BY id")]
        delete(exporter, span.context.trace_id)
        assert rows(exporter.path, "SELECT count(*) FROM spans") == [(0,)]
    exporter.shutdown()
    for ids in seen.values():
        assert len(ids) == 9
        assert all(a < b for a, b in pairwise(ids))


def test_rows_that_another_program_inserted_keep_their_ids(tmp_path):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    exporter.export([recorded("ours")])
    change(exporter.path, "UPDATE spans SET id = 70")
    exporter.export([recorded("next")])
    exporter.shutdown()
    assert rows(exporter.path, "SELECT id, name FROM spans ORDER BY id") == [(70, "ours"), (71, "next")]


SPOILT = [
    "DELETE FROM last_ids",
    "UPDATE last_ids SET spans = 'x'",
    "UPDATE last_ids SET logs = 1.5",
    "UPDATE last_ids SET spans = -1",
    f"UPDATE last_ids SET spans = {2**63 - 1}",
    "UPDATE last_ids SET store = x'00'",
    "INSERT INTO last_ids VALUES ('', 0, 0)",
]


@pytest.mark.parametrize("statement", SPOILT)
def test_ids_that_are_spoilt_while_the_store_is_open_are_a_store_error(tmp_path, statement):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    exporter.export([recorded()])
    reader = Queries(exporter.path)
    change(exporter.path, statement)
    for call in (reader.last_ids, lambda: exporter.export([recorded()])):
        with pytest.raises(StoreError, match="damaged"):
            call()
    assert rows(exporter.path, "SELECT count(*) FROM spans") == [(1,)]
    reader.close()
    exporter.shutdown()


def test_a_row_with_the_largest_id_leaves_none_for_the_next(tmp_path):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    exporter.export([recorded()])
    change(exporter.path, f"UPDATE spans SET id = {2**63 - 1}")
    with pytest.raises(StoreError, match="damaged"):
        exporter.export([recorded()])
    assert rows(exporter.path, "SELECT count(*) FROM spans") == [(1,)]
    exporter.shutdown()


@pytest.mark.parametrize("statement", SPOILT)
def test_a_store_without_its_last_ids_is_damaged(tmp_path, statement):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    exporter.export([recorded()])
    exporter.shutdown()
    change(exporter.path, statement)
    with pytest.raises(StoreError, match="damaged") as raised:
        SQLiteReader(exporter.path)
    assert raised.value.is_damaged
    with pytest.raises(StoreError, match="damaged"):
        exporter.export([recorded()])
    exporter.shutdown()


def test_a_rolled_back_batch_takes_no_ids(tmp_path):
    exporter = SQLiteExporter(tmp_path / "traces.db")
    exporter.export([recorded()])
    exporter.probe(recorded())
    exporter.shutdown()
    assert rows(exporter.path, "SELECT spans FROM last_ids") == [(1,)]
