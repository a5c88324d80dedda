"""Count the instructions that each part of tracing adds to a request of ``bench.service``: ``python -m bench.service_parts``.

A real uvicorn server runs under valgrind and serves an application of eight spans. From one row to the next a part is
added, so the difference is that part's own: the server span, the seven spans inside, the encoding in the exporting
thread, the sending. Counts are repeatable, within about 1 %: how the kernel cuts the octets of eight connections into
reads differs. Those of ``full`` are rough, as gRPC's threads poll. Instructions are not time: caches, system calls and the GIL
are not counted. ``--functions ROW`` names the functions that a row takes more instructions in than the row before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .callgrind import TOTAL, by_function
from .service_apps import APPS, PATH
from .service_contenders import CONTENDERS, Tracing

if TYPE_CHECKING:
    from collections import Counter

ROOT = Path(__file__).parents[1]
CONNECTIONS = 8
WARM_UP = 200
REQUESTS = {"tasks": 2048, "spans": 2048, "full": 512}  # they end with a multiple of the exporter's batch
REQUEST = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n".encode()  # as wrk sends it


class Part(NamedTuple):
    """What the server of a row has; *exporting* is "", or one of "drop", "encode" and "send"."""

    name: str
    share: float = 0.0
    exporting: str = ""
    middleware: bool = True
    spans: bool = True


PARTS = {
    "untraced": Part("untraced", middleware=False, spans=False),
    "unsampled": Part("unsampled: the server span", 0.0, "drop", spans=False),
    "unsampled_spans": Part("unsampled: seven spans inside", 0.0, "drop"),
    "server": Part("sampled: the server span", 1.0, "drop", spans=False),
    "spans": Part("sampled: seven spans inside", 1.0, "drop"),
    "encode": Part("encoding", 1.0, "encode"),
    "send": Part("sending over HTTP", 1.0, "send"),
}
BEFORE = {"unsampled_spans": "unsampled", "spans": "server", "encode": "spans", "send": "encode"}  # else untraced


class _Dropping:
    """Take spans and do nothing with them."""

    def export(self, spans: Any) -> None: ...

    def shutdown(self) -> None: ...


def _exporter(exporting: str, url: str) -> Any:
    from tracekit.exporters.otlp import Answer, OTLPExporter

    if exporting == "drop":
        return _Dropping()
    exporter = OTLPExporter(url, environ={})
    if exporting == "encode":
        exporter._send = lambda *_arguments: Answer("taken")  # type: ignore[method-assign]
    return exporter


def tracing(part: Part, url: str) -> Tracing:
    none = CONTENDERS["none"].start("", 1.0)
    if not part.exporting:
        return none
    import tracekit
    from tracekit.integrations.asgi import TraceMiddleware

    # No interval that passes: valgrind is slow, so more of them would pass in a request than in a service.
    tracekit.configure(
        service="shop",
        exporter=_exporter(part.exporting, url),
        sampler=tracekit.Ratio(part.share),
        export_interval_s=3600.0,
    )
    span = tracekit.span
    return none._replace(
        span=(lambda name, attributes: span(name, attributes=attributes)) if part.spans else none.span,
        middleware=TraceMiddleware if part.middleware else none.middleware,
        instrument=(lambda: tracekit.instrument("httpx", "grpc", "sqlalchemy")) if part.spans else none.instrument,
    )


def serve(row: str, url: str, app: str) -> None:
    """Serve a row's application; print the port, and the collections since "go" when standard input says "end"."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        _, served_app = APPS[app].make(tracing(PARTS[row], url), port)
        print(port, flush=True)
        threading.Thread(target=_obey, daemon=True).start()
        uvicorn.Server(uvicorn.Config(served_app, log_level="warning", access_log=False)).run(sockets=[listening])


def _obey() -> None:
    import tracekit

    begin = []
    for line in sys.stdin:
        tracekit.flush()
        collections = [generation["collections"] for generation in gc.get_stats()]
        if line == "end\n":
            print(json.dumps([now - before for now, before in zip(collections, begin, strict=True)]), flush=True)
            os._exit(0)  # valgrind writes its counts
        begin = collections
        print("going", flush=True)


def load(port: int, count: int) -> None:
    """Send *count* requests, one at a time on each connection."""
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CONNECTIONS)]
        for _ in range(count // CONNECTIONS):
            for connection in connections:
                connection.sendall(REQUEST)
            for connection in connections:
                received = b""
                while not _is_whole(received):
                    chunk = connection.recv(4096)
                    if not chunk:
                        raise RuntimeError(f"the server closed the connection after {received!r}")
                    received += chunk
                if not received.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"the server answered {received!r}")


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return length is not None and len(body) == int(length[1])


def count(row: str, url: str, app: str) -> tuple[Counter[str], list[int]]:
    """Return the instructions of *app*'s ``REQUESTS`` by function, and the collections of each generation."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        command = [
            "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}",
            sys.executable, "-m", "bench.service_parts", f"--serve={row}", f"--url={url}", f"--app={app}",
        ]  # fmt: skip
        environ = {**os.environ, "PYTHONHASHSEED": "0"}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environ
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            try:
                port = int(server.stdout.readline())
                load(port, WARM_UP)
                server.stdin.write("go\n")
                server.stdin.flush()
                server.stdout.readline()
                subprocess.run(["callgrind_control", "--instr=on", str(server.pid)], check=True, capture_output=True)
                load(port, REQUESTS[app])
                server.stdin.write("end\n")
                server.stdin.flush()
                collections = json.loads(server.stdout.readline())
                server.wait()
            finally:
                server.kill()
        return by_function(out, inclusive=False), collections


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.service_parts", description=__doc__)
    parser.add_argument("--functions", choices=list(PARTS), metavar="ROW", help="name the functions of one row")
    parser.add_argument("--app", choices=list(APPS), default="tasks", help="the application (default: tasks)")
    parser.add_argument("--serve", choices=list(PARTS), help=argparse.SUPPRESS)  # this is the process of valgrind
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.url, options.app)
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 1
    rows = list(PARTS)
    if options.functions:
        rows = [row for row in rows if row in (options.functions, BEFORE.get(options.functions, "untraced"))]
    command = [sys.executable, "-m", "bench.service_child", "collect", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as collector:
        assert collector.stdout is not None
        (port,) = json.loads(collector.stdout.readline())
        found = {row: count(row, f"http://127.0.0.1:{port}", options.app) for row in rows}
        collector.communicate()
    if options.functions:
        _print_functions(options.functions, found, REQUESTS[options.app])
        return 0
    print("| part of a request | instructions | garbage collections in 1,000 requests |\n|---|---:|---:|")
    requests = REQUESTS[options.app]
    for row, (counts, collections) in found.items():
        total = counts[TOTAL]
        if row != "untraced":
            total -= found[BEFORE.get(row, "untraced")][0][TOTAL]
        collected = " / ".join(f"{number * 1000 / requests:.1f}" for number in collections)
        print(f"| {PARTS[row].name} | {total / requests:,.0f} | {collected} |")
    return 0


def _print_functions(row: str, found: dict[str, tuple[Counter[str], list[int]]], requests: int) -> None:
    counts = found[row][0]
    if row != "untraced":
        counts.subtract(found[BEFORE.get(row, "untraced")][0])
    print(f"{PARTS[row].name}: {counts.pop(TOTAL) / requests:,.0f} instructions")
    for function, number in counts.most_common(60):
        print(f"{number / requests:10,.1f}  {function}")


if __name__ == "__main__":
    sys.exit(main())
