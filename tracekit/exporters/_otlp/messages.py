"""Protocol buffers of OTLP's logs and metrics, and of answers, made of the messages in OTLP's JSON mapping.

The encoders of these signals build one form, dicts, and this module has the field numbers: it is called once a second or
less. Spans have their own, compiled encoder.

Field numbers: opentelemetry/proto/logs/v1/logs.proto, metrics/v1/metrics.proto, common/v1/common.proto, those of the
answers in collector/trace/v1/trace_service.proto, its like for logs, and google/rpc/status.proto.
"""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import Any, Final

Schema = dict[str, tuple[int, Any]]


def _fields(text: str) -> Schema:
    """Return the schema that *text* describes: number, name and kind of each field."""
    return {name: (int(number), kind) for number, name, kind in map(str.split, text.split(","))}


_VALUE: Schema = _fields(
    "1 stringValue text, 2 boolValue varint, 3 intValue varint, 4 doubleValue double, 7 bytesValue base64"
)
_ATTRIBUTE: Final = _fields("1 key text") | {"value": (2, _VALUE)}
_VALUE |= {"arrayValue": (5, {"values": (1, _VALUE)}), "kvlistValue": (6, {"values": (1, _ATTRIBUTE)})}
_RESOURCE: Final[Schema] = {"attributes": (1, _ATTRIBUTE)}
_SCOPE: Final = _fields("1 name text, 2 version text")

_LOG_RECORD: Final = {"body": (5, _VALUE), "attributes": (6, _ATTRIBUTE)} | _fields(
    "1 timeUnixNano fixed64, 2 severityNumber varint, 3 severityText text, 7 droppedAttributesCount varint,"
    "8 flags fixed32, 9 traceId hex, 10 spanId hex, 11 observedTimeUnixNano fixed64"
)
_SCOPE_LOGS: Final[Schema] = {"scope": (1, _SCOPE), "logRecords": (2, _LOG_RECORD)}
LOGS: Final[Schema] = {"resourceLogs": (1, {"resource": (1, _RESOURCE), "scopeLogs": (2, _SCOPE_LOGS)})}

_EXEMPLAR: Final = _fields("2 timeUnixNano fixed64, 3 asDouble double, 4 spanId hex, 5 traceId hex")
_ANY_POINT: Final = _fields("2 startTimeUnixNano fixed64, 3 timeUnixNano fixed64, 4 count fixed64, 5 sum double")
_POINT: Final = {
    "attributes": (9, _ATTRIBUTE),
    **_ANY_POINT,
    **_fields("6 bucketCounts fixed64s, 7 explicitBounds doubles"),
    "exemplars": (8, _EXEMPLAR),
}
_EXPONENTIAL_POINT: Final = {
    "attributes": (1, _ATTRIBUTE),
    **_ANY_POINT,
    **_fields("6 scale zigzag, 7 zeroCount fixed64"),
    "positive": (8, _fields("1 offset zigzag, 2 bucketCounts varints")),
    "exemplars": (11, _EXEMPLAR),
}
_TEMPORALITY: Final = _fields("2 aggregationTemporality varint")
_METRIC: Final = _fields("1 name text, 2 description text, 3 unit text") | {
    "histogram": (9, {"dataPoints": (1, _POINT), **_TEMPORALITY}),
    "exponentialHistogram": (10, {"dataPoints": (1, _EXPONENTIAL_POINT), **_TEMPORALITY}),
}
_SCOPE_METRICS: Final[Schema] = {"scope": (1, _SCOPE), "metrics": (2, _METRIC)}
METRICS: Final[Schema] = {"resourceMetrics": (1, {"resource": (1, _RESOURCE), "scopeMetrics": (2, _SCOPE_METRICS)})}

_PARTIAL_SUCCESS: Final = _fields("1 rejectedSpans varint, 1 rejectedLogRecords varint, 2 errorMessage text")
RESPONSE: Final[Schema] = {"partialSuccess": (1, _PARTIAL_SUCCESS)}
STATUS: Final = _fields("1 code varint, 2 message text")

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
