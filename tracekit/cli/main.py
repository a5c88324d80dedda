"""The command ``tracekit``: a demo, the traces in a SQLite file, trace headers, and the faults of an installation."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from .._render import printable
from .._version import __version__
from ..exporters.sqlite import StoreError
from .screen import ERROR, complain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

__all__ = ["main"]

_BROKEN_PIPE, _INTERRUPTED = 141, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, and return its exit status: 2 where it could not be done, with a line on stderr."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tracekit", description="See the traces of your asynchronous services.")
    parser.add_argument("--version", action="version", version=f"tracekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="a program, with the libraries that it uses traced; nothing in it changes")
    run.add_argument("--only", metavar="A,B", default="", help="trace these libraries alone")
    run.add_argument("--exclude", metavar="A,B", default="", help="trace all but these")
    run.add_argument("--no-children", action="store_true", help="do not trace the processes that the program starts")
    run.add_argument("--in-process", action="store_true", help="run a Python program in this process, as for python -I")
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
    show.add_argument("--scope", action="store_true", help="the library that made each span, if it is not tracekit's")
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


def _run(arguments: argparse.Namespace) -> int:
    from .run import run

    return run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from ..demo.run import run
    except ModuleNotFoundError as error:
        missing = printable(str(error.name), 80)
        complain(f"the demo needs {missing}: pip install 'tracekit[demo]'")
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


def _list(arguments: argparse.Namespace) -> int:
    from .traces import run_list

    return run_list(arguments)


def _show(arguments: argparse.Namespace) -> int:
    from .traces import run_show

    return run_show(arguments)


def _spool(arguments: argparse.Namespace) -> int:
    from .spool import run

    return run(arguments)


def _header(arguments: argparse.Namespace) -> int:
    from .header.command import run

    return run(arguments)


def _conform(arguments: argparse.Namespace) -> int:
    from .conform.command import run

    return run(arguments)


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import run

    return run(arguments)
