"""``tracekit conform``: check that a service reads and sends trace headers as W3C requires, a line for each check."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..._render import plural, printable
from ..screen import ERROR, Screen, complain, print_json, shortened
from .service import ServiceError, conform

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..screen import Segment
    from .service import Outcome


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    host, port = arguments.listen
    screen = None if arguments.json else Screen()
    outcomes: list[Outcome] = []
    try:
        found = conform(arguments.url, host=host, port=port, only=arguments.only, timeout_s=arguments.timeout)
        for outcome in found:
            outcomes.append(outcome)
            if screen is not None:
                for segments in _outcome_lines(outcome, arguments.all):
                    screen.line(*(segments if arguments.all else shortened(segments, screen.width)))
                sys.stdout.flush()
            elif sys.stderr.isatty():
                sys.stderr.write(f"\r{plural(len(outcomes), 'check')} …")
    except ServiceError as error:
        complain(f"{printable(arguments.url, 1000)}: {printable(str(error), 1000)}")
        sys.stderr.write(error.advice and f"\n{error.advice}")
        return ERROR
    finally:
        if outcomes and screen is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    if not outcomes:
        complain(f"no check has {printable(arguments.only, 100)!r} in its name or section")
        return ERROR
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    passed = len(outcomes) - failed
    if screen is None:
        checks = [
            {"name": check.name, "section": check.section, "ok": not problems, "problems": problems}
            | {"sent": check.sent, "received": received}
            for check, received, problems in outcomes
        ]
        print_json({"url": arguments.url, "ok": not failed, "passed": passed, "failed": failed, "checks": checks})
    else:
        text = f"{passed} of {plural(len(outcomes), 'check')} passed"
        screen.line((f"{text}, {failed} failed" if failed else text, "bold red" if failed else "green"))
    return 1 if failed else 0


def _outcome_lines(outcome: Outcome, whole: bool) -> Iterator[list[Segment]]:
    check, received, problems = outcome
    yield [("✗", "bold red") if problems else ("✓", "green"), (f" {check.name}", "bold" if problems else "")]
    if not problems and not whole:
        return
    rows = [("but", problem) for problem in problems]
    rows += [("sent", text) for text in _header_texts(check.sent)]
    for callback in received:
        headers = [(name, value) for name, values in callback.items() for value in values]
        rows += [("came back", text) for text in _header_texts(headers)]
    for title, text in [*rows, ("see", check.section)]:
        yield [(f"    {title:<11}", "dim"), (text, "red" if title == "but" else "")]


def _header_texts(headers: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name}: {printable(value, 10_000)}" for name, value in headers] or ["no trace header"]
