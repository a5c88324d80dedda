"""The command ``tracekit``: a demo, the traces in a SQLite file, trace headers, and the faults of an installation."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._distribution import install_hint
from .._render import printable
from .._version import __version__
from ..exporters.sqlite import StoreError
from .screen import ERROR, complain
from .ui import viewing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BROKEN_PIPE, _INTERRUPTED = 141, 130
_WELCOME = """\
tracekit: tracing for asynchronous Python. First steps:

  tracekit run -- uvicorn shop:app     trace your own program; its spans go to traces.db
  tracekit traces list                 list the traces in traces.db
  tracekit traces show                 show the newest one as a tree
  tracekit ui traces.db --open         see them in a browser
  tracekit demo                        watch two services and a client make traces (extra: demo)
  tracekit doctor                      check this installation, or why no spans arrive

All commands: tracekit --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, and return its exit status: 2 where it could not be done, with a line on stderr."""
    _replace_closed_streams()
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
    except OSError as error:  # of standard output, as on a full disk: commands report those of their files
        _silence_stdout()
        complain(printable(str(error), 1000))
        return ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _replace_closed_streams() -> None:
    """Discard output to a stream that the caller has closed, as ``print()`` does: Python has None for it.

    A program that replaces this process finds it closed.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process


def _silence_stdout() -> None:
    """Discard output that is buffered for a reader that has gone, or a full disk: flushing it at exit would fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # not a real file
        pass


_STORE_HELP = "a file of SQLiteExporter (default: TRACEKIT_SQLITE_PATH or traces.db)"
_SINCE_HELP = "only those started within the last 30s, 5m, 2h, 1d, or since a date"
_TRACE_ID = re.compile("[0-9a-f]{1,32}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tracekit", description="Trace asynchronous Python, and look at the traces.")
    parser.add_argument("--version", action="version", version=f"tracekit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", ".run:run", "run a program with its libraries traced; nothing in it changes")
    add = run.add_argument
    add("--only", metavar="A,B", default="", help="trace only these libraries")
    add("--exclude", metavar="A,B", default="", help="trace all libraries but these")
    add("--no-children", action="store_true", help="do not trace the processes that the program starts")
    here = "run a Python program in this process, which ignores options such as python -I"
    add("--in-process", action="store_true", help=here)
    add("command", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="the program and its arguments")

    demo = _command(commands, "demo", _demo, "run two services and a client, and show the trace of one request")
    add = demo.add_argument
    add("--serve", action="store_true", help="keep the services running")
    add("--db", metavar="PATH", help="the SQLite file to write to (default: a new temporary one)")
    add("--requests", metavar="N", type=_count, default=50, help="how many requests (default: 50)")

    what = "receive traces of any language over OTLP, and show them in a browser"
    add = _command(commands, "ui", ".ui:run", what).add_argument
    path = "the SQLite file to write and show (default: one in the home directory, not traces.db)"
    add("path", metavar="PATH", nargs="?", help=path)
    for option, port, use in (("", 4319, "the pages"), ("http-", 4318, "OTLP/HTTP"), ("grpc-", 4317, "OTLP/gRPC")):
        what = f"port of {use} (default: {port})"
        add(f"--{option}port", metavar="N", type=_between(0, 65535), default=port, help=what)
    add("--no-receiver", action="store_true", help="only show the file, receive nothing")
    size = "the file's size in MB at which the oldest traces are evicted (default: 1024, more if it is larger)"
    add("--max-mb", metavar="N", type=_between(1, 1 << 20), help=size)
    add("--open", action="store_true", help="open the page in a browser")

    what = "list, show, export, import and delete the traces in a SQLite file"
    _add_store_commands(commands.add_parser("traces", help=what, description=_sentence(what)))

    what = "show the tasks of a running process: the work of each, and the line at which it waits"
    tasks = _command(commands, "tasks", ".tasks:run", what, json=True)
    target = tasks.add_mutually_exclusive_group(required=True)
    target.add_argument("--pid", metavar="N", type=_count, help="the process id; needs Python 3.14 on both sides")
    target.add_argument("--url", metavar="URL", help="its debug pages, such as http://127.0.0.1:6070/debug/")
    add = tasks.add_argument
    wake = "stop and continue the process, so that an idle one answers at once (Linux)"
    add("--wake", action="store_true", help=wake)
    add("--name", metavar="TEXT", default="", help="only tasks with this in a name, span or function")
    add("--list", action="store_true", help="a list instead of the tree, the longest stuck first")
    timeout = "how long to wait for the answer (default: 5)"
    add("--timeout", metavar="SECONDS", type=_seconds, default=5.0, help=timeout)

    what = "count the spans that an OTLP exporter has put into its spool, sent, and not sent yet"
    spool = _command(commands, "spool", ".spool:run", what, json=True)
    spool.add_argument("path", metavar="PATH", help="the file that OTLPExporter(spool=…) writes")

    _add_header_commands(commands)

    what = "print a script that completes the arguments of tracekit in a shell"
    _command(commands, "completion", _completion, what).add_argument("shell", choices=("bash", "zsh", "tcsh"))

    what = "check this installation, its settings, and the way to a file or a collector"
    doctor = _command(commands, "doctor", ".doctor:run", what, json=True)
    doctor.add_argument("--db", metavar="PATH", help="also try to store a span there, and leave nothing behind")
    endpoint = "also send a span to this collector over OTLP (default: the one that the environment names)"
    doctor.add_argument("--endpoint", metavar="URL", nargs="?", const="", help=endpoint)
    return parser


def _add_header_commands(commands: Any) -> None:
    what = "explain trace headers, name their faults, and write them in other formats"
    add = _command(commands, "header", ".header.command:run", what, json=True).add_argument
    add("headers", metavar="HEADER", nargs="*", help="'name: value' (default, or -: headers on standard input)")
    to = "also write the context in this format: b3, jaeger … or all; repeatable"
    add("--to", metavar="FORMAT", action="append", default=[], help=to)

    what = "check that a running service reads and sends trace headers as W3C requires"
    add = _command(commands, "conform", ".conform.command:run", what, json=True).add_argument
    add("url", metavar="URL", help="the endpoint for this check; if there is none, the requirements are printed")
    listen = "the address that it calls back (default: 127.0.0.1:0, a free port)"
    add("--listen", metavar="HOST:PORT", type=_listen_on, default=("127.0.0.1", 0), help=listen)
    add("--only", metavar="TEXT", default="", help="only checks with this in name or section")
    add("--timeout", metavar="SECONDS", type=_seconds, default=5.0, help="how long a check may take (default: 5)")
    add("--all", action="store_true", help="the whole requests and responses of each check")


def _add_store_commands(traces: argparse.ArgumentParser) -> None:
    commands = traces.add_subparsers(required=True, metavar="COMMAND")
    add = _command(commands, "list", ".traces:run_list", "list the newest traces, a line each", json=True).add_argument
    add("path", metavar="PATH", nargs="?", type=_store, default="", help=_STORE_HELP)
    add("--limit", metavar="N", type=_count, default=20, help="how many (default: 20)")
    add("--service", metavar="NAME", help="only traces with a span of this service")
    add("--name", metavar="TEXT", help="only traces with a span whose name contains this")
    add("--status", choices=("unset", "ok", "error", "cancelled"), help="only traces with a span of this status")
    where = "only traces with a span that has this attribute; repeatable"
    add("--where", metavar="KEY=VALUE", type=_pair, action="append", default=[], help=where)
    add("--since", metavar="TIME", type=_moment, help=_SINCE_HELP)
    add("--slower", metavar="TIME", type=_duration, help="only those that took at least 100ms, 2s …")
    add("--faster", metavar="TIME", type=_duration, help="only those that took at most 100ms, 2s …")
    sorts = ("start", "duration", "spans", "errors")
    add("--sort", choices=sorts, default="start", help="newest or largest first (default: start)")
    add("--follow", action="store_true", help="keep listing new traces as they arrive, the oldest first")
    add("--jsonl", action="store_true", help="a line of JSON for each trace")

    add = _command(commands, "show", _show, "show one trace as a tree, with bars for time", json=True).add_argument
    add("path", metavar="PATH", nargs="?", default="", help=_STORE_HELP)
    add("trace_id", metavar="TRACE_ID", nargs="?", help="the id, or its first digits (default: the newest)")
    add("--all", action="store_true", help="everything: complete attributes, events, links, ids, resource")
    add("--logs", action="store_true", help="also the log records, each below its span")
    add("--scope", action="store_true", help="also the library that made each span, if that is not tracekit")

    what = "show count, errors and latency of the spans, a line for each service and name"
    add = _command(commands, "stats", ".traces:run_stats", what, json=True).add_argument
    add("path", metavar="PATH", nargs="?", type=_store, default="", help=_STORE_HELP)
    add("--since", metavar="TIME", type=_moment, help=_SINCE_HELP)
    add("--service", metavar="NAME", help="only spans of this service")
    add("--name", metavar="TEXT", help="only spans whose name contains this")
    add("--limit", metavar="N", type=_count, default=40, help="how many lines (default: 40)")

    add = _command(commands, "export", ".exchange:run_export", "write traces to a file for other programs").add_argument
    add("path", metavar="PATH", help="the file that SQLiteExporter writes")
    add("trace_id", metavar="TRACE_ID", nargs="*", default=[], help="the ids, or their first digits (default: all)")
    formats = ("otlp", "jaeger", "perfetto")
    add("--format", choices=formats, default="otlp", help="(default: otlp, in its JSON encoding)")
    add("--since", metavar="TIME", type=_moment, help=_SINCE_HELP)
    add("--output", "-o", metavar="FILE", help="(default: standard output)")

    what = "read traces from a file: OTLP's JSON, Jaeger's JSON, or a Perfetto export of this command"
    add = _command(commands, "import", ".exchange:run_import", what).add_argument
    add("path", metavar="PATH", help="the SQLite file to add to; a new one is created")
    add("file", metavar="FILE", help="the file to read, in any of these formats; - is standard input")

    add = _command(commands, "delete", ".exchange:run_delete", "remove traces from the file").add_argument
    add("path", metavar="PATH", help="the file that SQLiteExporter writes")
    add("trace_id", metavar="TRACE_ID", nargs="*", default=[], help="the ids, or their first digits")
    add("--before", metavar="TIME", type=_moment, help="all that started before this time: 2h (ago), 7d, a date")


def _command(
    commands: Any, name: str, target: str | Callable[[argparse.Namespace], int], help: str, *, json: bool = False
) -> argparse.ArgumentParser:
    """Add a command that calls *target*, a function or ``module:function``, which is imported when it is called."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=_sentence(help))
    parser.set_defaults(run=partial(_call, target) if isinstance(target, str) else target)
    if json:
        parser.add_argument("--json", action="store_true", help="JSON on standard output, and nothing else")
    return parser


def _sentence(help: str) -> str:
    return help[0].upper() + help[1:] + "."


def _call(target: str, arguments: argparse.Namespace) -> int:
    module, _, function = target.partition(":")
    status: int = getattr(import_module(module, __package__), function)(arguments)
    return status


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        found = int(text)
        if not low <= found <= high:
            raise argparse.ArgumentTypeError(f"must be {low} to {high}")
        return found

    return number


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


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from ..demo.run import run
    except ModuleNotFoundError as error:
        complain(f"the demo needs {printable(str(error.name), 80)}: {install_hint('demo')}")
        return ERROR
    return run(db=arguments.db, requests=arguments.requests, serve=arguments.serve, show=_show_trace, view=viewing)


def _show_trace(path: str, trace_id: str) -> int:
    return main(["traces", "show", path, trace_id])


def _store(path: str) -> str:
    """Return *path*, or the file that the exporter "sqlite" writes by default."""
    return path or os.environ.get("TRACEKIT_SQLITE_PATH") or "traces.db"


def _show(arguments: argparse.Namespace) -> int:
    path, trace_id = arguments.path, arguments.trace_id
    if trace_id is None and not os.path.exists(path) and _TRACE_ID.fullmatch(path):  # the id alone
        path, trace_id = "", path
    arguments.path, arguments.trace_id = _store(path), trace_id
    return _call(".traces:run_show", arguments)


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        complain(f"completion needs shtab: {install_hint('cli')}")
        return ERROR
    sys.stdout.write(shtab.complete(_parser(), shell=arguments.shell))
    return 0
