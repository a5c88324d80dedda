"""Traces of a store as files for other programs, and the removal of traces."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..exporters._files.jaeger import write_jaeger
from ..exporters._files.otlp import write_otlp
from ..exporters._files.perfetto import write_perfetto
from ..exporters.sqlite import SQLiteExporter, SQLiteReader
from .screen import ERROR, complain, plural

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from ..exporters.sqlite import StoredSpan

__all__ = ["run_delete", "run_export"]

_WRITERS: dict[str, Callable[[Iterable[StoredSpan], TextIO], None]] = {
    "jaeger": write_jaeger,
    "otlp": write_otlp,
    "perfetto": write_perfetto,
}


def run_export(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces export``, and return its exit status."""
    with SQLiteReader(arguments.path) as reader:
        spans = _chosen(reader, arguments)
        if arguments.output is None:
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


def _chosen(reader: SQLiteReader, arguments: argparse.Namespace) -> list[StoredSpan]:
    ids = [reader.find(prefix) for prefix in arguments.trace_id]
    return reader.select(ids or None, since_ns=arguments.since)


@contextmanager
def _replacing(path: str) -> Iterator[TextIO]:
    """Yield a file that takes the place of *path* when it is complete."""
    part = f"{path}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


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
