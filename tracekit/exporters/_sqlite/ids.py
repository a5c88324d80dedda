"""Ids of rows: in order of arrival, and never used again, also after the newest rows are deleted.

Readers that follow a store ask for the rows after the last id that they have seen. SQLite's AUTOINCREMENT keeps the
same promise with a look-up and a write for each row, which is 4 % of storing a span; this is a row for each batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from .errors import damaged, path_of
from .schema import is_one_row_of_counts

if TYPE_CHECKING:
    import sqlite3

IDS: Final = (
    """CREATE TABLE last_ids (  -- one row
        store TEXT NOT NULL,  -- random: another file at the same path has other ids
        spans INTEGER NOT NULL,
        logs INTEGER NOT NULL
    )""",
    "INSERT INTO last_ids VALUES (lower(hex(randomblob(8))), 0, 0)",
)
_ARE_SOUND: Final = f"typeof(store) = 'text' AND {is_one_row_of_counts('last_ids', 'spans', 'logs')}"
CHECK_IDS: Final = f"SELECT max({_ARE_SOUND}) FROM last_ids"


class Last(NamedTuple):
    """The ids of the newest span and log record that a store had, deleted or not, and the random name of the store."""

    store: str = ""
    spans: int = 0
    logs: int = 0


def last_ids(connection: sqlite3.Connection) -> Last:
    """Return the ids of the newest rows. Raises ``StoreError`` if another program has damaged them since the file was opened."""
    row = connection.execute(
        "SELECT store, "
        # Another program may have inserted rows.
        + ", ".join(f"max({table}, coalesce((SELECT max(id) FROM {table}), 0))" for table in ("spans", "logs"))
        + f" FROM last_ids WHERE {_ARE_SOUND}"
    ).fetchone()
    if row is None:
        raise damaged(path_of(connection))
    return Last._make(row)


def take_ids(connection: sqlite3.Connection, table: Literal["spans", "logs"], count: int) -> range:
    """Return ids for *count* new rows of *table*, in the transaction that inserts them; raise as ``last_ids()`` does."""
    last: int = getattr(last_ids(connection), table)
    if last > 1 << 62:  # a row that another program has inserted: few ids are left above it, or none
        raise damaged(path_of(connection))
    connection.execute(f"UPDATE last_ids SET {table} = ?", (last + count,))
    return range(last + 1, last + count + 1)
