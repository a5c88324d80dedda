"""The plain form of random words, and of ids as text and octets: hexadecimal, decimal, traceparent, B3, OpenCensus.

An id of a trace is two words of 64 bits, high and low. ``_speedups_ids.pxi`` has the same names in C.
"""

from __future__ import annotations

import os
import struct

from .codecs_plain import HEX, MAX_LABEL_BYTES, parse_hex, utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

_DEFERRED: Final = 0x100
_MASK64: Final = 0xFFFF_FFFF_FFFF_FFFF
_MAX_BINARY_BYTES: Final = 512
_MAX_B3_CHARS: Final = 256  # far more than is needed, since the parent id may be anything
_BAD: Final = (0, 0, 0, -1)
_DIGITS: Final = frozenset("0123456789")
_DECISIONS: Final = frozenset("01d")

_pool: list[int] = []


def random_word() -> int:
    """Return a random word of 64 bits that is not 0."""
    while True:
        try:
            word = _pool.pop()  # atomic: two threads never draw the same word
        except IndexError:
            # os.urandom, not random: random.seed() in user code must not repeat an id.
            _pool.extend(struct.unpack("256Q", os.urandom(2048)))
        else:
            if word:
                return word


def stretched_word() -> int:
    """Return a random word that is not 0, one of 256 made from two of ``random_word()``.

    Only the compiled form stretches words: a thread of the plain one could take the same one in the middle of a step.
    """
    return random_word()


def forget_words() -> None:
    """Drop the words that were drawn ahead, which a child of a fork shares with its parent."""
    _pool.clear()


def hex_text(high: int, low: int, digits: int) -> str:
    """Return *low*, or with 32 *digits* both words, in lowercase hex."""
    return f"{high:016x}{low:016x}" if digits == 32 else f"{low:016x}"


def id_octets(high: int, low: int, span: int) -> bytes:
    """Return the trace's and the span's id as 24 bytes."""
    return struct.pack(">3Q", high, low, span)


def parse_decimal(text: str) -> int:
    """Return the number that *text*, 1 to 20 decimal digits, spells; -1 if it is not that or has over 64 bits."""
    if not 0 < len(text) <= 20 or not _DIGITS.issuperset(text):
        return -1
    number = int(text)
    return -1 if number >> 64 else number


def split_traceparent(text: str) -> tuple[int, int, int, int]:
    """Return the words of the ids and the flags of a ``traceparent`` value; flags -1 if it breaks the grammar.

    Versions above 00 are read as far as 00 goes; optional white space around the value is ignored.
    https://www.w3.org/TR/trace-context-2/#traceparent-header
    """
    if len(text) > 512 or not text.isascii():
        return _BAD
    text = text.strip(" \t")
    if len(text) < 55 or text[2] != "-" or text[35] != "-" or text[52] != "-":
        return _BAD
    version = text[:2]
    if not HEX.issuperset(version) or version == "ff":
        return _BAD
    if len(text) > 55 and (version == "00" or text[55] != "-"):
        return _BAD
    trace, span, flags = parse_hex(text[3:35], 32), parse_hex(text[36:52], 16), text[53:55]
    if not trace or not span or not HEX.issuperset(flags):
        return _BAD
    return trace >> 64, trace & _MASK64, span, int(flags, 16)


def join_traceparent(high: int, low: int, span: int, flags: int) -> str:
    """Return the ``traceparent`` value, version 00, of these words and these flags."""
    return f"00-{high:016x}{low:016x}-{span:016x}-{flags & 0xFF:02x}"


def split_b3(text: str) -> tuple[int, int, int, int]:
    """Return the words of the ids and the decision (0, ``ord`` of "0", "1" or "d") of a ``b3`` value; -1 if it is bad.

    The parent id is not used, so it may be anything but a second value behind a comma.
    https://github.com/openzipkin/b3-propagation#single-header
    """
    trace, *parts = text.split("-", 3) if len(text) <= _MAX_B3_CHARS else [""]
    if not parts and trace in _DECISIONS:
        return 0, 0, 0, ord(trace)
    decision = parts[1] if len(parts) > 1 else ""
    if not parts or len(trace) not in (16, 32) or (decision and decision not in _DECISIONS) or "," in text:
        return _BAD
    trace_id, span = parse_hex(trace.lower(), len(trace)), parse_hex(parts[0].lower(), 16)
    if not trace_id or not span:
        return _BAD
    return trace_id >> 64, trace_id & _MASK64, span, ord(decision) if decision else 0


def join_b3(high: int, low: int, span: int, decision: int) -> str:
    """Return the ``b3`` value of these words and of a decision as ``split_b3`` returns it, with 0 for none."""
    trace = f"{high:016x}{low:016x}" if high else f"{low:016x}"
    return f"{trace}-{span:016x}-{chr(decision)}" if decision else f"{trace}-{span:016x}"


def split_binary(octets: bytes) -> tuple[int, int, int, int, int]:
    """Return the words of the ids, the flags (or 0x100) and the size read of OpenCensus's binary form; size 0 if bad.

    Fields may be missing. The size ends before the first unknown field.
    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md
    """
    bad = (0, 0, 0, 0, 0)
    size = len(octets)
    if not 0 < size <= _MAX_BINARY_BYTES or octets[0] != 0:
        return bad
    trace = span = 0
    flags, at = _DEFERRED, 1
    while at < size and octets[at] <= 2:
        field, length = octets[at], (16, 8, 1)[octets[at]]
        value = octets[at + 1 : at + 1 + length]
        if len(value) != length:
            return bad
        if field == 0:
            trace = int.from_bytes(value)
        elif field == 1:
            span = int.from_bytes(value)
        else:
            flags = value[0] & 1
        at += 1 + length
    return (trace >> 64, trace & _MASK64, span, flags, at) if trace and span else bad


def join_binary(high: int, low: int, span: int, flags: int) -> bytes:
    """Return OpenCensus's binary form of these words: 29 bytes, 27 where *flags* are 0x100, no decision."""
    octets = struct.pack(">BBQQBQ", 0, 0, high, low, 1, span)
    return octets if flags & _DEFERRED else octets + bytes((2, flags & 1))


def decode_tags(octets: bytes) -> dict[str, str] | None:
    """Return the pairs of the binary tag encoding, the last of equal keys; None if it is malformed or over 8192 bytes.

    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md#tag-context
    """
    size = len(octets)
    if not 0 < size <= MAX_LABEL_BYTES or octets[0] != 0:
        return None
    tags: dict[str, str] = {}
    at = 1
    while at < size and octets[at] == 0:
        pair = []
        at += 1
        for _ in range(2):
            length = shift = 0
            while True:
                if at >= size or shift > 14:  # three octets of seven bits: far more than the limit
                    return None
                length |= (octets[at] & 0x7F) << shift
                shift += 7
                at += 1
                if octets[at - 1] < 0x80:
                    break
            if length > size - at:
                return None
            try:
                pair.append(octets[at : at + length].decode())
            except UnicodeDecodeError:
                return None
            at += length
        tags[pair[0]] = pair[1]
    return tags


def encode_tags(tags: Mapping[str, str]) -> bytes:
    """Return *tags* in the binary tag encoding; those past 8192 bytes are left out, whole."""
    octets = b"\0"
    for key, value in tags.items():
        piece = b"\0"
        for text in (key, value):
            encoded = utf8(text)
            length = len(encoded)
            while length > 0x7F:
                piece += bytes([length & 0x7F | 0x80])
                length >>= 7
            piece += bytes([length]) + encoded
        if len(octets) + len(piece) <= MAX_LABEL_BYTES:
            octets += piece
    return octets
