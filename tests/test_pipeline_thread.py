"""The exporting thread survives everything, signal handlers and finalizers in the middle of its work included."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

import tracekit
from tracekit import _configure
from tracekit._core.buffer import buffer
from tracekit._core.free_threading import HAS_GIL
from tracekit._export import on_demand, pipeline, worker
from tracekit.exporters._otlp.background import Background
from tracekit.exporters.flight import FlightRecorder
from tracekit.exporters.tail import TailSampler
from tracekit.metrics import RedMetrics
from tracekit.testing import MemoryExporter

from .tools.pipeline import LONG, Balance, Exiting, Raising, end, refuse_threads, until

# ---- the thread survives everything


class Metaclass(type):
    @property
    def __name__(cls):
        raise KeyboardInterrupt


class Nameless(Exception, metaclass=Metaclass):
    pass


class Exits(Exception):
    def __str__(self):
        raise SystemExit


class Odd(str):
    def __getitem__(self, key):
        raise SystemExit


class Says(Exception):
    def __str__(self):
        return Odd("odd")


@pytest.mark.parametrize("error", [Exits(), Nameless(), Says()], ids=["exits", "nameless", "odd"])
def test_an_error_that_cannot_be_described_does_not_end_the_thread(error, caplog):
    exporter = Raising(error)
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    balance = Balance()
    end(1)
    until(lambda: balance.failed == 1)
    end(3)
    until(lambda: balance.exported == 3)
    assert "Raising failed, 1 span lost" in caplog.text


def test_a_log_handler_that_exits_does_not_end_the_thread():
    handler = Exiting()
    logger = logging.getLogger("tracekit")
    logger.addHandler(handler)
    try:
        exporter = Raising(ValueError("one"))
        exporter.account = lambda: None
        tracekit.configure(exporter=exporter, export_interval_s=0.001, batch_size=2, buffer_size=8)
        balance = Balance()
        with pytest.raises(SystemExit):
            logger.error("the handler works")
        end(20)
        until(lambda: balance.queued == 0)
        end(1)
        until(lambda: balance.queued == 0)
        assert balance.failed in {1, 2}  # a batch, which the thread may take after its first span
        assert balance.exported + balance.dropped == 21 - balance.failed
    finally:
        logger.removeHandler(handler)


def test_a_thread_that_is_gone_is_started_again(monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, export_interval_s=0.001)
    worker = _configure._pipeline._worker
    turn, ended = worker._turn, threading.Event()

    def end_once():
        if not ended.is_set():
            ended.set()
            raise SystemExit  # as an asynchronous exception may, at any place
        turn()

    worker._turn = end_once
    end(1)
    assert ended.wait(20)
    until(lambda: not worker.is_served())
    end(2)
    until(lambda: len(memory._spans) == 3)
    ended.clear()
    end(1)
    assert tracekit.flush(20)
    assert len(memory._spans) == 4


@pytest.mark.parametrize("count", [1, 3, 10])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), PermissionError("an audit hook")], ids=repr)
def test_where_no_thread_could_be_started_a_later_span_tries_again(error, count, monkeypatch):
    """As where a container has no room for one more: with room left in the buffer, above its mark, and full."""
    start, refused = threading.Thread.start, []

    def refuse(thread):
        if thread.name != "tracekit-export":
            start(thread)
            return
        refused.append(thread)
        raise error

    memory = MemoryExporter()
    tracekit.configure(exporter=memory, export_interval_s=0.01, buffer_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(on_demand, "_START_AGAIN_S", LONG)
        end(count)
        assert len(refused) == 1  # not for each span
    _configure._pipeline._worker._start_at = 0.0
    end(1)
    until(lambda: len(memory._spans) == min(count + 1, 4))


def test_without_a_thread_flushes_export_in_their_callers_one_at_a_time(monkeypatch, gate):
    gate.release.set()
    assert tracekit.flush(20)
    running, most = [], []

    class Counts(MemoryExporter):
        def export(self, spans):
            running.append(1)
            most.append(len(running))
            time.sleep(0)
            super().export(spans)
            running.pop()

    memory = Counts()
    tracekit.configure(exporter=memory, export_interval_s=LONG)
    refuse_threads(monkeypatch, "tracekit-export")

    def work():
        for _ in range(50):
            end(1)
            assert tracekit.flush(20)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(memory._spans) == 150
    assert tracekit.shutdown(20)
    assert memory.is_shut_down


class KeepsAll(TailSampler):
    """Hands its spans on at the end."""

    def __init__(self, exporter):
        super().__init__(exporter, probability=1.0)


@pytest.mark.parametrize("front", [None, KeepsAll, FlightRecorder, RedMetrics])
@pytest.mark.parametrize("method", ["export", "flush", "account"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_without_a_thread_what_a_signal_handler_raises_reaches_the_caller_of_a_flush(error, method, front, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    class Interrupted(MemoryExporter):
        def interrupt(self, name):
            if name == interrupted:
                raise error

        def export(self, spans):
            self.interrupt("export")
            super().export(spans)

        def flush(self, timeout_s):
            self.interrupt("flush")
            return True

        def account(self):
            self.interrupt("account")
            return tracekit.Account()

    interrupted = ""
    memory = Interrupted()
    tracekit.configure(exporter=memory if front is None else front(memory), batch_size=2, export_interval_s=LONG)
    monkeypatch.setattr(on_demand, "start_thread", refuse)
    balance = Balance()
    end(4)
    interrupted = method
    with pytest.raises(error):
        (tracekit.shutdown if front is KeepsAll and method == "export" else tracekit.flush)(20)
    interrupted = ""
    end(1)
    assert tracekit.shutdown(20)
    assert balance.ended == balance.exported + balance.failed + balance.dropped == 5
    assert balance.exported == len(memory._spans)


def test_without_a_thread_a_flush_that_a_signal_handler_ends_at_any_call_leaves_the_next_one_to_work(monkeypatch):
    """The handler runs after a call of C code; one that had just begun to serve was taken to serve for ever."""
    left = 0

    def interrupt(frame, event, _):
        nonlocal left
        if event == "c_return" and frame.f_code.co_filename == on_demand.__file__:
            left -= 1
            if not left:
                raise KeyboardInterrupt

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    memory = MemoryExporter()
    tracekit.configure(exporter=memory, export_interval_s=LONG)
    monkeypatch.setattr(on_demand, "start_thread", refuse)
    for at in range(1, 100):
        left = at
        end(1)
        sys.setprofile(interrupt)
        try:
            tracekit.flush(20)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert tracekit.flush(20)
        assert len(memory.spans) == at
        if left > 0:
            break
    assert 5 < at < 99


def test_where_daemon_threads_are_not_allowed_flush_exports(monkeypatch):
    class Thread(threading.Thread):
        def __init__(self, **_):
            raise RuntimeError("daemon threads are disabled in this (sub)interpreter")

    monkeypatch.setattr(threading, "Thread", Thread)
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, export_interval_s=LONG)
    end(2)
    assert tracekit.flush(20)
    assert len(memory._spans) == 2
    end(1)
    assert tracekit.shutdown(20)
    assert len(memory._spans) == 3


# ---- calls from signal handlers and finalizers


PIPELINE = {Path(module.__file__) for module in (on_demand, pipeline, worker)}
CALLS = {
    "statistics": tracekit.statistics,
    "flush": lambda: tracekit.flush(0.01),
    "shutdown": lambda: tracekit.shutdown(0.01),
    "configure": lambda: tracekit.configure(exporter=MemoryExporter(), environ={}),
    "span": lambda: end(1),
}


@pytest.mark.parametrize("interrupting", CALLS)
@pytest.mark.parametrize("interrupted", CALLS)
def test_a_call_may_interrupt_another_at_any_line_and_neither_waits_for_ever(interrupted, interrupting):
    seen = set()
    failures = []

    def interrupt(frame, event, _):
        if Path(frame.f_code.co_filename) not in PIPELINE:
            return None
        line = frame.f_code.co_name, frame.f_lineno
        if event == "line" and line not in seen:
            seen.add(line)
            sys.settrace(None)
            try:
                CALLS[interrupting]()
            except BaseException as error:
                failures.append((line, error))
            sys.settrace(interrupt)
        return interrupt

    def work():
        for _ in range(3):
            tracekit.configure(exporter=MemoryExporter(), environ={}, export_interval_s=0.001)
            end(1)
            sys.settrace(interrupt)
            try:
                CALLS[interrupted]()
            finally:
                sys.settrace(None)
        tracekit.configure(environ={})

    balance = Balance()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert failures == []
    assert interrupted == "span" or seen
    assert balance.queued == 0


def test_a_flush_that_interrupts_another_at_any_line_is_done_before_its_timeout():
    """A lock held by the interrupted flush, that of the standard library's Event too, would stop the exporting thread."""
    seen = set()
    results = []

    def interrupt(frame, event, _):
        line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line not in seen:
            seen.add(line)
            sys.settrace(None)
            results.append((line, tracekit.flush(20)))
            sys.settrace(interrupt)
        return interrupt

    def work():
        for _ in range(3):
            end(1)
            sys.settrace(interrupt)
            try:
                tracekit.flush(20)
            finally:
                sys.settrace(None)

    tracekit.configure(exporter=MemoryExporter(), export_interval_s=LONG)
    assert tracekit.flush(20)  # the exporting thread is there, so that no line starts one
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert {Path(file) for (file, _), _ in results} >= PIPELINE
    assert [line for line, is_done in results if not is_done] == []


def test_a_configure_that_interrupts_another_at_any_line_loses_no_exporter():
    """One that was forgotten was neither closed nor counted, and its spans stayed queued in the statistics."""
    seen, exporters, unwoken = {}, [], []

    def configure():
        exporters.append(MemoryExporter())
        tracekit.configure(exporter=exporters[-1], export_interval_s=LONG)

    def interrupt(frame, event, _):
        line = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and line not in seen and Path(line[0]) in PIPELINE:
            seen[line] = True
            sys.settrace(None)
            configure()
            end(1)
            tracekit.flush(20)
            return None
        return interrupt

    def work():
        interruptions = -1
        while interruptions < len(seen):
            interruptions = len(seen)
            sys.settrace(interrupt)
            try:
                configure()
            finally:
                sys.settrace(None)
            if getattr(buffer.wake, "__self__", None) is not _configure._pipeline._worker:
                unwoken.append(list(seen)[-1])

    configure()
    balance = Balance()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert tracekit.shutdown(60)
    assert {Path(file) for file, _ in seen} >= PIPELINE
    assert unwoken == [], "the lines at which an interruption left the exporting thread asleep"
    assert [exporter for exporter in exporters if not exporter.is_shut_down] == []
    assert (balance.exported, balance.queued) == (len(seen), 0)
    assert sum(len(exporter.spans) for exporter in exporters) == len(seen)


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown], ids=["flush", "shutdown"])
@pytest.mark.parametrize("timeout_s", [float("-inf"), -1, -(10**400), -0.0, 0, float("nan")])
def test_a_timeout_that_is_not_above_0_does_not_wait(call, timeout_s, gate):
    assert not call(timeout_s)


@pytest.fixture
def stopped_clock(monkeypatch):
    """The result of a function that runs in another thread, where the monotonic clock stands still, as with freezegun."""

    def result(function):
        results = SimpleQueue()
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: 1e9)
            threading.Thread(target=lambda: results.put(function()), daemon=True).start()
            return results.get(timeout=20)

    return result


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown], ids=["flush", "shutdown"])
def test_a_timeout_ends_also_where_a_test_has_stopped_the_clock(call, gate, stopped_clock):
    assert not stopped_clock(lambda: call(0.01))


@pytest.mark.parametrize("method", ["flush", "close"])
def test_so_does_that_for_log_records_and_metrics(method, stopped_clock):
    release = threading.Event()
    background = Background(lambda: release.wait() and False, 60, "test")
    try:
        assert not stopped_clock(lambda: getattr(background, method)(0.01))
    finally:
        release.set()
    assert background.close(60)


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown], ids=["flush", "shutdown"])
@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300, 10**400], ids=["infinite", "float", "int"])
def test_an_infinite_timeout_waits_until_the_spans_are_exported(call, timeout_s, gate):
    waited = []
    gate.flush = lambda timeout_s: waited.append(timeout_s) or threading.Event().wait(min(timeout_s, 0)) or True
    timer = threading.Timer(0.05, gate.release.set)
    timer.start()
    assert call(timeout_s)
    timer.join()
    assert len(gate._spans) == 1
    assert all(0 < seconds <= threading.TIMEOUT_MAX for seconds in waited)


def test_a_shutdown_does_not_wait_for_another_threads_configure(gate):
    waiting = threading.Event()
    gate.hurry = waiting.set
    thread = threading.Thread(target=lambda: tracekit.configure(environ={}))
    thread.start()
    assert waiting.wait(20)
    assert not tracekit.shutdown(0.01)
    assert not gate.is_shut_down
    gate.release.set()
    thread.join(20)
    assert gate.is_shut_down


# ---- no memory

NO_MEMORY = """
    import _testcapi
    import tracekit
    from tracekit import _configure
    from tracekit._core.buffer import buffer

    class Exporter:
        is_broken = False

        def export(self, spans):
            if self.is_broken:
                raise ValueError("broken")

        def shutdown(self):
            pass

    def missing(first, function):
        _testcapi.set_nomemory(first, first + 1)
        try:
            function()
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()

    def drain():
        worker.take()
        worker.deliver()

    exporter = Exporter()
    tracekit.configure(exporter=exporter, export_interval_s=3600, batch_size=3, environ={})
    worker = _configure._pipeline._worker
    buffer.wake = None  # no thread: that memory is missing in all of them
"""


@pytest.mark.skipif(tracekit.IMPLEMENTATION == "plain" or not HAS_GIL, reason="Python needs memory for each step")
@pytest.mark.parametrize(
    "then",
    [
        """
        for number in range(400):
            exporter.is_broken = number >= 200
            for _ in range(8):
                tracekit.span("job").end()
            missing(number % 200, drain)
            drain()
            balance = tracekit.statistics()
            assert (balance.queued, worker.in_hand, buffer.taken) == (0, 0, 0), number
        """,
        """
        for _ in range(1000):
            span = tracekit.span("job")
            missing(0, span.end)
            assert span.ended
        balance = tracekit.statistics()
        assert balance.dropped > 0
        assert balance.queued == len(buffer) == balance.ended - balance.dropped
        """,
    ],
    ids=["exporting", "ending"],
)
def test_wherever_memory_is_missing_every_span_is_counted(then):
    pytest.importorskip("_testcapi")
    program = textwrap.dedent(NO_MEMORY) + textwrap.dedent(then)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
