"""The schema of the SQLite store of spans, and its reader."""

from __future__ import annotations

import functools
import itertools
import json
import os
import sqlite3
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from ..._core.attributes import whole
from .access import identity
from .cells import columns_of, int_of, mapping_of, readers_of
from .errors import StoreError, code_of, explain
from .ids import CHECK_IDS, IDS
from .logs import LOGS, StoredLog, read_logs
from .resources import RESOURCE, RESOURCES
from .schema import Schema, has_schema, prepare
from .search import INDEXES, Found, Search, Sort, find, root_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class StoredTrace(NamedTuple):
    """The summary of one trace.

    ``name`` and ``service`` are its root span's, or its first span's where the root is not in the store. ``calls`` is the
    name of the first operation that it called if it is a client's span, else None.
    ``services`` come in order of first appearance. ``status`` is "error" if any span's is (``errors`` counts them),
    else "cancelled" if any span's is, else the root's. Times are Unix time.
    """

    trace_id: str
    name: str
    service: str
    services: tuple[str, ...]
    spans: int
    start_ns: int
    duration_ns: int
    status: str
    errors: int
    calls: str | None


class StoredSpan(NamedTuple):
    """One span as it was stored; ``SQLiteExporter`` documents the values that JSON cannot hold.

    ``instrumentation`` has the fields of ``Span.instrumentation``; it is empty for the spans of ``tracekit.span()``.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    parent_is_remote: bool
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    description: str
    flags: int
    state: str
    labels: dict[str, Any]
    attributes: dict[str, Any]
    events: list[Any]
    links: list[Any]
    resource: dict[str, Any]
    instrumentation: dict[str, Any]
    dropped_attributes: int
    dropped_events: int
    dropped_links: int
    truncated_values: int


_SPAN_COLUMNS = columns_of(StoredSpan).replace("resource TEXT", "resource_id INTEGER")
SPANS = Schema(
    application_id=0x74726B74,  # "trkt"
    version=6,
    create=(
        f"""CREATE TABLE spans (
            id INTEGER PRIMARY KEY,  -- grows in order of arrival
            stored_s INTEGER NOT NULL,  -- Unix time of arrival
            {_SPAN_COLUMNS},
            terms BLOB,  -- codes of the attributes, for searches; NULL is unknown
            bits INTEGER NOT NULL DEFAULT -1  -- a summary of terms
        )""",
        *IDS,
        *INDEXES,
        *RESOURCES,
        *LOGS,
    ),
    check=CHECK_IDS,
    page_bytes=8192,  # of wide rows: a sixth less work for the writer than 4096
)

_PORTION = 500
_UNWRITABLE = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_READERS = readers_of(StoredSpan)
_COLUMNS = ", ".join([RESOURCE if name == "resource" else name for name in StoredSpan._fields])
_SELECT = f"SELECT {_COLUMNS} FROM spans"
_SELECT_WITH_ID = f"SELECT id, {_COLUMNS} FROM spans"


class Counts(NamedTuple):
    """The numbers of traces and spans in a store. Orphans are spans whose parent, remote or not, is not in it."""

    traces: int
    spans: int
    orphans: int


class Figures(NamedTuple):
    """Figures of the spans of one service and name; percentiles are those of a span that was measured."""

    service: str
    name: str
    spans: int
    errors: int
    p50_ns: int
    p95_ns: int
    p99_ns: int
    slowest_ns: int


class Selection:
    """Spans of a store, which are read in portions of 500 each time that they are iterated.

    It holds their row ids, 8 bytes a span, and no transaction, which would keep the log of a writer from shrinking.
    ``len()`` is the number of spans that were found; those that are deleted before they are read are left out.
    """

    def __init__(self, read: Callable[[Sequence[int]], Iterator[StoredSpan]], ids: array[int]) -> None:
        self._read = read
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[StoredSpan]:
        for begin in range(0, len(self._ids), _PORTION):
            yield from self._read(self._ids[begin : begin + _PORTION])


class SQLiteReader:
    """Read a file that ``SQLiteExporter`` writes, while it is written; a context manager, or ``close()`` it.

    Each method sees one moment of the store; ``select()`` reads the spans later. All, the constructor included, raise
    ``StoreError``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        if not os.path.lexists(self.path):
            raise StoreError("no such file", self.path, "name the file that SQLiteExporter writes")
        self._file = identity(self.path)
        self._log = f"{os.path.realpath(self.path)}-wal"
        self._is_immutable = False
        with self._explained():
            try:
                self._open("mode=ro")
            except sqlite3.OperationalError as error:
                # SQLite makes a log and its index to read the file, which it cannot in a read-only directory. Without a
                # log no program has the file open, so it does not change.
                if code_of(error) & 0xFF not in _UNWRITABLE or os.path.lexists(self._log):
                    raise
                self._open("mode=ro&immutable=1")
                self._is_immutable = True

    def _open(self, options: str) -> None:
        uri = f"{Path(self.path).as_uri()}?{options}"
        connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection)
            self._has_schema = has_schema(connection, self.path, SPANS)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def traces(
        self,
        *,
        limit: int = 20,
        sort: Sort = "start",
        service: str | None = None,
        name: str | None = None,
        status: str | None = None,
        attributes: Mapping[str, str] | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        slower_ns: int | None = None,
        faster_ns: int | None = None,
    ) -> list[StoredTrace]:
        """Return the *limit* traces that started last, or the first in order of *sort*, the newest or largest first.

        *service* (equal), *name* (contained, case-sensitive), *status* (equal) and *attributes* (equal as text) select
        traces with a span that matches all of them. The trace itself started at *since_ns* or later and before
        *until_ns*, Unix time, and took at least *slower_ns* and at most *faster_ns*.
        """
        search = Search(service, name, status, attributes or {}, since_ns, until_ns, slower_ns, faster_ns)
        with self._snapshot() as connection:
            if connection is None:
                return []
            return [_summary(connection, found) for found in find(connection, search, limit, sort)]

    def find(self, prefix: str) -> str:
        """Return the id of the one trace whose id begins with *prefix*, in any case."""
        start = whole(prefix.lower())
        with self._snapshot() as connection:
            found = [] if connection is None else ids_with(connection, start, 4)
        if len(found) == 1:
            return found[0]
        if not found:
            wrong = f"no trace begins with {prefix[:40]!a}"
            raise StoreError(wrong, self.path, "tracekit traces list shows their ids")
        several = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
        raise StoreError(
            f"several traces begin with {prefix[:40]!a}", self.path, f"give more digits of one of {several}"
        )

    def spans(self, prefix: str) -> list[StoredSpan]:
        """Return every span of the trace whose id is, or alone begins with, *prefix*, in order of their start."""
        rows = self._rows(f"{_SELECT} WHERE trace_id = ? ORDER BY start_ns, id", (self.find(prefix),))
        return [_span(row) for row in rows]

    def logs(self, prefix: str, *, limit: int = 10_000) -> list[StoredLog]:
        """Return the first *limit* log records of the trace whose id is, or alone begins with, *prefix*, by their time."""
        trace_id = self.find(prefix)
        with self._snapshot() as connection:
            return [] if connection is None else read_logs(connection, trace_id, limit=limit)

    def select(
        self,
        ids: Sequence[str] | None = None,
        *,
        since_ns: int | None = None,
        order: Literal["trace", "start"] = "trace",
    ) -> Selection:
        """Return the spans of the traces *ids* (default: of all); only those from *since_ns* on.

        They come trace by trace and by their start, or all by their start. They are found now, and read while the result
        is iterated, up to ``close()``.
        """
        terms, keys = ["start_ns >= :since_ns"], "start_ns, id" if order == "start" else "trace_id, start_ns, id"
        if ids is not None:
            terms.append("trace_id IN (SELECT value FROM json_each(:ids))")
        values = {"ids": json.dumps(ids), "since_ns": -(1 << 63) if since_ns is None else since_ns}
        found = array("q")
        with self._snapshot() as connection:
            if connection is not None:
                where = " AND ".join(terms)
                rows = connection.execute(f"SELECT id FROM spans WHERE {where} ORDER BY {keys}", values)
                found.extend(id for (id,) in rows)
        return Selection(self._read, found)

    def _read(self, ids: Sequence[int]) -> Iterator[StoredSpan]:
        """Return the spans in the rows *ids*, in this order, without those that are gone."""
        shared = functools.cache(mapping_of)  # many spans have the same resource and instrumentation
        fields = zip(StoredSpan._fields, _READERS, strict=True)
        readers = [shared if name in ("resource", "instrumentation") else read for name, read in fields]
        rows = self._rows(f"{_SELECT_WITH_ID} WHERE id IN ({','.join(map(str, ids))})")
        found = {id: _span(row, readers) for id, *row in rows}
        return (found[id] for id in ids if id in found)

    def figures(
        self, *, since_ns: int | None = None, service: str | None = None, name: str | None = None
    ) -> list[Figures]:
        """Return count, errors and latency of each service and name, the most frequent first.

        *service* (equal) and *name* (contained) select spans, as does *since_ns*, Unix time of their start.
        """
        terms: list[str] = ["start_ns >= ?"]
        values: list[Any] = [-(1 << 63) if since_ns is None else since_ns]
        for term, value in (("service = ?", service), ("instr(name, ?)", name)):
            if value is not None:
                terms.append(term)
                values.append(whole(value))
        found: list[Figures] = []
        with self._snapshot() as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "SELECT service, name, CAST(end_ns AS INTEGER) - CAST(start_ns AS INTEGER) AS took, status = 'error'"
                f" FROM spans WHERE {' AND '.join(terms)} ORDER BY service, name, took",
                values,
            )
            for (of_service, of_name), group in itertools.groupby(rows, key=lambda row: row[:2]):
                took = array("q")
                errors = 0
                for _, _, took_ns, is_error in group:
                    took.append(took_ns)
                    errors += bool(is_error)
                found.append(Figures(str(of_service), str(of_name), len(took), errors, *percentiles(took), took[-1]))
        return sorted(found, key=lambda row: (-row.spans, row.service, row.name))

    def is_replaced(self) -> bool:
        """Return whether another file, or none, is at the path now: this reader goes on to read the one that it opened."""
        return identity(self.path) != self._file

    def counts(self) -> Counts:
        """Count traces, spans and orphans."""
        rows = self._rows(
            "SELECT count(DISTINCT trace_id), count(*), (SELECT count(*) FROM spans WHERE parent_id IS NOT NULL"
            " AND trace_id || parent_id NOT IN (SELECT trace_id || span_id FROM spans)) FROM spans"
        )
        return Counts(*rows[0]) if rows else Counts(0, 0, 0)

    def close(self) -> None:
        """Close the file; no call follows."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of *query*, none while the file is empty."""
        with self._snapshot() as connection:
            return [] if connection is None else connection.execute(query, values).fetchall()

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection | None]:
        """Yield the connection in one read transaction, or None while the file is empty."""
        with self._explained():
            if self._is_immutable and os.path.lexists(self._log):  # a program has begun to write
                self._connection.close()
                self._open("mode=ro")
                self._is_immutable = False
            connection = self._connection
            if not self._has_schema:
                self._has_schema = has_schema(connection, self.path, SPANS)
            if not self._has_schema:
                yield None
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                # Not kept open: an open snapshot prevents the log from shrinking.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise explain(error, self.path) from error


def ids_with(connection: sqlite3.Connection, prefix: str, limit: int) -> list[str]:
    """Return up to *limit* ids of traces that begin with *prefix*, hex digits in lower case."""
    # "g" is past every hex digit.
    query = "SELECT DISTINCT trace_id FROM spans WHERE trace_id >= ? AND trace_id < ? || 'g' LIMIT ?"
    return [str(trace_id) for (trace_id,) in connection.execute(query, (prefix, prefix, limit))]


def percentiles(ordered: Sequence[int]) -> tuple[int, int, int]:
    """Return the 50th, 95th and 99th percentile of *ordered*, one of its numbers each, or 0 if it has none."""
    last = len(ordered) - 1
    p50, p95, p99 = (ordered[min(last, len(ordered) * percent // 100)] if ordered else 0 for percent in (50, 95, 99))
    return p50, p95, p99


def read_span(connection: sqlite3.Connection, id: int | None) -> StoredSpan:
    """Return the span that was stored in row *id*."""
    return _span(connection.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone())


def _summary(connection: sqlite3.Connection, found: Found) -> StoredTrace:
    root = root_of(connection, found.trace_id)
    services = connection.execute(
        "SELECT service FROM spans WHERE trace_id = ? GROUP BY service ORDER BY min(start_ns), min(id)",
        (found.trace_id,),
    )
    return StoredTrace(
        trace_id=str(found.trace_id),
        name=root.name,
        service=root.service,
        services=tuple([str(service) for (service,) in services]),
        spans=found.spans,
        start_ns=int_of(found.start_ns),
        duration_ns=int_of(found.end_ns) - int_of(found.start_ns),
        status="error" if found.errors else "cancelled" if found.cancelled else root.status,
        errors=found.errors,
        calls=root.calls,
    )


def _span(row: Iterable[Any], readers: Iterable[Callable[[Any], Any]] = _READERS) -> StoredSpan:
    return StoredSpan(*[read(cell) for read, cell in zip(readers, row, strict=True)])
