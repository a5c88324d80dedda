"""Write docs/cli.md, the reference of the command line, from the command's own parser: ``python -m docs.commands``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tracekit.cli.main import _parser

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent / "cli.md"
HEAD = """\
<!-- Written by `python -m docs.commands`; do not edit. -->

# The command line

`pip install 'tracekit-async[cli]'` adds colours and completion; the commands work without it. `tracekit` alone prints
the first steps. Brackets mark arguments that may be left out.

| exit status | meaning |
|---|---|
| 0 | done, and nothing is wrong |
| 1 | a fault was found, by `doctor`, `header`, `conform` or `demo` |
| 2 | the command could not run: wrong arguments, no such file or trace, a missing package |
| 130 | ended by Ctrl-C; `ui`, which runs until then, exits with 0 |
| 141 | the reader of the output has gone, as `head` does |
| other | `tracekit run` exits with the status of the program; with 126 or 127, as a shell, if it cannot be started |
"""


def commands(parser: argparse.ArgumentParser, summary: str = "") -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Yield the parser of each command, with what the command is for."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser, summary
    for group in groups:
        summaries = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for name, command in group.choices.items():
            yield from commands(command, summaries[name])


def spelled(action: argparse.Action) -> str:
    """Return *action* as it is typed: ``PATH``, ``--db PATH``, ``--format {otlp,jaeger}``."""
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else "")
    if not action.option_strings:
        return f"{value}{' ...' if action.nargs in ('*', argparse.REMAINDER) else ''}"
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    return ", ".join(action.option_strings) + (f" [{value}]" if action.nargs == "?" else f" {value}")


def page() -> str:
    """Return the page: for each command a heading, a usage line, and a table of its arguments."""
    parts = [HEAD]
    for parser, summary in commands(_parser()):
        actions = [action for action in parser._actions if action.dest != "help"]
        placed = [
            spelled(action) if action.nargs in (None, argparse.REMAINDER) else f"[{spelled(action)}]"
            for action in actions
            if not action.option_strings
        ]
        options = [action for action in actions if action.option_strings]
        usage = " ".join([parser.prog, *(["[OPTIONS]"] if options else []), *placed])
        parts.append(f"\n## {parser.prog}\n\n`{usage}`: {summary}.\n")
        if actions:
            rows = [
                f"| `{spelled(action)}` | {(action.help or '').replace('|', chr(92) + '|')} |\n" for action in actions
            ]
            parts += ["\n| argument | |\n|---|---|\n", *rows]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
