"""Files that hold spans: permissions, other users' files, and files with a different schema."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracekit.exporters._otlp import outbox as _outbox
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters._sqlite import access
from tracekit.exporters._sqlite import file as _file
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError

from .test_otlp import made
from .test_otlp_requests import sized
from .test_outbox import adds_up, put, rows

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
def test_only_the_owner_may_read_a_new_file_its_log_and_its_index(make, tmp_path, open_umask):
    path = tmp_path / "file.db"
    keep = make(path)
    assert files_of(path) == {"file.db": 0o600, "file.db-wal": 0o600, "file.db-shm": 0o600}
    del keep


@posix
@pytest.mark.parametrize("make", KINDS)
def test_an_argument_sets_the_permissions_regardless_of_the_umask(make, tmp_path):
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
def test_the_permissions_of_an_existing_file_do_not_change(make, tmp_path):
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


def owned_by(monkeypatch, **owners):
    """Pretend that this process runs as user 1001, who owns all files except *owners*, by name without suffix."""
    lstat = os.lstat

    def found(name):
        result = lstat(name)
        return SimpleNamespace(st_mode=result.st_mode, st_uid=owners.get(Path(name).stem, 1001))

    monkeypatch.setattr(access.os, "geteuid", lambda: 1001)
    monkeypatch.setattr(access.os, "lstat", found)


@posix
@pytest.mark.parametrize("make", KINDS)
def test_a_link_to_another_users_file_is_not_followed(make, tmp_path, monkeypatch):
    (tmp_path / "theirs.db").touch()
    (tmp_path / "file.db").symlink_to(tmp_path / "theirs.db")
    owned_by(monkeypatch, theirs=1002)
    with pytest.raises(
        StoreError, match=r"another user's file: .*theirs\.db: name a path in a directory that is yours"
    ):
        make(tmp_path / "file.db")
    assert (tmp_path / "theirs.db").read_bytes() == b""


@posix
@pytest.mark.parametrize("make", KINDS)
def test_another_users_link_is_not_followed_but_for_roots(make, tmp_path, monkeypatch):
    (tmp_path / "mine.db").touch()
    (tmp_path / "file.db").symlink_to(tmp_path / "mine.db")
    owned_by(monkeypatch, file=1002)
    with pytest.raises(StoreError, match=r"a link of another user's: .*file\.db"):
        make(tmp_path / "file.db")
    assert (tmp_path / "mine.db").read_bytes() == b""
    monkeypatch.undo()
    owned_by(monkeypatch, file=0)
    keep = make(tmp_path / "file.db")
    del keep


@posix
@pytest.mark.parametrize("name", ["file.db", "file.db-wal", "file.db-shm", "file.db-journal"])
@pytest.mark.parametrize("make", KINDS)
def test_another_users_file_in_a_public_directory_is_not_used(make, name, tmp_path, monkeypatch):
    tmp_path.chmod(0o1777)
    (tmp_path / name).touch()
    owned_by(monkeypatch, file=1002)
    with pytest.raises(StoreError, match=rf"another user's file: .*{name}: "):
        make(tmp_path / "file.db")
    tmp_path.chmod(0o700)
    keep = make(tmp_path / "file.db")  # a private directory may be shared deliberately
    del keep


@posix
@pytest.mark.parametrize("make", KINDS)
def test_an_own_link_to_a_file_that_does_not_exist_is_followed(make, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "file.db"
    path.symlink_to(tmp_path / "elsewhere" / "real.db")
    keep = make(path)
    assert set(files_of(tmp_path / "elsewhere" / "real.db").values()) == {0o600}
    del keep


# ---- schemas


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
def test_other_tables_and_plain_indexes_are_ignored(make, table, tmp_path):
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


def test_a_call_may_interrupt_another_on_the_same_file_at_any_line_and_leaves_that_one_alone(tmp_path):
    """Like a signal handler or a finalizer; in a thread, so that a deadlock fails the test."""
    outbox = spool(tmp_path / "file.db")
    seen, said = set(), []

    def interrupt(frame, event, _):
        if frame.f_code.co_filename not in (_file.__file__, _outbox.__file__):
            return None
        line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line not in seen:
            seen.add(line)
            sys.settrace(None)
            for call in (outbox.ledger, lambda: put(outbox)):
                try:
                    call()
                except StoreError as error:
                    said.append(str(error))
            sys.settrace(interrupt)
        return interrupt

    def work():
        for call in (outbox.ledger, lambda: put(outbox), lambda: outbox.sent(outbox.take(60)), outbox.due_s):
            sys.settrace(interrupt)
            try:
                call()
            finally:
                sys.settrace(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(seen) > 50
    assert {line.partition(": ")[0] for line in said} == {"in use by the call that this one interrupts"}
    ledger = outbox.ledger()
    assert adds_up(ledger)
    assert ledger.sent == 1
    outbox.close()


# ---- a span that cannot be stored


def test_a_span_that_cannot_be_stored_does_not_lose_its_batch(tmp_path, monkeypatch, caplog):
    from tracekit.exporters import sqlite

    row = sqlite._row
    monkeypatch.setattr(sqlite, "_row", lambda span, *rest: 1 / 0 if span.name == "job 1" else row(span, *rest))
    spans = made(3)
    exporter = SQLiteExporter(tmp_path / "file.db")
    exporter.export(spans)
    assert exporter.account().failed == 1
    exporter.shutdown()
    assert [name for (name,) in rows(tmp_path / "file.db", "SELECT name FROM spans")] == ["job 0", "job 2"]
    assert "1 span lost: ZeroDivisionError" in caplog.text


def test_a_value_that_sqlite_has_no_type_for_does_not_lose_the_batch(tmp_path, monkeypatch):
    from tracekit.exporters import sqlite

    row = sqlite._row
    odd = {"job 2": 1 << 80, "job 5": object()}
    monkeypatch.setattr(
        sqlite, "_row", lambda span, *rest: (*row(span, *rest)[:-1], odd.get(span.name, span.truncated_values))
    )
    exporter = SQLiteExporter(tmp_path / "file.db")
    exporter.export(made(8))
    assert exporter.account().failed == 2
    exporter.shutdown()
    names = [name for (name,) in rows(tmp_path / "file.db", "SELECT name FROM spans")]
    assert names == [f"job {at}" for at in (0, 1, 3, 4, 6, 7)]


def test_spans_stored_before_a_failure_are_not_counted_as_failed(tmp_path, monkeypatch, caplog):
    exporter = SQLiteExporter(tmp_path / "file.db", max_bytes=1 << 20)
    write, calls = exporter._write, []

    def fail_second(insert, written, size):
        calls.append(len(written))
        if len(calls) == 2:
            raise sqlite3.OperationalError("disk I/O error")
        write(insert, written, size)

    monkeypatch.setattr(exporter, "_write", fail_second)
    exporter.export(sized(*[3000] * 80))
    assert 0 < exporter.account().failed == 80 - calls[0]
    assert rows(tmp_path / "file.db", "SELECT count(*) FROM spans") == [(calls[0],)]
    calls[:] = [0]
    with pytest.raises(StoreError):
        exporter.export(made(2))
    assert exporter.account().failed == 80 - len(rows(tmp_path / "file.db", "SELECT 1 FROM spans"))
    exporter.shutdown()
