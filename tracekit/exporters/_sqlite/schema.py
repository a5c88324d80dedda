"""Recognition of tracekit's SQLite files: by the ids in the header, and by tables exactly as tracekit creates them.

The ids alone are not enough: a trigger can discard every row, and a view can replace a table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .errors import StoreError, damaged

if TYPE_CHECKING:
    import sqlite3

_MAGIC = b"SQLite format 3\0"
_ID_AT = 68  # https://www.sqlite.org/fileformat2.html#database_header


class Schema(NamedTuple):
    """One kind of file. The header holds the id and the version, where file(1) and PRAGMA show them."""

    application_id: int  # four letters, "trk" and one for the kind
    version: int
    create: tuple[str, ...]
    check: str = "SELECT 1"  # returns 1 unless a part is missing that tracekit always writes
    page_bytes: int = 4096

    def is_in_header(self, octets: bytes) -> bool:
        """Return whether *octets*, the first 100 of a file, are the header of this kind of file."""
        kind = self.application_id.to_bytes(4, "big")
        return octets.startswith(_MAGIC) and octets[_ID_AT : _ID_AT + 4] == kind


def is_one_row_of_counts(table: str, *columns: str) -> str:
    """Return the SQL condition that a row of *table* is its only one, and *columns* in it are numbers from 0 to 2**62.

    SQLite stores any type in any column, and another program may have written it. An addition would hide that: it takes
    text for a number, 0 if there is none in it.
    """
    sound = [f"typeof({column}) = 'integer' AND {column} BETWEEN 0 AND 1 << 62" for column in columns]
    return " AND ".join([f"(SELECT count(*) FROM {table}) = 1", *sound])


def prepare(connection: sqlite3.Connection) -> None:
    """Trust no function that the file's schema names, and replace text that is not UTF-8."""
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.text_factory = _decode


def _decode(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def has_schema(connection: sqlite3.Connection, path: str, schema: Schema) -> bool:
    """Return True for a file of this kind and version, False for an empty one; else raise ``StoreError``."""
    is_nested = connection.in_transaction
    if not is_nested:
        connection.execute("BEGIN")  # else another process could create the tables in between
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        if application == schema.application_id and version == schema.version:
            _check_tables(connection, path, schema, found)
            return True
    finally:
        if not is_nested and connection.in_transaction:
            connection.execute("ROLLBACK")
    if application == schema.application_id:
        wrong = f"has schema version {version}, this tracekit knows {schema.version}"
        raise StoreError(wrong, path, "use the tracekit that wrote it, or name another path")
    if application >> 8 == schema.application_id >> 8:
        raise StoreError("a tracekit file of another kind", path, "name another path")
    if application or version or found:
        raise StoreError("another program's database", path, "name another path")
    return False


def _check_tables(
    connection: sqlite3.Connection, path: str, schema: Schema, found: list[tuple[str, str, str, str | None]]
) -> None:
    wanted = {_plain(statement) for statement in schema.create if statement.startswith("CREATE")}
    tables = {statement.split()[2] for statement in wanted if statement.startswith("CREATE TABLE ")}
    for kind, name, table, sql in found:
        text = _plain(sql or "")
        if text in wanted:
            wanted.remove(text)
        elif str(table).lower() in tables and not (sql is None or text.startswith("CREATE INDEX ")):
            # A user's own index changes no result, unless it is UNIQUE.
            raise StoreError(f"has a {kind} {name} that is not tracekit's", path, "name another path")
    if wanted:
        raise StoreError("its tables are not as tracekit makes them", path, "name another path")
    if connection.execute(schema.check).fetchone() != (1,):
        raise damaged(path)


def _plain(sql: str) -> str:
    """Return *sql* without extra spaces and comments, which SQLite stores too."""
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())
