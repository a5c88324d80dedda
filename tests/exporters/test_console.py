import io
import os
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit._render import Leaf, cells, cut, duration, encodable, pairs, printable, tree, value_text
from tracekit.exporters import console
from tracekit.exporters.console import ConsoleExporter
from tracekit.testing import CountingIds, FakeClock

from ..tools.pipeline import Balance

ONE, TWO = f"{1:032x}", f"{2:032x}"


class Writes(io.StringIO):
    """A stream that records each write, and may claim to be a terminal."""

    def __init__(self, *, is_terminal=False, encoding="utf-8"):
        super().__init__()
        self.writes = []
        self.is_terminal = is_terminal
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.writes.append(text)
        return super().write(text)


def trees(stream):
    """Flush; return each write without the local time in its first line."""
    assert tracekit.flush(60)
    return [re.sub(r"  \d\d:\d\d:\d\d  ", "  TIME  ", text, count=1) for text in stream.writes]


@pytest.fixture
def stream():
    """The stream of the configured exporter, with counting ids and a fixed clock."""
    stream = Writes()
    tracekit.configure(service="shop", exporter=ConsoleExporter(stream))
    with CountingIds(), FakeClock():
        yield stream


def test_a_trace_is_one_write_when_its_root_has_ended(stream):
    with FakeClock() as clock:
        with tracekit.span("checkout", kind="server", attributes={"items": 3, "note": "two words"}) as root:
            root.add_link(tracekit.SpanContext("a" * 32, "b" * 16))
            with tracekit.span("reserve"):
                clock.tick(0.0015)
                with tracekit.span("lock") as lock:
                    lock.set_status("cancelled")
                root.add_event("reserved", {"sku": "a-1"})
            assert trees(stream) == []
            with tracekit.span("price") as price:
                price.set_status("error", "no price")
                clock.tick(2)
        assert trees(stream) == [
            f"""\
trace {ONE}  shop  TIME  4 spans
checkout  2.00 s  server  items=3  note="two words"  ~ {"a" * 32}
│  +1.50 ms reserved  sku=a-1
├─ reserve  1.50 ms
│  └─ lock  0 ns  cancelled
└─ price  2.00 s  error: no price

"""
        ]


def test_each_local_root_of_a_trace_is_a_separate_tree(stream):
    caller = tracekit.SpanContext("a" * 32, "b" * 16, 1, is_remote=True)
    first, second = tracekit.span("first", parent=caller), tracekit.span("second", parent=caller)
    tracekit.span("in second", parent=second).end()
    tracekit.span("in first", parent=first).end()
    second.end()
    assert trees(stream) == [f"trace {'a' * 32}  shop  TIME  2 spans\nsecond  0 ns\n└─ in second  0 ns\n\n"]
    first.end()
    assert trees(stream)[1:] == [f"trace {'a' * 32}  shop  TIME  2 spans\nfirst  0 ns\n└─ in first  0 ns\n\n"]


def test_spans_that_end_after_their_root_are_a_late_tree(stream):
    with tracekit.span("root"):
        detached = tracekit.span("detached")
    tracekit.span("below", parent=detached).end()
    assert trees(stream) == [f"trace {ONE}  shop  TIME  1 span\nroot  0 ns\n\n"]
    detached.end()
    assert trees(stream)[1:] == [f"trace {ONE}  shop  TIME  2 spans  late\ndetached  0 ns\n└─ below  0 ns\n\n"]
    tracekit.span("later still", parent=detached).end()
    assert trees(stream)[2:] == [f"trace {ONE}  shop  TIME  1 span  late\nlater still  0 ns\n\n"]


def test_spans_without_their_parent_are_written_at_shutdown(stream):
    parent = tracekit.span("never ends")
    for name in "ab":
        with tracekit.span(name, parent=parent):
            tracekit.span(f"below {name}").end()
    assert trees(stream) == []
    tracekit.shutdown(60)
    assert trees(stream) == [
        f"trace {ONE}  shop  TIME  4 spans  parent not seen\na  0 ns\n└─ below a  0 ns\nb  0 ns\n└─ below b  0 ns\n\n"
    ]
    parent.end()


def test_the_number_of_waiting_spans_is_bounded_and_the_oldest_trace_is_written_first():
    stream = Writes()
    exporter = ConsoleExporter(stream, max_spans=10)
    tracekit.configure(service="shop", exporter=exporter)
    with CountingIds(), FakeClock():
        parents = [tracekit.span(name) for name in "abc"]
        for number in range(4):
            for parent in parents:
                tracekit.span(f"{parent.name}{number}", parent=parent).end()
        (text,) = trees(stream)
        assert text == f"trace {ONE}  shop  TIME  4 spans  parent not seen\na0  0 ns\na1  0 ns\na2  0 ns\na3  0 ns\n\n"
        parents[1].end()
        assert trees(stream)[1].startswith(f"trace {TWO}  shop  TIME  5 spans\nb  0 ns\n├─ b0")
        for number in range(1000):
            tracekit.span(f"c{number}", parent=parents[2]).end()
            if number % 100 == 0:
                tracekit.flush(60)
        tracekit.flush(60)
        assert exporter._count <= 10
        assert len(exporter._written) <= 10
        for parent in parents:
            parent.end()
    tracekit.shutdown(60)
    assert exporter._waiting == {}
    assert "".join(stream.writes).count("\nc5  ") == 1


def test_attributes_and_events_past_a_dozen_are_counted_not_written(stream):
    with tracekit.span("many", attributes={f"k{number}": number for number in range(20)}) as span:
        for _ in range(10):
            span.add_event("e")
    (text,) = trees(stream)
    assert "  k11=11  … 8 more\n" in text
    assert text.endswith("   +0 ns e\n   … 2 more\n\n")


HOSTILE = "\x1b[31m\x1b]0;title\x07\r\n\x9b2J\u202e\ud800\x7f"


def test_no_text_of_a_program_can_control_the_terminal():
    stream = Writes()
    tracekit.configure(service=HOSTILE, exporter=ConsoleExporter(stream))
    with tracekit.span(HOSTILE, attributes={HOSTILE: HOSTILE, "list": [HOSTILE], "map": {HOSTILE: HOSTILE}}) as span:
        span.add_event(HOSTILE, {HOSTILE: HOSTILE})
        span.set_status("error", HOSTILE)
    (text,) = trees(stream)
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("\n") == 4
    assert text.count(r"\x1b[31m\x1b]0;title\x07\r\n\x9b2J\u202e\ud800\x7f") == 10


@pytest.mark.parametrize(
    ("is_terminal", "environment", "is_colored"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_only_terminals_get_color_unless_it_is_disabled(monkeypatch, is_terminal, environment, is_colored):
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Writes(is_terminal=is_terminal)
    tracekit.configure(exporter=ConsoleExporter(stream))
    with tracekit.span("x"):
        pass
    (text,) = trees(stream)
    assert ("\x1b[1mx\x1b[0m" in text) is is_colored
    assert ("\x1b" in text) is is_colored


def test_a_stream_without_these_letters_gets_ascii():
    stream = Writes(encoding="ascii")
    tracekit.configure(service="café", exporter=ConsoleExporter(stream))
    with tracekit.span("root"), tracekit.span("child", attributes={"k": "é" * 100}):
        pass
    (text,) = trees(stream)
    assert text.isascii()
    assert "`- child" in text
    assert "  caf\\xe9  " in text


def test_the_current_standard_error_is_the_default(capsys):
    tracekit.configure(exporter=ConsoleExporter())
    tracekit.span("x").end()
    tracekit.flush(60)
    assert "\nx  " in capsys.readouterr().err


def test_a_program_without_standard_error_continues(monkeypatch):
    tracekit.configure(exporter=ConsoleExporter())
    monkeypatch.setattr(sys, "stderr", None)
    before = tracekit.statistics()
    tracekit.span("x").end()
    tracekit.flush(60)
    assert tracekit.statistics().exported == before.exported + 1


def test_a_span_that_cannot_be_written_does_not_lose_its_tree(stream, monkeypatch, caplog):
    lines = console._span_lines

    def fails(branch, paint):
        if branch.span.name == "bad":
            raise RuntimeError("dictionary changed size during iteration")
        return lines(branch, paint)

    monkeypatch.setattr(console, "_span_lines", fails)
    exporter = ConsoleExporter(stream)
    tracekit.configure(exporter=exporter)
    balance = Balance()
    with tracekit.span("root"):
        for name in ("good", "bad", "better"):
            with tracekit.span(name):
                pass
    tracekit.span("bad").end()
    tracekit.span("other").end()
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed) == (4, 2)
    text = stream.getvalue()
    assert [name in text for name in ("root", "good", "better", "other", "bad")] == [True, True, True, True, False]
    assert "2 spans lost" not in caplog.text


def test_spans_that_wait_for_their_parent_are_queued_and_written_once(caplog):
    stream = Writes()
    exporter = ConsoleExporter(stream)
    tracekit.configure(exporter=exporter)
    balance = Balance()
    outer = tracekit.span("outer")
    tracekit.span("inner", parent=outer).end()
    assert tracekit.flush(60)
    assert (balance.exported, balance.queued) == (0, 1)
    other = tracekit.span("other")
    broken = Writes()
    broken.close()
    exporter.stream = broken
    outer.end()
    assert tracekit.flush(60)
    assert (balance.exported, balance.queued, balance.failed) == (0, 0, 2)
    exporter.stream = stream
    other.end()
    assert tracekit.flush(60)
    assert (balance.exported, balance.failed) == (1, 2)
    assert "inner" not in stream.getvalue()


def test_a_stream_that_fails_loses_only_the_spans_written_to_it(caplog):
    stream = Writes()
    stream.close()
    exporter = ConsoleExporter(stream)
    tracekit.configure(exporter=exporter)
    before = tracekit.statistics()
    tracekit.span("lost").end()
    tracekit.flush(60)
    assert tracekit.statistics().failed == before.failed + 1
    exporter.stream = Writes()
    tracekit.span("kept").end()
    (text,) = trees(exporter.stream)
    assert "\nkept  " in text
    assert "lost" not in text


def test_a_forked_child_does_not_write_spans_that_wait_in_its_parent(stream, monkeypatch):
    parent = tracekit.span("open")
    tracekit.span("waits", parent=parent).end()
    assert trees(stream) == []
    monkeypatch.setattr(os, "getpid", lambda: -1)
    tracekit.shutdown(60)
    assert stream.writes == []
    parent.end()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stream": 1}, TypeError, r"stream must have write\(\), not int"),
        ({"max_spans": 1.5}, TypeError, "max_spans must be int, not float"),
        ({"max_spans": True}, TypeError, "max_spans must be int, not bool"),
        ({"max_spans": 0}, ValueError, "max_spans must be at least 1: 0"),
    ],
)
def test_invalid_options_are_reported(options, error, message):
    with pytest.raises(error, match=message):
        ConsoleExporter(**options)


# Rendering


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (9_994, "9.99 µs"),
        (9_996, "10.0 µs"),
        (99_960, "100 µs"),
        (999_400, "999 µs"),
        (999_600, "1.00 ms"),
        (12_345_678, "12.3 ms"),
        (999_600_000, "1.00 s"),
        (59_990_000_000, "60.0 s"),
        (59_996_000_000, "1m 00s"),
        (3_599_000_000_000, "59m 59s"),
        (3_600_000_000_000, "1h 00m"),
        (90_000_000_000_000, "1d 01h"),
        (-1500, "-1.50 µs"),
    ],
)
def test_durations_are_in_the_unit_that_suits_them(ns, text):
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("/a/{b}", "/a/{b}"),
        ("two words", '"two words"'),
        ('say "x"', '"say \\"x\\""'),
        ("", '""'),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (2**64 - 1, str(2**64 - 1)),
        pytest.param(1 << 70_000, "0x1" + "0" * 76 + "…", id="a very long int"),
        (b"\0\xff", "00ff"),
        ((1, "a,b", None), '[1, "a,b", null]'),
        ({"k": [{}]}, "{k: [{}]}"),
        (tuple(range(20)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, …]"),
        ("x" * 81, "x" * 79 + "…"),
        (["y" * 70, "z" * 70], "[" + "y" * 70 + ", " + "z" * 7 + "…]"),
        ([[[[["deep"]]]]], "[[[[…]]]]"),
    ],
)
def test_values_are_short_and_quoted_only_if_necessary(value, text):
    assert pairs({"k": value}) == [f"k={text}"]


@settings(deadline=None)
@given(st.text(st.characters()), st.integers(2, 60))
def test_text_is_printable_and_fits(text, width):
    shown = printable(text)
    assert shown.isprintable()
    assert cells(cut(shown, width)) == width
    assert value_text(text).isprintable()
    for encoding in ("utf-8", "ascii", "latin-1", None):
        encodable(shown, encoding).encode(encoding or "utf-8")


def test_wide_letters_count_twice_and_marks_not_at_all():
    assert (cells("日本"), cells("e\u0301"), cut("日本語", 4), cut("日本語", 5)) == (4, 1, "日… ", "日本…")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 8), st.integers(0, 3)), max_size=30))
def test_a_tree_shows_every_span_once_even_with_cycles(spans):
    leaves = [
        Leaf(str(id), None if parent is None else str(parent), start, at)
        for at, (id, parent, start) in enumerate(spans)
    ]
    branches = list(tree(leaves))
    assert sorted(branch.span for branch in branches) == list(range(len(spans)))


def test_a_tree_of_any_depth_is_drawn_to_a_bounded_width():
    leaves = [Leaf(str(at), str(at - 1), at, at) for at in range(5000)]
    branches = list(tree(leaves))
    assert [branch.span for branch in branches] == list(range(5000))
    assert branches[2].head == "   └─ "
    assert max(len(branch.head) for branch in branches) < 50
    assert branches[-1].head.endswith("└+4987 ")
