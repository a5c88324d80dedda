"""Errors of tracekit's files: the fault, the file, and the remedy."""

from __future__ import annotations

import os
import sqlite3

from ..._render import printable


class StoreError(Exception):
    """A file of tracekit's cannot be used, or does not contain the requested data.

    The message names the fault, the file and the remedy, and is the same each time for one cause. ``is_damaged``: the
    content is inconsistent, so only a new file helps.
    """

    def __init__(self, wrong: str, path: str, way_out: str, *, is_damaged: bool = False) -> None:
        # The fault first: causes are distinguished by their first 80 characters, and a path may be longer.
        super().__init__(printable(f"{wrong}: {path}: {way_out}", 2000))
        self.is_damaged = is_damaged


def damaged(path: str) -> StoreError:
    """Return the error for a file that is corrupt, or lacks a part that tracekit always writes."""
    way_out = "move it away with its -wal and -shm; a new one is made"
    return StoreError("damaged", path, way_out, is_damaged=True)


def path_of(connection: sqlite3.Connection) -> str:
    """Return the path of the file that *connection* has open."""
    return next(str(path) for _, schema, path in connection.execute("PRAGMA database_list") if schema == "main")


def explain(error: Exception, path: str) -> StoreError:
    """Return the StoreError for *error* from SQLite about the file at *path*."""
    directory = os.path.dirname(path)
    if os.path.isdir(path):
        return StoreError("is a directory", path, "name a file in it")
    if not os.path.lexists(directory):
        return StoreError("no such directory", path, f"make it first: mkdir -p {directory}")
    # UnicodeDecodeError: SQLite's message quotes a name from the file that is not UTF-8.
    if isinstance(error, UnicodeDecodeError) or code_of(error) & 0xFF == sqlite3.SQLITE_CORRUPT:
        return damaged(path)
    wrong, way_out = _CAUSES.get(code_of(error) & 0xFF, (f"SQLite failed ({str(error)[:100]})", "try another path"))
    return StoreError(wrong, path, way_out)


_LOCKED = (
    "locked by another process",
    "end what holds the lock (fuser or lsof names it), or allow more lock_timeout_s",
)
_FORBIDDEN = ("no permission", "make the file and its directory writable for this user, or name another path")
_CAUSES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CANTOPEN: _FORBIDDEN,
    sqlite3.SQLITE_PERM: _FORBIDDEN,
    sqlite3.SQLITE_READONLY: ("read-only", _FORBIDDEN[1]),
    sqlite3.SQLITE_FULL: ("no space left", "free some on its disk, or name a path on another"),
    sqlite3.SQLITE_IOERR: ("disk error or file size limit", "look at the disk and at ulimit -f, or name another path"),
    sqlite3.SQLITE_NOTADB: ("not a SQLite database", "name another path, or move that file away"),
}


def is_full(error: sqlite3.Error) -> bool:
    """Return whether *error* means lack of room, on the disk or by ``max_page_count``: SQLite reports both alike."""
    return code_of(error) == sqlite3.SQLITE_FULL


def code_of(error: Exception) -> int:
    """Return SQLite's extended error code, whose low byte is the primary code; 0 for an error of Python's."""
    return getattr(error, "sqlite_errorcode", 0)
