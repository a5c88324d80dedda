"""Ids of rows: in order of arrival, and never used again, also after the newest rows are deleted.

Readers that follow a store ask for the rows after the last id that they have seen. SQLite's AUTOINCREMENT keeps the
same promise with a look-up and a write for each row, which is 4 % of storing a span; this is a row for each batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import sqlite3

__all__ = ["CHECK_IDS", "IDS", "Last", "last_ids", "take_ids"]

IDS: Final = (
    """CREATE TABLE last_ids (  -- one row
        store TEXT NOT NULL,  -- random: another file at the same path has other ids
        spans INTEGER NOT NULL,
        logs INTEGER NOT NULL
    )""",
    "INSERT INTO last_ids VALUES (lower(hex(randomblob(8))), 0, 0)",
)
CHECK_IDS: Final = "SELECT count(*) = 1 AND min(typeof(spans) || typeof(logs) = 'integerinteger') FROM last_ids"


class Last(NamedTuple):
    """The ids of the newest span and log record that a store had, deleted or not, and the random name of the store."""

    store: str = ""
    spans: int = 0
    logs: int = 0


def last_ids(connection: sqlite3.Connection) -> Last:
    """Return the ids of the newest rows."""
    return Last._make(
        connection.execute(
            "SELECT store, "
            # Another program may have inserted rows.
            + ", ".join(f"max({table}, coalesce((SELECT max(id) FROM {table}), 0))" for table in ("spans", "logs"))
            + " FROM last_ids"
        ).fetchone()
    )


def take_ids(connection: sqlite3.Connection, table: Literal["spans", "logs"], count: int) -> range:
    """Return ids for *count* new rows of *table*, in the transaction that inserts them."""
    last: int = getattr(last_ids(connection), table)
    connection.execute(f"UPDATE last_ids SET {table} = ?", (last + count,))
    return range(last + 1, last + count + 1)
