"""Stored traces on a terminal: a table with a line for each or of figures, or one as a tree with bars for time."""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from .._render import (
    Branch,
    Leaf,
    cells,
    cut,
    duration,
    library_text,
    moment,
    pairs,
    plural,
    printable,
    tree,
    value_text,
)
from ..exporters.sqlite import SQLiteReader, StoreError
from .screen import Screen, print_json, print_json_line, shortened

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..exporters.sqlite import StoredLog, StoredSpan, StoredTrace
    from .screen import Segment

    Row = tuple[str, ...]

_SERVICE_STYLES = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green")
_STATUS_STYLES = {"error": "bold red", "cancelled": "yellow", "ok": "green"}
_FIRST = ("http.response.status_code", "rpc.grpc.status_code", "error.type")  # of the attributes in a line
_FOLLOW_S = 1.0
_FOLLOWED = 2000  # traces
_WARNING, _ERROR = 13, 17  # severities of OTLP
_NUMBERS = {"took", "spans", "errors", "p50", "p95", "p99", "slowest"}  # titles of columns
_MARKS = {"error": "✗", "cancelled": "⊘", "ok": "✓"}


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces list``, and return its exit status."""
    wanted = {
        "service": arguments.service,
        "name": arguments.name,
        "status": arguments.status,
        "attributes": dict(arguments.where),
        "since_ns": arguments.since,
        "slower_ns": arguments.slower,
        "faster_ns": arguments.faster,
    }
    with SQLiteReader(arguments.path) as reader:
        traces = reader.traces(limit=arguments.limit, sort=arguments.sort, **wanted)
        if arguments.json:
            print_json({"path": reader.path, "traces": [trace._asdict() for trace in traces]})
            return 0
        if arguments.follow:
            reader.close()
            return _follow(traces, wanted, arguments)
        if arguments.jsonl:
            for trace in traces:
                print_json_line(trace._asdict())
            return 0
        if not traces:
            why = "no trace matches" if any(wanted.values()) else "no traces yet"
            sys.stdout.write(f"{why}: {printable(reader.path, 1000)}\n")
            return 0
    screen = Screen()
    for segments in table(traces, screen.width):
        screen.line(*segments)
    screen.line((f"show one: tracekit traces show {shlex.quote(printable(arguments.path, 200))} TRACE", "dim"))
    return 0


def _follow(traces: list[StoredTrace], wanted: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Write *traces* and then those that arrive, until the program is interrupted. A trace that grows is written once."""
    screen = Screen()
    written: dict[str, None] = {}  # the newest ids, in order
    is_first = True
    while True:
        fresh = [trace for trace in reversed(traces) if trace.trace_id not in written]
        if arguments.jsonl:
            for trace in fresh:
                print_json_line(trace._asdict())
        elif fresh:
            titles, *lines = table(fresh, screen.width)
            for segments in ([titles] if is_first else []) + lines:
                screen.line(*segments)
            is_first = False
        sys.stdout.flush()
        written.update(dict.fromkeys(trace.trace_id for trace in fresh))
        for old in list(written)[:-_FOLLOWED]:
            del written[old]
        time.sleep(_FOLLOW_S)
        if os.path.lexists(arguments.path):  # opened each time: the file may be another one now, and come later
            with SQLiteReader(arguments.path) as reader:
                traces = reader.traces(limit=_FOLLOWED // 2, **wanted)


def run_show(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces show``, and return its exit status."""
    with SQLiteReader(arguments.path) as reader:
        prefix = arguments.trace_id
        if prefix is None:
            newest = reader.traces(limit=1)
            if not newest:
                raise StoreError("no traces yet", reader.path, "run a program that writes to it")
            prefix = newest[0].trace_id
        spans = reader.spans(prefix)
        logs = reader.logs(spans[0].trace_id) if arguments.logs else []
    if arguments.json:
        found = {"trace_id": spans[0].trace_id, "spans": [span._asdict() for span in spans]}
        print_json({**found, "logs": [log._asdict() for log in logs]} if arguments.logs else found)
        return 0
    screen = Screen()
    for segments in Waterfall(spans, screen.width, arguments.all, arguments.scope, logs).lines():
        screen.line(*segments)
    return 0


def table(traces: list[StoredTrace], width: int) -> Iterator[list[Segment]]:
    """Yield the lines of a table of *traces*, *width* columns wide."""
    when = "%Y-%m-%d %H:%M:%S" if width >= 100 else "%m-%d %H:%M:%S"
    if width < 100 and all(moment(trace.start_ns, "%F") == time.strftime("%F") for trace in traces):
        when = "%H:%M:%S"
    digits = _distinct([trace.trace_id for trace in traces])
    rows: list[Row] = [
        (
            trace.trace_id[:digits],
            moment(trace.start_ns, when),
            duration(trace.duration_ns),
            str(trace.spans),
            trace.status,
            _title(trace),
            ", ".join(printable(service, 40) for service in trace.services),
        )
        for trace in traces
    ]
    titles = ("trace", "started", "took", "spans", "status", "root", "services")
    widths = _widths(titles, rows)
    left = max(16, width - sum(widths[:5]) - 2 * 6)
    # The root's name gets the width that the services leave, and at least half.
    widths[5] = min(widths[5], max(left // 2, left - widths[6]))
    widths[6] = min(widths[6], left - widths[5])
    for row in (titles, *rows):
        yield _line(row, widths, ("bold cyan", "dim", "", "", _STATUS_STYLES.get(row[4], "dim"), "bold", ""), titles)


def _widths(titles: Row, rows: list[Row]) -> list[int]:
    return [max(map(cells, column)) for column in zip(titles, *rows, strict=True)]


def _line(row: Row, widths: list[int], styles: Row, titles: Row) -> list[Segment]:
    """Return a line of a table; columns of numbers and of times taken are on the right."""
    segments: list[Segment] = []
    for title, text, size, style in zip(titles, row, widths, styles, strict=True):
        field = text.rjust(size) if title in _NUMBERS else cut(text, size)
        segments += [(field, "dim" if row is titles else style), ("  ", "")]
    return segments


def run_stats(arguments: argparse.Namespace) -> int:
    """Run ``tracekit traces stats``, and return its exit status."""
    with SQLiteReader(arguments.path) as reader:
        found = reader.figures(since_ns=arguments.since, service=arguments.service, name=arguments.name)
        found = found[: arguments.limit]
        if arguments.json:
            print_json({"path": reader.path, "names": [row._asdict() for row in found]})
            return 0
        if not found:
            sys.stdout.write(f"no span matches: {printable(reader.path, 1000)}\n")
            return 0
    screen = Screen()
    titles = ("spans", "errors", "p50", "p95", "p99", "slowest", "name", "service")
    rows: list[Row] = []
    for figures in found:
        times = map(duration, (figures.p50_ns, figures.p95_ns, figures.p99_ns, figures.slowest_ns))
        names = printable(figures.name), printable(figures.service, 40)
        rows.append((str(figures.spans), str(figures.errors or ""), *times, *names))
    widths = _widths(titles, rows)
    widths[6] = min(widths[6], max(16, screen.width - sum(widths[:6]) - widths[7] - 2 * 7))
    for row in (titles, *rows):
        screen.line(*_line(row, widths, ("", "bold red", "", "", "", "dim", "bold", "cyan"), titles))
    return 0


def _title(trace: StoredTrace) -> str:
    """Return the name of the root, and for a client's the operation that it called: its own may be a method alone."""
    if trace.calls is None or trace.calls == trace.name:
        return printable(trace.name)
    return f"{printable(trace.name)} → {printable(trace.calls)}"


def _distinct(ids: list[str]) -> int:
    """Return how many digits, at least 8, tell *ids* apart."""
    for digits in range(8, 32):
        if len({id[:digits] for id in ids}) == len(ids):
            return digits
    return 32


class Waterfall:
    """A trace as lines: the tree at the left, bars on one time axis at the right, details below each span."""

    def __init__(
        self, spans: list[StoredSpan], width: int, whole: bool, scope: bool = False, logs: Sequence[StoredLog] = ()
    ) -> None:
        self.width = width
        self.whole = whole
        self.scope = scope or whole
        self.by_id = {span.span_id: span for span in spans}
        self.spans = spans
        self.logs: dict[str, list[StoredLog]] = {}
        for log in logs:
            self.logs.setdefault(log.span_id if log.span_id in self.by_id else "", []).append(log)
        leaves = [Leaf(span.span_id, span.parent_id, span.start_ns, span) for span in spans]
        self.levels = width // 12
        self.branches = list(tree(leaves, levels=self.levels))
        self.start_ns = min(span.start_ns for span in spans)
        self.took_ns = max(span.end_ns for span in spans) - self.start_ns
        services = list(dict.fromkeys(span.service for span in spans))
        self.styles = {name: _SERVICE_STYLES[at % len(_SERVICE_STYLES)] for at, name in enumerate(services)}
        self.service_width = min(max(cells(printable(name)) for name in services), max(9, width // 8))
        longest = max(cells(branch.head + printable(branch.span.name)) for branch in self.branches)
        self.name_width = min(longest, width * 9 // 20)
        # Two spaces between columns, the duration, and a sign for the status.
        self.bar_width = max(8, width - self.name_width - self.service_width - 2 * 3 - 7 - 2)

    def lines(self) -> Iterator[list[Segment]]:
        """Yield the head, the axis, and each span with its details."""
        yield from self._head()
        total = duration(self.took_ns)
        axis = "0" + total.rjust(self.bar_width - 1)
        yield [(" " * (self.name_width + self.service_width + 4) + axis, "dim")]
        is_cut = False
        for branch in self.branches:
            yield self._row(branch)
            for segments in self._details(branch.span):
                line = [(branch.below, "dim"), *segments]
                is_cut = is_cut or (not self.whole and cells("".join(text for text, _ in line)) > self.width)
                yield line if self.whole else shortened(line, self.width)
        if any(branch.depth > self.levels for branch in self.branches):
            yield [("+1, +2 … are levels below the last one that is drawn", "dim")]
        if "" in self.logs:
            yield [("log records of no span in this file", "dim")]
            yield from self._log_lines("")
        if self.whole:
            yield from self._resources()
        elif is_cut or any(span.events or span.links for span in self.spans):
            yield [("--all shows complete attributes, events and links", "dim")]

    def _head(self) -> Iterator[list[Segment]]:
        statuses = [span.status for span in self.spans]
        orphans = sum(span.parent_id is not None and span.parent_id not in self.by_id for span in self.spans)
        yield [("trace ", "dim"), (printable(self.spans[0].trace_id), "bold cyan")]
        facts: list[Segment] = [
            (moment(self.start_ns, "%Y-%m-%d %H:%M:%S"), ""),
            (duration(self.took_ns), "bold"),
            (plural(len(self.spans), "span"), ""),
            (plural(len(self.styles), "service"), ""),
        ]
        facts += [
            (f"{statuses.count(status)} {status}", _STATUS_STYLES[status])
            for status in ("error", "cancelled")
            if status in statuses
        ]
        if orphans:
            facts.append((f"{orphans} without their parent", "yellow"))
        yield [segment for fact in facts for segment in (fact, ("  ", ""))]

    def _row(self, branch: Branch[StoredSpan]) -> list[Segment]:
        span = branch.span
        name = cut(branch.head + printable(span.name), self.name_width)
        head = min(len(branch.head), len(name))
        color = self.styles[span.service]
        is_error = span.status == "error"
        return [
            (name[:head], "dim"),
            (name[head:], "bold red" if is_error else "bold"),
            ("  ", ""),
            (cut(printable(span.service), self.service_width), color),
            ("  ", ""),
            (self._bar(span), "red" if is_error else color),
            ("  ", ""),
            (duration(span.end_ns - span.start_ns).rjust(7), ""),
            (" " + _MARKS.get(span.status, " "), _STATUS_STYLES.get(span.status, "")),
        ]

    def _bar(self, span: StoredSpan) -> str:
        """Draw when the span ran, to half a column, at least half a column long."""
        halves = 2 * self.bar_width
        scale = halves / max(1, self.took_ns)
        start = min(halves - 1, int((span.start_ns - self.start_ns) * scale))
        end = min(halves, max(start + 1, round((span.end_ns - self.start_ns) * scale)))
        drawn = [start <= half < end for half in range(halves)]
        return "".join([" ╺╸━"[2 * drawn[left] + drawn[left + 1]] for left in range(0, halves, 2)])

    def _details(self, span: StoredSpan) -> Iterator[list[Segment]]:
        if span.status in {"error", "cancelled"}:
            text = f"{span.status}: {printable(span.description, 1000)}" if span.description else span.status
            yield [(text, _STATUS_STYLES[span.status].removeprefix("bold "))]
        if span.parent_id is not None and span.parent_id not in self.by_id:
            where = "another process's " if span.parent_is_remote else ""
            yield [(f"its parent, {where}{printable(span.parent_id)}, is not in this file", "yellow")]
        parent = self.by_id.get(span.parent_id or "")
        # Labels propagate: below the span that has set them they are no news, but in another service.
        if span.labels and (parent is None or (parent.labels, parent.service) != (span.labels, span.service)):
            yield [("labels ", "dim"), ("  ".join(pairs(span.labels)), "")]
        if self.scope and span.instrumentation:
            yield from self._instrumentation(span.instrumentation)
        if self.whole:
            yield from self._everything(span)
        elif span.attributes:
            # First those that a reader looks for.
            known = {key: span.attributes[key] for key in _FIRST if key in span.attributes}
            yield [("  ".join(pairs({**known, **span.attributes})), "dim")]
        yield from self._log_lines(span.span_id)

    def _log_lines(self, span_id: str) -> Iterator[list[Segment]]:
        for log in self.logs.get(span_id, ()):
            style = "red" if log.severity >= _ERROR else "yellow" if log.severity >= _WARNING else ""
            text = log.body if isinstance(log.body, str) else value_text(log.body, 1000)
            parts = [printable(part, 200) for part in (log.logger, log.event) if part]
            yield [
                (f"+{duration(log.time_ns - self.start_ns)} ", "dim"),
                (f"{printable(log.level, 20)} ", style),
                (": ".join([*parts, printable(text, 4000)]), ""),
            ]
            if self.whole:
                yield from _values(log.attributes, "  ")

    def _instrumentation(self, library: dict[str, Any]) -> Iterator[list[Segment]]:
        name, version, url = (str(library.get(key, "")) for key in ("name", "version", "schema_url"))
        attributes = library.get("attributes")
        words = pairs(attributes) if isinstance(attributes, dict) else []
        text = "  ".join([library_text(name, version), *([printable(url)] if url else []), *words])
        yield [("scope ", "dim"), (text, "")]

    def _everything(self, span: StoredSpan) -> Iterator[list[Segment]]:
        yield [(f"{span.kind} span {printable(span.span_id)} at +{duration(span.start_ns - self.start_ns)}", "dim")]
        yield from _values(span.attributes, "")
        for event in span.events:
            if isinstance(event, dict):
                at = event.get("time_ns")
                when = f"+{duration(at - self.start_ns)} " if isinstance(at, int) else ""
                yield [(f"{when}{printable(str(event.get('name')))}", "")]
                yield from _values(event.get("attributes"), "  ")
        for link in span.links:
            if isinstance(link, dict):
                yield [(f"link to {printable(str(link.get('trace_id')))}/{printable(str(link.get('span_id')))}", "")]
                yield from _values(link.get("attributes"), "  ")
        counts = {
            "attributes": span.dropped_attributes,
            "events": span.dropped_events,
            "links": span.dropped_links,
            "values shortened": span.truncated_values,
        }
        lost = [f"{number} {what}" for what, number in counts.items() if number]
        if lost:
            yield [(f"past the limits: {', '.join(lost)}", "yellow")]

    def _resources(self) -> Iterator[list[Segment]]:
        one_of_each = {value_text(span.resource, 10_000): span for span in self.spans}
        for span in one_of_each.values():
            yield []
            yield [("resource of ", "dim"), (printable(span.service), self.styles[span.service])]
            yield from _values(span.resource, "   ")


def _values(attributes: Any, indent: str) -> Iterator[list[Segment]]:
    for key, value in attributes.items() if isinstance(attributes, dict) else ():
        lines = value.splitlines() if isinstance(value, str) and "\n" in value else [value]
        if len(lines) == 1:
            yield [(f"{indent}{printable(key)} ", "dim"), (value_text(lines[0], 100_000), "")]
            continue
        yield [(f"{indent}{printable(key)}", "dim")]
        for line in lines:
            yield [(f"{indent}  {printable(line, 1000)}", "")]
