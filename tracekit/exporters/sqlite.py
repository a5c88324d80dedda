"""The SQLite exporter and reader: a store of spans in one file that several processes write at once.

How it works: a batch is one transaction in write-ahead mode, so readers never wait. A writer that finds too little
room, or spans that are too old, first deletes the oldest traces, in transactions of some 20 ms between which
other writers get their turn.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from base64 import b64encode
from collections.abc import Mapping
from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Any, NamedTuple

from .._core.attributes import int_text, unusual_text, whole
from .._core.checks import check_above_0, check_int
from .._core.records import Account
from .._export.notices import Notices
from ._sqlite.errors import StoreError, is_full
from ._sqlite.file import MIN_BYTES, SQLiteFile
from ._sqlite.ids import take_ids
from ._sqlite.logs import INSERT_LOG, StoredLog, log_without_bulk
from ._sqlite.reader import SPANS, Counts, Figures, SQLiteReader, StoredSpan, StoredTrace, read_span
from ._sqlite.resources import delete_unused, keep_used, resource_ids
from ._sqlite.terms import joined, term

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .._core.records import Instrumentation
    from .._core.span import Span
    from ._sqlite.terms import Term

    Row = tuple[Any, ...]  # a cell for each of _COLUMNS, or of the columns of the table of logs
    Insert = Callable[[sqlite3.Connection, list[Row]], None]

__all__ = [
    "Counts",
    "Figures",
    "SQLiteExporter",
    "SQLiteReader",
    "StoreError",
    "StoredLog",
    "StoredSpan",
    "StoredTrace",
]

_COLUMNS = ("stored_s", *StoredSpan._fields, "terms", "bits")
_RESOURCE = _COLUMNS.index("resource")
_STORED = ", ".join(_COLUMNS).replace(" resource,", " resource_id,")
_INSERT = f"INSERT INTO spans (id, {_STORED}) VALUES (?, {', '.join('?' * len(_COLUMNS))})"

_MIN_ROOM = 1 << 16
_MAX_TEXT = 4096
_TIDY_S = 60.0
# Rows of a transaction: many of them share the pages of an index, whose changes are most of the work.
_STEP, _STEPS = 2000, 40
_TRACES = 500
_WHOLE_S = 3600  # a trace that lasts no longer is deleted as a whole; an endless one loses its oldest part


class SQLiteExporter:
    """Store spans in the SQLite file at *path*, table ``spans``, created by the first span and shared by processes.

    A span is kept for at most *max_age_s*. The file stays below *max_bytes* (at least 1 MiB), its write-ahead log
    below half of that; while spans arrive, the oldest traces are deleted. A batch waits for other writers for at most
    *lock_timeout_s*. A new file gets the permissions *mode*, by default for its owner alone. SQLite's cache of pages
    in this process has at most *cache_bytes*. Every failure is a ``StoreError``, after which the next batch opens the
    file again; a span that cannot be stored costs itself alone, and is counted in ``account()``.

    Attributes, events, links, labels, resource and instrumentation are JSON. Values that JSON cannot hold are converted: bytes to
    ``{"base64": "…"}``; a float that is not a number to ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``; an int of more
    than 64 bits to hexadecimal text; a lone surrogate to U+FFFD; a tuple to an array. Names, descriptions and other
    text columns are cut to 4096 characters, with U+FFFD for NUL; times are clamped to 64 bits. A span larger than
    1/32 of *max_bytes* loses its attributes, events and links, which are counted as dropped.

    ``evicted`` counts the spans that this object deleted for lack of room, ``evicted_logs`` the log records; those past
    *max_age_s* are not among them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_age_s: float = 7 * 86400,
        max_bytes: int = 256 * 2**20,
        lock_timeout_s: float = 5.0,
        mode: int = 0o600,
        cache_bytes: int = 2 * 2**20,
    ) -> None:
        check_above_0("max_age_s", max_age_s)
        check_int("max_bytes", max_bytes, MIN_BYTES)
        self._file = SQLiteFile(
            path,
            SPANS,
            max_bytes=max_bytes,
            max_log_bytes=max_bytes // 2,
            lock_timeout_s=lock_timeout_s,
            mode=mode,
            cache_bytes=cache_bytes,
        )
        self._step = max(100, min(_STEP, max_bytes >> 15))  # some fiftieth of a small file
        self.path = self._file.path
        self.max_age_s = max_age_s
        self.max_bytes = max_bytes
        self.lock_timeout_s = lock_timeout_s
        self._next_tidy = 0.0
        self.evicted = self.evicted_logs = 0
        self._failed = 0
        self._notices = Notices()

    def export(self, spans: Sequence[Span]) -> None:
        """Store *spans*; raise ``StoreError`` if none of them can be stored."""
        self._store(_insert_spans, _chunks(_rows(spans, self._lose), self.max_bytes, _without_bulk), len(spans))

    def store(self, rows: list[Row], size: int) -> int:
        """Store *rows*: the second of storage, the fields of ``StoredSpan`` with JSON as text, ``terms`` and ``bits``.

        *size* is an upper estimate of their bytes. Returns the number of stored rows; raises like ``export()``.
        """
        return self._store(_insert_spans, self._pieces(rows, size, _without_bulk), len(rows))

    def store_logs(self, rows: list[Row], size: int) -> int:
        """Store *rows* of the table ``logs``: the second of storage, then the fields of ``StoredLog``. See ``store()``.

        A record larger than 1/32 of *max_bytes* keeps the beginning of its body only.
        """
        return self._store(_insert_logs, self._pieces(rows, size, log_without_bulk), len(rows))

    def _pieces(self, rows: list[Row], size: int, shrink: Callable[[Row], Row]) -> Iterable[tuple[list[Row], int]]:
        return [(rows, size)] if size <= self.max_bytes // 32 else _chunks(rows, self.max_bytes, shrink)

    def _store(self, insert: Insert, chunks: Iterable[tuple[list[Row], int]], count: int) -> int:
        failed, stored = self._failed, 0
        try:
            with self._file.explained():
                self._tidy()
                for rows, size in chunks:
                    stored += self._write_good(insert, rows, size)
        except StoreError as error:
            self._failed = failed
            if not stored:
                raise
            self._failed += count - stored
            self._notices.lost(self, error, count - stored)
        return stored

    def delete(self, ids: Sequence[str], *, before_ns: int | None = None) -> int:
        """Delete the traces *ids*, and those that started before *before_ns*, Unix time, with their log records.

        Returns the number of deleted spans.
        """
        count = 0
        with self._file.explained():
            if before_ns is not None:
                with self._file.snapshot() as connection:
                    rows = connection.execute(
                        "SELECT trace_id FROM spans GROUP BY trace_id HAVING min(start_ns) < ?", (before_ns,)
                    )
                    ids = [*ids, *[trace_id for (trace_id,) in rows]]
            for start in range(0, len(ids), _TRACES):  # in steps, between which other writers get their turn
                with self._file.transaction() as connection:
                    for trace_id in ids[start : start + _TRACES]:
                        count += connection.execute("DELETE FROM spans WHERE trace_id = ?", (trace_id,)).rowcount
                        connection.execute("DELETE FROM logs WHERE trace_id = ?", (trace_id,))
                    delete_unused(connection)
        self._next_tidy = 0.0
        return count

    def account(self) -> Account:
        """Return the number of accepted spans and log records that could not be stored."""
        return Account(failed=self._failed)

    def _lose(self, error: Exception) -> None:
        """Count and report a row that cannot be stored."""
        self._failed += 1
        self._notices.lost(self, error, 1)

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()

    def probe(self, span: Span) -> StoredSpan:
        """Store *span* and read it back in one transaction that is rolled back, so no other reader sees it."""
        ((rows, _),) = _chunks(_rows([span]), self.max_bytes, _without_bulk)
        with self._file.explained(), self._file.transaction("ROLLBACK") as connection:
            _insert_spans(connection, rows)
            (id,) = connection.execute("SELECT max(id) FROM spans").fetchone()
            return read_span(connection, id)

    def _write_good(self, insert: Insert, rows: list[Row], size: int) -> int:
        """Write *rows* without those that SQLite has no type for; return the number of written rows."""
        try:
            self._write(insert, rows, size)
            return len(rows)
        except (OverflowError, TypeError, ValueError, sqlite3.InterfaceError, sqlite3.ProgrammingError) as error:
            if len(rows) == 1:
                self._lose(error)
                return 0
        half = len(rows) // 2
        return self._write_good(insert, rows[:half], size) + self._write_good(insert, rows[half:], size)

    def _write(self, insert: Insert, rows: list[Row], size: int) -> None:
        need = room = 2 * size + _MIN_ROOM
        while True:
            try:
                with self._file.transaction() as connection:
                    left, used = self._file.room_on_disk(connection)
                    if left >= room or not any(deleted := _delete_oldest(connection, self._step)):
                        insert(connection, rows)
                        return
                self.evicted += deleted.spans
                self.evicted_logs += deleted.logs
            except sqlite3.OperationalError as error:
                if not is_full(error) or need > self.max_bytes // 2:
                    raise
                with self._file.transaction() as connection:
                    if self._file.room(connection) >= 4 * need:
                        raise
                need = room = 2 * need
            else:
                room = need + min(self.max_bytes, used) // 16  # with some room for the next batches

    def _tidy(self) -> None:
        """Once in a while, delete spans that are too old, and give unused pages back."""
        now = time.monotonic()
        if now < self._next_tidy:
            return
        now_s = time.time()
        is_done = False
        for _ in range(_STEPS):
            with self._file.transaction() as connection:
                if any(_delete_oldest(connection, self._step, now_s - self.max_age_s, now_s)):
                    continue  # too old, which is not evicted
                pages, free = self._file.pages(connection)
                is_done = free <= pages // 4 and not self._file.is_too_large(pages)
                if is_done or not free:
                    break
                self._file.give_back(connection, min(free, self._step))
        self._next_tidy = now + (min(_TIDY_S, self.max_age_s / 10) if is_done else 1.0)


def _insert_spans(connection: sqlite3.Connection, rows: list[Row]) -> None:
    if not rows:
        return
    resources = resource_ids(connection, {row[_RESOURCE] for row in rows})
    ids = take_ids(connection, "spans", len(rows))
    cells = ((*row[:_RESOURCE], resources[row[_RESOURCE]], *row[_RESOURCE + 1 :]) for row in rows)
    connection.executemany(_INSERT, ((id, *row) for id, row in zip(ids, cells, strict=True)))
    keep_used(connection, resources.values(), ids[-1])


def _insert_logs(connection: sqlite3.Connection, rows: list[Row]) -> None:
    ids = take_ids(connection, "logs", len(rows))
    connection.executemany(INSERT_LOG, ((id, *row) for id, row in zip(ids, rows, strict=True)))


class _Deleted(NamedTuple):
    spans: int = 0
    logs: int = 0


def _delete_oldest(
    connection: sqlite3.Connection, step: int, stored_before_s: float = math.inf, now_s: float = math.inf
) -> _Deleted:
    """Delete about *step* spans with their traces, or *step* log records, stored before *stored_before_s*.

    The older ones are deleted; of those stored in the same second, the more numerous. Rows that were stored after *now_s*,
    by a clock that was ahead, are taken to be as old as the rows that follow them.
    """
    ages = connection.execute(
        # SQLite finds max() and min() of a column without a scan only if each is alone.
        "SELECT (SELECT stored_s FROM logs WHERE stored_s <= :now ORDER BY id LIMIT 1),"
        " (SELECT max(id) FROM logs) - (SELECT min(id) FROM logs),"
        " (SELECT stored_s FROM spans WHERE stored_s <= :now ORDER BY id LIMIT 1),"
        " (SELECT max(id) FROM spans) - (SELECT min(id) FROM spans)",
        {"now": now_s},
    )
    log_s, logs, span_s, spans = ages.fetchone()
    is_log = log_s is not None and (span_s is None or (log_s, -logs) < (span_s, -spans))
    newest, stored_s = connection.execute(
        "SELECT max(id), max(stored_s)"
        f" FROM (SELECT id, stored_s FROM {'logs' if is_log else 'spans'} WHERE stored_s <= ? ORDER BY id LIMIT ?)"
        " WHERE stored_s < ?",
        (now_s, step, stored_before_s),
    ).fetchone()
    if newest is None:
        return _Deleted()
    if is_log:
        return _Deleted(logs=connection.execute("DELETE FROM logs WHERE id <= ?", (newest,)).rowcount)
    # Without the name of an index, SQLite reads all of that by trace, for DISTINCT.
    rest = connection.execute(
        "DELETE FROM spans WHERE id IN ("
        " SELECT rest.id FROM (SELECT DISTINCT trace_id FROM spans INDEXED BY spans_to_search WHERE id <= ?) AS old"
        " JOIN spans AS rest ON rest.trace_id = old.trace_id WHERE rest.start_ns <= ? LIMIT ?)",
        (newest, _int64((stored_s + _WHOLE_S) * 1_000_000_000), 4 * step),
    )
    oldest = connection.execute("DELETE FROM spans WHERE id <= ?", (newest,))
    delete_unused(connection)
    return _Deleted(spans=rest.rowcount + oldest.rowcount)


def _chunks(rows: Iterable[Row], max_bytes: int, shrink: Callable[[Row], Row]) -> Iterator[tuple[list[Row], int]]:
    """Yield *rows* with their size, in one piece unless that is large compared to *max_bytes*; *shrink* large rows."""
    chunk: list[Row] = []
    total = 0
    for row in rows:
        size = _bytes(row)
        if size > max_bytes // 32:
            row = shrink(row)
            size = _bytes(row)
        if chunk and total + size > max_bytes // 8:
            yield chunk, total
            chunk, total = [], 0
        chunk.append(row)
        total += size
    if chunk:
        yield chunk, total


def _rows(spans: Iterable[Span], lose: Callable[[Exception], None] | None = None) -> Iterator[Row]:
    """Yield the rows of *spans*; *lose* receives the exception of each span that cannot become a row, or it is raised."""
    stored_s = int(time.time())
    resources: dict[int, tuple[str, list[Term]]] = {}  # usually one, encoded once per batch
    libraries: dict[int, str] = {}
    for span in spans:
        try:
            resource = resources.get(id(span.resource))
            if resource is None:
                resource = resources[id(span.resource)] = _with_terms(span.resource)
            library = libraries.get(id(span.instrumentation))
            if library is None:
                library = libraries[id(span.instrumentation)] = _library(span.instrumentation)
            row = _row(span, stored_s, *resource, library)
        except Exception as error:
            if lose is None:
                raise
            lose(error)
            continue
        yield row


def _row(span: Span, stored_s: int, resource: str, resource_terms: list[Term], library: str) -> Row:
    context, parent, status = span.context, span.parent, span.status
    attributes, terms = _with_terms(span.attributes)
    labels, label_terms = _with_terms(context.labels) if context.labels else ("{}", [])
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
        labels,
        attributes,
        _array([{"name": name, "time_ns": time_ns, "attributes": items} for name, time_ns, items in span.events]),
        _array([{"trace_id": to.trace_id, "span_id": to.span_id, "attributes": items} for to, items in span.links]),
        resource,
        library,
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
        span.truncated_values,
        *joined([*terms, *label_terms, *resource_terms]),
    )


def _bytes(row: Row) -> int:
    # The index of searches repeats the terms and some of the columns.
    size = 300 + sum([len(cell) if cell.isascii() else 4 * len(cell) for cell in row if isinstance(cell, str)])
    return size + sum([2 * len(cell) for cell in row if isinstance(cell, bytes)])


def _without_bulk(row: Row) -> Row:
    cells = dict(zip(_COLUMNS, row, strict=True))
    for column in ("attributes", "events", "links"):
        cells[f"dropped_{column}"] += len(json.loads(cells[column]))
    cells.update(attributes="{}", events="[]", links="[]", terms=None, bits=-1)
    for column in ("resource", "instrumentation"):
        if len(cells[column]) > 2 * _MAX_TEXT:
            cells[column] = "{}"
    return tuple(cells.values())


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _with_terms(attributes: Mapping[str, Any]) -> tuple[str, list[Term]]:
    """Return *attributes* as JSON, and the code of each of them."""
    items = []
    terms = []
    for key, value in _plain(attributes).items():
        text = quote(value) if isinstance(value, str) else _encode(value)
        items.append(f"{quote(key)}:{text}")
        terms.append(term(key, text))
    return "{" + ",".join(items) + "}", terms


def _library(library: Instrumentation | None) -> str:
    if library is None:
        return "{}"
    fields = library._asdict()
    return _encode(_plain({key: _text(value) if isinstance(value, str) else value for key, value in fields.items()}))


def _array(items: list[dict[str, Any]]) -> str:
    return _encode(_plain(items)) if items else "[]"


def _plain(value: Any) -> Any:
    """Return the attribute value *value* as JSON can hold it, by the rules in the docstring of ``SQLiteExporter``."""
    if isinstance(value, str):
        return whole(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else int_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else unusual_text(value)
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _text(text: str) -> str:
    return whole(text[:_MAX_TEXT].replace("\0", "\ufffd"))


def _int64(number: int) -> int:
    return max(-(1 << 63), min(number, (1 << 63) - 1))
