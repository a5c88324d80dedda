"""Finished spans: into the buffer, out of it, through the thread, into memory."""

from __future__ import annotations

import pytest

import tracekit
from tracekit.testing import MemoryExporter


def bench_buffer_add_and_drain_1000(benchmark, form):
    form.set_tracer(form.Tracer(recording=True))
    spans = [form.span("work") for _ in range(1000)]
    form.set_tracer(form.Tracer())
    buffer = form.buffer
    buffer.is_open = True

    def fill_and_drain():
        for span in spans:
            buffer.end(span, True)
        return buffer.drain()

    try:
        assert len(benchmark(fill_and_drain)) == 1000
    finally:
        buffer.is_open = False
        for span in spans:
            span.end()
        buffer.reset()


def bench_full_buffer(benchmark, recording):
    buffer = recording.buffer
    capacity, buffer.capacity, buffer.wake = buffer.capacity, 2, None
    try:
        with recording.span("parent"):
            benchmark(lambda: recording.span("work").end())
    finally:
        buffer.capacity = capacity


@pytest.mark.parametrize("spans", [1, 1000])
def bench_export_to_memory(benchmark, spans):
    exporter = MemoryExporter()
    tracekit.configure(service="bench", exporter=exporter)

    def export():
        for _ in range(spans):
            tracekit.span("work").end()
        tracekit.flush()
        exporter._spans.clear()

    benchmark(export)
    tracekit.configure()


def bench_statistics(benchmark, configure):
    configure()
    benchmark(tracekit.statistics)
