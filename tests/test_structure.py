"""The architecture, tested: imports point down, every module stands alone, and what is public says so and is explained."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import tracekit

from .exporters.collector import Collector

PACKAGE = Path(tracekit.__file__).parent
REPOSITORY = Path(__file__).parent.parent

# From the bottom up: what stands in ``tracekit/``, folder or module. It may import the rows above its own, and of its own row
# nothing but itself. "|" joins what is one folder in two places: the extension is the compiled part of ``_core``.
LAYERS = [
    "_version",
    "_core|_speedups*",
    "wire",
    "_current _propagation _sampling _render",
    "_handoffs _export",
    "_environment",
    "_configure",
    "tracekit",
    "testing _testing threads processes",
    "aio pytest_plugin",
    "exporters integrations bridges debug",
    "demo",
    "cli",
    "__main__",
]
# Imports that close a circle, until scopes, context and spans are one source each and codecs have their own selector.
TEMPORARY = (
    ("_core.labels", "_core.twin"),
    ("_core.tracestate", "_core.twin"),
    ("_core.records", "_core.twin"),
    ("_core.otlp", "_core.span"),
    ("_core.scopes", "_core.span"),
)
# Nobody else imports the parts of a program, so their names need no order.
PROGRAMS = ["cli", "demo"]
# Who may import what is neither ours nor the standard library's.
THIRD_PARTIES = {
    "aio": {"anyio"},
    "aio.*": {"anyio"},
    "bridges._opentelemetry.*": {"opentelemetry"},
    "bridges.opentelemetry": {"opentelemetry"},
    "cli.screen": {"rich"},
    "demo.*": {"anyio", "httpx", "hypercorn", "starlette", "trio", "uvicorn"},
    "exporters._otlp.grpc": {"grpc"},
    "exporters._otlp.http": {"urllib3"},
    "integrations.httpx": {"httpx"},
    "pytest_plugin": {"pytest"},
    "_speedups*": {"cpython", "cython", "libc"},
}
# What makes an import slow, and is needed by nobody who only propagates.
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
CYTHON = {_name(path): path for path in sorted(PACKAGE.rglob("*.p[yx][xid]"))}
SOURCES = MODULES | CYTHON
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


def full(name):
    return f"tracekit.{name}".rstrip(".")


def layer(name):
    """The row of a module, and its folder or itself as the table has it."""
    top = name.partition(".")[0] or "tracekit"
    for number, row in enumerate(LAYERS):
        for entry in row.split():
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


def imports(name):
    """Every import of a source of the package, as (absolute name of the module, line)."""
    path = SOURCES[name]
    package = full(name) if path.name == "__init__.py" else full(name).rpartition(".")[0]
    text = path.read_text(encoding="utf-8")
    found = []
    for dots, module, names, line in (_python_imports if path.suffix == ".py" else _cython_imports)(text):
        base = module
        if dots:
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - len(dots) + 1] + ([module] if module else []))
        whole = [f"{base}.{part}" for part in names]
        found += [(part if part.removeprefix("tracekit.") in SOURCES else base, line) for part in whole or [base]]
    return found


def ours(name):
    """The imports of the package's own sources, as (name, line)."""
    return [
        (imported.removeprefix("tracekit").removeprefix("."), line)
        for imported, line in imports(name)
        if imported.partition(".")[0] == "tracekit"
    ]


@pytest.mark.parametrize("name", SOURCES, ids=full)
def test_imports_point_down(name):
    row, entry = layer(name)
    for other, line in ours(name):
        assert layer(other)[1] == entry or layer(other)[0] < row, (
            f"{SOURCES[name].name}:{line} imports {full(other)}, which is not below it"
        )


def circular(*cut):
    """Return the sources that are part of a circle of imports, or import one that is, without the imports *cut*."""
    left = {name: {other for other, _ in ours(name) if (name, other) not in cut} for name in SOURCES}
    while leaves := [name for name, others in left.items() if not others & left.keys()]:
        for name in leaves:
            del left[name]
    return sorted(left)


def test_no_imports_make_a_circle():
    assert circular(*TEMPORARY) == []


@pytest.mark.parametrize("arrow", TEMPORARY, ids=" -> ".join)
def test_each_temporary_import_closes_a_circle(arrow):
    assert circular(*[other for other in TEMPORARY if other != arrow])


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
    monkeypatch.setitem(SOURCES, "probe", path)
    assert {name for name, _ in ours("probe")} == set(expected)


@pytest.mark.parametrize("name", SOURCES, ids=full)
def test_third_parties_are_imported_by_the_modules_that_are_about_them_only(name):
    allowed = set().union(*[names for pattern, names in THIRD_PARTIES.items() if fnmatch.fnmatchcase(name, pattern)])
    for imported, line in imports(name):
        root = imported.partition(".")[0]
        assert root == "tracekit" or root in sys.stdlib_module_names or root in allowed, (
            f"{SOURCES[name].name}:{line} imports {root}"
        )


def test_only_the_selector_imports_a_twin():
    arrows = {(name, other) for name in MODULES for other, _ in ours(name)} - set(TEMPORARY)
    importers = {name for name, other in arrows if other in {"_core.span", "_speedups"}}
    assert importers == {"_core.twin"}


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


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in {"", "aio", "wire"}], ids=full)
def test_a_folder_imports_nothing(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr], "a docstring"


def run(program, **options):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fresh interpreter for each module takes too long without fork")
def test_every_module_imports_alone():
    names = [full(name) for name in MODULES if name != "__main__"]
    program = f"""
        import importlib, os, sys
        assert "tracekit" not in sys.modules
        for name in {names}:
            pid = os.fork()
            if pid == 0:
                try:
                    importlib.import_module(name)
                except BaseException as error:
                    print(name, repr(error), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
        """
    assert run(program) == ""


def test_import_tracekit_is_light():
    program = """
        import sys
        before = set(sys.modules)
        import tracekit
        print(*sorted(set(sys.modules) - before))
        """
    loaded = run(program).split()
    # What Cython makes by itself is in no file.
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
    """The names that a module makes public, with what they are."""
    module = importlib.import_module(full(name))
    return {public: getattr(module, public) for public in module.__all__}


def definitions(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


WITH_NAMES = [name for name in PUBLIC if definitions(name) or name == ""]


@pytest.mark.parametrize("name", WITH_NAMES, ids=full)
def test_all_names_what_is_public_in_a_sensible_order(name):
    names = list(public(name))
    if name.partition(".")[0] not in PROGRAMS:  # the parts of a program are nobody else's
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
    assert imported == set(tracekit.__all__)


# ---- the repository


# docs/testing.md is about tests: test_pytest_plugin.py runs them.
PAGES = [Path("README.md"), *sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "docs").glob("*.md"))]
PAGES.remove(Path("docs/testing.md"))


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_code_of_a_page_runs(tmp_path, path):
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    with Collector() as collector:
        program, sends = re.subn(r"http://localhost:4318\b", collector.url.removesuffix("/v1/traces"), program)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(collector.spans) == bool(sends)


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
