"""Wrong arguments on the program's path: left out, counted and logged once per line; raised in strict mode."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import re
import subprocess
import sys
from unittest import mock

import pytest

import tracekit
from tracekit import aio
from tracekit._core import misuse
from tracekit.testing import recording

from .tools.proxies import Failing, Posing, Unbound


class NoPairs(dict):
    def items(self):
        return [1, 2]


class Frozen(dict):
    def __setitem__(self, key, value):
        raise TypeError("frozen")


class RaisingName(type):
    @property
    def __name__(cls):
        raise RuntimeError


def price(item):
    return item


class Nameless(metaclass=RaisingName):
    pass


SPAN_CALLS = {
    "set_attribute": lambda span: span.set_attribute(None, 1),
    "set_attributes of no mapping": lambda span: span.set_attributes(5),
    "set_attributes with a key of int": lambda span: span.set_attributes({1: 2, "a": 3}),
    "set_attributes of no pairs": lambda span: span.set_attributes(NoPairs(a=1)),
    "add_event": lambda span: span.add_event(None),
    "add_event with attributes": lambda span: span.add_event("e", 5),
    "add_event at no time": lambda span: span.add_event("e", time_ns="now"),
    "add_link": lambda span: span.add_link("elsewhere"),
    "set_status in capitals": lambda span: span.set_status("Error"),
    "set_status of no text": lambda span: span.set_status(2),
    "set_status with a number": lambda span: span.set_status("error", 5),
    "record_exception": lambda span: span.record_exception("x"),
    "update_name": lambda span: span.update_name(None),
    "a value of a class without a name": lambda span: span.add_link(Nameless()),
    "end": lambda span: span.end("now"),
    "a key that poses as text": lambda span: span.set_attribute(Posing(str), 1),
    "a name that poses as text": lambda span: span.update_name(Posing(str)),
    "an event that poses as text": lambda span: span.add_event(Posing(str)),
    "a description that poses as text": lambda span: span.set_status("error", Posing(str)),
    "a time that poses as a number": lambda span: span.add_event("e", time_ns=Posing(int)),
    "a link that poses as one": lambda span: span.add_link(Posing(tracekit.Link)),
    "an exception that poses as one": lambda span: span.record_exception(Posing(ValueError)),
    "an end that poses as a number": lambda span: span.end(Posing(int)),
    "a mapping without a class": lambda span: span.set_attributes(Failing()),
    "a link without a class": lambda span: span.add_link(Failing()),
}
CALLS = {
    "span(None)": lambda: tracekit.span(None).end(),
    "kind": lambda: tracekit.span("s", kind="sideways").end(),
    "attributes": lambda: tracekit.span("s", attributes=[1]).end(),
    "links": lambda: tracekit.span("s", links=5).end(),
    "a link": lambda: tracekit.span("s", links=[5]).end(),
    "parent": lambda: tracekit.span("s", parent="p").end(),
    "start_ns": lambda: tracekit.span("s", start_ns="now").end(),
    "use_labels(tenant=None)": lambda: tracekit.use_labels(tenant=None).__enter__().__class__,
    "use_labels(n=3)": lambda: tracekit.use_labels(n=3),
    "use_labels of a list": lambda: tracekit.use_labels([1]),
    "use_span": lambda: tracekit.use_span(None).__enter__(),
    "use_context": lambda: tracekit.use_context("c").__enter__(),
    "new_context": lambda: tracekit.new_context(None),
    "from_context": lambda: tracekit.from_context(5),
    "span(Posing)": lambda: tracekit.span(Posing(str)).end(),
    "a kind that poses as text": lambda: tracekit.span("s", kind=Posing(str)).end(),
    "a start that poses as a number": lambda: tracekit.span("s", start_ns=Posing(int)).end(),
    "attributes without a class": lambda: tracekit.span("s", attributes=Failing()).end(),
    "links without a class": lambda: tracekit.span("s", links=Failing()).end(),
    "use_labels without a class": lambda: tracekit.use_labels(Failing()),
    "use_span without a class": lambda: tracekit.use_span(Failing()).__enter__(),
    "use_span of what poses as one": lambda: tracekit.use_span(Posing(tracekit.Span)).__enter__(),
    "use_context without a class": lambda: tracekit.use_context(Failing()).__enter__(),
    "use_context of what poses as one": lambda: tracekit.use_context(Posing(tracekit.SpanContext)).__enter__(),
    "from_context without a class": lambda: tracekit.from_context(Failing()),
    "event_log": lambda: tracekit.event_log("family", Posing(str)),
    "extract of what poses as text": lambda: tracekit.extract(Posing(str)),
    "inject of what poses as a context": lambda: tracekit.inject({}, Posing(tracekit.SpanContext)),
    "extract": lambda: tracekit.extract(5),
    "inject of no context": lambda: tracekit.inject({}, 5),
    "inject into a number": lambda: tracekit.inject(5, tracekit.SpanContext("1" * 32, "1" * 16)),
    "inject into a frozen dict": lambda: tracekit.inject(Frozen(), tracekit.SpanContext("1" * 32, "1" * 16)),
    "wrap": lambda: tracekit.wrap(5),
    "wrap of a mock": lambda: tracekit.wrap(mock.MagicMock(spec=price))("lantern"),
    "wrap of an unbound proxy": lambda: tracekit.wrap(Unbound()),
    "traced": lambda: tracekit.traced(5),
    "traced of a mock": lambda: tracekit.traced(mock.MagicMock(spec=price))("lantern"),
    "traced of an unbound proxy": lambda: tracekit.traced(Unbound()),
    "stream": lambda: tracekit.stream(5),
    "stream of an unbound proxy": lambda: tracekit.stream(Unbound()),
}


@pytest.mark.parametrize("name", [*SPAN_CALLS, *CALLS])
def test_a_wrong_argument_is_left_out_counted_and_logged_with_its_line(lenient, caplog, name):
    def call():
        return SPAN_CALLS[name](span) if name in SPAN_CALLS else CALLS[name]()

    with recording(), tracekit.use_context(None):
        span = tracekit.span("span")
        before = tracekit.statistics().misused
        with caplog.at_level(logging.WARNING, "tracekit"):
            contextvars.copy_context().run(call)
            logged = len(caplog.records)
            contextvars.copy_context().run(call)
        span.end()
    assert tracekit.statistics().misused >= before + 2
    assert logged == len(caplog.records) >= 1, "each line once"
    assert re.match(rf"{re.escape(__file__)}:\d+: \S.* \(ignored", caplog.messages[0])


@pytest.mark.parametrize("name", [*SPAN_CALLS, *CALLS])
def test_strict_mode_raises_the_same_text(lenient, caplog, name):
    span = tracekit.span("span", parent=tracekit.ROOT)

    def call():
        return SPAN_CALLS[name](span) if name in SPAN_CALLS else CALLS[name]()

    with recording(), tracekit.use_context(None):
        span = tracekit.span("span")
        with caplog.at_level(logging.WARNING, "tracekit"):
            contextvars.copy_context().run(call)
        misuse.set_strict(True)
        try:
            with pytest.raises((TypeError, ValueError)) as caught:
                contextvars.copy_context().run(call)
        finally:
            misuse.set_strict(False)
            span.end()
    assert str(caught.value) in caplog.messages[0]


def test_the_usable_part_of_a_call_is_kept(lenient):
    with recording() as spans, tracekit.use_context(None):
        span = tracekit.span(
            None, kind="sideways", attributes={1: 2, "a": 3}, links=[5, tracekit.SpanContext("1" * 32, "1" * 16)]
        )
        with span, tracekit.use_labels({"tenant": "acme", 5: "x", "bad key": "y"}, n=3):
            span.set_attributes({2: 3, "b": 4})
            labels = dict(tracekit.current_labels())
    (kept,) = spans.spans
    assert (kept.name, kept.kind, dict(kept.attributes), len(kept.links)) == ("", "internal", {"a": 3, "b": 4}, 1)
    assert labels == {"tenant": "acme"}


@pytest.mark.parametrize("name", [5, b"group", ["group"]])
def test_a_group_with_a_name_that_is_no_text_runs_its_tasks(name, lenient):
    async def main():
        async with aio.create_task_group(name) as group:
            group.start_soon(asyncio.sleep, 0)

    with recording() as spans, tracekit.use_context(None):
        asyncio.run(main())
    assert [(span.name, span.status.code) for span in spans.spans] == [("sleep", "unset"), ("", "unset")]


def test_a_scope_that_is_entered_again_stays_as_it_is(lenient):
    with tracekit.span("span") as span:
        scope = tracekit.use_span(span)
        with scope:
            with scope:
                assert tracekit.current_span() is span
            assert tracekit.current_span() is span


def test_a_copy_of_a_span_is_the_span():
    span = tracekit.span("span")
    assert copy.copy(span) is span
    assert copy.deepcopy({"tracekit.span": span})["tracekit.span"] is span
    span.end()


class Late(int):
    def __int__(self):
        raise RuntimeError

    __index__ = __float__ = __lt__ = __gt__ = __le__ = __ge__ = __int__


def test_times_of_a_subclass_with_raising_methods_are_used():
    with recording() as spans:
        span = tracekit.span("span", start_ns=Late(5))
        span.add_event("event", time_ns=Late(6))
        span.end(Late(7))
    (kept,) = spans.spans
    assert (kept.start_ns, kept.events[0].time_ns, kept.end_ns) == (5, 6, 7)


class EndsTheSpan:
    def __init__(self, span):
        self.span = span

    def __str__(self):
        self.span.end()
        return "text"


@pytest.mark.parametrize(
    "write",
    [
        lambda span, value: span.set_attribute("key", value),
        lambda span, value: span.set_attributes({"key": value}),
        lambda span, value: span.add_event("event", {"key": value}),
        lambda span, value: span.add_link(tracekit.SpanContext("1" * 32, "1" * 16), {"key": value}),
    ],
)
def test_a_write_during_which_the_span_ends_is_not_kept(write):
    with recording() as spans:
        span = tracekit.span("span")
        write(span, EndsTheSpan(span))
    (kept,) = spans.spans
    assert (dict(kept.attributes), kept.events, kept.links) == ({}, (), ())


@pytest.mark.parametrize(("environment", "argument"), [("1", ""), ("", "strict=True")])
def test_strict_mode_is_turned_on_by_the_environment_or_by_configure(environment, argument):
    program = f"import tracekit; tracekit.configure(environ={{}}, {argument}); tracekit.span(None)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"TRACEKIT_STRICT": environment},
        check=False,
    )
    assert done.stderr.endswith("TypeError: name must be str, not NoneType\n")


def test_configure_turns_strict_mode_off():
    program = "import tracekit; tracekit.configure(environ={}, strict=False); tracekit.span(None)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"TRACEKIT_STRICT": "1"}, check=False
    )
    assert done.returncode == 0
    assert done.stderr.startswith("<string>:1: name must be str, not NoneType (ignored")
