"""An exporter that is made with the first batch, and then does what it would have done from the beginning."""

from __future__ import annotations

import threading

import tracekit
from tracekit import Account
from tracekit._export.later import LaterExporter
from tracekit.testing import MemoryExporter


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
    later = LaterExporter(lambda: made.append(Holding()) or made[0])
    tracekit.configure(exporter=later)
    assert tracekit.flush()
    assert made == []
    tracekit.span("a").end()
    assert tracekit.flush()
    assert [span.name for span in made[0].spans] == ["a"]
    assert made[0].calls[:3] == [False, "start", "flush"]
    assert tracekit.statistics().queued == 1
    later.hurry()
    assert made[0].calls[-1] == "hurry"
    assert tracekit.shutdown()
    assert made[0].calls[-1] == "shutdown"


def test_without_spans_no_exporter_is_made():
    later = LaterExporter(lambda: 1 / 0)
    tracekit.configure(exporter=later)
    later.hurry()
    assert later.account() == Account()
    assert tracekit.shutdown()


def test_spans_that_no_exporter_could_be_made_for_count_as_failed(caplog):
    before = tracekit.statistics().failed
    tracekit.configure(exporter=LaterExporter(lambda: None))
    tracekit.span("a").end()
    assert tracekit.flush()
    assert tracekit.statistics().failed == before + 1
    assert "there is no exporter" in caplog.text
