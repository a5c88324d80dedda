"""The command ``tracekit``: a demo, the traces in a SQLite file, trace headers, and the faults of an installation."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from typing import TYPE_CHECKING

from .._distribution import install_hint
from .._render import printable
from .._version import __version__
from ..exporters.sqlite import StoreError
from .screen import ERROR, complain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

_BROKEN_PIPE, _INTERRUPTED = 141, 130
_WELCOME = """\
tracekit: tracing for asynchronous Python. First steps:

  tracekit demo                        watch three services make traces
  tracekit run -- uvicorn shop:app     trace your own program; its spans go to traces.db
  tracekit traces list                 list the traces in traces.db
  tracekit traces show                 show the newest one as a tree
  tracekit ui traces.db --open         see them in a browser

All commands: tracekit --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, and return its exit status: 2 where it could not be done, with a line on stderr."""
    if not (sys.argv[1:] if argv is None else argv):
        sys.stdout.write(_WELCOME)
        return 0
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what there is to say
        return stop.code if isinstance(stop.code, int) else ERROR
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except StoreError as error:
        complain(str(error))
        return ERROR
    except BrokenPipeError:
        _silence_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _silence_stdout() -> None:
    """Discard output that is buffered for a reader that has gone: flushing it at exit would fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file
        pass


_STORE_HELP = "a file of SQLiteExporter (default: TRACEKIT_SQLITE_PATH or traces.db)"
_TRACE_ID = re.compile("[0-9a-f]{1,32}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tracekit", description="See the traces of your asynchronous services.")
    parser.add_argument("--version", action="version", version=f"tracekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a program with its libraries traced; nothing in it changes")
    run.add_argument("--only", metavar="A,B", default="", help="trace these libraries alone")
    run.add_argument("--exclude", metavar="A,B", default="", help="trace all but these")
    run.add_argument("--no-children", action="store_true", help="do not trace the processes that the program starts")
    run.add_argument(
        "--in-process",
        action="store_true",
        help="run a Python program in this process, which options such as python -I need",
    )
    run.add_argument("command", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the program and its arguments")
    run.set_defaults(run=_run)

    demo = commands.add_parser("demo", help="two services, a client, and the trace of one of its requests")
    demo.add_argument("--serve", action="store_true", help="keep the services running")
    demo.add_argument("--db", metavar="PATH", help="the SQLite file to write to (default: a new temporary one)")
    demo.add_argument("--requests", metavar="N", type=_count, default=50, help="how many requests (default: 50)")
    demo.set_defaults(run=_demo)

    from .ui import add_arguments as add_ui_arguments

    viewer = commands.add_parser("ui", help="receive traces of any language over OTLP, and show them in a browser")
    add_ui_arguments(viewer)
    viewer.set_defaults(run=_ui)

    traces = commands.add_parser("traces", help="the traces in a SQLite file").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = traces.add_parser("list", help="the newest traces, a line each")
    listing.add_argument("path", metavar="PATH", nargs="?", type=_store, default="", help=_STORE_HELP)
    listing.add_argument("--limit", metavar="N", type=_count, default=20, help="how many (default: 20)")
    listing.add_argument("--service", metavar="NAME", help="only traces with a span of this service")
    listing.add_argument("--name", metavar="TEXT", help="only traces with a span whose name contains this")
    listing.add_argument("--status", choices=("unset", "ok", "error", "cancelled"), help="only traces with such a span")
    listing.add_argument(
        "--where",
        metavar="KEY=VALUE",
        type=_pair,
        action="append",
        default=[],
        help="only traces with a span that has this attribute; repeatable",
    )
    listing.add_argument(
        "--since", metavar="TIME", type=_moment, help="started within 30s, 5m, 2h, 1d, or since a date"
    )
    listing.add_argument("--slower", metavar="TIME", type=_duration, help="took at least 100ms, 2s …")
    listing.add_argument("--faster", metavar="TIME", type=_duration, help="took at most 100ms, 2s …")
    listing.add_argument(
        "--sort",
        choices=("start", "duration", "spans", "errors"),
        default="start",
        help="largest first (default: start)",
    )
    listing.add_argument("--follow", action="store_true", help="go on with new traces as they arrive; the oldest first")
    listing.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    listing.add_argument("--jsonl", action="store_true", help="a line of JSON for each trace")
    listing.set_defaults(run=_list)
    stats = traces.add_parser("stats", help="count, errors and latency of the spans, a line for each service and name")
    stats.add_argument("path", metavar="PATH", nargs="?", type=_store, default="", help=_STORE_HELP)
    stats.add_argument("--since", metavar="TIME", type=_moment, help="started within 30s, 5m, 2h, 1d, or since a date")
    stats.add_argument("--service", metavar="NAME", help="only spans of this service")
    stats.add_argument("--name", metavar="TEXT", help="only spans whose name contains this")
    stats.add_argument("--limit", metavar="N", type=_count, default=40, help="how many lines (default: 40)")
    stats.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    stats.set_defaults(run=_stats)
    export = traces.add_parser("export", help="traces as a file for other programs")
    export.add_argument("path", metavar="PATH", help="the file that SQLiteExporter writes")
    export.add_argument("trace_id", metavar="TRACE_ID", nargs="*", help="the ids or how they begin (default: all)")
    export.add_argument(
        "--format", choices=("otlp", "jaeger", "perfetto"), default="otlp", help="(default: otlp, its JSON encoding)"
    )
    export.add_argument("--since", metavar="TIME", type=_moment, help="started within 30s, 5m, 2h, 1d, or since a date")
    export.add_argument("--output", "-o", metavar="FILE", help="(default: standard output)")
    export.set_defaults(run=_export)
    importing = traces.add_parser("import", help="traces from a file: OTLP's JSON, Jaeger's JSON, our Perfetto export")
    importing.add_argument("path", metavar="PATH", help="the SQLite file to add to; a new one is created")
    importing.add_argument("file", metavar="FILE", help="the file to read, of any of the formats; - is standard input")
    importing.set_defaults(run=_import)
    delete = traces.add_parser("delete", help="remove traces from the file")
    delete.add_argument("path", metavar="PATH", help="the file that SQLiteExporter writes")
    delete.add_argument("trace_id", metavar="TRACE_ID", nargs="*", help="the ids or how they begin")
    delete.add_argument(
        "--before", metavar="TIME", type=_moment, help="all that started before: 2h ago, 7d ago, a date"
    )
    delete.set_defaults(run=_delete)
    show = traces.add_parser("show", help="one trace as a tree, with bars for time")
    show.add_argument("path", metavar="PATH", nargs="?", default="", help=_STORE_HELP)
    show.add_argument("trace_id", metavar="TRACE_ID", nargs="?", help="the id or how it begins (default: the newest)")
    show.add_argument("--all", action="store_true", help="everything: whole attributes, events, links, ids, resource")
    show.add_argument("--logs", action="store_true", help="its log records, each below its span")
    show.add_argument("--scope", action="store_true", help="the library that made each span, if it is not tracekit's")
    show.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    show.set_defaults(run=_show)

    tasks = commands.add_parser(
        "tasks", help="the tasks of a running process: the work of each, and the line at which it waits"
    )
    target = tasks.add_mutually_exclusive_group(required=True)
    target.add_argument("--pid", metavar="N", type=_count, help="the process; needs Python 3.14 on both sides")
    target.add_argument("--url", metavar="URL", help="its debug pages, such as http://127.0.0.1:6070/debug/")
    tasks.add_argument(
        "--wake", action="store_true", help="stop and continue the process at once, so that an idle one answers (Linux)"
    )
    tasks.add_argument("--name", metavar="TEXT", default="", help="only tasks with this in a name, span or function")
    tasks.add_argument("--list", action="store_true", help="a list instead of the tree, the longest stuck first")
    tasks.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="how long to wait for the answer (default: 5)"
    )
    tasks.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    tasks.set_defaults(run=_tasks)

    spool = commands.add_parser("spool", help="the batches in the spool of an OTLP exporter, and counts of the others")
    spool.add_argument("path", metavar="PATH", help="the file that OTLPExporter(spool=…) writes")
    spool.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    spool.set_defaults(run=_spool)

    header = commands.add_parser(
        "header", help="explain trace headers, name their faults, and write them in other formats"
    )
    header.add_argument(
        "headers", metavar="HEADER", nargs="*", help="'name: value' (default, or -: a dump on standard input)"
    )
    header.add_argument(
        "--to", metavar="FORMAT", action="append", default=[], help="also write it so: b3, jaeger … or all; repeatable"
    )
    header.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    header.set_defaults(run=_header)

    conform = commands.add_parser(
        "conform", help="check that a running service reads and sends trace headers as W3C requires"
    )
    conform.add_argument(
        "url", metavar="URL", help="of the service; the requirements are printed if it does not answer"
    )
    conform.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_listen_on,
        default=("127.0.0.1", 0),
        help="the address that it calls back (default: 127.0.0.1:0, a free port)",
    )
    conform.add_argument("--only", metavar="TEXT", default="", help="only checks with this in name or section")
    conform.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="how long a check may take (default: 5)"
    )
    conform.add_argument("--all", action="store_true", help="the whole requests and responses of each check")
    conform.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    conform.set_defaults(run=_conform)

    completion = commands.add_parser("completion", help="a script that completes this command's arguments in a shell")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=_completion)

    doctor = commands.add_parser("doctor", help="the parts of this installation, and their faults")
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


_UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}


def _duration(text: str) -> int:
    """Return nanoseconds from "100ms", "2.5s", "5m"."""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        found = float(number) * _UNITS_NS[text[len(number) :]]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError("must be a number and a unit: 100ms, 2.5s, 5m, 2h, 1d") from None
    if not 0 <= found < 1 << 63:
        raise argparse.ArgumentTypeError("must be 0 or more, and at most 292 years")
    return int(found)


def _moment(text: str) -> int:
    """Return Unix time in nanoseconds from "5m", five minutes ago, or a date, local without an offset."""
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text).timestamp()) * 10**9
    except (OverflowError, ValueError):
        try:
            return time.time_ns() - _duration(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError("must be 30s, 5m, 2h, 1d … or a date such as 2026-02-28T09:30") from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return key, value


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


def _run(arguments: argparse.Namespace) -> int:
    from .run import run

    return run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from ..demo.run import run
    except ModuleNotFoundError as error:
        missing = printable(str(error.name), 80)
        complain(f"the demo needs {missing}: {install_hint('demo')}")
        return ERROR
    return run(db=arguments.db, requests=arguments.requests, serve=arguments.serve, show=_show_trace, view=_view)


def _show_trace(path: str, trace_id: str) -> int:
    return main(["traces", "show", path, trace_id])


def _view(path: str) -> AbstractContextManager[Sequence[str]]:
    from .ui import viewing

    return viewing(path)


def _ui(arguments: argparse.Namespace) -> int:
    from .ui import run

    return run(arguments)


def _store(path: str) -> str:
    """Return *path*, or the file that the exporter "sqlite" writes by default."""
    return path or os.environ.get("TRACEKIT_SQLITE_PATH") or "traces.db"


def _list(arguments: argparse.Namespace) -> int:
    from .traces import run_list

    return run_list(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from .traces import run_show

    path, trace_id = arguments.path, arguments.trace_id
    if trace_id is None and not os.path.exists(path) and _TRACE_ID.fullmatch(path):  # the id alone
        path, trace_id = "", path
    arguments.path, arguments.trace_id = _store(path), trace_id
    return run_show(arguments)


def _tasks(arguments: argparse.Namespace) -> int:
    from .tasks import run

    return run(arguments)


def _stats(arguments: argparse.Namespace) -> int:
    from .stats import run

    return run(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from .exchange import run_export

    return run_export(arguments)


def _import(arguments: argparse.Namespace) -> int:
    from .exchange import run_import

    return run_import(arguments)


def _delete(arguments: argparse.Namespace) -> int:
    from .exchange import run_delete

    return run_delete(arguments)


def _spool(arguments: argparse.Namespace) -> int:
    from .spool import run

    return run(arguments)


def _header(arguments: argparse.Namespace) -> int:
    from .header.command import run

    return run(arguments)


def _conform(arguments: argparse.Namespace) -> int:
    from .conform.command import run

    return run(arguments)


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        complain(f"completion needs shtab: {install_hint('cli')}")
        return ERROR
    sys.stdout.write(shtab.complete(_parser(), shell=arguments.shell))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import run

    return run(arguments)
