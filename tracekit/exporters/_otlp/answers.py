"""The collector's answers to export requests, over HTTP and gRPC, and the wait after one that was not accepted.

    ExportTraceServiceResponse = 1: partial_success { 1: rejected_spans (int64), 2: error_message (string) }

Spec: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..._core.errors import FormatError
from ..._export.notices import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._export.notices import Notices

MAX_ANSWER_BYTES = 65536
LONGEST_S = 60.0
_FIRST_S = 1.0


class Answer(NamedTuple):
    """The result of a request: "taken", "refused" for good, or to be tried again "later".

    ``reason`` is one line that names the fault and the remedy. ``rejected`` spans of a request that was taken were
    refused. ``after_s`` is the wait that the collector asks for. ``is_lasting``: a retry now cannot succeed.
    ``is_too_large``: a request with fewer spans may be taken.
    """

    outcome: Literal["taken", "refused", "later"]
    reason: str = ""
    rejected: int = 0
    after_s: float | None = None
    is_lasting: bool = False
    is_too_large: bool = False


def backoff_s(
    failures: int, longest_s: float = LONGEST_S, at_least_s: float | None = None, left_s: float = math.inf
) -> float:
    """Return the wait after a failure behind *failures* others: 1 s, doubled up to *longest_s*, less up to a half.

    A collector may ask for *at_least_s*. It asks all its clients for the same, so up to a half is added at random, but
    nothing that would turn a wait of less than *left_s* into one of more.
    """
    # Not the random module: a program that has seeded it expects its own sequence.
    jitter = int.from_bytes(os.urandom(2), "big") / (1 << 17)  # 0 to 0.5
    wait_s = min(longest_s, _FIRST_S * 2.0 ** min(failures, 30))
    asked_s = at_least_s or 0.0
    spread_s = min(asked_s, max(0.0, left_s - asked_s))
    return max(wait_s * (0.5 + jitter), asked_s + jitter * spread_s)


def report_rejected(notices: Notices, answer: Answer, spans: int, thing: str = "spans") -> int:
    """Report the objections in an answer to a request of *spans*; return the number of spans that were rejected."""
    if answer.rejected:
        message = "the collector rejected %d of %d %s: %s"
        notices.say("warning", answer.reason[:80], message, answer.rejected, spans, thing, answer.reason)
    elif answer.reason:
        notices.say("warning", answer.reason[:80], "the collector says: %s", answer.reason)
    return min(answer.rejected, spans)


def parse_response(octets: bytes) -> tuple[int, str]:
    """Return the number of rejected spans and the message of a protobuf response; ``FormatError`` if it is not one."""
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
    """Return the same for a JSON response."""
    try:
        answer: Any = json.loads(octets) if octets.strip() else {}
        partial = answer.get("partialSuccess") or {}
        rejected, message = 0, str(partial.get("errorMessage") or "")
        for name in ("rejectedSpans", "rejectedLogRecords", "rejectedDataPoints"):
            rejected += int(partial.get(name) or 0)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError("answer", "must be an ExportTraceServiceResponse in JSON", octets) from error
    return _checked(rejected, message)


def _checked(rejected: int, message: str) -> tuple[int, str]:
    return (rejected if 0 <= rejected < 1 << 31 else 0), one_line(message)


def fields(octets: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: varints as ints, others as bytes; ``FormatError`` if it is malformed."""
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
