"""Files that hold spans: who may read them, whose files are left alone, and what of them is believed."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

import tracekit
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters._sqlite import access
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError
from tracekit.testing import MemoryExporter

from .test_otlp import made
from .test_outbox import put, rows

posix = pytest.mark.skipif(os.name == "nt", reason="permissions and owners are POSIX's")


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def store(path, **options):
    exporter = SQLiteExporter(path, **options)
    exporter.export(made(3))
    return exporter


def spool(path, **options):
    outbox = Outbox(path, **options)
    put(outbox)
    return outbox


def files_of(path):
    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob(f"{path.name}*")}
    assert path.name in found
    return found


KINDS = [pytest.param(store, id="store"), pytest.param(spool, id="spool")]


# ---- permissions


@posix
@pytest.mark.parametrize("make", KINDS)
def test_a_new_file_its_log_and_the_index_of_that_are_its_owners_alone(make, tmp_path, open_umask):
    path = tmp_path / "file.db"
    keep = make(path)
    assert files_of(path) == {"file.db": 0o600, "file.db-wal": 0o600, "file.db-shm": 0o600}
    del keep


@posix
@pytest.mark.parametrize("make", KINDS)
def test_an_argument_opens_them_whatever_the_umask_is(make, tmp_path):
    path = tmp_path / "file.db"
    before = os.umask(0o077)
    try:
        keep = make(path, mode=0o640)
    finally:
        os.umask(before)
    assert set(files_of(path).values()) == {0o640}
    del keep


@posix
def test_an_exporter_passes_the_argument_to_its_spool(tmp_path):
    exporter = OTLPExporter("http://127.0.0.1:9", environ={}, spool=tmp_path / "spool.db", spool_mode=0o660)
    exporter.export(made())
    assert files_of(tmp_path / "spool.db")["spool.db"] == 0o660
    exporter.hurry()


@posix
@pytest.mark.parametrize("make", KINDS)
def test_the_permissions_of_a_file_that_is_there_are_the_users_own(make, tmp_path):
    path = tmp_path / "file.db"
    path.touch(mode=0o644)
    path.chmod(0o644)
    keep = make(path)
    assert files_of(path)["file.db"] == 0o644
    del keep


@pytest.mark.parametrize(
    ("mode", "error"), [("0600", TypeError), (True, TypeError), (0o400, ValueError), (0o4600, ValueError)]
)
def test_wrong_permissions_are_an_error_of_the_constructor(mode, error, tmp_path):
    for make in (SQLiteExporter, Outbox):
        with pytest.raises(error, match="mode must be "):
            make(tmp_path / "file.db", mode=mode)
    with pytest.raises(error, match="mode must be "):
        OTLPExporter(environ={}, spool=tmp_path / "file.db", spool_mode=mode)


# ---- other users' files


@pytest.fixture
def somebody_else(monkeypatch):
    """From here on, all that is on the disk belongs to another user."""

    def become():
        monkeypatch.setattr(access.os, "geteuid", lambda: os.getuid() + 1)

    return become


@posix
@pytest.mark.parametrize("make", KINDS)
def test_a_link_to_another_users_file_is_not_followed(make, tmp_path, somebody_else, monkeypatch):
    path = tmp_path / "file.db"
    theirs = tmp_path / "theirs.db"
    theirs.touch()
    path.symlink_to(theirs)
    link = os.lstat(path)
    lstat = os.lstat

    def mine(name):
        return link if Path(name) == path else lstat(name)

    keep = make(tmp_path / "own.db")
    monkeypatch.setattr(access.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(access.os, "lstat", lambda name: _Owned(lstat(name), Path(name) == path))
    with pytest.raises(
        StoreError, match=r"another user's file: .*theirs\.db: name a path in a directory that is yours"
    ):
        make(path)
    assert theirs.read_bytes() == b""
    del keep, mine


class _Owned:
    """A stat result of this user's, or not."""

    def __init__(self, result, is_mine):
        self.st_mode = result.st_mode
        self.st_uid = os.getuid() + is_mine


@posix
@pytest.mark.parametrize("make", KINDS)
def test_another_users_link_is_not_followed(make, tmp_path, monkeypatch):
    path = tmp_path / "file.db"
    (tmp_path / "mine.db").touch()
    path.symlink_to(tmp_path / "mine.db")
    lstat = os.lstat
    monkeypatch.setattr(access.os, "geteuid", lambda: 1001)
    monkeypatch.setattr(access.os, "lstat", lambda name: _With(lstat(name), 1002 if Path(name) == path else 1001))
    with pytest.raises(StoreError, match=r"a link of another user's: .*file\.db"):
        make(path)
    monkeypatch.undo()
    assert (tmp_path / "mine.db").read_bytes() == b""


class _With:
    def __init__(self, result, owner):
        self.st_mode = result.st_mode
        self.st_uid = owner


@posix
@pytest.mark.parametrize("name", ["file.db", "file.db-wal", "file.db-shm", "file.db-journal"])
@pytest.mark.parametrize("make", KINDS)
def test_where_everybody_may_write_another_users_file_is_not_taken(make, name, tmp_path, monkeypatch):
    tmp_path.chmod(0o1777)
    (tmp_path / name).touch()
    monkeypatch.setattr(access.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StoreError, match=rf"another user's file: .*{name}: "):
        make(tmp_path / "file.db")
    tmp_path.chmod(0o700)
    keep = make(tmp_path / "file.db")  # a directory that users share on purpose
    del keep


@posix
@pytest.mark.parametrize("make", KINDS)
def test_a_link_of_ones_own_is_followed_to_a_file_that_is_still_to_be_made(make, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "file.db"
    path.symlink_to(tmp_path / "elsewhere" / "real.db")
    keep = make(path)
    assert set(files_of(tmp_path / "elsewhere" / "real.db").values()) == {0o600}
    del keep


# ---- what of a file is believed


SWALLOW = "CREATE TRIGGER swallow BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END"
SPOILED = [
    (SWALLOW, "has a trigger swallow that is not tracekit's"),
    ("CREATE UNIQUE INDEX one ON {table} ({column})", "has a index one that is not tracekit's"),
    ("ALTER TABLE {table} ADD COLUMN x CHECK (x = 1)", "has a table {table} that is not tracekit's"),
    ("ALTER TABLE {table} RENAME TO theirs", "its tables are not as tracekit makes them"),
    (
        "ALTER TABLE {table} RENAME TO theirs; CREATE VIEW {table} AS SELECT * FROM theirs",
        "has a view {table} that is not tracekit's",
    ),
    ("DROP TABLE {table}", "its tables are not as tracekit makes them"),
]


@pytest.mark.parametrize(("spoil", "wrong"), SPOILED)
@pytest.mark.parametrize(("make", "table", "column"), [(store, "spans", "kind"), (spool, "batches", "spans")])
def test_a_file_whose_tables_are_not_tracekits_is_not_used(make, table, column, spoil, wrong, tmp_path):
    path = tmp_path / "file.db"
    keep = make(path)
    keep.shutdown() if make is store else keep.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA legacy_alter_table=ON")
    if "UNIQUE" in spoil:
        connection.execute(f"DELETE FROM {table}")
    connection.executescript(spoil.format(table=table, column=column))
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        make(path)
    assert str(caught.value).startswith(wrong.format(table=table))
    assert path.read_bytes() == before
    if make is store:
        with pytest.raises(StoreError):
            SQLiteReader(path)


@pytest.mark.parametrize(("make", "table"), [(store, "spans"), (spool, "batches")])
def test_what_a_user_adds_beside_the_tables_is_left_alone(make, table, tmp_path):
    path = tmp_path / "file.db"
    make(path)
    rows(path, "CREATE TABLE notes (x)")
    rows(path, "CREATE TRIGGER t AFTER INSERT ON notes BEGIN SELECT 1; END")
    rows(path, f"CREATE INDEX faster ON {table} (id)")
    rows(path, f"CREATE VIEW mine AS SELECT * FROM {table}")
    make(path)
    assert rows(path, f"SELECT count(*) FROM {table}") == [(6 if make is store else 2,)]


def test_nothing_that_a_file_defines_is_trusted(tmp_path):
    exporter = store(tmp_path / "file.db")
    assert exporter._file._connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    with SQLiteReader(tmp_path / "file.db") as reader:
        assert reader._connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


# ---- a call that interrupts another


def test_a_call_that_interrupts_another_on_the_same_file_fails_and_leaves_that_one_alone(tmp_path):
    """As a signal handler or a finaliser does; in a thread, so that a dead lock fails the test."""
    outbox = spool(tmp_path / "file.db")
    said = []

    def work():
        with outbox._file.explained(), outbox._file.transaction() as connection:
            for call in (outbox.ledger, lambda: put(outbox)):
                with pytest.raises(StoreError, match="in use by the call that this one interrupts"):
                    call()
            connection.execute("UPDATE ledger SET evicted = 0")
        said.append(outbox.ledger())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert [ledger.put for ledger in said] == [1]
    outbox.close()


# ---- a span that cannot be stored


def test_a_span_that_cannot_be_stored_costs_itself_alone(tmp_path, monkeypatch, caplog):
    from tracekit.exporters import sqlite

    row = sqlite._row
    monkeypatch.setattr(sqlite, "_row", lambda span, *rest: 1 / 0 if span.name == "job 1" else row(span, *rest))
    spans = made(3)
    exporter = SQLiteExporter(tmp_path / "file.db")
    exporter.export(spans)
    assert exporter.account().failed == 1
    exporter.shutdown()
    assert [name for (name,) in rows(tmp_path / "file.db", "SELECT name FROM spans")] == ["job 0", "job 2"]
    assert "1 spans lost: ZeroDivisionError" in caplog.text


def test_a_span_that_sqlite_has_no_type_for_costs_itself_alone(tmp_path, monkeypatch):
    from tracekit.exporters import sqlite

    monkeypatch.setattr(sqlite, "_int64", lambda number: number or number)
    memory = MemoryExporter()
    tracekit.configure(exporter=memory)
    for name, kind in (("a", 5), ("b", 1 << 80), ("c", 6)):
        with monkeypatch.context() as patch:
            patch.setattr(tracekit.testing, "flush", lambda _: True)
            tracekit.span(name, attributes={"kind": kind}).end()
    row = sqlite._row
    monkeypatch.setattr(sqlite, "_row", lambda span, *rest: (*row(span, *rest)[:-1], span.attributes["kind"]))
    exporter = SQLiteExporter(tmp_path / "file.db")
    exporter.export(memory.spans)
    assert exporter.account().failed == 1
    exporter.shutdown()
    assert [name for (name,) in rows(tmp_path / "file.db", "SELECT name FROM spans")] == ["a", "c"]
