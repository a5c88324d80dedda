"""OTLP's JSON encoding of finished spans: ids in hex, enums and 32-bit numbers as numbers, 64-bit numbers as text.

Spec: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from ..._core.attributes import CANCELLED_KEY, int_text, unusual_text, whole
from ..._core.records import KINDS
from ..._core.span import Span, dropped_parts
from ..._version import SCHEMA_URL, __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..._core.context import SpanContext
    from ..._core.records import Instrumentation

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def encode_spans_as_json(spans: Iterable[Span]) -> bytes:
    """Return *spans* as the JSON of one ``ExportTraceServiceRequest``, with the exceptions of ``encode_spans``."""
    request = {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes_as_json(group[0].resource)},
                "scopeSpans": _scopes(group),
                "schemaUrl": SCHEMA_URL,
            }
            for group in _groups(spans, "resource")
        ]
    }
    return encode_json(request)


def encode_json(request: dict[str, Any]) -> bytes:
    """Return *request*, a message in OTLP's JSON mapping, as octets."""
    return _encode(request).encode("ascii")


def _scopes(spans: list[Span]) -> list[dict[str, Any]]:
    groups = _groups(spans, "instrumentation")
    return [{**_scope(group[0].instrumentation), "spans": [_span(span) for span in group]} for group in groups]


def _groups(spans: Iterable[Span], field: str) -> Iterable[list[Span]]:
    """Return *spans* grouped by the identity of *field*."""
    groups: dict[int, list[Span]] = {}
    for span in spans:
        groups.setdefault(id(getattr(span, field)), []).append(span)
    return groups.values()


def _scope(library: Instrumentation | None) -> dict[str, Any]:
    if library is None:
        return {"scope": {"name": "tracekit", "version": __version__}}
    scope: dict[str, Any] = {"name": whole(library.name), "version": whole(library.version)}
    if library.attributes:
        scope["attributes"] = attributes_as_json(library.attributes)
    return {"scope": scope, "schemaUrl": whole(library.schema_url)} if library.schema_url else {"scope": scope}


def _span(span: Span) -> dict[str, Any]:
    parent, status = span.parent, span.status
    dropped, of_events, of_links = _parts(span)
    attributes = attributes_as_json(span.attributes)
    if status.code == "cancelled":
        attributes.append({"key": CANCELLED_KEY, "value": value_as_json(status.description)})
    found = {
        **_ids(span.context),
        "parentSpanId": "" if parent is None or not int(parent.span_id, 16) else parent.span_id,
        "name": whole(span.name),
        "kind": KINDS.index(span.kind) + 1,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns or 0),
        "attributes": attributes,
        "droppedAttributesCount": dropped,
        "events": [
            {
                "timeUnixNano": str(time_ns),
                "name": whole(name),
                "attributes": attributes_as_json(items),
                **({"droppedAttributesCount": lost} if lost else {}),
            }
            for (name, time_ns, items), lost in zip(span.events, of_events, strict=False)
        ],
        "droppedEventsCount": span.dropped_events,
        "links": [
            {
                **_ids(target),
                "attributes": attributes_as_json(items),
                **({"droppedAttributesCount": lost} if lost else {}),
                "flags": target.flags | _HAS_IS_REMOTE | (_IS_REMOTE if target.is_remote else 0),
            }
            for (target, items), lost in zip(span.links, of_links, strict=False)
        ],
        "droppedLinksCount": span.dropped_links,
        "status": _status(*status),
    }
    flags = span.context.flags | _HAS_IS_REMOTE | (_IS_REMOTE if parent is not None and parent.is_remote else 0)
    return {**{key: value for key, value in found.items() if value}, "flags": flags}


def _parts(span: Span) -> tuple[int, list[int], list[int]]:
    if type(span) is Span:
        return dropped_parts(span)
    return span.dropped_attributes, [0] * len(span.events), [0] * len(span.links)  # of a store, which has the sum


def _status(code: str, description: str) -> dict[str, Any]:
    if code == "error":
        return {"code": 2, "message": whole(description)} if description else {"code": 2}
    return {"code": 1} if code == "ok" else {}


def _ids(context: SpanContext) -> dict[str, str]:
    ids = {"traceId": context.trace_id, "spanId": context.span_id}
    state = str(context.state)
    return {**ids, "traceState": state} if state else ids


def attributes_as_json(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return *attributes* as ``KeyValue`` messages."""
    return [{"key": whole(key), "value": value_as_json(value)} for key, value in attributes.items()]


def value_as_json(value: Any) -> dict[str, Any]:
    """Return *value* as an ``AnyValue`` message."""
    if isinstance(value, str):
        return {"stringValue": whole(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        is_int64 = -(1 << 63) <= value < 1 << 63
        return {"intValue": str(value)} if is_int64 else {"stringValue": int_text(value)}
    if isinstance(value, float):
        return {"doubleValue": value if math.isfinite(value) else unusual_text(value)}
    if isinstance(value, bytes):
        return {"bytesValue": b64encode(value).decode("ascii")}
    if isinstance(value, tuple):
        return {"arrayValue": {"values": [value_as_json(item) for item in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes_as_json(value)}}
    return {}
