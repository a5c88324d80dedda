"""The export pipeline: whatever the exporter does, the program continues and every span is counted."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

import tracekit
from tracekit import Account, _configure
from tracekit._core.buffer import Buffer, buffer
from tracekit._core.free_threading import HAS_GIL
from tracekit._export import pipeline, worker
from tracekit._export.threads import start_thread
from tracekit.exporters.flight import FlightRecorder
from tracekit.exporters.tail import TailSampler
from tracekit.metrics import RedMetrics
from tracekit.testing import MemoryExporter, recording

from .tools.accounts import statistics

LONG = 3600  # an interval that no test waits for


def end(count, name="job"):
    for _ in range(count):
        tracekit.span(name).end()


def until(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


class Balance:
    """The changes of the statistics since its creation; reading one checks that the statistics add up."""

    def __init__(self):
        gc.collect()  # ends the spans that earlier tests left in cycles
        self.start = tracekit.statistics()

    def __getattr__(self, name):
        return getattr(statistics(), name) - getattr(self.start, name)


class Gate(MemoryExporter):
    """An exporter that hangs until ``release`` is set."""

    def __init__(self):
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def export(self, spans):
        self.entered.set()
        assert self.release.wait(20)
        super().export(spans)


@pytest.fixture
def gate():
    """A hanging exporter, in use, in the middle of exporting one span."""
    gate = Gate()
    tracekit.configure(exporter=gate, buffer_size=8, export_interval_s=0.01)
    end(1, "in flight")
    assert gate.entered.wait(20)
    yield gate
    gate.release.set()


class Raising:
    """An exporter that raises *errors*, one per call, and then accepts spans."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.got = []

    def export(self, spans):
        if self.errors:
            raise self.errors.pop(0)
        self.got += spans

    def shutdown(self):
        if self.errors:
            raise self.errors.pop(0)


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
    before = {*threading.enumerate()}
    start_thread(gate.wait, "started before")
    (thread,) = {*threading.enumerate()} - before
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "get_ident", object)
        gate.set()
        thread.join()
    assert said == []
    del threading._active[thread.ident]


def test_without_spans_there_is_no_thread():
    before = threading.active_count()
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("open"):
        assert threading.active_count() == before


# ---- an exporter that raises


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("hostile")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [
        ValueError("down"),
        Hostile(),
        asyncio.CancelledError(),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        ExceptionGroup("g", [ValueError("x")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exporter_that_raises_loses_only_its_batch(error, caplog):
    exporter = Raising(error)
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    balance = Balance()
    end(3)
    assert tracekit.flush(20)
    assert (balance.failed, balance.exported) == (3, 0)
    end(2)
    assert tracekit.flush(20)
    assert (balance.failed, balance.exported, balance.queued) == (3, 2, 0)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tracekit", "ERROR")
    assert "Raising failed, 3 spans lost" in record.getMessage()
    assert type(error).__name__ in record.getMessage()


def test_a_failure_is_reported_once_per_cause(caplog):
    exporter = Raising(ValueError("down"), ValueError("down"), KeyError("other"), ValueError("down"))
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    balance = Balance()
    for _ in range(5):
        end(1)
        assert tracekit.flush(60)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == ["ValueError", "KeyError"]
    assert (balance.failed, balance.exported) == (4, 1)


def test_many_different_causes_do_not_fill_the_log(caplog):
    exporter = Raising(*[ValueError(f"request {number}") for number in range(300)])
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    for _ in range(300):
        end(1)
        assert tracekit.flush(60)
    assert 1 <= len(caplog.records) <= 64


def test_log_messages_are_one_short_line(caplog):
    tracekit.configure(exporter=Raising(ValueError("a\r\nb\x1b[31m" + "x" * 10_000)), export_interval_s=LONG)
    end(1)
    assert tracekit.flush(60)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 1000


def test_a_log_handler_that_raises_does_not_stop_the_export(exporter):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("no disk")

    handler = Broken()
    logger = logging.getLogger("tracekit")
    logger.addHandler(handler)
    try:
        raising = Raising(ValueError("down"))
        tracekit.configure(exporter=raising, export_interval_s=LONG)
        for _ in range(2):
            end(1)
            assert tracekit.flush(60)
        assert len(raising.got) == 1
    finally:
        logger.removeHandler(handler)


def test_an_error_in_shutdown_is_logged_and_nothing_else(caplog):
    exporter = Raising()
    tracekit.configure(exporter=exporter)
    end(1)
    tracekit.flush(60)
    exporter.errors = [ValueError("at close")]
    assert tracekit.shutdown(60)
    assert "at close" in caplog.text
    assert len(exporter.got) == 1


@pytest.mark.skipif(
    not HAS_GIL and tracekit.IMPLEMENTATION == "compiled", reason="records of threads belong to the one buffer"
)
def test_a_finalizer_that_drains_the_buffer_while_it_is_drained_doubles_no_span():
    class Drains:
        def __del__(self):
            drained.append(full.drain())

    full, drained = Buffer(), []
    full.is_open = True
    for item in "abc":
        full.end(item, True)
    gc.collect()
    gc.disable()
    before = gc.get_threshold()
    try:
        cycle = Drains()
        cycle.itself = cycle
        del cycle
        gc.set_threshold(1)
        gc.enable()
        drained.append(full.drain())
    finally:
        gc.enable()
        gc.set_threshold(*before)
    gc.collect()
    assert sorted(item for spans in drained for item in spans) == ["a", "b", "c"]


# ---- an exporter that hangs or is slow


def test_while_the_exporter_hangs_the_program_goes_on_and_the_buffer_is_bounded(gate, caplog):
    balance = Balance()
    end(20)
    assert (balance.ended, balance.queued, balance.dropped) == (20, 8, 12)
    assert not tracekit.flush(0.01)
    assert not tracekit.flush(0)
    gate.release.set()
    assert tracekit.flush(20)
    assert (balance.queued, balance.exported, balance.dropped) == (-1, 9, 12)
    assert len(gate.spans) == 9


def test_a_full_buffer_drops_the_newest_spans_and_is_reported_once(gate, caplog):
    for number in range(20):
        end(1, str(number))
    gate.release.set()
    for _ in range(3):
        assert tracekit.flush(20)
        end(1, "later")
    assert [span.name for span in gate.spans][:9] == ["in flight", *"01234567"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "spans dropped" in messages[0]


def test_a_full_buffer_is_reported_while_the_program_runs(gate, caplog):
    end(20)
    gate.release.set()
    until(lambda: caplog.records)
    assert "spans dropped" in caplog.text


def test_drops_are_not_reported_again_after_configure(gate, caplog):
    end(20)
    gate.release.set()
    assert tracekit.flush(20)
    assert len(caplog.records) == 1
    tracekit.configure(exporter=MemoryExporter())
    end(1)
    assert tracekit.flush(60)
    assert len(caplog.records) == 1


def test_a_slow_exporter_delivers_everything_in_the_end():
    steps = threading.Semaphore(0)

    class Slow(MemoryExporter):
        def export(self, spans):
            assert steps.acquire(timeout=20)
            super().export(spans)

    memory = Slow()
    tracekit.configure(exporter=memory, buffer_size=1000, export_interval_s=0.001)
    balance = Balance()
    for _ in range(10):
        end(50)
        steps.release()
    steps.release(1000)
    assert tracekit.flush(20)
    assert (balance.exported, balance.dropped, len(memory.spans)) == (500, 0, 500)


@pytest.mark.parametrize("end_it", [lambda: tracekit.shutdown(0.01), lambda: _configure._pipeline._retire(0.01)])
def test_spans_in_the_hands_of_an_exporter_that_hangs_at_the_end_are_reported(end_it, gate, caplog):
    balance = Balance()
    assert not end_it()
    assert balance.failed == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.messages == ["Gate was closed before it had delivered 1 span: lost"]


def test_spans_that_an_exporter_still_holds_when_it_is_closed_are_reported(caplog):
    exporter = Holding()
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    end(5)
    until(lambda: len(exporter.held) == 5)
    assert tracekit.shutdown(60)
    assert caplog.messages == ["Holding was closed before it had delivered 5 spans: lost"]


def test_a_new_exporter_takes_over_from_one_that_hangs(gate):
    balance = Balance()
    opened = tracekit.span("open")
    end(3, "waiting")
    memory = MemoryExporter()
    _configure._pipeline.use(memory, capacity=8, interval_s=0.01, timeout_s=0.01)
    assert balance.failed == 1, "the span in flight may or may not be delivered, so it does not count as exported"
    opened.end()
    # Without a flush: the waiting spans must not need another span to be exported.
    until(lambda: len(memory._spans) == 4)
    assert sorted({span.name for span in memory._spans}) == ["open", "waiting"]
    gate.release.set()
    end(1, "after")
    assert tracekit.flush(20)
    until(lambda: len(gate._spans) == 1)
    assert (balance.exported, balance.failed, balance.queued, balance.dropped) == (5, 1, -1, 0)
    assert [span.name for span in gate._spans] == ["in flight"], "it gets no more spans"


def test_a_batch_that_is_exported_after_its_exporter_was_given_up_changes_no_count(gate):
    worker = _configure._pipeline._worker
    (thread,) = (thread for thread in threading.enumerate() if thread.ident == worker.served_by)
    final = worker.abandon()
    before = worker.counts, worker.in_hand
    gate.release.set()
    thread.join(20)
    assert [span.name for span in gate.spans] == ["in flight"]
    assert (worker.counts, worker.in_hand, final.failed) == (*before, 1)


def test_spans_that_wait_behind_a_hanging_exporter_go_to_its_successor_without_a_flush(gate):
    end(3, "waiting")
    memory = MemoryExporter()
    _configure._pipeline.use(memory, capacity=8, interval_s=0.01, timeout_s=0.01)
    until(lambda: len(memory._spans) == 3)


def test_a_shutdown_does_not_wait_for_ever(gate):
    balance = Balance()
    end(5)
    assert not tracekit.shutdown(0.01)
    assert (balance.failed, balance.dropped, balance.queued) == (1, 5, -1)
    end(1)
    assert balance.dropped == 6
    gate.release.set()
    assert tracekit.flush(60)
    assert balance.exported == 0


def test_an_exporter_whose_shutdown_hangs_does_not_hang_the_program():
    release = threading.Event()

    class Stuck(MemoryExporter):
        def shutdown(self):
            assert release.wait(20)

    memory = Stuck()
    tracekit.configure(exporter=memory)
    balance = Balance()
    end(2)
    assert tracekit.flush(20)  # or the shutdown may give the thread up before it runs
    assert not tracekit.shutdown(0.01)
    assert len(memory._spans) == 2
    release.set()
    assert (balance.ended, balance.queued) == (2, 0)


# ---- an exporter that uses tracekit itself


def test_an_exporter_may_make_spans_and_read_statistics(caplog):
    class Traced(MemoryExporter):
        def export(self, spans):
            with tracekit.span("export"):
                tracekit.inject({})
                tracekit.statistics()
            super().export(spans)

    memory = Traced()
    tracekit.configure(exporter=memory, export_interval_s=LONG)
    balance = Balance()
    end(3)
    assert tracekit.flush(20)
    assert tracekit.shutdown(10)
    assert [span.name for span in memory._spans][:3] == ["job"] * 3
    assert balance.queued == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "call", [tracekit.flush, tracekit.shutdown, tracekit.configure], ids=["flush", "shutdown", "configure"]
)
def test_an_exporter_that_calls_back_into_the_pipeline_does_not_dead_lock(call):
    answered = threading.Event()

    class CallsBack(MemoryExporter):
        def export(self, spans):
            call()
            super().export(spans)
            answered.set()

    memory = CallsBack()
    tracekit.configure(exporter=memory, export_interval_s=0.01)
    balance = Balance()
    end(3)
    assert answered.wait(20)
    tracekit.shutdown(10)
    assert balance.queued == 0
    # shutdown() may come before the second has ended; configure() without an exporter records none of the later ones.
    assert balance.exported + balance.failed + balance.dropped + balance.unsampled == 3


def test_spans_of_the_exporter_itself_are_not_exported():
    class Chatty(MemoryExporter):
        def export(self, spans):
            with tracekit.span("export"), tracekit.span("request") as span:
                assert not span.is_recording
                assert not tracekit.extract(tracekit.inject({})).sampled
            super().export(spans)

    exporter = Chatty()
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    balance = Balance()
    end(3)
    assert tracekit.flush(60)
    assert [span.name for span in exporter.spans] == ["job"] * 3
    assert (balance.exported, balance.failed, balance.queued) == (3, 0, 0)
    assert balance.unsampled > 0


# ---- an exporter that holds spans


class Holding(MemoryExporter):
    """Holds every span until it is flushed."""

    def __init__(self):
        super().__init__()
        self.held, self.failed, self.unsampled = [], 0, 0

    def export(self, spans):
        self.held += spans

    def flush(self, timeout_s):
        super().export(self.held)
        self.held = []
        return True

    def account(self):
        return Account(len(self.held), self.failed, self.unsampled)


def test_spans_that_an_exporter_holds_loses_or_discards_are_accounted_for():
    exporter = Holding()
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    balance = Balance()
    end(10)
    until(lambda: len(exporter.held) == 10 == balance.queued)
    del exporter.held[:3]
    exporter.failed, exporter.unsampled = 1, 2
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed, balance.unsampled, balance.queued) == (7, 1, 2, 0)
    end(5)
    assert tracekit.shutdown(60)
    assert (balance.exported, balance.failed, balance.unsampled, balance.queued) == (7, 6, 2, 0)


def test_an_exporter_that_is_used_again_does_not_count_twice():
    exporter = Holding()
    exporter.failed = 100
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    balance = Balance()
    end(2)
    with recording():
        end(3)
        assert tracekit.flush(60)
        assert (balance.exported, balance.failed) == (5, 0)
    exporter.failed += 1
    end(1)
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed) == (5, 1)


def exit_now():
    raise SystemExit


@pytest.mark.parametrize(
    "account",
    [
        lambda: 1 / 0,
        exit_now,
        lambda: 5,
        lambda: None,
        lambda: (1, 2, 3, 4),
        lambda: ("a", "b", "c"),
        lambda: Account(queued="1"),
        lambda: Account(failed=None),
        lambda: Account(unsampled=1.5),
        lambda: Account(failed=float("nan")),
        lambda: Account(queued=float("inf")),
        lambda: Account(failed=-1),
        5,
    ],
)
def test_an_invalid_account_is_ignored(account, caplog):
    exporter = MemoryExporter()
    exporter.account = account
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    balance = Balance()
    for _ in range(2):
        end(2)
        assert tracekit.flush(60)
    assert (balance.exported, balance.failed, balance.queued) == (4, 0, 0)
    assert [line for line in lines(caplog) if "account() of MemoryExporter is ignored" in line] == lines(caplog)
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    ("account", "counts"),
    [
        (Account(failed=100), (0, 4, 0, 0)),
        (Account(unsampled=100), (0, 0, 4, 0)),
        (Account(queued=100), (0, 0, 0, 4)),
        (Account(3, 3, 3), (0, 3, 1, 0)),
        (Account(1 << 70, 1 << 70, 1 << 70), (0, 4, 0, 0)),
        (Account(1, True, 1), (1, 1, 1, 1)),
    ],
)
def test_an_account_of_too_many_spans_makes_no_count_negative(account, counts):
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    exporter.account = lambda: account
    balance = Balance()
    end(4)
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed, balance.unsampled, balance.queued) == counts
    assert tracekit.shutdown(60)
    assert (balance.exported, balance.failed, balance.unsampled, balance.queued) == (
        counts[0],
        counts[1] + counts[3],
        counts[2],
        0,
    )


def test_an_account_that_takes_its_time_does_not_stop_statistics():
    exporter = MemoryExporter()
    tracekit.configure(exporter=exporter, export_interval_s=0.001)
    asked, answer = threading.Event(), threading.Event()

    def account():
        asked.set()
        assert answer.wait(20)
        return Account()

    exporter.account = account
    end(3)
    assert asked.wait(20)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(tracekit.statistics()), daemon=True)
    thread.start()
    thread.join(20)
    answer.set()
    assert seen


# ---- an exporter that changes its batch


@pytest.mark.parametrize("change", [list.clear, lambda spans: spans.pop(), lambda spans: spans.extend(spans)])
@pytest.mark.parametrize("error", [None, ValueError("down")])
def test_an_exporter_that_changes_its_list_does_not_change_the_counts(change, error):
    class Changes(MemoryExporter):
        def export(self, spans):
            change(spans)
            if error is not None:
                raise error

    tracekit.configure(exporter=Changes(), export_interval_s=LONG, batch_size=3)
    balance = Balance()
    end(5)
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed, balance.queued) == ((0, 5, 0) if error else (5, 0, 0))


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


class Exiting(logging.Handler):
    def emit(self, record):
        raise SystemExit


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
    until(lambda: not worker.is_served.locked())
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
        patch.setattr(worker, "_START_AGAIN_S", LONG)
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
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "tracekit-export":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

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
    monkeypatch.setattr(worker, "start_thread", refuse)
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


PIPELINE = {Path(pipeline.__file__), Path(worker.__file__)}
CALLS = {
    "statistics": tracekit.statistics,
    "flush": lambda: tracekit.flush(0.01),
    "shutdown": lambda: tracekit.shutdown(0.01),
    "configure": lambda: tracekit.configure(exporter=MemoryExporter(), environ={}),
    "span": lambda: end(1),
}


@pytest.mark.parametrize("interrupting", ["statistics", "flush", "shutdown", "span"])
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


@pytest.mark.parametrize("call", [tracekit.flush, tracekit.shutdown], ids=["flush", "shutdown"])
@pytest.mark.parametrize("timeout_s", [float("-inf"), -1, -(10**400), -0.0, 0, float("nan")])
def test_a_timeout_that_is_not_above_0_does_not_wait(call, timeout_s, gate):
    assert not call(timeout_s)


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
