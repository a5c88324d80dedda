"""Many spans through OpenTelemetry's API, from four threads, with Contexts that are detached in random order.

``python -m tests.bridges.test_opentelemetry_volume 1000000`` does it with a million spans and prints what is left.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
import tracemalloc
import weakref

import pytest
from opentelemetry import baggage, context, trace

import tracekit
from tests.tools.garbage import always_collecting
from tracekit.bridges import opentelemetry as bridge

THREADS = 4
SPANS_A_STEP = 3


class Value:
    """Reaches itself through a Context, a scope and the Context of OpenTelemetry."""


def step(tracer, chance, number):
    """Make three spans and three Contexts, detached in any order, some twice and some never."""
    value = Value()
    with tracer.start_as_current_span("a"):
        tokens = [context.attach(baggage.set_baggage("k", str(number))), context.attach(context.set_value("m", value))]
        value.token = tokens[1]
        with tracekit.span("b"):
            trace.get_current_span().get_span_context()
            span = tracer.start_span("c")
            span.anything = span
            with trace.use_span(span, end_on_exit=True):
                tokens.append(context.attach(context.set_value("n", context.get_current())))
                chance.shuffle(tokens)
                for token in tokens[: chance.randrange(4)]:
                    context.detach(token)
    for token in tokens[chance.randrange(3) :]:
        context.detach(token)
    return weakref.ref(value)


def make(count):
    """Make *count* spans in four threads, and return what they found wrong, and references that must be gone."""
    tracer = trace.get_tracer("volume")
    wrong = []
    references = []

    def work(seed):
        chance = random.Random(seed)
        try:
            for number in range(count // THREADS // SPANS_A_STEP):
                reference = step(tracer, chance, number)
                if number % 100 == 0:
                    references.append(reference)
            if context.get_current() or tracekit.current_context() is not None:
                wrong.append(context.get_current())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    return wrong, [reference for reference in references if reference() is not None]


def held(count):
    """Return how many octets are held more after *count* spans."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = make(count)
        tracekit.flush(60)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before, *result
    finally:
        tracemalloc.stop()


class Counter:
    def __init__(self):
        self.count = 0

    def export(self, spans):
        self.count += len(spans)

    def shutdown(self):
        pass


@pytest.fixture
def counter():
    made = Counter()
    tracekit.configure(service="volume", exporter=made, buffer_size=1 << 17, environ={})
    bridge.install()
    yield made
    bridge.uninstall()


def test_all_spans_are_accounted_for_and_memory_is_flat(counter):
    held(3000)  # caches and free lists that fill once
    before, earlier = counter.count, tracekit.statistics()
    more, wrong, left = held(12_000)
    assert wrong == []
    assert left == []
    assert counter.count - before == 12_000
    # The free lists of the threads, and code of CPython's JIT, where it is on.
    assert more < 400_000, "a step that leaked would hold some kilobytes, a thousand times"
    now = tracekit.statistics()
    assert (now.started - earlier.started, now.ended - earlier.ended) == (12_000, 12_000)
    assert (now.dropped, now.failed) == (earlier.dropped, earlier.failed)


def test_contexts_end_also_while_another_thread_collects_garbage(counter):
    with always_collecting():
        wrong, _ = make(6000)
    assert wrong == []


if __name__ == "__main__":
    import resource

    counter_ = Counter()
    tracekit.configure(service="volume", exporter=counter_, buffer_size=1 << 20, environ={})
    bridge.install()
    # In ten parts, with a flush after each: otherwise the peak is that of the queue, which the threads fill.
    part = int(sys.argv[1]) // 10 // THREADS // SPANS_A_STEP * THREADS * SPANS_A_STEP
    peaks, wrong_, left_ = [], [], []
    for _ in range(10):
        more_wrong, more_left = make(part)
        wrong_ += more_wrong
        left_ += more_left
        tracekit.flush(60)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(f"{counter_.count:,} of {10 * part:,} spans exported; peaks of memory in KiB after each tenth: {peaks}")
    print(f"wrong: {wrong_}; not collected: {left_}; {tracekit.statistics()}")
