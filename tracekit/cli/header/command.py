"""``tracekit header``: the meaning of trace headers, their faults, and their equivalents in other formats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..._render import printable
from ..screen import ERROR, Screen, complain, print_json
from .dumps import MAX_BYTES, DumpError, read_arguments, read_dump
from .lines import lines
from .report import examine

if TYPE_CHECKING:
    import argparse


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
