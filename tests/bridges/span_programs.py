"""Programs about a span: its parent, times, attributes, events, links, status and exceptions."""

from __future__ import annotations

from contextlib import suppress

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from .same_programs import PROGRAMS, REMOTE, Failed, program, under

# Parents, times and identity


@program
def a_parent_given_by_context(tracer):
    with tracer.start_as_current_span("current"), tracer.start_as_current_span("given", context=under(REMOTE)) as span:
        return (
            span.parent == REMOTE,
            span.parent.is_remote,
            span.context.trace_state.to_header(),
            span.context.trace_flags,
        )


@program
def an_empty_context_makes_a_root(tracer):
    with tracer.start_as_current_span("current") as current:
        span = tracer.start_span("root", context=context.Context())
        span.end()
        return span.parent, span.context.trace_id != current.context.trace_id


@program
def an_invalid_parent_makes_a_root(tracer):
    with tracer.start_as_current_span("current"):
        span = tracer.start_span("root", context=trace.set_span_in_context(trace.INVALID_SPAN))
        span.end()
        return span.parent


@program
def times_that_are_given(tracer):
    span = tracer.start_span("a", start_time=1_000)
    span.add_event("e", timestamp=1_500)
    span.end(end_time=2_000)
    span.end(end_time=3_000)
    return span.start_time, span.end_time, span.events[0].timestamp


@program
def a_time_of_zero(tracer):
    span = tracer.start_span("a", start_time=0)
    span.end(end_time=0)
    return span.start_time, span.end_time


@program
def the_context_is_one_object(tracer):
    with tracer.start_as_current_span("a") as span:
        child = tracer.start_span("b")
        child.end()
        return (
            span.get_span_context() is span.get_span_context(),
            span.context is span.get_span_context(),
            child.parent is span.context,
            trace.get_current_span() is span,
            trace.get_current_span().get_span_context() is span.context,
        )


@program
def ids_and_flags_have_the_apis_types(tracer):
    span = tracer.start_span("a")
    span.end()
    made = span.get_span_context()
    return (
        type(made), type(made.trace_id), type(made.trace_flags), type(made.trace_state), made.trace_flags, made.is_valid,
        made.is_remote, len(trace.format_trace_id(made.trace_id)), made.trace_flags.sampled,
    )  # fmt: skip


@program
def is_recording_until_the_end(tracer):
    span = tracer.start_span("a")
    before = span.is_recording()
    span.end()
    return before, span.is_recording()


@program
def calls_after_the_end(tracer):
    span = tracer.start_span("a", attributes={"a": 1})
    span.end()
    span.set_attribute("b", 1)
    span.set_attributes({"c": 1})
    span.add_event("e")
    span.add_link(REMOTE)
    span.update_name("b")
    span.set_status(StatusCode.ERROR)
    span.record_exception(ValueError())
    return span.name, dict(span.attributes), span.events, span.links, span.status.status_code


# Attributes, names, events, links


@program
def attributes_of_every_kind(tracer):
    with tracer.start_as_current_span("a", attributes={"given": "x", "n": 1}) as span:
        for key, value in {
            "str": "a", "int": 1, "bool": True, "float": 1.5, "bytes": b"abc", "strs": ["a", "b"], "ints": (1, 2),
            "bools": [True, False], "empty": [], "text": "ä€𝄞", "negative": -5, "big": 2**62, "n": 2,
        }.items():  # fmt: skip
            span.set_attribute(key, value)
        span.set_attributes({"more": "b", "str": "c"})
        return dict(span.attributes)


@program
def attributes_cannot_be_changed_from_outside(tracer):
    given = {"a": ["x"]}
    with tracer.start_as_current_span("a", attributes=given) as span:
        given["a"].append("y")
        given["b"] = 1
        with pytest.raises(TypeError):
            span.attributes["c"] = 1
        return dict(span.attributes)


@program
def events_with_attributes(tracer):
    with tracer.start_as_current_span("a") as span:
        span.add_event("one")
        span.add_event("two", {"a": 1, "b": ["x"]})
        span.add_event("three", timestamp=5)
        return [(event.name, dict(event.attributes)) for event in span.events]


@program
def links_with_attributes(tracer):
    links = [
        Link(REMOTE, {"a": 1}),
        Link(REMOTE),
        Link(trace.INVALID_SPAN_CONTEXT),
        Link(trace.INVALID_SPAN_CONTEXT, {"b": 1}),
    ]
    with tracer.start_as_current_span("a", links=links) as span:
        span.add_link(REMOTE, {"c": 1})
        span.add_link(trace.INVALID_SPAN_CONTEXT)
        return [(link.context == REMOTE, dict(link.attributes)) for link in span.links]


@program
def a_span_is_renamed(tracer):
    with tracer.start_as_current_span("a") as span:
        span.update_name("b")
        return span.name


@program
def kinds(tracer):
    spans = [tracer.start_span(kind.name, kind=kind) for kind in SpanKind]
    for span in spans:
        span.end()
    return [span.kind for span in spans]


# Statuses and exceptions


def _statuses():
    ok, error, unset = StatusCode.OK, StatusCode.ERROR, StatusCode.UNSET
    yield "ok_is_final", [(ok,), (error, "late")]
    yield "ok_after_error", [(error, "first"), (ok,)]
    yield "the_last_error_counts", [(error, "first"), (error, "second")]
    yield "an_error_without_description_after_one", [(error, "first"), (error,)]
    yield "unset_changes_nothing", [(error, "first"), (unset,)]
    yield "a_status_object", [(Status(error, "first"),)]
    yield "a_status_object_after_ok", [(Status(ok),), (Status(error, "first"),)]
    yield "a_status_object_of_unset", [(Status(error, "first"),), (Status(unset),)]
    yield "no_description_of_ok", [(ok, "dropped")]


def _status_program(calls):
    def run(tracer):
        with tracer.start_as_current_span("a") as span:
            for call in calls:
                span.set_status(*call)
            return span.status.status_code, span.status.description, span.status.is_ok, span.status.is_unset

    return run


PROGRAMS += [pytest.param(_status_program(calls), {}, id=f"status_{name}") for name, calls in _statuses()]


@program
def an_exception_that_leaves(tracer):
    with suppress(Failed), tracer.start_as_current_span("a"):
        raise Failed("why")


@program
def an_exception_that_leaves_a_span_in_a_with(tracer):
    with suppress(Failed), tracer.start_span("a"):
        raise Failed("why")


@program
def an_exception_that_leaves_use_span(tracer):
    with suppress(Failed), trace.use_span(tracer.start_span("a"), end_on_exit=True):
        raise Failed("why")


@program
def an_exception_after_a_status(tracer):
    for code in StatusCode:
        with suppress(Failed), tracer.start_as_current_span(code.name) as span:
            span.set_status(code)
            raise Failed("why")


@program
def an_exception_that_is_not_to_be_recorded(tracer):
    for record in (True, False):
        for status in (True, False):
            options = {"record_exception": record, "set_status_on_exception": status}
            with suppress(Failed), tracer.start_as_current_span("a", **options):
                raise Failed("why")
            with suppress(Failed), tracer.start_span("b", **options):
                raise Failed("why")
            with suppress(Failed), trace.use_span(tracer.start_span("c"), end_on_exit=True, **options):
                raise Failed("why")


@program
def an_exception_recorded_by_hand(tracer):
    with tracer.start_as_current_span("a") as span:
        try:
            raise Failed("why")
        except Failed as error:
            span.record_exception(error)
            span.record_exception(error, attributes={"a": 1, "exception.message": "other"}, timestamp=7, escaped=True)
        span.record_exception(ValueError("never raised"))
