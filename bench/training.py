"""Do what programs do with tracekit, for a compiler that counts: ``TRACEKIT_TRAINED=1 python setup.py build_ext``.

setup.py runs this between two compilations. The modules of the first one count how often each branch is taken; by these
counts the second lays out what runs for every span beside each other, and the rest, such as the ways out of errors, small
and elsewhere. So each part does an everyday thing often, and no part is far more frequent than in a service. A part whose
library is not installed is left out, which is printed.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .measure import Subject

ROOT = Path(__file__).parents[1]
CALLS = 2000  # of each row
TIMEOUT_S = 900  # of a part, which takes seconds: one that hangs ends the build
# Parts run without these variables: they change the measured work, where spans and requests go, or where counts are kept.
USERS = re.compile("(BAGGAGE|DD_|GCOV_|OTEL_|PYTHON(?!PATH|HOME)|TRACE|UVICORN_).*|.*_PROXY", re.IGNORECASE)


def _service(app: str) -> None:
    """Serve *app*, of eight spans a request, with uvicorn until its requests are answered."""
    import uvicorn

    from .service_apps import APPS
    from .service_parts import PARTS as SERVED
    from .service_parts import REQUESTS, load, tracing

    # The socket is closed first: requests that no server answers end with an error.
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        _, made = APPS[app].make(tracing(SERVED["encode"], ""), port)
        server = uvicorn.Server(uvicorn.Config(made, log_level="warning", access_log=False))

        def send() -> None:
            try:
                load(port, REQUESTS[app])
            finally:
                server.should_exit = True

        sent = pool.submit(send)
        server.run(sockets=[listening])
        sent.result()


def _calls(module: str) -> None:
    """Make the traced calls of ``bench.servers``, ``bench.clients`` or ``bench.rpc``."""
    bench = importlib.import_module(f".{module}", __package__).BENCH
    empty = bench.contenders["tracekit"]()
    for row in bench.rows.values():
        call = row.make("tracekit")
        for _ in range(CALLS // row.units):
            call()
        empty()


def _spans() -> None:
    from . import contender_tracekit

    contender_tracekit.record()
    _rows(contender_tracekit.subjects().values())


def _hand_offs() -> None:
    from . import contender_tracekit, handoffs
    from .rows import OURS

    contender_tracekit.record()
    _rows(row[OURS] for row in handoffs.subjects().values())


def _formats() -> None:
    from . import formats

    for name in formats.FORMATS:
        _rows(subject for key, subject in formats.subjects(name).items() if key in ("read", "write"))


def _bridge() -> None:
    import tracekit

    from . import bridge, contender_tracekit

    contender_tracekit.record()
    tracer = bridge.bridge.TracerProvider().get_tracer("bench")
    _rows(bridge.subjects(tracer, bridge.installed, tracekit.flush).values())


def _pages() -> None:
    """Record requests for the debug pages, and read what a receiver of OTLP gets."""
    import tracekit
    from tracekit.ui.protobuf import read_request

    from . import contender_tracekit, live, receiver

    batches = receiver.Batches()
    for _ in range(CALLS // batches.spans + 1):
        read_request(batches.fresh(), 0)
    contender_tracekit.record()
    live.recorder.start(records_all=True)
    live.requests()
    tracekit.flush()
    live.recorder.stop()


def _rows(subjects: Iterable[Subject]) -> None:
    for subject in subjects:
        for _ in range(-(-CALLS // (subject.chunk * subject.units))):
            subject.time(0.0)


PARTS = {
    "service tasks": lambda: _service("tasks"),
    "service spans": lambda: _service("spans"),
    "service full": lambda: _service("full"),
    "servers": lambda: _calls("servers"),
    "clients": lambda: _calls("clients"),
    "rpc": lambda: _calls("rpc"),
    "spans": _spans,
    "hand-offs": _hand_offs,
    "formats": _formats,
    "bridge": _bridge,
    "pages": _pages,
}


def main(arguments: list[str]) -> int:
    """Run each part in its own process, because instrumentations patch libraries; return 0 if all parts succeed."""
    if arguments:
        return _run(arguments[0])
    environ = {name: value for name, value in os.environ.items() if not USERS.fullmatch(name)}
    failed = 0
    for part in PARTS:
        command = [sys.executable, "-m", __spec__.name, part]
        try:
            subprocess.run(command, cwd=ROOT, env=environ, timeout=TIMEOUT_S, check=True)
        except subprocess.SubprocessError as error:
            print(f"{part}: {error}", file=sys.stderr)
            failed += 1
    return failed


def _run(part: str) -> int:
    try:
        PARTS[part]()
    except ModuleNotFoundError as error:
        if (error.name or "tracekit").partition(".")[0] == "tracekit":
            raise
        print(f"{part}: left out, as {error.name} is not installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
