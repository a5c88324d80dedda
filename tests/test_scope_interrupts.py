"""Scopes of the plain form while signal handlers run between its bytecodes, and the work of a span under many labels."""

from __future__ import annotations

import contextvars
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


def calls_under(count):
    """Return the number of Python calls that a span under *count* open sets of labels takes."""
    calls = 0

    def profile(frame, event, argument):
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename in FILES

    def measure():
        for _ in range(count):
            PLAIN.label_scope(Labels({"key": "value"})).__enter__()
        with PLAIN.span("warm"):
            pass
        sys.setprofile(profile)
        with PLAIN.span("measured"):
            PLAIN.current_span()
        sys.setprofile(None)

    contextvars.Context().run(measure)
    return calls


def test_a_span_costs_the_same_however_many_labels_are_open():
    assert calls_under(1) == calls_under(1000) > 0
