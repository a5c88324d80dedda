"""What ``import tracekit`` loads, and when the rest follows: never on the path of a span, a signal handler or an exit."""

from __future__ import annotations

import ast
import compileall
import copy
import inspect
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import typing
from pathlib import Path

import pytest

import tracekit
from tracekit._core import outcome, records, stdlib
from tracekit._core.stdlib import NamedTuple

# Adding a module makes every program's start longer, by 0.1 ms if it is small. `python -m bench.startup` measures it.
EAGER = {
    "tracekit",
    "tracekit._arguments",
    "tracekit._configure",
    "tracekit._core",
    "tracekit._core.attributes",
    "tracekit._core.buffer",
    "tracekit._core.checks",
    "tracekit._core.codecs",
    "tracekit._core.context",
    "tracekit._core.errors",
    "tracekit._core.free_threading",
    "tracekit._core.guard",
    "tracekit._core.inherited",
    "tracekit._core.labels",
    "tracekit._core.log",
    "tracekit._core.misuse",
    "tracekit._core.outcome",
    "tracekit._core.records",
    "tracekit._core.scopes",
    "tracekit._core.span",
    "tracekit._core.stack",
    "tracekit._core.stdlib",
    "tracekit._core.tracer",
    "tracekit._core.tracestate",
    "tracekit._forks",
    "tracekit._version",
}
FORM = {
    "compiled": {"tracekit._speedups", "cython_runtime"},
    "plain": {
        "tracekit._core.carriers_plain",
        "tracekit._core.codecs_plain",
        "tracekit._core.ids_plain",
        "tracekit._core.interpreter",
        "tracekit._core.items_plain",
        "tracekit._core.octets_plain",
        "tracekit.cython",
        "_struct",
        "struct",
    },
}
# Of the standard library; all but the first are in C. Before 3.13 some are shared libraries, and others in the executable.
STANDARD = {"__future__", "_collections", "_contextvars", "_operator", "atexit", "gc", "itertools"}


def run(program, *options, **settings):
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **settings},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# The imports of the package as they are, and as those of all modules are with an option of Python 3.15.
imports = pytest.mark.parametrize("options", [(), ("-X", "lazy_imports=all")][: 1 + (sys.version_info >= (3, 15))])


def loaded(program):
    """Return the modules that *program* loads in a Python without site-packages, where nothing else loads any."""
    found = run(
        f"""
        import os, sys
        sys.path.insert(0, {str(Path(tracekit.__file__).parent.parent)!r})
        before = set(sys.modules)
        {program}
        print(*set(sys.modules) - before)
        """,
        "-S",
    )
    return set(found.split())


def test_importing_tracekit_loads_these_modules_and_no_other():
    found = {name for name in loaded("import tracekit") if not name.startswith("_cython_")}
    assert found - STANDARD == EAGER | FORM[tracekit.IMPLEMENTATION]


@pytest.fixture
def copied(tmp_path):
    """A folder with a copy of the package's Python files."""
    package = Path(tracekit.__file__).parent
    for source in package.rglob("*.py"):
        copy = tmp_path / "tracekit" / source.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    return tmp_path


def bytecode(folder):
    assert compileall.compile_dir(folder, quiet=2, legacy=True)
    for source in folder.rglob("*.py"):
        source.unlink()
    return folder


def archive(folder):
    return shutil.make_archive(str(folder / "archive"), "zip", folder, "tracekit")


@pytest.mark.parametrize("pack", [archive, bytecode])
def test_the_package_is_whole_in_an_archive_and_without_its_sources(pack, copied):
    found = run(
        f"""
        import sys
        sys.path.insert(0, {str(pack(copied))!r})
        import tracekit, tracekit.aio
        tracekit.instrument("logging")
        print(tracekit.__file__, tracekit.aio.create_task_group.__module__)
        """,
        TRACEKIT_NO_EXTENSIONS="1",
    )
    assert found.startswith(str(copied))


def test_the_modules_that_are_loaded_import_nothing_else_before_they_are_needed():
    """``typing``, say, may have been loaded by another module before."""
    names = EAGER | {name for name in FORM[tracekit.IMPLEMENTATION] if name.startswith("tracekit.")}
    roots = {"_thread", "os", "sys", "time", "_weakref", "_collections_abc", "struct"} | STANDARD
    for name in names - {"tracekit._speedups"}:
        source = Path(sys.modules[name].__file__).with_suffix("")
        source = source.with_name(source.name.partition(".")[0]).with_suffix(".py")
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            for imported in [node] if isinstance(node, ast.Import | ast.ImportFrom) else []:
                given = imported.names[0].name if isinstance(imported, ast.Import) else imported.module
                assert getattr(imported, "level", 0) or given in roots, f"{name}:{node.lineno}"


@pytest.mark.parametrize("configure", ["", "tracekit.configure(service='shop', exporter=Keep(), environ={})"])
def test_no_span_imports_anything(configure):
    program = f"""
        import sys, tracekit
        class Keep:
            export = shutdown = lambda self, *_: None
        {configure}
        before = set(sys.modules)
        with tracekit.span("first", attributes={{"a": 1}}) as span:
            assert tracekit.current_span() is span
            span.set_attribute("b", [1]), span.add_event("c"), span.add_link(span.context), span.set_status("ok")
            tracekit.span("child", kind="client", parent=span.context).end()
            try:
                with tracekit.span("fails"):
                    1 / 0
            except ZeroDivisionError:
                pass
        span.attributes, span.events, span.status, span.links, repr(span)
        print(*sorted(set(sys.modules) - before))
        """
    # By the text of the stack, as Python's own.
    by_stacks = run(
        "import sys; before = set(sys.modules); import linecache, tokenize; print(*set(sys.modules) - before)"
    )
    assert set(run(program).split()) <= set(by_stacks.split())


# ---- the names that come later


def test_each_public_name_is_there_at_once_or_in_the_table():
    tree = ast.parse(Path(tracekit.__file__).read_text(encoding="utf-8"))
    for_checkers = next(node for node in tree.body if isinstance(node, ast.If))
    listed = {f".{node.module}": tuple(alias.name for alias in node.names) for node in for_checkers.body}
    assert listed == tracekit._LATER


def test_all_names_come_with_a_star_and_with_dir():
    program = """
        import tracekit
        assert "wrap" not in vars(tracekit)
        assert {*tracekit.__all__} <= {*dir(tracekit)}
        from tracekit import *
        print(*sorted(set(tracekit.__all__) - set(globals())))
        assert tracekit.wrap is wrap and vars(tracekit)["wrap"] is wrap
        """
    assert run(program).split() == []


@imports
def test_a_later_name_says_that_it_lives_here_and_pickles(options):
    program = """
        import pickle, tracekit
        for name in tracekit.__all__:
            value = getattr(tracekit, name)
            assert not hasattr(value, "__qualname__") or value.__module__ == "tracekit", name
        assert pickle.loads(pickle.dumps(tracekit.Ratio)) is tracekit.Ratio
        assert b"_sampling" not in pickle.dumps(tracekit.Ratio(0.5))
        """
    assert run(program, *options) == ""


def test_what_the_program_sets_in_place_of_a_name_stays_as_it_is():
    program = """
        import contextlib, tracekit
        class Own:
            def method(self): ...
        tracekit.wrap = tracekit.stream = own = Own().method  # its __module__ cannot be set
        tracekit.span = contextlib.nullcontext
        tracekit.capture, tracekit.traced
        assert tracekit.wrap is own and tracekit.stream is own
        assert contextlib.nullcontext.__module__ == "contextlib"
        """
    assert run(program) == ""


def test_threads_that_use_a_later_name_at_once_get_one_object():
    program = """
        import threading, tracekit
        barrier, found = threading.Barrier(8), []
        def use():
            barrier.wait()
            found.append((tracekit.traced, tracekit.use_labels, tracekit.extract))
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert len(found) == 8 and len({tuple(map(id, names)) for names in found}) == 1
        """
    assert run(program) == ""


# ---- exits, forks and signals


def test_the_first_span_may_begin_at_exit_and_in_a_finalizer_of_the_last_moment():
    program = """
        import atexit, sys, tracekit
        class Late:
            def __del__(self, span=tracekit.span, current=tracekit.current_span, out=sys.stdout):
                with span("late") as made:
                    out.write(f"late {current() is made} {tracekit.flush(), tracekit.shutdown()}\\n")
        late = Late()
        def leave():
            with tracekit.span("exit"), tracekit.use_labels(a="b"):
                print("exit", *tracekit.current_labels())
        atexit.register(leave)
        """
    assert run(program).splitlines() == ["exit a", "late True (True, True)"]


def test_a_span_that_fails_at_the_last_moment_does_not_need_the_import_of_what_describes_it():
    program = """
        import sys, tracekit
        class Keep:
            export = shutdown = lambda self, *_: None
        tracekit.configure(exporter=Keep(), environ={}, strict=False)
        class Late:
            def __del__(self, span=tracekit.span, out=sys.stdout):
                try:
                    with span("late") as made:
                        made.set_attribute(1, object())
                        raise ValueError("late")
                except ValueError:
                    out.write(f"{sys is None or sys.meta_path} {made.status} {made.events[0].attributes['exception.type']}\\n")
        late = Late()
        """
    assert run(program).splitlines() == ["None Status(code='error', description='ValueError: late') ValueError"]


def test_a_first_span_of_a_daemon_thread_that_python_ends_says_nothing():
    program = """
        import threading, tracekit
        started = threading.Event()
        def work():
            started.set()
            while True:
                with tracekit.span("work"):
                    tracekit.current_span().set_attribute("a", 1)
        threading.Thread(target=work, daemon=True).start()
        started.wait()
        """
    assert run(program) == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@imports
def test_a_child_of_a_fork_takes_ids_of_its_own_without_configure(options):
    program = """
        import os, tracekit
        tracekit.span("before").end()
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.write(writer, tracekit.span("child").context.trace_id.encode())
            os._exit(0)
        mine = tracekit.span("parent").context.trace_id
        os.wait()
        assert len(mine) == 32 and os.read(reader, 99).decode() != mine
        """
    assert run(program, *options) == ""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of POSIX")
def test_a_signal_handler_may_flush_while_configure_imports():
    """Each import inside ``configure()`` is interrupted by a handler that flushes, ends a span, and shuts down."""
    program = """
        import builtins, os, signal, sys, tracekit
        calls = []
        def handle(*_):
            with tracekit.span("in a handler"):
                calls.append((tracekit.flush(), tracekit.shutdown()))
        signal.signal(signal.SIGUSR1, handle)
        usual = builtins.__import__
        def interrupted(name, *args):
            os.kill(os.getpid(), signal.SIGUSR1)
            return usual(name, *args)
        builtins.__import__ = interrupted
        tracekit.configure(environ={})
        builtins.__import__ = usual
        assert len(calls) > 20 and set(calls) == {(True, True)}, calls
        """
    assert run(program) == ""


# ---- named tuples without typing and collections


class Usual(typing.NamedTuple):
    name: str
    size: int = 3


class Light(NamedTuple):
    name: str
    size: int = 3


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind("a"),
        lambda kind: kind(size=1, name="a")._asdict(),
        lambda kind: kind("a", 1) == ("a", 1) == kind._make(["a", 1]),
        lambda kind: hash(kind("a")),
        lambda kind: kind("a")._replace(size=4),
        lambda kind: kind("a")._replace(color=4),
        lambda kind: kind("a", 1, 2),
        lambda kind: kind(),
        lambda kind: kind("a", color=1),
        lambda kind: kind._make(["a"]),
        lambda kind: (kind._fields, kind._field_defaults, kind.__match_args__, kind.__slots__),
        lambda kind: kind.name.__get__(kind("a")),
        lambda kind: setattr(kind("a"), "name", "b"),
        lambda kind: setattr(kind("a"), "color", "b"),
        lambda kind: kind("a").__getnewargs__(),
        lambda kind: copy.deepcopy(kind("a")),
        lambda kind: pickle.loads(pickle.dumps(kind("a"))) == kind("a"),
        lambda kind: inspect.signature(kind).parameters.keys(),
        lambda kind: typing.get_type_hints(kind),
    ],
)
def test_a_named_tuple_is_like_those_of_typing(use):
    found = []
    for kind in (Usual, Light):
        try:
            found.append(str(use(kind)))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    usual, light = found
    assert light.replace("Light", "Usual") == usual


def test_the_getters_of_named_tuples_work_without_those_of_c():
    source = Path(stdlib.__file__).read_text(encoding="utf-8").replace('"_tuplegetter"', '"_missing"')
    names = {"__name__": "other"}
    exec(compile(source, "other", "exec"), names)
    made = names["_Fields"]("Pair", (names["NamedTuple"],), {"__annotations__": {"a": int, "b": int}, "b": 2})(1)
    assert (made.a, made.b) == (1, 2)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(records).values() if isinstance(kind, type) and hasattr(kind, "_fields")]
)
def test_records_are_tuples_with_a_description(kind):
    assert issubclass(kind, tuple)
    assert kind.__doc__
    assert typing.get_type_hints(getattr(tracekit, kind.__name__, kind)).keys() == {*kind._fields}
    assert all(inspect.getdoc(getattr(kind, field)) for field in kind._fields)
    assert not hasattr(tuple.__new__(kind, ()), "__dict__")


def test_an_outcome_pickles():
    made = outcome.Outcome("error", "ValueError")
    assert pickle.loads(pickle.dumps(made)) == made
