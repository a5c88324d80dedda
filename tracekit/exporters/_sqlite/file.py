"""A bounded SQLite file that several processes write at once.

How it works: in write-ahead mode readers never wait, writers take turns, and the writer that fills the log moves it
into the file. The connection belongs to the process that opened it: ``fork()`` waits for a running transaction, for at
most a second, and the child opens its own connection.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakSet

from ..._core.checks import check_above_0, check_int, check_mode
from ..._forks import call_in_child
from .access import identity, make_private
from .errors import StoreError, code_of, damaged, explain
from .schema import has_schema, prepare

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ModuleNotFoundError:  # Windows, where an open file cannot be renamed
    flock = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .schema import Schema

MIN_BYTES = 1 << 20  # the least size of a file, and of its cache
_CHECKPOINT_BYTES = 4 << 20  # of log that are moved into the file; then it is written from its start again
_LOG_BYTES = 16 << 20  # its largest size between two such moves
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_BUSY_S = 0.05


class SQLiteFile:
    """The file at *path*, created at first use with the tables of *schema*; shared by threads and processes.

    It stays below *max_bytes*, and its write-ahead log below *max_log_bytes*. A transaction waits for others for at
    most *lock_timeout_s*. A new file gets the permissions *mode*. After the file was removed or replaced, the path is
    opened again.
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
        cache_bytes: int = 2 * 2**20,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise TypeError(f"path must be str or a path, not {type(path).__name__}")
        if not name or "\0" in name or not _is_file_name(name):
            raise ValueError(f"path must name a file: {name!a}")
        check_above_0("lock_timeout_s", lock_timeout_s)
        check_mode("mode", mode)
        check_int("cache_bytes", cache_bytes, MIN_BYTES)
        self.path = os.path.abspath(name)
        self.schema = schema
        self.max_bytes = max_bytes
        self.max_log_bytes = max_log_bytes
        self.lock_timeout_s = lock_timeout_s
        self.mode = mode
        self.cache_bytes = cache_bytes
        # The threads inside explained(), and for each the file that was open when its call failed.
        self._users: dict[int, tuple[int, int] | None] = {}
        self._connection: sqlite3.Connection | None = None
        self._process: tuple[int, int] | None = None  # the process that opened the connection
        self._opened_file: tuple[int, int] | None = None  # its device and inode
        self._damaged_file: tuple[int, int] | None = None
        self._page_size = 0
        self._log = ""
        _forks.files.add(self)

    def __del__(self) -> None:
        # Python 3.13 and later warn of a connection that its owner has not closed. Without the lock: in a finalizer,
        # it might be another thread's.
        try:
            self.disown()
            self._close()
        except Exception:  # __init__() has failed, or the interpreter is exiting
            pass

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of SQLite into ``StoreError``; the next call after one opens the file again."""
        thread = threading.get_ident()
        if thread in self._users:
            # A signal handler or finalizer has interrupted a call, possibly in its transaction.
            raise StoreError("in use by the call that this one interrupts", self.path, "call again after it")
        self._users[thread] = None
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, StoreError) as error:
            self.close()
            explained = error if isinstance(error, StoreError) else explain(error, self.path)
            if code_of(error) & 0xFF == sqlite3.SQLITE_NOTADB and self._was_ours(self._users[thread]):
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
        """Yield the connection in a write transaction that may add *log_bytes* to the log; exceptions roll it back."""
        with self._begun("BEGIN IMMEDIATE", log_bytes) as connection:
            yield connection
            connection.execute(end)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a read transaction, which delays no writer."""
        with self._begun("BEGIN") as connection:
            yield connection

    def checkpoint(self) -> None:
        """Move the log into the file and truncate it, unless a reader still needs it."""
        with self._begun("PRAGMA wal_checkpoint(TRUNCATE)"):
            pass

    def pages(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return the number of pages of the file, and of free pages among them."""
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    def room(self, connection: sqlite3.Connection) -> int:
        """Return the number of bytes left below ``max_bytes``."""
        pages, free = self.pages(connection)
        return self.max_bytes - (pages - free) * self._page_size

    def room_on_disk(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return ``room()``, or less if the disk has less, and the bytes that the rows take."""
        pages, free = self.pages(connection)
        used = (pages - free) * self._page_size
        room = self.max_bytes - used
        on_disk = self._free_on_disk()
        # The log grows to its usual size, and the file by the pages that are in the log alone.
        on_disk -= max(0, min(self.max_log_bytes, _LOG_BYTES) - _size(self._log))
        on_disk -= max(0, pages * self._page_size - _size(self.path))
        return min(room, on_disk + free * self._page_size), used

    def check_disk(self, need: int) -> None:
        """Raise SQLite's error for a full disk unless *need* bytes are left after moving the log into the file."""
        if self._free_on_disk() < _size(self._log) + need:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def can_make_room(self, need: int) -> bool:
        """Return whether an empty file and log would leave *need* bytes on the disk."""
        return self._free_on_disk() + _size(self.path) + _size(self._log) >= need

    def _free_on_disk(self) -> int:
        try:
            return shutil.disk_usage(os.path.dirname(self._log)).free
        except OSError:  # SQLite will report the fault
            return sys.maxsize

    def is_too_large(self, pages: int) -> bool:
        """Return whether a file of *pages* exceeds ``max_bytes``, as after a larger bound in an earlier process."""
        return pages * self._page_size > self.max_bytes

    def give_back(self, connection: sqlite3.Connection, pages: int) -> None:
        """Give at most *pages* free pages back to the file system."""
        for _ in range(pages):
            # Page by page: before Python 3.12 one call gives back a single page, regardless of its argument.
            connection.execute("PRAGMA incremental_vacuum(1)").fetchall()

    def close(self) -> None:
        """Close the connection; the next call opens the file again."""
        with _forks.lock:
            self.disown()
            self._close()

    def set_aside(self) -> str | None:
        """Rename the damaged file, so that the next call creates a new one, and return the new name.

        Returns None if no call has found the file damaged, if it cannot be renamed, or if its header is not of this
        kind. One of several threads and processes that find the damage renames the file. The new name replaces a file
        that was set aside earlier.
        """
        path = os.path.realpath(self.path)
        aside = _aside(path)
        if self._damaged_file is None:
            return None
        with _forks.lock:
            self.disown()
            self._close()  # closing the file below would end SQLite's locks on it in this process
            try:
                with open(path, "rb") as file:
                    if flock is not None:
                        flock(file, LOCK_EX | LOCK_NB)
                    # Only the damaged file: another process may have created a new one by now.
                    if self._damaged_file == identity(file.fileno()) == identity(path):
                        if not self.schema.is_in_header(file.read(100)):
                            return None
                        _rename(path, aside)
            except (BlockingIOError, FileNotFoundError):  # another process is renaming it
                pass
            except OSError:
                return None
        return aside

    def _was_ours(self, failed: tuple[int, int] | None) -> bool:
        """Return whether the file that *failed* has a header of this kind, or was set aside by another user since."""
        path = os.path.realpath(self.path)
        with _forks.lock:
            if failed is not None and identity(_aside(path)) == failed:
                return True
            try:
                with open(path, "rb") as file:
                    return self.schema.is_in_header(file.read(100))
            except OSError:
                return False

    def disown(self) -> None:
        """Abandon a connection inherited across a fork, without closing it: its locks and log are the parent's."""
        if self._connection is not None and self._process != _forks.process():
            _forks.inherited.append(self._connection)
            self._connection = None

    def forget_users(self) -> None:
        """Forget the parent's threads after a fork: the child's have the same identifiers."""
        self._users.clear()

    @contextmanager
    def _begun(self, statement: str, log_bytes: int | None = None) -> Iterator[sqlite3.Connection]:
        """Open the file if necessary, wait until *statement* has its lock, and delay fork() until the end."""
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
                    # Here, because another thread may open a new file once the lock is released.
                    if threading.get_ident() in self._users:
                        self._users[threading.get_ident()] = self._opened_file
                    raise
            # SQLite's own wait is not fair; retries at random times are. Not the random module: a program that has
            # seeded it expects its own sequence.
            time.sleep(_BUSY_S * (1 + os.urandom(1)[0]) / 256)

    def _try(self, statement: str, log_bytes: int | None, may_fail: bool) -> sqlite3.Connection | None:
        try:
            connection = self._opened()
            if not self._log_has_room(log_bytes):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(statement)
            if self._log_has_room(log_bytes):  # now that no other process can fill it
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
        if self._connection is not None and identity(self.path) != self._opened_file:
            self._close()  # removed or replaced: no reader would see the old file
        if self._connection is None:
            self._connection = self._connect()
            self._log = f"{os.path.realpath(self.path)}-wal"
            self._process = _forks.process()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        schema = self.schema
        target = make_private(self.path, self.mode)
        self._opened_file = identity(target)
        connection = sqlite3.connect(target, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            prepare(connection)
            if not has_schema(connection, self.path, schema):
                # These only take effect in an empty file.
                connection.execute(f"PRAGMA page_size={schema.page_bytes}")
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN IMMEDIATE")
                if not has_schema(connection, self.path, schema):
                    for statement in schema.create:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={schema.application_id}")
                    connection.execute(f"PRAGMA user_version={schema.version}")
                connection.execute("COMMIT")
                connection.execute("PRAGMA wal_checkpoint").fetchall()  # moves the ids into the header of the file
            (self._page_size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA cache_size=-{self.cache_bytes >> 10}")
            # Debian's SQLite overwrites whole pages that are freed, by default: a tenth of the work of eviction.
            connection.execute("PRAGMA secure_delete=FAST")
            connection.execute("PRAGMA synchronous=NORMAL")  # a power failure may lose the last batches, not the file
            connection.execute(f"PRAGMA max_page_count={self.max_bytes // self._page_size}")
            log_pages = self.max_log_bytes // self._page_size
            connection.execute(f"PRAGMA wal_autocheckpoint={min(_CHECKPOINT_BYTES // self._page_size, log_pages // 4)}")
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
    """Delays fork() during transactions, and keeps a child from its parent's connections.

    A child must not inherit SQLite's mutexes held by a thread that it does not have, nor a transaction that its exit
    would roll back in memory shared with the parent.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may interrupt its holder
        self.files: WeakSet[SQLiteFile] = WeakSet()
        self.inherited: list[sqlite3.Connection] = []  # kept alive: the finalizer of a Connection closes it
        self._forked = 0
        self._held = threading.local()

    def process(self) -> tuple[int, int]:
        """Return a value that is unique to this process, unlike its pid, which may be used again."""
        return os.getpid(), self._forked

    def before(self) -> None:
        """Wait for a running transaction, for at most a second in case the disk hangs."""
        self._held.lock = self.lock.acquire(timeout=1.0)

    def after_in_parent(self) -> None:
        if self._held.lock:
            self.lock.release()

    def after_in_child(self) -> None:
        self.lock = threading.RLock()
        self._forked += 1
        for file in self.files:
            file.disown()
            file.forget_users()


_forks = _Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forks.before, after_in_parent=_forks.after_in_parent)
call_in_child(_forks.after_in_child)


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _aside(path: str) -> str:
    """Return the name of the damaged file at *path* once it is set aside."""
    return f"{path}.damaged"


def _rename(path: str, aside: str) -> None:
    # The log first: a new file must not find the log of its predecessor.
    for suffix in ("-wal", "-shm", ""):
        try:
            os.replace(path + suffix, aside + suffix)
        except FileNotFoundError:
            if not suffix:
                raise
