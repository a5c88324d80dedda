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
import sqlite3
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

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
    read_span,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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

_MIN_BYTES = 1 << 20
_MIN_ROOM = 1 << 16
_MAX_TEXT = 4096
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_BUSY_S = 0.05
_TIDY_S = 60.0
_STEP, _STEPS = 500, 40
_WHOLE_S = 3600  # a trace goes whole where it lasts no longer; one without end loses its oldest part


class SQLiteExporter:
    """Keep spans in the SQLite file at *path*, table ``spans``; made when the first span comes, shared by processes.

    A span is kept for *max_age_s* at most. The file stays below *max_bytes* (at least 1 MiB), its write-ahead log
    below half of that; the oldest traces give way, while spans come in. *lock_timeout_s* is how long a batch
    waits for other writers. Every failure is a ``StoreError``, after which the next batch starts afresh.

    Attributes, events, links, labels and resource are JSON. What JSON cannot hold becomes: bytes
    ``{"base64": "…"}``; a float that is no number the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``; an
    int past 64 bits its text in hexadecimal; a lone surrogate U+FFFD; a tuple an array. Names, descriptions and
    other text columns are cut to 4096 characters and hold no NUL (U+FFFD instead); times are clamped to 64 bits.
    Where one span is larger than 1/32 of *max_bytes*, its attributes, events and links go, counted as dropped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_age_s: float = 7 * 86400,
        max_bytes: int = 256 * 2**20,
        lock_timeout_s: float = 5.0,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"path must be str or a path, not {type(path).__name__}")
        if not name or "\0" in name or not _is_file_name(name):
            raise ValueError(f"path must name a file: {name!a}")
        for parameter, number in (("max_age_s", max_age_s), ("lock_timeout_s", lock_timeout_s)):
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise TypeError(f"{parameter} must be a number, not {type(number).__name__}")
            if not number > 0:
                raise ValueError(f"{parameter} must be above 0: {number}")
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
            raise TypeError(f"max_bytes must be int, not {type(max_bytes).__name__}")
        if max_bytes < _MIN_BYTES:
            raise ValueError(f"max_bytes must be at least {_MIN_BYTES}: {max_bytes}")
        self.path = os.path.abspath(name)
        self.max_age_s = max_age_s
        self.max_bytes = max_bytes
        self.lock_timeout_s = lock_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._process: tuple[int, int] | None = None  # who opened the connection
        self._file: tuple[int, int] | None = None  # what it opened
        self._page_size = 0
        self._next_tidy = 0.0
        _forks.exporters.add(self)

    def export(self, spans: Sequence[Span]) -> None:
        """Store *spans*; ``StoreError`` where that cannot be done."""
        with self._explained():
            self._bound_log()
            self._tidy()
            for rows, size in _chunks(spans, self.max_bytes):
                self._write(rows, size)

    def shutdown(self) -> None:
        """Close the file."""
        with _forks.lock:
            self.disown()
            self._close()

    def probe(self, span: Span) -> StoredSpan:
        """Store *span* and read it back in one transaction that is then undone: nobody else ever sees it."""
        ((rows, _),) = _chunks([span], self.max_bytes)
        with self._explained(), self._transaction("ROLLBACK") as connection:
            return read_span(connection, connection.execute(_INSERT, rows[0]).lastrowid)

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
    def _transaction(self, end: str = "COMMIT") -> Iterator[sqlite3.Connection]:
        """Give the connection inside a write transaction; an error undoes it."""
        with self._execute("BEGIN IMMEDIATE") as connection:
            try:
                yield connection
                connection.execute(end)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _execute(self, statement: str) -> Iterator[sqlite3.Connection]:
        """Open the file if need be, wait for *statement* to get its lock, and keep fork() away for what follows."""
        deadline = time.monotonic() + self.lock_timeout_s
        while True:
            with _forks.lock:
                connection = self._try(statement, time.monotonic() < deadline)
                if connection is not None:
                    yield connection
                    return
            # SQLite's own wait is not fair; who comes again at a random moment gets in. Not from the random
            # module: what a program that has seeded it gets next is not ours to change.
            time.sleep(_BUSY_S * (1 + os.urandom(1)[0]) / 256)

    def _try(self, statement: str, may_fail: bool) -> sqlite3.Connection | None:
        try:
            connection = self._opened()
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if may_fail and getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
                return None
            raise
        return connection

    def _opened(self) -> sqlite3.Connection:
        self.disown()
        if self._connection is not None and _identity(self.path) != self._file:
            self._close()  # removed or replaced: nobody will read what is written to the old file
        if self._connection is None:
            self._connection = self._connect()
            self._process, self._file = _forks.process(), _identity(self.path)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            if not has_schema(connection, self.path):
                # Both take effect in an empty file only.
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if not has_schema(connection, self.path):
                    for statement in _CREATE:
                        connection.execute(statement)
                connection.execute("COMMIT")
            (self._page_size,) = connection.execute("PRAGMA page_size").fetchone()
            pages = self.max_bytes // self._page_size
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power failure may take the last batches, never the file
            connection.execute(f"PRAGMA max_page_count={pages}")
            connection.execute(f"PRAGMA wal_autocheckpoint={min(1000, pages // 8)}")
            connection.execute(f"PRAGMA journal_size_limit={self.max_bytes // 8}")
        except BaseException:
            connection.close()
            raise
        return connection

    def disown(self) -> None:
        """Let go of a connection that came over a fork, without closing it: the locks and the log are the parent's."""
        if self._connection is not None and self._process != _forks.process():
            _forks.inherited.append(self._connection)
            self._connection = None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _write(self, rows: list[tuple[Any, ...]], size: int) -> None:
        need = room = 2 * size + _MIN_ROOM
        while True:
            try:
                with self._transaction() as connection:
                    if self._room(connection) >= room or not _delete_oldest(connection):
                        connection.executemany(_INSERT, rows)
                        return
            except sqlite3.OperationalError as error:
                # SQLite says the same of a full disk and of max_page_count.
                if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_FULL or need > self.max_bytes // 2:
                    raise
                with self._transaction() as connection:
                    if self._room(connection) >= 4 * need:
                        raise
                need = room = 2 * need
            else:
                room = need + self.max_bytes // 16  # once at it, for the next batches too

    def _room(self, connection: sqlite3.Connection) -> int:
        """Return how many bytes there is room for below ``max_bytes``."""
        pages, free = _pages(connection)
        return self.max_bytes - (pages - free) * self._page_size

    def _tidy(self) -> None:
        """Now and then, delete what is too old, and give back pages that nobody will need."""
        now = time.monotonic()
        if now < self._next_tidy:
            return
        stored_before_s = time.time() - self.max_age_s
        is_done = False
        for _ in range(_STEPS):
            with self._transaction() as connection:
                if _delete_oldest(connection, stored_before_s):
                    continue
                pages, free = _pages(connection)
                is_done = free <= pages // 4 and pages * self._page_size <= self.max_bytes
                if is_done or not free:
                    break
                for _ in range(min(free, _STEP)):
                    # Page by page: before Python 3.12 one call gives back one page, whatever it is told.
                    connection.execute("PRAGMA incremental_vacuum(1)").fetchall()
        self._next_tidy = now + (min(_TIDY_S, self.max_age_s / 10) if is_done else 1.0)

    def _bound_log(self) -> None:
        """Refuse to write where a reader has kept the write-ahead log from shrinking for so long that it gets too large."""
        log, limit = f"{self.path}-wal", self.max_bytes // 2
        if _size(log) <= limit:
            return
        with self._execute("PRAGMA wal_checkpoint(TRUNCATE)"):
            pass
        if _size(log) > limit:
            raise StoreError("a reader blocks the write-ahead log", self.path, "end what has a transaction open on it")


class _Forks:
    """Keeps fork() out of transactions, and a process from its parent's connections.

    A child must not find SQLite's mutexes taken by a thread that it does not have, nor a transaction that its exit
    would roll back in memory that it shares with the parent.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.exporters: WeakSet[SQLiteExporter] = WeakSet()
        self.inherited: list[sqlite3.Connection] = []  # kept, because the end of a Connection closes it
        self._forked = 0
        self._held = threading.local()

    def process(self) -> tuple[int, int]:
        """Return what differs in every process; a pid alone comes again."""
        return os.getpid(), self._forked

    def before(self) -> None:
        """Wait for a running transaction; not for a disk that hangs."""
        self._held.lock = self.lock.acquire(timeout=1.0)

    def after_in_parent(self) -> None:
        """Let transactions go on."""
        if self._held.lock:
            self.lock.release()

    def after_in_child(self) -> None:
        """Start over."""
        self.lock = threading.Lock()
        self._forked += 1
        for exporter in self.exporters:
            exporter.disown()


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child
    )


def _delete_oldest(connection: sqlite3.Connection, stored_before_s: float = math.inf) -> bool:
    """Delete about 500 spans, of those stored before *stored_before_s*, with the rest of their traces; False if there are none."""
    newest, stored_s = connection.execute(
        "SELECT max(id), max(stored_s) FROM (SELECT id, stored_s FROM spans ORDER BY id LIMIT ?) WHERE stored_s < ?",
        (_STEP, stored_before_s),
    ).fetchone()
    if newest is None:
        return False
    connection.execute(
        "DELETE FROM spans WHERE id IN ("
        " SELECT rest.id FROM (SELECT DISTINCT trace_id FROM spans WHERE id <= ?) AS old"
        " JOIN spans AS rest ON rest.trace_id = old.trace_id WHERE rest.start_ns <= ? LIMIT ?)",
        (newest, _int64((stored_s + _WHOLE_S) * 1_000_000_000), 4 * _STEP),
    )
    connection.execute("DELETE FROM spans WHERE id <= ?", (newest,))
    return True


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return how many pages the file has, and how many of them are free."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return pages, free


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _chunks(spans: Iterable[Span], max_bytes: int) -> Iterator[tuple[list[tuple[Any, ...]], int]]:
    """Give the rows of *spans* with their size; in one piece but where it is large beside *max_bytes*."""
    stored_s = int(time.time())
    resources: dict[int, str] = {}  # one process has one: encoded once a batch
    rows: list[tuple[Any, ...]] = []
    total = 0
    for span in spans:
        resource = resources.get(id(span.resource))
        if resource is None:
            resource = resources[id(span.resource)] = _object(span.resource)
        row = _row(span, stored_s, resource)
        size = _bytes(row)
        if size > max_bytes // 32:
            row = _without_bulk(row, span)
            size = _bytes(row)
        if rows and total + size > max_bytes // 8:
            yield rows, total
            rows, total = [], 0
        rows.append(row)
        total += size
    if rows:
        yield rows, total


def _row(span: Span, stored_s: int, resource: str) -> tuple[Any, ...]:
    context, parent, status = span.context, span.parent, span.status
    return (
        stored_s,
        context.trace_id,
        context.span_id,
        None if parent is None else parent.span_id,
        parent is not None and parent.is_remote,
        _text(str(span.resource.get("service.name", "unknown_service"))),
        _text(span.name),
        span.kind,
        _int64(span.start_ns),
        _int64(span.end_ns or 0),
        status.code,
        _text(status.description),
        context.flags,
        str(context.state),
        _object(context.labels) if context.labels else "{}",
        _object(span.attributes),
        _array([{"name": name, "time_ns": time_ns, "attributes": items} for name, time_ns, items in span.events]),
        _array(
            [
                {"trace_id": target.trace_id, "span_id": target.span_id, "attributes": items}
                for target, items in span.links
            ]
        ),
        resource,
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
        span.truncated_values,
    )


def _bytes(row: tuple[Any, ...]) -> int:
    return 200 + sum([len(cell) if cell.isascii() else 4 * len(cell) for cell in row if isinstance(cell, str)])


def _without_bulk(row: tuple[Any, ...], span: Span) -> tuple[Any, ...]:
    cells = dict(zip(_COLUMNS, row, strict=True))
    cells.update(attributes="{}", events="[]", links="[]")
    if len(cells["resource"]) > 2 * _MAX_TEXT:
        cells["resource"] = "{}"
    cells["dropped_attributes"] += len(span.attributes)
    cells["dropped_events"] += len(span.events)
    cells["dropped_links"] += len(span.links)
    return tuple(cells.values())


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _object(attributes: Mapping[str, Any]) -> str:
    return _encode(_plain(attributes))


def _array(items: list[dict[str, Any]]) -> str:
    return _encode(_plain(items)) if items else "[]"


def _plain(value: Any) -> Any:
    """Return *value*, one that an attribute can hold, as JSON can; the rules are in the docstring of ``SQLiteExporter``."""
    if isinstance(value, str):
        return value if value.isascii() else whole(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return value
        return hex(value) if value.bit_length() <= 4 * _MAX_TEXT else f"<int of {value.bit_length()} bits>"
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _text(text: str) -> str:
    text = text[:_MAX_TEXT].replace("\0", "\ufffd")
    return text if text.isascii() else whole(text)


def _int64(number: int) -> int:
    return max(-(1 << 63), min(number, (1 << 63) - 1))
