"""OTLP's JSON encoding of spans and log records as rows of the store.

Spec: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding - names in lowerCamelCase, ids in hexadecimal of
any case, numbers of 64 bits as text or numbers, enums as numbers; unknown names are ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Any

from .._core.attributes import CANCELLED_KEY, whole
from ..exporters._sqlite.terms import joined, term
from .rows import MAX_DEPTH, MAX_RECORDS, Malformed, base64_text, finished, logged, number_text, overhead

if TYPE_CHECKING:
    from ..exporters._sqlite.terms import Term
    from .rows import Row

_HEX = frozenset("0123456789abcdef")


def read_request(octets: bytes, stored_s: int) -> tuple[list[Row], int, int]:
    """Return the same as ``protobuf.read_request()`` for a request in JSON."""
    return read_parsed(_parsed(octets), stored_s, 2 * len(octets))


def read_parsed(request: dict[str, Any], stored_s: int, size: int) -> tuple[list[Row], int, int]:
    """Return the same for a *request* that is parsed; *size* is twice the length of its text in bytes."""
    rows: list[Row] = []
    rejected = 0
    for resource_spans in _list(request, "resourceSpans"):
        items = _pairs(_object(resource_spans.get("resource") or {}))
        resource = _joined(items)
        terms = _terms(items)
        service = str(json.loads(items.get("service.name", '"unknown_service"')))
        size += overhead((), resource, resource)
        for scope_spans in _list(resource_spans, "scopeSpans"):
            library = _library(scope_spans)
            bytes_a_row = overhead((service,), library)
            for span in _list(scope_spans, "spans"):
                row = _row(span, stored_s, service, resource, terms, library)
                if row is None:
                    rejected += 1
                else:
                    rows.append(row)
                    size += bytes_a_row
    return rows, rejected, size


def read_logs(octets: bytes, stored_s: int) -> tuple[list[Row], int, int]:
    """Return the same as ``protobuf.read_logs()`` for a request in JSON."""
    rows: list[Row] = []
    size = 2 * len(octets)
    for resource_logs in _list(_parsed(octets), "resourceLogs"):
        items = _pairs(_object(resource_logs.get("resource") or {}))
        service = str(json.loads(items.get("service.name", '"unknown_service"')))
        for scope_logs in _list(resource_logs, "scopeLogs"):
            logger = _text(_object(scope_logs.get("scope") or {}).get("name"))
            bytes_a_row = overhead((service, logger))
            for record in _list(scope_logs, "logRecords"):
                if len(rows) == MAX_RECORDS:
                    raise Malformed(f"more than {MAX_RECORDS} log records")
                rows.append(
                    logged(
                        stored_s,
                        _id(record.get("traceId"), 32),
                        _id(record.get("spanId"), 16),
                        service,
                        _number(record.get("timeUnixNano"), 64) or _number(record.get("observedTimeUnixNano"), 64),
                        _number(record.get("severityNumber"), 32),
                        _text(record.get("severityText")),
                        logger,
                        _text(record.get("eventName")),
                        _value(record.get("body"), 0),
                        _joined(_pairs(record)),
                        _number(record.get("droppedAttributesCount"), 32),
                    )
                )
                size += bytes_a_row
    return rows, 0, size


def _parsed(octets: bytes) -> dict[str, Any]:
    try:
        return _object(json.loads(octets))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"not JSON: {error}"[:200]) from None


def _row(
    span: dict[str, Any], stored_s: int, service: str, resource: str, resource_terms: list[Term], library: str
) -> Row | None:
    trace_id, span_id = _id(span.get("traceId"), 32), _id(span.get("spanId"), 16)
    if not trace_id or not span_id:
        return None
    attributes = _pairs(span)
    reason = attributes.pop(CANCELLED_KEY, None)
    status = _object(span.get("status") or {})
    links = _list(span, "links")
    kept = [text for link in links if (text := _link(link))]
    events = [_event(event) for event in _list(span, "events")]
    dropped = [_number(span.get(f"dropped{what}Count"), 32) for what in ("Attributes", "Events", "Links")]
    return finished(
        stored_s,
        (trace_id, span_id, _id(span.get("parentSpanId"), 16) or None),
        service,
        _text(span.get("name")),
        _number(span.get("kind"), 32),
        (_number(span.get("startTimeUnixNano"), 64), _number(span.get("endTimeUnixNano"), 64)),
        (_number(status.get("code"), 32), _text(status.get("message")), reason and str(json.loads(reason))),
        _number(span.get("flags"), 32),
        _text(span.get("traceState")),
        (_joined(attributes), f"[{','.join(events)}]", f"[{','.join(kept)}]", resource, library),
        (dropped[0], dropped[1], dropped[2] + len(links) - len(kept)),
        joined([*_terms(attributes), *resource_terms]),
    )


def _library(scope_spans: dict[str, Any]) -> str:
    scope = _object(scope_spans.get("scope") or {})
    name = _text(scope.get("name"))
    if name in ("", "tracekit"):
        return "{}"
    return (
        f'{{"name":{quote(name)},"version":{quote(_text(scope.get("version")))},'
        f'"schema_url":{quote(_text(scope_spans.get("schemaUrl")))},"attributes":{_joined(_pairs(scope))}}}'
    )


def _event(event: dict[str, Any]) -> str:
    time_ns = _number(event.get("timeUnixNano"), 64)
    return f'{{"name":{quote(_text(event.get("name")))},"time_ns":{time_ns},"attributes":{_joined(_pairs(event))}}}'


def _link(link: dict[str, Any]) -> str | None:
    trace_id, span_id = _id(link.get("traceId"), 32), _id(link.get("spanId"), 16)
    if not trace_id or not span_id:
        return None
    return f'{{"trace_id":"{trace_id}","span_id":"{span_id}","attributes":{_joined(_pairs(link))}}}'


def _pairs(holder: dict[str, Any], name: str = "attributes", depth: int = 0) -> dict[str, str]:
    """Return the attributes of *holder* as keys and values in JSON."""
    return {_text(item.get("key")): _value(item.get("value"), depth) for item in _list(holder, name)}


def _terms(pairs: dict[str, str]) -> list[Term]:
    return [term(key, value) for key, value in pairs.items()]


def _joined(pairs: dict[str, str]) -> str:
    return "{" + ",".join([f"{quote(key)}:{value}" for key, value in pairs.items()]) + "}"


def _value(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise Malformed(f"values are nested deeper than {MAX_DEPTH}")
    for kind, held in _object(value or {}).items():
        if kind == "stringValue":
            return quote(_text(held))
        if kind == "boolValue":
            return "true" if held is True else "false"
        if kind == "intValue":
            return str(_signed(held))
        if kind == "doubleValue":
            return number_text(_double(held))
        if kind == "bytesValue":
            return base64_text(_octets(held))
        if kind == "arrayValue":
            return "[" + ",".join([_value(item, depth + 1) for item in _list(_object(held), "values")]) + "]"
        if kind == "kvlistValue":
            return _joined(_pairs(_object(held), "values", depth + 1))
    return "null"


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"an object was expected, not {type(value).__name__}")
    return value


def _list(holder: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = holder.get(name) or []
    if not isinstance(items, list):
        raise Malformed(f"{name} must be an array")
    for item in items:
        _object(item)
    return items


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"text was expected, not {type(value).__name__}")
    return whole(value)


def _id(value: Any, digits: int) -> str:
    text = _text(value).lower()
    return text if len(text) == digits and _HEX.issuperset(text) and text.strip("0") else ""


def _signed(value: Any) -> int:
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = int(value)
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
        raise Malformed("an integer of 64 bits was expected")
    return value


def _number(value: Any, bits: int) -> int:
    """Return an unsigned number of *bits*; absent, it is 0."""
    if value is None:
        return 0
    if isinstance(value, str) and len(value) <= 20 and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << bits:
        raise Malformed(f"an unsigned integer of {bits} bits was expected")
    return value


def _double(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise Malformed("a number was expected") from None


def _octets(value: Any) -> bytes:
    try:
        return base64.b64decode(_text(value))
    except (binascii.Error, ValueError):
        raise Malformed("base64 was expected") from None
