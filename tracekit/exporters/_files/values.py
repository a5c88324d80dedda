"""Values of a store and in OTLP's JSON, for the formats of other tools: their readers make an OTLP request of a file."""

from __future__ import annotations

import base64
from typing import Any

from ..._core.records import KINDS
from .._otlp.json import attributes_as_json

KIND_NUMBERS = {kind: number for number, kind in enumerate(KINDS, 1)}  # of OTLP
STATUS_NUMBERS = {"ok": 1, "error": 2}


def key_values(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return *attributes* of a store as a list of ``KeyValue``."""
    return attributes_as_json(values_of(attributes))


def values_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return *attributes* as they were before the store made JSON of them, as far as JSON shows it."""
    return {key: _value(value) for key, value in attributes.items()}


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple([_value(item) for item in value])
    if isinstance(value, dict):
        octets = _octets_of(value)
        return values_of(value) if octets is None else octets
    return value


def _octets_of(value: dict[str, Any]) -> bytes | None:
    """Return the bytes that *value* stands for in a store, or None: a mapping of the program's may look alike."""
    if value.keys() == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except ValueError:
            pass
    return None


def mapping_of(value: Any) -> dict[str, Any]:
    """Return *value*, or an empty mapping for anything else, which another program has written."""
    return value if isinstance(value, dict) else {}


def request(resource: dict[str, Any], scope: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    """Return the ``ResourceSpans`` of one span."""
    scope_spans = {"scope": scope, "spans": [span]}
    return {"resource": {"attributes": key_values(resource)}, "scopeSpans": [scope_spans]}
