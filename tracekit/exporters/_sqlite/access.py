"""Permissions of new files that hold spans, and protection against other users' files and links.

SQLite gives its write-ahead log and the index of the log the permissions of the file. The rules for links, and for
files in directories such as /tmp, are those of Linux's ``fs.protected_symlinks`` and ``fs.protected_regular``, which
not every system enforces.
"""

from __future__ import annotations

import os
import stat

from .errors import StoreError

_PRIVATE = 0o600


def identity(file: str | int) -> tuple[int, int] | None:
    """Return the device and inode of *file*, a path or a descriptor; None if it does not exist."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def make_private(path: str, mode: int) -> str:
    """Create the file at *path* with permissions *mode* unless it exists, and return its name without links.

    Raises ``StoreError`` for another user's link, for a link to another user's file, and in a directory that everybody
    may write to for another user's file, log or index of a log.
    """
    if os.name == "nt":  # a new file has the permissions of its directory
        return path
    target = path
    if os.path.islink(path):
        _check_owner(path, path)
        target = os.path.realpath(path)
    for suffix in ("", "-wal", "-shm", "-journal"):
        _check_owner(target + suffix, path)
    try:
        file = os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)
    except OSError:  # it exists, or SQLite will report why it cannot be created
        return target
    try:
        os.fchmod(file, mode)  # regardless of the umask
    finally:
        os.close(file)
    return target


def _check_owner(name: str, path: str) -> None:
    try:
        found = os.lstat(name)
    except OSError:
        return
    is_link = stat.S_ISLNK(found.st_mode)
    if found.st_uid == os.geteuid() or (is_link and found.st_uid == 0):
        return
    if is_link or os.path.islink(path) or _is_public(os.path.dirname(name)):
        wrong = "a link of another user's" if is_link else "another user's file"
        raise StoreError(wrong, name, "name a path in a directory that is yours alone")


def _is_public(directory: str) -> bool:
    """Return whether everybody may create files in *directory*, as in /tmp."""
    try:
        return bool(os.stat(directory).st_mode & stat.S_IWOTH)
    except OSError:
        return False
