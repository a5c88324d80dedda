"""Spans of a store as the JSON of Jaeger's query API, which Jaeger's UI opens ("JSON File")."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..._core.attributes import CANCELLED_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from .._sqlite.reader import StoredSpan

__all__ = ["write_jaeger"]

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def write_jaeger(spans: Iterable[StoredSpan], file: TextIO) -> None:
    """Write *spans* to *file*, grouped by trace. Times are microseconds, as Jaeger has them."""
    traces: dict[str, list[StoredSpan]] = {}
    for span in spans:
        traces.setdefault(span.trace_id, []).append(span)
    file.write('{"data":[')
    file.writelines(
        "," * (number > 0) + _ENCODE(_trace(trace_id, members))
        for number, (trace_id, members) in enumerate(traces.items())
    )
    file.write("]}")


def _trace(trace_id: str, spans: list[StoredSpan]) -> dict[str, Any]:
    processes: dict[str, tuple[str, dict[str, Any]]] = {}
    return {
        "traceID": trace_id,
        "spans": [_span(span, _process(span, processes)) for span in spans],
        "processes": dict(processes.values()),
    }


def _process(span: StoredSpan, processes: dict[str, tuple[str, dict[str, Any]]]) -> str:
    key = _ENCODE([span.service, span.resource])
    if key not in processes:
        process = {"serviceName": span.service, "tags": _tags(span.resource)}
        processes[key] = f"p{len(processes) + 1}", process
    return processes[key][0]


def _span(span: StoredSpan, process: str) -> dict[str, Any]:
    tags = [*_tags(span.attributes), {"key": "span.kind", "type": "string", "value": span.kind}]
    if span.status == "error":
        tags += [{"key": "error", "type": "bool", "value": True}]
    if span.status == "cancelled":
        tags += [{"key": CANCELLED_KEY, "type": "string", "value": span.description}]
    elif span.description:
        tags += [{"key": "otel.status_description", "type": "string", "value": span.description}]
    if span.instrumentation.get("name"):
        tags += [{"key": "otel.scope.name", "type": "string", "value": str(span.instrumentation["name"])}]
    references = [] if span.parent_id is None else [_reference("CHILD_OF", span.trace_id, span.parent_id)]
    references += [
        _reference("FOLLOWS_FROM", link.get("trace_id"), link.get("span_id"))
        for link in span.links
        if isinstance(link, dict)
    ]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_ns // 1000,
        "duration": (span.end_ns - span.start_ns) // 1000,
        "tags": tags,
        "logs": [_log(event) for event in span.events if isinstance(event, dict)],
        "processID": process,
    }


def _reference(kind: str, trace_id: Any, span_id: Any) -> dict[str, Any]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def _log(event: dict[str, Any]) -> dict[str, Any]:
    time_ns, attributes = event.get("time_ns"), event.get("attributes")
    fields = [{"key": "event", "type": "string", "value": str(event.get("name", ""))}]
    return {
        "timestamp": time_ns // 1000 if isinstance(time_ns, int) else 0,
        "fields": fields + _tags(attributes if isinstance(attributes, dict) else {}),
    }


def _tags(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [_tag(key, value) for key, value in attributes.items()]


def _tag(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"key": key, "type": "bool", "value": value}
    if isinstance(value, int):
        return {"key": key, "type": "int64", "value": value}
    if isinstance(value, float):
        return {"key": key, "type": "float64", "value": value}
    return {"key": key, "type": "string", "value": value if isinstance(value, str) else _ENCODE(value)}
