"""The rows of the comparison: the work, its counterpart, and the required ratio."""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "BARE",
    "DDTRACE",
    "FLOOR",
    "FLOOR_ROWS",
    "FORMAT_ROWS",
    "HANDOFF_ROWS",
    "OTEL",
    "OURS",
    "ROWS",
    "FloorRow",
    "HandoffRow",
    "Row",
]

OURS, OTEL, DDTRACE = "tracekit", "OpenTelemetry", "ddtrace"
BARE = "bare"  # the same without tracing; subtracted
FLOOR = "floor"


class Row(NamedTuple):
    """Work that tracekit and its peers do; the ratio to OpenTelemetry must reach ``at_least``, where that is given.

    ``dapper_ns`` is the figure of the Dapper paper (2010, C++, another machine) for the same.
    """

    key: str
    work: str
    at_least: float | None = None
    dapper_ns: float | None = None
    unit: str = "ns"


class FloorRow(NamedTuple):
    """Work of tracekit's that may cost at most ``at_most`` times the floor that it is measured against."""

    key: str
    work: str
    floor: str
    at_most: float
    unit: str = "ns"


class HandoffRow(NamedTuple):
    """Work that costs something without tracing, too: what tracekit adds may be ``at_most``, or that ``share`` of it."""

    key: str
    work: str
    at_most: float | None = None
    share: float | None = None
    unit: str = "ns"


ROWS = (
    Row("child", "`with span()`, child, recorded", 30, 176),
    Row("root", "`with span()`, root, recorded", None, 204),
    Row("exported", "the same, with a null exporter's export and release of the span"),
    Row("start_end", "start + end, not made current", 60),
    Row("unsampled_root", "unsampled span, root", 25),
    Row("unsampled_child", "unsampled span, child", 25),
    Row("off", "`with span()`, tracing not configured"),
    Row("set_attribute", "`set_attribute`", 12, 40),
    Row("set_attribute_unsampled", "`set_attribute`, unsampled", None, 9),
    Row("current_span", "`current_span`", 5),
    Row("extract_parent", "extract traceparent", 25),
    Row("extract_state", "extract traceparent + tracestate", 35),
    Row("extract_labels", "extract 3 labels", 25),
    Row("extract_request", "extract all three from 10 headers"),
    Row("extract_8_labels", "extract 8 labels", 25),
    Row("look_8_labels", "extract 8 labels, and look at one"),
    Row("inject_parent", "inject traceparent", 18),
    Row("inject_labels", "inject 3 labels", 15),
    Row("inject_8_labels", "inject 8 labels", 25),
    Row("set_8_labels", "set 8 labels, and inject them"),
    Row("read_parent", "one format alone: read traceparent"),
    Row("read_state", "one format alone: read traceparent + tracestate"),
    Row("write_parent", "one format alone: write traceparent"),
    Row("otlp", "OTLP encoding, a span with 5 attributes and an event, in protobuf", 30),
    Row("asgi", "ASGI middleware, added to a request", 15),
    Row("wsgi", "WSGI middleware, added to a request"),
    Row("bytes", "bytes held per finished span (5 attributes, an event)", 4, unit="B"),
)

FLOOR_ROWS = (
    FloorRow(
        "floor",
        "`with span()`, child, recorded",
        "compiled context manager that sets a ContextVar and sets it back",
        1.6,
    ),
    FloorRow(
        "token_floor",
        "`with span()`, child, recorded",
        "the same, restoring with the Token: faster, not safe everywhere",
        1.6,
    ),
    FloorRow("traced", "a call of a function under `@traced`", "of one whose body is in `with span()`", 1.3),
    FloorRow("import", "`import tracekit`", "`import opentelemetry.sdk.trace`", 1 / 3),
    FloorRow("b3_read", "read `b3`", "read `traceparent`", 1.3),
    FloorRow("b3_write", "write `b3`", "write `traceparent`", 1.3),
    FloorRow("huge", "extract a `baggage` of 1 MiB", "one of 8,192 bytes", 5),
    FloorRow("depth", "`with span()` 1,000 deep", "1 deep", 1.1),
    FloorRow("tasks", "`with span()` beside 10,000 live tasks", "beside none", 1.1),
    FloorRow("spans", "`with span()`, 50,000 spans into a trace", "the first", 1.1),
)

HANDOFF_ROWS = (
    HandoffRow(
        "nothing_found", "extract where a request of ten headers has no trace, with eleven formats configured", 300
    ),
    HandoffRow("group", "a task of `aio.create_task_group()`", share=0.05),
    HandoffRow("named_group", "a task of `aio.create_task_group(name)`, with its span"),
    HandoffRow("to_thread", "`aio.to_thread.run_sync`", share=0.05),
    HandoffRow("item", "an item through `aio.create_memory_object_stream`", 1000),
    HandoffRow("step", "a step of a generator under `@traced`", 400),
    HandoffRow("async_step", "a step of an async generator under `@traced`", 400),
    HandoffRow("live_task", "a live task whose parent span has ended, 100,000 of them", 400, unit="B"),
    HandoffRow("tick", "a tick that has rescheduled itself, 10,000 of them", 1, unit="B"),
)

FORMAT_ROWS = (
    "tracecontext",
    "baggage",
    "b3",
    "b3multi",
    "jaeger",
    "xray",
    "cloudtrace",
    "datadog",
    "ottrace",
    "grpc",
    "seed",
    "server-timing",
)
