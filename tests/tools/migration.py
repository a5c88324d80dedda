"""Run the code of docs/migrating.md that is for another tracer, with that tracer, or the tracekit code that replaces it.

    python -m tests.tools.migration before Sentry
    python -m tests.tools.migration after Sentry

Prints JSON, in the same shape for both: the finished spans in order of their start, and what became of ``headers``. A span
has its name, its parent (a name, or the id of a remote span), the attributes that the program set, and its events. What the
page says to differ is translated here: logfire's log lines are spans of no length, Sentry's transactions are spans.
"""

from __future__ import annotations

import functools
import json
import linecache
import os
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
# Run after OpenTracing's two ways to set a tracer.
OPENTRACING = """
with opentracing.global_tracer().start_active_span("checkout", tags={"order": 7}) as scope:
    scope.span.set_baggage_item("tenant", "acme")
    with opentracing.global_tracer().start_active_span("pay") as inner:
        assert inner.span.get_baggage_item("tenant") == "acme"
        inner.span.log_kv({"event": "paid"})
"""
# The others have none, or an operation instead, and tracekit's kinds are not compared.


HAVE_KINDS = {"OpenTelemetry", "logfire"}


def blocks(section: str) -> tuple[str, str, str]:
    """Return the beginning of the page, and the code before and after of *section*."""
    beginning, *sections = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = sections[sections.index(section) + 1]
    (before,) = re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    codes = [re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE)[0] for part in (beginning, text)]
    return codes[0], before, codes[1]


def span(name: str, parent: str | None, attributes: Any, events: Any = (), kind: str = "") -> dict[str, Any]:
    return {"name": name, "kind": kind, "parent": parent, "attributes": dict(attributes), "events": list(events)}


def carried(headers: dict[str, str]) -> dict[str, Any]:
    """Return what *headers* say, without ids, which differ."""
    return {key: re.sub(r"[0-9a-f]{16,32}", "ID", value) for key, value in sorted(headers.items())}


# ---- before: each runs *code* with its tracer


def opentelemetry(code: str) -> dict[str, Any]:
    from opentelemetry import baggage, context, propagate, trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.trace import SpanKind

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    headers: dict[str, str] = {}
    names = {"baggage": baggage, "context": context, "propagate": propagate, "trace": trace, "SpanKind": SpanKind}
    exec(code, {**names, "headers": headers, "__name__": "shop"})
    return {"spans": _otel_spans(exporter.get_finished_spans()), "headers": carried(headers)}


def _otel_spans(finished: Any) -> list[dict[str, Any]]:
    names = {one.context.span_id: one.name for one in finished}
    return [
        span(
            one.name,
            names[one.parent.span_id] if one.parent else None,
            one.attributes,
            [event.name for event in one.events],
            one.kind.name.lower(),
        )
        for one in sorted(finished, key=lambda one: one.start_time)
    ]


def opentracing(code: str) -> dict[str, Any]:
    import jaeger_client.config
    from jaeger_client.reporter import InMemoryReporter

    reporter = InMemoryReporter()
    jaeger_client.config.Reporter = lambda **_: reporter  # it would send to an agent
    exec(f"import jaeger_client, opentracing\n{code}\n{OPENTRACING}", {})
    finished = sorted(reporter.get_spans(), key=lambda one: one.start_time)
    names = {one.span_id: one.operation_name for one in finished}
    spans = []
    for one in finished:
        # The reporter's spans hold thrift's structures; a tag has its value in the field of its type.
        tags = {tag.key: tag.vLong for tag in one.tags if tag.key == "order"}
        logs = [{field.key: field.vStr for field in log.fields} for log in one.logs]
        events = [log["event"] for log in logs if log.get("event") != "baggage"]
        spans.append(span(one.operation_name, names.get(one.parent_id), tags, events))
    return {"spans": spans, "headers": {}}


def logfire(code: str) -> dict[str, Any]:
    import logfire as module
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    module.configure = functools.partial(
        module.configure,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
        send_to_logfire=False,
        console=False,
    )
    # logfire reads the source of its caller.
    linecache.cache["shop.py"] = (len(code), None, code.splitlines(keepends=True), "shop.py")
    exec(compile(code, "shop.py", "exec"), {"logfire": module})
    spans: list[dict[str, Any]] = []
    for one in _otel_spans(exporter.get_finished_spans()):
        if one["attributes"].get("logfire.span_type") == "log":
            next(other for other in spans if other["name"] == one["parent"])["events"].append(one["name"])
            continue
        ours = {
            key: value for key, value in one["attributes"].items() if not re.match(r"logfire\.|code\.|thread\.", key)
        }
        spans.append({**one, "attributes": ours})
    for one in spans:
        one["name"] = re.sub(r" \{\w+\}", "", one["name"])
    return {"spans": spans, "headers": {}}


def sentry(code: str) -> dict[str, Any]:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    sent: list[Any] = []

    class Keep(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.extend(item.payload.json for item in envelope.items if item.type == "transaction")

    sentry_sdk.init("http://key@127.0.0.1:1/1", traces_sample_rate=1.0, transport=Keep(), default_integrations=False)
    exec(code, {"sentry_sdk": sentry_sdk, "headers": {"sentry-trace": f"{TRACE}-{PARENT}-1"}})
    sentry_sdk.flush()
    (transaction,) = sent
    root = transaction["contexts"]["trace"]
    assert root["trace_id"] == TRACE
    spans = [span(transaction["transaction"], root["parent_span_id"], {})]
    for one in transaction["spans"]:
        assert one["parent_span_id"] == root["span_id"]
        values = {key: value for key, value in one["data"].items() if not key.startswith("thread.")}
        spans.append(span(one["description"], transaction["transaction"], values))
    return {"spans": spans, "headers": {}}


def ddtrace(code: str) -> dict[str, Any]:
    os.environ.update(
        DD_CRASHTRACKING_ENABLED="false",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_TRACE_AGENT_URL="unix:///nonexistent/agent.sock",
        DD_TRACE_STARTUP_LOGS="false",
        DD_TRACE_STATS_COMPUTATION_ENABLED="false",
    )
    from ddtrace.propagation.http import HTTPPropagator
    from ddtrace.trace import TraceFilter, tracer

    finished: list[Any] = []

    class Keep(TraceFilter):
        def process_trace(self, trace: Any) -> None:
            for one in trace:
                values = {**one.get_tags(), **one.get_metrics()}
                own = {key: int(value) for key, value in values.items() if key == "user"}
                finished.append(span(one.resource, None, own))

    tracer.configure(trace_processors=[Keep()])
    headers: dict[str, str] = {}
    exec(code, {"tracer": tracer, "HTTPPropagator": HTTPPropagator, "headers": headers})
    return {"spans": finished, "headers": datadog_headers(headers)}


def datadog_headers(headers: dict[str, str]) -> dict[str, Any]:
    """Return Datadog's decision, and whether its two formats name the same trace."""
    trace_id = headers["traceparent"].split("-")[1]
    assert int(headers["x-datadog-trace-id"]) == int(trace_id[16:], 16)
    assert int(headers["x-datadog-parent-id"]) == int(headers["traceparent"].split("-")[2], 16)
    # Flag 2, a random trace id, is not ddtrace's.
    return {
        "sampling priority": headers["x-datadog-sampling-priority"],
        "sampled": int(headers["traceparent"][-2:], 16) & 1,
    }


BEFORE = {
    "OpenTelemetry": opentelemetry,
    "OpenTracing": opentracing,
    "logfire": logfire,
    "Sentry": sentry,
    "ddtrace": ddtrace,
}


# ---- after


def tracekit(section: str, beginning: str, code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"headers": dict(TRACEPARENT)}
    exec(beginning, names)
    exec(code, names)
    import tracekit as module

    module.flush()
    exporter = names["exporter"]
    if section == "OpenTracing":
        exporter.clear()
        exec(OPENTRACING, names)
        module.flush()
    finished = sorted(exporter.spans, key=lambda one: one.start_ns)
    by_id = {one.context.span_id: one.name for one in finished}
    spans = [
        span(
            one.name,
            by_id.get(one.parent.span_id, one.parent.span_id) if one.parent else None,
            one.attributes,
            [event.name for event in one.events],
            one.kind if section in HAVE_KINDS else "",
        )
        for one in finished
    ]
    headers = names["headers"]
    show = {"OpenTelemetry": carried, "ddtrace": datadog_headers}.get(section, lambda _: {})
    return {"spans": spans, "headers": show(headers)}


def main() -> None:
    """Print the spans of one half of a section."""
    half, section = sys.argv[1:]
    beginning, before, after = blocks(section)
    run = BEFORE[section](before) if half == "before" else tracekit(section, beginning, after)
    print(json.dumps(run))


if __name__ == "__main__":
    main()
