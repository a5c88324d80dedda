"""Spans that another process recorded: handed to the exporter as they were, by either form, and counted."""

from __future__ import annotations

from types import MappingProxyType

import pytest

import tracekit
from tracekit import Event, Labels, Limits, Link, Status, TraceState, _configure
from tracekit.testing import span_tree

from .tools.accounts import statistics
from .tools.vectors import TWINS

REMOTE = {"trace_id": "a" * 32, "span_id": "b" * 16, "flags": 1, "is_remote": True}
OWN = {
    "trace_id": "a" * 32,
    "span_id": "c" * 16,
    "flags": 3,
    "state": TraceState.parse("v=1"),
    "labels": Labels({"l": "1"}),
}
ATTRIBUTES = {"text": "é", "list": (1, None, "a"), "map": {"a": {"b": (1,)}}, "bytes": b"\0", "yes": True, "float": 0.5}


def restore(form, **changes):
    """Restore a span that has all that a span can have, but for *changes*."""
    values = {
        "context": form.SpanContext(**OWN),
        "parent": form.SpanContext(**REMOTE),
        "name": "restored é",
        "kind": "producer",
        "start_ns": 1_700_000_000_000_000_000,
        "end_ns": 1_700_000_000_000_000_007,
        "attributes": dict(ATTRIBUTES),
        "events": [("event", 5, {"n": 1}), ("bare", (1 << 63) - 1, None)],
        "links": [Link(form.SpanContext(**REMOTE), MappingProxyType({"why": "so"}))],
        "status": Status("error", "went wrong"),
        "dropped": (1, 2, 3, 4),
    }
    return form.restore_span(*(values | changes).values())


def forget(form):
    """Have every count start again from nothing, in the pipeline too if it is the one of this form."""
    tracekit.configure()
    (_configure._after_fork if form is TWINS[tracekit.IMPLEMENTATION] else form.after_fork)()


@pytest.fixture
def waiting(form):
    """The buffer of a form, with nobody to empty it."""
    forget(form)
    was = form.buffer.capacity, form.buffer.is_open, form.buffer.wake
    form.buffer.capacity, form.buffer.is_open, form.buffer.wake = 16, True, None
    yield form.buffer
    form.buffer.capacity, form.buffer.is_open, form.buffer.wake = was
    forget(form)


def test_what_went_in_comes_out(form, waiting):
    span = restore(form)
    assert (span.context, span.parent) == (form.SpanContext(**OWN), form.SpanContext(**REMOTE))
    assert (span.context.is_remote, span.parent.is_remote) == (False, True)
    assert (span.name, span.kind) == ("restored é", "producer")
    assert (span.start_ns, span.end_ns) == (1_700_000_000_000_000_000, 1_700_000_000_000_000_007)
    assert span.attributes == ATTRIBUTES
    assert span.events == (Event("event", 5, {"n": 1}), Event("bare", (1 << 63) - 1, {}))
    assert span.links == (Link(form.SpanContext(**REMOTE), {"why": "so"}),)
    assert span.status == Status("error", "went wrong")
    dropped = span.dropped_attributes, span.dropped_events, span.dropped_links, span.truncated_values
    assert dropped == (1, 2, 3, 4)
    assert (span.ended, span.is_recording) == (True, False)


def test_a_span_that_has_next_to_nothing_comes_out_too(form, waiting):
    nothing = {"parent": None, "attributes": None, "events": None, "links": None, "status": Status("unset")}
    span = restore(form, **nothing, dropped=(0, 0, 0, 0))
    assert (span.parent, span.attributes, span.events, span.links, span.status) == (None, {}, (), (), Status("unset"))
    assert repr(span) == f"<Span 'restored \\xe9' {'a' * 32}/{'c' * 16} ended>"


@pytest.mark.parametrize("code", ["unset", "ok", "error", "cancelled"])
@pytest.mark.parametrize("kind", ["internal", "server", "client", "producer", "consumer"])
def test_every_kind_and_status_comes_out_as_it_went_in(code, kind, form, waiting):
    span = restore(form, kind=kind, status=Status(code, "why"))
    assert (span.kind, span.status) == (kind, Status(code, "why"))


def test_a_restored_span_has_ended_for_good(form, waiting):
    span = restore(form)
    span.set_attribute("late", 1)
    span.add_event("late")
    span.add_link(form.SpanContext(**REMOTE))
    span.set_status("ok")
    span.update_name("late")
    span.end()
    assert waiting.drain() == [span]
    assert (span.name, len(span.attributes), len(span.events), len(span.links)) == ("restored é", len(ATTRIBUTES), 2, 1)
    assert span.status.code == "error"
    assert len(waiting) == 0


def test_it_waits_for_the_exporter_with_the_others_and_is_counted(form, waiting):
    spans = [restore(form, name=str(number)) for number in range(20)]
    assert waiting.counts() == (20, 20, 4, 0, 16)
    assert waiting.drain() == spans[:16]
    waiting.is_open = False
    restore(form)
    assert waiting.counts() == (21, 21, 5, 0, 0)


def test_it_wakes_who_sleeps(form, waiting):
    woken = []
    waiting.wake, waiting.is_asleep = lambda: woken.append(1), True
    restore(form)
    assert (woken, waiting.is_asleep) == ([1], False)


def test_what_was_lost_elsewhere_is_counted_as_dropped(form, waiting):
    waiting.lose(3)
    waiting.lose(0)
    assert waiting.counts() == (3, 3, 3, 0, 0)


def test_it_has_the_resource_and_limits_of_this_process_and_is_not_cut_by_them(form, waiting):
    resource = MappingProxyType({"service.name": "parent"})
    before = form.Tracer()
    form.set_tracer(form.Tracer(recording=True, resource=resource, limits=Limits(1, 1, 1, 2)))
    try:
        span = restore(form)
    finally:
        form.set_tracer(before)
    tracekit.configure()  # the form that is in use gets its own tracer back
    assert span.resource is resource
    assert (len(span.attributes), len(span.events)) == (len(ATTRIBUTES), 2)


def test_an_observer_is_told_of_both_start_and_end(form, waiting):
    class Observer:
        def __init__(self):
            self.told = []

        def started(self, span, parent):
            self.told.append(("started", span.name, parent))

        def ended(self, span):
            self.told.append(("ended", span.name))

        def late(self, span, method):
            self.told.append(("late", method))

    observer = Observer()
    form.set_observer(observer)
    try:
        restore(form).end()
    finally:
        form.set_observer(None)
    parent = form.SpanContext(**REMOTE)
    assert observer.told == [("started", "restored é", parent), ("ended", "restored é"), ("late", "end")]


@pytest.mark.parametrize("changes", [{"status": Status("other")}, {"dropped": (1, 2, 3)}], ids=["status", "dropped"])
def test_what_is_no_span_is_refused_and_not_counted(changes, form, waiting):
    with pytest.raises(ValueError, match=r"other|values"):
        restore(form, **changes)
    assert waiting.counts() == (0, 0, 0, 0, 0)


def test_statistics_add_up_with_spans_of_others(exporter):
    form = TWINS[tracekit.IMPLEMENTATION]
    before = tracekit.statistics()
    with tracekit.span("here"):
        restore(form, context=tracekit.SpanContext("a" * 32, "d" * 16, 1))
        form.buffer.lose(2)
    assert sorted(span_tree(exporter.spans).splitlines()) == ["here", "restored é [error] <- remote ~ bbbbbbbbbbbbbbbb"]
    now = statistics()
    assert (now.started - before.started, now.ended - before.ended) == (4, 4)
    assert (now.exported - before.exported, now.dropped - before.dropped) == (2, 2)


def test_an_ended_span_can_be_given_another_context_with_its_ids_and_nothing_else(form):
    span = form.span("root")
    context = span.context
    other = context.replace(state=TraceState({"ot": "th:8"}))
    with pytest.raises(ValueError, match="span must have ended"):
        form.retrace(span, other)
    span.end()
    stranger = form.span("other").context
    for strange in (stranger, form.SpanContext(context.trace_id, stranger.span_id)):
        with pytest.raises(ValueError, match="context must have the span's ids"):
            form.retrace(span, strange)
    for arguments in ((None, other), (span, None), (context, other)):
        with pytest.raises(TypeError):
            form.retrace(*arguments)
    assert span.context is context
    form.retrace(span, other)
    assert span.context is other
    assert str(context.state) == ""
