"""OpenTelemetry's samplers and id generators, given to ``configure()``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind, TraceState, get_current_span

import tracekit
from tracekit._core.context import set_ids
from tracekit.testing import CountingIds, MemoryExporter
from tracekit.wire import b3


class Recording:
    """A sampler that keeps its arguments and returns *result*."""

    def __init__(self, result):
        self.result = result
        self.calls = []

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        self.calls.append(
            (get_current_span(parent_context).get_span_context(), trace_id, name, kind, attributes, links)
        )
        return self.result


@pytest.fixture
def configured():
    memory = MemoryExporter()
    yield lambda **arguments: tracekit.configure(exporter=memory, environ={}, **arguments) or memory
    tracekit.configure(environ={})
    set_ids(None)


def test_a_sampler_gets_trace_id_kind_attributes_and_links_and_adds_attributes(configured):
    sampler = Recording(SamplingResult(Decision.RECORD_AND_SAMPLE, {"sampler.type": "mine", "a": 1}))
    exporter = configured(sampler=sampler)
    target = tracekit.SpanContext("1" * 32, "2" * 16, 1)
    with tracekit.span("outer"):
        links = [target, tracekit.Link(target, {"why": "batch"})]
        root = tracekit.span("root", kind="client", attributes={"a": 1}, links=links, parent=tracekit.ROOT)
        with root, tracekit.span("child"):
            pass
    (outer, *_), (parent, trace_id, name, kind, attributes, links) = sampler.calls
    assert not outer.is_valid
    assert not parent.is_valid  # a new trace, though another span is current
    assert f"{trace_id:032x}" == root.context.trace_id
    assert (name, kind, dict(attributes)) == ("root", SpanKind.CLIENT, {"a": 1})
    assert [(link.context.span_id, dict(link.attributes)) for link in links] == [
        (0x2222222222222222, {}),
        (0x2222222222222222, {"why": "batch"}),
    ]
    child, *_ = exporter.spans
    assert dict(root.attributes) == {"a": 1, "sampler.type": "mine"}
    assert dict(child.attributes) == {}


@pytest.mark.parametrize(
    ("sampler", "is_kept"),
    [
        (ALWAYS_ON, True),
        (ALWAYS_OFF, False),
        (ParentBased(ALWAYS_ON), True),
        (ParentBased(ALWAYS_OFF), False),
        (TraceIdRatioBased(1.0), True),
        (TraceIdRatioBased(0.0), False),
        (Recording(SamplingResult(Decision.RECORD_ONLY)), False),
        (Recording(None), False),
    ],
)
def test_the_decision_holds_for_the_trace(configured, sampler, is_kept):
    exporter = configured(sampler=sampler)
    with tracekit.span("root") as root, tracekit.span("child"):
        assert root.context.sampled is is_kept
    assert len(exporter.spans) == (2 if is_kept else 0)
    assert str(root.context.state) == ""


def test_a_ratio_sampler_compares_the_low_64_bits_of_the_trace_id(configured):
    class Ids:
        def generate_trace_id(self):
            return (1 << 127) | numbers.pop(0)

        def generate_span_id(self):
            return 7

    sampler = TraceIdRatioBased(0.5)
    numbers = [sampler.bound - 1, sampler.bound]
    configured(sampler=sampler, id_generator=Ids())
    assert [tracekit.span("root").context.sampled for _ in range(2)] == [True, False]


def test_a_sampler_is_asked_about_a_remote_parent_that_left_the_decision_open(configured):
    sampler = Recording(SamplingResult(Decision.RECORD_AND_SAMPLE))
    configured(sampler=sampler, formats=[b3.MULTI])
    remote = tracekit.extract({"x-b3-traceid": "1" * 32, "x-b3-spanid": "2" * 16})
    assert remote.deferred
    with tracekit.span("child", parent=remote) as child:
        assert child.context.sampled
    ((parent, trace_id, *_),) = sampler.calls
    assert (parent.span_id, parent.is_remote, trace_id) == (0x2222222222222222, True, parent.trace_id)
    configured(sampler=ParentBased(ALWAYS_ON), formats=[b3.MULTI])
    assert tracekit.span("child", parent=remote).context.sampled


def test_a_samplers_tracestate_comes_first(configured):
    sampler = Recording(SamplingResult(Decision.RECORD_AND_SAMPLE, None, TraceState([("ot", "th:8"), ("mine", "1")])))
    configured(sampler=sampler)
    with tracekit.span("root") as root:
        assert str(root.context.state) == "ot=th:8,mine=1"


def test_a_custom_sampler_may_ask_one_of_opentelemetry(configured):
    from tracekit._foreign import ForeignSampler

    ask = ForeignSampler(TraceIdRatioBased(0.5))
    assert ask.sample(0, "name", "internal", {}) == (True, "")
    assert ask.sample((1 << 56) - 1, "name", "internal", {}) == (False, "")
    assert "TraceIdRatioBased" in repr(ask)


def test_ids_come_from_the_generator_until_the_next_configure(configured):
    class Ids(RandomIdGenerator):
        def generate_trace_id(self):
            return 5

        def generate_span_id(self):
            return 6

    configured(id_generator=Ids())
    with tracekit.span("root") as root:
        pass
    assert (root.context.trace_id, root.context.span_id) == (f"{5:032x}", f"{6:016x}")
    assert root.context.flags == 0b11
    configured()
    with tracekit.span("root") as root:
        assert root.context.trace_id != f"{5:032x}"


def test_a_generator_that_does_not_say_that_its_ids_are_random(configured):
    class Ids:
        def generate_trace_id(self):
            return 5

        generate_span_id = generate_trace_id

    configured(id_generator=Ids())
    with tracekit.span("root") as root:
        assert root.context.flags == 0b01
    configured(id_generator=RandomIdGenerator())
    assert tracekit.span("root").context.flags == 0b11


@pytest.mark.parametrize("id", [0, -1, 1 << 128, "5", None, 5.0, ValueError])
def test_ids_that_cannot_be_used_are_random_and_logged_once(configured, caplog, id):
    class Ids:
        def generate_trace_id(self):
            if id is ValueError:
                raise id("broken")  # a new one: its traceback refers to the span
            return id

        generate_span_id = generate_trace_id

    configured(id_generator=Ids())
    made = [tracekit.span("root").context for _ in range(2)]
    assert all(context.is_valid for context in made)
    assert made[0].trace_id != made[1].trace_id
    assert len(caplog.records) == 1
    assert "Ids.generate_" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": ALWAYS_ON.__class__}, "sampler must be a sampler such as .*, or one of OpenTelemetry's, not"),
        ({"sampler": object()}, "not object"),
        ({"sampler": 0.5}, "not float"),
        ({"id_generator": RandomIdGenerator}, "id_generator must have generate_trace_id.* not "),
        ({"id_generator": CountingIds()}, "not CountingIds"),
    ],
)
def test_other_objects_are_errors(configured, arguments, message):
    with pytest.raises(TypeError, match=message):
        configured(**arguments)


def test_nothing_of_opentelemetry_is_imported_or_needed():
    program = """
import sys, tracekit
from types import SimpleNamespace
from tracekit.testing import MemoryExporter

class Sampler:
    def should_sample(self, parent_context, trace_id, name, kind, attributes, links):
        assert (parent_context, name, kind) == (None, "root", "internal"), (parent_context, name, kind)
        return SimpleNamespace(decision=SimpleNamespace(is_sampled=lambda: True), attributes=None, trace_state=None)

class Ids:
    def generate_trace_id(self): return 1
    def generate_span_id(self): return 2

memory = MemoryExporter()
tracekit.configure(exporter=memory, sampler=Sampler(), id_generator=Ids(), environ={})
with tracekit.span("root"):
    pass
assert [span.context.trace_id for span in memory.spans] == [f"{1:032x}"]
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
