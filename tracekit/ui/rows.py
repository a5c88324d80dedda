"""Rows of the store as the receiver makes them from either encoding of a request; see ``StoredSpan`` and ``StoredLog``."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any, Final

from .._core.attributes import unusual_text
from .._core.records import KINDS

Row = tuple[Any, ...]  # as SQLiteExporter.store() takes it

MAX_DEPTH: Final = 32
# Of a request: empty ones have two octets there, and hundreds in memory.
MAX_RECORDS: Final = 500_000  # log records
MAX_PARTS: Final = 2_000_000  # attributes and events
_MAX_TEXT: Final = 4096
_MAX_TIME: Final = (1 << 63) - 1
_IS_REMOTE: Final = 0x200
_KINDS: Final = ("internal", *KINDS)  # by OTLP's numbers: 0 is unspecified
_SEVERITIES: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")  # four numbers each, from 1 on
_CODES: Final = ("unset", "ok", "error")


class Malformed(ValueError):
    """Raised when a request cannot be decoded."""


def finished(
    stored_s: int,
    ids: tuple[str, str, str | None],
    service: str,
    name: str,
    kind: int,
    times: tuple[int, int],
    status: tuple[int, str, str | None],
    flags: int,
    state: str,
    texts: tuple[str, str, str, str, str],
    dropped: tuple[int, int, int],
    codes: tuple[bytes | None, int],
) -> Row:
    """Return the row of a span.

    *ids* are those of the trace, the span and its parent. *status* is OTLP's code, its message, and the reason of the
    attribute ``tracekit.cancelled``, None without it. *texts* are the attributes, events, links, resource and library in
    JSON, *dropped* the numbers of dropped attributes, events and links, *codes* the columns ``terms`` and ``bits``.
    """
    # Named parts: a row with "*" in it takes longer to make.
    (trace_id, span_id, parent_id), (start_ns, end_ns), (code, description, cancelled) = ids, times, status
    (attributes, events, links, resource, library), (lost_attributes, lost_events, lost_links) = texts, dropped
    terms, bits = codes
    word = _CODES[code] if code < 3 else "unset"
    if cancelled is not None and code != 2:
        word, description = "cancelled", cancelled
    return (
        stored_s,
        trace_id,
        span_id,
        parent_id,
        flags & _IS_REMOTE != 0,
        _column(service),
        _column(name),
        _KINDS[kind] if kind < 6 else "internal",
        min(start_ns, _MAX_TIME),
        min(end_ns, _MAX_TIME),
        word,
        _column(description),
        flags & 0xFF,
        _column(state),
        "{}",
        attributes,
        events,
        links,
        resource,
        library,
        lost_attributes,
        lost_events,
        lost_links,
        0,
        terms,
        bits,
    )


def logged(
    stored_s: int,
    trace_id: str,
    span_id: str,
    service: str,
    time_ns: int,
    severity: int,
    level: str,
    logger: str,
    event: str,
    body: str,
    attributes: str,
    dropped_attributes: int,
) -> Row:
    """Return the row of a log record. Without a level it gets the name of its severity."""
    known = _SEVERITIES[(min(severity, 24) - 1) // 4] if severity else ""
    return (
        stored_s,
        trace_id,
        span_id if trace_id else "",
        _column(service),
        min(time_ns, _MAX_TIME),
        min(severity, 24),
        _column(level) or known,
        _column(logger),
        _column(event),
        body,
        attributes,
        dropped_attributes,
    )


def overhead(columns: tuple[str, ...], *values: str) -> int:
    """Return the bytes of a row that are in its request only once: texts of *columns*, JSON *values*, and the numbers.

    A resource is a row too: its JSON is stored once for all its spans, and once more in the index that finds it.
    """
    size = 400
    for text in (*[text[:_MAX_TEXT] for text in columns], *values):
        size += len(text) if text.isascii() else 4 * len(text)
    return size


def _column(text: str) -> str:
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT]
    return text.replace("\0", "\ufffd") if "\0" in text else text


def unquoted(quoted: str) -> str:
    """Return the text that *quoted* holds in JSON."""
    return str(json.loads(quoted))


def base64_text(octets: bytes) -> str:
    """Return bytes as the store holds them in JSON."""
    return f'{{"base64":"{b64encode(octets).decode()}"}}'


def double_text(bits: int) -> str:
    """Return the double with these *bits* as the store holds it in JSON."""
    return number_text(struct.unpack("<d", struct.pack("<Q", bits))[0])


def number_text(number: float) -> str:
    """Return *number* as the store holds it in JSON."""
    return repr(number) if number - number == 0 else f'"{unusual_text(number)}"'
