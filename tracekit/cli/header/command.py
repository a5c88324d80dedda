"""``tracekit header``: the meaning of trace headers, their faults, and their equivalents in other formats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..._render import cells, cut, encodable, printable
from ..screen import ERROR, Screen, complain, print_json
from .dumps import MAX_BYTES, DumpError, read_arguments, read_dump
from .report import examine
from .words import TITLES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ..screen import Segment
    from .faults import Problem
    from .report import Conversion, Found, Report

_MAX_HEADERS = 64  # of one format
_BAD = "bold red"


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    try:
        is_dump = arguments.headers in ([], ["-"])
        messages = read_dump(_read_stdin()) if is_dump else read_arguments(arguments.headers)
        reports = examine(messages, arguments.to)
    except (DumpError, OSError) as error:
        complain(printable(str(error), 2000))
        return ERROR
    ok = all(report.ok for report in reports)
    if arguments.json:
        print_json({"ok": ok, "messages": [report.as_json() for report in reports]})
    else:
        screen = Screen()
        for segments in lines(reports, screen.width, getattr(sys.stdout, "encoding", None)):
            screen.line(*segments)
    return 0 if ok else 1


def _read_stdin() -> bytes:
    """Read standard input, up to one byte more than the limit."""
    if sys.stdin is None:  # closed by who started this
        return b""
    if sys.stdin.isatty():
        complain("reading headers from the terminal, to the end of input")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def lines(reports: list[Report], width: int, encoding: str | None = None) -> Iterator[list[Segment]]:
    """Yield the lines of *reports*; untrusted text is wrapped at *width* columns."""
    for at, report in enumerate(reports):
        if at:
            yield []
        if report.title:
            yield [(printable(report.title), "bold underline")]
        for found in report.found:
            yield from _found(found, "=" if report.is_environ else ": ", width, encoding)
        for warning in report.warnings:
            yield _warning(warning, "")
        for conversion in report.conversions:
            yield from _conversion(conversion)


def _found(found: Found, sign: str, width: int, encoding: str | None) -> Iterator[list[Segment]]:
    mark = ("✗", _BAD) if found.problems else ("✓", "green")
    yield [mark, (f" {found.format}", "bold"), (f"  {TITLES[found.format]}", "dim")]
    waiting = list(found.problems)
    for field, name, value in found.headers[:_MAX_HEADERS]:
        is_one = isinstance(found.fields[field], str)
        here = [problem for problem in waiting if problem.field == field and is_one]
        waiting = [problem for problem in waiting if problem not in here]
        yield from _header(f"  {printable(name, 40)}{sign}", value, here, width, encoding)
    if len(found.headers) > _MAX_HEADERS:
        yield [(f"  … and {len(found.headers) - _MAX_HEADERS} more", "dim")]
    for problem in waiting:
        yield _problem(problem)
    what_width = min(24, max((cells(printable(word.what)) for word in found.words), default=0))
    for word in found.words:
        shown = encodable(printable(word.value, 2 * width), encoding)
        value = cut(shown, min(cells(shown), max(24, width - what_width - 6)))
        meaning = f"  {printable(word.meaning, 2 * width)}" if word.meaning else ""
        yield [(f"    {cut(printable(word.what), what_width)}  ", "dim"), (value, "bold"), (meaning, "")]
    for warning in found.warnings:
        yield _warning(warning)


def _header(
    head: str, value: str, problems: list[Problem], width: int, encoding: str | None
) -> Iterator[list[Segment]]:
    room = max(24, width - cells(head))
    columns = sorted({problem.column for problem in problems if problem.column is not None})
    for column in columns:
        text, before = clipped(value, column, room, encoding)
        yield [(head, "cyan"), (text, "")]
        yield [(" " * (cells(head) + before), ""), ("^", _BAD)]
        for problem in problems:
            if problem.column == column:
                yield _problem(problem)
    if not columns:
        yield [(head, "cyan"), (clipped(value, 1, room, encoding)[0], "")]
    for problem in problems:
        if problem.column is None:
            yield _problem(problem)


def _problem(problem: Problem) -> list[Segment]:
    where = "" if problem.column is None else f" at column {problem.column}"
    text = printable(f"bad {problem.field}: {problem.reason}{where}", 500)
    return [(f"  {text}", _BAD), (f": {problem.then}", "")]


def _warning(text: str, indent: str = "  ") -> list[Segment]:
    return [(f"{indent}! {printable(text, 500)}", "yellow")]


def _conversion(conversion: Conversion) -> Iterator[list[Segment]]:
    yield [(f"as {conversion.format}", "bold"), (f"  {TITLES[conversion.format]}", "dim")]
    for name, value in conversion.headers.items():
        sign = "=" if conversion.format == "environ" else ": "
        yield [(f"  {printable(name)}{sign}", "cyan"), (printable(value, len(value) + 1), "")]  # whole: to be copied
    for lost in conversion.lost:
        yield _warning(lost)
    for note in conversion.notes:
        yield [(f"    {printable(note)}", "dim")]


def clipped(value: str, column: int, width: int, encoding: str | None = None) -> tuple[str, int]:
    """Return the part of *value* around *column* that fits in *width* columns, printable, and the columns before it."""
    at = column - 1
    first = max(0, at - width)
    pieces = [encodable(printable(char), encoding) for char in value[first : at + width]]
    sizes = [cells(piece) for piece in pieces]
    start = end = min(at - first, len(pieces))
    used = 0
    if first == 0 and len(value) <= at + width and sum(sizes) <= width:
        start, end = 0, len(pieces)
    is_growing = True
    while is_growing and (start, end) != (0, len(pieces)):
        is_growing = False
        if end < len(pieces) and used + sizes[end] <= width - 2:
            used += sizes[end]
            end += 1
            is_growing = True
        if start > 0 and used + sizes[start - 1] <= width - 2:
            start -= 1
            used += sizes[start]
            is_growing = True
    left = "…" if first + start > 0 else ""
    right = "…" if first + end < len(value) else ""
    before = cells(left) + sum(sizes[start : at - first])
    return left + "".join(pieces[start:end]) + right, before
