"""Scopes of the plain form while signal handlers run between its bytecodes, and the work of a span among many scopes."""

from __future__ import annotations

import collections
import contextvars
import gc
import sys

import pytest

from tracekit import Labels

from .tools.forms import FORMS

PLAIN = FORMS["plain"]
FILES = {PLAIN.modules[name].__file__ for name in ("_core.scopes", "_core.span")}


class Interrupt:
    """Call *handler* before the bytecode number *at* that runs in the files of scopes and spans, once."""

    def __init__(self, at, handler):
        self.left, self.handler = at, handler

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.handler()
        return self

    def run(self, function):
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = (
            True  # CPython 3.12 has events of bytecodes where a frame asked before settrace()
        )
        sys.settrace(self)
        try:
            function()
        finally:
            sys.settrace(before)


def enter_and_leave():
    with PLAIN.span("inner"):
        pass


def labels():
    with PLAIN.label_scope(Labels({"key": "value"})):
        pass


def swap():
    PLAIN.swap_scope(PLAIN.swap_scope(None))


@pytest.mark.parametrize("work", [enter_and_leave, labels, swap], ids=["span", "labels", "swap"])
def test_a_span_that_a_signal_handler_closes_between_two_bytecodes_is_not_left_current(work):
    def scenario(at):
        outer = PLAIN.span("outer")
        outer.__enter__()
        interrupt = Interrupt(at, lambda: outer.__exit__(None, None, None))
        interrupt.run(work)
        was_late = interrupt.left > 0
        if was_late:
            outer.__exit__(None, None, None)
        current = PLAIN.current_span()
        assert current is None, f"{current} is current after bytecode {at}"
        return was_late

    at = 1
    while not contextvars.Context().run(scenario, at):
        at += 1
    assert at > 20, "the handler ran in the middle"


def calls_of(function):
    """Return the number of Python calls that *function* takes."""
    calls = 0

    def profile(frame, event, argument):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename in FILES

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def calls_under(count):
    """Return the number of Python calls that a span under *count* open sets of labels takes."""

    def measure():
        for _ in range(count):
            PLAIN.label_scope(Labels({"key": "value"})).__enter__()
        enter_and_leave()
        return calls_of(enter_and_leave)

    return contextvars.Context().run(measure)


def test_a_span_costs_the_same_however_many_labels_are_open():
    assert calls_under(1) == calls_under(1000) > 0


def lines_of(function):
    """Return the number of lines that *function* executes in the files of the plain form."""
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace if frame.f_code.co_filename in FILES else None

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return lines


OPENINGS = {
    "spans": lambda: [PLAIN.span("span")],
    "labels": lambda: [PLAIN.label_scope(Labels({"key": "value"}))],
    "both": lambda: [PLAIN.span("span"), PLAIN.label_scope(Labels({"key": "value"}))],
}


@pytest.mark.parametrize("kind", OPENINGS)
def test_many_scopes_that_close_oldest_first_take_no_quadratic_time(kind):
    def close(count):
        opened = [scope for _ in range(count) for scope in OPENINGS[kind]()]
        for scope in opened:
            scope.__enter__()

        def leave():
            for scope in opened:
                scope.__exit__(None, None, None)

        lines = lines_of(leave)
        assert PLAIN.current_context() is None
        return lines

    few, many = (contextvars.Context().run(close, count) for count in (100, 800))
    assert many < 20 * few


def close_the_oldest(window, closed):
    """Keep *window* spans open and close the oldest *closed* times; return the calls, and the scopes that are left."""
    opened = collections.deque()

    def step():
        opened.append(PLAIN.span("span"))
        opened[-1].__enter__()
        if len(opened) > window:
            opened.popleft().__exit__(None, None, None)

    def measure():
        for _ in range(window):
            step()
        calls = calls_of(lambda: [step() for _ in range(closed)])
        kept = sum(type(thing) is PLAIN.Scope for thing in gc.get_objects())
        while opened:
            opened.popleft().__exit__(None, None, None)
        assert PLAIN.current_span() is None
        return calls, kept

    return contextvars.Context().run(measure)


def test_spans_that_close_in_the_order_in_which_they_were_opened_cost_the_same_however_many_are_open():
    few, _ = close_the_oldest(50, 500)
    many, kept = close_the_oldest(500, 500)
    assert many < 3 * few
    _, kept_later = close_the_oldest(500, 2000)
    assert kept_later < kept + 200
