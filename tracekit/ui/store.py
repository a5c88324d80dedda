"""The store behind the receiver: requests become rows in one thread at a time, and every span is counted."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import zlib
from typing import Final, Literal, NamedTuple, TypeAlias

from ..exporters.sqlite import SQLiteExporter, SQLiteReader
from . import json, protobuf
from .rows import Malformed

Signal: TypeAlias = Literal["traces", "logs"]

_MAX_BYTES: Final = 2**30  # of the file
MAX_REQUEST_BYTES: Final = 20 * 2**20  # the default of OpenTelemetry's collector
_CACHE_BYTES: Final = 16 * 2**20  # ids of traces are random: each batch changes pages all over the index
_MAX_WAITING_BYTES: Final = 3 * MAX_REQUEST_BYTES


class TooLarge(ValueError):
    """Raised for a request of more than ``MAX_REQUEST_BYTES``."""


class Busy(Exception):
    """Raised for a request when too many others wait."""


class Counts(NamedTuple):
    """The fate of the spans and log records of all requests since the start.

    ``stored`` are committed to the store, ``rejected`` had no valid ids or could not be stored, ``evicted`` were stored
    earlier and deleted for lack of room. ``failed_requests`` were answered with an error and are not counted as spans.
    ``logs`` and ``evicted_logs`` are the log records that were stored and deleted.
    """

    requests: int
    failed_requests: int
    stored: int
    rejected: int
    evicted: int
    logs: int
    evicted_logs: int


class SpanStore:
    """The SQLite file at *path*, below *max_bytes*: spans that do not fit replace the oldest, however young.

    Without *max_bytes* the bound is 1 GiB, or an eighth more than the file has if that is larger.
    One that is *only_shown* gets no spans: it is not written, unless it does not exist. Raises ``StoreError``.
    Safe to use from several threads. ``reserve()`` before a body is read, ``put()`` it, and ``release()`` in any case.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int | None = None, only_shown: bool = False) -> None:
        size = _size(path)
        max_bytes = max_bytes or max(_MAX_BYTES, size + size // 8)
        self._exporter = SQLiteExporter(path, max_age_s=math.inf, max_bytes=max_bytes, cache_bytes=_CACHE_BYTES)
        self._writing = threading.Lock()
        self._counting = threading.Lock()
        self._waiting_bytes = 0
        self._requests = self._failed = self._stored = self._rejected = self._logs = 0
        self.path = self._exporter.path
        if only_shown and os.path.lexists(self.path):
            SQLiteReader(self.path).close()
        else:
            self._exporter.store([], 0)  # creates the file, and makes room in it

    def reserve(self, size: int) -> None:
        """Make room for *size* bytes of a waiting request; raise ``Busy`` if there is none."""
        with self._counting:
            if self._waiting_bytes + size > _MAX_WAITING_BYTES:
                raise Busy
            self._waiting_bytes += size

    def release(self, size: int) -> None:
        """Undo ``reserve()``."""
        with self._counting:
            self._waiting_bytes -= size

    def put(self, octets: bytes, signal: Signal = "traces", *, is_json: bool = False, is_gzip: bool = False) -> int:
        """Store the spans, or log records, of one request; return the number of those that are rejected.

        They are committed when this returns. Raises ``Malformed``, ``TooLarge`` or ``StoreError``, and then none is
        stored, or the sender may send them again.
        """
        with self._writing:  # one request at a time is unpacked: that bounds the memory
            if is_gzip:
                octets = _unpacked(octets)
            if len(octets) > MAX_REQUEST_BYTES:
                raise TooLarge
            encoding = json if is_json else protobuf
            if signal == "logs":
                read, store = encoding.read_logs, self._exporter.store_logs
            else:
                read, store = encoding.read_request, self._exporter.store
            rows, without_ids, size = read(octets, int(time.time()))
            stored = store(rows, size) if rows else 0
        rejected: int = without_ids + len(rows) - stored
        with self._counting:
            self._requests += 1
            if signal == "logs":
                self._logs += stored
            else:
                self._stored += stored
            self._rejected += rejected
        return rejected

    def failed(self) -> None:
        """Count a request that was answered with an error."""
        with self._counting:
            self._requests += 1
            self._failed += 1

    def counts(self) -> Counts:
        """Return the counts so far."""
        with self._counting:
            evicted = self._exporter.evicted, self._exporter.evicted_logs
            return Counts(
                self._requests, self._failed, self._stored, self._rejected, evicted[0], self._logs, evicted[1]
            )

    def close(self) -> None:
        """Close the file."""
        with self._writing:
            self._exporter.shutdown()


def _unpacked(octets: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(octets, MAX_REQUEST_BYTES + 1)
    except zlib.error:
        raise Malformed("the body is not gzip") from None
    if len(text) > MAX_REQUEST_BYTES:
        raise TooLarge
    if not unpacker.eof or unpacker.unused_data:
        raise Malformed("the gzip body is cut off, or something follows it")
    return text


def _size(path: str | os.PathLike[str]) -> int:
    """Return the octets of the file at *path* and of its write-ahead log, 0 without a file."""
    size = 0
    for name in (path, f"{os.fspath(path)}-wal"):
        with contextlib.suppress(OSError):
            size += os.path.getsize(name)
    return size
