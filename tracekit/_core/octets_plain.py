"""The plain form of ``Octets``: what OTLP's protocol buffers are written with. ``_speedups_octets.pxi`` has it in C.

Field numbers: opentelemetry/proto/common/v1/common.proto.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from .attributes import int_text
from .codecs_plain import utf8

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .items_plain import Items

__all__ = ["Octets"]


class Octets:
    """A growing run of octets; *tag* is a field's number and wire type, as protocol buffers write them."""

    __slots__ = ("_octets",)

    def __init__(self) -> None:
        self._octets = bytearray()

    def __bytes__(self) -> bytes:
        """Return all that was written."""
        return bytes(self._octets)

    def __reduce__(self) -> Any:
        raise TypeError("octets that are being written cannot be pickled")

    def open(self, tag: int) -> int:
        """Begin a nested message; ``close()`` takes the position that this returns."""
        self._octets.append(tag)
        return len(self._octets)

    def close(self, begin: int) -> None:
        """End the nested message that began at *begin*."""
        self._octets[begin:begin] = _varint(len(self._octets) - begin)

    def open_long(self, tag: int) -> int:
        """Begin a nested message; the compiled form leaves room for a longer size."""
        return self.open(tag)

    def close_long(self, begin: int) -> None:
        """End the nested message that ``open_long()`` began at *begin*."""
        self.close(begin)

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

    def trace_id(self, tag: int, high: int, low: int) -> None:
        """Write the two words of a trace id as 16 octets."""
        self._octets += struct.pack(">BBQQ", tag, 16, high, low)

    def span_id(self, tag: int, span: int) -> None:
        """Write the word of a span id as 8 octets."""
        self._octets += struct.pack(">BBQ", tag, 8, span)

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
