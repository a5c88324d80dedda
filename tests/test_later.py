"""An exporter that is made with the first batch, and then does what it would have done from the beginning."""

from __future__ import annotations

import threading

import pytest

import tracekit
from tracekit import Account
from tracekit._core.buffer import buffer
from tracekit._core.otlp import GROUP, IS_QUICK
from tracekit._export.stand_ins import LaterExporter
from tracekit.exporters.otlp import OTLPExporter
from tracekit.testing import MemoryExporter

from .exporters.collector import Collector


class Holding(MemoryExporter):
    def __init__(self):
        super().__init__()
        self.calls = [threading.current_thread() is threading.main_thread()]

    def start(self):
        self.calls.append("start")

    def flush(self, timeout_s):
        self.calls.append("flush")
        return True

    def account(self):
        return Account(queued=1) if self.spans else Account()

    def hurry(self):
        self.calls.append("hurry")

    def shutdown(self):
        self.calls.append("shutdown")


def test_the_exporter_is_made_with_the_first_spans_in_the_thread_that_exports():
    made = []
    tracekit.configure(exporter=LaterExporter(lambda: made.append(Holding()) or made[0]))
    assert tracekit.flush(60)
    assert made == []
    tracekit.span("a").end()
    assert tracekit.flush(60)
    assert [span.name for span in made[0].spans] == ["a"]
    assert made[0].calls[:3] == [False, "start", "flush"]
    assert tracekit.statistics().queued == 1
    del made[0].calls[:]
    assert tracekit.shutdown(60)
    assert made[0].calls == ["hurry", "shutdown"]


def test_without_spans_no_exporter_is_made():
    tracekit.configure(exporter=LaterExporter(lambda: 1 / 0))
    assert tracekit.flush(60)
    assert tracekit.shutdown(60)


def test_spans_that_no_exporter_could_be_made_for_count_as_failed(caplog):
    before = tracekit.statistics().failed
    tracekit.configure(exporter=LaterExporter(lambda: None))
    tracekit.span("a").end()
    assert tracekit.flush(60)
    assert tracekit.statistics().failed == before + 1
    assert "there is no exporter" in caplog.text


def test_an_exporter_that_cannot_be_made_is_tried_again_with_the_next_spans(caplog):
    before = tracekit.statistics()
    kept = MemoryExporter()
    made = iter([lambda: 1 / 0, lambda: kept])
    tracekit.configure(exporter=LaterExporter(lambda: next(made)()))
    for name in ("first", "second"):
        tracekit.span(name).end()
        assert tracekit.flush(60)
    assert [span.name for span in kept.spans] == ["second"]
    assert "ZeroDivisionError" in caplog.text
    now = tracekit.statistics()
    assert (now.failed - before.failed, now.exported - before.exported) == (1, 1)


@pytest.mark.skipif(not IS_QUICK, reason="only the compiled form encodes spans where they end")
def test_spans_are_encoded_where_they_end_once_the_exporter_is_made():
    with Collector() as collector:
        tracekit.configure(
            exporter=LaterExporter(lambda: OTLPExporter(collector.url, environ={})), export_interval_s=3600
        )
        tracekit.span("first").end()
        assert tracekit.flush(60)
        assert buffer.mark == GROUP - 1
        for _ in range(GROUP):
            tracekit.span("next").end()
        assert len(buffer) == 0
        assert tracekit.flush(60)
        assert len(collector.spans) == 1 + GROUP


class Preparing(MemoryExporter):
    @property
    def prepared_export(self):
        return self.export

    def prepare(self, spans):
        return spans

    def deliver(self, parcels):
        for spans in parcels:
            self.export(spans)


def test_an_exporter_that_is_made_after_its_pipeline_was_given_up_changes_nothing():
    begun, release = threading.Event(), threading.Event()

    def make():
        begun.set()
        assert release.wait(20)
        return Preparing()

    tracekit.configure(exporter=LaterExporter(make), export_interval_s=0.01)
    tracekit.span("lost").end()
    assert begun.wait(20)
    late = [thread for thread in threading.enumerate() if thread.name == "tracekit-export"]
    assert not tracekit.shutdown(timeout_s=0.01)
    tracekit.configure(exporter=MemoryExporter())
    mark = buffer.mark
    release.set()
    for thread in late:
        thread.join(20)
    assert buffer.mark == mark
