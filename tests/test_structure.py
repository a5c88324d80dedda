"""The architecture, tested: imports point down, every module stands alone, and what is public says so and is explained."""

from __future__ import annotations

import ast
import fnmatch
import functools
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tracekit
from tracekit import _plugins

from .exporters.collector import Collector

PACKAGE = Path(tracekit.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# The layers of ``tracekit/`` from the bottom up: a folder or module, and what it is for. It may import the layers below its
# own, and in its own layer only itself. "|" joins one folder in two places: the extension is a part of ``_core``.
# ``python -m tests.test_structure`` writes them into ARCHITECTURE.md.
LAYERS = [
    {
        "_forks": "calls in the child of a fork, also in the workers of uWSGI",
        "_version": "the version",
        "_plugins": "the parts that lower modules load by name: exporters, debug pages, the bridge; names only",
        "_words": "names of other tracers, and what to write instead",
        "cython": "stand-ins for the names of Cython that compiled files import, for where they run uncompiled",
    },
    {
        "_exits": "calls at the end of the process, also of children that end without atexit",
        "_libraries": "the libraries that can be instrumented: a table, and entry points",
    },
    {"_import_hook": "reports the imports of these libraries; under tracekit run, calls back at the first"},
    {
        "_core|_speedups*": "the model: contexts, scopes, spans, labels, tracestate, the buffer; codecs in C and in Python",
    },
    {"_distribution": "the name on the package index, and a clash with the package that has ours there"},
    {"wire": "the wire formats, one a file: from a carrier to a context and back; strict"},
    {"_carriers": "extract() and inject(): a carrier in all configured formats; lenient"},
    {
        "_current": "the current span, context and labels, and use_span(), use_context(), use_labels()",
        "_event_logs": "event_log(): the recent history of long-lived objects",
        "_propagation": "several formats at once",
        "_foreign": "OpenTelemetry's samplers and id generators, for configure()",
        "_sampling": "samplers, and the number of traces that a kept one stands for",
        "_render": "trees, durations and untrusted text for terminals",
        "_secrets": "names that denote secrets",
    },
    {
        "_arguments": "checks of the arguments of configure(), and of timeouts",
        "_handoffs": "traced, stream, capture, wrap, detached, deliveries, hooks",
        "_export": "the Exporter protocol, the pipeline's thread, and notices in the log",
    },
    {"_environment": "defaults for configure() from OpenTelemetry's environment variables"},
    {"_resource": "the resource: detectors of process, host, container, pod, and given attributes"},
    {"_configure": "configure(), and the life of the default tracer: flush, shutdown, statistics, exit, fork"},
    {"_signals": "flush before a signal ends the program"},
    {"_instrument": "instrument() and uninstrument(): integrations, or OpenTelemetry's instrumentors on the bridge"},
    {"tracekit": "the public names"},
    {
        "testing": "spans in memory, counting ids, a fake clock and trees as text, for tests",
        "_testing": "the leak detector of the pytest plugin",
        "threads": "the standard library's threads, pools and queue, with hand-offs",
        "processes": "pools of processes, with hand-offs both ways",
    },
    {
        "aio": "anyio's names, asyncio's queue and executor call, with hand-offs; tasks() and watch_loop()",
        "pytest_plugin": "a clean scope for each test, the fixture spans, strict mode",
    },
    {
        "exporters": "OTLP, SQLite, console, tail sampling; parts in _otlp/ and _sqlite/",
        "integrations": "servers, clients, RPC, databases, queues and logs: one library a file",
        "bridges": "other tracing libraries' APIs",
        "debug": "live pages about this process: requests, event logs, tasks, the loop",
    },
    {
        "metrics|_metrics": "RED metrics from finished spans, for OTLP and Prometheus; parts in _metrics/",
    },
    {
        "demo": "tracekit demo: three processes, two frameworks",
        "ui": "tracekit ui: an OTLP receiver in front of the SQLite store, and pages that show it",
    },
    {
        "cli": "the command line: one command a file; header/ and conform/ have several",
        "_site": "the sitecustomize that tracekit run puts into a program",
    },
    {"__main__": "python -m tracekit"},
]
# Only the command itself imports its modules, so they have no public names.
COMMANDS = {"cli", "demo", "ui"}
# The modules that may import packages outside the standard library.
THIRD_PARTIES = {
    "aio": {"anyio"},
    "aio.*": {"anyio"},
    "bridges._opentelemetry.*": {"opentelemetry"},
    "bridges._opentracing.*": {"opentracing"},
    "bridges.opentelemetry": {"opentelemetry"},
    "bridges.opentracing": {"opentracing"},
    "cli.main": {"shtab"},
    "cli.screen": {"rich"},
    "demo.*": {"anyio", "httpx", "hypercorn", "starlette", "trio", "uvicorn"},
    "demo.peer": {"anyio", "httpx", "opentelemetry"},
    "exporters._otlp.grpc": {"grpc"},
    "integrations.asgi": {"starlette"},
    "integrations._aiohttp_client": {"aiohttp", "yarl"},
    "integrations._aiohttp_server": {"aiohttp"},
    "integrations._grpc": {"grpc"},
    "integrations._grpc_aio": {"grpc"},
    "integrations._grpc_calls": {"grpc"},
    "integrations._grpc_handlers": {"grpc"},
    "integrations.aiohttp": {"aiohttp"},
    "integrations.arq": {"arq"},
    "integrations.celery": {"celery"},
    "integrations.grpc": {"grpc"},
    "integrations.httpx": {"httpx"},
    "integrations.httpx2": {"httpx2"},
    "integrations.sqlalchemy": {"sqlalchemy"},
    "integrations.taskiq": {"taskiq"},
    "integrations.loguru": {"loguru"},
    "integrations.structlog": {"structlog"},
    "pytest_plugin": {"pytest"},
    "ui.grpc": {"grpc"},
    "ui.pages": {"starlette"},
    "ui.receiver": {"starlette"},
    "ui.server": {"starlette", "uvicorn"},
}
# Without wheels for builds without the GIL, where the suite runs without them.
ABSENT = {name for name in ("grpc",) if importlib.util.find_spec(name) is None}
CYTHON = {"cpython", "cython", "libc"}  # in compiled sources; no Python file imports them
# Slow to import, and not needed to propagate.
HEAVY = {
    "anyio",
    "asyncio",
    "concurrent",
    "ctypes",
    "dataclasses",
    "email",
    "http",
    "json",
    "multiprocessing",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "trio",
    "unittest",
    "urllib",
    "uuid",
}


def _name(path):
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# A compiled module has two sources, ``.py`` and ``.pxd``, and imports what either imports.
SOURCES: dict[str, list[Path]] = {}
for _path in sorted(PACKAGE.rglob("*.p[yx]*")):
    if _path.suffix in {".py", ".pyx", ".pxd", ".pxi"}:
        SOURCES.setdefault(_name(_path), []).append(_path)
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


def full(name):
    return f"tracekit.{name}".rstrip(".")


def layer(name):
    """Return the number of a module's layer, and its entry there: its folder, or itself."""
    top = name.partition(".")[0] or "tracekit"
    for number, row in enumerate(LAYERS):
        for entry in row:
            if any(fnmatch.fnmatchcase(top, pattern) for pattern in entry.split("|")):
                return number, entry
    raise AssertionError(f"{full(name)} has no layer: give it one")


def _python_imports(text):
    """Every import of a Python source, those for type checkers and inside functions too: dots, module, names, line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield "", alias.name, [], node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level, node.module or "", [alias.name for alias in node.names], node.lineno


BY_NAME = {"__import__", "import_module", "resolve_name"}


def _called(node):
    """Return the name of the function that *node* calls, or None: "f" for ``f()`` and for ``module.f()``."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", getattr(function, "attr", None))


def _imports_by_name(text, package):
    """The modules of ours that a source which imports by name spells in a string: absolute name, and line.

    All strings of such a source count but its docstrings, because the name may be in a table. The constant beginning of an
    f-string names the folder of the module.
    """
    tree = ast.parse(text)
    if not any(_called(node) in BY_NAME for node in ast.walk(tree)):
        return
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            name = node.value.partition(":")[0].rstrip(".")
            if name.startswith("."):
                name = package + name
            if name.startswith("tracekit.") and name.removeprefix("tracekit.") in SOURCES:
                yield name, node.lineno


CYTHON_IMPORT = re.compile(
    r"""^[ \t]*(?:from\s+(?P<dots>\.*)(?P<base>[\w.]*)\s+c?import\s+(?P<names>\([^)]*\)|[^\n]*)
               |c?import\s+(?P<modules>[^\n]*)
               |include\s+["'](?P<file>[\w/]+)\.px[id]["'])""",
    re.MULTILINE | re.VERBOSE,
)


def _cython_imports(text):
    """The same of a Cython source, whose includes count as imports."""
    for match in CYTHON_IMPORT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        listed = re.sub(r"#.*|[()]", "", match["names"] or match["modules"] or "").split(",")
        names = [part.split()[0] for part in listed if part.strip()]
        if match["file"]:
            yield "", "tracekit." + match["file"].replace("/", "."), [], line
        elif match["modules"]:
            for name in names:
                yield "", name, [], line
        else:
            yield match["dots"], match["base"], names, line


@functools.cache
def _imports_in(path, package):
    """Return the imports of one source, as (absolute name of the module, file and line)."""
    found = []
    text = path.read_text(encoding="utf-8")
    for dots, module, names, line in (_python_imports if path.suffix == ".py" else _cython_imports)(text):
        base = module
        if dots:
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - len(dots) + 1] + ([module] if module else []))
        for whole in [f"{base}.{part}" for part in names] or [base]:
            known = whole.removeprefix("tracekit.") in SOURCES
            found.append((whole if known else base, f"{path.name}:{line}"))
    if path.suffix == ".py":
        found += [(whole, f"{path.name}:{line}") for whole, line in _imports_by_name(text, package)]
    return found


def imports(name):
    """Return every import of a module's sources, as (absolute name of the module, file and line)."""
    found = []
    for path in SOURCES[name]:
        package = full(name) if path.name == "__init__.py" else full(name).rpartition(".")[0]
        found += _imports_in(path, package)
    return found


def ours(name):
    """Return the imports of the package's own modules, as (name, file and line)."""
    return [
        (imported.removeprefix("tracekit").removeprefix("."), place)
        for imported, place in imports(name)
        if imported.partition(".")[0] == "tracekit"
    ]


@pytest.mark.parametrize("name", SOURCES, ids=full)
def test_imports_point_down(name):
    row, entry = layer(name)
    for other, place in ours(name):
        assert layer(other)[1] == entry or layer(other)[0] < row, (
            f"{place} imports {full(other)}, which is not below it"
        )


def test_no_imports_make_a_circle():
    left = {name: {other for other, _ in ours(name)} - {name} for name in SOURCES}  # a .pxd cimports its own .py's
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    assert sorted(left) == []  # modules in a circle, and those that import them


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "from ._core.records import (\n    Event as _Event,  # a comment, with a comma\n    Link,\n)",
            ("_core.records",),
        ),
        ("from . cimport _core", ("_core",)),
        ("from tracekit._core cimport records", ("_core.records",)),
        ("def f():\n    import tracekit._current, tracekit.wire.b3 as b3", ("_current", "wire.b3")),
        ("cimport tracekit._current", ("_current",)),
        ('include "_speedups_codecs.pxi"', ("_speedups_codecs",)),
    ],
)
def test_the_imports_of_cython_sources_are_found(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "probe.pyx"
    path.write_text(text)
    monkeypatch.setitem(SOURCES, "probe", [path])
    assert {name for name, _ in ours("probe")} == set(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import importlib\nimportlib.import_module('.debug._server', __package__)", {"debug._server"}),
        ("PAGES = 'tracekit.debug._server'\nimport_module(PAGES)", {"debug._server"}),
        ("__import__('tracekit.cli.main:main')", {"cli.main"}),
        ("import_module(f'.wire.{name}', __package__)", {"wire"}),
        ("PAGES = 'tracekit.debug._server'", set()),
        ("def f():\n    'tracekit.debug'\n    import_module(name)", set()),
        ("import_module('trio.lowlevel')", set()),
    ],
)
def test_imports_by_name_are_found(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "probe.py"
    path.write_text(f"from importlib import import_module\n{text}")
    monkeypatch.setitem(SOURCES, "probe", [path])
    assert {name for name, _ in ours("probe")} == expected


def test_the_parts_that_are_loaded_by_name_exist():
    for module, name in (*_plugins.EXPORTERS.values(), _plugins.DEBUG_PAGES, _plugins.BRIDGE):
        assert callable(getattr(importlib.import_module(module), name))


def test_the_imports_of_both_sources_of_a_compiled_module_are_found():
    places = {(other, place.partition(":")[0]) for other, place in ours("_core.scopes")}
    assert {("_core.interpreter", "scopes.py"), ("_core.interpreter", "scopes.pxd")} <= places


@pytest.mark.parametrize("name", SOURCES, ids=full)
def test_third_parties_are_imported_only_by_the_modules_that_are_about_them(name):
    allowed = set().union(*[names for pattern, names in THIRD_PARTIES.items() if fnmatch.fnmatchcase(name, pattern)])
    for imported, place in imports(name):
        root = imported.partition(".")[0]
        is_compiled = not place.partition(":")[0].endswith(".py")
        assert root in allowed | {"tracekit"} | sys.stdlib_module_names | (CYTHON if is_compiled else set()), place


def test_only_the_selector_imports_a_form_of_the_codecs():
    importers = set()
    for name, path in MODULES.items():
        for dots, module, names, _ in _python_imports(path.read_text(encoding="utf-8")):
            imported = {module.rpartition(".")[2], *names} if dots else set()
            if not name.endswith("_plain") and any(part == "_speedups" or part.endswith("_plain") for part in imported):
                importers.add(name)
    assert importers == {"_core.codecs"}


# ---- the picture in ARCHITECTURE.md


ARCHITECTURE = REPOSITORY / "ARCHITECTURE.md"
BEGIN, END = "<!-- written by `python -m tests.test_structure` -->", "<!-- end -->"


def picture():
    """Return the layers from the top down, a line for each folder and module that is there."""
    layers = []
    for row in LAYERS:
        lines = []
        for entry, purpose in row.items():
            top, _, more = entry.partition("|")
            file = "__init__.py" if top == "tracekit" else f"{top}.py"
            if (PACKAGE / top).is_dir():
                lines.append((f"{top}/ {more}", purpose))
            elif (PACKAGE / file).exists():
                lines.append((file, purpose))
        if lines:
            layers.append(lines)
    shown = [
        f"{number:2}  {name:<20}{purpose}"
        for number, lines in reversed(list(enumerate(layers, start=1)))
        for name, purpose in lines
    ]
    return "\n".join([BEGIN, "```", *shown, "```", END])


def test_the_picture_in_the_architecture_shows_the_layers():
    assert picture() in ARCHITECTURE.read_text(encoding="utf-8"), "python -m tests.test_structure writes it"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("demo.")])
def test_the_demo_hands_work_on_through_tracekit_alone(name):
    hands_on = {"create_task_group", "to_thread", "from_thread", "to_process", "create_memory_object_stream"}
    hands_on |= {"create_task", "gather", "TaskGroup", "run_in_executor", "open_nursery", "ThreadPoolExecutor"}
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in hands_on:
            assert ast.unparse(node.value) == "aio", f"{name}:{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "tracekit":
            assert not hands_on.intersection(alias.name for alias in node.names), f"{name}:{node.lineno}"


FOLDERS = sorted(name for name, path in MODULES.items() if path.name == "__init__.py")


@pytest.mark.parametrize(
    "name", [name for name in FOLDERS if name not in {"", "_core", "aio", "debug", "wire"}], ids=full
)
def test_a_folder_imports_nothing(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr], "a docstring"


def run(program, **options):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fresh interpreter for each module takes too long without fork")
def test_every_module_imports_alone():
    """Importing a module first imports ``tracekit``, so a child forked after that has imported nothing else of ours.

    What the modules import of others is loaded once before, for all. A module that needs an absent package says so.
    """
    names = [full(name) for name in MODULES if name != "__main__"]
    others = sorted({imported for name in MODULES for imported, _ in imports(name)} - set(map(full, SOURCES)))
    program = f"""
        import importlib, os, sys
        for name in {others}:
            try:
                importlib.import_module(name)
            except ImportError:
                pass
        assert "tracekit" not in sys.modules
        import tracekit
        for name in {names}:
            if name in sys.modules:
                continue
            pid = os.fork()
            if pid == 0:
                try:
                    importlib.import_module(name)
                except BaseException as error:
                    print(name, repr(error), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
        """
    needs = [(full(name), package) for name in MODULES for package in sorted(THIRD_PARTIES.get(name, set()) & ABSENT)]
    assert run(program) == "".join(
        f"{name} {ModuleNotFoundError(f'No module named {package!r}')!r}\n" for name, package in needs
    )


def test_import_tracekit_is_light():
    program = """
        import sys
        before = set(sys.modules)
        import tracekit
        print(*sorted(set(sys.modules) - before))
        """
    loaded = run(program).split()
    # Modules that Cython makes in memory have no file.
    roots = {name.partition(".")[0] for name in loaded if "cython" not in name} - {"tracekit"}
    assert sorted(roots - sys.stdlib_module_names) == []
    assert sorted(roots & HEAVY) == []
    names = {name.removeprefix("tracekit").removeprefix(".") for name in loaded if name.startswith("tracekit")}
    assert max(map(layer, names)) == layer("")


def test_import_tracekit_starts_nothing():
    program = """
        import atexit, logging, sys, threading
        before = threading.active_count(), atexit._ncallbacks(), logging.root.handlers[:]
        import tracekit
        print(before == (threading.active_count(), atexit._ncallbacks(), logging.root.handlers[:]))
        """
    assert run(program) == "True\n"


# ---- what is public


def public(name):
    """The names that a module makes public, or those of a command's part without an underscore, with what they are."""
    module = importlib.import_module(full(name))
    names = definitions(name) if name.partition(".")[0] in COMMANDS else module.__all__
    return {public: getattr(module, public) for public in names}


def definitions(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


WITH_NAMES = [name for name in PUBLIC if definitions(name) or name == ""]


@pytest.mark.parametrize("name", [name for name in WITH_NAMES if name.partition(".")[0] not in COMMANDS], ids=full)
def test_all_names_what_is_public_in_a_sensible_order(name):
    names = list(public(name))
    assert definitions(name) <= set(names)
    # Constants, then classes, then all else: as the linter sorts it.
    assert names == sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", WITH_NAMES, ids=full)
def test_every_public_name_has_a_docstring(name):
    for public_name, value in public(name).items():
        if not (inspect.isclass(value) or callable(value)):
            continue
        assert inspect.getdoc(value), f"{full(name)}.{public_name}"
        if not inspect.isclass(value) or not value.__module__.startswith("tracekit"):
            continue
        for attribute, member in vars(value).items():
            is_own = callable(member) or isinstance(member, property | classmethod | staticmethod)
            if is_own and not attribute.startswith("_"):
                assert inspect.getdoc(member), f"{full(name)}.{public_name}.{attribute}"


@pytest.mark.parametrize("name", MODULES, ids=full)
def test_every_module_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))


def test_what_tracekit_exports_is_what_it_imports():
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    private = {"explain"}
    assert imported - private == set(tracekit.__all__)


# ---- the repository


# docs/testing.md is about tests: test_pytest_plugin.py runs them.
PAGES = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").rglob("*.md"))]
PAGES.remove(Path("docs/testing.md"))


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_code_of_a_page_runs(tmp_path, path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    program = "\n".join(block for block in blocks if not any(f"import {name}\n" in block for name in ABSENT))
    with Collector() as collector:
        program, sends = re.subn(r"http://localhost:4318\b", collector.url.removesuffix("/v1/traces"), program)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(collector.spans) == bool(sends)


def test_the_readme_has_the_rows_of_the_page_on_performance_and_is_short():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 130
    page = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    measured = {tuple(cells(line)[:4]) for line in page.splitlines() if line.startswith("|")}
    rows = [
        cells(line)
        for line in text.partition("## The cost")[2].partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    assert len(rows) == 8
    assert {tuple(row) for row in rows[2:]} <= measured


def test_the_table_of_contents_has_every_page_once():
    text = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    entries = re.findall(
        r"^(\w+)$", "".join(re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)), re.MULTILINE
    )
    assert sorted(entries) == sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md") if path.stem != "index")


def test_the_reference_has_every_public_module_but_those_of_programs():
    text = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    found = re.findall(r"^\.\. automodule:: (.*)$", text, re.MULTILINE)
    folders = {"bridges", "exporters", "integrations"}
    wanted = {full(name) for name in WITH_NAMES if name.partition(".")[0] in folders}
    assert wanted <= set(found)
    assert len(found) == len(set(found))
    assert set(found) <= {full(name) for name in PUBLIC}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def texts():
    """Every text file of the repository that is, or would be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        paths = [REPOSITORY / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # an unpacked source distribution
        paths = [
            path for folder in ("tracekit", "tests", "bench", "docs") for path in (REPOSITORY / folder).rglob("*.*")
        ]
    for path in paths:
        try:
            yield path.relative_to(REPOSITORY), path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_text_names_a_place_on_somebodys_machine():
    homes = "|".join(["root", "home", "Users", "work", "private", "opt"])
    place = re.compile(rf"(?<![\w.:/*])/(?:{homes})/[\w.]|\b[A-Z]:\\Users\\")
    found = [f"{path}: {match.group()}" for path, text in texts() for match in place.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    "name", [name for name in tracekit.__all__ if hasattr(getattr(tracekit, name), "__qualname__")]
)
def test_public_objects_say_that_they_live_where_they_are_imported_from(name):
    assert getattr(tracekit, name).__module__ == "tracekit"


if __name__ == "__main__":
    before, _, rest = ARCHITECTURE.read_text(encoding="utf-8").partition(BEGIN)
    ARCHITECTURE.write_text(before + picture() + rest.partition(END)[2], encoding="utf-8")
