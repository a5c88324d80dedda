"""Short codes of a span's attributes, by which a search skips the spans that do not have the attribute.

How it works: the index ``spans_to_search`` is read from end to end, so a span must be short in it. Four bytes stand for
each attribute: two of a checksum of its key, two of one of its value. ``bits`` has a bit of 63 for each key and one for
each pair; comparing it costs a tenth of looking through the codes. Different attributes may have the same code, so a
search reads the attributes themselves of the spans that remain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Iterable

    Term: TypeAlias = tuple[bytes, int]  # codes, and their bits

MAX_TERMS: Final = 128
UNKNOWN: Final = (None, -1)  # fits every search


def term(key: str, value: str) -> Term:
    """Return the code of an attribute; *value* is JSON text as the store holds it. ``"5"`` and ``5`` have the same."""
    if value[0] == '"':
        value = value[1:-1]
    key_code = crc32(key.encode())
    code = (key_code & 0xFFFF) << 16 | crc32(value.encode()) & 0xFFFF
    return code.to_bytes(4, "big"), 1 << key_code % 63 | 1 << code % 63


def key_term(key: str) -> Term:
    """Return the part of ``term()`` that is the same for all values of *key*."""
    code = crc32(key.encode())
    return (code & 0xFFFF).to_bytes(2, "big"), 1 << code % 63


def joined(terms: Iterable[Term]) -> tuple[bytes | None, int]:
    """Return the columns ``terms`` and ``bits`` of a span; those of more than ``MAX_TERMS`` codes fit every search."""
    codes = []
    bits = 0
    for code, its_bits in terms:
        codes.append(code)
        bits |= its_bits
    octets = b"".join(codes)
    return (octets, bits) if len(octets) <= 4 * MAX_TERMS else UNKNOWN
