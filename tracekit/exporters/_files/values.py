"""Values of a store as OTLP's JSON has them, for readers of other formats: they make an OTLP request of a file."""

from __future__ import annotations

from typing import Any

__all__ = ["key_values", "request"]


def key_values(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return *attributes* as a list of ``KeyValue``."""
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


def _any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": value} if -(1 << 63) <= value < 1 << 63 else {"doubleValue": float(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any_value(item) for item in value]}}
    if isinstance(value, dict):
        if value.keys() == {"base64"} and isinstance(value["base64"], str):  # bytes, as the store has them
            return {"bytesValue": value["base64"]}
        return {"kvlistValue": {"values": key_values(value)}}
    return {}


def request(resource: dict[str, Any], scope: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    """Return the ``ResourceSpans`` of one span."""
    scope_spans = {"scope": scope, "spans": [span]}
    return {"resource": {"attributes": key_values(resource)}, "scopeSpans": [scope_spans]}
