"""Exporters: what a batch of finished spans costs their thread."""

from __future__ import annotations

import io
import os

import pytest

import tracekit
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters.console import ConsoleExporter
from tracekit.exporters.sqlite import SQLiteExporter
from tracekit.exporters.tail import TailSampler

from . import inputs
from .contender_tracekit import NullExporter


def _finished(count):
    """Return *count* finished spans with five attributes and an event each, children of one."""
    kept = []

    class Keep(NullExporter):
        def export(self, spans):
            kept.extend(spans)

    tracekit.configure(service="bench", exporter=Keep())
    with tracekit.span("parent"):
        for number in range(count - 1):
            with tracekit.span("work", attributes=inputs.attributes_of(number)) as span:
                span.add_event("cache miss")
    tracekit.configure()
    return kept


@pytest.mark.parametrize("count", [1, 100, 2000])
def bench_sqlite_batch(benchmark, tmp_path, count):
    """Time one batch: divide by its spans."""
    exporter = SQLiteExporter(tmp_path / "traces.db")
    spans = _finished(count)
    benchmark(exporter.export, spans)
    exporter.shutdown()


@pytest.mark.parametrize("count", [1, 100])
def bench_console_batch(benchmark, monkeypatch, count):
    """Time one batch: divide by its spans."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr("sys.stdout", io.StringIO())
    exporter = ConsoleExporter()
    spans = _finished(count)
    benchmark(exporter.export, spans)
    exporter.shutdown()


@pytest.fixture
def outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    yield outbox
    outbox.close()


def _put(outbox, body):
    outbox.put(body, spans=2000, content_type="application/x-protobuf", content_encoding="gzip")


@pytest.mark.parametrize("size", [2_000, 200_000])
def bench_outbox_put(benchmark, outbox, size):
    """Time keeping one batch."""
    benchmark.pedantic(_put, (outbox, os.urandom(size)), rounds=300)


@pytest.mark.parametrize("size", [2_000, 200_000])
def bench_outbox_take_and_sent(benchmark, outbox, size):
    """Time what one batch costs its sender."""
    body = os.urandom(size)
    for _ in range(300):
        _put(outbox, body)
    benchmark.pedantic(lambda: outbox.sent(outbox.take(60)), rounds=300)


@pytest.mark.parametrize("probability", [0.1, 1.0])
def bench_tail_batch(benchmark, probability):
    """Time one local trace of 2000 spans: divide by its spans."""
    spans = _finished(2000)

    def fresh():  # an old one remembers its decisions
        return (TailSampler(NullExporter(), probability=probability),), {}

    benchmark.pedantic(lambda exporter: exporter.export(spans), setup=fresh, rounds=50)
