"""Spans and scopes, recorded and not; what must not grow is measured at several sizes."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from tracekit._core.labels import Labels

from . import inputs


@pytest.fixture(params=["recorded", "unsampled", "unconfigured"])
def mode(request, form):
    """The form's module in one of the three states that a program may be in."""
    if request.param != "unconfigured":
        request.getfixturevalue("recording")
    if request.param == "unsampled":
        form.set_tracer(form.Tracer(recording=True, threshold=1 << 56))
    return form


def _open_and_close(form):
    span = form.span

    def work():
        with span("work"):
            pass

    return work


def bench_root(benchmark, mode):
    benchmark(_open_and_close(mode))


def bench_child(benchmark, mode):
    with mode.span("parent"):
        benchmark(_open_and_close(mode))


def bench_start_and_end(benchmark, mode):
    span = mode.span
    with span("parent"):
        benchmark(lambda: span("work").end())


def bench_child_of_remote(benchmark, recording):
    with recording.context_scope(recording.parse_traceparent(inputs.TRACEPARENT)):
        benchmark(_open_and_close(recording))


def bench_with_five_attributes(benchmark, mode):
    span, attributes = mode.span, inputs.attributes_of(42)

    def work():
        with span("work", attributes=attributes):
            pass

    benchmark(work)


def bench_with_an_exception(benchmark, recording):
    span = recording.span

    def work():
        try:
            with span("work"):
                raise ValueError("no such item")
        except ValueError:
            pass

    benchmark(work)


@pytest.mark.parametrize("depth", [1, 10, 100, 1000])
def bench_depth(benchmark, recording, depth):
    with ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(recording.span("nested"))
        benchmark(_open_and_close(recording))


@pytest.mark.parametrize("children", [1, 10, 100, 1000])
def bench_wide(benchmark, recording, children):
    """Time a whole trace: divide by its children."""
    span = recording.span

    def trace():
        with span("parent"):
            for _ in range(children):
                with span("child"):
                    pass

    benchmark(trace)


@pytest.mark.parametrize("tasks", [0, 1000])
def bench_beside_live_tasks(benchmark, recording, tasks):
    release = asyncio.Event()

    async def live():
        with recording.span("task"):
            await release.wait()

    async def measure():
        with recording.span("request"):
            running = [asyncio.create_task(live()) for _ in range(tasks)]
            await asyncio.sleep(0)
            benchmark(_open_and_close(recording))
            release.set()
            await asyncio.gather(*running)

    asyncio.run(measure())


def bench_set_attribute(benchmark, mode):
    span = mode.span("work")
    benchmark(span.set_attribute, "cart.items", 3)
    span.end()


@pytest.mark.parametrize(
    "value", [3, "gold", 0.25, True, b"\0\1", ["a", "b"], {"a": 1}, "x" * 5000, object()], ids=repr
)
def bench_set_attribute_to(benchmark, recording, value):
    span = recording.span("work")
    benchmark(span.set_attribute, "key", value)
    span.end()


def bench_add_event(benchmark, mode):
    """Past 128 events a span only counts them: the timed span has 100."""
    span = mode.span

    def events():
        one = span("work")
        for _ in range(100):
            one.add_event("cache miss")
        one.end()

    benchmark(events)


def bench_record_exception(benchmark, recording):
    def record():
        span = recording.span("work")
        span.record_exception(ValueError("no such item"))
        span.end()

    benchmark(record)


@pytest.mark.parametrize("current", ["nothing", "span", "remote", "labels"])
@pytest.mark.parametrize("function", ["current_span", "current_context"])
def bench_current(benchmark, recording, function, current):
    span = recording.span("parent")
    remote = recording.parse_traceparent(inputs.TRACEPARENT)
    labels = Labels(inputs.LABELS)
    scope = {
        "nothing": lambda: recording.context_scope(None),
        "span": lambda: recording.span_scope(span),
        "remote": lambda: recording.context_scope(remote),
        "labels": lambda: recording.label_scope(labels),
    }[current]()
    with scope:
        benchmark(getattr(recording, function))
    span.end()


@pytest.mark.parametrize("kind", ["span", "remote", "labels"])
def bench_use(benchmark, recording, kind):
    span = recording.span("parent")
    make, argument = {
        "span": (recording.span_scope, span),
        "remote": (recording.context_scope, recording.parse_traceparent(inputs.TRACEPARENT)),
        "labels": (recording.label_scope, Labels(inputs.LABELS)),
    }[kind]

    def work():
        with make(argument):
            pass

    benchmark(work)
    span.end()
