"""Open spans are listed, oldest first, while someone watches; portions join up whatever ends in between."""

import gc
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracekit
import tracekit.testing
from tracekit._core.changes import resample
from tracekit._core.span import open_spans, watch_spans


@pytest.fixture(autouse=True)
def _watched(exporter):
    watch_spans(True)
    yield
    watch_spans(False)


def names(portion=3):
    taken = []
    while open_spans(taken, portion):
        pass
    return [span.name for span in taken]


def started(count):
    return [tracekit.span(str(number)) for number in range(count)]


def test_open_spans_come_in_the_order_of_their_start():
    spans = started(10)
    assert names() == [str(number) for number in range(10)]
    for at in (3, 0, 9):
        spans[at].end()
    assert names() == ["1", "2", "4", "5", "6", "7", "8"]


def test_a_span_that_is_deallocated_leaves_the_list():
    spans = started(3)
    del spans[1]
    gc.collect()
    assert names() == ["0", "2"]


def test_spans_may_start_and_end_while_the_list_is_read():
    class Starts:
        def __del__(self):
            kept.append(tracekit.span("by a finalizer"))
            kept.pop(0).end()

    kept = started(100)
    before = gc.get_threshold()
    try:
        for allocations in range(1, 120, 4):
            gc.collect()
            cycle = Starts()
            cycle.itself = cycle
            del cycle
            taken = []
            gc.set_threshold(allocations)
            open_spans(taken, 1000)
            gc.set_threshold(*before)
            assert 99 <= len(taken) <= 101
    finally:
        gc.set_threshold(*before)
        gc.collect()
        for span in kept:
            span.end()
        kept.clear()


@pytest.mark.parametrize("ended", [[2], [2, 1], [2, 1, 0], [0, 1]])
def test_a_portion_goes_on_where_the_last_one_ended_although_spans_have_ended(ended):
    spans = started(6)
    taken = []
    assert open_spans(taken, 3)
    for at in ended:
        spans[at].end()
    assert not open_spans(taken, 10)
    assert [span.name for span in taken] == [str(number) for number in range(6)]


def test_spans_that_start_in_between_are_in_a_later_portion():
    spans = started(2)
    taken = []
    open_spans(taken, 2)
    spans.append(tracekit.span("new"))
    open_spans(taken, 2)
    assert [span.name for span in taken] == ["0", "1", "new"]


def test_nothing_is_listed_where_nobody_watches():
    watch_spans(False)
    span = tracekit.span("unwatched")
    watch_spans(True)
    assert names() == []
    watched = tracekit.span("watched")
    watch_spans(False)
    assert names() == ["watched"]  # until it ends
    watched.end()
    assert names() == []
    span.end()
    watch_spans(True)


def test_a_span_that_is_not_recorded_is_not_listed():
    tracekit.configure(exporter=tracekit.testing.MemoryExporter(), sampler=tracekit.AlwaysOff())
    span = tracekit.span("unsampled")
    assert names() == []
    resample(span, True)
    assert names() == ["unsampled"]
    span.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_child_of_a_fork_has_none_of_its_parents_spans():
    spans = started(3)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert names() == []
            own = tracekit.span("own")
            for span in spans:
                span.end()
            assert names() == ["own"]
            own.end()
            assert names() == []
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert names() == ["0", "1", "2"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["start", "end", "drop"])), max_size=60), st.integers(1, 4)
)
def test_the_list_is_what_is_open(steps, portion):
    slots = {}
    order = []
    for slot, step in steps:
        if step == "start" and slot not in slots:
            slots[slot] = tracekit.span(f"{len(order)}")
            order.append(slots[slot].name)
        elif step == "end" and slot in slots:
            span = slots.pop(slot)
            order[int(span.name)] = None
            span.end()
        elif step == "drop" and slot in slots:
            order[int(slots[slot].name)] = None
            del slots[slot]
    assert names(portion) == [name for name in order if name is not None]
    slots.clear()
    span = None
    assert names(portion) == []
