"""Values of a store as OTLP's JSON has them, for readers of other formats: they make an OTLP request of a file."""

from __future__ import annotations

import base64
from typing import Any

__all__ = ["key_values", "octets_of", "request"]


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
        if octets_of(value) is not None:
            return {"bytesValue": value["base64"]}
        return {"kvlistValue": {"values": key_values(value)}}
    return {}


def octets_of(value: dict[str, Any]) -> bytes | None:
    """Return the bytes that *value* stands for in a store, or None: a mapping of the program's may look alike."""
    if value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except ValueError:
            pass
    return None


def request(resource: dict[str, Any], scope: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    """Return the ``ResourceSpans`` of one span."""
    scope_spans = {"scope": scope, "spans": [span]}
    return {"resource": {"attributes": key_values(resource)}, "scopeSpans": [scope_spans]}
