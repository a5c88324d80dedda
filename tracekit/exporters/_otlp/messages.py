"""Protocol buffers of OTLP's logs and metrics, made of the messages in OTLP's JSON mapping.

The encoders of these signals build one form, dicts, and this module has the field numbers: it is called once a second or
less. Spans have their own, compiled encoder.

Field numbers: opentelemetry/proto/logs/v1/logs.proto, metrics/v1/metrics.proto, common/v1/common.proto.
"""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any, Final

__all__ = ["LOGS", "METRICS", "encode_message", "varint"]

Schema = dict[str, tuple[int, Any]]

_VALUE: Final[Schema] = {
    "stringValue": (1, "text"),
    "boolValue": (2, "varint"),
    "intValue": (3, "varint"),
    "doubleValue": (4, "double"),
    "bytesValue": (7, "base64"),
}
_ATTRIBUTE: Final[Schema] = {"key": (1, "text"), "value": (2, _VALUE)}
_VALUE["arrayValue"] = (5, {"values": (1, _VALUE)})
_VALUE["kvlistValue"] = (6, {"values": (1, _ATTRIBUTE)})
_RESOURCE: Final[Schema] = {"attributes": (1, _ATTRIBUTE)}
_SCOPE: Final[Schema] = {"name": (1, "text"), "version": (2, "text")}

_LOG_RECORD: Final[Schema] = {
    "timeUnixNano": (1, "fixed64"),
    "severityNumber": (2, "varint"),
    "severityText": (3, "text"),
    "body": (5, _VALUE),
    "attributes": (6, _ATTRIBUTE),
    "droppedAttributesCount": (7, "varint"),
    "flags": (8, "fixed32"),
    "traceId": (9, "hex"),
    "spanId": (10, "hex"),
    "observedTimeUnixNano": (11, "fixed64"),
}
LOGS: Final[Schema] = {
    "resourceLogs": (
        1,
        {"resource": (1, _RESOURCE), "scopeLogs": (2, {"scope": (1, _SCOPE), "logRecords": (2, _LOG_RECORD)})},
    )
}

_EXEMPLAR: Final[Schema] = {
    "timeUnixNano": (2, "fixed64"),
    "asDouble": (3, "double"),
    "spanId": (4, "hex"),
    "traceId": (5, "hex"),
}
_POINT: Final[Schema] = {
    "attributes": (9, _ATTRIBUTE),
    "startTimeUnixNano": (2, "fixed64"),
    "timeUnixNano": (3, "fixed64"),
    "count": (4, "fixed64"),
    "sum": (5, "double"),
    "bucketCounts": (6, "fixed64s"),
    "explicitBounds": (7, "doubles"),
    "exemplars": (8, _EXEMPLAR),
}
_EXPONENTIAL_POINT: Final[Schema] = {
    "attributes": (1, _ATTRIBUTE),
    "startTimeUnixNano": (2, "fixed64"),
    "timeUnixNano": (3, "fixed64"),
    "count": (4, "fixed64"),
    "sum": (5, "double"),
    "scale": (6, "zigzag"),
    "zeroCount": (7, "fixed64"),
    "positive": (8, {"offset": (1, "zigzag"), "bucketCounts": (2, "varints")}),
    "exemplars": (11, _EXEMPLAR),
}
_METRIC: Final[Schema] = {
    "name": (1, "text"),
    "description": (2, "text"),
    "unit": (3, "text"),
    "histogram": (9, {"dataPoints": (1, _POINT), "aggregationTemporality": (2, "varint")}),
    "exponentialHistogram": (10, {"dataPoints": (1, _EXPONENTIAL_POINT), "aggregationTemporality": (2, "varint")}),
}
METRICS: Final[Schema] = {
    "resourceMetrics": (
        1,
        {"resource": (1, _RESOURCE), "scopeMetrics": (2, {"scope": (1, _SCOPE), "metrics": (2, _METRIC)})},
    )
}

_WIRE: Final = {"varint": 0, "zigzag": 0, "fixed64": 1, "double": 1, "fixed32": 5}  # all others: 2, counted octets


def encode_message(message: dict[str, Any], schema: Schema) -> bytes:
    """Return *message*, in OTLP's JSON mapping, as protocol buffers; every field that is present is written."""
    out = bytearray()
    for name, value in message.items():
        number, kind = schema[name]
        is_message = type(kind) is dict
        for item in value if is_message and type(value) is list else (value,):
            octets = encode_message(item, kind) if is_message else _scalar(kind, item)
            wire = 2 if is_message else _WIRE.get(kind, 2)
            out += varint(number << 3 | wire)
            if wire == 2:
                out += varint(len(octets))
            out += octets
    return bytes(out)


def _scalar(kind: str, value: Any) -> bytes:
    match kind:
        case "text":
            return str(value).encode()
        case "hex":
            return bytes.fromhex(value)
        case "base64":
            return b64decode(value)
        case "double":
            return struct.pack("<d", float(value))  # also of the texts "NaN" and "Infinity"
        case "fixed64":
            return struct.pack("<Q", int(value))
        case "fixed32":
            return struct.pack("<I", value)
        case "zigzag":
            return varint(value << 1 if value >= 0 else (-value << 1) - 1)
        case "doubles":
            return struct.pack(f"<{len(value)}d", *value)
        case "fixed64s":
            return struct.pack(f"<{len(value)}Q", *map(int, value))
        case "varints":
            return b"".join(map(varint, map(int, value)))
    return varint(int(value) & (1 << 64) - 1)


def varint(number: int) -> bytes:
    """Return *number*, 0 or more, as protocol buffers have it: seven bits an octet, the lowest first."""
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
