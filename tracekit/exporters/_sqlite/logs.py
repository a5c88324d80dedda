"""Log records in a store of spans: the table, which the receiver of ``tracekit ui`` fills, and its rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .cells import columns_of, readers_of

if TYPE_CHECKING:
    import sqlite3


class StoredLog(NamedTuple):
    """One log record as it was stored. ``body`` is any value of JSON; ``severity`` is as OTLP has it: 1 to 24, 0 is unknown.

    ``trace_id`` and ``span_id`` are empty outside of traces.
    """

    trace_id: str
    span_id: str
    service: str
    time_ns: int
    severity: int
    level: str
    logger: str
    event: str
    body: Any
    attributes: dict[str, Any]
    dropped_attributes: int


LOGS: Final = (
    f"""CREATE TABLE logs (
        id INTEGER PRIMARY KEY,  -- grows in order of arrival
        stored_s INTEGER NOT NULL,  -- Unix time of arrival
        {columns_of(StoredLog)}
    )""",
    "CREATE INDEX logs_by_trace ON logs (trace_id, time_ns)",
)

_READERS: Final = readers_of(StoredLog)
_COLUMNS: Final = ("stored_s", *StoredLog._fields)
_BODY, _ATTRIBUTES, _DROPPED = (_COLUMNS.index(name) for name in ("body", "attributes", "dropped_attributes"))
_SHORT: Final = 1000
INSERT_LOG: Final = f"INSERT INTO logs (id, {', '.join(_COLUMNS)}) VALUES (?, {', '.join('?' * len(_COLUMNS))})"


def log_without_bulk(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return *row* with the first 1000 characters of its body as text, and without its attributes."""
    cells = list(row)
    body = json.loads(cells[_BODY])
    text = body if isinstance(body, str) else cells[_BODY]
    cells[_BODY] = json.dumps(f"{text[:_SHORT]} …", ensure_ascii=False)
    cells[_DROPPED] += len(json.loads(cells[_ATTRIBUTES]))
    cells[_ATTRIBUTES] = "{}"
    return tuple(cells)


def read_logs(
    connection: sqlite3.Connection, trace_id: str, span_id: str | None = None, *, limit: int
) -> list[StoredLog]:
    """Return the first *limit* records of a trace, or of one of its spans, in order of their time."""
    only = "" if span_id is None else " AND span_id = ?"
    rows = connection.execute(
        f"SELECT {', '.join(StoredLog._fields)} FROM logs WHERE trace_id = ?{only} ORDER BY time_ns, id LIMIT ?",
        (trace_id, *(() if span_id is None else (span_id,)), limit),
    )
    return [StoredLog(*[read(cell) for read, cell in zip(_READERS, row, strict=True)]) for row in rows]
