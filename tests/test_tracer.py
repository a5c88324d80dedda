"""``configure()`` and the life of a process: flush, shutdown, statistics, exit, fork and multiprocessing."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import tracekit
from tracekit import AlwaysOn, Limits
from tracekit.testing import MemoryExporter
from tracekit.wire import w3c

# ---- configure


class Async:
    async def export(self, spans): ...

    def shutdown(self): ...


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"service": b"shop"}, TypeError, "service must be str, not bytes"),
        ({"resource": [("a", 1)]}, TypeError, "resource must be a mapping, not list"),
        ({"resource": {1: 1}}, TypeError, "resource must have str keys, not int"),
        ({"exporter": Async()}, TypeError, r"export\(\) of the exporter must not be a coroutine function"),
        ({"exporter": print}, TypeError, r"exporter must have export\(\) and shutdown\(\)"),
        ({"exporter": "jaeger"}, ValueError, "exporter must be 'otlp', 'sqlite', 'console' or an exporter"),
        ({"exporter": MemoryExporter}, TypeError, "exporter must be an instance|exporter must have"),
        ({"sampler": 0.5}, TypeError, "sampler must be a sampler"),
        ({"sampler": "always_on"}, TypeError, "sampler must be a sampler"),
        ({"sampler": AlwaysOn}, TypeError, "sampler must be a sampler"),
        ({"formats": w3c.TRACECONTEXT}, TypeError, "formats must be a sequence"),
        ({"formats": "w3c"}, TypeError, "formats must be a sequence"),
        ({"formats": ["w3c"]}, ValueError, "formats must hold formats, or names such as"),
        ({"formats": [w3c]}, TypeError, "formats must hold formats such as"),
        ({"limits": {"attributes": 1}}, TypeError, r"limits must be tracekit\.Limits, not dict"),
        ({"limits": (1, 1, 1, 1)}, TypeError, r"limits must be tracekit\.Limits, not tuple"),
        ({"limits": Limits(attributes="1")}, TypeError, "limits"),
        ({"limits": Limits(events=-1)}, ValueError, "limits"),
        ({"limits": Limits(value_length=None)}, TypeError, "limits"),
        ({"buffer_size": "16"}, TypeError, "buffer_size must be int, not str"),
        ({"buffer_size": True}, TypeError, "buffer_size must be int, not bool"),
        ({"buffer_size": 1}, ValueError, "buffer_size must be 2 to"),
        ({"buffer_size": 1 << 40}, ValueError, "buffer_size must be 2 to"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be int, not float"),
        ({"batch_size": 0}, ValueError, "batch_size must be 1 to"),
        ({"environ": [("a", "b")]}, TypeError, "environ must be a mapping, not list"),
        ({"environ": {"OTEL_SERVICE_NAME": b"shop"}}, TypeError, "environ must hold str, not bytes: OTEL_SERVICE_NAME"),
        ({"export_interval_s": "1"}, TypeError, "export_interval_s must be a number, not str"),
        ({"export_interval_s": 0}, ValueError, "export_interval_s must be above 0"),
        ({"export_interval_s": -1}, ValueError, "export_interval_s must be above 0"),
        ({"export_interval_s": float("nan")}, ValueError, "export_interval_s must be above 0"),
        ({"export_interval_s": float("inf")}, ValueError, "export_interval_s must be above 0"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value))[:60] if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_and_changes_nothing(arguments, error, words, exporter):
    with pytest.raises(error, match=words):
        tracekit.configure(**arguments)
    with tracekit.span("still recorded") as span:
        pass
    assert exporter.spans == [span]
    assert span.resource["service.name"] == "test"


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown])
@pytest.mark.parametrize("wrong", ["5", None, [1]])
def test_a_wrong_deadline_is_named(call, wrong, exporter):
    with pytest.raises(TypeError, match="timeout_s must be"):
        call(wrong)


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown])
@pytest.mark.parametrize("deadline", [-1, 0, 0.0])
def test_a_deadline_that_has_passed_is_no_error(call, deadline, exporter):
    tracekit.span("job").end()
    assert call(deadline) in {True, False}


def test_the_resource_is_on_every_span():
    tracekit.configure(
        service="shop", resource={"a": 1, "b": [1], "c": None, "d": "x" * 10_000}, exporter=MemoryExporter()
    )
    with tracekit.span("job") as span:
        pass
    assert span.resource["service.name"] == "shop"
    assert (span.resource["a"], span.resource["b"]) == (1, (1,))
    assert "c" not in span.resource
    assert len(span.resource["d"]) == Limits().value_length
    assert span.resource["telemetry.sdk.name"] == "tracekit"
    with pytest.raises(TypeError):
        span.resource["e"] = 1


def test_the_service_may_be_named_in_the_resource():
    tracekit.configure(resource={"service.name": "shop", "telemetry.sdk.name": "ours"}, exporter=MemoryExporter())
    assert tracekit.span("job").resource["service.name"] == "shop"


def test_formats_are_those_that_are_read_and_written(exporter):
    carrier = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": "k=v"}
    tracekit.configure(exporter=exporter, formats=[w3c.BAGGAGE])
    context = tracekit.extract(carrier)
    assert (context.is_valid, context.labels) == (False, {"k": "v"})
    tracekit.configure(exporter=exporter, formats=[])
    assert tracekit.extract(carrier) is None
    tracekit.configure(exporter=exporter)
    assert tracekit.extract(carrier).is_valid


def test_configure_may_be_called_while_spans_are_open():
    first, second = MemoryExporter(), MemoryExporter()
    tracekit.configure(service="first", exporter=first)
    with tracekit.span("outer") as outer:
        tracekit.configure(service="second", exporter=second)
        with tracekit.span("inner") as inner:
            assert inner.parent == outer.context
        assert tracekit.current_span() is outer
    assert [span.name for span in second.spans] == ["inner", "outer"]
    assert (outer.resource["service.name"], inner.resource["service.name"]) == ("first", "second")
    assert first.is_shut_down
    assert first.spans == []


def test_the_limits_of_a_span_are_those_it_started_with():
    tracekit.configure(exporter=MemoryExporter(), limits=Limits(attributes=1))
    span = tracekit.span("job")
    tracekit.configure(exporter=MemoryExporter())
    span.set_attributes({"a": 1, "b": 2})
    assert (len(span.attributes), span.dropped_attributes) == (1, 1)
    span.end()


def test_the_same_exporter_may_be_configured_again(exporter):
    with tracekit.span("one"):
        tracekit.configure(exporter=exporter)
    with tracekit.span("two"):
        pass
    assert [span.name for span in exporter.spans] == ["one", "two"]


# ---- statistics


def test_statistics_say_where_every_span_went(exporter):
    gc.collect()  # spans that earlier tests left in cycles end now, not in between
    before = tracekit.statistics()

    def since():
        return [now - then for now, then in zip(tracekit.statistics()[:8], before[:8], strict=True)]

    open_span = tracekit.span("open")
    tracekit.span("ended").end()
    assert tracekit.flush(60)
    assert since() == [2, 1, 1, 1, 0, 0, 0, 0]  # started ended open exported queued dropped failed unsampled
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    tracekit.span("unsampled").end()
    assert since() == [3, 2, 1, 1, 0, 0, 0, 1]
    tracekit.shutdown(60)
    open_span.end()
    assert since() == [3, 3, 0, 1, 0, 1, 0, 1]
    tracekit.configure()
    tracekit.span("without exporter").end()
    assert since() == [4, 4, 0, 1, 0, 1, 0, 2]


def test_statistics_have_names():
    assert tracekit.Statistics._fields == (
        "started",
        "ended",
        "open",
        "exported",
        "queued",
        "dropped",
        "failed",
        "unsampled",
        "misused",
    )


# ---- ids


def test_seeding_random_repeats_no_id():
    seen = set()
    for _ in range(50):
        random.seed(1)
        with tracekit.span("job", parent=tracekit.ROOT) as span:
            seen.add((span.context.trace_id, span.context.span_id))
    assert len(seen) == len({trace_id for trace_id, _ in seen}) == 50


def test_ids_never_repeat_across_threads():
    seen = [[] for _ in range(4)]
    barrier = threading.Barrier(4)

    def work(mine):
        barrier.wait()
        mine += [tracekit.span("job", parent=tracekit.ROOT).context.id for _ in range(5000)]

    threads = [threading.Thread(target=work, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [id for mine in seen for id in mine]
    assert len({id[:16] for id in ids}) == len({id[16:] for id in ids}) == 20_000


def test_a_new_trace_says_that_its_id_is_random(exporter):
    with tracekit.span("root") as root, tracekit.span("child") as child:
        assert root.context.flags == child.context.flags == 3


# ---- processes

LINES = """
    import os, sys
    import tracekit

    class Lines:
        '''Write a line for every span, in one write, whichever process it is.'''

        def export(self, spans):
            for span in spans:
                parent = "root" if span.parent is None else ("remote" if span.parent.is_remote else "local")
                os.write(1, f"{span.name} {parent} {span.status.code}\\n".encode())

        def shutdown(self):
            os.write(1, b"shutdown\\n")
"""


def run(program, *, code=0, stderr="", tmp_path=None):
    """Run *program* after LINES, and return what it wrote, line by line."""
    text = textwrap.dedent(LINES) + textwrap.dedent(program)
    if tmp_path is None:
        command = [sys.executable, "-W", "ignore", "-c", text]
    else:  # multiprocessing looks for the main module's file
        (tmp_path / "program.py").write_text(text)
        command = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert stderr in done.stderr if stderr else done.stderr == ""
    assert done.returncode == code
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("end", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("raise KeyboardInterrupt", -2, "Keyb"),
    ],
    ids=["end", "sys.exit", "error", "ctrl-c"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="exit codes of signals")
def test_at_exit_everything_is_delivered(end, code, stderr):
    program = f"""
        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        for _ in range(3):
            tracekit.span("job").end()
        with tracekit.span("main"):
            {end}
        """
    lines = run(program, code=code, stderr=stderr)
    assert lines[:3] == ["job root unset"] * 3
    assert lines[-1] == "shutdown"
    assert [line.split()[0] for line in lines[3:-1]] == ["main"]


def test_at_exit_spans_that_end_in_later_handlers_do_not_disturb():
    program = """
        import atexit
        open_span = tracekit.span("open")
        atexit.register(lambda: tracekit.span("late").end())
        tracekit.configure(exporter=Lines())
        atexit.register(lambda: tracekit.span("earlier handler").end())
        tracekit.span("job").end()
        """
    assert run(program) == ["job root unset", "earlier handler root unset", "shutdown"]


def test_a_program_that_only_propagates_starts_no_thread_and_exits():
    program = """
        import threading
        tracekit.configure()
        with tracekit.span("job"):
            print(threading.active_count(), tracekit.shutdown(60))
        """
    assert run(program) == ["1 True"]


def test_at_exit_a_hanging_exporter_is_left_behind():
    program = """
        import threading
        class Hangs(Lines):
            def export(self, spans):
                threading.Event().wait()
        tracekit.configure(exporter=Hangs(), export_interval_s=0.01)
        tracekit.span("job").end()
        print("end of program", flush=True)
        """
    assert run(program, stderr="Hangs was closed before it had delivered 1 span: lost") == ["end of program"]


@pytest.fixture
def fork_only():
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")


FORK = """
    def fork(child):
        '''Run *child* in a fork and wait for it.'''
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            try:
                child()
                code = 0
            except BaseException as error:
                os.write(1, f"{error!r}\\n".encode())
                code = 1
            os._exit(code)
        return os.waitpid(pid, 0)[1]
"""


def run_forking(program, **options):
    return run(textwrap.dedent(FORK) + textwrap.dedent(program), **options)


def test_a_forked_child_starts_empty_and_exports_its_own_only(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        tracekit.span("parent's").end()

        def child():
            assert tuple(tracekit.statistics()) == (0,) * 9, tracekit.statistics()
            tracekit.span("child's").end()
            assert tracekit.statistics().queued == 1
            assert tracekit.flush(60)
            assert tracekit.statistics().exported == 1
            assert tracekit.shutdown(60)

        assert fork(child) == 0
        os.write(1, b"back in the parent\\n")
        assert tracekit.statistics().queued == 1
        """
    assert run_forking(program) == [
        "child's root unset",
        "shutdown",
        "back in the parent",
        "parent's root unset",
        "shutdown",
    ]


@pytest.mark.parametrize(
    ("change", "fate", "lines"),
    [
        ("tracekit.configure(exporter=Lines())", "exported", ["child's root unset", "shutdown"]),
        ("tracekit.configure(environ={})", "dropped", []),
        ("tracekit.shutdown(60)", "dropped", []),
    ],
    ids=["configure", "configure without", "shutdown"],
)
def test_a_fork_while_another_thread_replaces_the_exporter_leaves_no_span_behind(change, fate, lines, fork_only):
    program = f"""
        class Forks:
            is_closed = False

            def export(self, spans):
                assert not self.is_closed

            def shutdown(self):  # in the exporting thread, while another one waits
                self.is_closed = True
                assert fork(child) == 0

        def child():
            tracekit.span("child's", parent=tracekit.ROOT).end()
            assert tracekit.flush(60)
            counts = tracekit.statistics()
            assert (counts.ended, counts.{fate}) == (1, 1), counts

        tracekit.configure(exporter=Forks(), environ={{}})
        {change}
        """
    assert run_forking(program) == lines


def test_a_child_does_not_take_its_threads_for_those_that_export_in_the_parent(fork_only):
    program = """
        import threading
        from tracekit._export.threads import in_caller, keep

        def export(hold=lambda: None):
            try:
                with in_caller():
                    hold()
                    keep(SystemExit())
            except SystemExit:
                raised.append(threading.get_ident())

        def wait():
            waiting.release()
            gate.wait()

        def child():
            for _ in range(3):  # one of them gets the ident of the parent's thread
                other = threading.Thread(target=export)
                other.start()
                other.join()
            assert len(raised) == 3

        raised, waiting, gate = [], threading.Semaphore(0), threading.Event()
        thread = threading.Thread(target=export, args=(wait,), daemon=True)
        thread.start()
        waiting.acquire()
        assert fork(child) == 0
        gate.set()
        thread.join()
        with in_caller():  # a fork by an exporter: the child has this thread
            pid = os.fork()
            if not pid:
                keep(SystemExit())
        assert pid
        assert os.waitpid(pid, 0)[1] == 0
        """
    assert run_forking(program) == []


def test_drops_in_a_child_are_reported(fork_only):
    program = """
        class Slow(Lines):
            def export(self, spans):
                while tracekit.statistics().dropped == 0:
                    tracekit.span("more", parent=tracekit.ROOT).end()

        def child():
            tracekit.span("child's").end()
            assert tracekit.flush(60)

        tracekit.configure(exporter=Slow(), buffer_size=2, export_interval_s=3600)
        assert fork(child) == 0
        """
    run_forking(program, stderr="spans dropped")


def test_a_callback_about_a_span_that_the_child_forgets_may_end_another(fork_only):
    program = """
        import weakref

        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        span = tracekit.span("parent's")
        watcher = weakref.ref(span, lambda _: tracekit.span("callback's").end())
        span.end()
        del span

        def child():
            tracekit.span("child's").end()
            counts = tracekit.statistics()
            assert (counts.started, counts.ended, counts.queued) == (2, 2, 2), counts
            assert tracekit.flush(60)
            assert tracekit.statistics().exported == 2, tracekit.statistics()

        assert fork(child) == 0
        tracekit.configure()
        """
    assert sorted(run_forking(program)[:2]) == ["callback's root unset", "child's root unset"]


def test_a_span_open_at_the_fork_is_remote_in_the_child_and_the_parents_to_export(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), export_interval_s=3600)

        def child():
            context = tracekit.current_context()
            assert tracekit.current_span() is None
            assert context.is_remote
            assert (context.trace_id, context.span_id) == (open_span.context.trace_id, open_span.context.span_id)
            assert tracekit.current_labels() == {"a": "1"}
            with tracekit.span("child's") as span:
                assert span.parent.is_remote and span.parent.span_id == open_span.context.span_id
                assert not span.context.is_remote
                with tracekit.span("inner") as inner:
                    assert tracekit.current_span() is inner
                assert tracekit.current_span() is span
            with tracekit.span("explicit", parent=open_span) as span:
                assert span.parent.is_remote
            open_span.end()
            assert tracekit.flush(60)
            assert tracekit.statistics()[:4] == (3, 3, 0, 3), tracekit.statistics()

        with tracekit.span("parent's") as open_span, tracekit.use_labels(a="1"):
            assert fork(child) == 0
            assert tracekit.current_span() is open_span
            assert not tracekit.current_context().is_remote
        """
    assert run_forking(program) == [
        "inner local unset",
        "child's remote unset",
        "explicit remote unset",
        "parent's root unset",
        "shutdown",
    ]


def test_scopes_that_were_open_at_the_fork_close_in_the_child_as_in_the_parent(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        outer = tracekit.span("outer").__enter__()
        labels = tracekit.use_labels(a="1")
        labels.__enter__()
        inner = tracekit.span("inner").__enter__()

        def child():
            inner.__exit__(None, None, None)
            assert tracekit.current_context().span_id == outer.context.span_id
            assert tracekit.current_context().is_remote
            assert tracekit.current_labels() == {"a": "1"}
            outer.__exit__(None, None, None)
            assert not tracekit.current_context().is_valid
            labels.__exit__(None, None, None)
            assert tracekit.current_context() is None
            assert tracekit.flush(60)
            assert tuple(tracekit.statistics()) == (0,) * 9, tracekit.statistics()

        assert fork(child) == 0
        inner.__exit__(None, None, None), outer.__exit__(None, None, None)
        """
    assert run_forking(program) == ["inner local unset", "outer root unset", "shutdown"]


def test_an_unsampled_span_open_at_the_fork_stays_unsampled(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), sampler=tracekit.AlwaysOff())

        def child():
            with tracekit.span("child's") as span:
                assert not span.context.sampled
                assert not span.context.is_remote, "a span of this process"
                assert span.parent is None or span.parent.is_remote
            assert tracekit.flush(60)
            assert tracekit.statistics().unsampled == 1

        with tracekit.span("parent's"):
            assert fork(child) == 0
        """
    assert run_forking(program) == ["shutdown"]


def test_parent_and_child_never_draw_the_same_id(fork_only):
    program = """
        def draw():
            contexts = [tracekit.span("job", parent=tracekit.ROOT).context for _ in range(300)]
            os.write(1, "".join(f"{c.trace_id}\\n{c.span_id}\\n" for c in contexts).encode())

        draw()
        for _ in range(3):
            assert fork(draw) == 0
        assert fork(lambda: (draw(), fork(draw))) == 0
        draw()
        """
    lines = run_forking(program)
    assert len(lines) == 7 * 600
    assert len(set(lines)) == len(lines)


def test_a_fork_in_the_middle_of_an_export_leaves_the_child_able_to_export(fork_only):
    program = """
        import threading
        entered, release = threading.Event(), threading.Event()
        parent = os.getpid()

        class Slow(Lines):
            def export(self, spans):
                if os.getpid() == parent:
                    entered.set()
                    release.wait(20)
                super().export(spans)

        tracekit.configure(exporter=Slow(), export_interval_s=0.001)
        tracekit.span("in flight").end()
        assert entered.wait(20)
        tracekit.span("queued").end()

        def child():
            tracekit.span("child's").end()
            assert tracekit.flush(20)
            assert tracekit.statistics()[1:5] == (1, 0, 1, 0), tracekit.statistics()

        assert fork(child) == 0
        release.set()
        """
    lines = run_forking(program)
    assert lines == ["child's root unset", "in flight root unset", "queued root unset", "shutdown"]


def test_a_memory_exporter_works_in_a_fork_made_while_it_was_in_use(fork_only):
    program = """
        import threading
        from tracekit.testing import MemoryExporter
        memory = MemoryExporter()
        tracekit.configure(exporter=memory, export_interval_s=0.001)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                tracekit.span("parent's").end()
                memory.spans

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()

        def child():
            tracekit.span("child's").end()
            assert tracekit.flush(20), "the lock of the parent's thread"

        codes = [fork(child) for _ in range(40)]
        stop.set()
        print(set(codes))
        """
    assert run_forking(program) == ["{0}"]


def test_a_forked_child_that_exits_by_itself_delivers_what_it_has(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        tracekit.span("parent's").end()
        if os.fork() == 0:
            tracekit.span("child's").end()
            sys.exit(0)
        os.wait()
        """
    assert run(program) == ["child's root unset", "shutdown", "parent's root unset", "shutdown"]


def test_a_fork_of_a_fork_works_like_a_fork(fork_only):
    program = """
        tracekit.configure(exporter=Lines(), export_interval_s=3600)

        def grandchild():
            assert tracekit.current_context().is_remote
            with tracekit.span("grandchild's") as span:
                assert span.parent.span_id == tracekit.current_context().span_id or span.parent.is_remote
            assert tracekit.flush(60)

        def child():
            with tracekit.span("child's"):
                assert fork(grandchild) == 0
            assert tracekit.flush(60)

        with tracekit.span("parent's"):
            assert fork(child) == 0
        """
    assert run_forking(program) == [
        "grandchild's remote unset",
        "child's remote unset",
        "parent's root unset",
        "shutdown",
    ]


INTERRUPTED = """
    import signal

    class Text(Lines):
        def shutdown(self):
            exec("1")  # as collections.namedtuple() does in an import

    def console(text):  # as code.InteractiveInterpreter does it since Python 3.13
        try:
            exec(text, globals())
        except KeyboardInterrupt as error:
            sys.last_type, sys.last_traceback = KeyboardInterrupt, error.__traceback__.tb_next

    tracekit.configure(exporter=Text())
    tracekit.span("a").end()
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        {then}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("raise", -signal.SIGINT),
        ("sys.exit(3)", 3),
        # Printed by a library, an interactive one, one in C and a console, and the program goes on.
        ("sys.ps1, sys.last_type, sys.last_traceback = '>', KeyboardInterrupt, error.__traceback__", 0),
        ("sys.last_type, sys.last_traceback = KeyboardInterrupt, None", 0),
        ("console('raise KeyboardInterrupt')", 0),
    ],
)
@pytest.mark.parametrize("is_module", [False, True])
def test_ctrl_c_alone_ends_the_program_by_its_signal_whatever_an_exporter_executes(then, code, is_module, tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(LINES) + textwrap.dedent(INTERRUPTED.format(then=then)))
    command = [sys.executable, *(["-m", "program"] if is_module else ["program.py"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "a root unset\n")
    assert ("Traceback" in done.stderr) == (code == -signal.SIGINT)


UWSGI = """
    import ctypes, os, sys, types
    uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
"""
WORKERS = """
    tracekit.configure(exporter=Lines(), export_interval_s=3600)
    try:
        import uwsgidecorators
        uwsgidecorators.chain.append(lambda: os.write(1, b"the program's hook\\n"))
    except ImportError:
        pass
    tracekit.span("master's").end()
    assert tracekit.flush(60)
    for _ in range(2):
        if not {fork}():
            uwsgi.post_fork_hook()
            assert tracekit._configure.current_resource()["process.pid"] == os.getpid()
            span = tracekit.span("worker's")
            span.end()
            uwsgi.post_fork_hook()  # as in a worker for which it has not forked
            assert tracekit.flush(60)
            os.write(1, f"id {{span.context.span_id}}\\n".encode())
            os._exit(0)
        assert os.wait()[1] == 0
"""


def test_hooks_of_uwsgi_that_the_program_has_set_are_kept(tmp_path, fork_only):
    (tmp_path / "uwsgidecorators.py").write_text(
        "import uwsgi\nuwsgi.spooler = None\nuwsgi.post_fork_hook = lambda: print('a decorated function')\n"
    )
    (tmp_path / "program.py").write_text(
        textwrap.dedent(UWSGI)
        + "uwsgi.spooler = 'spooler'\nuwsgi.post_fork_hook = lambda: print('hook')\n"
        + "import tracekit\nprint(uwsgi.spooler)\nuwsgi.post_fork_hook()\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.stdout.splitlines()) == ("", ["spooler", "hook", "a decorated function"])


@pytest.mark.parametrize("fork", ["ctypes.PyDLL(None).fork", "os.fork"])  # without and with the handlers of Python
@pytest.mark.parametrize("has_decorators", [False, True])
def test_workers_of_uwsgi_begin_anew_whatever_handlers_it_calls(fork, has_decorators, tmp_path, fork_only):
    if has_decorators:
        (tmp_path / "uwsgidecorators.py").write_text(
            "import uwsgi\nchain = []\nuwsgi.post_fork_hook = lambda: [call() for call in chain]\n"
        )
    program = "".join(map(textwrap.dedent, (UWSGI, LINES, WORKERS.format(fork=fork))))
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    ids = {line for line in lines if line.startswith("id ")}
    assert len(ids) == 2
    own = ["the program's hook"] * has_decorators
    expected = ["master's root unset", *[*own, *own, "worker's root unset"] * 2, "shutdown"]
    assert [line for line in lines if line not in ids] == expected


MULTIPROCESSING = """
    import multiprocessing

    def configured():
        tracekit.configure(exporter=Lines(), export_interval_s=3600)
        job()

    def job():
        tracekit.span("child's").end()

    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        {before}
        tracekit.span("parent's").end()
        process = context.Process(target={target})
        process.start()
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.parametrize(
    ("method", "before", "target"),
    [
        ("fork", "tracekit.configure(exporter=Lines(), export_interval_s=3600)", "job"),
        ("fork", "tracekit.configure(exporter=Lines(), export_interval_s=3600)", "configured"),
        ("fork", "", "configured"),
        ("spawn", "", "configured"),
        ("forkserver", "", "configured"),
        ("forkserver", "context.set_forkserver_preload([])", "configured"),
    ],
    ids=["fork", "fork-again", "fork-only", "spawn", "forkserver", "forkserver-bare"],
)
def test_a_child_of_multiprocessing_delivers_at_its_exit(method, before, target, tmp_path, fork_only):
    program = MULTIPROCESSING.format(method=method, before=before, target=target)
    lines = run(program, tmp_path=tmp_path)
    expected = ["child's root unset", "shutdown"]
    if "configure" in before:
        expected += ["parent's root unset", "shutdown"]
    assert [line for line in lines if line != "shutdown"] == [line for line in expected if line != "shutdown"]
    assert lines[-1] == "shutdown"


@pytest.mark.parametrize("when", ["late", "early"])
def test_a_child_of_multiprocessing_that_configures_in_an_import_delivers_too(when, tmp_path, fork_only):
    (tmp_path / "late.py").write_text(
        textwrap.dedent(LINES) + "\ntracekit.configure(exporter=Lines(), export_interval_s=3600)\n"
    )
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing
            import sys

            if "early" in sys.argv:
                import late

            def job():
                import late
                late.tracekit.span("child's").end()

            if __name__ == "__main__":
                for method in ("fork", "forkserver", "spawn"):
                    process = multiprocessing.get_context(method).Process(target=job)
                    process.start()
                    process.join()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "program.py", when], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[:6] == ["child's root unset", "shutdown"] * 3
    parents = ["shutdown"] if when == "early" else []
    # Since Python 3.14 the forkserver has imported the program as well, and ends when it likes.
    assert lines[6:] in (parents, 2 * parents)
