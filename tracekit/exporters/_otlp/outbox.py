"""A durable queue of encoded batches on their way to a collector, in one SQLite file that processes share.

How it works: what is put is one row, deleted once the collector has said yes. A sender takes the oldest row with a
lease; if it dies, the lease ends and somebody else takes it, so that every batch arrives at least once. A ledger in
the same file changes in the same transactions: it adds up whenever and wherever a process is killed.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from .._sqlite.file import Schema, SQLiteFile, StoreError, check_bytes, is_full

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

__all__ = ["MAX_LEASE_S", "Batch", "Ledger", "Outbox"]

MAX_LEASE_S = 3600.0

_SCHEMA = Schema(
    application_id=0x74726B6F,  # "trko"
    version=1,
    create=(
        """CREATE TABLE batches (
            id INTEGER PRIMARY KEY AUTOINCREMENT,  -- grows in order of arrival
            spans INTEGER NOT NULL,
            content_type TEXT NOT NULL,
            content_encoding TEXT NOT NULL,
            body BLOB NOT NULL
        )""",
        # Apart from the batches, whose rows are long and would be written anew.
        """CREATE TABLE leases (
            id INTEGER PRIMARY KEY,  -- of a batch that was taken once
            attempts INTEGER NOT NULL,
            is_held INTEGER NOT NULL,
            until_s REAL NOT NULL  -- Unix time when it can be taken again
        )""",
        "CREATE TABLE ledger (put INTEGER, sent INTEGER, rejected INTEGER, evicted INTEGER)",
        "INSERT INTO ledger VALUES (0, 0, 0, 0)",
        # Ids begin anywhere: one of a file that was removed means nothing in the file that came after it.
        "INSERT INTO sqlite_sequence VALUES ('batches', random() & 0x3fffffffffffffff)",
    ),
)
# No clock jump can make a lease last: one that ends later than any can is none.
_WAITS = f"leases.until_s > :now_s AND leases.until_s <= :now_s + {MAX_LEASE_S}"
_TAKE = (
    "SELECT batches.id, body, spans, content_type, content_encoding, coalesce(attempts, 0) FROM batches"
    f" LEFT JOIN leases USING (id) WHERE NOT coalesce({_WAITS}, 0) ORDER BY batches.id LIMIT 1"
)
_OLDEST = (
    "SELECT batches.id, length(body) FROM batches"
    f" LEFT JOIN leases USING (id) WHERE NOT coalesce(is_held AND {_WAITS}, 0) ORDER BY batches.id LIMIT 1"
)
_OLDEST_OF_ALL = "SELECT id, length(body) FROM batches ORDER BY id LIMIT 1"

_MIN_ROOM = 1 << 16  # for the pages that every change touches
_KEEP_PAGES, _STEP, _FIRST_STEP = 256, 500, 16


class Batch(NamedTuple):
    """One request body, as it was put, and how often it was taken before."""

    id: int
    body: bytes
    spans: int
    content_type: str
    content_encoding: str
    attempts: int


class Ledger(NamedTuple):
    """Where the spans went that were put since the file was made: ``put == sent + rejected + evicted + waiting``."""

    put: int
    sent: int
    rejected: int
    evicted: int
    waiting: int
    waiting_bytes: int


class Outbox:
    """The outbox at *path*, made when first used; for any number of threads and processes.

    File and write-ahead log together stay below *max_bytes* (at least 1 MiB), and 1/32 of that stays free on the
    disk: the oldest batches that nobody is just sending give way, and are counted. *lock_timeout_s* is how long a
    call waits for other processes. All methods raise ``StoreError``; the call after one starts afresh.

    What was put outlasts the process, however it ends. A power failure may take the last batches, and bring back some
    that were sent already, but spoils nothing.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int = 256 * 2**20, lock_timeout_s: float = 5.0
    ) -> None:
        check_bytes(max_bytes)
        self._file = SQLiteFile(
            path,
            _SCHEMA,
            # The rest is for the log's index (-shm).
            max_bytes=max_bytes // 32 * 23,
            max_log_bytes=max_bytes // 4,
            lock_timeout_s=lock_timeout_s,
        )
        self._max_body = max_bytes // 8
        self._spare = max_bytes // 32
        self._is_closed = False
        self.path = self._file.path

    def put(self, body: bytes, *, spans: int, content_type: str, content_encoding: str) -> int:
        """Keep *body*, which holds *spans* and may be as large as 1/8 of ``max_bytes``; return how many were ever evicted."""
        if len(body) > self._max_body:
            raise StoreError(
                "a batch is too large for the outbox", self.path, "allow max_bytes 8 times its size, or less a batch"
            )
        row = (spans, content_type, content_encoding, body)
        need = len(body) + len(body) // 128 + _MIN_ROOM
        with self._file.explained():
            for evicted_bytes in (0, 2 * need, None):  # first what costs nothing
                try:
                    return self._insert(row, need)
                except sqlite3.OperationalError as error:
                    if not is_full(error) or evicted_bytes is None:
                        raise
                self._shrink(evicted_bytes)
        raise AssertionError("the last try returns or raises")

    def take(self, lease_s: float) -> Batch | None:
        """Return the oldest batch that nobody holds and that has not to wait; nobody else gets it for *lease_s*.

        At most ``MAX_LEASE_S``. Whoever takes a batch ends that with ``sent``, ``rejected`` or ``give_back``.
        """
        if not 0 < lease_s <= MAX_LEASE_S:
            raise ValueError(f"lease_s must be above 0 and at most {MAX_LEASE_S}: {lease_s}")
        with self._file.explained():
            try:
                return self._take(lease_s)
            except sqlite3.OperationalError as error:
                if not is_full(error):
                    raise
            self._file.checkpoint()
            return self._take(lease_s)

    def sent(self, batch: Batch, *, rejected: int = 0) -> None:
        """Delete *batch*, which has arrived, but for *rejected* of its spans; nothing if somebody else has, meanwhile."""
        with self._file.explained(), self._transaction() as connection:
            spans = _delete(connection, batch.id)
            rejected = max(0, min(rejected, spans))  # it comes from the collector
            connection.execute(
                "UPDATE ledger SET sent = sent + ?, rejected = rejected + ?", (spans - rejected, rejected)
            )

    def rejected(self, batch: Batch) -> None:
        """Delete *batch*, which the collector will not have; nothing if somebody else has, meanwhile."""
        self.sent(batch, rejected=batch.spans)

    def give_back(self, batch: Batch, *, delay_s: float = 0.0) -> None:
        """End this lease on *batch*; nobody takes it before *delay_s*, at most ``MAX_LEASE_S``, have passed."""
        with self._file.explained(), self._transaction() as connection:
            connection.execute(
                "UPDATE leases SET is_held = 0, until_s = ? WHERE id = ? AND is_held AND attempts = ?",
                (time.time() + min(delay_s, MAX_LEASE_S), batch.id, batch.attempts + 1),
            )

    def ledger(self) -> Ledger:
        """Return where all spans went, at one moment."""
        with self._file.explained(), self._file.snapshot() as connection:
            self._check_open()
            row = connection.execute(
                "SELECT put, sent, rejected, evicted, (SELECT coalesce(sum(spans), 0) FROM batches),"
                " (SELECT coalesce(sum(length(body)), 0) FROM batches) FROM ledger"
            ).fetchone()
            return Ledger._make(row)

    def close(self) -> None:
        """Close the file, for good; what is leased to this process waits until its lease ends."""
        self._is_closed = True
        self._file.close()

    @contextmanager
    def _transaction(self, log_bytes: int = 0) -> Iterator[sqlite3.Connection]:
        with self._file.transaction(log_bytes=log_bytes) as connection:
            self._check_open()
            yield connection

    def _check_open(self) -> None:
        # Inside the transaction: what a close() in another thread has closed was opened again, and is closed by this error.
        if self._is_closed:
            raise StoreError("the outbox is closed", self.path, "make another one")

    def _insert(self, row: tuple[int, str, str, bytes], need: int) -> int:
        with self._transaction(need) as connection:
            # On a disk filled up by this, nothing could be sent either: the log could not move into the file.
            self._file.check_disk(2 * need + self._spare)
            while self._file.room(connection) < need and _evict(connection):
                pass
            connection.execute(
                "INSERT INTO batches (spans, content_type, content_encoding, body) VALUES (?, ?, ?, ?)", row
            )
            connection.execute("UPDATE ledger SET put = put + ?", (row[0],))
            pages, free = self._file.pages(connection)
            if self._file.is_too_large(pages):
                self._file.give_back(connection, min(free, _STEP))
            return int(connection.execute("SELECT evicted FROM ledger").fetchone()[0])

    def _take(self, lease_s: float) -> Batch | None:
        with self._transaction(_MIN_ROOM) as connection:
            # Else it would be sent, and that could not be noted: sent again and again.
            self._file.check_disk(2 * _MIN_ROOM)
            now_s = time.time()
            row = connection.execute(_TAKE, {"now_s": now_s}).fetchone()
            if row is None:
                free = self._file.pages(connection)[1]
                self._file.give_back(connection, min(max(0, free - _KEEP_PAGES), _STEP))
                return None
            batch = Batch._make(row)
            connection.execute(
                "INSERT OR REPLACE INTO leases VALUES (?, ?, 1, ?)", (batch.id, batch.attempts + 1, now_s + lease_s)
            )
            return batch

    def _shrink(self, evicted_bytes: int) -> None:
        """Give the file system all that the file can do without, and *evicted_bytes* of the oldest batches too.

        Little by little: that takes room itself, at first there is next to none.
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


def _evict(connection: sqlite3.Connection) -> int:
    """Drop the oldest batch, one that somebody is just sending only if there is no other; return its bytes, 0 if there is none."""
    oldest = connection.execute(_OLDEST, {"now_s": time.time()}).fetchone()
    oldest = oldest or connection.execute(_OLDEST_OF_ALL).fetchone()
    if oldest is None:
        return 0
    id, size = oldest
    connection.execute("UPDATE ledger SET evicted = evicted + ?", (_delete(connection, id),))
    return max(1, int(size))


def _delete(connection: sqlite3.Connection, id: int) -> int:
    """Delete a batch, and return how many spans it had; 0 if it is not there."""
    row = connection.execute("SELECT spans FROM batches WHERE id = ?", (id,)).fetchone()
    connection.execute("DELETE FROM batches WHERE id = ?", (id,))
    connection.execute("DELETE FROM leases WHERE id = ?", (id,))
    return 0 if row is None else int(row[0])
