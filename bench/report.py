"""What was measured, as lines with ratios and verdicts, and as Markdown."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .rows import (
    BARE,
    DDTRACE,
    FLOOR,
    FLOOR_ROWS,
    FORMAT_ROWS,
    HANDOFF_ROWS,
    OTEL,
    OURS,
    ROWS,
    FloorRow,
    HandoffRow,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Line", "amount", "compared", "lines", "machine", "table", "text", "verdict"]

NOT_INSTALLED = "not installed"


class Line(NamedTuple):
    """One row of the result: the figure of each contender, the ratio, and whether that meets the target."""

    row: Row | FloorRow | HandoffRow
    figures: Mapping[str, float]
    ratio: float | None
    target: float | None
    met: bool | None


def lines(document: Mapping[str, Any]) -> list[Line]:
    """Return a line for each row that *document* has figures of."""
    measured = document["figures"]
    return [
        *(compared(row, measured[row.key]) for row in ROWS if row.key in measured),
        *(_floored(row, measured[row.key]) for row in FLOOR_ROWS if row.key in measured),
        *(_added(row, measured[row.key]) for row in HANDOFF_ROWS if row.key in measured),
    ]


def compared(row: Row, figures: Mapping[str, float]) -> Line:
    """Return the line of a row whose ratio is to OpenTelemetry."""
    bare = figures.get(BARE, 0.0)
    own = {name: value if name == BARE else value - bare for name, value in figures.items()}
    ratio = own[OTEL] / own[OURS] if OTEL in own and own.get(OURS, 0) > 0 else None
    met = None if row.at_least is None or ratio is None else ratio >= row.at_least
    return Line(row, own, ratio, row.at_least, met)


def _floored(row: FloorRow, figures: Mapping[str, float]) -> Line:
    ratio = figures[OURS] / figures[FLOOR] if FLOOR in figures else None
    return Line(row, figures, ratio, row.at_most, None if ratio is None else ratio <= row.at_most)


def _added(row: HandoffRow, figures: Mapping[str, float]) -> Line:
    added = figures[OURS] - figures[BARE]
    target = row.at_most if row.share is None else row.share * figures[BARE]
    return Line(row, figures, added, target, None if target is None else added <= target)


def text(document: Mapping[str, Any], lines: list[Line]) -> str:
    """Return the result as Markdown: versions and machine, a table for the peers and one for the floors."""
    versions = document["versions"]
    names = ", ".join(f"{name} {version or NOT_INSTALLED}" for name, version in versions.items())
    processes = "One process" if document["processes"] == 1 else f"Best of {document['processes']} processes"
    parts = [f"{names}; {document['machine']}. {processes}."]
    compared = [_compared_cells(line, versions) for line in lines if isinstance(line.row, Row)]
    if compared:
        parts.append(table(["work", OURS, OTEL, "ratio", "target", "met", DDTRACE, "Dapper, 2010"], compared))
    floored = [_floored_cells(line) for line in lines if isinstance(line.row, FloorRow)]
    if floored:
        parts.append(table(["work", "against", OURS, "floor", "ratio", "at most", "met"], floored))
    added = [_added_cells(line) for line in lines if isinstance(line.row, HandoffRow)]
    if added:
        parts.append(table(["hand-off", OURS, "without", "added", "at most", "met"], added))
    formats = [
        _format_cells(name, document["figures"][f"format {name}"])
        for name in FORMAT_ROWS
        if f"format {name}" in document["figures"]
    ]
    if formats:
        parts.append(table(["format", *_FORMAT_COLUMNS], formats))
    return "\n\n".join(parts)


def machine() -> str:
    """Return the interpreter and the processor of this machine."""
    return f"CPython {platform.python_version()}, {_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _compared_cells(line: Line, versions: Mapping[str, str | None]) -> list[str]:
    row = line.row
    assert isinstance(row, Row)
    bare = f" (the bare one takes {amount(line.figures[BARE], row.unit)})" if BARE in line.figures else ""
    return [
        row.work + bare,
        _cell(line, OURS, versions),
        _cell(line, OTEL, versions),
        "-" if line.ratio is None else f"{line.ratio:.1f}x",
        "-" if row.at_least is None else f"{row.at_least:g}x",
        verdict(line),
        _cell(line, DDTRACE, versions),
        "-" if row.dapper_ns is None else amount(row.dapper_ns, "ns"),
    ]


def _floored_cells(line: Line) -> list[str]:
    row = line.row
    assert isinstance(row, FloorRow)
    return [
        row.work,
        row.floor,
        amount(line.figures[OURS], "ns"),
        amount(line.figures[FLOOR], "ns") if FLOOR in line.figures else "not measured",
        "-" if line.ratio is None else f"{line.ratio:.2f}",
        f"{row.at_most:.2f}",
        verdict(line),
    ]


def _added_cells(line: Line) -> list[str]:
    row = line.row
    assert isinstance(row, HandoffRow)
    assert line.ratio is not None
    target = f"{row.share:.0%}" if row.share else "-" if line.target is None else amount(line.target, row.unit)
    return [
        row.work,
        amount(line.figures[OURS], row.unit),
        amount(line.figures[BARE], row.unit),
        amount(max(line.ratio, 0.0), row.unit),
        target,
        verdict(line),
    ]


_FORMAT_COLUMNS = ("read", f"read, {OTEL}", "absent", "bad", "1 MiB", "write", f"write, {OTEL}")


def _format_cells(name: str, figures: Mapping[str, float]) -> list[str]:
    return [f"`{name}`", *[amount(figures[column], "ns") if column in figures else "-" for column in _FORMAT_COLUMNS]]


def _cell(line: Line, name: str, versions: Mapping[str, str | None]) -> str:
    if versions[name] is None:
        return NOT_INSTALLED
    if name not in line.figures:
        return "-"
    # Its spans are partly made in Rust, and tracemalloc counts what Python allocates.
    unseen = " and native memory" if (line.row.key, name) == ("bytes", DDTRACE) else ""
    return amount(line.figures[name], line.row.unit) + unseen


def verdict(line: Line) -> str:
    """Return whether the line's target was met, as text."""
    if line.target is None:
        return ""
    return "not measured" if line.met is None else "yes" if line.met else "**no**"


def amount(value: float, unit: str) -> str:
    """Return a figure with its unit."""
    if unit != "ns":
        return f"{value:,.0f} {unit}"
    for size, name in ((1e6, "ms"), (1e3, "µs")):
        if value >= size:
            return f"{value / size:.1f} {name}"
    return f"{value:.1f} ns" if value < 100 else f"{value:.0f} ns"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return a table in Markdown."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
