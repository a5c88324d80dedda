"""Figures of the spans in a store: count, errors and latency for each service and name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .._render import cells, cut, duration, printable
from ..exporters.sqlite import SQLiteReader
from .screen import Screen, print_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ..exporters.sqlite import Figures
    from .screen import Segment

_TITLES = ("spans", "errors", "p50", "p95", "p99", "slowest", "name", "service")


def run(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces stats``, and return its exit status."""
    with SQLiteReader(arguments.path) as reader:
        rows = reader.figures(since_ns=arguments.since, service=arguments.service, name=arguments.name)[
            : arguments.limit
        ]
        if arguments.json:
            print_json({"path": reader.path, "names": [row._asdict() for row in rows]})
            return 0
        if not rows:
            sys.stdout.write(f"no span fits: {printable(reader.path, 1000)}\n")
            return 0
    screen = Screen()
    for segments in _table(rows, screen.width):
        screen.line(*segments)
    return 0


def _table(rows: list[Figures], width: int) -> Iterator[list[Segment]]:
    texts = [
        (
            str(row.spans),
            str(row.errors or ""),
            *map(duration, (row.p50_ns, row.p95_ns, row.p99_ns, row.slowest_ns)),
            printable(row.name),
            printable(row.service, 40),
        )
        for row in rows
    ]
    widths = [max(map(cells, column)) for column in zip(_TITLES, *texts, strict=True)]
    widths[6] = min(widths[6], max(16, width - sum(widths[:6]) - widths[7] - 2 * 7))
    for line in (_TITLES, *texts):
        styles = ("dim",) * 8 if line is _TITLES else ("", "bold red", "", "", "", "dim", "bold", "cyan")
        segments: list[Segment] = []
        for at, (text, size, style) in enumerate(zip(line, widths, styles, strict=True)):
            segments += [(text.rjust(size) if at < 6 else cut(text, size), style), ("  ", "")]
        yield segments
