"""A span's life: what it takes, what it keeps, and that it never harms the program."""

from __future__ import annotations

import contextvars
import gc
import itertools
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tracekit
from tracekit import ROOT, Event, Limits, Link, Status
from tracekit._core.free_threading import HAS_GIL
from tracekit.testing import CountingIds, FakeClock, MemoryExporter, recording, span_tree

from .tools.pipeline import Discard

REMOTE = tracekit.SpanContext("a" * 32, "b" * 16, 1, is_remote=True)
OTHER = tracekit.SpanContext("c" * 32, "d" * 16, 1)
NOW = 1_700_000_000_000_000_000


@pytest.fixture
def clock():
    with FakeClock(NOW) as clock:
        yield clock


def limited(**limits):
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, limits=Limits(**limits))
    return memory


# ---- made


def test_a_span_tells_what_it_was_made_with(exporter, clock):
    with CountingIds(), tracekit.span("parent") as parent:
        span = tracekit.span("job", kind="client", attributes={"a": 1}, links=[OTHER])
    assert (span.name, span.kind, span.attributes) == ("job", "client", {"a": 1})
    assert span.links == (Link(OTHER),)
    assert span.parent == parent.context
    assert (span.context.trace_id, span.context.span_id) == (parent.context.trace_id, "0" * 15 + "2")
    assert (span.start_ns, span.end_ns, span.ended, span.is_recording) == (NOW, None, False, True)
    assert (span.status, span.events) == (Status("unset"), ())
    assert span.resource["service.name"] == "test"
    assert (span.dropped_attributes, span.dropped_events, span.dropped_links, span.truncated_values) == (0, 0, 0, 0)
    span.end()


def test_a_new_span_has_nothing_but_its_name_and_time(exporter, clock):
    with tracekit.span("job") as span:
        assert (span.kind, span.parent, span.attributes, span.events, span.links) == ("internal", None, {}, (), ())


@pytest.mark.parametrize("kind", ["internal", "server", "client", "producer", "consumer"])
def test_a_kind_is_one_of_five(kind, exporter):
    with tracekit.span("job", kind=kind) as span:
        assert span.kind == kind


def test_a_parent_may_be_a_span_a_context_or_root(exporter):
    with tracekit.span("current") as current, tracekit.use_labels(a="1"):
        for parent, expected in ((current, current.context), (REMOTE, REMOTE), (ROOT, None)):
            with tracekit.span("child", parent=parent) as child:
                assert child.parent == expected
                assert (child.context.trace_id == current.context.trace_id) is (parent is current)
                assert not child.context.labels, "an explicit parent brings its own labels, and no others"
        with tracekit.span("child") as child:
            assert child.context.labels == {"a": "1"}
    with tracekit.span("after the end", parent=current) as child:
        assert child.parent == current.context


def test_a_child_continues_trace_state_labels_and_decision_of_a_remote_parent(exporter):
    remote = tracekit.SpanContext(
        "a" * 32,
        "b" * 16,
        3,
        state=tracekit.TraceState.parse("vendor=1"),
        labels=tracekit.Labels({"a": "1"}),
        is_remote=True,
    )
    with tracekit.span("child", parent=remote) as child:
        assert child.context.trace_id == remote.trace_id
        assert child.context.span_id != remote.span_id
        assert (child.context.flags, str(child.context.state)) == (3, "vendor=1")
        assert child.context.labels == {"a": "1"}
        assert not child.context.is_remote
        assert child.parent is remote


@pytest.mark.parametrize(("flags", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (0xFF, 3)])
def test_a_child_copies_the_flags_that_the_standard_knows(flags, expected, exporter):
    with tracekit.span("child", parent=tracekit.SpanContext("a" * 32, "b" * 16, flags, is_remote=True)) as child:
        assert child.context.flags == expected
    assert len(exporter.spans) == expected & 1


def test_start_and_end_may_be_given(exporter, clock):
    span = tracekit.span("job", start_ns=NOW - 5)
    span.end(NOW + 7)
    assert (span.start_ns, span.end_ns) == (NOW - 5, NOW + 7)


def test_a_span_never_ends_before_it_started(exporter, clock):
    span = tracekit.span("job")
    span.end(NOW - 1)
    assert span.end_ns == NOW


def test_time_passes_with_the_clock(exporter, clock):
    with tracekit.span("job") as span:
        clock.tick(1.5)
        span.add_event("half")
        clock.tick(1.5)
    assert (span.start_ns, span.events[0].time_ns, span.end_ns) == (NOW, NOW + 1_500_000_000, NOW + 3_000_000_000)


def test_the_name_may_change_until_the_end(exporter):
    span = tracekit.span("before")
    span.update_name("after")
    span.end()
    span.update_name("too late")
    assert span.name == "after"


# ---- written to


def test_attributes_are_a_view_that_cannot_be_written(exporter):
    with tracekit.span("job", attributes={"a": 1, "b": 2}) as span:
        span.set_attribute("b", 3)
        span.set_attributes({"c": 4, "d": (5,)})
        assert span.attributes == {"a": 1, "b": 3, "c": 4, "d": (5,)}
        with pytest.raises(TypeError):
            span.attributes["e"] = 6


def test_events_keep_their_order_time_and_attributes(exporter, clock):
    with tracekit.span("job") as span:
        span.add_event("first")
        span.add_event("second", {"a": 1})
        span.add_event("third", time_ns=NOW - 1)
    assert span.events == (Event("first", NOW), Event("second", NOW, {"a": 1}), Event("third", NOW - 1))


def test_a_link_may_be_a_context_a_span_or_a_link(exporter):
    target = tracekit.span("target")
    targets = [OTHER, target, Link(OTHER, {"a": 1}), Link(OTHER), Link(target, {"b": 2})]
    expected = (Link(OTHER), Link(target.context), Link(OTHER, {"a": 1}), Link(OTHER), Link(target.context, {"b": 2}))
    with tracekit.span("job", links=targets) as made:
        assert made.links == expected
    with tracekit.span("job", links=iter(targets)) as made:
        assert made.links == expected
    with tracekit.span("job") as written:
        for link in targets:
            written.add_link(link)
        assert written.links == expected
        written.add_link(OTHER, {"c": 3})
        assert written.links[-1] == Link(OTHER, {"c": 3})
    target.end()


@pytest.mark.parametrize("how", ["links", "add_link"])
def test_a_links_attributes_are_cleaned_and_counted_like_all_others(how):
    limited(attributes=2, value_length=3)
    attributes = {"a": "long text", "b": None, "c": 3, "d": 4}
    link = Link(OTHER, attributes)
    if how == "links":
        span = tracekit.span("job", links=[link])
    else:
        span = tracekit.span("job")
        span.add_link(link)
    attributes["late"] = 1
    span.end()
    assert span.links == (Link(OTHER, {"a": "lon", "c": 3}),)
    assert (span.dropped_attributes, span.truncated_values) == (2, 1)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], ("unset", "")),
        ([("ok",)], ("ok", "")),
        ([("error", "why")], ("error", "why")),
        ([("cancelled", "why")], ("cancelled", "why")),
        ([("error", "why"), ("unset",)], ("error", "why")),
        ([("error", "why"), ("error", "newer")], ("error", "newer")),
        ([("error", "why"), ("cancelled",)], ("cancelled", "")),
        ([("error", "why"), ("ok",)], ("ok", "")),
        ([("ok",), ("error", "why")], ("ok", "")),
        ([("ok",), ("cancelled", "why")], ("ok", "")),
        ([("ok",), ("unset",)], ("ok", "")),
        ([("error", None)], ("error", "")),
    ],
)
def test_of_statuses_ok_is_final_and_unset_changes_nothing(calls, expected, exporter):
    with tracekit.span("job") as span:
        for call in calls:
            span.set_status(*call)
        assert span.status == expected
        assert (span.status.code, span.status.description) == expected


# ---- ended


def test_only_the_first_end_counts(exporter, clock):
    span = tracekit.span("job")
    span.end(NOW + 1)
    clock.tick()
    span.end()
    span.end(NOW + 9)
    with span:
        pass
    assert span.end_ns == NOW + 1
    assert exporter.spans == [span]


def test_what_is_written_after_the_end_is_ignored(exporter, clock):
    with tracekit.span("job", attributes={"a": 1}) as span:
        pass
    span.set_attribute("b", 2)
    span.set_attributes({"a": 2})
    span.add_event("late")
    span.add_link(OTHER)
    span.set_status("error", "late")
    span.record_exception(ValueError("late"))
    span.update_name("late")
    assert (span.name, span.attributes, span.events, span.links, span.status) == (
        "job",
        {"a": 1},
        (),
        (),
        ("unset", ""),
    )
    assert (span.is_recording, span.ended, span.dropped_events) == (False, True, 0)


@pytest.mark.parametrize("with_context", [True, False])
def test_a_span_ends_from_any_thread(with_context, exporter):
    span = tracekit.span("job")
    run = contextvars.copy_context().run if with_context else lambda call: call()
    threads = [threading.Thread(target=run if with_context else span.end, args=(span.end,) if with_context else ())]
    for thread in threads:
        thread.start()
        thread.join()
    assert span.ended
    assert exporter.spans == [span]


def test_many_threads_end_one_span_once(exporter):
    spans = [tracekit.span("job") for _ in range(200)]
    barrier = threading.Barrier(4)

    def end_all():
        barrier.wait()
        for span in spans:
            span.end()

    threads = [threading.Thread(target=end_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exporter.spans) == 200


def test_a_span_that_nobody_ended_ends_as_abandoned(exporter):
    gc.collect()  # what other tests have lost
    exporter.clear()
    tracekit.span("lost")
    gc.collect()
    (span,) = exporter.spans
    assert span.status == ("cancelled", "abandoned: the span was not ended")
    assert span.ended


def test_a_span_that_is_open_when_the_interpreter_goes_down_leaves_without_a_word():
    # The event loop and the generator are garbage that only the last collection finds, when modules are being cleared.
    program = textwrap.dedent("""
        import asyncio
        import tracekit
        from tracekit.testing import MemoryExporter

        @tracekit.traced
        async def endless():
            while True:
                yield

        async def step():
            await anext(steps)

        tracekit.configure(exporter=MemoryExporter())
        steps = endless()
        runner = asyncio.Runner()
        runner.run(step())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    # A free-threaded build clears asyncio's modules first, and asyncio's finalizer then fails, without tracekit as well.
    files = {Path(name).name for name in re.findall(r'  File "(.*)", line', done.stderr)}
    assert files == set() if HAS_GIL else files <= {"base_events.py", "_weakrefset.py"}, done.stderr
    assert done.stderr == "" or files, done.stderr


def test_a_span_whose_coroutine_is_never_finished_ends(exporter):
    @types.coroutine
    def suspend():
        yield

    async def work():
        with tracekit.span("job"):
            await suspend()

    coroutine = work()
    coroutine.send(None)
    del coroutine
    gc.collect()
    (span,) = exporter.spans
    assert span.status.code == "cancelled"


def test_an_ended_span_is_freed_with_its_last_reference():
    tracekit.configure(exporter=Discard())
    with tracekit.span("job") as span:
        dead = weakref.ref(span)
    tracekit.flush(60)
    del span
    assert dead() is None


def test_a_finished_span_keeps_nothing_of_the_context_it_was_entered_in(exporter):
    class Large:
        pass

    variable = contextvars.ContextVar("variable")
    context, value = contextvars.Context(), Large()
    dead = weakref.ref(value)
    context.run(variable.set, value)
    span = tracekit.span("job")
    context.run(span.__enter__)
    span.end()
    assert exporter.spans == [span]
    del context, value
    gc.collect()
    assert dead() is None


# ---- not recorded


def test_without_configure_a_span_has_ids_and_keeps_nothing():
    with tracekit.span("job", attributes={"a": 1}, links=[OTHER]) as span:
        span.set_attribute("b", 2)
        span.add_event("event")
        assert span.context.is_valid
        assert not span.context.sampled
        assert tracekit.current_span() is span
    assert (span.is_recording, span.attributes, span.events, span.links) == (False, {}, (), ())
    assert (span.start_ns, span.end_ns, span.ended) == (0, 0, True)


def test_without_configure_a_sampled_trace_passes_through_sampled():
    with tracekit.span("job", parent=REMOTE) as span:
        assert span.context.sampled
        assert span.context.trace_id == REMOTE.trace_id
        assert not span.is_recording


def test_an_unsampled_trace_is_current_but_not_kept(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    with tracekit.span("root", attributes={"a": 1}) as root:
        with tracekit.span("child") as child:
            assert not child.is_recording
            child.set_attribute("a", 1)
            assert child.attributes == {}
            assert child.context.trace_id == root.context.trace_id
            assert tracekit.current_context().trace_id == root.context.trace_id
            with tracekit.use_labels(a="1"), tracekit.span("grandchild") as grandchild:
                assert grandchild.context.labels == {"a": "1"}
                assert grandchild.context.trace_id == root.context.trace_id
            assert not tracekit.current_labels()
        assert tracekit.current_context() is root.context
    assert tracekit.current_span() is None
    assert exporter.spans == []


def test_an_unsampled_span_closes_what_it_opened_in_any_order(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff())
    for order in itertools.permutations(range(3)):
        root = tracekit.span("root").__enter__()
        child = tracekit.span("child").__enter__()
        labels = tracekit.use_labels(a="1")
        labels.__enter__()
        for index in order:
            (root, child, labels)[index].__exit__(None, None, None)
        assert tracekit.current_context() is None


# ---- limits


def test_what_is_past_a_limit_is_left_out_and_counted():
    memory = limited(attributes=2, events=2, links=2, value_length=4)
    with tracekit.span("job", attributes={"a": 1, "b": "12345", "c": 3}, links=[OTHER] * 3) as span:
        span.set_attribute("d", 4)
        span.set_attribute("a", "abcdefgh")
        span.set_attributes({"b": 2, "e": 5})
        for name in "xyz":
            span.add_event(name)
        span.add_link(OTHER)
        span.set_status("error", "a long description")
    assert memory.spans == [span]
    assert span.attributes == {"a": "abcd", "b": 2}
    assert [event.name for event in span.events] == ["x", "y"]
    assert len(span.links) == 2
    assert span.status == ("error", "a lo")
    assert (span.dropped_attributes, span.dropped_events, span.dropped_links) == (3, 1, 2)
    assert span.truncated_values == 2


def test_the_limits_hold_for_each_event_too():
    limited(attributes=2, value_length=4)
    with tracekit.span("job") as span:
        span.add_event("event", {"a": "12345", "b": None, "c": 3, "d": 4})
        assert span.events[0].attributes == {"a": "1234", "c": 3}
        assert (span.dropped_attributes, span.truncated_values) == (2, 1)


def test_a_limit_of_zero_keeps_nothing():
    limited(attributes=0, events=0, links=0)
    with tracekit.span("job", attributes={"a": 1}, links=[OTHER]) as span:
        span.add_event("event")
        span.record_exception(ValueError("x"))
    assert (span.attributes, span.events, span.links) == ({}, (), ())
    assert (span.dropped_attributes, span.dropped_events, span.dropped_links) == (1, 2, 1)


def test_attributes_that_cannot_be_converted_are_counted(exporter):
    class Raising:
        def __str__(self):
            raise KeyboardInterrupt

    with tracekit.span("job", attributes={"a": None, "b": Raising(), "c": 1}) as span:
        span.set_attribute("d", Raising())
    assert span.attributes == {"c": 1}
    assert span.dropped_attributes == 3


# ---- wrong types


def _made():
    return tracekit.span("job")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tracekit.span(b"job"), "name must be str, not bytes"),
        (lambda: tracekit.span(None), "name must be str, not NoneType"),
        (lambda: tracekit.span("job", kind=1), "kind must be str, not int"),
        (lambda: tracekit.span("job", attributes=[("a", 1)]), "attributes must be a mapping, not list"),
        (lambda: tracekit.span("job", attributes={1: 1}), "attributes must have str keys, not int"),
        (lambda: tracekit.span("job", links=5), "links must be an iterable, not int"),
        (lambda: tracekit.span("job", links=[5]), "links must hold a SpanContext, a Span or a Link, not int"),
        (lambda: tracekit.span("job", links=[Link(5)]), "links must hold a SpanContext, a Span or a Link, not int"),
        (lambda: tracekit.span("job", links=["x" * 55]), "links must hold a SpanContext, a Span or a Link, not str"),
        (lambda: tracekit.span("job", parent="x"), "parent must be a Span, a SpanContext or tracekit.ROOT, not str"),
        (lambda: tracekit.span("job", parent=False), "parent must be a Span, a SpanContext or tracekit.ROOT, not bool"),
        (lambda: tracekit.span("job", start_ns=1.5), "start_ns must be int, not float"),
        (lambda: _made().end(1.5), "end_ns must be int, not float"),
        (lambda: _made().set_attribute(1, 1), "key must be str, not int"),
        (lambda: _made().set_attributes([("a", 1)]), "attributes must be a mapping, not list"),
        (lambda: _made().set_attributes({b"a": 1}), "attributes must have str keys, not bytes"),
        (lambda: _made().add_event(5), "name must be str, not int"),
        (lambda: _made().add_event("e", "text"), "attributes must be a mapping, not str"),
        (lambda: _made().add_event("e", {None: 1}), "attributes must have str keys, not NoneType"),
        (lambda: _made().add_event("e", time_ns="now"), "time_ns must be int, not str"),
        (lambda: _made().add_link("context"), "must hold a SpanContext, a Span or a Link, not str"),
        (lambda: _made().add_link(OTHER, 5), "attributes must be a mapping, not int"),
        (lambda: _made().set_status(2), "code must be str, not int"),
        (lambda: _made().set_status("error", 5), "description must be str, not int"),
        (lambda: _made().record_exception("error"), "exception must be an exception, not str"),
        (lambda: _made().record_exception(ValueError), "exception must be an exception, not type"),
        (lambda: _made().record_exception(ValueError(), 5), "attributes must be a mapping, not int"),
        (lambda: _made().update_name(None), "name must be str, not NoneType"),
        (lambda: tracekit.Span(), "made by"),
    ],
)
@pytest.mark.parametrize("state", ["recorded", "not recorded"])
def test_a_wrong_type_is_a_type_error_that_names_the_parameter(call, words, state):
    tracekit.configure(exporter=MemoryExporter() if state == "recorded" else None)
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("late", [False, True])
def test_an_unknown_word_is_a_value_error_that_names_the_parameter(late, exporter):
    span = tracekit.span("job")
    if late:
        span.end()
    with pytest.raises(ValueError, match="code must be one of unset, ok, error, cancelled: 'fine'"):
        span.set_status("fine")
    with pytest.raises(ValueError, match="kind must be one of internal, server, client, producer, consumer: 'x"):
        tracekit.span("job", kind="x" * 100_000)
    span.end()


@pytest.mark.parametrize(
    "wrong",
    [
        {"links": [5]},
        {"links": [OTHER, 5]},
        {"attributes": {1: 1}},
        {"parent": 5},
        {"kind": "nonsense"},
        {"start_ns": "now"},
    ],
)
def test_a_span_that_was_never_made_is_never_counted(wrong, exporter):
    gc.collect()  # spans of earlier tests, which a free-threaded build has not collected yet
    exporter.clear()
    before = tracekit.statistics().started
    with pytest.raises((TypeError, ValueError)):
        tracekit.span("job", **wrong)
    gc.collect()
    assert tracekit.statistics().started == before
    assert exporter.spans == []


# ---- hostile values


class Raises(str):
    """A text of which every method that a tracer might call raises."""

    def _raise(self, *_):
        raise RuntimeError("hostile")

    __hash__ = __eq__ = __len__ = __getitem__ = __str__ = __repr__ = __iter__ = __contains__ = __format__ = _raise
    encode = lower = split = strip = startswith = isascii = isprintable = _raise


class HostileMapping(dict):
    def items(self):
        raise RuntimeError("hostile")

    __iter__ = __len__ = __bool__ = keys = values = items


class HostileType:
    @property
    def __class__(self):
        raise RuntimeError("hostile")

    def __getattr__(self, name):
        raise RuntimeError("hostile")

    __hash__ = __eq__ = __repr__ = __str__ = __bool__ = __len__ = __iter__ = lambda *_: 1 / 0


@pytest.mark.parametrize("limit", [1, 128])
def test_hostile_values_and_keys_raise_nothing(limit):
    memory = limited(attributes=limit)
    with tracekit.span(Raises("job"), attributes={"first": 1}) as span:
        for value in (
            Raises("v"),
            HostileType(),
            [Raises("v")],
            {"k": HostileType()},
            {Raises: 1},
            HostileMapping(a=1),
        ):
            span.set_attribute("value", value)
            span.add_event("event", {"value": value})
            span.add_link(OTHER, {"value": value})
        span.set_attribute(Raises("key"), 1)
        span.add_event(Raises("event"))
        span.update_name(Raises("name"))
        span.set_status("error", Raises("description"))
    assert memory.spans == [span]
    assert span.attributes["first"] == 1
    assert {type(text) for text in (span.name, span.status.description, *[e.name for e in span.events])} == {str}
    assert {type(key) for key in span.attributes} == {str}
    repr(span)


def test_a_mapping_that_raises_costs_its_attributes_only(exporter):
    with tracekit.span("job", attributes=HostileMapping(a=1)) as span:
        span.set_attributes(HostileMapping(a=1))
        span.add_event("event", HostileMapping(a=1))
        span.add_link(OTHER, HostileMapping(a=1))
        span.record_exception(ValueError("x"), HostileMapping(a=1))
    assert [event.name for event in span.events] == ["event", "exception"]
    assert span.attributes == {}


def test_a_clock_that_goes_backwards_gives_no_negative_duration(exporter, clock):
    with tracekit.span("job") as span:
        clock.tick(-10)
    assert span.end_ns >= span.start_ns


# ---- the rest


def test_repr_tells_name_ids_and_state(exporter):
    with CountingIds(), tracekit.span("job") as span:
        ids = "0" * 31 + "1/" + "0" * 15 + "1"
        assert repr(span) == f"<Span 'job' {ids} open>"
    assert repr(span) == f"<Span 'job' {ids} ended>"


def test_repr_is_safe_for_a_log_line(exporter):
    with tracekit.span("a\r\nb\u202e" + "x" * 1000) as span:
        text = repr(span)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 200


def test_a_span_is_not_pickled():
    with tracekit.span("job") as span, pytest.raises(TypeError, match=r"pickle span\.context"):
        pickle.dumps(span)


def test_a_span_takes_no_attributes_of_ones_own():
    with tracekit.span("job") as span, pytest.raises(AttributeError):
        span.extra = 1


def test_unusual_names_are_kept_as_they_are(exporter):
    for name in ("", "a" * 10_000, "\0", "\ud800", "名"):
        with tracekit.span(name) as span:
            pass
        assert span.name == name
    assert len(exporter.spans) == 5


def test_a_tree_of_spans_is_what_the_code_looks_like(exporter):
    with tracekit.span("checkout"):
        with tracekit.span("reserve"), tracekit.span("query"):
            pass
        with tracekit.span("pay", links=[REMOTE]):
            pass
    assert span_tree(exporter.spans) == "checkout\n  reserve\n    query\n  pay ~ bbbbbbbbbbbbbbbb"


def test_a_view_of_no_attributes_shows_those_that_are_set_later(exporter):
    span = tracekit.span("work", attributes={"dropped": None})
    view = span.attributes
    span.set_attributes({"kept": 1})
    assert span.attributes == {"kept": 1}
    assert view == ({"kept": 1} if HAS_GIL else {})  # without the GIL it is a copy, which other threads do not change
    span.end()


def test_a_view_taken_while_there_were_no_attributes_shows_later_ones(exporter):
    span = tracekit.span("test")
    span.set_attribute("none", None)
    before = span.attributes
    span.set_attributes({"a": 1, "b": "2"})
    span.end()
    assert span.attributes == {"a": 1, "b": "2"}
    assert before == ({"a": 1, "b": "2"} if HAS_GIL else {})  # without the GIL it is a copy


def test_many_attributes_under_a_raised_limit_are_found_replaced_and_bounded():
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, limits=tracekit.Limits(attributes=1000))
    span = tracekit.span("test", attributes={f"k{number}": number for number in range(100)})
    for number in range(90, 600):
        span.set_attribute(f"k{number}", -number)
    span.set_attributes({f"k{number}": "x" for number in range(500, 1000)})
    span.set_attributes({f"k{number}": "y" for number in range(990, 1010)})
    span.set_attribute("k0", "z")
    span.end()
    expected = {f"k{number}": number for number in range(100)} | {f"k{number}": -number for number in range(90, 600)}
    expected |= {f"k{number}": "x" for number in range(500, 990)} | {f"k{number}": "y" for number in range(990, 1000)}
    expected["k0"] = "z"
    assert span.attributes == expected
    assert list(span.attributes) == [f"k{number}" for number in range(1000)]
    assert span.dropped_attributes == 10


def test_threads_that_end_the_same_span_end_it_once():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with recording() as exporter:
            before = tracekit.statistics().ended
            spans = [tracekit.span("shared") for _ in range(5000)]
            with ThreadPoolExecutor(4) as pool:
                for _ in range(4):
                    pool.submit(lambda: [span.end() for span in spans])
            assert tracekit.flush(60)
            assert tracekit.statistics().ended - before == len(exporter.spans) == 5000
    finally:
        sys.setswitchinterval(interval)
