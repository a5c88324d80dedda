"""The plain form of ``Octets``, which writes OTLP's protocol buffers. ``_speedups_octets.pxi`` has it in C.

Field numbers: opentelemetry/proto/common/v1/common.proto.
"""

from __future__ import annotations

import struct

from .attributes import int_text
from .codecs_plain import utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from .items_plain import Items


class Octets:
    """A growing run of octets; *tag* is a field's number and wire type, as protocol buffers write them."""

    __slots__ = ("_octets",)

    def __init__(self) -> None:
        self._octets = bytearray()

    def need(self, count: int) -> None:
        """Make room for *count* octets."""

    def __bytes__(self) -> bytes:
        """Return all that was written, and begin anew."""
        whole = bytes(self._octets)
        self._octets.clear()
        return whole

    def __reduce__(self) -> Any:
        raise TypeError("octets that are being written cannot be pickled")

    def open(self, tag: int) -> int:
        """Begin a nested message; ``close()`` takes the position that this returns."""
        self._octets.append(tag)
        return len(self._octets)

    def close(self, begin: int) -> None:
        """End the nested message that began at *begin*."""
        self._octets[begin:begin] = _varint(len(self._octets) - begin)

    def open_wide(self, tag: int, _width: int) -> int:
        """Begin a nested message; the compiled form leaves room for a size of *_width* octets."""
        return self.open(tag)

    def close_wide(self, begin: int, _width: int) -> int:
        """End the nested message that ``open_wide()`` began at *begin*; return its size."""
        size = len(self._octets) - begin
        self.close(begin)
        return size

    def append(self, octets: bytes) -> None:
        """Write *octets* as they are."""
        self._octets += octets

    def text(self, tag: int, text: str) -> None:
        """Write a text, also an empty one."""
        self._counted(tag, utf8(text))

    def name(self, tag: int, text: str) -> None:
        """Write a text that is not empty."""
        if text:
            self._counted(tag, utf8(text))

    def number(self, tag: int, number: int) -> None:
        """Write a number that is not 0 as a varint."""
        if number:
            self._octets.append(tag)
            self._octets += _varint(number)

    def time(self, tag: int, time_ns: int) -> None:
        """Write a number that is not 0 as fixed64."""
        if time_ns:
            self._octets += struct.pack("<Bq", tag, time_ns)

    def flags(self, tag: int, flags: int) -> None:
        """Write a number as fixed32, behind a *tag* of one or two octets."""
        self._octets += _varint(tag) + struct.pack("<I", flags)

    def ids(self, high: int, low: int, span: int, state: str | None) -> None:
        """Write the ids of a span, in 16 and 8 octets, and its tracestate."""
        self._octets += struct.pack(">BBQQBBQ", 0x0A, 16, high, low, 0x12, 8, span)
        if state is not None:
            self.text(0x1A, state)

    def open_span(
        self,
        high: int,
        low: int,
        span: int,
        state: str | None,
        parent: int,
        name: str,
        kind: int,
        start_ns: int,
        stop_ns: int,
    ) -> int:
        """Begin a ``Span`` with its ids, its parent's id or 0, its name, kind and times; ``close_span()`` ends it."""
        begin = self.open(0x12)
        self.ids(high, low, span, state)
        if parent:
            self._octets += struct.pack(">BBQ", 0x22, 8, parent)
        self.name(0x2A, name)
        self.number(0x30, kind)
        self.time(0x39, start_ns)
        self.time(0x41, stop_ns)
        return begin

    def close_span(self, begin: int, flags: int) -> int:
        """Write the flags of the ``Span`` that began at *begin*, and end it; return its size."""
        self.flags(0x85, flags)
        return self.close_wide(begin, 2)

    def attributes(self, tag: int, attributes: Mapping[str, Any]) -> None:
        """Write each item of a dict as a ``KeyValue``."""
        for key, value in attributes.items():
            self.attribute(tag, key, value)

    def items(self, tag: int, items: Items) -> None:
        """Write each of *items* as a ``KeyValue``."""
        self.attributes(tag, items.mapping())

    def attribute(self, tag: int, key: str, value: Any) -> None:
        """Write a ``KeyValue``."""
        whole = self.open(tag)
        self.name(0x0A, key)
        part = self.open(0x12)
        self.value(value)
        self.close(part)
        self.close(whole)

    def value(self, value: Any) -> None:
        """Write an ``AnyValue``; None is one without a value. An attribute nests three levels deep at most."""
        kind = type(value)
        if kind is str:
            self.text(0x0A, value)
        elif kind is bool:
            self._octets += b"\x10\x01" if value else b"\x10\x00"
        elif kind is int:
            if -(1 << 63) <= value < 1 << 63:
                self._octets.append(0x18)
                self._octets += _varint(value & (1 << 64) - 1)
            else:
                self.text(0x0A, int_text(value))
        elif kind is float:
            self._octets += struct.pack("<Bd", 0x21, value)
        elif kind is bytes:
            self._counted(0x3A, value)
        elif kind is tuple:
            whole = self.open(0x2A)
            for item in value:
                part = self.open(0x0A)
                self.value(item)
                self.close(part)
            self.close(whole)
        elif kind is dict:
            whole = self.open(0x32)
            self.attributes(0x0A, value)
            self.close(whole)

    def _counted(self, tag: int, octets: bytes) -> None:
        self._octets.append(tag)
        self._octets += _varint(len(octets))
        self._octets += octets


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
