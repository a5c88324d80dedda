"""Spans lost at the end of a process: servers that get SIGTERM, and recycled children of celery.

Requests and tasks of real processes are compared with the spans that arrived at a collector.

``python -m tests.faults_sigterm``; ``rows()`` are rows of ``python -m tests.faults``.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .exporters.collector import Collector

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator

REQUESTS = 21

# Each request has another path, and its span is named after it.
CONFIGURE = """
import tracekit
from tracekit.exporters.otlp import OTLPExporter

exporter = OTLPExporter({url!r}, environ={{}})
tracekit.configure(exporter=exporter, export_interval_s=3600, environ={{}})
"""
APP = f"""
{CONFIGURE}
from tracekit.integrations.asgi import TraceMiddleware

async def answer(scope, receive, send):
    assert scope["type"] == "http"
    tracekit.current_span().update_name(scope["path"])
    await send({{{{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}}}})
    await send({{{{"type": "http.response.body", "body": b""}}}})

app = TraceMiddleware(answer)
"""
SERVERS: dict[str, Callable[[int], list[str]]] = {
    "uvicorn": lambda fd: ["uvicorn", "app:app", f"--fd={fd}", "--log-level=critical"],
    "uvicorn --workers 2": lambda fd: [
        *("uvicorn", "app:app", f"--fd={fd}", "--log-level=critical", "--workers=2"),
        "--timeout-worker-healthcheck=60",  # or uvicorn kills a worker that has not begun to run after 5 s
    ],
    "hypercorn": lambda fd: ["hypercorn", "app:app", f"--bind=fd://{fd}"],
    "hypercorn --worker-class trio": lambda fd: ["hypercorn", "app:app", f"--bind=fd://{fd}", "--worker-class=trio"],
    "gunicorn, 2 workers": lambda fd: [
        *("gunicorn", "app:app", f"--bind=fd://{fd}", "--log-level=critical"),
        # gunicorn does not stop a worker that gets SIGTERM while it boots, but kills it after that many seconds.
        *("--worker-class=asgi", "--workers=2", "--no-control-socket", "--timeout=300", "--graceful-timeout=2"),
    ],
}


def stopped(server: str) -> Counter[str]:
    """Send ``REQUESTS`` requests to *server*, stop it with SIGTERM, and return the names of the exported spans."""
    with tempfile.TemporaryDirectory() as directory, Collector() as collector, socket.socket() as listener:
        Path(directory, "app.py").write_text(APP.format(url=collector.url), encoding="utf-8")
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)  # requests wait here until the server has started
        process = subprocess.Popen(
            [sys.executable, "-m", *SERVERS[server](listener.fileno())],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([directory, *sys.path])},
            pass_fds=[listener.fileno()],
        )
        try:
            for number in range(REQUESTS):
                ask(listener.getsockname()[1], f"/{number}")
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
        return collector.names


TASKS = 3
CELERY_APP = f"""
import pathlib
from celery import Celery
{CONFIGURE}
folder = {{folder!r}}
app = Celery("app", broker="filesystem://")
app.conf.broker_transport_options = {{{{"data_folder_in": folder, "data_folder_out": folder}}}}
app.conf.broker_connection_retry_on_startup = True

@app.task(name="work")
def work(number):
    tracekit.span(f"/{{{{number}}}}").end()
    pathlib.Path(folder, f"done-{{{{number}}}}").touch()
"""


def recycled() -> Counter[str]:
    """Run ``TASKS`` tasks in celery, recycling its child after each, and return the names of the exported spans."""
    with tempfile.TemporaryDirectory() as directory, Collector() as collector:
        folder = Path(directory, "queue")
        folder.mkdir()
        text = CELERY_APP.format(url=collector.url, folder=str(folder))
        Path(directory, "app.py").write_text(text, encoding="utf-8")
        options = {"cwd": directory, "env": {**os.environ, "PYTHONPATH": os.pathsep.join([directory, *sys.path])}}
        send = f"import app\nfor number in range({TASKS}): app.work.delay(number)"
        subprocess.run([sys.executable, "-c", send], check=True, timeout=60, **options)
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "app", "worker", *CELERY_OPTIONS],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,
        )
        try:
            deadline = time.monotonic() + 300
            while len(list(folder.glob("done-*"))) < TASKS:
                if time.monotonic() > deadline:
                    raise RuntimeError("celery has not run its tasks in 300 s")
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()
            process.wait()
        return collector.names


CELERY_OPTIONS = [
    "--pool=prefork",
    "--concurrency=1",
    "--max-tasks-per-child=1",
    "--without-gossip",
    "--without-mingle",
]


def ask(port: int, path: str) -> None:
    """Send a request on a new connection, so that any worker can accept it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Connection": "close"})
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} was answered with {response.status}")


def rows() -> Iterator[tuple[str, bool, int, Counter[str], str]]:
    """Yield the arguments of ``tests.faults.row()``: fault, spool, number of spans, names of the exported ones, "-"."""
    for server in SERVERS:
        yield f"SIGTERM under {server}, after {REQUESTS} requests", False, REQUESTS, stopped(server), "-"
    yield f"celery recycles a child after each of {TASKS} tasks", False, TASKS, recycled(), "-"


def main() -> int:
    lost = 0
    for what, _, sent, names, _ in rows():
        print(f"{what}: {len(names)} of {sent} arrived", flush=True)
        lost += sent - len(names)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
