"""Exporters that prepare spans: in pieces as they come, delivered together, and counted as any others."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

import tracekit
from tracekit import _configure
from tracekit._core.buffer import buffer
from tracekit._export.worker import MARK
from tracekit.testing import MemoryExporter

from .tools.pipeline import LONG, Balance, end, lines, until


class Preparing:
    """An exporter whose parcels are the names of spans."""

    def __init__(self):
        self.prepared, self.delivered, self.references = [], [], []

    def export(self, spans):
        self.deliver([self.prepare(spans)])

    prepared_export = export

    def prepare(self, spans):
        self.prepared.append(len(spans))
        self.references += map(weakref.ref, spans)
        return [span.name for span in spans]

    def deliver(self, parcels):
        self.delivered.append([name for parcel in parcels for name in parcel])

    def shutdown(self): ...


@pytest.fixture
def preparing():
    exporter = Preparing()
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    return exporter


def test_spans_are_prepared_as_they_come_and_freed(preparing):
    balance = Balance()
    end(MARK + 1)
    until(lambda: preparing.prepared)
    until(lambda: not any(reference() for reference in preparing.references))
    assert preparing.delivered == []
    assert (balance.queued, balance.exported) == (MARK + 1, 0)


def test_prepared_spans_are_delivered_when_they_are_a_batch():
    exporter = Preparing()
    tracekit.configure(exporter=exporter, export_interval_s=LONG, batch_size=700)
    balance = Balance()
    end(1500)
    until(lambda: len(exporter.delivered) >= 1)
    assert tracekit.flush(60)
    assert max(map(len, exporter.delivered)) == 700
    assert sum(map(len, exporter.delivered)) == balance.exported == 1500


def test_prepared_spans_are_delivered_at_the_end_of_the_interval_without_another_span():
    exporter = Preparing()
    tracekit.configure(exporter=exporter, export_interval_s=0.05)
    end(MARK + 1)
    until(lambda: sum(map(len, exporter.delivered)) == MARK + 1)


@pytest.mark.parametrize("finish", [tracekit.flush, tracekit.shutdown])
def test_prepared_spans_are_delivered_by_flush_and_shutdown(finish, preparing):
    balance = Balance()
    end(MARK + 1, "early")
    until(lambda: preparing.prepared)
    end(1, "late")
    assert finish()
    assert preparing.delivered == [["early"] * (MARK + 1) + ["late"]]
    assert (balance.exported, balance.queued) == (MARK + 2, 0)


def test_a_small_buffer_is_drained_at_half_full():
    exporter = Preparing()
    tracekit.configure(exporter=exporter, export_interval_s=LONG, buffer_size=16)
    end(9)
    until(lambda: exporter.prepared == [9])
    tracekit.configure(exporter=MemoryExporter(), export_interval_s=LONG)
    assert buffer.mark == buffer.capacity // 2


@pytest.mark.parametrize("how", ["subclass", "instance"])
def test_an_export_that_replaces_the_exporters_own_is_called(how):
    got = []

    class Counting(Preparing):
        def export(self, spans):
            got.append(len(spans))
            super().export(spans)

    exporter = Counting() if how == "subclass" else Preparing()
    if how == "instance":
        exporter.export = lambda spans: got.append(len(spans))
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    end(3)
    assert tracekit.flush(60)
    assert got == [3]


def test_a_failure_to_prepare_loses_only_its_piece(preparing, caplog, monkeypatch):
    balance = Balance()
    prepare = preparing.prepare

    def failing(spans):
        monkeypatch.setattr(preparing, "prepare", prepare)
        raise RuntimeError("no form for this")

    monkeypatch.setattr(preparing, "prepare", failing)
    end(MARK + 1)
    until(lambda: balance.failed)
    end(2)
    assert tracekit.flush(60)
    assert (balance.failed, balance.exported, balance.queued) == (MARK + 1, 2, 0)
    assert "no form for this" in lines(caplog)[0]


def test_a_failure_to_deliver_loses_all_that_is_prepared(preparing, caplog, monkeypatch):
    def failing(parcels):
        raise OSError("no way")

    monkeypatch.setattr(preparing, "deliver", failing)
    balance = Balance()
    end(MARK + 1)
    until(lambda: preparing.prepared)
    end(2)
    assert tracekit.flush(60)
    assert (balance.failed, balance.exported, balance.queued) == (MARK + 3, 0, 0)
    assert "no way" in lines(caplog)[0]


def test_an_exporter_delivers_what_it_has_prepared_before_its_successor_does(preparing):
    end(MARK + 1, "first")
    until(lambda: preparing.prepared)
    successor = Preparing()
    _configure._pipeline.exporter = successor
    end(1, "second")
    assert tracekit.flush(60)
    assert preparing.delivered == [["first"] * (MARK + 1)]
    assert successor.delivered == [["second"]]


def test_spans_that_are_prepared_for_an_exporter_that_is_given_up_have_failed():
    release = threading.Event()

    class Hanging(Preparing):
        def deliver(self, parcels):
            release.wait(20)

        def export(self, spans): ...

        prepared_export = export

    balance = Balance()
    exporter = Hanging()
    tracekit.configure(exporter=exporter, export_interval_s=LONG)
    end(MARK + 1)
    until(lambda: exporter.prepared)
    assert not tracekit.flush(0.01)
    _configure._pipeline.use(None, capacity=16384, interval_s=1.0, timeout_s=0.01)
    assert (balance.failed, balance.exported, balance.queued) == (MARK + 1, 0, 0)
    release.set()
    assert balance.failed == MARK + 1


_FORK = """
import os
import tracekit
from tests.test_prepared_spans import LONG, MARK, Preparing, end, until

exporter = Preparing()
tracekit.configure(exporter=exporter, export_interval_s=LONG)
end(MARK + 1, "parent")
until(lambda: exporter.prepared)
child = os.fork()
end(1, "child" if child == 0 else "late")
assert tracekit.flush(20)
(delivered,) = exporter.delivered
line = " ".join(map(str, [*sorted(set(delivered)), len(delivered), tracekit.statistics().failed]))
os.write(1, f"{line}\\n".encode())  # at once: two processes write
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.slow
def test_prepared_spans_of_the_parent_are_delivered_by_the_parent_alone():
    command = [sys.executable, "-c", _FORK]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1]
    )
    assert sorted(done.stdout.splitlines()) == ["child 1 0", f"late parent {MARK + 2} 0"]
