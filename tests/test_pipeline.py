"""The export pipeline: spans are delivered and counted, and exporters come and go."""

from __future__ import annotations

import contextvars
import sys
import threading
import weakref

import pytest

import tracekit
from tracekit._core.buffer import buffer
from tracekit._core.free_threading import HAS_GIL
from tracekit._export.threads import start_thread
from tracekit.testing import MemoryExporter, recording

from .tools.pipeline import LONG, Balance, Holding, end, until

# ---- delivery


def test_spans_arrive_in_order_of_their_end_without_a_flush():
    arrived = threading.Event()

    class Notes(MemoryExporter):
        def export(self, spans):
            super().export(spans)
            arrived.set()

    memory = Notes()
    tracekit.configure(exporter=memory, export_interval_s=0.01)
    for name in "abc":
        end(1, name)
    assert arrived.wait(20)
    assert [span.name for span in memory.spans] == ["a", "b", "c"]


def test_a_second_round_arrives_without_a_flush_too():
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, export_interval_s=0.001)
    for count in range(1, 6):
        end(1)
        until(lambda count=count: len(memory._spans) == count)


def test_a_half_full_buffer_does_not_wait_for_the_interval():
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, buffer_size=16, export_interval_s=LONG)
    end(9)
    until(lambda: len(memory._spans) == 9)


@pytest.mark.parametrize(("arguments", "most"), [({}, 2048), ({"batch_size": 300}, 300)], ids=["default", "argument"])
def test_batches_are_bounded(arguments, most):
    sizes = []

    class Sizes(MemoryExporter):
        def export(self, spans):
            sizes.append(len(spans))

    tracekit.configure(exporter=Sizes(), export_interval_s=LONG, **arguments)
    balance = Balance()
    end(5000)
    assert tracekit.flush(60)
    assert max(sizes) == most
    assert sum(sizes) == balance.exported == 5000


@pytest.mark.skipif(not HAS_GIL, reason="objects are freed in their own thread, which waits")
def test_the_spans_of_a_batch_are_freed_before_the_next_one_is_exported():
    alive = []

    class Watching(MemoryExporter):
        def __init__(self):
            super().__init__()
            self.seen = []

        def export(self, spans):
            alive.append(sum(span() is not None for span in self.seen))
            self.seen += map(weakref.ref, spans)

    tracekit.configure(exporter=Watching(), export_interval_s=LONG, batch_size=300)
    end(900)
    assert tracekit.flush(60)
    assert alive == [0, 0, 0]


def test_an_exporter_runs_in_one_thread_and_in_a_separate_context():
    lock = threading.Lock()
    seen = []

    class Strict(MemoryExporter):
        def export(self, spans):
            assert lock.acquire(blocking=False)
            context = tracekit.current_context()
            seen.append((threading.current_thread().daemon, threading.get_ident(), context.id, context.deferred))
            lock.release()

        shutdown = lambda self: self.export([])  # noqa: E731

    tracekit.configure(exporter=Strict(), export_interval_s=0.001)
    balance = Balance()
    with tracekit.span("outer"), tracekit.use_labels(a="1"):
        threads = [threading.Thread(target=lambda: [(end(1), tracekit.flush(60)) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        end(20)
        for thread in threads:
            thread.join()
    assert tracekit.shutdown(60)
    assert set(seen) == {(True, seen[0][1], bytes(24), False)}  # no trace, and new ones are not sampled
    assert seen[0][1] != threading.get_ident()
    assert (balance.exported, balance.failed) == (101, 0)


def test_the_mark_wakes_the_exporting_thread_again_after_each_take():
    tracekit.configure(exporter=MemoryExporter(), export_interval_s=3600, environ={})
    wakes = []
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("wake", lambda: wakes.append(1)), ("mark", 100), ("is_asleep", False)):
            patch.setattr(buffer, name, value)
        for turn in range(1, 4):
            end(1000)
            assert len(wakes) == turn
            assert tracekit.flush(60)
    tracekit.configure(environ={})


def test_threads_that_gevent_replaces_after_the_import_are_not_used(monkeypatch):
    """A greenlet would block all others in the queue, which is that of before."""
    started = []
    for name in ("_start_joinable_thread", "_start_new_thread"):
        if hasattr(threading, name):
            monkeypatch.setattr(threading, name, lambda *args, **_: started.append(args))
    with recording() as exporter:
        end(1)
        assert tracekit.flush(60)
        assert len(exporter.spans) == 1
        assert not started


def test_a_thread_that_ends_after_gevent_has_replaced_idents_reports_nothing(monkeypatch):
    gate, said = threading.Event(), []
    monkeypatch.setattr(threading, "_active", threading._active.copy())  # in which threads without idents stay
    before = {*threading.enumerate()}
    start_thread(gate.wait, "started before")
    (thread,) = {*threading.enumerate()} - before
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    identify = threading.get_ident
    here = identify()  # since CPython 3.13 join() wants a number
    with monkeypatch.context() as patch:
        patch.setattr(threading, "get_ident", lambda: here if identify() == here else object())
        gate.set()
        thread.join()
    assert said == []


def test_without_spans_there_is_no_thread():
    before = threading.active_count()
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("open"):
        assert threading.active_count() == before


# ---- recording in memory


def test_recording_leaves_the_exporter_in_use_open_and_its_account_alone():
    exporter = Holding()
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    balance = Balance()
    with recording() as memory:
        end(2)
        assert [span.name for span in memory] == ["job"] * 2
    assert not exporter.is_shut_down
    end(3)
    assert tracekit.flush(60)
    assert (balance.exported, balance.queued, len(exporter._spans)) == (5, 0, 3)


def test_configure_inside_a_recording_closes_the_exporter_before_it():
    exporter, second = MemoryExporter(), MemoryExporter()
    tracekit.configure(exporter=exporter)
    with recording():
        end(1)
        tracekit.configure(exporter=second)
        assert exporter.is_shut_down
        end(2)
    end(3)
    assert len(second.spans) == 5


def test_a_flush_that_the_exporter_could_not_complete_returns_false():
    exporter = MemoryExporter()
    exporter.flush = lambda _: False
    tracekit.configure(exporter=exporter)
    end(1)
    assert not tracekit.flush()


def test_an_exporter_is_hurried_before_it_is_closed():
    class Patient(MemoryExporter):
        def __init__(self):
            super().__init__()
            self.is_late = threading.Event()

        def export(self, spans):
            assert self.is_late.wait(20)
            super().export(spans)

        def hurry(self):
            self.is_late.set()

    exporter = Patient()
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    balance = Balance()
    end(3)
    assert tracekit.shutdown(timeout_s=20)
    assert balance.exported == 3


# ---- the life of an exporter


def test_shutdown_delivers_closes_once_and_counts_the_rest_as_dropped(exporter):
    balance = Balance()
    end(3)
    opened = tracekit.span("open")
    assert tracekit.shutdown(60)
    assert (len(exporter._spans), exporter.is_shut_down) == (3, True)
    opened.end()
    end(1)
    assert tracekit.shutdown(60)
    assert tracekit.flush(60)
    assert (balance.exported, balance.dropped, balance.queued) == (3, 2, 0)
    assert len(exporter._spans) == 3


def test_a_configure_in_the_middle_of_another_loses_no_counts():
    class Nests(MemoryExporter):
        is_first = True

        def hurry(self):  # in the thread of configure(), as a signal handler may be
            if self.is_first:
                self.is_first = False
                tracekit.configure(exporter=inner)
                contextvars.Context().run(end, 3)
                assert tracekit.flush(60)

    inner = MemoryExporter()
    tracekit.configure(exporter=Nests())
    balance = Balance()
    tracekit.configure(exporter=MemoryExporter())
    assert (balance.exported, balance.queued, inner.is_shut_down) == (3, 0, True)
    end(2)
    assert tracekit.flush(60)
    assert (balance.exported, balance.queued) == (5, 0)


def test_while_an_exporter_is_closed_its_spans_are_still_accounted_for():
    seen = []

    class Looks(MemoryExporter):
        def shutdown(self):
            seen.append((balance.ended, balance.exported))

    tracekit.configure(exporter=Looks())
    balance = Balance()
    end(3)
    assert tracekit.shutdown(60)
    assert seen == [(3, 3)]
    assert balance.exported == 3


def test_configure_flushes_and_closes_the_previous_exporter(exporter):
    end(3)
    open_span = tracekit.span("open")
    second = MemoryExporter()
    tracekit.configure(exporter=second)
    assert (len(exporter._spans), exporter.is_shut_down, second.is_shut_down) == (3, True, False)
    open_span.end()
    assert [span.name for span in second.spans] == ["open"]
    third = MemoryExporter()
    tracekit.configure(exporter=third)
    end(1)
    assert (len(second._spans), len(third.spans)) == (1, 1)


def test_configure_without_an_exporter_stops_recording(exporter):
    balance = Balance()
    open_span = tracekit.span("open")
    tracekit.configure()
    open_span.end()
    end(2)
    assert (balance.ended, balance.dropped, balance.unsampled, balance.queued) == (3, 1, 2, 0)


def test_threads_of_exporters_end_with_them():
    before = threading.active_count()
    for _ in range(20):
        tracekit.configure(exporter=MemoryExporter())
        end(1)
    tracekit.configure()
    until(lambda: threading.active_count() <= before)


def test_many_threads_may_configure_and_flush_at_once():
    balance = Balance()

    def work():
        for _ in range(20):
            tracekit.configure(exporter=MemoryExporter(), export_interval_s=0.001)
            end(5)
            tracekit.flush(20)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tracekit.shutdown(10)
    assert (balance.started, balance.ended, balance.queued, balance.failed) == (400, 400, 0, 0)
