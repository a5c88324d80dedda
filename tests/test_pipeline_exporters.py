"""The export pipeline: whatever the exporter does, the program continues and every span is counted."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

import pytest

import tracekit
from tracekit import Account, _configure
from tracekit._core.buffer import Buffer
from tracekit._core.free_threading import HAS_GIL
from tracekit.testing import MemoryExporter, recording

from .tools.pipeline import LONG, Balance, Holding, Raising, end, lines, until

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
