"""Spans into one SQLite file that several processes write at once, and out of it again.

How it works: a batch is one transaction, in write-ahead mode, so that readers never wait. Whoever finds too
little room left, or spans too old, takes the oldest traces out first, in transactions of a few milliseconds that
other writers get in between. The file's connection belongs to the process that opened it: ``fork()`` waits
for a running transaction (a second at most), and the child opens its own.
"""

from __future__ import annotations

import json
import math
import os
import random
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ._sqlite_reader import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    Counts,
    SQLiteReader,
    StoredSpan,
    StoredTrace,
    StoreError,
    explain,
    has_schema,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._accel import Span

__all__ = ["Counts", "SQLiteExporter", "SQLiteReader", "StoreError", "StoredSpan", "StoredTrace"]

_CREATE = (
    """CREATE TABLE spans (
        id INTEGER PRIMARY KEY,  -- grows in order of arrival
        stored_s INTEGER NOT NULL,  -- Unix time of arrival
        trace_id TEXT NOT NULL,
        span_id TEXT NOT NULL,
        parent_id TEXT,
        parent_is_remote INTEGER NOT NULL,
        service TEXT NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        status TEXT NOT NULL,
        description TEXT NOT NULL,
        flags INTEGER NOT NULL,
        state TEXT NOT NULL,
        labels TEXT NOT NULL,
        attributes TEXT NOT NULL,
        events TEXT NOT NULL,
        links TEXT NOT NULL,
        resource TEXT NOT NULL,
        dropped_attributes INTEGER NOT NULL,
        dropped_events INTEGER NOT NULL,
        dropped_links INTEGER NOT NULL,
        truncated_values INTEGER NOT NULL
    )""",
    "CREATE INDEX spans_by_trace ON spans (trace_id, start_ns)",
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={SCHEMA_VERSION}",
)
_COLUMNS = ("stored_s", *StoredSpan._fields)
_INSERT = f"INSERT INTO spans ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_ATTRIBUTES, _EVENTS, _LINKS, _RESOURCE = map(_COLUMNS.index, ("attributes", "events", "links", "resource"))
_DROPPED = _COLUMNS.index("dropped_attributes")

_MIB = 1 << 20
_MAX_TEXT = 4096
_SLICE_S = 0.05
_TIDY_EVERY_S = 60.0
_STEP = 500
_STEPS = 40
# A trace goes whole where it lasts no longer than this; one without end loses its oldest part.
_WHOLE_S = 3600


class SQLiteExporter:
    """Keep spans in the SQLite file at *path*, table ``spans``; made when the first span comes, shared by processes.

    A span is kept for *max_age_s* at most. The file stays below *max_bytes* (at least 1 MiB), its write-ahead log
    below half of that; the oldest traces give way, while spans come in. *lock_timeout_s* is how long a batch
    waits for other writers. Every failure is a ``StoreError``, after which the next batch starts afresh.

    Attributes, events, links, labels and resource are JSON. What JSON cannot hold becomes: bytes
    ``{"base64": "…"}``; a float that is no number the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``; an
    int past 64 bits its text in hexadecimal; a lone surrogate U+FFFD; a tuple or set an array; any other object
    its type in angle brackets; what lies more than 8 levels deep ``"…"``. Names, descriptions and other text
    columns are cut to 4096 characters and hold no NUL (U+FFFD instead); times are clamped to 64 bits. Where
    one span is larger than 1/32 of *max_bytes*, its attributes, events and links go and are counted as dropped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_age_s: float = 7 * 86400,
        max_bytes: int = 256 * _MIB,
        lock_timeout_s: float = 5.0,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"path must be str or a path, not {type(path).__name__}")
        if not name or "\0" in name:
            raise ValueError(f"path must name a file: {name!r}")
        for parameter, number in (("max_age_s", max_age_s), ("lock_timeout_s", lock_timeout_s)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise TypeError(f"{parameter} must be a number, not {type(number).__name__}")
            if not number > 0:
                raise ValueError(f"{parameter} must be above 0: {number}")
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be int, not {type(max_bytes).__name__}")
        if max_bytes < _MIB:
            raise ValueError(f"max_bytes must be at least {_MIB}: {max_bytes}")
        self.path = os.path.abspath(name)
        self.max_age_s = max_age_s
        self.max_bytes = max_bytes
        self.lock_timeout_s = lock_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._process: tuple[int, int] | None = None  # who opened the connection
        self._file: tuple[int, int] | None = None  # what it opened
        self._pages = 0
        self._page_size = 0
        self._next_tidy = 0.0

    def export(self, spans: Sequence[Span]) -> None:
        """Store *spans*; ``StoreError`` where that cannot be done."""
        rows = _Rows(self.max_bytes // 32)
        for span in spans:
            rows.add(span)
        with self._explained():
            self._bound_log()
            self._tidy()
            for chunk, size in rows.chunks(self.max_bytes // 8):
                self._write(chunk, size)

    def shutdown(self) -> None:
        """Close the file."""
        with _forks.lock:
            self._disown()
            self._close()

    def probe(self, span: Span) -> StoredSpan:
        """Store *span* and read it back in one transaction that is then undone: nobody else ever sees it."""
        rows = _Rows(self.max_bytes // 32)
        rows.add(span)
        with self._explained(), self._transaction(undo=True) as connection:
            row = connection.execute(_INSERT, rows.rows[0]).lastrowid
            return SQLiteReader.read(connection, row or 0)

    # -- transactions

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, StoreError) as error:
            with _forks.lock:
                self._close()  # the next batch opens the file anew, whatever has become of it
            if isinstance(error, StoreError):
                raise
            raise explain(error, self.path) from error

    @contextmanager
    def _transaction(self, *, undo: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a write transaction, which ends in COMMIT, or where *undo* in ROLLBACK."""
        connection = self._begin()
        lock = _forks.lock
        try:
            try:
                yield connection
                connection.execute("ROLLBACK" if undo else "COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        finally:
            lock.release()

    def _begin(self) -> sqlite3.Connection:
        """Open the file if need be, and a transaction in it; the lock against fork() is then held."""
        deadline = time.monotonic() + self.lock_timeout_s
        while True:
            lock = _forks.lock
            lock.acquire()
            try:
                connection = self._opened()
                connection.execute("BEGIN IMMEDIATE")
                return connection
            except BaseException as error:
                lock.release()
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
            # SQLite's own wait is not fair: processes that come at random moments starve nobody.
            time.sleep(random.uniform(0.001, _SLICE_S))

    def _opened(self) -> sqlite3.Connection:
        self._disown()
        if self._connection is not None and _file(self.path) != self._file:
            self._close()  # removed or replaced since: what is written to the old file, nobody will read
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        connection = sqlite3.connect(self.path, timeout=_SLICE_S, isolation_level=None, check_same_thread=False)
        try:
            if not has_schema(connection, self.path):
                # Both take effect in an empty file only, and before the first transaction.
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if not has_schema(connection, self.path):
                    for statement in _CREATE:
                        connection.execute(statement)
                connection.execute("COMMIT")
            (self._page_size,) = connection.execute("PRAGMA page_size").fetchone()
            self._pages = self.max_bytes // self._page_size
            for pragma in (
                "journal_mode=WAL",
                "synchronous=NORMAL",  # a power failure may take the last batches, never the file
                f"max_page_count={self._pages}",
                f"wal_autocheckpoint={min(1000, self._pages // 8)}",
                f"journal_size_limit={self.max_bytes // 8}",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._process = _forks.process()
        self._file = _file(self.path)

    def _disown(self) -> None:
        """Let go of a connection that came over a fork, without closing it: the locks and the log are the parent's."""
        if self._connection is not None and self._process != _forks.process():
            _forks.inherited.append(self._connection)
            self._connection = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # -- room

    def _write(self, rows: list[tuple[Any, ...]], size: int) -> None:
        need = 16 + 2 * size // _PAGE_GUESS
        room = need
        while True:
            try:
                with self._transaction() as connection:
                    if self._free_pages(connection) >= room or not _delete_oldest(connection, None):
                        connection.executemany(_INSERT, rows)
                        return
            except sqlite3.OperationalError as error:
                if not self._is_at_limit(error) or need > self._pages // 2:
                    raise
                need = room = 2 * need
            else:
                room = need + self._pages // 16  # once at it, for the next batches too

    def _free_pages(self, connection: sqlite3.Connection) -> int:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(self._pages - pages + free)

    def _is_at_limit(self, error: sqlite3.Error) -> bool:
        """Tell whether it is *max_bytes* that stopped SQLite, not the disk."""
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL or self._connection is None:
            return False
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        return bool(pages >= self._pages * 7 // 8)

    def _tidy(self) -> None:
        """Now and then, delete what is too old and give back pages that nobody is going to need."""
        now = time.monotonic()
        if now < self._next_tidy:
            return
        oldest_s = time.time() - self.max_age_s
        for _ in range(_STEPS):
            with self._transaction() as connection:
                if not _delete_oldest(connection, oldest_s):
                    break
        with self._transaction() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free > pages // 4 or pages > self._pages:
                connection.execute(f"PRAGMA incremental_vacuum({max(free // 2, pages - self._pages)})").fetchall()
        self._next_tidy = now + min(_TIDY_EVERY_S, self.max_age_s / 10)

    def _bound_log(self) -> None:
        """Refuse to write where a reader has kept the write-ahead log from shrinking for so long that it fills the disk."""
        log, limit = f"{self.path}-wal", self.max_bytes // 2
        if _size(log) <= limit:
            return
        with _forks.lock:
            self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if _size(log) > limit:
            raise StoreError("a reader blocks the write-ahead log", self.path, "end what has a transaction open on it")
