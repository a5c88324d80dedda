"""Cycles through objects that hold an object of the program: the garbage collector frees each of them.

It does not see what a compiled span or context holds, so they must hold nothing that may refer back to them.
"""

from __future__ import annotations

import contextvars
import ctypes
import gc
import weakref
from enum import StrEnum

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tests.tools.api_fuzz.run import holders
from tracekit._core.changes import relabel
from tracekit._core.context import make_context, make_remote
from tracekit._core.free_threading import HAS_GIL
from tracekit._core.restore import restore_span
from tracekit._core.scopes import label_scope
from tracekit.bridges import opentelemetry as bridge
from tracekit.testing import MemoryExporter

IDS = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


class Holder:
    """An object of the program."""

    span: tracekit.Span


class Word(StrEnum):
    DEBUG = "d"


class Number(int):
    pass


def is_freed(reference):
    gc.collect()
    return reference() is None


def configure(**given):
    tracekit.configure(exporter=MemoryExporter(), environ={}, **given)


def test_a_class_of_expected_exceptions_may_hold_the_span_that_expects_it():
    configure()

    def cycle():
        class Expected(Exception):
            span: tracekit.Span

        Expected.span = tracekit.span("a", expected=Expected)
        return weakref.ref(Expected)

    assert is_freed(cycle())


def test_a_class_of_expected_exceptions_that_nothing_else_holds_is_forgotten(exporter):
    def start():
        class Expected(Exception):
            pass

        return tracekit.span("a", expected=(Expected, KeyError))

    span = start()
    gc.collect()
    with pytest.raises(KeyError), span:
        raise KeyError("b")
    assert span.status.code == "unset"


@pytest.mark.skipif(
    not HAS_GIL and tracekit.IMPLEMENTATION == "compiled", reason="tracers that configure() replaces are kept"
)
@pytest.mark.parametrize("ends", [True, False])
def test_a_sampler_may_hold_a_span_for_which_it_decided(ends):
    def cycle():
        class Sampler:
            span: tracekit.Span

            def sample(self, randomness, name, kind, attributes):
                return True, ""

        sampler = Sampler()
        configure(sampler=sampler)
        sampler.span = tracekit.span("a")
        assert sampler.span.is_recording
        if ends:
            sampler.span.end()
        configure()
        return weakref.ref(sampler)

    assert is_freed(cycle())


def test_a_span_processor_may_hold_spans_that_have_ended():
    configure()

    def cycle():
        provider = bridge.TracerProvider(shutdown_on_exit=False)
        memory = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        provider.get_tracer("library").start_span("a").end()
        (made,) = memory.get_finished_spans()
        assert made.instrumentation_scope.name == "library"
        return weakref.ref(memory)

    assert is_freed(cycle())


def test_hooks_that_come_later_get_the_open_spans_of_a_provider_with_a_sampler():
    configure()
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    provider = bridge.TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    span = provider.get_tracer("library").start_span("a")
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    span.end()
    assert [made.name for made in memory.get_finished_spans()] == ["a"]


def test_an_attribute_of_a_restored_span_is_plain():
    configure()
    context = tracekit.SpanContext(*IDS, 1)

    def cycle():
        holder = Holder()
        restore_span(
            context, None, "a", "internal", 1, 2, {"a": holder, "b": None, "c": (1, "d")}, [("e", 1, {"a": holder})],
            [tracekit.Link(context, {"a": holder})], tracekit.Status("ok"), (0, 0, 0, 0),
        )  # fmt: skip
        return weakref.ref(holder)

    assert is_freed(cycle())


def test_a_restored_span_takes_no_other_links():
    configure()
    with pytest.raises(TypeError, match="links must hold a SpanContext, not int"):
        restore_span(
            tracekit.SpanContext(*IDS), None, "a", "internal", 1, 2, None, None, [(1, {})], tracekit.Status("ok"),
            (0, 0, 0, 0),
        )  # fmt: skip


def test_a_task_may_be_reached_from_a_span_of_the_bridge_that_its_scopes_stand_on():
    configure()
    bridge.install()
    try:

        def cycle():
            holder = Holder()

            def run():
                tracekit.span("outer").__enter__()
                holder.task = contextvars.copy_context()
                holder.task.run(tracekit.span("inner").__enter__)
                otel_trace.get_current_span().holder = holder
                otel_context.get_current()  # the outer scope keeps it

            contextvars.Context().run(run)
            return weakref.ref(holder)

        made = [cycle() for _ in range(4)]  # the bridge keeps what it made last
        gc.collect()
        assert [one() is None for one in made[:-1]] == [True] * 3
    finally:
        bridge.uninstall()


@pytest.mark.parametrize("replaces", [False, True])
def test_the_extra_fields_of_a_context_are_plain(replaces):
    class Octets(bytes):
        pass

    class Real(float):
        pass

    class Pair(tuple):
        __slots__ = ()

    given = {
        Word.DEBUG: Word.DEBUG, "number": Number(3), "octets": Octets(b"a"), "real": Real(1.5), "pair": Pair((Word.DEBUG, 1)),
        "list": [None, True, ["a"]],
    }  # fmt: skip
    context = tracekit.SpanContext(*IDS, extra=None if replaces else given)
    if replaces:
        context = context.replace(extra=given)
    kept = context.extra
    assert kept == {"d": "d", "number": 3, "octets": b"a", "real": 1.5, "pair": ("d", 1), "list": (None, True, ("a",))}
    assert [type(value) for value in kept.values()] == [str, int, bytes, float, tuple, tuple]
    assert [type(key) for key in kept] == [str] * 6
    assert type(kept["pair"][0]) is str


@pytest.mark.parametrize("make", [
    lambda extra: tracekit.SpanContext(*IDS, extra=extra),
    lambda extra: tracekit.SpanContext(*IDS).replace(extra=extra),
    lambda extra: make_context(bytes(23) + b"a", 1, "", None, True, extra),
    lambda extra: make_remote(1, 1, 1, extra),
])  # fmt: skip
def test_extra_fields_hold_no_objects(make):
    loop: list[object] = []
    loop.append(loop)
    for value in (Holder(), {"a": 1}, {1}, [Holder()], ((Holder(),),), bytearray(b"a")):
        with pytest.raises(
            TypeError, match="extra must hold str, bytes, numbers, bools, None and tuples of those, not"
        ):
            make({"a": value})
    with pytest.raises(ValueError, match="extra must hold tuples of at most 8 levels"):
        make({"a": loop})
    with pytest.raises(TypeError, match="extra must have str keys, not int"):
        make({1: "a"})
    assert not make({}).extra


def test_labels_are_labels():
    span = tracekit.span("a")
    for function in (label_scope, lambda labels: relabel(span, labels), lambda labels: make_context(bytes(24), 0, "", labels, True)):  # fmt: skip
        with pytest.raises(TypeError, match="labels must be Labels, not Holder"):
            function(Holder())


def test_the_fuzz_tells_of_references_that_the_collector_does_not_see():
    held = {"key": tracekit.span("a"), "tracked": Holder()}
    told = f"is held by dict{{'key': <Span {id(held['key']):x}>"
    reference = ctypes.py_object(held)
    ctypes.pythonapi.Py_IncRef(reference)
    try:
        lines = holders().splitlines()
    finally:
        ctypes.pythonapi.Py_DecRef(reference)
    (place,) = [number for number, line in enumerate(lines) if told in line]
    assert "references hold that the collector does not see" in lines[place + 1]
