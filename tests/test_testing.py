"""What users test with: spans in memory, counting ids, a clock that stands still, trees as text."""

from __future__ import annotations

import sys
import threading
import time

import pytest

import tracekit
from tracekit import testing
from tracekit.testing import CountingIds, FakeClock, span_tree

REMOTE = tracekit.SpanContext("a" * 32, "b" * 16, 1, is_remote=True)


def test_spans_are_there_as_soon_as_they_have_ended(exporter):
    assert exporter.spans == []
    with tracekit.span("outer") as outer:
        with tracekit.span("inner") as inner:
            pass
        assert exporter.spans == [inner]
    assert exporter.spans == [inner, outer]


def test_the_list_of_spans_is_the_readers_own(exporter):
    tracekit.span("job").end()
    exporter.spans.clear()
    assert len(exporter.spans) == 1


def test_a_signal_handler_may_read_what_the_frame_under_it_reads(exporter):
    tracekit.span("job").end()
    lines, failures = set(), []

    def interrupt(frame, event, _):
        if frame.f_code.co_filename != testing.__file__:
            return None
        if event == "line" and frame.f_lineno not in lines:
            lines.add(frame.f_lineno)
            sys.settrace(None)
            if len(exporter.spans) > 2:
                failures.append(frame.f_lineno)
            sys.settrace(interrupt)
        return interrupt

    def work():
        for call in (lambda: exporter.spans, exporter.clear, lambda: exporter.export(made)):
            sys.settrace(interrupt)
            try:
                call()
            finally:
                sys.settrace(None)

    made = exporter.spans
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert len(lines) >= 5
    assert failures == []


def test_clear_forgets_what_has_ended_so_far(exporter):
    tracekit.span("before").end()
    exporter.clear()
    tracekit.span("after").end()
    assert [span.name for span in exporter.spans] == ["after"]


def test_an_exporter_may_be_read_after_shutdown(exporter):
    tracekit.span("job").end()
    assert not exporter.is_shut_down
    tracekit.shutdown(60)
    assert exporter.is_shut_down
    assert len(exporter.spans) == 1


def test_spans_of_every_thread_are_there(exporter):
    threads = [threading.Thread(target=lambda: [tracekit.span("job").end() for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exporter.spans) == 400


def test_counting_ids_count_from_one_and_random_ones_come_back(exporter):
    with CountingIds():
        with tracekit.span("a") as a, tracekit.span("b") as b:
            pass
        with tracekit.span("c") as c:
            pass
    assert [(span.context.trace_id, span.context.span_id) for span in (a, b, c)] == [
        ("0" * 31 + "1", "0" * 15 + "1"),
        ("0" * 31 + "1", "0" * 15 + "2"),
        ("0" * 31 + "2", "0" * 15 + "3"),
    ]
    with tracekit.span("d") as d:
        pass
    assert not d.context.trace_id.startswith("0" * 16)


def test_counting_ids_may_be_looked_at_and_shared():
    with CountingIds() as ids:
        assert (ids.trace_id(), ids.trace_id(), ids.span_id()) == (1, 2, 1)
        assert tracekit.span("job").context.span_id == "0" * 15 + "2"


def test_ids_and_clocks_may_be_nested(exporter):
    with CountingIds() as ids, FakeClock(5) as clock:
        with CountingIds(), FakeClock(7), tracekit.span("inner") as inner:
            pass
        with ids, clock:
            pass
        with tracekit.span("outer") as outer:
            pass
    assert (inner.context.span_id, inner.start_ns) == ("0" * 15 + "1", 7)
    assert (outer.context.span_id, outer.start_ns) == ("0" * 15 + "1", 5)


class Sevens:
    def generate_trace_id(self):
        return 7

    def generate_span_id(self):
        return 7


def test_after_counting_ids_the_generator_of_the_configuration_is_in_use_again():
    tracekit.configure(environ={}, id_generator=Sevens())
    with CountingIds():
        pass
    assert tracekit.span("job", parent=tracekit.ROOT).context.trace_id == "0" * 31 + "7"
    tracekit.configure(environ={})


def test_after_an_error_ids_and_time_are_real_again(exporter):
    with pytest.raises(ValueError, match="x"), CountingIds(), FakeClock(5):
        raise ValueError("x")
    with tracekit.span("job") as span:
        pass
    assert span.start_ns > 10**18
    assert not span.context.trace_id.startswith("0" * 16)


def test_a_fake_clock_moves_only_when_told(exporter):
    with FakeClock(1000) as clock:
        with tracekit.span("job") as span:
            clock.tick()
            span.add_event("event")
            clock.tick(0.5)
        assert clock.now_ns == 1000 + 1_500_000_000
    assert (span.start_ns, span.events[0].time_ns, span.end_ns) == (1000, 1_000_001_000, 1_500_001_000)


def test_a_fake_clock_starts_at_a_date_of_its_own(exporter):
    with FakeClock(), tracekit.span("job") as span:
        assert span.start_ns == 1_700_000_000_000_000_000


def test_spans_that_are_open_when_the_clock_is_changed_still_end(exporter):
    span = tracekit.span("before")
    with FakeClock(5):
        inside = tracekit.span("inside")
        span.end()
    inside.end()
    assert span.end_ns >= span.start_ns
    assert inside.end_ns >= inside.start_ns


def test_real_time_is_unix_time(exporter):
    before = time.time_ns()
    with tracekit.span("job") as span:
        pass
    after = time.time_ns()
    # Far more than the clock is ever off, so that a machine whose clock is set meanwhile passes too.
    assert before - 60_000_000_000 <= span.start_ns <= span.end_ns <= after + 60_000_000_000


# ---- trees


def test_a_tree_has_a_line_a_span_in_order_of_start(exporter):
    with FakeClock() as clock:
        root = tracekit.span("root")
        late, early = tracekit.span("late", parent=root, start_ns=clock.now_ns + 2), None
        early = tracekit.span("early", parent=root, start_ns=clock.now_ns + 1)
        below = tracekit.span("below", parent=early, start_ns=clock.now_ns + 3)
        for span in (below, late, early, root):
            span.end()
        second = tracekit.span("second root", start_ns=clock.now_ns + 4)
        second.end()
    assert span_tree(exporter.spans) == "root\n  early\n    below\n  late\nsecond root"


def test_a_tree_tells_status_missing_parent_and_links(exporter):
    with CountingIds():
        target = tracekit.span("target")
        with tracekit.span("ok", links=[target, REMOTE]) as ok:
            ok.set_status("ok")
        with tracekit.span("remote", parent=REMOTE):
            pass
        with tracekit.span("orphan", parent=target) as orphan:
            orphan.set_status("cancelled")
    assert span_tree(exporter.spans) == (
        f"ok [ok] ~ 0000000000000001 ~ {'b' * 16}\nremote <- remote\norphan [cancelled] <- 0000000000000001"
    )
    target.end()
    assert span_tree(exporter.spans) == (
        f"target\n  orphan [cancelled]\nok [ok] ~ target ~ {'b' * 16}\nremote <- remote"
    )


def test_a_tree_of_nothing_is_nothing():
    assert span_tree([]) == ""
    assert span_tree(iter(())) == ""


def test_a_very_deep_tree_is_written_too(exporter):
    depth = 2000
    parent = None
    for number in range(depth):
        parent = tracekit.span(f"{number}", parent=parent)
        parent.end()
    lines = span_tree(exporter.spans).splitlines()
    assert len(lines) == depth
    assert lines[-1] == "  " * (depth - 1) + f"{depth - 1}"


def test_a_tree_keeps_equal_start_times_in_order_of_end(exporter):
    with FakeClock():
        for name in "abc":
            tracekit.span(name).end()
    assert span_tree(exporter.spans) == "a\nb\nc"


def test_the_public_names_are_documented():
    for name in testing.__all__:
        assert getattr(testing, name).__doc__


def test_spans_that_share_an_id_since_nothing_is_sampled_are_a_tree_too(exporter):
    parent = tracekit.span("a", parent=tracekit.SpanContext("a" * 32, "b" * 16, 0))
    child = tracekit.span("b", parent=parent)
    assert child.context == parent.context
    assert span_tree([parent, child]) == f"a <- {'b' * 16}\n  b"


def test_a_name_of_several_lines_is_one_line_of_the_tree(exporter):
    tracekit.span("a\nb").end()
    assert span_tree(exporter) == "a\\nb"
