"""The questions of the pages to the store: traces that a search finds, one trace, the map of services.

How it works: a search reads one index from its end, which has every column that a search names, in slices of row ids,
until it has found enough traces or its time is up; the answer has the position to go on from. So the first answer comes
as fast on a store of a million spans as on one of a hundred, and a million spans without a hit are one answer.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from ..exporters._sqlite.ids import Last, last_ids
from ..exporters._sqlite.logs import read_logs
from ..exporters._sqlite.reader import ids_with, percentiles, read_span
from ..exporters._sqlite.search import root_of
from ..exporters.sqlite import SQLiteReader

if TYPE_CHECKING:
    import os
    import sqlite3

    from .search import Search

MAX_SPANS: Final = 50_000  # of a trace on its page
_SLICE: Final = 10_000
_BUDGET_S: Final = 0.18
_MAP_SPANS: Final = 20_000
_MAX_DEPTH: Final = 100
_MAX_LOGS: Final = 500  # of a span, or of a trace
_MAX_INT: Final = 2**53 - 1  # Number.MAX_SAFE_INTEGER of JavaScript
_NOTHING: Final[dict[str, Any]] = {"traces": [], "next": None, "last": 0, "store": ""}  # in an empty file


class Queries(SQLiteReader):
    """Read the store for the pages. All answers can be written as JSON."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._connection.create_function("casefold", 1, lambda text: str(text).casefold(), deterministic=True)

    def last_ids(self) -> Last:
        """Return the row ids of the newest span and of the newest log record, 0 without any."""
        with self._snapshot() as connection:
            return Last() if connection is None else last_ids(connection)

    def search(self, search: Search, *, limit: int, before: int | None = None, after: int = 0) -> dict[str, Any]:
        """Return up to *limit* traces with a span that meets *search*, those with the newest spans first.

        ``next`` is the position for ``before`` to go on from, None at the end. The same trace may be found again there.
        ``last`` is the position for ``after``, to find later the spans that have arrived since, in the same ``store``.
        """
        if search.trace_id and not search.conditions:
            return self._by_id(search.trace_id, limit)
        found: dict[str, None] = {}
        deadline = time.monotonic() + _BUDGET_S
        with self._snapshot() as connection:
            if connection is None:
                return _NOTHING
            store, last, _ = last_ids(connection)
            (first,) = connection.execute("SELECT coalesce(min(id), 1) FROM spans").fetchone()
            first = max(first, after + 1)
            end = last + 1 if before is None else min(before, last + 1)
            terms = ["id >= ?", "id < ?", *search.conditions]
            if search.trace_id:
                terms.append("substr(trace_id, 1, ?) = ?")
            where = " AND ".join(terms)
            statement = f"SELECT id, trace_id FROM spans INDEXED BY spans_to_search WHERE {where} ORDER BY id DESC"
            more = (len(search.trace_id), search.trace_id) if search.trace_id else ()
            while end > first and len(found) < limit and time.monotonic() < deadline:
                begin = max(first, end - _SLICE)
                for id, trace_id in connection.execute(statement, (begin, end, *search.parameters, *more)):
                    found[str(trace_id)] = None
                    if len(found) >= limit:
                        begin = id
                        break
                end = begin
            traces = [_summary(connection, trace_id) for trace_id in found]
            reached = None
            if end > first:
                row = connection.execute("SELECT start_ns FROM spans WHERE id >= ? LIMIT 1", (end,)).fetchone()
                reached = row and row[0]
        position = {"next": end if end > first else None, "reached_ns": str(reached or 0), "last": last}
        return {"traces": traces, **position, "store": store}

    def _by_id(self, prefix: str, limit: int) -> dict[str, Any]:
        with self._snapshot() as connection:
            if connection is None:
                return _NOTHING
            traces = [_summary(connection, trace_id) for trace_id in ids_with(connection, prefix, limit)]
            store, last, _ = last_ids(connection)
            return {"traces": traces, "next": None, "last": last, "store": store}

    def trace(self, trace_id: str) -> dict[str, Any] | None:
        """Return the first ``MAX_SPANS`` spans of a trace, without their attributes; None if it has none.

        Times are in nanoseconds after ``start_ns``, which is text: JavaScript's numbers are too short for it.
        """
        with self._snapshot() as connection:
            if connection is None:
                return None
            rows = connection.execute(
                "SELECT id, span_id, parent_id, parent_is_remote, service, name, kind, start_ns, end_ns, status,"
                " events <> '[]', links <> '[]' FROM spans WHERE trace_id = ? ORDER BY start_ns, id LIMIT ?",
                (trace_id, MAX_SPANS),
            ).fetchall()
            if not rows:
                return None
            summary = _summary(connection, trace_id)
            counts = "SELECT span_id, count(*) FROM logs WHERE trace_id = ? GROUP BY span_id"
            logs = dict(connection.execute(counts, (trace_id,)))
        start_ns = rows[0][7]
        names = ("id", "span_id", "parent_id", "is_remote", "service", "name", "kind", "start", "end", "status")
        spans = [
            dict(zip((*names, "has_events", "has_links"), row, strict=True))
            | {"start": row[7] - start_ns, "end": row[8] - start_ns, "logs": logs.get(row[1], 0)}
            for row in rows
        ]
        return {**summary, "spans": spans, "is_cut": summary["spans"] > len(spans)}

    def records(self, trace_id: str) -> dict[str, Any]:
        """Return the first log records of a trace by their time, after the start of its first span."""
        with self._snapshot() as connection:
            if connection is None:
                return {"logs": [], "is_cut": False}
            first = "SELECT coalesce(min(start_ns), 0) FROM spans WHERE trace_id = ?"
            (start_ns,) = connection.execute(first, (trace_id,)).fetchone()
            return _logs(connection, trace_id, None, start_ns)

    def span(self, trace_id: str, id: int) -> dict[str, Any] | None:
        """Return everything about the span in row *id*; None if it is gone."""
        with self._snapshot() as connection:
            if connection is None:
                return None
            known = connection.execute("SELECT 1 FROM spans WHERE id = ? AND trace_id = ?", (id, trace_id)).fetchone()
            if known is None:
                return None
            span = read_span(connection, id)
            logs = _logs(connection, trace_id, span.span_id, span.start_ns)
        found = span._asdict() | {"logs": logs["logs"], "logs_are_cut": logs["is_cut"]}
        for name in ("attributes", "labels", "links", "resource", "instrumentation"):
            found[name] = _exact(found[name])
        found["start_ns"], found["duration_ns"] = str(span.start_ns), span.end_ns - span.start_ns
        del found["end_ns"]
        for event in found["events"]:
            if isinstance(event, dict):
                event["attributes"] = _exact(event.get("attributes"))
                if isinstance(event.get("time_ns"), int):
                    event["offset_ns"] = event["time_ns"] - span.start_ns
        return found

    def map(self) -> dict[str, Any]:
        """Return the services and the calls between them in the newest 20,000 spans.

        A service's numbers are those of its entries: spans whose parent is remote, of another service, or absent.
        """
        with self._snapshot() as connection:
            if connection is None:
                return {"services": [], "calls": [], "spans": 0, "seconds": 0}
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM spans").fetchone()
            columns = "trace_id, span_id, parent_id, service, status, start_ns, end_ns"
            newest = f"SELECT {columns} FROM spans WHERE id > ?"
            rows = connection.execute(newest, (last - _MAP_SPANS,)).fetchall()
        owner = {(row[0], row[1]): row[3] for row in rows}
        entries: dict[str, list[tuple[int, bool]]] = defaultdict(list)
        calls: dict[tuple[str, str], list[tuple[int, bool]]] = defaultdict(list)
        for trace_id, _, parent_id, service, status, start_ns, end_ns in rows:
            caller = owner.get((trace_id, parent_id)) if parent_id is not None else None
            measured = (end_ns - start_ns, status == "error")
            if caller != service:
                entries[str(service)].append(measured)
                if caller is not None:
                    calls[str(caller), str(service)].append(measured)
        seconds = _covered_s([(start_ns, end_ns) for *_, start_ns, end_ns in rows])
        for service in {str(row[3]) for row in rows}:
            entries[service]  # also those that are never entered in these spans
        return {
            "services": [{"name": name, **_numbers(found, seconds)} for name, found in sorted(entries.items())],
            "calls": [
                {"from": caller, "to": service, **_numbers(found, seconds)}
                for (caller, service), found in sorted(calls.items())
            ],
            "spans": len(rows),
            "seconds": seconds,
        }

    def compare(self, trace_ids: tuple[str, str]) -> list[dict[str, Any]] | None:
        """Return the two traces' spans side by side, merged by their path of services and names; None if one is gone.

        Each row has the number of spans and their total duration in both, in depth-first order.
        """
        sides = [self.trace(trace_id) for trace_id in trace_ids]
        merged: dict[tuple[Any, ...], dict[str, Any]] = {}
        for side, trace in enumerate(sides):
            if trace is None:
                return None
            for path, duration in _paths(trace["spans"]):
                if path not in merged:
                    service, name = path[-1]
                    place = {"service": service, "name": name, "depth": len(path) - 1}
                    merged[path] = {**place, "counts": [0, 0], "durations": [0, 0]}
                row = merged[path]
                row["counts"][side] += 1
                row["durations"][side] += duration
        children: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for path in merged:
            children[path[:-1]].append(path)
        rows, waiting = [], children[()][::-1]
        while waiting:
            path = waiting.pop()
            rows.append(merged[path])
            waiting += children[path][::-1]
        return rows


def _paths(spans: list[dict[str, Any]]) -> list[tuple[tuple[Any, ...], int]]:
    """Return the path of services and names from the root to each span, with the span's duration."""
    by_id = {span["span_id"]: span for span in spans}
    known: dict[str, tuple[Any, ...]] = {}
    found = []
    for span in spans:
        chain: list[dict[str, Any]] = []
        at: dict[str, Any] | None = span
        while at is not None and at["span_id"] not in known and len(chain) < _MAX_DEPTH:
            chain.append(at)
            known[at["span_id"]] = ()  # ends a circle of parents
            at = by_id.get(at["parent_id"])
        path = known[at["span_id"]] if at is not None and at["span_id"] in known else ()
        for link in reversed(chain):
            path = (*path, (link["service"], link["name"]))[-_MAX_DEPTH:]
            known[link["span_id"]] = path
        found.append((known[span["span_id"]], max(0, span["end"] - span["start"])))
    return found


def _covered_s(times: list[tuple[int, int]]) -> float:
    """Return the seconds in which the spans of *times*, start and end, started.

    Where there are 100 or more, the first and the last hundredth are left out, since one clock that is an hour off
    would change all rates; where there are fewer, it is the time until the last one ended.
    """
    if not times:
        return 0.0
    starts = sorted([start_ns for start_ns, _ in times])
    cut = len(starts) // 100
    if cut == 0:
        return (max([end_ns for _, end_ns in times]) - starts[0]) / 1e9
    return (starts[-1 - cut] - starts[cut]) / 1e9 * len(starts) / (len(starts) - 2 * cut)


def _numbers(measured: list[tuple[int, bool]], seconds: float) -> dict[str, Any]:
    p50, p95, p99 = percentiles(sorted([duration for duration, _ in measured]))
    count, errors = len(measured), sum([failed for _, failed in measured])
    per_s = count / seconds if seconds > 0 else 0.0
    return {"count": count, "errors": errors, "per_s": per_s, "p50_ns": p50, "p95_ns": p95, "p99_ns": p99}


def _logs(connection: sqlite3.Connection, trace_id: str, span_id: str | None, start_ns: int) -> dict[str, Any]:
    found = read_logs(connection, trace_id, span_id, limit=_MAX_LOGS + 1)
    shown = [log._asdict() | {"offset_ns": log.time_ns - start_ns} for log in found[:_MAX_LOGS]]
    for log in shown:
        log["body"], log["attributes"] = _exact(log["body"]), _exact(log["attributes"])
        del log["time_ns"]
    return {"logs": shown, "is_cut": len(found) > _MAX_LOGS}


def _exact(value: Any) -> Any:
    """Return *value* with text in place of ints that a page's numbers would round."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return str(value) if isinstance(value, int) and abs(value) > _MAX_INT else value


def _summary(connection: sqlite3.Connection, trace_id: str) -> dict[str, Any]:
    """Return one line of the list: about the whole trace, and about its root or else its first span."""
    parts = connection.execute(
        "SELECT service, count(*), min(start_ns), max(end_ns), sum(status = 'error'), sum(status = 'cancelled')"
        " FROM spans WHERE trace_id = ? GROUP BY service ORDER BY min(start_ns), min(id)",
        (trace_id,),
    ).fetchall()
    root = root_of(connection, trace_id)
    errors, cancelled = sum([part[4] for part in parts]), sum([part[5] for part in parts])
    start_ns = min([part[2] for part in parts])
    (logs,) = connection.execute("SELECT count(*) FROM logs WHERE trace_id = ?", (trace_id,)).fetchone()
    return {
        "trace_id": trace_id,
        "name": root.name,
        "service": root.service,
        "kind": root.kind,
        "calls": root.calls,
        "has_root": root.has_root,
        "status": "error" if errors else "cancelled" if cancelled else root.status,
        "errors": errors,
        "spans": sum([part[1] for part in parts]),
        "logs": logs,
        "services": [[part[0], part[1]] for part in parts],
        "start_ns": str(start_ns),
        "duration_ns": max([part[3] for part in parts]) - start_ns,
    }
