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

# From the bottom up. A module may import what stands in a line above its own, and nothing beside or below it.
LAYERS = [
    ["_version", "_errors", "_render"],
    ["_records", "_attributes", "_outcome", "_notices"],
    ["_pure_codecs"],
    ["_pure_context"],
    ["_pure_otlp", "_pure_scopes"],
    ["_pure", "_speedups"],
    ["_accel"],
    ["_labels", "_tracestate"],
    ["wire"],
    ["wire.*"],
    ["_current", "_sampling", "_propagation", "_traced", "_handoff", "_pipeline"],
    ["_environment"],
    ["_delivery", "_hooks", "_tracer"],
    [""],
    ["testing", "threads", "processes", "_leaks"],
    ["aio._*"],
    ["aio.*"],
    ["aio"],
    ["pytest_plugin"],
    ["exporters", "integrations"],
    ["exporters._sqlite_file", "exporters._otlp_answers"],
    ["exporters._outbox"],
    ["exporters._*", "integrations._*"],
    ["exporters.*", "integrations.*"],
    ["debug", "debug.*"],
    ["_screen"],
    ["_trace_lines", "_doctor"],
    ["_dumps", "_header_words"],
    ["_header_faults", "_header_conversions"],
    ["_header"],
    ["_header_lines"],
    ["_conform_checks"],
    ["_conform"],
    ["cli"],
    ["__main__"],
    ["demo", "demo.*"],
]
# The parts of one program may import each other.
PROGRAMS = ["demo"]
# A command is looked up when it is called.
COMMANDS = {("cli", "demo.run")}
# Who may import what is neither ours nor the standard library's.
THIRD_PARTIES = {
    "aio": {"anyio"},
    "aio.*": {"anyio"},
    "_screen": {"rich"},
    "demo.*": {"anyio", "httpx", "hypercorn", "starlette", "trio", "uvicorn"},
    "exporters._otlp_grpc": {"grpc"},
    "exporters._otlp_http": {"urllib3"},
    "integrations.httpx": {"httpx"},
    "pytest_plugin": {"pytest"},
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
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]


def full(name):
    return f"tracekit.{name}".rstrip(".")


def layer(name):
    """The number of the layer of a module, from the bottom; the first line that names it."""
    for number, patterns in enumerate(LAYERS):
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            return number
    raise AssertionError(f"{full(name)} has no layer: give it one")


class Imports(ast.NodeVisitor):
    """Every import of a module but those for type checkers, as (absolute name, line)."""

    def __init__(self, name, path):
        self.package = full(name) if path.name == "__init__.py" else full(name).rpartition(".")[0]
        self.found = []
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node):
        names = {part.id for part in ast.walk(node.test) if isinstance(part, ast.Name)}
        # "TYPE_CHECKING or ..." is a choice at run time too.
        for child in node.orelse if names == {"TYPE_CHECKING"} else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_Import(self, node):
        self.found += [(alias.name, node.lineno) for alias in node.names]

    def visit_ImportFrom(self, node):
        base = node.module or ""
        if node.level:
            package = self.package.split(".")
            base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
        for alias in node.names:
            name = f"{base}.{alias.name}"
            is_module = name.removeprefix("tracekit.") in MODULES
            self.found.append((name if is_module else base, node.lineno))


def imports(name):
    return Imports(name, MODULES[name]).found


@pytest.mark.parametrize("name", MODULES, ids=full)
def test_imports_point_down(name):
    for imported, line in imports(name):
        if imported != "tracekit" and not imported.startswith("tracekit."):
            continue
        other = imported.removeprefix("tracekit").removeprefix(".")
        is_one_program = any(name.partition(".")[0] == other.partition(".")[0] == program for program in PROGRAMS)
        if is_one_program or (name, other) in COMMANDS:
            continue
        assert layer(other) < layer(name), f"{MODULES[name].name}:{line} imports {imported}, which is not below it"


@pytest.mark.parametrize("name", MODULES, ids=full)
def test_third_parties_are_imported_by_the_modules_that_are_about_them_only(name):
    allowed = set().union(*[names for pattern, names in THIRD_PARTIES.items() if fnmatch.fnmatchcase(name, pattern)])
    for imported, line in imports(name):
        root = imported.partition(".")[0]
        assert root == "tracekit" or root in sys.stdlib_module_names or root in allowed, (
            f"{MODULES[name].name}:{line} imports {root}"
        )


def test_only_the_selector_imports_a_twin():
    twins = {"tracekit._core.span", "tracekit._speedups"}
    importers = {name for name in MODULES if any(imported in twins for imported, _ in imports(name))}
    assert importers == {"_accel"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("demo.")])
def test_the_demo_hands_work_on_through_tracekit_alone(name):
    hands_on = {"create_task_group", "to_thread", "from_thread", "to_process", "create_memory_object_stream"}
    hands_on |= {"create_task", "gather", "TaskGroup", "run_in_executor", "open_nursery", "ThreadPoolExecutor"}
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in hands_on:
            assert ast.unparse(node.value) == "aio", f"{name}:{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module != "tracekit":
            assert not hands_on.intersection(alias.name for alias in node.names), f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", ["exporters", "integrations"])
def test_packages_of_one_file_each_import_nothing(name):
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
    ours = {name.removeprefix("tracekit").removeprefix(".") for name in loaded if name.startswith("tracekit")}
    assert max(map(layer, ours)) == layer("")


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
