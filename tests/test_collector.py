"""Spans and the garbage collector: those that wait for export do not wake it, and it leaves the current ones current."""

from __future__ import annotations

import contextvars
import gc
import sysconfig
import threading

import pytest

import tracekit

from .tools.pipeline import Discard

COUNT = 100_000


@pytest.fixture
def buffered():
    """Spans wait in the buffer until the test ends."""
    tracekit.configure(exporter=Discard(), buffer_size=2 * COUNT + 10, export_interval_s=3600)
    yield
    tracekit.configure()


def bare(span, target):
    pass


def attributes(span, target):
    span.set_attribute("cart.items", 3)
    span.set_attributes({"url.path": "/items/42", "retry.delay": 0.25, "cached": True})


def events_and_links(span, target):
    span.add_event("cache miss", {"key": "items/42"})
    span.add_event("cache filled")
    span.add_link(target, {"reason": "batch"})
    span.add_link(target)


@pytest.mark.skipif(tracekit.IMPLEMENTATION == "plain", reason="the plain form keeps attributes in a dict")
@pytest.mark.parametrize("work", [bare, attributes, events_and_links])
def test_buffered_spans_cause_no_collection(buffered, work):
    target = tracekit.SpanContext("1" * 32, "2" * 16, 1)
    with tracekit.span("parent"):
        with tracekit.span("first", attributes={"item.id": 42, "cache.hit": False}) as span:
            work(span, target)
        gc.collect()
        before = [generation["collections"] for generation in gc.get_stats()]
        for _ in range(COUNT):
            with tracekit.span("work", attributes={"item.id": 42, "cache.hit": False}) as span:
                work(span, target)
        after = [generation["collections"] for generation in gc.get_stats()]
    assert tracekit.statistics().queued >= COUNT
    assert after == before


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a copy, as other threads may write")
def test_the_attributes_of_a_span_are_a_live_view(buffered):
    with tracekit.span("work", attributes={"a": 1}) as span:
        seen = span.attributes
        span.set_attribute("b", 2)
        span.set_attribute("a", 3)
        span.set_attributes({"c": 4})
    assert seen == {"a": 3, "b": 2, "c": 4} == dict(span.attributes)
    assert list(seen) == ["a", "b", "c"]
    with pytest.raises(TypeError):
        seen["a"] = 5


@pytest.mark.parametrize("others", [0, 1, 2])
def test_equal_keys_are_one_whatever_object_they_are(buffered, others):
    with tracekit.span("work", attributes={f"other {number}": number for number in range(others)}) as span:
        for key in ("k", "kéy", "k\u0101", "\U0001f600"):
            span.set_attribute(key, 1)
            span.set_attribute("".join(list(key)), 2)
            span.set_attributes({"".join(list(key)): 3})
    assert list(span.attributes.values())[others:] == [3, 3, 3, 3]


def test_a_limit_counts_keys_not_calls(buffered):
    tracekit.configure(exporter=Discard(), limits=tracekit.Limits(attributes=2), export_interval_s=3600)
    with tracekit.span("work", attributes={"a": 1, "b": 2, "c": 3}) as span:
        span.set_attributes({"b": 4, "a": 5})
        span.set_attributes({"d": 6, "b": 7})
    assert dict(span.attributes) == {"a": 5, "b": 7}
    assert span.dropped_attributes == 2


@pytest.mark.parametrize("moment", ["start", "stop"])
def test_spans_are_current_while_another_thread_is_in_a_callback_of_the_collector(moment, exporter):
    """As where that logs its pauses: while it writes, other threads run."""
    collects, is_done, found = threading.Event(), threading.Event(), []

    def work():
        with tracekit.span("outer") as outer, tracekit.span("inner") as inner:
            found.append((tracekit.current_span() is inner, inner.context.trace_id == outer.context.trace_id))

    def work_meanwhile():
        assert collects.wait(60)
        contextvars.copy_context().run(work)  # where no value can be changed in place
        is_done.set()

    def note(phase, _):
        if phase == moment and threading.current_thread() is collecting:
            collects.set()
            is_done.wait(60)

    collecting = threading.Thread(target=gc.collect)
    working = threading.Thread(target=work_meanwhile)
    gc.callbacks.append(note)
    try:
        working.start()
        collecting.start()
        working.join()
        collecting.join()
    finally:
        gc.callbacks.remove(note)
    assert found == [(True, True)]
