"""A durable queue of encoded batches on their way to a collector, in one SQLite file that processes share.

How it works: a batch is one row, deleted once the collector has taken it. A sender takes a row with a lease; if it
dies, the lease ends and another sender takes the row, so that every batch arrives at least once. Each batch has a time
before which it is not tried again and a count of its failures, so one that the collector never takes holds up no other.
A ledger in the same file changes in the same transactions: it adds up whenever and wherever a process is killed.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from ..._core.checks import check_int
from .._sqlite.errors import StoreError, damaged, is_full, path_of
from .._sqlite.file import MIN_BYTES, SQLiteFile
from .._sqlite.schema import Schema, is_one_row_of_counts
from .requests import Batch, Ledger

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

MAX_LEASE_S = 3600.0
MAX_FAILURES = 32

_IS_SOUND = is_one_row_of_counts("ledger", "put", "sent", "rejected", "evicted")
_SCHEMA = Schema(
    application_id=0x74726B6F,  # "trko"
    version=2,
    create=(
        # The ids grow in order of arrival.
        """CREATE TABLE batches (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            spans INTEGER NOT NULL,
            content_type TEXT NOT NULL,
            content_encoding TEXT NOT NULL,
            body BLOB NOT NULL
        )""",
        # A row for each batch that was ever taken; not in batches, whose long rows would be rewritten each time. The
        # batch can be taken again at until_s, Unix time. *sent* is the ledger's value at its last counted failure.
        """CREATE TABLE leases (
            id INTEGER PRIMARY KEY,
            attempts INTEGER NOT NULL,
            is_held INTEGER NOT NULL,
            until_s REAL NOT NULL,
            failures INTEGER NOT NULL,
            sent INTEGER NOT NULL,
            is_aside INTEGER NOT NULL
        )""",
        "CREATE TABLE ledger (put INTEGER, sent INTEGER, rejected INTEGER, evicted INTEGER)",
        "INSERT INTO ledger VALUES (0, 0, 0, 0)",
        # Ids start at a random number: an id from a file that was removed must not match one in its successor.
        "INSERT INTO sqlite_sequence VALUES ('batches', random() & 0x3fffffffffffffff)",
    ),
    check=f"SELECT max({_IS_SOUND}) FROM ledger",
)
# Ignore leases that end too far in the future: the wall clock must have jumped.
_WAITS = f"(until_s > :now_s AND until_s <= :now_s + {MAX_LEASE_S})"
_QUEUE = "FROM batches LEFT JOIN leases USING (id)"
_IS_ASIDE = "coalesce(is_aside, 0)"
_IS_HELD = f"coalesce(is_held AND {_WAITS}, 0)"
# Another program may have put anything into any column.
_COLUMNS = (
    "batches.id, CAST(body AS BLOB), CAST(spans AS INTEGER), CAST(content_type AS TEXT), CAST(content_encoding AS TEXT),"
    " min(coalesce(CAST(attempts AS INTEGER), 0), 1 << 62), coalesce(CAST(failures AS INTEGER), 0)"
)
_TAKE = (
    f"SELECT {_COLUMNS} {_QUEUE} WHERE batches.id > :after AND NOT {_IS_ASIDE}"
    f" AND NOT CASE WHEN :early THEN {_IS_HELD} ELSE coalesce({_WAITS}, 0) END ORDER BY batches.id LIMIT 1"
)
_DUE = (
    f"SELECT min(CASE WHEN coalesce({_WAITS}, 0) THEN until_s - :now_s ELSE 0 END) {_QUEUE}"
    f" WHERE NOT {_IS_ASIDE} AND NOT {_IS_HELD}"
)
# The batch to evict: one that was set aside, else the oldest that is not being sent, else the oldest.
_EXPENDABLE = (
    "SELECT id, length(body) FROM leases JOIN batches USING (id) WHERE is_aside ORDER BY id LIMIT 1",
    f"SELECT batches.id, length(body) {_QUEUE} WHERE NOT {_IS_HELD} ORDER BY batches.id LIMIT 1",
    "SELECT id, length(body) FROM batches ORDER BY id LIMIT 1",
)

_MIN_ROOM = 1 << 16  # for the pages that every change touches
_KEEP_PAGES, _STEP, _FIRST_STEP = 256, 500, 16


_Row: TypeAlias = tuple[int | None, int, str, str, bytes]  # of batches; None for the next id


class Outbox:
    """The outbox at *path*, created at first use; shared by any number of threads and processes.

    File and write-ahead log together stay below *max_bytes* (at least 1 MiB), and leave 1/32 of that free on the disk:
    batches that were set aside, then the oldest that are not being sent, are evicted and counted. A call waits for
    other processes for at most *lock_timeout_s*. A new file gets the permissions *mode*. All methods raise
    ``StoreError``; the next call opens the file again.

    Batches outlast the process, however it ends. A power failure may lose the last batches and restore some that were
    sent already, but does not damage the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 256 * 2**20,
        lock_timeout_s: float = 5.0,
        mode: int = 0o600,
    ) -> None:
        check_int("max_bytes", max_bytes, MIN_BYTES)
        self._file = SQLiteFile(
            path,
            _SCHEMA,
            # The remainder is for the index of the log (-shm).
            max_bytes=max_bytes // 32 * 23,
            max_log_bytes=max_bytes // 4,
            lock_timeout_s=lock_timeout_s,
            mode=mode,
        )
        self.max_body_bytes = max_bytes // 8
        self._spare = max_bytes // 32
        self._is_closed = False
        self.path = self._file.path

    def put(self, body: bytes, *, spans: int, content_type: str, content_encoding: str) -> int:
        """Store *body*, of at most 1/8 of ``max_bytes``, which holds *spans*; return all evicted spans so far."""
        if len(body) > self.max_body_bytes:
            raise StoreError(
                "a batch is too large for the spool",
                self.path,
                "raise spool_bytes to 8 times its size, or lower tracekit.Limits",
            )
        row = (None, spans, content_type, content_encoding, body)
        need = _room(len(body))
        with self._file.explained():
            for evicted_bytes in (0, 2 * need, None):  # first without evicting
                try:
                    return self._insert(row, need)
                except sqlite3.OperationalError as error:
                    if not is_full(error) or evicted_bytes is None:
                        raise
                    if evicted_bytes and not self._file.can_make_room(2 * need + self._spare):
                        raise  # other files fill the disk: evicting all batches would not help
                self._shrink(evicted_bytes)
        raise AssertionError("the last try returns or raises")

    def take(self, lease_s: float, *, after: int = 0, early: bool = False) -> Batch | None:
        """Return the oldest batch with an id above *after* that may be sent now, leased for *lease_s*.

        *lease_s* is at most ``MAX_LEASE_S``. With *early*, batches that wait for their next try count as well. The
        caller ends the lease with ``sent``, ``rejected``, ``failed``, ``replace`` or ``give_back``.
        """
        if not 0 < lease_s <= MAX_LEASE_S:
            raise ValueError(f"lease_s must be above 0 and at most {MAX_LEASE_S}: {lease_s}")
        with self._file.explained():
            try:
                return self._take(lease_s, after, early)
            except sqlite3.OperationalError as error:
                if not is_full(error):
                    raise
            self._file.checkpoint()
            return self._take(lease_s, after, early)

    def due_s(self) -> float | None:
        """Return the seconds until the next batch may be taken, or None if every batch is being sent or set aside."""
        with self._file.explained(), self._file.snapshot() as connection:
            self._check_open()
            (due_s,) = connection.execute(_DUE, {"now_s": time.time()}).fetchone()
            return None if due_s is None else max(0.0, due_s)

    def sent(self, batch: Batch, *, rejected: int = 0) -> None:
        """Delete *batch*, which the collector accepted except for *rejected* spans, unless it is gone already."""
        with self._file.explained(), self._transaction() as connection:
            spans = _delete(connection, batch.id)
            rejected = max(0, min(rejected, spans))  # a number from the collector
            _count(connection, "sent", spans - rejected)
            _count(connection, "rejected", rejected)

    def rejected(self, batch: Batch) -> None:
        """Delete *batch*, which the collector rejected, unless it is gone already."""
        self.sent(batch, rejected=batch.spans)

    def give_back(self, batch: Batch, *, delay_s: float = 0.0) -> None:
        """End this lease on *batch*, which can be taken again after *delay_s*, at most ``MAX_LEASE_S``."""
        with self._file.explained(), self._transaction() as connection:
            _give_back(connection, batch, delay_s)

    def failed(self, batch: Batch, *, delay_s: float) -> bool:
        """Give *batch* back after a failure; return True if that sets it aside.

        A failure counts only if spans of other batches were sent since the last one: in an outage, however long, the
        batch is not at fault. The ``MAX_FAILURES``-th counted failure sets it aside.
        """
        with self._file.explained(), self._transaction() as connection:
            if not _give_back(connection, batch, delay_s):
                return False
            connection.execute(
                "UPDATE leases SET failures = failures + 1, is_aside = failures + 1 >= ?,"
                " sent = (SELECT sent FROM ledger) WHERE id = ? AND sent < (SELECT sent FROM ledger)",
                (MAX_FAILURES, batch.id),
            )
            return bool(connection.execute("SELECT is_aside FROM leases WHERE id = ?", (batch.id,)).fetchone()[0])

    def readmit(self) -> None:
        """Return the batches that were set aside to the queue, for one more try."""
        with self._file.explained(), self._transaction() as connection:
            connection.execute(
                "UPDATE leases SET is_aside = 0, failures = ?, until_s = 0 WHERE is_aside", (MAX_FAILURES - 1,)
            )

    def replace(self, batch: Batch, parts: Sequence[tuple[bytes, int]]) -> None:
        """Replace *batch* by *parts*, bodies with their span counts; the remaining spans of *batch* are rejected.

        The first part keeps the id, and with it the position. Without a valid lease nothing changes.
        """
        need = _room(sum([len(body) for body, _ in parts]))
        with self._file.explained(), self._transaction(need) as connection:
            if not _give_back(connection, batch, 0.0):
                return
            # The number of attempts stays: it distinguishes a lease on the whole from one on the first part.
            connection.execute("UPDATE leases SET until_s = 0, failures = 0, sent = -1 WHERE id = ?", (batch.id,))
            connection.execute("DELETE FROM batches WHERE id = ?", (batch.id,))
            if not parts:
                connection.execute("DELETE FROM leases WHERE id = ?", (batch.id,))
            _count(connection, "rejected", max(0, batch.spans - sum([count for _, count in parts])))
            while self._file.room(connection) < need and _evict(connection):
                pass
            id: int | None = batch.id
            for body, count in parts:
                _put(connection, (id, count, batch.content_type, batch.content_encoding, body))
                id = None

    def set_aside(self) -> str | None:
        """Rename the damaged file, so that the next call creates a new one; return the new name, or None."""
        return self._file.set_aside()

    def ledger(self) -> Ledger:
        """Return the ledger."""
        with self._file.explained(), self._file.snapshot() as connection:
            self._check_open()
            rows = connection.execute(
                f"SELECT {_IS_ASIDE} <> 0, sum(CAST(spans AS INTEGER)), sum(length(CAST(body AS BLOB))) {_QUEUE} GROUP BY 1"
            ).fetchall()
            spans, sizes = {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}
            return Ledger._make((*_totals(connection), spans.get(0, 0), sizes.get(0, 0), spans.get(1, 0)))

    def close(self) -> None:
        """Close the file permanently; batches leased by this process wait until their leases end."""
        self._is_closed = True
        self._file.close()

    @contextmanager
    def _transaction(self, log_bytes: int = 0) -> Iterator[sqlite3.Connection]:
        with self._file.transaction(log_bytes=log_bytes) as connection:
            self._check_open()
            yield connection

    def _check_open(self) -> None:
        # Inside the transaction, which opens the file again after a close() in another thread: this error closes it.
        if self._is_closed:
            raise StoreError("the outbox is closed", self.path, "make another one")

    def _insert(self, row: _Row, need: int) -> int:
        with self._transaction(need) as connection:
            # On a full disk nothing could be sent either: the log could not be moved into the file.
            self._file.check_disk(2 * need + self._spare)
            while self._file.room(connection) < need and _evict(connection):
                pass
            _put(connection, row)
            _count(connection, "put", row[1])
            pages, free = self._file.pages(connection)
            if self._file.is_too_large(pages):
                self._file.give_back(connection, min(free, _STEP))
            return _totals(connection)[3]

    def _take(self, lease_s: float, after: int, early: bool) -> Batch | None:
        with self._transaction(_MIN_ROOM) as connection:
            # Without room to record it as sent, the batch would be sent again and again.
            self._file.check_disk(2 * _MIN_ROOM)
            now_s = time.time()
            row = connection.execute(_TAKE, {"now_s": now_s, "after": after, "early": early}).fetchone()
            if row is None:
                free = self._file.pages(connection)[1]
                self._file.give_back(connection, min(max(0, free - _KEEP_PAGES), _STEP))
                return None
            batch = Batch._make(row)
            connection.execute(
                "INSERT INTO leases VALUES (?, ?, 1, ?, 0, -1, 0) ON CONFLICT (id) DO UPDATE"
                " SET attempts = excluded.attempts, is_held = 1, until_s = excluded.until_s",
                (batch.id, batch.attempts + 1, now_s + lease_s),
            )
            return batch

    def _shrink(self, evicted_bytes: int) -> None:
        """Give free pages back to the file system, after evicting batches of *evicted_bytes*.

        In growing steps: each step itself needs room, of which there is little at first.
        """
        for doublings in range(16):
            self._file.checkpoint()
            with self._transaction() as connection:
                while evicted_bytes > 0 and (gone := _evict(connection)):
                    evicted_bytes -= gone
                free = self._file.pages(connection)[1]
                if not free:
                    return
                self._file.give_back(connection, min(free, _FIRST_STEP << doublings))


def _room(size: int) -> int:
    """Return the bytes that storing a body of *size* takes, including all other pages that change."""
    return size + size // 128 + _MIN_ROOM


def _count(connection: sqlite3.Connection, column: str, spans: int) -> None:
    added = f"UPDATE ledger SET {column} = {column} + ? WHERE {_IS_SOUND}"
    if spans and connection.execute(added, (spans,)).rowcount != 1:
        raise damaged(path_of(connection))


def _totals(connection: sqlite3.Connection) -> tuple[int, int, int, int]:
    """Return the numbers of spans put, sent, rejected and evicted."""
    row = connection.execute(f"SELECT put, sent, rejected, evicted FROM ledger WHERE {_IS_SOUND}").fetchone()
    if row is None:
        raise damaged(path_of(connection))
    put, sent, rejected, evicted = row
    return put, sent, rejected, evicted


def _put(connection: sqlite3.Connection, row: _Row) -> None:
    connection.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", row)


def _give_back(connection: sqlite3.Connection, batch: Batch, delay_s: float) -> bool:
    """End the lease with which *batch* was taken; return False if it is over already."""
    given_back = connection.execute(
        "UPDATE leases SET is_held = 0, until_s = ? WHERE id = ? AND is_held AND attempts = ?",
        (time.time() + min(delay_s, MAX_LEASE_S), batch.id, batch.attempts + 1),
    )
    return given_back.rowcount == 1


def _evict(connection: sqlite3.Connection) -> int:
    """Evict a batch; return its bytes, 0 if none is left."""
    now_s = time.time()
    found = (connection.execute(query, {"now_s": now_s}).fetchone() for query in _EXPENDABLE)
    id, size = next(filter(None, found), (None, 0))
    if id is not None:
        _count(connection, "evicted", _delete(connection, id))
    return 0 if id is None else max(1, int(size))


def _delete(connection: sqlite3.Connection, id: int) -> int:
    """Delete a batch, and return its number of spans, 0 if it is not there."""
    row = connection.execute("SELECT max(0, CAST(spans AS INTEGER)) FROM batches WHERE id = ?", (id,)).fetchone()
    connection.execute("DELETE FROM batches WHERE id = ?", (id,))
    connection.execute("DELETE FROM leases WHERE id = ?", (id,))
    return 0 if row is None else int(row[0])
