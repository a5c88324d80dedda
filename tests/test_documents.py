"""The documents: every link leads somewhere, every block of code runs, and every command prints what its page shows.

Blocks in Python run as programs in tests/test_structure.py, and are checked as types in tests/test_types.py. ``CHECKED``
lists all other blocks, with the test that runs each, or says what it is instead of a program.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import types
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

import tracekit
from docs import commands
from tracekit._version import SEMANTIC_CONVENTIONS
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
FENCE = re.compile(r"^( *)```+(\S*)[^\n]*\n(.*?)^\1```+$", re.DOTALL | re.MULTILINE)
HERE = "tests/test_documents.py"
PEERS = "tests/test_documents_peers.py, with the packages of `make docs-peers`"
# The first line of a block, and the test that runs it.
CHECKED = {
    "ARCHITECTURE.md": {
        "22  __main__.py": "tests/test_structure.py draws it",
        'with tracekit.span("checkout"):': "a drawing",
    },
    "README.md": {
        "$ pip install --find-links": "tests/test_packaging.py types it in a fresh environment",
        "$ make demo": "tests/test_demo.py runs the demo, and `make test` this file",
    },
    "docs/OPERATIONS.md": {
        "started = ended + open": "a formula: tests/test_pipeline.py",
        "otelcol-contrib --config": PEERS,
    },
    "docs/index.md": {"$ tracekit run -- uvicorn shop:app": f"the tutorial's: {HERE}"},
    "docs/metrics.md": {"sum by (http_route)": PEERS},
    "docs/migrating.md": {
        "tracer = trace.get_tracer(__name__)": PEERS,
        "config = jaeger_client.Config": PEERS,
        "logfire.configure(": PEERS,
        "transaction = sentry_sdk.continue_trace": PEERS,
        'with tracer.trace("web.request"': PEERS,
    },
    "docs/propagation.md": {"checkout": "tests/test_examples.py"},
    "docs/pythons.md": {"python -m tests.tools.shared_parent": "tests/test_free_threading.py runs it, smaller"},
    "docs/store.md": {
        "$ tracekit traces list traces.db": HERE,
        "-- The slowest requests": HERE,
        "import pandas, sqlite3": PEERS,
    },
    "docs/testing.md": {"tracekit: root": "tests/test_pytest_plugin.py compares it"},
    "docs/tutorial.md": {
        "$ pip install": "the index is asked by tests/test_packaging.py alone",
        "$ OTEL_SERVICE_NAME=shop": HERE,
        "$ curl http://127.0.0.1:8000/price/lantern": HERE,
        "$ tracekit traces list": HERE,
        "$ python warehouse.py": HERE,
        "from fastapi.testclient import TestClient": HERE,
    },
    "docs/ui.md": {"$ pip install": HERE, "$ OTEL_TRACES_EXPORTER=otlp": HERE},
    "docs/wire.md": {
        "$ tracekit header 'traceparent:": "tests/test_header.py compares it",
        "$ tracekit header --to": "tests/test_header.py compares it",
        "$ printf 'HOME=/": "tests/test_header.py compares it",
    },
}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    text: str


BLOCKS = [
    Block(page, found[2], textwrap.dedent(found[3])) for page, text in PAGES.items() for found in FENCE.finditer(text)
]
GENERATED = {"docs/GUARANTEES.md"}  # by make guarantees, from runs


def test_each_block_is_looked_at_by_one_test_or_says_why_not():
    others = [
        block
        for block in BLOCKS
        if block.language != "python" and not block.language.startswith("{") and block.page not in GENERATED
    ]
    for page, checked in CHECKED.items():
        texts = [block.text for block in others if block.page == page]
        assert [sum(text.startswith(first) for text in texts) for first in checked] == [1] * len(checked), page
    assert len(others) == sum(map(len, CHECKED.values())), {block.page: block.text[:40] for block in others}
    named = {
        name
        for checked in CHECKED.values()
        for who in checked.values()
        for name in re.findall(r"tests/[\w/.]+\.py", who)
    }
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_blocks_in_python_are_in_pages_whose_code_is_run():
    pages = {block.page for block in BLOCKS if block.language == "python"}
    assert {page for page in pages if "/" not in page} == {"README.md"}
    indented = [found[0] for text in PAGES.values() for found in FENCE.finditer(text) if found[1]]
    assert indented == []  # those tests would miss them


def test_the_code_of_other_tracers_is_python():
    blocks = [block for block in BLOCKS if block.language == "py"]
    assert len(blocks) == 5
    for block in blocks:
        compile(block.text, block.page, "exec")


def test_each_table_is_one_table():
    broken = []
    for page, text in PAGES.items():
        for table in re.findall(r"(?:^\|.*\n?)+", FENCE.sub("", text), re.MULTILINE):
            rows = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
            if len(set(rows)) > 1 or not re.fullmatch(r"\|[-:| ]+\|", table.splitlines()[min(1, len(rows) - 1)]):
                broken.append((page, table[:60]))
    assert broken == []


# ---- links


def anchors(text):
    """Return the anchors of the headings of a page, as GitHub and MyST name them."""
    found = []
    for heading in re.findall(r"^#+ +(.*?) *$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(name if name not in found else f"{name}-{found.count(name)}")
    return set(found)


def links(text):
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))


@pytest.mark.parametrize("page", PAGES)
def test_each_link_within_the_project_leads_to_a_file_and_a_heading(page):
    dead = []
    for link in links(PAGES[page]):
        target, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        name = os.path.relpath(path, ROOT).replace(os.sep, "/")
        if not path.exists() or (anchor and anchor not in anchors(PAGES[name])):
            dead.append(link)
    assert dead == []


def test_links_and_anchors_are_found():
    text = "# One `two`\n## The *cost*, in all\n[a](b.md#c) ![d](e.svg)\n```\n# no\n[no](no)\n```\n`[no](no)`\n## One two\n"
    assert links(text) == ["b.md#c", "e.svg"]
    assert anchors(text) == {"one-two", "the-cost-in-all", "one-two-1"}


def texts():
    """Yield each text of the project, with its path."""
    folders = ("tracekit", "tests", "bench", "examples", "docs", ".github")
    kinds = {".py", ".md", ".pyx", ".pxi", ".pxd", ".yml", ".yaml"}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds]
    for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_each_page_that_a_text_names_exists():
    missing = {
        f"{path}: {name}"
        for path, text in texts()
        for name in re.findall(r"(?<![\w/.])docs/[\w/-]+\.(?:md|svg|png|py)", text)
        if not (ROOT / name).exists()
    }
    assert missing == set()


def test_no_text_installs_the_other_project_that_has_our_name():
    wrong = re.compile(r"pip install [^\n`]*(?<![\w/-])tracekit(?![\w-])|(?<![\w.-])tracekit\[[a-z]")
    assert wrong.search("pip install 'tracekit[otlp]'")
    assert not wrong.search("pip install 'tracekit-async[otlp]'")
    assert [(path, wrong.search(text)[0]) for path, text in texts() if path != HERE and wrong.search(text)] == []


# ---- docstrings


def docstring_blocks():
    """Yield the module and the code of each literal block in a docstring."""
    for path in sorted((ROOT / "tracekit").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                for block in re.findall(r"::\n\n((?: {4}.*\n|\n)+)", f"{text}\n"):
                    yield ".".join(path.relative_to(ROOT).with_suffix("").parts), textwrap.dedent(block)


def test_the_code_in_docstrings_runs(exporter):
    sent = []
    names = {
        "request": types.SimpleNamespace(headers={}),
        "value": b"7",
        "producer": types.SimpleNamespace(send=lambda *given, headers: sent.append((*given, headers))),
        "consumer": [types.SimpleNamespace(headers=[], timestamp=None)],
    }
    blocks = list(docstring_blocks())
    assert [module for module, _ in blocks] == ["tracekit._propagation", "tracekit.integrations.messages"]
    for module, code in blocks:
        exec(
            compile(code, module, "exec"), {"tracekit": tracekit, "messages": importlib.import_module(module), **names}
        )
    assert [span.name for span in exporter.spans] == ["request", "process orders"]
    assert [given for *given, _ in sent] == [["orders", b"7"]]


# ---- reference


def test_the_reference_of_the_command_line_is_that_of_its_parser():
    assert PAGES["docs/cli.md"] == commands.page(), "python -m docs.commands writes it"


# Names in the sources of integrations that are no attributes: messages of ASGI, keys of scopes and environments, modules.
NO_ATTRIBUTES = re.compile(
    r"(http|websocket)\.(disconnect|response\.(body|start|pathsend|zerocopysend)|accept|close|receive|send|http\..*)|tracekit\.(lifespan|route|span|integrations.*)"
)
ATTRIBUTE = re.compile(
    r"(celery|client|code|container|db|deployment|error|exception|host|http|k8s|messaging|network|os|process|queue|rpc|server|service|task|telemetry|thread|tracekit|url|user_agent|websocket)(\.[a-z0-9_]+)+"
)


def literals(*paths):
    """Return the names in the sources at *paths* that look like attributes."""
    files = [file for path in paths for file in ([path] if path.suffix else path.rglob("*.py"))]
    return {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ATTRIBUTE.fullmatch(node.value)
    }


def test_the_page_of_conventions_has_each_attribute_that_tracekit_sets():
    page = PAGES["docs/conventions.md"]
    package = ROOT / "tracekit"
    sources = [
        "integrations",
        "aio",
        "_resource.py",
        "_configure.py",
        "_handoffs",
        "processes.py",
        "exporters/flight.py",
        "_core/outcome.py",
    ]
    set_here = {
        name for name in literals(*(package / source for source in sources)) if not NO_ATTRIBUTES.fullmatch(name)
    } - {"celery.signals"}
    named = {name for name in re.findall(r"`([\w.]+)`", page) if ATTRIBUTE.fullmatch(name)}
    assert set_here - named == set()
    assert named - literals(package) == set()
    assert f"version {SEMANTIC_CONVENTIONS}" in page


def test_the_page_of_integrations_has_each_of_them():
    modules = {path.stem for path in (ROOT / "tracekit/integrations").glob("[a-z]*.py")}
    assert modules - set(re.findall(r"`([a-z_0-9]+)`", PAGES["docs/integrations.md"])) <= {"messages"}
    assert "`tracekit.integrations.messages`" in PAGES["docs/integrations.md"]


# ---- commands


def normal(output):
    """Return the lines of *output* without ids, times, bars, addresses and colours."""
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


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_page_about_the_viewer_can_be_followed(tmp_path):
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


@pytest.mark.slow
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
    with sqlite3.connect(f"file:{tmp_path / 'before.db'}?mode=ro", uri=True) as connection:
        slowest, errors, by_host = (connection.execute(query).fetchall() for query in queries.split(";")[:-1])
    assert slowest == [("4bf92f35" * 4, 200.0)]
    assert errors == [("/cart", 1)]
    assert by_host == [(socket.gethostname(), 1, 1)]
