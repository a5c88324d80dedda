"""The command ``tracekit``: a demo, the traces in a SQLite file, trace headers, and what is wrong with an installation."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sqlite3
import sys
import sysconfig
import tempfile
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _accel, _propagation
from ._environment import Environment
from ._render import Branch, Leaf, cells, cut, duration, encodable, moment, pairs, printable, tree, value_text
from ._version import __version__
from .exporters._otlp_settings import otlp_settings, without_secrets
from .exporters.sqlite import SQLiteExporter, SQLiteReader, StoredSpan, StoredTrace, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ._conform import Outcome

__all__ = ["main"]

_ERROR, _BROKEN_PIPE, _INTERRUPTED = 2, 141, 130
_SERVICE_STYLES = ("cyan", "magenta", "green", "blue", "yellow", "bright_cyan", "bright_magenta", "bright_green")
_STATUS_STYLES = {"error": "bold red", "cancelled": "yellow", "ok": "green"}
_MARKS = {"error": "✗", "cancelled": "⊘", "ok": "✓"}

# A parent for spans that nobody is to see.
_UNSAMPLED = _accel.SpanContext(deferred=False)

Segment = tuple[str, str]  # a text and its style, in rich's words


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, and return its exit status: 2 where it could not be done, with a line on stderr."""
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what there is to say
        return stop.code if isinstance(stop.code, int) else _ERROR
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except StoreError as error:
        _complain(str(error))
        return _ERROR
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _complain(text: str) -> None:
    sys.stderr.write(f"tracekit: {text}\n")


def _silence_stdout() -> None:
    """Let what is still buffered for a reader that has gone go nowhere, instead of into an error at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file
        pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tracekit", description="See the traces of your asynchronous services.")
    parser.add_argument("--version", action="version", version=f"tracekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="two services, a client, and the trace of one of its requests")
    demo.add_argument("--serve", action="store_true", help="keep the services running")
    demo.add_argument("--db", metavar="PATH", help="the SQLite file to write to (default: a new temporary one)")
    demo.add_argument("--requests", metavar="N", type=_count, default=50, help="how many requests (default: 50)")
    demo.set_defaults(run=_demo)

    traces = commands.add_parser("traces", help="what a SQLite file of traces holds").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = traces.add_parser("list", help="the newest traces, a line each")
    listing.add_argument("path", metavar="PATH", help="the file that SQLiteExporter writes")
    listing.add_argument("--limit", metavar="N", type=_count, default=20, help="how many (default: 20)")
    listing.add_argument("--service", metavar="NAME", help="only traces with a span of this service")
    listing.add_argument("--name", metavar="TEXT", help="only traces with a span whose name contains this")
    listing.add_argument("--status", choices=("unset", "ok", "error", "cancelled"), help="only traces with such a span")
    listing.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    listing.set_defaults(run=_list)
    show = traces.add_parser("show", help="one trace as a tree, with bars for time")
    show.add_argument("path", metavar="PATH", help="the file that SQLiteExporter writes")
    show.add_argument("trace_id", metavar="TRACE_ID", nargs="?", help="the id or how it begins (default: the newest)")
    show.add_argument("--all", action="store_true", help="everything: whole attributes, events, links, ids, resource")
    show.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    show.set_defaults(run=_show)

    header = commands.add_parser("header", help="what trace headers say, what is wrong with them, and other formats")
    header.add_argument(
        "headers", metavar="HEADER", nargs="*", help="'name: value' (default, or -: a dump on standard input)"
    )
    header.add_argument(
        "--to", metavar="FORMAT", action="append", default=[], help="also write it so: b3, jaeger … or all; repeatable"
    )
    header.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    header.set_defaults(run=_header)

    conform = commands.add_parser("conform", help="whether a running service reads and sends trace headers as W3C says")
    conform.add_argument("url", metavar="URL", help="where the service answers; what it must do is said if it does not")
    conform.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen_on,
        default=("127.0.0.1", 0),
        help="where it is to call back (default: 127.0.0.1:0, a free port)",
    )
    conform.add_argument("--only", metavar="TEXT", default="", help="only checks with this in name or section")
    conform.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="how long a check may take (default: 5)"
    )
    conform.add_argument("--all", action="store_true", help="what was sent and came back for each check, whole")
    conform.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    conform.set_defaults(run=_conform)

    doctor = commands.add_parser("doctor", help="what this installation is made of, and what is wrong with it")
    doctor.add_argument("--db", metavar="PATH", help="also try to store a span there, and leave nothing behind")
    doctor.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    doctor.set_defaults(run=_doctor)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError("must be more than 0, and at most 3600")
    return number


def _listen_on(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise argparse.ArgumentTypeError("must be HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from .demo.run import run
    except ModuleNotFoundError as error:
        missing = printable(str(error.name), 80)
        _complain(f"the demo needs {missing}: pip install 'tracekit[demo]'")
        return _ERROR
    return run(db=arguments.db, requests=arguments.requests, serve=arguments.serve)


def _print_json(value: Any) -> None:
    # ASCII, so that no name in it can steer the terminal.
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


class _Screen:
    """Standard output: its width, and its colours where it is a terminal and rich is installed."""

    def __init__(self) -> None:
        self.width = max(40, shutil.get_terminal_size((120, 24)).columns)
        try:
            from rich.console import Console
        except ModuleNotFoundError:
            self._console = None
            _complain("plain text; for colour: pip install 'tracekit[cli]'")
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


def _list(arguments: argparse.Namespace) -> int:
    with SQLiteReader(arguments.path) as reader:
        wanted = {key: getattr(arguments, key) for key in ("service", "name", "status")}
        traces = reader.traces(limit=arguments.limit, **wanted)
        if arguments.json:
            _print_json({"path": reader.path, "traces": [trace._asdict() for trace in traces]})
            return 0
        if not traces:
            why = "no trace fits" if any(wanted.values()) else "no traces yet"
            sys.stdout.write(f"{why}: {printable(reader.path, 1000)}\n")
            return 0
    screen = _Screen()
    for segments in _table(traces, screen.width):
        screen.line(*segments)
    screen.line((f"tracekit traces show {shlex.quote(printable(arguments.path, 200))} TRACE", "dim"))
    return 0


def _table(traces: list[StoredTrace], width: int) -> Iterator[list[Segment]]:
    when = "%Y-%m-%d %H:%M:%S" if width >= 100 else "%m-%d %H:%M:%S"
    if width < 100 and all(moment(trace.start_ns, "%F") == time.strftime("%F") for trace in traces):
        when = "%H:%M:%S"
    digits = _distinct([trace.trace_id for trace in traces])
    rows = [
        (
            trace.trace_id[:digits],
            moment(trace.start_ns, when),
            duration(trace.duration_ns),
            str(trace.spans),
            trace.status,
            printable(trace.name),
            ", ".join(printable(service, 40) for service in trace.services),
        )
        for trace in traces
    ]
    titles = ("trace", "started", "took", "spans", "status", "root", "services")
    widths = [max(map(cells, column)) for column in zip(titles, *rows, strict=True)]
    left = max(16, width - sum(widths[:5]) - 2 * 6)
    # The root's name may have what the services leave, and at least half.
    widths[5] = min(widths[5], max(left // 2, left - widths[6]))
    widths[6] = min(widths[6], left - widths[5])
    for row in (titles, *rows):
        is_title = row is titles
        segments: list[Segment] = []
        for at, (text, size) in enumerate(zip(row, widths, strict=True)):
            is_number = at in {2, 3}
            field = text.rjust(size) if is_number else cut(text, size)
            style = "dim" if is_title else ("bold cyan", "dim", "", "", _STATUS_STYLES.get(text, "dim"), "bold", "")[at]
            segments += [(field, style), ("  ", "")]
        yield segments


def _distinct(ids: list[str]) -> int:
    """Return how many digits, at least 8, tell *ids* apart."""
    for digits in range(8, 32):
        if len({id[:digits] for id in ids}) == len(ids):
            return digits
    return 32


def _show(arguments: argparse.Namespace) -> int:
    with SQLiteReader(arguments.path) as reader:
        prefix = arguments.trace_id
        if prefix is None:
            newest = reader.traces(limit=1)
            if not newest:
                raise StoreError("no traces yet", reader.path, "run what writes to it")
            prefix = newest[0].trace_id
        spans = reader.spans(prefix)
    if arguments.json:
        _print_json({"trace_id": spans[0].trace_id, "spans": [span._asdict() for span in spans]})
        return 0
    screen = _Screen()
    for segments in _Waterfall(spans, screen.width, arguments.all).lines():
        screen.line(*segments)
    return 0


class _Waterfall:
    """A trace as lines: the tree at the left, bars on one time axis at the right, details below each span."""

    def __init__(self, spans: list[StoredSpan], width: int, whole: bool) -> None:
        self.width = width
        self.whole = whole
        self.by_id = {span.span_id: span for span in spans}
        self.spans = spans
        leaves = [Leaf(span.span_id, span.parent_id, span.start_ns, span) for span in spans]
        self.branches = list(tree(leaves, levels=width // 12))
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
        """Give the head, the axis, and each span with its details."""
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
                yield line if self.whole else _shortened(line, self.width)
        if self.whole:
            yield from self._resources()
        elif is_cut or any(span.events or span.links for span in self.spans):
            yield [("--all shows whole attributes, events and links", "dim")]

    def _head(self) -> Iterator[list[Segment]]:
        statuses = [span.status for span in self.spans]
        orphans = sum(span.parent_id is not None and span.parent_id not in self.by_id for span in self.spans)
        yield [("trace ", "dim"), (printable(self.spans[0].trace_id), "bold cyan")]
        facts: list[Segment] = [
            (moment(self.start_ns, "%Y-%m-%d %H:%M:%S"), ""),
            (duration(self.took_ns), "bold"),
            (_plural(len(self.spans), "span"), ""),
            (_plural(len(self.styles), "service"), ""),
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
        colour = self.styles[span.service]
        is_error = span.status == "error"
        return [
            (name[:head], "dim"),
            (name[head:], "bold red" if is_error else "bold"),
            ("  ", ""),
            (cut(printable(span.service), self.service_width), colour),
            ("  ", ""),
            (self._bar(span), "red" if is_error else colour),
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
        if self.whole:
            yield from self._everything(span)
        elif span.attributes:
            yield [("  ".join(pairs(span.attributes)), "dim")]

    def _everything(self, span: StoredSpan) -> Iterator[list[Segment]]:
        yield [(f"{span.kind} span {printable(span.span_id)} at +{duration(span.start_ns - self.start_ns)}", "dim")]
        yield from _values(span.attributes, "")
        for event in span.events:
            if isinstance(event, dict):
                at = event.get("time_ns")
                when = f"+{duration(at - self.start_ns)} " if isinstance(at, int) else ""
                yield [(f"{when}{printable(str(event.get('name')))}", "")]
                attributes = event.get("attributes")
                yield from _values(attributes if isinstance(attributes, dict) else {}, "  ")
        for link in span.links:
            if isinstance(link, dict):
                yield [(f"link to {printable(str(link.get('trace_id')))}/{printable(str(link.get('span_id')))}", "")]
                attributes = link.get("attributes")
                yield from _values(attributes if isinstance(attributes, dict) else {}, "  ")
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
        said: dict[str, StoredSpan] = {value_text(span.resource, 10_000): span for span in self.spans}
        for span in said.values():
            yield []
            yield [("resource of ", "dim"), (printable(span.service), self.styles[span.service])]
            yield from _values(span.resource, "   ")


def _values(attributes: dict[str, Any], indent: str) -> Iterator[list[Segment]]:
    for key, value in attributes.items():
        lines = value.splitlines() if isinstance(value, str) and "\n" in value else [value]
        if len(lines) == 1:
            yield [(f"{indent}{printable(key)} ", "dim"), (value_text(lines[0], 100_000), "")]
            continue
        yield [(f"{indent}{printable(key)}", "dim")]
        for line in lines:
            yield [(f"{indent}  {printable(line, 1000)}", "")]


def _shortened(line: list[Segment], width: int) -> list[Segment]:
    kept: list[Segment] = []
    for text, style in line:
        if cells(text) > width:
            return [*kept, (cut(text, max(1, width)), style)]
        kept.append((text, style))
        width -= cells(text)
    return kept


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _conform(arguments: argparse.Namespace) -> int:
    from ._conform import ServiceError, conform

    host, port = arguments.listen
    screen = None if arguments.json else _Screen()
    outcomes: list[Outcome] = []
    try:
        found = conform(arguments.url, host=host, port=port, only=arguments.only, timeout_s=arguments.timeout)
        for outcome in found:
            outcomes.append(outcome)
            if screen is not None:
                for segments in _outcome_lines(outcome, arguments.all):
                    screen.line(*(segments if arguments.all else _shortened(segments, screen.width)))
                sys.stdout.flush()
            elif sys.stderr.isatty():
                sys.stderr.write(f"\r{_plural(len(outcomes), 'check')} …")
    except ServiceError as error:
        _complain(f"{printable(arguments.url, 1000)}: {printable(str(error), 1000)}")
        sys.stderr.write(error.advice and f"\n{error.advice}")
        return _ERROR
    finally:
        if outcomes and screen is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    if not outcomes:
        _complain(f"no check has {printable(arguments.only, 100)!r} in its name or section")
        return _ERROR
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    if screen is None:
        _print_json(
            {
                "url": arguments.url,
                "ok": not failed,
                "passed": len(outcomes) - failed,
                "failed": failed,
                "checks": [
                    {
                        "name": check.name,
                        "section": check.section,
                        "ok": not problems,
                        "problems": problems,
                        "sent": check.sent,
                        "received": received,
                    }
                    for check, received, problems in outcomes
                ],
            }
        )
    else:
        passed = f"{len(outcomes) - failed} of {_plural(len(outcomes), 'check')} passed"
        screen.line((f"{passed}, {failed} failed" if failed else passed, "bold red" if failed else "green"))
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


class _Finding(NamedTuple):
    """One thing that the doctor has looked at."""

    name: str
    ok: bool
    text: str


def _header(arguments: argparse.Namespace) -> int:
    from ._dumps import DumpError, read_arguments, read_dump
    from ._header import examine
    from ._header_lines import lines

    try:
        is_dump = arguments.headers in ([], ["-"])
        messages = read_dump(_read_stdin()) if is_dump else read_arguments(arguments.headers)
        reports = examine(messages, arguments.to)
    except (DumpError, OSError) as error:
        _complain(printable(str(error), 2000))
        return _ERROR
    ok = all(report.ok for report in reports)
    if arguments.json:
        _print_json({"ok": ok, "messages": [report.as_json() for report in reports]})
    else:
        screen = _Screen()
        for segments in lines(reports, screen.width, getattr(sys.stdout, "encoding", None)):
            screen.line(*segments)
    return 0 if ok else 1


def _read_stdin() -> bytes:
    """Return what stands on standard input, a byte more than is allowed at most."""
    from ._dumps import MAX_BYTES

    if sys.stdin is None:  # closed by who started this
        return b""
    if sys.stdin.isatty():
        _complain("reading headers from the terminal, to the end of input")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _doctor(arguments: argparse.Namespace) -> int:
    checks: list[tuple[str, Callable[[], str]]] = [
        ("tracekit", lambda: __version__),
        ("twin", _twin),
        ("python", _python),
        ("platform", platform.platform),
        ("ids", _ids),
        ("clock", _clock),
        ("formats", lambda: ", ".join(format.name for format in _propagation.formats())),
        ("sqlite", lambda: sqlite3.sqlite_version),
        *[(name, lambda name=name: _installed(name)) for name in ("anyio", "trio", "uvloop", "httpx", "rich")],
    ]
    findings = [*(_look(name, check) for name, check in checks), *_configuration()]
    if arguments.db is not None:
        findings.append(_look("db", lambda: _try_store(arguments.db)))
    ok = all(finding.ok for finding in findings)
    if arguments.json:
        _print_json({"ok": ok, "checks": {name: {"ok": good, "text": text} for name, good, text in findings}})
        return 0 if ok else 1
    screen = _Screen()
    for finding in findings:
        mark = ("✓", "green") if finding.ok else ("✗", "bold red")
        screen.line(
            mark, (f" {finding.name:<9} ", "bold"), (printable(finding.text, 2000), "" if finding.ok else "red")
        )
    screen.line(("all is well", "green") if ok else ("something is broken: see above", "bold red"))
    return 0 if ok else 1


def _look(name: str, check: Callable[[], str]) -> _Finding:
    try:
        return _Finding(name, True, check())
    except Exception as error:  # whatever it is, it is what the doctor was asked for
        text = str(error) if isinstance(error, StoreError | RuntimeError) else f"{type(error).__name__}: {error}"
        return _Finding(name, False, printable(text, 2000))


def _twin() -> str:
    if _accel.NO_EXTENSIONS:
        return (
            f"{_accel.IMPLEMENTATION}: forced by TRACEKIT_NO_EXTENSIONS={os.environ.get('TRACEKIT_NO_EXTENSIONS', '')}"
        )
    if _accel.IMPLEMENTATION == "plain":
        return "plain: the extension was not built; install with a C compiler at hand for the compiled one"
    return "compiled: built for this Python"


def _configuration() -> list[_Finding]:
    """Find what ``configure()`` makes of the environment, and every variable that is wrong."""
    environment = Environment()
    name = "none, OTEL_SDK_DISABLED is true" if environment.is_disabled() else environment.exporter_name()
    path = f" {printable(environment.sqlite_path(), 1000)}" if name == "sqlite" else ""
    facts = [f"exporter {name}{path}"]
    wrong: list[str] = []
    if name == "otlp":
        settings, wrong = otlp_settings()
        if "endpoint" in settings:
            facts.append(f"endpoint {without_secrets(settings['endpoint'])}")
        if "headers" in settings:
            facts.append(f"headers {', '.join(settings['headers'])}")
    if name in ("otlp", "console", "sqlite"):
        environment.exporter_type(name)
    # Only for what may be wrong with them.
    environment.limits(), environment.export_interval_s(), environment.batch_size(environment.buffer_size())
    facts.append(f"sampler {environment.sampler()}")
    facts.append(f"service {printable(environment.resource()['service.name'])}")
    facts.append(f"propagators {', '.join(format.name for format in environment.formats()) or 'none'}")
    lines = [*environment.wrong.values(), *wrong]
    return [
        _Finding("configuration", True, "; ".join(facts)),
        *(_Finding(variable, False, text) for variable, _, text in (line.partition(" ") for line in lines)),
    ]


def _python() -> str:
    is_free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    is_locked: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "free-threaded" if is_free else "with GIL"
    if is_free and is_locked:
        build += ", but the GIL is on"
    return f"{platform.python_implementation()} {platform.python_version()}, {build}, {sys.executable}"


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _ids() -> str:
    contexts = [_accel.span("tracekit doctor", parent=_UNSAMPLED).context for _ in range(1000)]
    if len({context.id for context in contexts}) < 1000 or not all(context.is_valid for context in contexts):
        raise RuntimeError("ids repeat, or are zero: os.urandom does not give random bytes")
    return "from os.urandom; 1000 drawn, none twice"


def _clock() -> str:
    resolution = time.get_clock_info("monotonic").resolution
    earlier, now = time.monotonic_ns(), time.time()
    if time.monotonic_ns() < earlier:
        raise RuntimeError("the monotonic clock runs backwards")
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < 1_600_000_000:
        raise RuntimeError(f"the wall clock is wrong: {said}")
    return f"{said}; monotonic, in steps of {duration(round(resolution * 1e9))}"


def _try_store(path: str) -> str:
    """Store a span in the file at *path* and take it back; where there is no file yet, in another one beside it."""
    if os.path.exists(path):
        _store_one(path)
        return f"{os.path.abspath(path)}: a span can be stored and read"
    directory = os.path.dirname(os.path.abspath(path))
    try:
        beside = tempfile.mkdtemp(prefix=".tracekit-doctor-", dir=directory)
    except OSError as error:
        why = f"cannot be made ({error.strerror})"
        raise StoreError(why, path, "make its directory, and writable for this user") from error
    try:
        _store_one(os.path.join(beside, "traces.db"))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return f"{os.path.abspath(path)}: not there yet; a span can be stored beside it"


def _store_one(path: str) -> None:
    wanted = _accel.span("tracekit doctor", parent=_UNSAMPLED)
    wanted.end()
    exporter = SQLiteExporter(path)
    try:
        found = exporter.probe(wanted)
    finally:
        exporter.shutdown()
    if (found.trace_id, found.name) != (wanted.context.trace_id, wanted.name):
        raise RuntimeError(f"what was read from {path} is not what was stored there")


if __name__ == "__main__":
    sys.exit(main())
