"""``/debug/events``: the event logs of long-lived objects, by family.

The arguments of the URL are those of golang.org/x/net/trace: ``fam`` is a family; ``b`` 0 shows all of its logs, and 1 to 5
those with an error in the last 10 s, 1 min, 10 min, 1 h and 10 h; ``exp=1`` shows their lines.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from .._event_logs import open_logs
from .._render import duration, plural, printable
from ._view import REDACTED, Markup, Page, Request, headline, link_cell, markup, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._event_logs import Entry, EventLog
    from ._view import View

_WINDOWS: Final = (("10 s", 10), ("1 min", 60), ("10 min", 600), ("1 h", 3600), ("10 h", 36_000))
_MOST: Final = 100  # logs of one page


def _has_error(log: EventLog, seconds: int, now_ns: int) -> bool:
    return log.errors > 0 and now_ns - log.last_error_ns < seconds * 1_000_000_000


def _counts(logs: list[EventLog], now_ns: int) -> list[int]:
    """Return the number of *logs*, and of those with an error in each window."""
    return [len(logs), *[sum([_has_error(log, seconds, now_ns) for log in logs]) for _, seconds in _WINDOWS]]


def _link(**arguments: object) -> str:
    return f"events?{urlencode(arguments)}"


class _Families:
    """The table of the families of logs, with the number of logs and of those with a recent error."""

    def __init__(self) -> None:
        logs, self._unlisted = open_logs()
        families: dict[str, list[EventLog]] = {}
        for log in logs:
            families.setdefault(printable(log.family), []).append(log)
        now_ns = time.time_ns()
        self._rows = [(name, _counts(families[name], now_ns)) for name in sorted(families)]

    def _note(self) -> str:
        return f"a log keeps 100 lines; {self._unlisted:,} logs beyond the first 10,000 are not listed"

    def json(self) -> dict[str, Any]:
        rows = [
            {
                "family": printable(name),
                "logs": logs,
                "errors": dict(zip([n for n, _ in _WINDOWS], errors, strict=True)),
            }
            for name, (logs, *errors) in self._rows
        ]
        return {"families": rows, "unlisted": self._unlisted}

    def text(self) -> Iterator[str]:
        yield f"{'family':<40} {'logs':>7} " + " ".join([f"{'errors ' + name:>14}" for name, _ in _WINDOWS])
        for name, (logs, *errors) in self._rows:
            yield f"{printable(name, 40):<40} {logs:>7} " + " ".join([f"{count:>14}" for count in errors])
        yield ""
        yield self._note()

    def html(self) -> Iterator[Markup]:
        if self._rows:
            yield Markup('<table class="families"><thead><tr><th scope="col">Family</th><th scope="col">Logs</th>')
            for name, _ in _WINDOWS:
                yield markup('<th scope="col">errors, {}</th>', name)
            yield Markup("</tr></thead><tbody>")
            for name, counts in self._rows:
                yield markup('<tr><th scope="row">{}</th>', name)
                for bucket, count in enumerate(counts):
                    yield link_cell("errors" if bucket else "bucket", _link(fam=name, b=bucket, exp=1), count)
                yield Markup("</tr>")
            yield Markup("</tbody></table>")
        else:
            yield Markup('<p class="empty">No event log is open: tracekit.event_log(family, title) makes one.</p>')
        yield markup('<p class="note">{}</p>', self._note())


class _Logs:
    """The logs of the family *name*, the newest first: all, or those with an error in the window of the argument ``b``."""

    def __init__(self, request: Request, name: str) -> None:
        bucket = request.number("b", 0, 0, len(_WINDOWS))
        now_ns = time.time_ns()
        logs = [
            log
            for log in open_logs()[0]
            if printable(log.family) == name and (not bucket or _has_error(log, _WINDOWS[bucket - 1][1], now_ns))
        ]
        self._name, self._bucket = name, bucket
        self._count = len(logs)
        self._logs = logs[::-1][:_MOST]
        self._request = request
        self._is_expanded = request.flag("exp")

    def _lines(self, log: EventLog) -> Iterator[tuple[str, str, bool]]:
        """Yield time, text and whether it is an error, for each line of *log*."""
        head, tail = log.entries()
        last_ns = log.start_ns
        for at, entry in enumerate([*head, *tail]):
            if log.discarded and at == len(head):
                yield "", f"({log.discarded:,} events discarded)", False
            yield self._line(entry, last_ns)
            last_ns = entry.time_ns

    def _line(self, entry: Entry, last_ns: int) -> tuple[str, str, bool]:
        self._request.pace()
        text = REDACTED if entry.is_sensitive and not self._request.shows_sensitive else entry.text()
        return f"{when(entry.time_ns)} {'+' + duration(entry.time_ns - last_ns):>9}", text, entry.is_error

    def json(self) -> dict[str, Any]:
        logs = []
        for log in self._logs:
            row: dict[str, Any] = {"title": printable(log.title), "start_ns": log.start_ns, "errors": log.errors}
            if self._is_expanded:
                head, tail = log.entries()
                row |= {
                    "discarded": log.discarded,
                    "discarded_after": len(head),
                    "entries": [
                        {
                            "time_ns": entry.time_ns,
                            "text": printable(self._line(entry, 0)[1], 4096),
                            "error": entry.is_error,
                        }
                        for entry in [*head, *tail]
                    ],
                    "stack": [f"{file}:{line} {function}" for file, line, function in log.stack],
                }
            logs.append(row)
        return {"family": printable(self._name), "bucket": self._bucket, "count": self._count, "logs": logs}

    def text(self) -> Iterator[str]:
        yield f"{self._name}: {self._title()}"
        for log in self._logs:
            yield ""
            yield f"{when(log.start_ns)}  {printable(log.title)}  {plural(log.errors, 'error')}"
            if self._is_expanded:
                for file, number, function in log.stack:
                    yield f"    made at {file}:{number} {function}"
                for at, text, is_error in self._lines(log):
                    yield f"  {at} {'E' if is_error else ' '} {text}"

    def html(self) -> Iterator[Markup]:
        toggle = _link(fam=self._name, b=self._bucket, exp=0 if self._is_expanded else 1)
        yield headline(self._name, self._title(), toggle, self._is_expanded)
        for log in self._logs:
            yield markup(
                '<section class="trace {}"><p class="line"><time>{}</time> <b>{}</b> <span class="status">{}</span></p>',
                "error" if log.errors else "",
                when(log.start_ns),
                log.title,
                f"{log.errors:,} error{'s' if log.errors > 1 else ''}" if log.errors else "",
            )
            if self._is_expanded:
                yield Markup("<details><summary>made at</summary><pre>")
                for file, number, function in log.stack:
                    yield markup("{}:{} {}\n", file, number, function)
                yield Markup('</pre></details><table class="spans"><tbody>')
                for at, text, is_error in self._lines(log):
                    yield markup(
                        '<tr class="event{}"><td class="after">{}</td><td class="what">{}</td></tr>',
                        " error" if is_error else "",
                        at,
                        text,
                    )
                yield Markup("</tbody></table>")
            yield Markup("</section>")

    def _title(self) -> str:
        which = f" with an error in the last {_WINDOWS[self._bucket - 1][0]}" if self._bucket else ""
        return f"{len(self._logs)} of {self._count:,} logs{which}, newest first"


def _view(request: Request) -> View:
    name = request.arguments.get("fam")
    return _Families() if name is None else _Logs(request, name)


PAGE: Final = Page("events", "Events", "event logs of long-lived objects: connections, workers", _view)
