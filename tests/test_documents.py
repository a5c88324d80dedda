"""The documents: every link leads somewhere, every block of code runs, and every command prints what its page shows.

Blocks in Python run as programs in tests/test_structure.py, and are checked as types in tests/test_types.py. ``CHECKED``
lists all other blocks, with the test that runs each, or says what it is instead of a program.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import textwrap
import tomllib
import types
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

import tracekit
from docs import commands
from tracekit._version import SEMANTIC_CONVENTIONS

pytestmark = pytest.mark.one_form

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
FENCE = re.compile(r"^( *)```+(\S*)[^\n]*\n(.*?)^\1```+$", re.DOTALL | re.MULTILINE)
HERE = "tests/test_documents.py"
COMMANDS = "tests/test_documents_commands.py"
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
        "ENV OTEL_SERVICE_NAME=shop": "tests/test_run.py runs uvicorn --workers and gunicorn so",
        "otelcol-contrib --config": PEERS,
    },
    "docs/integrations.md": {"[project.entry-points": "tests/test_instrument.py installs such packages"},
    "docs/index.md": {"$ tracekit run -- uvicorn shop:app": f"the tutorial's: {COMMANDS}"},
    "docs/metrics.md": {"sum by (http_route)": PEERS},
    "docs/migrating.md": {
        "tracer = trace.get_tracer(__name__)": PEERS,
        "config = jaeger_client.Config": PEERS,
        "logfire.configure(": PEERS,
        "transaction = sentry_sdk.continue_trace": PEERS,
        'with tracer.trace("web.request"': PEERS,
    },
    "docs/propagation.md": {"checkout": "tests/test_examples.py"},
    "docs/store.md": {
        "$ tracekit traces list traces.db": COMMANDS,
        "-- The slowest requests": COMMANDS,
        "import pandas, sqlite3": PEERS,
    },
    "docs/testing.md": {"tracekit: root": "tests/test_pytest_plugin.py compares it"},
    "docs/tutorial.md": {
        "$ pip install": "the index is asked by tests/test_packaging.py alone",
        "$ OTEL_SERVICE_NAME=shop": COMMANDS,
        "$ curl http://127.0.0.1:8000/price/lantern": COMMANDS,
        "$ tracekit traces list": COMMANDS,
        "$ python warehouse.py": COMMANDS,
        "from fastapi.testclient import TestClient": COMMANDS,
    },
    "docs/ui.md": {"$ pip install": COMMANDS, "$ OTEL_TRACES_EXPORTER=otlp": COMMANDS},
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


def test_the_pages_of_docs_link_to_pages_of_docs():
    """Sphinx knows no other pages."""
    outside = {
        f"{page}: {link}"
        for page in PAGES
        if page.startswith("docs/")
        for link in links(PAGES[page])
        if re.fullmatch(r"\.\./[^:]*\.md(#.*)?", link)
    }
    assert outside == set()


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


def test_the_page_on_configuration_has_each_extra_with_its_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    table = PAGES["docs/configuration.md"].partition("## Extras")[2]
    rows = [row.strip("|").split("|") for row in table.splitlines() if row.startswith("| `")]
    extras = {name: packages.strip() for names, _, packages in rows for name in re.findall(r"`([^`]+)`", names)}
    assert extras.keys() == project["optional-dependencies"].keys()
    for name in ("cli", "ui", "otlp", "otlp-grpc", "aio", "otel", "opentracing", "asgi", "logging"):
        wanted = [re.match(r"[\w-]+", package)[0] for package in project["optional-dependencies"][name]]
        assert extras[name] == ", ".join(wanted)


def test_the_guide_for_contributors_has_each_target_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (demo .*)$", makefile, re.MULTILINE)[1].split())
    assert set(re.findall(r"`make ([\w-]+)", PAGES["CONTRIBUTING.md"])) == targets


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


def test_the_reference_has_each_public_module():
    public = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "tracekit").rglob("*.py")
        if re.search("^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    public = {name for name in public if "._" not in name} - {"tracekit.cython", "tracekit.pytest_plugin"}
    listed = re.findall(r"^\.\. automodule:: (\S+)$", PAGES["docs/reference.md"], re.MULTILINE)
    assert sorted(listed) == sorted(public)


def test_the_reference_of_the_command_line_is_that_of_its_parser():
    assert PAGES["docs/cli.md"] == commands.page(), "python -m docs.commands writes it"


# Names in the sources of integrations that are no attributes: messages of ASGI, keys of scopes and environments, modules.
NO_ATTRIBUTES = re.compile(
    r"(http|websocket)\.(client|disconnect|response\.(body|start|pathsend|zerocopysend)|accept|close|receive|send|http\..*)|tracekit\.(lifespan|route|span|integrations.*)"
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


@pytest.mark.slow
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
    } - {"celery.signals", "http.server"}
    named = {name for name in re.findall(r"`([\w.]+)`", page) if ATTRIBUTE.fullmatch(name)}
    assert set_here - named == set()
    assert named - literals(package) == set()
    assert f"version {SEMANTIC_CONVENTIONS}" in page


def test_the_page_of_integrations_has_each_of_them():
    modules = {path.stem for path in (ROOT / "tracekit/integrations").glob("[a-z]*.py")}
    assert modules - set(re.findall(r"`([a-z_0-9]+)`", PAGES["docs/integrations.md"])) <= {"messages"}
    assert "`tracekit.integrations.messages`" in PAGES["docs/integrations.md"]
