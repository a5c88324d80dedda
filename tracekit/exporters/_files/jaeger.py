"""Spans of a store as the JSON of Jaeger's query API, which Jaeger's UI opens ("JSON File"), and back.

Tags stand for missing fields: https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/. The format
has microseconds, and no link attributes, flags or tracestate; values that are neither text nor number are JSON text.
"""

from __future__ import annotations

import json
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..._core.attributes import CANCELLED_KEY
from .._sqlite.cells import int_of
from .values import KIND_NUMBERS, STATUS_NUMBERS, key_values, mapping_of, request

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from .._sqlite.reader import StoredSpan

_TYPES = {bool: "bool", int: "int64", float: "float64"}
_MAX_INT = 2**53 - 1  # Jaeger's API has larger ints as text, as a browser rounds the numbers of JSON
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


def write_jaeger(spans: Iterable[StoredSpan], file: TextIO) -> None:
    """Write *spans*, which come trace by trace, to *file*. Times are microseconds, as Jaeger has them."""
    file.write('{"data":[')
    separator = ""
    for trace_id, members in groupby(spans, key=attrgetter("trace_id")):
        file.write(f'{separator}{{"traceID":{_ENCODE(trace_id)},"spans":[')
        processes: dict[str, tuple[str, dict[str, Any]]] = {}
        separator = ""
        for span in members:
            file.write(separator + _ENCODE(_span(span, _process(span, processes))))
            separator = ","
        file.write(f'],"processes":{_ENCODE(dict(processes.values()))}}}')
    file.write("]}")


def _process(span: StoredSpan, processes: dict[str, tuple[str, dict[str, Any]]]) -> str:
    key = _ENCODE([span.service, span.resource])
    if key not in processes:
        process = {"serviceName": span.service, "tags": _tags(span.resource)}
        processes[key] = f"p{len(processes) + 1}", process
    return processes[key][0]


def _span(span: StoredSpan, process: str) -> dict[str, Any]:
    said: dict[str, Any] = {"span.kind": span.kind}
    if span.status == "error":
        said["error"] = True
    if span.status in ("ok", "error"):
        said["otel.status_code"] = span.status.upper()
    if span.status == "cancelled":
        said[CANCELLED_KEY] = span.description
    elif span.description:
        said["otel.status_description"] = span.description
    for part in ("name", "version"):
        if span.instrumentation.get(part):
            said[f"otel.scope.{part}"] = str(span.instrumentation[part])
    references = [] if span.parent_id is None else [_reference("CHILD_OF", span.trace_id, span.parent_id)]
    links = [link for link in span.links if isinstance(link, dict)]
    references += [_reference("FOLLOWS_FROM", link.get("trace_id"), link.get("span_id")) for link in links]
    return {
        "traceID": span.trace_id,
        "spanID": span.span_id,
        "operationName": span.name,
        "references": references,
        "startTime": span.start_ns // 1000,
        "duration": max(0, span.end_ns - span.start_ns) // 1000,  # as Jaeger's API: clocks step, and ends are absent
        "tags": _tags(span.attributes) + _tags(said),
        "logs": [_log(event) for event in span.events if isinstance(event, dict)],
        "processID": process,
    }


def _reference(kind: str, trace_id: Any, span_id: Any) -> dict[str, Any]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def _log(event: dict[str, Any]) -> dict[str, Any]:
    name = {"key": "event", "type": "string", "value": str(event.get("name", ""))}
    return {
        "timestamp": int_of(event.get("time_ns")) // 1000,
        "fields": [name, *_tags(mapping_of(event.get("attributes")))],
    }


def _tags(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [_tag(key, value) for key, value in attributes.items()]


def _tag(key: str, value: Any) -> dict[str, Any]:
    kind = _TYPES.get(type(value), "string")
    if type(value) not in (*_TYPES, str) or (kind == "int64" and abs(value) > _MAX_INT):
        value = _ENCODE(value)
    return {"key": key, "type": kind, "value": value}


def read_jaeger(document: dict[str, Any]) -> dict[str, Any]:
    """Return *document*, as Jaeger's API and ``write_jaeger()`` make it, as an OTLP request. Raises on another shape."""
    found = []
    for trace in document["data"]:
        processes = trace.get("processes", {})
        for span in trace["spans"]:
            process = span.get("process") or processes.get(span.get("processID"), {})
            resource = {**_values(process.get("tags")), "service.name": process.get("serviceName", "unknown_service")}
            tags = _values(span.get("tags"))
            scope = {
                "name": tags.pop("otel.scope.name", tags.pop("otel.library.name", "")),
                "version": tags.pop("otel.scope.version", tags.pop("otel.library.version", "")),
            }
            found.append(request(resource, scope, _otlp(span, tags)))
    return {"resourceSpans": found}


def _otlp(span: dict[str, Any], tags: dict[str, Any]) -> dict[str, Any]:
    start_ns = int(span["startTime"]) * 1000
    parents: list[str] = []
    links: list[dict[str, str]] = []
    for reference in span.get("references") or []:
        ids = _id(reference["traceID"], 32), _id(reference["spanID"], 16)
        if reference["refType"] == "CHILD_OF" and ids[0] == _id(span["traceID"], 32) and not parents:
            parents.append(ids[1])
        else:
            links.append({"traceId": ids[0], "spanId": ids[1]})
    is_error = str(tags.get("error", "")).lower() == "true"
    if is_error or tags.get("error") is False:  # else it is an attribute
        del tags["error"]
    code = STATUS_NUMBERS.get(str(tags.pop("otel.status_code", "")).lower(), 2 if is_error else 0)
    return {
        "traceId": _id(span["traceID"], 32),
        "spanId": _id(span["spanID"], 16),
        "parentSpanId": parents[0] if parents else _id(span.get("parentSpanID") or "", 16),
        "name": span["operationName"],
        "kind": KIND_NUMBERS.get(str(tags.pop("span.kind", "internal")), 1),
        "startTimeUnixNano": start_ns,
        "endTimeUnixNano": start_ns + int(span["duration"]) * 1000,
        "status": {"code": code, "message": tags.pop("otel.status_description", "")},
        "attributes": key_values(tags),
        "events": [_event(log) for log in span.get("logs") or []],
        "links": links,
    }


def _id(text: str, digits: int) -> str:
    """Return an id of Jaeger's, which may lack leading zeros; an absent one stays so."""
    return text.rjust(digits, "0") if text else ""


def _values(tags: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {tag["key"]: _value(tag.get("type"), tag.get("value")) for tag in tags or []}


def _value(kind: str | None, value: Any) -> Any:
    if kind == "int64":
        return int(value)
    if kind == "float64":
        return float(value)
    return {"base64": value} if kind == "binary" else value


def _event(log: dict[str, Any]) -> dict[str, Any]:
    fields = list(log.get("fields") or [])
    keys = [field["key"] for field in fields]
    name = next((key for key in ("event", "message") if key in keys), None)
    # The first: an attribute may have the same key.
    text = "log" if name is None else str(fields.pop(keys.index(name)).get("value"))
    return {"timeUnixNano": int(log["timestamp"]) * 1000, "name": text, "attributes": key_values(_values(fields))}
