"""What a collector says to an export request, whatever it came by.

    ExportTraceServiceResponse = 1: partial_success { 1: rejected_spans (int64), 2: error_message (string) }

Spec: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..._core.errors import FormatError
from ..._export.notices import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_ANSWER_BYTES", "Answer", "fields", "parse_json_response", "parse_response"]

MAX_ANSWER_BYTES = 65536


class Answer(NamedTuple):
    """The result of a request: the collector took it, refused it for good, or could not take it now.

    ``reason`` is one line that names the fault and the remedy. Of a request that was taken, ``rejected`` spans were
    refused. ``after_s`` is the wait that the collector asks for. ``is_lasting``: an immediate retry cannot help.
    ``is_too_large``: a request with fewer spans may be taken.
    """

    outcome: Literal["taken", "refused", "later"]
    reason: str = ""
    rejected: int = 0
    after_s: float | None = None
    is_lasting: bool = False
    is_too_large: bool = False


def parse_response(octets: bytes) -> tuple[int, str]:
    """Return how many spans were rejected and why, of a response in protobuf; ``FormatError`` if it is none."""
    rejected, message = 0, ""
    for number, value in fields(octets):
        if number == 1 and isinstance(value, bytes):
            for inner, content in fields(value):
                if inner == 1 and isinstance(content, int):
                    rejected = content
                elif inner == 2 and isinstance(content, bytes):
                    message = content.decode("utf-8", "replace")
    return _checked(rejected, message)


def parse_json_response(octets: bytes) -> tuple[int, str]:
    """Return the same of a response in JSON."""
    try:
        answer: Any = json.loads(octets) if octets.strip() else {}
        partial = answer.get("partialSuccess") or {}
        rejected, message = int(partial.get("rejectedSpans") or 0), str(partial.get("errorMessage") or "")
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError("answer", "must be an ExportTraceServiceResponse in JSON", octets) from error
    return _checked(rejected, message)


def _checked(rejected: int, message: str) -> tuple[int, str]:
    return (rejected if 0 <= rejected < 1 << 31 else 0), one_line(message)


def fields(octets: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give the fields of a protobuf message: a varint as int, all else as octets; ``FormatError`` where it breaks off."""
    at = 0
    while at < len(octets):
        tag, at = _varint(octets, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(octets, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(octets, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise FormatError("answer", f"wire type {wire} is not protobuf's", octets)
        if number == 0 or size > len(octets) - at:
            raise FormatError("answer", "must be an ExportTraceServiceResponse in protobuf", octets)
        yield number, octets[at : at + size]
        at += size


def _varint(octets: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(octets):
            break
        octet = octets[at]
        at += 1
        number |= (octet & 0x7F) << shift
        if octet < 0x80:
            return number, at
    raise FormatError("answer", "must be an ExportTraceServiceResponse in protobuf", octets)
