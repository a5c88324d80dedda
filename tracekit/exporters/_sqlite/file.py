"""One SQLite file that several processes write at once, within bounds.

How it works: write-ahead mode, so that readers never wait; writers take turns, each waiting for its own, and
whoever fills the log moves it into the file. The connection belongs to the process that opened it: ``fork()``
waits for a running transaction (a second at most), and the child opens its own.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from .access import check_mode, make_private
from .errors import StoreError, code_of, damaged, explain
from .schema import has_schema, prepare

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ModuleNotFoundError:  # Windows, where an open file cannot be renamed
    flock = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .schema import Schema

__all__ = ["SQLiteFile", "check_above_0", "check_bytes"]

_MIN_BYTES = 1 << 20
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_BUSY_S = 0.05


class SQLiteFile:
    """The file at *path*, made at first use with the tables of *schema*; threads and processes may share it.

    It stays below *max_bytes*, its write-ahead log below *max_log_bytes*. *lock_timeout_s* is how long a
    transaction waits for others. A new file gets the permissions *mode*. A file that was removed or replaced is let go
    of, and the path opened anew.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Schema,
        *,
        max_bytes: int,
        max_log_bytes: int,
        lock_timeout_s: float,
        mode: int = 0o600,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"path must be str or a path, not {type(path).__name__}")
        if not name or "\0" in name or not _is_file_name(name):
            raise ValueError(f"path must name a file: {name!a}")
        check_above_0("lock_timeout_s", lock_timeout_s)
        check_mode("mode", mode)
        self.path = os.path.abspath(name)
        self.schema = schema
        self.max_bytes = max_bytes
        self.max_log_bytes = max_log_bytes
        self.lock_timeout_s = lock_timeout_s
        self.mode = mode
        # The threads inside explained(), with the file that was open when their call failed.
        self._users: dict[int, tuple[int, int] | None] = {}
        self._connection: sqlite3.Connection | None = None
        self._process: tuple[int, int] | None = None  # who opened the connection
        self._opened_file: tuple[int, int] | None = None  # what it opened
        self._damaged_file: tuple[int, int] | None = None
        self._page_size = 0
        self._log = ""
        _forks.files.add(self)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of SQLite into ``StoreError``; after one the file is opened anew, whatever has become of it."""
        thread = threading.get_ident()
        if thread in self._users:
            # A signal handler or finaliser has interrupted a call that may be anywhere in its transaction.
            raise StoreError("in use by the call that this one interrupts", self.path, "call again after it")
        self._users[thread] = None
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, StoreError) as error:
            self.close()
            explained = error if isinstance(error, StoreError) else explain(error, self.path)
            if code_of(error) & 0xFF == sqlite3.SQLITE_NOTADB and self._has_our_header():
                explained = damaged(self.path)
            if explained.is_damaged:
                self._damaged_file = self._users[thread]
            if explained is error:
                raise
            raise explained from error
        finally:
            self._users.pop(thread, None)

    @contextmanager
    def transaction(self, end: str = "COMMIT", *, log_bytes: int = 0) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a write transaction that may add *log_bytes* to the log; an error undoes it."""
        with self._begun("BEGIN IMMEDIATE", log_bytes) as connection:
            yield connection
            connection.execute(end)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Give the connection inside a read transaction, for which no writer has to wait."""
        with self._begun("BEGIN") as connection:
            yield connection

    def checkpoint(self) -> None:
        """Move the log into the file, and give its space back, unless a reader is in the way."""
        with self._begun("PRAGMA wal_checkpoint(TRUNCATE)"):
            pass

    def pages(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return how many pages the file has, and how many of them are free."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    def room(self, connection: sqlite3.Connection) -> int:
        """Return how many bytes there is room for below ``max_bytes``."""
        pages, free = self.pages(connection)
        return self.max_bytes - (pages - free) * self._page_size

    def check_disk(self, need: int) -> None:
        """Raise what SQLite raises, unless *need* bytes are left on the disk once the log has moved into the file."""
        try:
            free = shutil.disk_usage(os.path.dirname(self._log)).free
        except OSError:  # SQLite will say what has become of it
            return
        if free < _size(self._log) + need:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def is_too_large(self, pages: int) -> bool:
        """Tell whether a file of *pages* is above ``max_bytes``, as one is that was allowed more last time."""
        return pages * self._page_size > self.max_bytes

    def give_back(self, connection: sqlite3.Connection, pages: int) -> None:
        """Give at most *pages* free pages back to the file system."""
        for _ in range(pages):
            # Page by page: before Python 3.12 one call gives back one page, whatever it is told.
            connection.execute("PRAGMA incremental_vacuum(1)").fetchall()

    def close(self) -> None:
        """Close the connection; what comes next opens the file again."""
        with _forks.lock:
            self.disown()
            self._close()

    def set_aside(self) -> str | None:
        """Rename the file, which is damaged, so that the next call begins a new one; return its name then.

        None where no call has found it damaged, it cannot be renamed, or its header is not of this kind. Of several threads and processes that find
        it damaged one renames it. A file that was set aside earlier is replaced.
        """
        path = os.path.realpath(self.path)
        aside = f"{path}.damaged"
        if self._damaged_file is None:
            return None
        with _forks.lock:
            self.disown()
            self._close()  # before the file below is closed, which ends SQLite's locks on it in this process
            try:
                with open(path, "rb") as file:
                    if flock is not None:
                        flock(file, LOCK_EX | LOCK_NB)
                    # Only that very file: by now another process may have put a new one in its place.
                    if self._damaged_file == _identity(file.fileno()) == _identity(path):
                        if not self.schema.is_in_header(file.read(100)):
                            return None
                        _rename(path, aside)
            except (BlockingIOError, FileNotFoundError):  # another process renames it just now
                pass
            except OSError:
                return None
        return aside

    def _has_our_header(self) -> bool:
        try:
            with _forks.lock, open(self.path, "rb") as file:
                return self.schema.is_in_header(file.read(100))
        except OSError:
            return False

    def disown(self) -> None:
        """Let go of a connection that came over a fork, without closing it: the locks and the log are the parent's."""
        if self._connection is not None and self._process != _forks.process():
            _forks.inherited.append(self._connection)
            self._connection = None

    def forget_users(self) -> None:
        """Forget the parent's threads after a fork: the child's have the same identifiers."""
        self._users.clear()

    @contextmanager
    def _begun(self, statement: str, log_bytes: int | None = None) -> Iterator[sqlite3.Connection]:
        """Open the file if need be, wait for *statement* to get its lock, and keep fork() away for what follows."""
        deadline = time.monotonic() + self.lock_timeout_s
        while True:
            with _forks.lock:
                try:
                    connection = self._try(statement, log_bytes, time.monotonic() < deadline)
                    if connection is not None:
                        try:
                            yield connection
                        finally:
                            if connection.in_transaction:
                                connection.execute("ROLLBACK")
                        return
                except BaseException:
                    # Here, as another thread may open another file once the lock is released.
                    if threading.get_ident() in self._users:
                        self._users[threading.get_ident()] = self._opened_file
                    raise
            # SQLite's own wait is not fair; who comes again at a random moment gets in. Not from the random
            # module: what a program that has seeded it gets next is not ours to change.
            time.sleep(_BUSY_S * (1 + os.urandom(1)[0]) / 256)

    def _try(self, statement: str, log_bytes: int | None, may_fail: bool) -> sqlite3.Connection | None:
        try:
            connection = self._opened()
            if not self._log_has_room(log_bytes):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(statement)
            if self._log_has_room(log_bytes):  # now that nobody else can fill it
                return connection
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if may_fail and code_of(error) & 0xFF in _BUSY:
                return None
            raise
        if may_fail:
            return None
        raise StoreError("a reader blocks the write-ahead log", self.path, "end what has a transaction open on it")

    def _log_has_room(self, log_bytes: int | None) -> bool:
        return log_bytes is None or _size(self._log) + log_bytes <= self.max_log_bytes

    def _opened(self) -> sqlite3.Connection:
        self.disown()
        if self._connection is not None and _identity(self.path) != self._opened_file:
            self._close()  # removed or replaced: nobody will read what is written to the old file
        if self._connection is None:
            self._connection = self._connect()
            self._log = f"{os.path.realpath(self.path)}-wal"
            self._process = _forks.process()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        schema = self.schema
        target = make_private(self.path, self.mode)
        self._opened_file = _identity(target)
        connection = sqlite3.connect(target, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection)
            if not has_schema(connection, self.path, schema):
                # Both take effect in an empty file only.
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if not has_schema(connection, self.path, schema):
                    for statement in schema.create:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={schema.application_id}")
                    connection.execute(f"PRAGMA user_version={schema.version}")
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint").fetchall()  # the ids into the file's own header
            (self._page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power failure may take the last batches, never the file
            connection.execute(f"PRAGMA max_page_count={self.max_bytes // self._page_size}")
            log_pages = self.max_log_bytes // self._page_size
            connection.execute(f"PRAGMA wal_autocheckpoint={min(1000, log_pages // 4)}")
            connection.execute(f"PRAGMA journal_size_limit={self.max_log_bytes // 4}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Forks:
    """Keeps fork() out of transactions, and a process from its parent's connections.

    A child must not find SQLite's mutexes taken by a thread that it does not have, nor a transaction that its exit
    would roll back in memory that it shares with the parent.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may interrupt its holder
        self.files: WeakSet[SQLiteFile] = WeakSet()
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
        self.lock = threading.RLock()
        self._forked += 1
        for file in self.files:
            file.disown()
            file.forget_users()


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after_in_parent, after_in_child=_forks.after_in_child
    )


def check_above_0(parameter: str, number: float) -> None:
    """Raise what says that *parameter* is wrong, unless *number* is a number above 0."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{parameter} must be a number, not {type(number).__name__}")
    if not number > 0:
        raise ValueError(f"{parameter} must be above 0: {number}")


def check_bytes(max_bytes: int) -> None:
    """Raise what says that *max_bytes* is wrong, unless it is an int that leaves room for anything."""
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise TypeError(f"max_bytes must be int, not {type(max_bytes).__name__}")
    if max_bytes < _MIN_BYTES:
        raise ValueError(f"max_bytes must be at least {_MIN_BYTES}: {max_bytes}")


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _identity(file: str | int) -> tuple[int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _rename(path: str, aside: str) -> None:
    # The log first: beside a new file it would be another file's.
    for suffix in ("-wal", "-shm", ""):
        try:
            os.replace(path + suffix, aside + suffix)
        except FileNotFoundError:
            if not suffix:
                raise
