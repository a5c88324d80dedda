"""Spools that are damaged, foreign, locked or full, and batches that always fail."""

from __future__ import annotations

import itertools
import logging
import shutil
import sqlite3
import threading
from collections import Counter
from types import SimpleNamespace

import pytest

import tracekit
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp import outbox as _outbox
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters._otlp import spool as _spool
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters._sqlite import errors as _errors
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.sqlite import StoreError

from ..tools.pipeline import Balance, Exiting, refuse_threads
from ..tools.ports import free_port
from .collector import Collector, refuse, take
from .test_otlp import exporter, lines, made, until
from .test_outbox import adds_up, put, rows


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool.db"


def names_in(request):
    return [span.name for outer in request.resource_spans for inner in outer.scope_spans for span in inner.spans]


class Poisoned:
    """Accepts every batch except those with a span called poison, which it answers with *status*."""

    def __init__(self, status=503):
        self.status = status
        self.tries = 0

    def __call__(self, handler, request):
        if any("poison" in name for name in names_in(request)):
            self.tries += 1
            refuse(self.status)(handler, request)
        else:
            take(handler, request)


# ---- batches that always fail


@pytest.mark.parametrize("count", [1, 5])
def test_batches_pass_those_that_always_fail(collector, spool, count):
    poisoned = Poisoned()
    collector.answers = itertools.repeat(poisoned)
    sender = exporter(collector, spool=spool)
    for number in range(count):
        sender.export(made(1, f"poison {number}"))
    for number in range(10):
        sender.export(made(1, f"good {number}"))
    until(lambda: sender.ledger().sent == 10)
    assert sender.ledger()[:5] == (10 + count, 10, 0, 0, count)
    assert len(collector.spans) == 10
    assert poisoned.tries >= count
    sender.shutdown()


def test_a_batch_that_always_fails_is_set_aside(collector, spool, monkeypatch, caplog):
    monkeypatch.setattr(_outbox, "MAX_FAILURES", 4)
    poisoned = Poisoned()
    collector.answers = itertools.repeat(poisoned)
    sender = exporter(collector, spool=spool)
    sender.export(made(3, "poison"))
    good = 0
    while not sender.ledger().aside:
        sender.export(made(1))
        good += 1
        until(lambda good=good: len(collector.spans) == good)
    assert sender.flush(20), "no batch waits any longer"
    assert sender.ledger() == (3 + good, good, 0, 0, 0, 0, 3)
    assert adds_up(sender.ledger())
    sender.shutdown()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("3 spans set aside in the spool, after 32 failures while others were taken: ")


def test_the_next_process_tries_batches_that_were_set_aside_once_more(collector, spool):
    outbox = Outbox(spool)
    for number in range(_outbox.MAX_FAILURES + 1):
        outbox.put(b"", spans=3, content_type="application/x-protobuf", content_encoding="")
        if number:
            batch = outbox.take(60, early=True)
            outbox.sent(outbox.take(60))
            assert outbox.failed(batch, delay_s=0) == (number == _outbox.MAX_FAILURES)
    assert outbox.ledger().aside == 3
    assert (outbox.take(60, early=True), outbox.due_s()) == (None, None)
    outbox.close()
    collector.answers = iter([refuse(503)])
    sender = exporter(collector, spool=spool)
    sender.start()
    until(lambda: collector.headers)
    assert sender.flush(20)
    ledger = sender.ledger()
    assert (ledger.put, ledger.sent, ledger.aside) == (99, 99, 0)
    sender.shutdown()


def test_an_outage_however_long_sets_nothing_aside(spool, monkeypatch):
    monkeypatch.setattr(_outbox, "MAX_FAILURES", 2)
    with Collector(*[refuse(503)] * 8) as collector:
        sender = exporter(collector, spool=spool)
        for number in range(5):
            sender.export(made(1, str(number)))
        until(lambda: len(collector.spans) == 5)
        until(lambda: sender.ledger()[:5] == (5, 5, 0, 0, 0))  # the answer is counted after it is read
        assert sender.ledger().aside == 0
        sender.shutdown()


def test_a_flush_tries_every_batch_and_returns_false_if_one_is_left(collector, spool, monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 1000.0)
    poisoned = Poisoned()
    collector.answers = itertools.repeat(poisoned)
    sender = exporter(collector, spool=spool)
    sender.export(made(1, "poison"))
    until(lambda: poisoned.tries == 1)
    for number in range(5):
        sender.export(made(1, str(number)))
    assert not sender.flush(20)
    assert len(collector.spans) == 5
    assert poisoned.tries == 2
    sender.shutdown()


def test_a_flush_during_an_outage_stops_after_a_few_requests(spool, monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 1000.0)  # nothing is sent after the flush
    with Collector(*[refuse(503)] * 1000) as collector:
        sender = exporter(collector, spool=spool)
        for _ in range(50):
            sender._spool.outbox.put(b"", spans=1, content_type="application/x-protobuf", content_encoding="")
        assert not sender.flush(20)
        assert len(collector.headers) == 3
        sender._spool.sender.close(0.01)


def test_waits_of_a_batch_grow_and_differ():
    waits = [_answers.backoff_s(failures, 600.0) for failures in range(40)]
    assert all(0.005 * 2**at <= one <= 0.01 * 2**at for at, one in enumerate(waits[:10]))
    assert all(300 <= one <= 600 for one in waits[20:])
    assert len(set(waits[20:])) > 1


# ---- a spool that cannot be used


def foreign(path):
    path.write_bytes(b"something else" * 100)


def another_program(path):
    rows(path, "CREATE TABLE theirs (x)")


def with_a_trigger(path):
    outbox = Outbox(path)
    put(outbox)
    outbox.sent(outbox.take(60))
    outbox.close()
    rows(path, "CREATE TRIGGER swallow BEFORE INSERT ON batches BEGIN SELECT RAISE(IGNORE); END")


@pytest.mark.parametrize("spoil", [foreign, another_program, with_a_trigger, lambda path: path.mkdir()])
def test_while_the_spool_cannot_be_used_spans_are_sent_directly(spoil, collector, spool, caplog):
    spoil(spool)
    before = spool.read_bytes() if spool.is_file() else None
    tracekit.configure(exporter=exporter(collector, spool=spool), environ={})
    balance = Balance()
    for name in "abc":
        tracekit.span(name).end()
        tracekit.flush(20)
    assert collector.names == Counter("abc")
    assert (balance.exported, balance.failed, balance.queued) == (3, 0, 0)
    tracekit.configure()
    assert len([line for line in lines(caplog) if "sent directly" in line]) == 1
    assert (spool.read_bytes() if spool.is_file() else None) == before


def test_spans_that_neither_spool_nor_collector_accepts_are_counted(spool, caplog):
    foreign(spool)
    url = f"http://127.0.0.1:{free_port()}"
    tracekit.configure(exporter=OTLPExporter(url, environ={}, spool=spool, timeout_s=0.1), environ={})
    balance = Balance()
    tracekit.span("job").end()
    tracekit.flush(20)
    assert (balance.exported, balance.failed) == (0, 1)
    tracekit.configure()


def test_a_spool_is_used_again_as_soon_as_it_can_be(collector, spool):
    foreign(spool)
    sender = exporter(collector, spool=spool)
    sender.export(made(1, "direct"))
    spool.unlink()
    sender._spool._again = 0.0
    sender.export(made(1, "spooled"))
    assert sender.flush(20)
    assert sender.ledger()[:2] == (1, 1)
    assert len(collector.spans) == 2
    sender.shutdown()


def test_only_one_batch_waits_for_a_locked_spool(collector, spool, monkeypatch):
    sender = exporter(collector, spool=spool)
    sender.export(made())
    assert sender.flush(20)
    sender._spool.outbox._file.lock_timeout_s = 0.1
    monkeypatch.setattr(_spool, "_IDLE", 1e6)
    other = sqlite3.connect(spool, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    put_one = sender._spool.outbox.put
    tried = []
    monkeypatch.setattr(sender._spool.outbox, "put", lambda *body, **rest: tried.append(1) or put_one(*body, **rest))
    for number in range(3):
        sender.export(made(1, str(number)))
    assert len(collector.spans) == 4
    assert len(tried) == 1
    other.close()
    sender.shutdown()


def test_on_a_full_disk_spans_are_sent_directly(collector, spool, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    sender = exporter(collector, spool=spool)
    sender.export(made(3))
    assert len(collector.spans) == 3
    assert sender.account().failed == 0
    sender.shutdown()


def damaged(path):
    outbox = Outbox(path)
    put(outbox, b"x" * 10_000)
    outbox.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\x05" * (len(whole) - 100))


def damaged_header(path):
    outbox = Outbox(path)
    outbox.ledger()
    outbox.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:16] + b"\xff\xff\xff\xff" + whole[20:])


def changed(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def without_its_ledger_row(path):
    outbox = Outbox(path)
    put(outbox)
    outbox.close()
    changed(path, "DELETE FROM ledger")


def with_names_that_are_no_text(path):
    outbox = Outbox(path)
    put(outbox)
    outbox.close()
    spoil = "UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT), sql = 'x' WHERE name = 'leases'"
    changed(path, "PRAGMA writable_schema=ON", spoil)


def with_text_in_its_ledger(path):
    outbox = Outbox(path)
    put(outbox)
    outbox.close()
    changed(path, "UPDATE ledger SET sent = 'x'")


DAMAGES = [
    damaged,
    damaged_header,
    without_its_ledger_row,
    with_text_in_its_ledger,
    with_names_that_are_no_text,
]


@pytest.mark.parametrize("spoil", DAMAGES)
def test_a_damaged_spool_is_renamed_and_replaced(spoil, collector, spool, caplog):
    spoil(spool)
    before = spool.read_bytes()
    tracekit.configure(exporter=exporter(collector, spool=spool), environ={})
    balance = Balance()
    for name in "abc":
        tracekit.span(name).end()
        assert tracekit.flush(20)
    assert collector.names == Counter("abc")
    assert (balance.exported, balance.failed) == (3, 0)
    tracekit.configure()
    aside = spool.with_name("spool.db.damaged")
    assert aside.read_bytes() == before
    assert rows(spool, "SELECT put, sent FROM ledger") == [(3, 3)]
    assert [line for line in lines(caplog) if "damaged" in line] == [
        f"the spool is damaged: it is {aside} now, with the batches that waited in it, and a new one is begun"
    ]


def test_damage_that_only_the_sender_finds_is_handled(collector, spool, monkeypatch):
    sender = exporter(collector, spool=spool)
    sender._spool.outbox.ledger()
    damages = iter([_errors.damaged(str(spool))])

    def fail_once(_):
        for damage in damages:
            raise damage

    monkeypatch.setattr(sender._spool.outbox._file, "check_disk", fail_once)  # in the transaction that takes a batch
    sender.start()
    until(lambda: spool.with_name("spool.db.damaged").exists())
    sender.export(made())
    assert sender.flush(20)
    assert len(collector.spans) == 1
    sender.shutdown()


@pytest.mark.parametrize("spoil", DAMAGES)
def test_every_call_on_a_damaged_spool_raises_a_store_error(spoil, spool):
    spoil(spool)
    before = spool.read_bytes()
    for call in (lambda outbox: outbox.ledger(), put, lambda outbox: outbox.take(60), lambda outbox: outbox.due_s()):
        outbox = Outbox(spool)
        with pytest.raises(StoreError, match=r"damaged: .*spool\.db: "):
            call(outbox)
        outbox.close()
    assert spool.read_bytes() == before


# An addition in SQLite takes text and blobs for numbers.
SPOILT_LEDGERS = [
    "DELETE FROM ledger",
    *[f"UPDATE ledger SET {column} = 'x'" for column in ("put", "sent", "rejected", "evicted")],
    "UPDATE ledger SET put = x'31'",
    "UPDATE ledger SET put = NULL",
    "UPDATE ledger SET put = 1.5",
    "UPDATE ledger SET put = -1",
    f"UPDATE ledger SET put = {2**63 - 1}",
    "INSERT INTO ledger VALUES ('x', 0, 0, 0)",
]


@pytest.mark.parametrize("spoil", SPOILT_LEDGERS)
def test_a_ledger_of_other_values_is_damaged_when_it_is_opened(spoil, spool):
    outbox = Outbox(spool)
    put(outbox)
    outbox.close()
    changed(spool, spoil)
    outbox = Outbox(spool)
    with pytest.raises(StoreError, match="damaged") as raised:
        outbox.ledger()
    assert raised.value.is_damaged
    outbox.close()


@pytest.mark.parametrize("spoil", SPOILT_LEDGERS)
def test_a_ledger_that_is_spoilt_while_it_is_open_is_a_store_error(spoil, spool):
    outbox = Outbox(spool)
    put(outbox)
    batch = outbox.take(60)
    changed(spool, spoil)
    found = rows(spool, "SELECT * FROM ledger")
    for call in (outbox.ledger, lambda: put(outbox), lambda: outbox.sent(batch)):
        with pytest.raises(StoreError, match="damaged"):
            call()
    assert rows(spool, "SELECT count(*) FROM batches") == [(1,)]
    assert rows(spool, "SELECT * FROM ledger") == found
    outbox.close()


def test_values_of_the_wrong_type_are_converted(spool):
    outbox = Outbox(spool)
    put(outbox)
    outbox.close()
    changed(spool, "UPDATE batches SET content_type = CAST(x'61ff' AS TEXT), spans = 'x', body = 'text'")
    outbox = Outbox(spool)
    batch = outbox.take(60)
    assert (batch.body, batch.spans, batch.content_type) == (b"text", 0, "a\ufffd")
    outbox.close()


def test_only_one_of_several_outboxes_renames_a_damaged_file(spool):
    damaged(spool)
    first, second = Outbox(spool), Outbox(spool)
    for outbox in (first, second):
        with pytest.raises(StoreError):
            outbox.ledger()
    assert first.set_aside() == f"{spool}.damaged"
    put(first)
    assert second.set_aside() == f"{spool}.damaged"
    first.close()
    second.close()


@pytest.mark.parametrize("spoil", [damaged, damaged_header])
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_new_file_of_another_thread_is_not_renamed(is_begun, spoil, spool):
    spoil(spool)
    outbox = Outbox(spool)
    close = outbox._file.close

    def begin_anew():
        with pytest.raises(StoreError):
            outbox.ledger()
        assert outbox.set_aside() is not None
        if is_begun:
            put(outbox)

    def close_late():
        outbox._file.close = close
        thread = threading.Thread(target=begin_anew)
        thread.start()
        thread.join(20)
        close()

    outbox._file.close = close_late
    with pytest.raises(StoreError) as caught:
        outbox.ledger()
    assert caught.value.is_damaged
    assert outbox.set_aside() == f"{spool}.damaged"
    assert outbox.ledger().put == is_begun
    outbox.close()


def test_a_file_that_is_not_a_spool_is_never_renamed(spool):
    for spoil in (foreign, another_program):
        spoil(spool)
        assert Outbox(spool).set_aside() is None
        assert spool.exists()
        spool.unlink()
    assert Outbox(spool).set_aside() is None


# ---- the sending thread


class Exits(Exception):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize("error", [SystemExit(), Exits(), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_the_sending_thread_survives_exceptions(error, collector, spool, monkeypatch):
    monkeypatch.setattr(_sender, "_STORE_S", 0.001)
    sender = exporter(collector, spool=spool)
    take_one = sender._spool.outbox.take
    errors = iter([error])

    def fail_once(*arguments, **options):
        for one in errors:
            raise one
        return take_one(*arguments, **options)

    monkeypatch.setattr(sender._spool.outbox, "take", fail_once)
    sender.export(made())
    until(lambda: len(collector.spans) == 1)
    sender.shutdown()


def test_a_log_handler_that_exits_does_not_end_the_sending_thread(spool):
    handler = Exiting()
    logger = logging.getLogger("tracekit")
    logger.addHandler(handler)
    try:
        with Collector(refuse(503), refuse(400)) as collector:
            sender = exporter(collector, spool=spool)
            thread = sender._spool.sender
            for number in range(3):
                sender.export(made(1, str(number)))
            until(lambda: sender.ledger().waiting == 0)
            assert thread._thread.is_alive()
            assert (sender.ledger().rejected, len(collector.spans)) == (1, 2)
            sender.shutdown()
    finally:
        logger.removeHandler(handler)


def test_a_sending_thread_that_is_gone_is_started_again(collector, spool, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    sender = exporter(collector, spool=spool)
    ended = threading.Event()
    turn = sender._spool.sender._turn

    def end_once():
        if not ended.is_set():
            ended.set()
            raise SystemExit
        return turn()

    sender._spool.sender._turn = end_once
    sender.export(made(1, "first"))
    assert ended.wait(20)
    until(lambda: sender._spool.sender._thread is None)
    sender.export(made(1, "second"))
    until(lambda: len(collector.spans) == 2)
    ended.clear()
    until(lambda: sender.flush(20))
    sender.shutdown()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), PermissionError("an audit hook")], ids=repr)
def test_a_sending_thread_that_could_not_be_started_is_started_by_the_next_batch(error, collector, spool, monkeypatch):
    def refuse(_):
        raise error

    sender = exporter(collector, spool=spool)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        sender.export(made(1, "first"))
    assert sender.ledger().waiting == 1
    sender.export(made(1, "second"))
    until(lambda: len(collector.spans) == 2)
    sender.shutdown()


def test_where_no_thread_can_be_started_the_spool_is_emptied_by_shutdown(collector, spool, monkeypatch):
    refuse_threads(monkeypatch, "tracekit-send")
    sender = exporter(collector, spool=spool)
    sender.export(made(1, "first"))
    sender.export(made(1, "second"))
    send, timeouts = sender._client.send, []
    monkeypatch.setattr(sender._client, "send", lambda *request: timeouts.append(request[-1]) or send(*request))
    sender.shutdown()
    assert [span.name for span in collector.spans] == ["first 0", "second 0"]
    assert all(timeout_s <= 3 for timeout_s in timeouts)
    sender.start()
    sender.shutdown()
    assert len(collector.spans) == 2


def test_one_thread_sends_although_it_is_woken_again_before_it_runs(collector, spool):
    """A second one would end at once, and with it the wait of ``shutdown()``, before the first has sent anything."""
    sender = exporter(collector, spool=spool)
    inner = sender._spool.sender
    run, may_run = inner._run, threading.Event()
    before = {*threading.enumerate()}
    inner._run = lambda: may_run.wait(60) and run()
    sender.export(made())
    sender.start()
    assert not sender.flush(0)
    assert [thread.name for thread in {*threading.enumerate()} - before].count("tracekit-send") == 1
    may_run.set()
    assert sender.flush(60)
    sender.shutdown()
    assert len(collector.spans) == 1


@pytest.mark.parametrize("timeout_s", [float("inf"), 1e300, -1, float("-inf")])
def test_a_flush_of_the_spool_accepts_any_timeout(timeout_s, collector, spool):
    sender = exporter(collector, spool=spool)
    sender.export(made())
    assert sender.flush(timeout_s) or timeout_s < 0
    assert sender.flush(20)
    sender.shutdown()


def test_after_a_shutdown_a_flush_of_the_old_sender_does_not_wait(collector, spool):
    sender = exporter(collector, spool=spool)
    sender.export(made())
    assert sender.flush(20)
    old = sender._spool.sender
    sender.shutdown()
    assert not old.flush(float("inf"))
