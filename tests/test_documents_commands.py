"""The commands of the tutorial and of the pages about the viewer and the store, typed in order; their output is compared."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

import tracekit
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError

from .test_documents import BLOCKS, ROOT
from .tools.ports import free_port

pytestmark = [pytest.mark.one_form, pytest.mark.slow]


def normal(output):
    """Return the lines of *output* without ids, times, bars, addresses and colors."""
    rules = [
        (r"(_s=)[\d.e-]+", r"\1SECONDS"),
        (r"/\S+(?=/\.local/)", "~"),
        (r"\b[0-9a-f]{32}\b", "TRACE"),
        (r"\b[0-9a-f]{8}\b", "ID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "MOMENT"),
        (r"\b\d+(\.\d+)? (ns|µs|ms|s)\b", "DURATION"),
        (r"(127\.0\.0\.1:|port=)\d+", r"\1PORT"),
        (r"^(.*?\S=\S+  \S+=\S+)  .*…$", r"\1 …"),  # cut at the width, elsewhere for another port
        (r"[━╸╺ ]+", " "),
    ]
    for pattern, instead in rules:
        output = re.sub(pattern, instead, output, flags=re.MULTILINE)
    return [line.strip() for line in output.splitlines()]


class Terminal:
    """The commands of a page, typed in order in one folder; each output that the page shows is compared."""

    def __init__(self, page, folder, **environ):
        text = "".join(block.text for block in BLOCKS if block.page == page and block.language == "console")
        self.left = re.findall(r"^\$ ([^\n]*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, module in {"tracekit": "tracekit", "uvicorn": "uvicorn", "python": ""}.items():
            run = f'exec {shlex.quote(sys.executable)} {f"-m {module}" if module else ""} "$@"\n'
            (programs / name).write_text(f"#!/bin/sh\n{run}", encoding="utf-8")
        # The browser writes down the page that it is to show.
        (programs / "browser").write_text(f'#!/bin/sh\necho "$1" >> {shlex.quote(str(folder / "opened"))}\n')
        for path in programs.iterdir():
            path.chmod(0o700)
        self.environ = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "HOME": str(folder),
            "XDG_STATE_HOME": "",
            "BROWSER": f"{programs / 'browser'} %s",
            "COLUMNS": "100",
            **environ,
        }

    def next(self, start):
        """Take the next command of the page, which starts with *start*: return it and the output that the page shows."""
        command, shown = self.left.pop(0)
        assert command.startswith(start)
        return command, shown

    def type(self, start, more=""):
        """Run the next command, and compare its output if the page shows any."""
        command, shown = self.next(start)
        done = subprocess.run(
            ["bash", "-c", command + more],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        if shown:
            assert normal(done.stdout) == normal(shown)
        return done.stdout

    @contextlib.contextmanager
    def running(self, start, more="", **environ):
        """Run the next command until the end of the block; give its first lines, as many as the page shows, at least one."""
        command, shown = self.next(start)
        with subprocess.Popen(
            ["bash", "-c", f"exec {'env ' if '=' in command.split()[0] else ''}{command}{more}"],
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            watchdog = threading.Timer(60, process.kill)
            watchdog.start()
            try:
                lines = [process.stdout.readline() for _ in range(max(1, shown.count("\n")))]
                if shown:
                    assert normal("".join(lines)) == normal(shown)
                yield lines
            finally:
                watchdog.cancel()
                process.send_signal(signal.SIGINT)
                for _ in process.stdout:
                    pass


def code(page):
    return [block.text for block in BLOCKS if block.page == page and block.language == "python"]


def wait_for_port(port):
    """Wait until another process listens."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline, port
        time.sleep(0.05)


def fetch(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return answer.read().decode()


def wait_for_spans(path, count):
    """Wait until another process, which does so within a second, has stored *count* spans."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(StoreError), SQLiteReader(path) as reader:
            if reader.counts().spans >= count:
                return
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_the_tutorial_can_be_followed(tmp_path):
    port = free_port()
    # uvicorn reads its options from the environment too.
    terminal = Terminal("docs/tutorial.md", tmp_path, UVICORN_PORT=str(port))
    shop, *more, see, warehouse = [
        text.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for text in code("docs/tutorial.md")
    ]
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    terminal.next("pip install ")
    with terminal.running("OTEL_SERVICE_NAME=shop tracekit run -- uvicorn shop:app"):
        wait_for_port(port)
        command, shown = terminal.next("curl http://127.0.0.1:8000")
        assert fetch(command.split()[1].replace("8000", str(port))) == shown.strip()
        wait_for_spans(tmp_path / "traces.db", 3)
        terminal.type("tracekit traces show")
        with terminal.running("tracekit ui traces.db --no-receiver --open", " --port 0") as lines:
            page = re.search(r"http://\S+", lines[0])[0]
            assert "GET /price/{item}" in fetch(f"{page}/api/traces")
            while not (tmp_path / "opened").exists():
                time.sleep(0.05)
        assert (tmp_path / "opened").read_text().split() == [page]
    (tmp_path / "shop.py").write_text("\n".join([shop, *more]), encoding="utf-8")
    (tmp_path / "see.py").write_text(f"import tracekit\nfrom shop import app\n\n{see}", encoding="utf-8")
    subprocess.run([sys.executable, "see.py"], cwd=tmp_path, env=terminal.environ, check=True, timeout=60)
    terminal.type("tracekit traces list")
    terminal.type("tracekit traces show")
    (tmp_path / "warehouse.py").write_text(warehouse, encoding="utf-8")
    terminal.type("python warehouse.py")
    terminal.type("tracekit traces show")
    (test,) = [block.text for block in BLOCKS if block.page == "docs/tutorial.md" and block.language == "text"]
    (tmp_path / "test_shop.py").write_text(test, encoding="utf-8")
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:ddtrace"]
    done = subprocess.run(arguments, cwd=tmp_path, env=terminal.environ, capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout, done.stdout
    assert terminal.left == []


def test_the_page_about_the_viewer_can_be_followed(tmp_path):
    pytest.importorskip("grpc")
    port = free_port()
    terminal = Terminal("docs/ui.md", tmp_path, UVICORN_PORT=str(port))
    (tmp_path / "shop.py").write_text(code("docs/tutorial.md")[0], encoding="utf-8")
    terminal.next("pip install ")
    with terminal.running("tracekit ui", " --port 0 --http-port 0 --grpc-port 0") as lines:
        page, endpoint = (re.search(r"http://\S+", line)[0] for line in lines[:2])
        to = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with terminal.running("OTEL_TRACES_EXPORTER=otlp", **to):
            wait_for_port(port)
            fetch(f"http://127.0.0.1:{port}/rate/lantern")
            wait_for_spans(tmp_path / ".local/state/tracekit/traces.db", 1)
            assert "GET /rate/{item}" in fetch(f"{page}/api/traces")
    assert terminal.left == []


def test_the_commands_and_the_queries_of_the_page_about_the_store_run(tmp_path):
    terminal = Terminal("docs/store.md", tmp_path)
    tracekit.configure(service="shop", exporter=SQLiteExporter(tmp_path / "traces.db"))
    parent = tracekit.SpanContext("4bf92f35" * 4, "b" * 16, flags=1)
    attributes = {"http.response.status_code": 500, "http.route": "/cart"}
    now_ns = time.time_ns()
    span = tracekit.span(
        "GET /cart", kind="server", parent=parent, attributes=attributes, start_ns=now_ns - 200_000_000
    )
    span.set_status("error")
    span.end(now_ns)
    tracekit.shutdown()
    assert "4bf92f35" in terminal.type("tracekit traces list traces.db --since 5m --slower 100ms --where")
    with terminal.running("tracekit traces list traces.db --follow") as lines:
        assert lines
    assert "GET /cart" in terminal.type("tracekit traces show traces.db 4bf92f35 --logs")
    assert "GET /cart" in terminal.type("tracekit traces stats traces.db --since 1h")
    terminal.type("tracekit traces export traces.db --format perfetto -o trace.json")
    (tmp_path / "traces.db").rename(tmp_path / "before.db")
    terminal.type("tracekit traces import traces.db trace.json")
    with SQLiteReader(tmp_path / "traces.db") as reader:
        assert reader.counts().spans == 1
    terminal.type("tracekit traces delete traces.db --before 7d")
    (tmp_path / ".local/share/bash-completion/completions").mkdir(parents=True)
    terminal.type("tracekit completion bash")
    assert "complete" in (tmp_path / ".local/share/bash-completion/completions/tracekit").read_text()
    assert terminal.left == []
    (queries,) = [block.text for block in BLOCKS if block.page == "docs/store.md" and block.language == "sql"]
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path / 'before.db'}?mode=ro", uri=True)) as connection:
        slowest, errors, by_host = (connection.execute(query).fetchall() for query in queries.split(";")[:-1])
    assert slowest == [("4bf92f35" * 4, 200.0)]
    assert errors == [("/cart", 1)]
    assert by_host == [(socket.gethostname(), 1, 1)]
