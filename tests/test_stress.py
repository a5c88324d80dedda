"""Very many spans, threads and tasks: all accounted for, no id twice, and nothing grows."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading

import anyio
import anyio.lowlevel
import pytest

import tracekit

from .tools.accounts import statistics
from .tools.backends import BACKENDS
from .tools.pipeline import Discard

IS_PLAIN = tracekit.IMPLEMENTATION == "plain"


class Ids:
    """An exporter that keeps the ids of spans, and nothing else."""

    def __init__(self):
        self.ids = []

    def export(self, spans):
        self.ids += [span.context.id for span in spans]

    def shutdown(self):
        pass


def exit(scope):
    scope.__exit__(None, None, None)


def allocated():
    """How many blocks of memory are in use once all that has ended is gone."""
    tracekit.flush(60)
    gc.collect()
    return sys.getallocatedblocks()


def since(before):
    """What statistics() counted since *before*; checks that nothing is unaccounted for."""
    return tracekit.Statistics(*[new - old for new, old in zip(statistics(), before, strict=True)])


# ---- 200,000 spans, two rounds of them: the second must not need more memory than the first

SPANS = 50_000 if IS_PLAIN else 200_000  # the plain form makes the same statement in less time
THREADS = 8
TASKS = 1000


def in_threads():
    def work():
        for _ in range(SPANS // THREADS // 2):
            with tracekit.span("outer", attributes={"a": 1}), tracekit.span("inner"):
                pass

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def in_tasks():
    async def work():
        for number in range(SPANS // TASKS // 2):
            with tracekit.span("outer", attributes={"a": 1}), tracekit.span("inner"):
                if number % 10 == 0:  # every task has been suspended inside its spans ten times
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(TASKS):
            group.start_soon(work)


def check(before, ids):
    assert tracekit.flush(20)
    counts = since(before)
    assert (counts.started, counts.ended, counts.open) == (SPANS, SPANS, 0)
    assert (counts.queued, counts.failed, counts.unsampled) == (0, 0, 0)
    assert counts.exported == len(ids) == SPANS - counts.dropped
    assert len({id[16:] for id in ids}) == len(ids)
    assert 0 < len({id[:16] for id in ids}) <= SPANS // 2


def test_two_hundred_thousand_spans_of_eight_threads_are_accounted_for():
    exporter = Ids()
    tracekit.configure(exporter=exporter)
    sizes = []
    for _ in range(2):
        gc.collect()  # spans that earlier tests left in cycles end now, not in between
        before = tracekit.statistics()
        in_threads()
        check(before, exporter.ids)
        exporter.ids.clear()
        sizes.append(allocated())
    assert sizes[1] - sizes[0] < 2000


@pytest.mark.anyio
async def test_two_hundred_thousand_spans_of_a_thousand_tasks_are_accounted_for(anyio_backend):
    exporter = Ids()
    tracekit.configure(exporter=exporter)
    sizes = []
    for _ in range(2):
        gc.collect()  # spans that earlier tests left in cycles end now, not in between
        before = tracekit.statistics()
        await in_tasks()
        check(before, exporter.ids)
        exporter.ids.clear()
        sizes.append(allocated())
    assert sizes[1] - sizes[0] < 2000


def test_unsampled_spans_are_accounted_for_too():
    tracekit.configure(exporter=Discard(), sampler=tracekit.Ratio(0.01))
    gc.collect()  # spans that earlier tests left in cycles end now, not in between
    before = tracekit.statistics()
    in_threads()
    assert tracekit.flush(20)
    counts = since(before)
    assert (counts.ended, counts.exported + counts.dropped + counts.unsampled) == (SPANS, SPANS)
    assert counts.unsampled > SPANS * 0.98


# ---- nothing grows

# The plain form makes the same statement in less time.
STAGES = (2000, 20_000) if IS_PLAIN else (2000, 100_000)


def _in_turn(parent):
    def step():
        with tracekit.span("child"):
            pass

    return step


def _overlapping(parent):
    held = [tracekit.span("first").__enter__()]

    def step():
        held.append(tracekit.span("next", parent=parent).__enter__())
        exit(held.pop(0))

    return step


def _closed_elsewhere(parent):
    def step():
        span = tracekit.span("child").__enter__()
        contextvars.Context().run(exit, span)

    return step


def _closed_by_a_copy(parent):
    def step():
        span = tracekit.span("child").__enter__()
        contextvars.copy_context().run(exit, span)

    return step


def _labels_overlapping(parent):
    held = [tracekit.use_labels(a="1")]
    held[0].__enter__()

    def step():
        scope = tracekit.use_labels(a="2")
        scope.__enter__()
        held.append(scope)
        exit(held.pop(0))

    return step


def _handed_over(parent):
    held = [tracekit.span("first").__enter__()]
    context = contextvars.copy_context()

    def take_over():
        held.append(tracekit.span("next", parent=parent).__enter__())
        exit(held.pop(0))
        return contextvars.copy_context()

    def step():
        nonlocal context
        context = context.run(take_over)

    return step


LIVES = [_in_turn, _overlapping, _closed_elsewhere, _closed_by_a_copy, _labels_overlapping]
if tracekit.IMPLEMENTATION == "compiled":
    # The plain form cannot tell that the Context of a scope closed elsewhere is gone, and keeps what is under it.
    LIVES.append(_handed_over)


@pytest.mark.parametrize(
    "life",
    LIVES,
    ids=lambda life: life.__name__[1:],
)
def test_a_hundred_thousand_siblings_leave_nothing_behind(life):
    tracekit.configure(exporter=Discard())

    def run():
        with tracekit.span("parent") as parent:
            step = life(parent)
            for _ in range(1000):
                step()
            before = allocated()
            for count in STAGES:  # what grows fails early
                for _ in range(count):
                    step()
                assert allocated() - before < 2000

    contextvars.Context().run(run)


@pytest.mark.anyio
async def test_a_chain_of_tasks_that_each_start_the_next_does_not_grow(anyio_backend):
    tracekit.configure(exporter=Discard())
    sizes = {}
    parents = set()

    async with anyio.create_task_group() as group:

        async def tick(count):
            with tracekit.span("tick") as span:
                parents.add(span.parent.span_id)
                if count < 10_000:
                    group.start_soon(tick, count + 1)
            await anyio.lowlevel.checkpoint()
            if count in (1000, 9900):
                sizes[count] = allocated() - len(parents)

        with tracekit.span("first"):
            group.start_soon(tick, 1)
    assert len(parents) == 10_000, "each tick is the child of the one before"
    assert sizes[9900] - sizes[1000] < 15_000, "1.7 blocks a tick: the set of parents itself"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "anyio_backend", [backend for backend in BACKENDS.values() if backend[0] != "trio"], indirect=True
)
async def test_a_chain_of_timers_does_not_grow(anyio_backend):
    tracekit.configure(exporter=Discard())
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    sizes = {}

    def tick(count):
        with tracekit.span("tick") as span:
            assert span.parent is not None
            if count == 10_000:
                done.set()
            else:
                loop.call_soon(tick, count + 1)
        if count in (1000, 9900):
            sizes[count] = allocated()

    with tracekit.span("first"):
        loop.call_soon(tick, 1)
    await done.wait()
    assert sizes[9900] - sizes[1000] < 1000
