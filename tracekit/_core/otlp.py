"""The plain twin's OTLP encoder: finished spans into the bytes of one ``ExportTraceServiceRequest``.

Field numbers: opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto, resource/v1/resource.proto.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from .._version import __version__
from .attributes import CANCELLED_KEY, int_text
from .codecs import utf8
from .records import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .context import SpanContext
    from .span import Span

__all__ = ["encode_request"]

HAS_IS_REMOTE: Final = 0x100
IS_REMOTE: Final = 0x200


def encode_request(spans: Iterable[Span]) -> bytes:
    """Return *spans* as one request; those of one resource together, in their order."""
    groups: dict[int, list[Span]] = {}
    for span in spans:
        groups.setdefault(id(span.resource), []).append(span)
    return b"".join([_message(0x0A, _resource_spans(group)) for group in groups.values()])


def _resource_spans(spans: list[Span]) -> bytes:
    scope = _message(0x0A, _text(0x0A, "tracekit") + _text(0x12, __version__))
    resource = _message(0x0A, _attributes(0x0A, spans[0].resource))
    return resource + _message(0x12, scope + b"".join([_message(0x12, _span(span)) for span in spans]))


def _span(span: Span) -> bytes:
    parent, status = span.parent, span.status
    parts = [_ids(span.context)]
    flags = HAS_IS_REMOTE
    if parent is not None and parent.id[16:] != bytes(8):
        parts.append(b"\x22\x08" + parent.id[16:])
    if parent is not None and parent.is_remote:
        flags |= IS_REMOTE
    parts += [
        _name(0x2A, span.name),
        _number(0x30, KINDS.index(span.kind) + 1),
        _time(0x39, span.start_ns),
        _time(0x41, span.end_ns or 0),
        _attributes(0x4A, span.attributes),
    ]
    if status.code == "cancelled":
        parts.append(_attribute(0x4A, CANCELLED_KEY, status.description))
    parts.append(_number(0x50, span.dropped_attributes))
    for name, time_ns, attributes in span.events:
        parts.append(_message(0x5A, _time(0x09, time_ns) + _name(0x12, name) + _attributes(0x1A, attributes)))
    parts.append(_number(0x60, span.dropped_events))
    for target, attributes in span.links:
        link_flags = HAS_IS_REMOTE | (IS_REMOTE if target.is_remote else 0)
        link = _ids(target) + _attributes(0x22, attributes) + b"\x35" + _flags(target, link_flags)
        parts.append(_message(0x6A, link))
    parts.append(_number(0x70, span.dropped_links))
    if status.code == "error":
        parts.append(_message(0x7A, _name(0x12, status.description) + b"\x18\x02"))
    elif status.code == "ok":
        parts.append(_message(0x7A, b"\x18\x01"))
    parts.append(b"\x85\x01" + _flags(span.context, flags))
    return b"".join(parts)


def _ids(context: SpanContext) -> bytes:
    octets, state = context.id, str(context.state)
    return b"\x0a\x10" + octets[:16] + b"\x12\x08" + octets[16:] + (_text(0x1A, state) if state else b"")


def _flags(context: SpanContext, flags: int) -> bytes:
    return struct.pack("<I", context.flags | flags)


def _attributes(tag: int, attributes: Mapping[str, Any]) -> bytes:
    return b"".join([_attribute(tag, key, value) for key, value in attributes.items()])


def _attribute(tag: int, key: str, value: Any) -> bytes:
    return _message(tag, _name(0x0A, key) + _message(0x12, _value(value)))


def _value(value: Any) -> bytes:
    """Return an ``AnyValue``; None is one without a value. An attribute nests three levels deep at most."""
    kind = type(value)
    if kind is str:
        return _text(0x0A, value)
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        if -(1 << 63) <= value < 1 << 63:
            return b"\x18" + _varint(value & (1 << 64) - 1)
        return _text(0x0A, int_text(value))
    if kind is float:
        return b"\x21" + struct.pack("<d", value)
    if kind is bytes:
        return _message(0x3A, value)
    if kind is tuple:
        return _message(0x2A, b"".join([_message(0x0A, _value(item)) for item in value]))
    if kind is dict:
        return _message(0x32, _attributes(0x0A, value))
    return b""


def _message(tag: int, octets: bytes) -> bytes:
    size = len(octets)
    return bytes((tag, size)) + octets if size < 0x80 else bytes((tag,)) + _varint(size) + octets


def _text(tag: int, text: str) -> bytes:
    return _message(tag, utf8(text))


def _name(tag: int, text: str) -> bytes:
    return _text(tag, text) if text else b""


def _number(tag: int, number: int) -> bytes:
    return bytes((tag,)) + _varint(number) if number else b""


def _time(tag: int, time_ns: int) -> bytes:
    return bytes((tag,)) + struct.pack("<Q", time_ns & (1 << 64) - 1) if time_ns else b""


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
