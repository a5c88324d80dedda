"""The command ``tracekit``: a demo, the traces in a SQLite file, trace headers, and what is wrong with an installation."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING

from .._render import printable
from .._version import __version__
from ..exporters.sqlite import SQLiteReader, StoreError
from .screen import Screen, complain, plural, print_json, shortened
from .traces import Waterfall, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .conform.service import Outcome
    from .screen import Segment

__all__ = ["main"]

_ERROR, _BROKEN_PIPE, _INTERRUPTED = 2, 141, 130


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
        complain(str(error))
        return _ERROR
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


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

    spool = commands.add_parser(
        "spool", help="what waits in the spool of an OTLP exporter, and what became of the rest"
    )
    spool.add_argument("path", metavar="PATH", help="the file that OTLPExporter(spool=…) writes")
    spool.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    spool.set_defaults(run=_spool)

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
    doctor.add_argument(
        "--endpoint",
        metavar="URL",
        nargs="?",
        const="",
        help="also send a span to this collector over OTLP (default: the one that the environment names)",
    )
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
        from ..demo.run import run
    except ModuleNotFoundError as error:
        missing = printable(str(error.name), 80)
        complain(f"the demo needs {missing}: pip install 'tracekit[demo]'")
        return _ERROR
    return run(db=arguments.db, requests=arguments.requests, serve=arguments.serve)


def _list(arguments: argparse.Namespace) -> int:
    with SQLiteReader(arguments.path) as reader:
        wanted = {key: getattr(arguments, key) for key in ("service", "name", "status")}
        traces = reader.traces(limit=arguments.limit, **wanted)
        if arguments.json:
            print_json({"path": reader.path, "traces": [trace._asdict() for trace in traces]})
            return 0
        if not traces:
            why = "no trace fits" if any(wanted.values()) else "no traces yet"
            sys.stdout.write(f"{why}: {printable(reader.path, 1000)}\n")
            return 0
    screen = Screen()
    for segments in table(traces, screen.width):
        screen.line(*segments)
    screen.line((f"tracekit traces show {shlex.quote(printable(arguments.path, 200))} TRACE", "dim"))
    return 0


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
        print_json({"trace_id": spans[0].trace_id, "spans": [span._asdict() for span in spans]})
        return 0
    screen = Screen()
    for segments in Waterfall(spans, screen.width, arguments.all).lines():
        screen.line(*segments)
    return 0


def _conform(arguments: argparse.Namespace) -> int:
    from .conform.service import ServiceError, conform

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
        return _ERROR
    finally:
        if outcomes and screen is None and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
    if not outcomes:
        complain(f"no check has {printable(arguments.only, 100)!r} in its name or section")
        return _ERROR
    failed = sum(bool(outcome.problems) for outcome in outcomes)
    if screen is None:
        print_json(
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
        passed = f"{len(outcomes) - failed} of {plural(len(outcomes), 'check')} passed"
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


def _header(arguments: argparse.Namespace) -> int:
    from .header.dumps import DumpError, read_arguments, read_dump
    from .header.lines import lines
    from .header.report import examine

    try:
        is_dump = arguments.headers in ([], ["-"])
        messages = read_dump(_read_stdin()) if is_dump else read_arguments(arguments.headers)
        reports = examine(messages, arguments.to)
    except (DumpError, OSError) as error:
        complain(printable(str(error), 2000))
        return _ERROR
    ok = all(report.ok for report in reports)
    if arguments.json:
        print_json({"ok": ok, "messages": [report.as_json() for report in reports]})
    else:
        screen = Screen()
        for segments in lines(reports, screen.width, getattr(sys.stdout, "encoding", None)):
            screen.line(*segments)
    return 0 if ok else 1


def _read_stdin() -> bytes:
    """Return what stands on standard input, a byte more than is allowed at most."""
    from .header.dumps import MAX_BYTES

    if sys.stdin is None:  # closed by who started this
        return b""
    if sys.stdin.isatty():
        complain("reading headers from the terminal, to the end of input")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _spool(arguments: argparse.Namespace) -> int:
    from ..exporters._otlp.outbox import Outbox

    if not os.path.exists(arguments.path):
        raise StoreError("there is no such file", arguments.path, "name the file of OTLPExporter(spool=…)")
    outbox = Outbox(arguments.path)
    try:
        ledger = outbox.ledger()
    finally:
        outbox.close()
    if arguments.json:
        print_json(ledger._asdict())
        return 0
    screen = Screen()
    size = f"  in {ledger.waiting_bytes:,} bytes" if ledger.waiting else ""
    for name, text in (
        ("put", "since the file was made"),
        ("sent", "taken by the collector"),
        ("rejected", "refused by it"),
        ("evicted", "dropped, the oldest first, for want of room"),
        ("waiting", f"to be sent{size}"),
    ):
        count = getattr(ledger, name)
        style = "bold red" if count and name in ("rejected", "evicted") else "bold"
        screen.line((f"{name:<9}", style), (f"{count:>12,} spans", style), (f"  {text}", "dim"))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine(arguments.db, arguments.endpoint)
    ok = all(finding.ok for finding in findings)
    if arguments.json:
        print_json({"ok": ok, "checks": {name: {"ok": good, "text": text} for name, good, text in findings}})
        return 0 if ok else 1
    screen = Screen()
    for finding in findings:
        mark = ("✓", "green") if finding.ok else ("✗", "bold red")
        screen.line(
            mark, (f" {finding.name:<13} ", "bold"), (printable(finding.text, 2000), "" if finding.ok else "red")
        )
    screen.line(("all is well", "green") if ok else ("something is broken: see above", "bold red"))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
