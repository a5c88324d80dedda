"""Threads that share a parent, and interpreters that run without the GIL."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import threading
from contextvars import copy_context
from pathlib import Path

import pytest

import tracekit
from tracekit import _configure
from tracekit._core import free_threading
from tracekit._core.buffer import buffer
from tracekit._core.changes import relabel
from tracekit._core.labels import Labels
from tracekit._core.span import set_observer, watch_spans
from tracekit._core.tracer import Tracer
from tracekit.testing import MemoryExporter

from .exporters.collector import Collector
from .tools import shared_parent, thread_stress

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
PACKAGE = Path(tracekit.__file__).parent
# In the list of modules whose functions run in a section: the names that Cython gives them in C.
GUARDED = set(re.findall(r"__PYX_HAVE__(\w+)", (PACKAGE / "_core" / "free_threading.pxd").read_text(encoding="utf-8")))
COMPILED = {
    "__".join(("tracekit", *path.relative_to(PACKAGE).with_suffix("").parts)): path.with_suffix(".py")
    for path in sorted(PACKAGE.rglob("*.pxd"))
    if path.with_suffix(".py").exists() and path.stem not in {"free_threading", "interpreter"}  # inlined
}
# Settings, which are kept for good when they are replaced.
REPLACED = {"tracekit___carriers", "tracekit___core__context"}


def test_threads_that_share_a_parent_which_ends_meanwhile_are_counted_exactly():
    spans = int(os.environ.get("TRACEKIT_TESTS_SHARED_SPANS", "1000"))
    assert shared_parent.race(8, spans) == []


def test_threads_write_read_end_and_leave_the_same_spans():
    turns = int(os.environ.get("TRACEKIT_TESTS_SHARED_SPANS", "1000")) // 4
    assert thread_stress.run(8, turns) == []


def test_the_implementation_is_one_that_is_safe_here():
    assert HAS_GIL or sys.version_info >= (3, 14) or tracekit.IMPLEMENTATION == "plain"


class Gate:
    """An exporter that takes nothing until ``is_open``."""

    def __init__(self):
        self.is_open = threading.Event()
        self.has_begun = threading.Event()
        self.ids = []

    def export(self, spans):
        self.has_begun.set()
        assert self.is_open.wait(60)
        self.ids += [span.context.span_id for span in spans]

    def shutdown(self):
        pass


def output_of(program, *arguments, **environ):
    """Run *program* in another process; return the words that it prints."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    environ = {**os.environ, **environ}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=PACKAGE.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def in_threads(count, work):
    """Let *count* threads do *work* at once; each gets its number."""
    errors = []
    start = threading.Barrier(count)

    def run(number):
        try:
            start.wait()
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_threads_fill_the_buffer_to_its_capacity_and_not_beyond():
    gate = Gate()
    tracekit.configure(exporter=gate, buffer_size=300, export_interval_s=3600.0)
    before = tracekit.statistics()

    def work(number):
        for _ in range(1000):
            tracekit.span("work").end()

    in_threads(6, work)
    assert gate.has_begun.wait(60)  # woken at half full, not by the interval
    in_threads(6, work)
    assert len(buffer) == 300
    gate.is_open.set()
    assert tracekit.flush(60)
    now = tracekit.statistics()
    exported = now.exported - before.exported
    assert (now.ended - before.ended, exported + now.dropped - before.dropped) == (12000, 12000)
    assert 451 <= exported == len(set(gate.ids)) < 1000


def test_spans_and_counts_of_threads_that_are_gone_are_kept():
    gate = Gate()
    gate.is_open.set()
    tracekit.configure(exporter=gate, buffer_size=10_000, export_interval_s=3600.0)
    before = tracekit.statistics()

    def work(number):
        for _ in range(number):
            with tracekit.span("work"):
                pass

    for _ in range(20):
        in_threads(9, work)  # which use the records of earlier ones
    now = tracekit.statistics()
    assert (now.started - before.started, now.ended - before.ended, now.queued - before.queued) == (720, 720, 720)
    assert tracekit.flush(60)
    assert len(set(gate.ids)) == 720


def test_a_span_of_another_thread_stays_the_current_one_and_the_parent_with_the_labels_that_it_has():
    tracekit.configure(exporter=MemoryExporter(), export_interval_s=3600.0)
    parent = tracekit.span("parent")
    relabelled = threading.Barrier(4)

    def record(number):
        for _ in range(5):
            with tracekit.span("child") as child:
                assert child.parent == parent.context
                assert tracekit.current_span() is child
            assert tracekit.current_span() is parent
            assert tracekit.current_context() == parent.context
        if relabelled.wait() == 0:
            relabel(parent, Labels({"tenant": "acme"}))
        relabelled.wait()
        for _ in range(5):
            with tracekit.span("child") as child:
                assert child.parent == parent.context
                assert child.context.labels == {"tenant": "acme"}

    with parent:
        contexts = [copy_context() for _ in range(4)]
        in_threads(4, lambda number: contexts[number].run(record, number))


def test_settings_change_while_threads_record_spans():
    tracekit.configure(exporter=MemoryExporter(), buffer_size=100_000, export_interval_s=3600.0)
    before = tracekit.statistics()
    seen = []

    class Counts:
        def started(self, span, parent):
            seen.append(span.context.span_id)

        def ended(self, span):
            pass

        def late(self, span, method):
            pass

    def work(number):
        for turn in range(500):
            if number == 0:
                set_observer(Counts() if turn % 2 else None)
                watch_spans(turn % 2 == 0)
            with tracekit.span("work", attributes={"turn": turn}) as span:
                span.set_attribute("number", number)
                assert span.attributes == {"turn": turn, "number": number}

    try:
        in_threads(4, work)
    finally:
        set_observer(None)
    now = tracekit.statistics()
    assert (now.started - before.started, now.ended - before.ended, now.open - before.open) == (2000, 2000, 0)
    assert len(seen) == len(set(seen)) >= 250


def test_settings_that_threads_change_at_once_are_all_in_force():
    tracekit.configure(exporter=MemoryExporter())
    lost = []

    def work(number):
        for turn in range(2000):
            if number == 0:
                _configure._use(Tracer(recording=True, resource={"turn": turn}))
                lost.extend([turn for _ in range(20) if _configure.tracer_in_use().resource != {"turn": turn}])
            elif number == 1 and turn % 10 == 0:
                take = [turn].count
                _configure.add_tap(take, records_all=False)
                lost.extend([take for _ in range(20) if take not in _configure._started().taps.taps])
                _configure.remove_tap(take)
            else:
                _configure.use_hooks(None)

    in_threads(5, work)
    assert (lost, _configure._started().taps.taps) == ([], ())


def test_threads_that_need_the_pipeline_first_have_the_same(monkeypatch):
    monkeypatch.setattr("atexit.register", lambda *_: None)
    for _ in range(300):
        monkeypatch.setattr(_configure, "_pipeline", None)
        found = []
        in_threads(4, lambda _, found=found: found.append(_configure._started()))
        assert set(found) == {_configure._started()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_the_child_of_a_fork_records_spans_while_the_parents_threads_did():
    program = """
        import os, sys, threading, warnings
        import tracekit
        warnings.simplefilter("ignore")
        class Ids:
            ids = []
            def export(self, spans):
                self.ids.extend([span.name for span in spans])
            def shutdown(self):
                pass
        tracekit.configure(exporter=Ids(), buffer_size=1000)
        stopped = threading.Event()
        def work():
            while not stopped.is_set():
                with tracekit.span("parent's", attributes={"key": "value"}):
                    pass
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                Ids.ids.clear()
                def record():
                    for _ in range(70):
                        with tracekit.span("child's"):
                            pass
                record()
                thread = threading.Thread(target=record)
                thread.start()
                thread.join()
                done = tracekit.flush(30)
                now = tracekit.statistics()
                counts = now.started, now.ended, now.exported
                os._exit(0 if done and Ids.ids == ["child's"] * 140 and counts == (140, 140, 140) else 1)
            _, status = os.waitpid(child, 0)
            if status:
                print("status", status)
        stopped.set()
        for thread in threads:
            thread.join()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.skipif(not HAS_GIL and tracekit.IMPLEMENTATION == "plain", reason="only C reaches the locks of objects")
def test_no_object_is_locked_in_the_child_by_a_thread_of_the_parent():
    """CPython hands the lock of a list over to a thread that waits for it, also while it stops all threads for a fork."""
    program = """
        import os, threading, warnings
        import tracekit
        warnings.simplefilter("ignore")
        kept = list(range(300_000))
        class Keeps:
            def export(self, spans):
                kept.append("exported")
            def shutdown(self):
                pass
        tracekit.configure(exporter=Keeps())
        stopped = threading.Event()
        def read():
            while not stopped.is_set():
                list(kept)
        threads = [threading.Thread(target=read) for _ in range(6)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                tracekit.span("child's").end()
                os._exit(0 if tracekit.flush(10) and kept[-1] == "exported" else 1)
            _, status = os.waitpid(child, 0)
            if status:
                print("status", status)
                break
        stopped.set()
    """
    assert output_of(program) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_locks_that_the_forking_thread_holds_are_its_own_in_the_child():
    program = """
        import os
        import tracekit
        class Forks:
            def sample(self, *_):
                children.append(os.fork())
                return True, ""
        class Keeps:
            names = []
            def export(self, spans):
                self.names.extend([span.name for span in spans])
            def shutdown(self):
                pass
        children = []
        tracekit.configure(exporter=Keeps(), sampler=Forks())
        def key(number):  # called while the list is locked; and the sampler, while no other thread is in the core
            if number == 0:
                tracekit.span("forks").end()
            return number
        numbers = [3, 0, 2, 1]
        numbers.sort(key=key)
        numbers.append(4)
        parent = tracekit.extract({"traceparent": f"00-{1:032x}-{2:016x}-01"})
        tracekit.span("next", parent=parent).end()
        done = tracekit.flush(10) and numbers == [0, 1, 2, 3, 4] and Keeps.names[-1] == "next"
        if children == [0]:
            os._exit(0 if done else 1)
        print(done, os.waitpid(children[0], 0)[1])
    """
    assert output_of(program) == ["True", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_thread_forks_while_others_record_and_no_id_is_drawn_twice():
    program = """
        import os, threading, warnings
        import tracekit
        from tracekit.testing import MemoryExporter
        warnings.simplefilter("ignore")
        memory = MemoryExporter()
        tracekit.configure(exporter=memory, buffer_size=1_000_000, export_interval_s=3600)
        def write_ids():
            os.write(1, "".join([f"{span.context.span_id}\\n" for span in memory.spans]).encode())
        def record():
            for _ in range(700):
                with tracekit.span("inner"):
                    pass
        def fork():
            with tracekit.span("open") as span:
                record()
                child = os.fork()
                if child == 0:
                    assert tracekit.current_context().is_remote
                    assert tracekit.current_context().span_id == span.context.span_id
                    record()
                    assert tracekit.flush(30) and tracekit.statistics()[:2] == (700, 700)
                    write_ids()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        threads = [threading.Thread(target=work) for work in (fork, record, record, record)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        write_ids()
    """
    ids = output_of(program)
    assert (len(ids), len(set(ids))) == (700 + 2801, 700 + 2801)


@pytest.mark.one_form
def test_compiled_modules_that_change_their_globals_have_one_thread_at_a_time():
    assert set(COMPILED) >= GUARDED
    changing = {
        name for name, path in COMPILED.items() if re.search(r"^ +global ", path.read_text("utf-8"), re.MULTILINE)
    }
    assert changing - GUARDED == REPLACED
    for name in REPLACED:
        assert "retire(" in COMPILED[name].read_text(encoding="utf-8")


@pytest.mark.one_form
@pytest.mark.parametrize("name", sorted(GUARDED))
def test_the_functions_of_a_guarded_module_begin_and_end_in_the_section(name):
    source = COMPILED[name].with_suffix(".c")
    if not source.exists():
        pytest.skip("no generated C beside the sources: the extensions were not built in place")
    text = source.read_text(encoding="utf-8")
    assert "  #define __Pyx_RefNannySetupContext(name, acquire_gil) TK_BEGIN(name)\n" in text
    assert "  #define __Pyx_RefNannyFinishContext() TK_END\n" in text


without_gil = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build for running without the GIL"
)


@pytest.fixture
def turns_gil_on(tmp_path):
    """The folder of an extension module that does not declare that it can run without the GIL."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "turns_gil_on.c"
    source.write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "turns_gil_on"};\n'
        "PyMODINIT_FUNC PyInit_turns_gil_on(void) { return PyModuleDef_Init(&module); }\n"
    )
    target = tmp_path / f"turns_gil_on{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    subprocess.run([compiler, "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(target)], check=True)
    return tmp_path


@without_gil
@pytest.mark.parametrize(("gil", "after"), [("0", "0"), ("1", "1"), ("", "1")], ids=["off", "on", "on in the middle"])
def test_counts_and_ids_are_right_with_the_gil_without_it_and_where_it_comes_back(gil, after, turns_gil_on):
    program = """
        import sys, threading, warnings
        import tracekit
        from tracekit.exporters.otlp import OTLPExporter
        warnings.simplefilter("ignore")
        tracekit.configure(exporter=OTLPExporter(sys.argv[1], environ={}), buffer_size=100_000)
        before = tracekit.IMPLEMENTATION
        half = threading.Barrier(5)
        def record():
            for turn in range(2000):
                with tracekit.span("outer"), tracekit.span("inner"):
                    pass
                if turn == 1000:
                    half.wait()
        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        half.wait()
        if sys.argv[2:]:
            sys.path.insert(0, sys.argv[2])
            import turns_gil_on
        for thread in threads:
            thread.join()
        assert tracekit.flush(60)
        assert tracekit.IMPLEMENTATION == before
        now = tracekit.statistics()
        print(int(sys._is_gil_enabled()), now.started, now.ended, now.exported, now.queued, now.dropped + now.failed)
    """
    folder = [] if gil else [str(turns_gil_on)]
    with Collector() as collector:
        words = output_of(program, collector.url, *folder, PYTHON_GIL=gil)
        spans = collector.spans
    assert words == [after, "16000", "16000", "16000", "0", "0"]
    outer = {span.span_id: span.trace_id for span in spans if span.name == "outer"}
    inner = {span.span_id: span for span in spans if span.name == "inner"}
    assert (len(spans), len(outer), len(inner), len({*outer, *inner})) == (16000, 8000, 8000, 16000)
    assert all(outer[span.parent_span_id] == span.trace_id for span in inner.values())


@without_gil
@pytest.mark.parametrize("gil", ["0", "1"])
def test_interpreters_with_their_own_gil_record_beside_the_main_one(gil):
    program = """
        import threading
        import _interpreters
        WORK = '''if True:
            import os
            import tracekit
            from tracekit.testing import MemoryExporter
            memory = MemoryExporter()
            tracekit.configure(exporter=memory, export_interval_s=3600)
            for _ in range(500):
                with tracekit.span("outer") as outer, tracekit.span("inner") as inner:
                    assert inner.parent == outer.context and tracekit.current_span() is inner
            assert tracekit.flush(60)
            now = tracekit.statistics()
            assert (now.started, now.ended, now.exported) == (1000, 1000, 1000), now
            words = [tracekit.IMPLEMENTATION, *[span.context.span_id for span in memory.spans]]
            os.write(1, "".join([word + chr(10) for word in words]).encode())
        '''
        numbers = [_interpreters.create() for _ in range(2)]
        def work(number):
            failed = _interpreters.exec(number, WORK)
            if failed is not None:
                print(failed)
        threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
        for thread in threads:
            thread.start()
        exec(WORK)
        for thread in threads:
            thread.join()
        for number in numbers:
            _interpreters.destroy(number)
    """
    words = output_of(program, PYTHON_GIL=gil)
    forms = [word for word in words if word in ("plain", "compiled")]
    assert sorted(forms) == sorted(["plain", "plain", tracekit.IMPLEMENTATION])
    assert (len(words), len(set(words) - set(forms))) == (3003, 3000)


@without_gil
def test_looks_at_a_loop_that_never_rests_do_not_crash_the_program():
    program = """
        import asyncio, threading
        import tracekit
        from tracekit import aio
        tracekit.configure()
        is_over = threading.Event()
        async def leaf(steps):
            for _ in range(steps):
                await asyncio.sleep(0)
        async def job(steps):
            with tracekit.span("job"):
                await leaf(steps)
        async def main():
            while not is_over.is_set():
                async with asyncio.TaskGroup() as group:
                    for steps in range(8):
                        group.create_task(job(steps))
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        most = 0
        for _ in range(3000):
            most = max(most, len([one for one in aio.tasks() if one.backend == "asyncio"]))
        is_over.set()
        thread.join()
        print(most)
    """
    assert output_of(program, PYTHON_GIL="0") == ["9"]


@without_gil
@pytest.mark.parametrize("gil", ["0", "1"])
def test_the_import_neither_warns_nor_turns_the_gil_on(gil):
    program = "import sys, tracekit; print(int(sys._is_gil_enabled()))"
    environ = {**os.environ, "PYTHON_GIL": gil}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False, env=environ
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, gil, "")


def test_a_call_that_waits_for_another_thread_lets_it_have_the_lock_of_what_it_interrupts():
    got = []

    def other():
        with free_threading._lock:
            got.append(True)

    @free_threading.unlocked
    def wait():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20)
        return list(got)

    with free_threading._lock, free_threading._lock:
        assert wait() == [True]
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        thread.join(0.1)
        assert got == [True]
    thread.join()
    assert wait() == [True] * 3


def test_at_the_recursion_limit_what_is_claimed_is_also_done():
    do = free_threading.indivisible(lambda thing: setattr(thing, "is_done", True))

    class Thing:
        is_claimed = is_done = False

    def dive(depth, thing):
        if depth:
            dive(depth - 1, thing)
        elif free_threading.claim(thing, "is_claimed"):
            do(thing)

    found = set()
    for depth in range(sys.getrecursionlimit() - 100, sys.getrecursionlimit()):
        thing = Thing()
        with contextlib.suppress(RecursionError):
            dive(depth, thing)
        found.add((thing.is_claimed, thing.is_done))
    assert found == {(False, False), (True, True)}
