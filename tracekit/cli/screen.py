"""The output of the commands: lines on standard output, colored on a terminal, JSON, and errors on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from .._distribution import install_hint
from .._render import cells, cut, encodable

ERROR = 2  # the exit status of a command that failed

Segment = tuple[str, str]  # a text and its style, in rich's words


def complain(text: str) -> None:
    """Print on stderr why the command failed."""
    sys.stderr.write(f"tracekit: {text}\n")


def print_json(value: Any) -> None:
    """Write *value* to standard output."""
    # ASCII, so that no name in it can steer the terminal.
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """Write *value* as one line."""
    sys.stdout.write(json.dumps(value, separators=(",", ":")) + "\n")


class Screen:
    """Standard output: its width, and its colors where it is a terminal and rich is installed."""

    def __init__(self) -> None:
        self.width = max(40, shutil.get_terminal_size((120, 24)).columns)
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            self._console = None
            complain(f"plain text; for color: {install_hint('cli')}")
        else:
            self._console = Console(file=sys.stdout, width=self.width, highlight=False, markup=False, emoji=False)

    def line(self, *segments: Segment) -> None:
        """Write one line; whatever in it comes from other people is printable already."""
        encoding = getattr(sys.stdout, "encoding", None)
        drawn = [(encodable(text, encoding), style) for text, style in segments]
        text = "".join([text for text, _ in drawn]).rstrip()
        if self._console is not None and self._console.is_terminal and text:
            from rich.text import Text

            styled = Text.assemble(*drawn)
            styled.rstrip()
            with self._console.capture() as capture:  # rich itself ends the process where a pipe breaks
                self._console.print(styled, soft_wrap=True)
            text = capture.get().rstrip("\n")
        sys.stdout.write(text + "\n")


def shortened(line: list[Segment], width: int) -> list[Segment]:
    """Return *line* cut to *width* columns."""
    kept: list[Segment] = []
    for text, style in line:
        if cells(text) > width:
            return [*kept, (cut(text, max(1, width)), style)]
        kept.append((text, style))
        width -= cells(text)
    return kept
