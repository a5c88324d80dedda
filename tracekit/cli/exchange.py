"""Traces of a store as files for other programs, traces from such files, and the removal of traces."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._render import plural, printable
from ..exporters._files.jaeger import read_jaeger, write_jaeger
from ..exporters._files.otlp import write_otlp
from ..exporters._files.perfetto import read_perfetto, write_perfetto
from ..exporters.sqlite import SQLiteExporter, SQLiteReader
from ..ui.json import read_parsed
from ..ui.rows import Malformed
from .screen import ERROR, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Literal, TextIO

    from ..exporters._sqlite.reader import Selection
    from ..exporters.sqlite import StoredSpan
    from ..ui.rows import Row

_WRITERS: dict[str, Callable[[Iterable[StoredSpan], TextIO], None]] = {
    "jaeger": write_jaeger,
    "otlp": write_otlp,
    "perfetto": write_perfetto,
}

# By the name that a file of the format begins with; each makes an OTLP request of it.
_READERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "resourceSpans": lambda request: request,
    "data": read_jaeger,
    "traceEvents": read_perfetto,
}
_MAX_BYTES = 1 << 29
_PROGRESS_S = 0.2


def run_export(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces export``, and return its exit status."""
    with SQLiteReader(arguments.path) as reader:
        is_to_file = arguments.output is not None and not _is_stdout(arguments.output)
        spans = _Counted(_chosen(reader, arguments), is_to_file)
        if not is_to_file:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 on every terminal
            _WRITERS[arguments.format](spans, sys.stdout)
            sys.stdout.write("\n")
            return 0
        try:
            with _replacing(arguments.output) as file:
                _WRITERS[arguments.format](spans, file)
        except OSError as error:
            complain(f"{arguments.output} cannot be written: {error.strerror}")
            return ERROR
    return 0


def _chosen(reader: SQLiteReader, arguments: argparse.Namespace) -> Selection:
    ids = [reader.find(prefix) for prefix in arguments.trace_id]
    order: Literal["trace", "start"] = "start" if arguments.format == "perfetto" else "trace"
    return reader.select(ids or None, since_ns=arguments.since, order=order)


class _Counted:
    """Spans, with their number and rate on stderr if that is a terminal that does not show the spans too.

    A format may iterate them twice.
    """

    def __init__(self, spans: Selection, is_to_file: bool) -> None:
        self._spans = spans
        self._is_shown = sys.stderr.isatty() and (is_to_file or not sys.stdout.isatty())

    def __iter__(self) -> Iterator[StoredSpan]:
        if not self._is_shown:
            yield from self._spans
            return
        begin_s = shown_s = time.monotonic()
        number, count = 0, len(self._spans)
        try:
            for number, span in enumerate(self._spans, 1):
                yield span
                if not number & 255 and time.monotonic() > shown_s + _PROGRESS_S:
                    shown_s = time.monotonic()
                    sys.stderr.write(f"\r{_rate(number, count, shown_s - begin_s)}")
                    sys.stderr.flush()
        finally:
            sys.stderr.write(f"\r{_rate(number, count, time.monotonic() - begin_s)}\n")


def _rate(number: int, count: int, took_s: float) -> str:
    return f"{number:,} of {count:,} spans, {number / max(took_s, 1e-3):,.0f} a second  "


def _is_stdout(path: str) -> bool:
    """Return whether *path* is the file that standard output goes to, as ``/dev/stdout`` is: it may have more in it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError):  # no such file, or no descriptor
        return False


@contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """Yield a file that takes the place of *path*, with its permissions, when it is complete.

    A device or a pipe stays in its place, and is written to; a link stays one, and its target is replaced.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8") as file:
            yield file
        return
    path = os.path.realpath(path)
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            if os.path.exists(path):
                shutil.copymode(path, part)
            yield file
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


def run_import(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces import``, and return its exit status."""
    try:
        with open(0 if arguments.file == "-" else arguments.file, "rb") as file:
            octets = file.read(_MAX_BYTES + 1)
        if len(octets) > _MAX_BYTES:
            raise Malformed(f"a file may have {_MAX_BYTES >> 20} MiB")
        rows, rejected = _rows(octets)
    except OSError as error:
        complain(f"{arguments.file} cannot be read: {error.strerror}")
        return ERROR
    except Malformed as error:
        complain(f"{arguments.file} cannot be imported: {printable(str(error), 200)}")
        return ERROR
    exporter = SQLiteExporter(arguments.path, max_age_s=math.inf, max_bytes=1 << 40)  # evicts nothing
    try:
        exporter.store([], 0)  # creates the file
        fresh = _unknown(rows, arguments.path)
        stored = exporter.store(fresh, 4 * len(octets)) if fresh else 0
    finally:
        exporter.shutdown()
    known, failed = len(rows) - len(fresh), rejected + len(fresh) - stored
    line = f"{plural(stored, 'span')} imported"
    line += f", {known} were there already" if known else ""
    line += f", {failed} rejected" if failed else ""
    sys.stdout.write(f"{line}\n")
    return 0


def _rows(octets: bytes) -> tuple[list[Row], int]:
    """Return the rows of a file in any of the formats, and the number of spans without valid ids."""
    rows: list[Row] = []
    rejected, stored_s = 0, int(time.time())
    for document in _documents(octets):
        try:
            read = next((read for key, read in _READERS.items() if key in document), None)
            if read is None:
                raise Malformed(f"no {', '.join(_READERS)} in it")
            found, without_ids, _ = read_parsed(read(document), stored_s, 0)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            if isinstance(error, Malformed):
                raise
            raise Malformed(f"its parts are not as expected: {type(error).__name__}: {error}") from None
        rows += found
        rejected += without_ids
    return rows, rejected


def _documents(octets: bytes) -> list[dict[str, Any]]:
    """Return the objects of a file: one, or one a line, as OpenTelemetry's collector writes them."""
    try:
        try:
            documents = [json.loads(octets)]
        except ValueError:
            documents = [json.loads(line) for line in octets.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise Malformed("a JSON object was expected")
    return documents


def _unknown(rows: list[Row], path: str) -> list[Row]:
    """Return the *rows* of spans that are not in the store yet, each once."""
    known: set[tuple[str, str]] = set()
    with SQLiteReader(path) as reader:
        for trace_id in {row[1] for row in rows}:
            known.update([(span.trace_id, span.span_id) for span in reader.select([trace_id])])
    fresh = []
    for row in rows:
        if (row[1], row[2]) not in known:
            known.add((row[1], row[2]))
            fresh.append(row)
    return fresh


def run_delete(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces delete``, and return its exit status."""
    if not arguments.trace_id and arguments.before is None:
        complain("name traces, or a time with --before")
        return ERROR
    with SQLiteReader(arguments.path) as reader:
        ids = [reader.find(prefix) for prefix in arguments.trace_id]
    exporter = SQLiteExporter(arguments.path)
    try:
        count = exporter.delete(ids, before_ns=arguments.before)
    finally:
        exporter.shutdown()
    sys.stdout.write(f"{plural(count, 'span')} removed\n")
    return 0
