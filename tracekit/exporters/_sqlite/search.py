"""Find traces in a store: the newest, or those that fit, in the order of an index instead of by reading every span.

How it works: spans are walked from the one that started last. A trace is met first at its latest span, so its start is
known only when its spans are looked at; but every trace that has not been met started before the span at which the
walk stands. The walk ends as soon as *limit* traces started after that.
"""

from __future__ import annotations

import heapq
import itertools
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from ..._core.attributes import whole

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping

Sort = Literal["start", "duration", "spans", "errors"]

# The first has every column of a trace's summary, so that summaries do not read the spans themselves.
INDEXES: Final = (
    "CREATE INDEX spans_by_trace ON spans (trace_id, start_ns, end_ns, status)",
    "CREATE INDEX spans_by_start ON spans (start_ns)",
    # In order of arrival: adding to it changes its last page only. A search reads all of it, and no other page.
    "CREATE INDEX spans_to_search ON spans (id, start_ns, end_ns, status, kind, service, name, trace_id, bits, terms)",
    """CREATE VIEW traces AS
        SELECT trace_id, min(start_ns) AS start_ns, max(end_ns) - min(start_ns) AS duration_ns, count(*) AS spans,
            sum(status = 'error') AS errors
        FROM spans GROUP BY trace_id""",
)

_FEW: Final = 20_000  # spans that fit: fewer are found by the index of searches, more by their start
_MISSES: Final = 2000  # traces that do not fit, until the walk gives up
# Casts: SQLite stores any type in any column, and another program may have written it.
_SUMMARY: Final = (
    "SELECT trace_id, count(*) AS spans, CAST(min(start_ns) AS INTEGER) AS start_ns,"
    " CAST(max(end_ns) AS INTEGER) AS end_ns, CAST(total(status = 'error') AS INTEGER) AS errors,"
    " CAST(total(status = 'cancelled') AS INTEGER) AS cancelled FROM spans"
)
_ORDERS: Final = {"duration": "end_ns - start_ns", "spans": "spans", "errors": "errors"}


class Search(NamedTuple):
    """The traces that are wanted. All of *service*, *name*, *status* and *attributes* must fit one of their spans.

    *name* is contained in the span's, case-sensitive. An attribute fits if its value is the text, or its text is. Times
    are nanoseconds, those of *since_ns* and *until_ns* Unix time and of the trace's start.
    """

    service: str | None = None
    name: str | None = None
    status: str | None = None
    attributes: Mapping[str, str] = {}
    since_ns: int | None = None
    until_ns: int | None = None
    slower_ns: int | None = None
    faster_ns: int | None = None


class Found(NamedTuple):
    """One trace, in numbers."""

    trace_id: str
    spans: int
    start_ns: int
    end_ns: int
    errors: int
    cancelled: int


class Root(NamedTuple):
    """The root span of a trace, or its first span where the root is not in the store.

    ``calls`` is the first operation that a client's span called, None without one: such a span is often named by no
    more than a method.
    """

    name: str
    service: str
    kind: str
    status: str
    has_root: bool
    calls: str | None


def root_of(connection: sqlite3.Connection, trace_id: str) -> Root:
    """Return the root of a trace that is in the store."""
    name, service, kind, status, parent_id = connection.execute(
        "SELECT name, service, kind, status, parent_id FROM spans WHERE trace_id = ?"
        " ORDER BY parent_id IS NOT NULL, start_ns, id LIMIT 1",
        (trace_id,),
    ).fetchone()
    called = None
    if kind == "client":
        called = connection.execute(
            "SELECT name FROM spans WHERE trace_id = ? AND kind IN ('server', 'consumer') ORDER BY start_ns, id LIMIT 1",
            (trace_id,),
        ).fetchone()
    return Root(str(name), str(service), str(kind), str(status), parent_id is None, called and str(called[0]))


def find(connection: sqlite3.Connection, search: Search, limit: int, sort: Sort = "start") -> list[Found]:
    """Return the first *limit* traces that *search* wants, the newest, slowest, largest or most faulty first."""
    if limit < 1:
        return []
    if sort == "start":
        return _newest(connection, search, limit)
    rows = connection.execute(f"SELECT * FROM ({_SUMMARY} GROUP BY trace_id) ORDER BY {_ORDERS[sort]} DESC, trace_id")
    fitting = (trace for trace in map(Found._make, rows) if _fits(connection, search, trace))
    return list(itertools.islice(fitting, limit))


def _newest(connection: sqlite3.Connection, search: Search, limit: int) -> list[Found]:
    found: list[tuple[int, str, Found]] = []  # a heap, the oldest first
    misses = 0
    for start_ns, trace_id in _candidates(connection, search):
        if len(found) == limit and found[0][0] > start_ns:
            break
        trace = Found._make(connection.execute(f"{_SUMMARY} WHERE trace_id = ?", (trace_id,)).fetchone())
        if _fits(connection, search, trace):
            push = heapq.heappush if len(found) < limit else heapq.heappushpop
            push(found, (trace.start_ns, str(trace_id), trace))
        elif misses == _MISSES:
            return _rare(connection, search, limit)
        else:
            misses += 1
    return [trace for _, _, trace in sorted(found, reverse=True)]


def _rare(connection: sqlite3.Connection, search: Search, limit: int) -> list[Found]:
    """Return what ``_newest()`` returns, by one scan of all spans: faster if few traces fit."""
    terms, values = _terms(search)
    fitting = f"WHERE trace_id IN (SELECT trace_id FROM spans WHERE {' AND '.join(terms)})" if terms else ""
    rows = connection.execute(
        f"SELECT * FROM ({_SUMMARY} {fitting} GROUP BY trace_id) ORDER BY start_ns DESC, trace_id DESC", values
    )
    return list(itertools.islice((trace for trace in map(Found._make, rows) if _is_in_time(search, trace)), limit))


def _candidates(connection: sqlite3.Connection, search: Search) -> Iterator[tuple[int, str]]:
    """Yield each trace that may fit once, with the start of its last span that may, the last first."""
    terms, values = _covered(search)
    if search.since_ns is not None:
        # A trace starts with its first span: no other of its spans started earlier.
        terms.append("start_ns >= ?")
        values.append(search.since_ns)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    rows: Iterable[tuple[int, str]] = ()
    if terms:
        rows = connection.execute(
            f"SELECT CAST(start_ns AS INTEGER), trace_id FROM spans INDEXED BY spans_to_search {where} LIMIT ?",
            (*values, _FEW),
        ).fetchall()
        rows = sorted(rows, key=itemgetter(0), reverse=True) if len(rows) < _FEW else ()
    rows = rows or connection.execute(
        f"SELECT CAST(start_ns AS INTEGER), trace_id FROM spans {where} ORDER BY start_ns DESC", values
    )
    seen: set[str] = set()
    for start_ns, trace_id in rows:
        if trace_id not in seen:
            seen.add(trace_id)
            yield start_ns, trace_id


def _fits(connection: sqlite3.Connection, search: Search, trace: Found) -> bool:
    if not _is_in_time(search, trace):
        return False
    terms, values = _terms(search)
    if not terms:
        return True
    rows = connection.execute(
        f"SELECT 1 FROM spans WHERE trace_id = ? AND {' AND '.join(terms)} LIMIT 1", (trace.trace_id, *values)
    )
    return rows.fetchone() is not None


def _is_in_time(search: Search, trace: Found) -> bool:
    took_ns = trace.end_ns - trace.start_ns
    return not (
        (search.since_ns is not None and trace.start_ns < search.since_ns)
        or (search.until_ns is not None and trace.start_ns >= search.until_ns)
        or (search.slower_ns is not None and took_ns < search.slower_ns)
        or (search.faster_ns is not None and took_ns > search.faster_ns)
    )


def _covered(search: Search) -> tuple[list[str], list[Any]]:
    """Return the conditions about columns of the index of searches, and their values."""
    terms: list[str] = []
    values: list[Any] = []
    for term, value in (
        ("service = ?", search.service),
        ("instr(name, ?)", search.name),
        ("status = ?", search.status),
    ):
        if value is not None:
            terms.append(term)
            values.append(whole(value))
    return terms, values


def _terms(search: Search) -> tuple[list[str], list[Any]]:
    """Return the conditions that one span of the trace must meet, and their values."""
    terms, values = _covered(search)
    for key, value in search.attributes.items():
        # A scan of text is cheaper than JSON, and leaves few spans for it. JSON may escape characters of a key.
        is_plain = key.isalnum() or key.replace(".", "").replace("_", "").isalnum()
        terms.append(
            ("instr(attributes, ?) AND " if is_plain else "")
            + "EXISTS (SELECT 1 FROM json_each(CASE WHEN json_valid(attributes) THEN attributes ELSE '{}' END) AS one"
            " WHERE one.key = ? AND CASE one.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'"
            " ELSE CAST(one.value AS TEXT) END = ?)"
        )
        values += ([f'"{key}":'] if is_plain else []) + [whole(key), whole(value)]
    return terms, values
