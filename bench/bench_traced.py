"""``@traced`` and the public scopes, on the active form."""

from __future__ import annotations

import pytest

import tracekit

from . import inputs


@pytest.fixture(autouse=True)
def _recording(configure):
    configure()


def bench_untraced_function(benchmark):
    benchmark(lambda: None)


def bench_traced_function(benchmark):
    benchmark(tracekit.traced(lambda: None))


def bench_traced_coroutine(benchmark):
    @tracekit.traced
    async def work():
        pass

    def run():
        try:
            work().send(None)
        except StopIteration:
            pass

    benchmark(run)


def bench_traced_generator_step(benchmark):
    @tracekit.traced
    def endless():
        while True:
            yield

    generator = endless()
    benchmark(generator.__next__)
    generator.close()


def bench_traced_async_generator_step(benchmark):
    @tracekit.traced
    async def endless():
        while True:
            yield

    generator = endless()

    def step():
        try:
            generator.__anext__().send(None)
        except StopIteration:
            pass

    benchmark(step)
    with pytest.raises(StopIteration):
        generator.aclose().send(None)


def bench_use_labels(benchmark):
    def work():
        with tracekit.use_labels(tenant="acme"):
            pass

    benchmark(work)


def bench_use_labels_in_labels(benchmark):
    def work():
        with tracekit.use_labels(tenant="other"):
            pass

    with tracekit.use_labels(inputs.LABELS):
        benchmark(work)


def bench_current_labels(benchmark):
    with tracekit.use_labels(inputs.LABELS):
        benchmark(tracekit.current_labels)


def bench_new_context(benchmark):
    with tracekit.span("work") as span:
        benchmark(tracekit.new_context, span)
