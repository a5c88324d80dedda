"""Programs about the current span, baggage, propagation, and what a provider or the environment decides."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import json
import os
import threading
import warnings
from contextlib import suppress

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, StatusCode, TraceState

from .same_programs import PROGRAMS, REMOTE, UNSAMPLED, Failed, program, under

# The current span


@program
def use_span_with_and_without_an_end(tracer):
    span = tracer.start_span("a")
    with trace.use_span(span) as used:
        inside = trace.get_current_span() is span
    first = used is span, inside, span.is_recording(), trace.get_current_span() is trace.INVALID_SPAN
    with trace.use_span(span, end_on_exit=True):
        pass
    return first, span.is_recording()


@program
def a_span_without_a_recording_is_current(tracer):
    given = NonRecordingSpan(REMOTE)
    with trace.use_span(given) as used:
        child = tracer.start_span("child")
        child.end()
        return used is given, trace.get_current_span() is given, child.parent == REMOTE, child.parent.is_remote


@program
def a_span_that_was_not_ended_at_exit(tracer):
    with tracer.start_as_current_span("a", end_on_exit=False) as span:
        pass
    before = span.is_recording()
    span.end()
    return before


@program
def a_span_that_has_ended_is_still_a_parent(tracer):
    with tracer.start_as_current_span("a") as span:
        span.end()
        with tracer.start_as_current_span("b") as child:
            return child.parent == span.context, trace.get_current_span() is child


@program
def a_function_is_decorated(tracer):
    @tracer.start_as_current_span("work")
    def work(number):
        """Its text."""
        return number, trace.get_current_span().name

    return work(1), work(2), work.__name__, work.__doc__


@program
def a_coroutine_function_is_decorated(tracer):
    @tracer.start_as_current_span("work")
    async def work(number):
        await asyncio.sleep(0)
        return number, trace.get_current_span().name

    async def main():
        return await asyncio.gather(work(1), work(2))

    return asyncio.run(main()), inspect.iscoroutinefunction(work)


@program
def a_generator_function_is_decorated(tracer):
    @tracer.start_as_current_span("work")
    def work():
        yield trace.get_current_span() is trace.INVALID_SPAN

    return list(work()), list(work())


@program
def an_async_generator_function_is_decorated(tracer):
    @tracer.start_as_current_span("work")
    async def work():
        yield trace.get_current_span() is trace.INVALID_SPAN

    async def main():
        return [item async for item in work()]

    return asyncio.run(main())


@program
def use_span_decorates(tracer):
    span = tracer.start_span("a")

    @trace.use_span(span)
    def work():
        return trace.get_current_span() is span

    seen = work()
    span.end()
    return seen


@program
def tasks_inherit(tracer):
    async def work(name):
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)
            return baggage.get_baggage("tenant")

    async def main():
        token = context.attach(baggage.set_baggage("tenant", "x"))
        with tracer.start_as_current_span("main"):
            seen = await asyncio.gather(*[work(str(number)) for number in range(3)])
        context.detach(token)
        return seen

    return asyncio.run(main())


@program
def a_copied_context(tracer):
    with tracer.start_as_current_span("a") as span:
        copied = contextvars.copy_context()
    return copied.run(lambda: trace.get_current_span() is span), trace.get_current_span() is trace.INVALID_SPAN


@program
def a_context_carried_into_a_thread(tracer):
    seen = []

    def work(given):
        token = context.attach(given)
        with tracer.start_as_current_span("thread"):
            seen.append(context.get_value("key"))
        context.detach(token)

    with tracer.start_as_current_span("a"):
        thread = threading.Thread(target=work, args=(context.set_value("key", 1),))
        thread.start()
        thread.join()
    return seen


# Baggage and propagation


@program
def baggage_of_every_kind(tracer):
    given = object()
    token = context.attach(
        baggage.set_baggage("a", given, baggage.set_baggage("b", "text", baggage.set_baggage("c", 1)))
    )
    with tracer.start_as_current_span("a"):
        seen = (
            baggage.get_baggage("a") is given,
            baggage.get_baggage("b"),
            baggage.get_baggage("c"),
            len(baggage.get_all()),
        )
        inner = context.attach(baggage.remove_baggage("b"))
        seen += baggage.get_baggage("b"), sorted(baggage.get_all())
        context.detach(inner)
        inner = context.attach(baggage.clear())
        seen += (dict(baggage.get_all()),)
        context.detach(inner)
        seen += (sorted(baggage.get_all()),)
    context.detach(token)
    return seen, dict(baggage.get_all())


@program
def baggage_without_attach_changes_nothing(tracer):
    with tracer.start_as_current_span("a"):
        made = baggage.set_baggage("a", "1")
        return baggage.get_baggage("a"), baggage.get_baggage("a", made)


@program
def injected_headers(tracer):
    with tracer.start_as_current_span("a") as span:
        token = context.attach(baggage.set_baggage("tenant", "ä,b"))
        headers = {}
        propagate.inject(headers)
        context.detach(token)
        ids = trace.format_trace_id(span.context.trace_id), trace.format_span_id(span.context.span_id)
        return headers["traceparent"].startswith(f"00-{ids[0]}-{ids[1]}-"), headers["baggage"], sorted(headers)


@program
def nothing_is_injected_without_a_span(tracer):
    headers = {}
    propagate.inject(headers)
    return headers


@program
def extracted_headers(tracer):
    found = propagate.extract(
        {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "tracestate": "a=1,b=2",
            "baggage": "tenant=x%20y,user=7",
        }
    )
    with tracer.start_as_current_span("server", context=found, kind=SpanKind.SERVER) as span:
        inside = baggage.get_baggage("tenant"), baggage.get_baggage("tenant", found), dict(baggage.get_all(found))
        headers = {}
        propagate.inject(headers)
        return span.parent.trace_state.to_header(), inside, headers["tracestate"], sorted(headers)


@program
def a_context_extracted_and_attached(tracer):
    token = context.attach(propagate.extract({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "baggage": "k=v"}))
    with tracer.start_as_current_span("a") as span:
        seen = span.parent.is_remote, trace.format_trace_id(span.context.trace_id), baggage.get_baggage("k")
    context.detach(token)
    return seen


# Samplers


@program(sampler=sampling.ALWAYS_OFF)
def an_unsampled_span(tracer):
    with tracer.start_as_current_span("a", attributes={"a": 1}) as span:
        span.set_attribute("b", 1)
        span.set_status(StatusCode.ERROR)
        span.add_event("e")
        span.record_exception(ValueError())
        child = tracer.start_span("b")
        child.end()
        headers = {}
        propagate.inject(headers)
        return (
            type(span.get_span_context()), span.get_span_context().trace_flags.sampled, span.is_recording(),
            isinstance(span, NonRecordingSpan), isinstance(span, trace.Span), isinstance(span, sdk.ReadableSpan),
            child.get_span_context().trace_id == span.get_span_context().trace_id, headers["traceparent"][-2:] in ("00", "02"),
            trace.get_current_span() is span,
        )  # fmt: skip


@program(sampler=sampling.ParentBased(sampling.ALWAYS_OFF))
def a_sampled_parent_decides(tracer):
    with tracer.start_as_current_span("a", context=under(REMOTE)) as span:
        return span.is_recording(), span.get_span_context().trace_flags.sampled


@program(sampler=sampling.ParentBased(sampling.ALWAYS_ON))
def an_unsampled_parent_decides(tracer):
    with tracer.start_as_current_span("a", context=under(UNSAMPLED)) as span:
        return span.is_recording(), span.get_span_context().trace_flags.sampled


class ByLinks(sampling.Sampler):
    """Samples traces with a link, of a name, or with an attribute; adds an attribute and a tracestate."""

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        samples = bool(links) or name == "wanted" or (attributes or {}).get("wanted") or kind is SpanKind.SERVER
        decision = sampling.Decision.RECORD_AND_SAMPLE if samples else sampling.Decision.DROP
        return sampling.SamplingResult(
            decision, {**(attributes or {}), "sampler": "by links"}, TraceState([("s", "1")])
        )

    def get_description(self):
        return "ByLinks"


@program(sampler=ByLinks())
def a_sampler_with_links(tracer):
    spans = [
        tracer.start_span("linked", links=[Link(REMOTE)]),
        tracer.start_span("wanted"),
        tracer.start_span("attribute", attributes={"wanted": True, "other": 1}),
        tracer.start_span("server", kind=SpanKind.SERVER),
        tracer.start_span("unwanted"),
    ]
    assert not spans[4].is_recording()
    for span in spans:
        span.end()
    return [(span.is_recording(), span.get_span_context().trace_state.to_header()) for span in spans[:4]]


# Limits: above one the SDK drops the oldest, against its specification, and tracekit the newest. Their numbers are the same.


@program(limits=sdk.SpanLimits(max_span_attributes=2, max_events=1, max_links=1, max_span_attribute_length=3))
def limits_of_a_provider(tracer):
    links = [Link(REMOTE, {"a": "12345"}), Link(UNSAMPLED, {"a": "12345"})]
    with tracer.start_as_current_span("a", attributes=dict.fromkeys("abc", "1234"), links=links) as span:
        span.set_attribute("d", "1234")
        span.add_event("e", {"a": "12345"})
        span.add_event("e", {"a": "12345"})


@program(limits=sdk.SpanLimits(max_event_attributes=1, max_link_attributes=1, max_attribute_length=2))
def limits_of_events_and_links(tracer):
    with tracer.start_as_current_span("a", links=[Link(REMOTE, {"a": "123", "b": "123"})]) as span:
        span.add_event("e", {"a": "12345", "b": "12345"})


LIMITS = {
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "1",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4",
}


@program(environ=LIMITS)
def limits_of_the_environment(tracer):
    links = [Link(REMOTE, {"a": "1", "b": "1"}), Link(UNSAMPLED, {"a": "1", "b": "1"})]
    with tracer.start_as_current_span("a", attributes=dict.fromkeys("abc", "12345"), links=links) as span:
        span.add_event("e", {"a": "1234", "b": "1234"})
        span.add_event("e", {"a": "1234", "b": "1234"})


@program(environ={"OTEL_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"})
def limits_of_all_attributes_in_the_environment(tracer):
    with tracer.start_as_current_span(
        "a", attributes=dict.fromkeys("ab", "12345"), links=[Link(REMOTE, {"a": "12345"})]
    ) as span:
        span.add_event("e", {"a": "12345", "b": "12345"})


@program(environ={"OTEL_SPAN_EVENT_COUNT_LIMIT": "", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0"})
def a_limit_of_zero_and_an_empty_one_in_the_environment(tracer):
    with tracer.start_as_current_span("a", attributes={"a": 1}) as span:
        for _ in range(200):
            span.add_event("e")


# Samplers of the environment: tracekit asks about new traces only


def _sampled_traces(tracer):
    contexts = [context.Context(), under(REMOTE), under(UNSAMPLED)]
    if not os.environ["OTEL_TRACES_SAMPLER"].startswith("parentbased"):
        del contexts[1:]
    spans = [tracer.start_span("a", context=parent) for parent in contexts]
    seen = [span.is_recording() for span in spans]
    for span in spans:
        span.end()
    return seen


for _name in ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off"):
    _environ = {"OTEL_TRACES_SAMPLER": _name}
    PROGRAMS.append(pytest.param(_sampled_traces, {"environ": _environ}, id=f"sampler_{_name}"))
for _name, _ratio in itertools.product(("traceidratio", "parentbased_traceidratio"), ("0", "1.0")):
    _environ = {"OTEL_TRACES_SAMPLER": _name, "OTEL_TRACES_SAMPLER_ARG": _ratio}
    PROGRAMS.append(pytest.param(_sampled_traces, {"environ": _environ}, id=f"sampler_{_name}_{_ratio}"))


# Processors, resources and exporters


class Changing(sdk.SpanProcessor):
    """Changes spans at their start, reads them at their end."""

    def __init__(self):
        self.seen = []

    def on_start(self, span, parent_context=None):
        span.set_attribute("from.baggage", str(baggage.get_baggage("tenant", parent_context)))
        span.update_name(span.name + "!")
        span.add_event("started")
        self.seen.append((span.is_recording(), span.start_time is None, span.end_time, isinstance(span, sdk.Span)))

    def on_end(self, span):
        self.seen.append((span.name, span.end_time is None, span.attributes["from.baggage"], hasattr(span, "to_json")))


CHANGING = Changing()


@program(processor=CHANGING)
def a_processor_changes_spans(tracer):
    CHANGING.seen.clear()
    token = context.attach(baggage.set_baggage("tenant", "x"))
    with tracer.start_as_current_span("a"), tracer.start_as_current_span("b"):
        pass
    tracer.start_span("c", context=baggage.set_baggage("tenant", "y", context.Context())).end()
    context.detach(token)
    return list(CHANGING.seen)


@program(resource=Resource({"service.name": "shop", "a": 1}).merge(Resource({"a": 2, "b": [1, 2]}, "https://a")))
def a_merged_resource(tracer):
    span = tracer.start_span("a")
    span.end()
    return dict(span.resource.attributes), span.resource.schema_url, span.resource == tracer.resource


@program(sampler=sampling.ALWAYS_ON)
def a_tracer_has_the_parts_of_its_provider(tracer):
    with warnings.catch_warnings(action="ignore"):
        info = tracer.instrumentation_info
    parts = tracer.sampler, info.name, info.version, info.schema_url
    return (
        parts,
        type(tracer.id_generator.generate_span_id()),
        [hasattr(tracer.span_processor, name) for name in ("on_start", "on_end", "shutdown", "force_flush")],
    )


@program
def a_span_as_json(tracer):
    with (
        suppress(Failed),
        tracer.start_as_current_span("a", kind=SpanKind.CLIENT, links=[Link(REMOTE, {"l": 1})]) as span,
    ):
        span.set_attributes({"a": 1, "b": ["x", "y"], "c": 1.5, "d": True})
        span.add_event("e", {"f": 1}, timestamp=1_700_000_000_000_000_000)
        raise Failed("why")
    made = json.loads(span.to_json())
    for key in ("start_time", "end_time", "resource"):
        del made[key]
    made["context"] = sorted(made["context"])
    for event in made["events"]:
        event["attributes"].pop("exception.stacktrace", None)
        if event["name"] == "exception":
            del event["timestamp"]
    return made, span.to_json(indent=None).count("\n")
