"""The service's side of a demo process: record, say where it listens, stop when told, account for every span.

Three lines on standard output are for the command: ``pages URL``, ``listening URL`` and, last, ``statistics JSON``.
SIGTERM ends the service, and so does the end of standard input: should the command be killed, no
service outlives it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import tracekit
import tracekit.debug
from tracekit.exporters.sqlite import SQLiteExporter
from tracekit.integrations import logging as trace_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES: Final = "pages "
LISTENING: Final = "listening "
STATISTICS: Final = "statistics "
EXPORT_INTERVAL_S: Final = 0.25


@contextlib.contextmanager
def recording(service: str, path: str) -> Iterator[None]:
    """Write the spans of *service* to *path*, and serve its live pages; at the end report the fate of all spans."""
    trace_logging.instrument()
    logging.basicConfig(format="%(name)s %(levelname)s trace %(trace_id)s: %(message)s", stream=sys.stdout)
    tracekit.configure(service=service, exporter=SQLiteExporter(path), export_interval_s=EXPORT_INTERVAL_S)
    pages = tracekit.debug.serve(port=0)
    print(PAGES + pages.url, flush=True)  # noqa: T201
    try:
        yield
    finally:
        pages.close()
        tracekit.shutdown()
        print(STATISTICS + json.dumps(tracekit.statistics()._asdict()), flush=True)  # noqa: T201


def announce(url: str) -> None:
    """Say that the service answers at *url*."""
    print(LISTENING + url, flush=True)  # noqa: T201


def on_stop(stop: Callable[[], object]) -> None:
    """Have *stop*, which must be safe in a signal handler and a thread, called when the service is to end."""

    def handle(*_: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is gone: stopped already
            stop()

    def wait_for_end_of_input() -> None:
        # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter at exit.
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        handle()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    threading.Thread(target=wait_for_end_of_input, name="lifeline", daemon=True).start()
