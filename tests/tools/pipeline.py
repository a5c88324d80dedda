"""Exporters and counts, for the tests of the pipeline."""

from __future__ import annotations

import gc
import logging
import threading
import time

import tracekit
from tracekit import Account
from tracekit.testing import MemoryExporter

from .accounts import statistics

LONG = 3600  # an interval that no test waits for


def end(count, name="job"):
    for _ in range(count):
        tracekit.span(name).end()


def until(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def refuse_threads(monkeypatch, name):
    """No thread of this *name* can be started, as none can at the exit of CPython 3.12.0 and 3.12.1."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == name:
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


class Discard:
    """An exporter that keeps nothing."""

    def export(self, spans):
        pass

    def shutdown(self):
        pass


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


class Exiting(logging.Handler):
    def emit(self, record):
        raise SystemExit
