"""OTLP's protobuf encoding of spans and log records as rows of the store, read in one pass and without message objects.

Field numbers: opentelemetry/proto/trace/v1/trace.proto, logs/v1/logs.proto, common/v1/common.proto,
resource/v1/resource.proto. Requests of logs have the outer fields of those of spans. Wire format:
https://protobuf.dev/programming-guides/encoding/ - unknown fields are skipped, and of a repeated single field the last
one counts.

How it works: attributes, events and links become JSON text directly, because the store keeps them as text. Compiled,
it takes about 2 µs per span; google's protobuf takes ten times that to build the objects and to read them.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quote
from typing import TYPE_CHECKING, Final

from ..cython import binding, cclass, compiled, final
from ..exporters._sqlite.terms import joined, term
from .rows import (
    MAX_DEPTH,
    MAX_PARTS,
    MAX_RECORDS,
    Malformed,
    base64_text,
    double_text,
    finished,
    logged,
    overhead,
    unquoted,
)

if TYPE_CHECKING:
    from ..exporters._sqlite.terms import Term
    from .rows import Row

if not compiled:
    VARINT: Final = 0
    FIXED64: Final = 1
    TEXT: Final = 2
    FIXED32: Final = 5
    KNOWN: Final = 1000
    SHORT: Final = 256


def read_request(octets: bytes, stored_s: int) -> tuple[list[Row], int, int]:
    """Return the rows of an ``ExportTraceServiceRequest``, the number of rejected spans, and the size in bytes.

    Rejected are spans without valid ids. The size is an upper estimate of the rows' bytes. Raises ``Malformed``.
    """
    reader = _Reader(octets, stored_s)
    reader.request()
    return reader.rows, reader.rejected, reader.size


def read_logs(octets: bytes, stored_s: int) -> tuple[list[Row], int, int]:
    """Return the rows of an ``ExportLogsServiceRequest``, 0, and their size; see ``read_request()``."""
    reader = _Reader(octets, stored_s)
    reader._are_logs = True
    reader.request()
    return reader.rows, 0, reader.size


@final
@binding(False)
@cclass
class _Reader:
    """A position in the octets of one request, and the rows read so far."""

    def __init__(self, octets: bytes, stored_s: int) -> None:
        self._data = octets
        self._length = len(octets)
        self._at = 0
        self._stored_s = stored_s
        self._are_logs = False
        self._key = self._logger = ""
        self._parts = 0
        self._most_parts = MAX_PARTS
        self._known: dict[bytes, tuple[str, Term]] = {}  # attributes that the spans of a request repeat
        self._resource_terms: list[Term] = []
        self._reason: str | None = None
        self._service = "unknown_service"
        self._resource = self._library = "{}"
        self.rows: list[Row] = []
        self.rejected = 0
        self.size = 2 * len(octets)

    def request(self) -> None:
        """Read the whole request."""
        while (part := self._find(0x0A, self._length)) >= 0:  # resource_spans, resource_logs
            self._resource_spans(part)

    def _find(self, wanted: int, end: int) -> int:
        """Skip the fields before the next one with the tag *wanted*; return where that ends, or -1 without one."""
        while self._at < end:
            tag = self._varint(end)
            if tag == wanted:
                return self._end(end)
            self._skip(tag, end)
        return -1

    def _resource_spans(self, end: int) -> None:
        # A sender may write the resource after the spans: find it first.
        begin = self._at
        self._service = "unknown_service"
        self._resource = "{}"
        self._resource_terms = []
        while (part := self._find(0x0A, end)) >= 0:  # resource
            self._read_resource(part)
        self._at = begin
        while (part := self._find(0x12, end)) >= 0:  # scope_spans, scope_logs
            self._scope_spans(part)

    def _read_resource(self, end: int) -> None:
        attributes = []
        terms = []
        while (part := self._find(0x0A, end)) >= 0:  # attributes
            value = self._attribute(part, 0)
            if self._key == "service.name" and value[0] == '"':
                self._service = unquoted(value)
            attributes.append(f"{quote(self._key)}:{value}")
            terms.append(term(self._key, value))
        self._resource_terms = terms
        self._resource = "{" + ",".join(attributes) + "}"
        self.size += overhead((), self._resource, self._resource)

    def _scope_spans(self, end: int) -> None:
        begin = self._at
        name = version = schema_url = ""
        attributes = "{}"
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x0A:  # scope
                part = self._end(end)
                items = []
                while self._at < part:
                    tag = self._varint(part)
                    if tag == 0x0A:
                        name = self._text(part)
                    elif tag == 0x12:
                        version = self._text(part)
                    elif tag == 0x1A:
                        items.append(self._member(self._end(part), 0))
                    else:
                        self._skip(tag, part)
                attributes = "{" + ",".join(items) + "}"
            elif tag == 0x1A:
                schema_url = self._text(end)
            else:
                self._skip(tag, end)
        if not name or name == "tracekit":
            self._library = "{}"
        else:
            self._library = (
                f'{{"name":{quote(name)},"version":{quote(version)},'
                f'"schema_url":{quote(schema_url)},"attributes":{attributes}}}'
            )
        self._logger = name
        bytes_a_row = overhead((self._service, name)) if self._are_logs else overhead((self._service,), self._library)
        self._at = begin
        while (part := self._find(0x12, end)) >= 0:  # spans, log_records
            if self._are_logs:
                self._log(part)
            else:
                self._span(part)
            self.size += bytes_a_row

    def _span(self, end: int) -> None:
        trace_id = span_id = state = name = description = ""
        parent_id: str | None = None
        kind = code = flags = dropped_attributes = dropped_events = dropped_links = 0
        start = stop = 0
        attributes: list[str] = []
        terms: list[Term] = []
        events: list[str] | None = None
        links: list[str] | None = None
        self._reason = None
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x4A:
                known = self._span_attribute(self._end(end))
                if known is not None:
                    attributes.append(known[0])
                    terms.append(known[1])
            elif tag == 0x0A:
                trace_id = self._id(end, 16)
            elif tag == 0x12:
                span_id = self._id(end, 8)
            elif tag == 0x22:
                parent_id = self._id(end, 8) or None
            elif tag == 0x1A:
                state = self._text(end)
            elif tag == 0x2A:
                name = self._text(end)
            elif tag == 0x30:
                kind = self._small(end)
            elif tag == 0x39:
                start = self._fixed(end, 8)
            elif tag == 0x41:
                stop = self._fixed(end, 8)
            elif tag == 0x50:
                dropped_attributes = self._small(end)
            elif tag == 0x5A:
                if events is None:
                    events = []
                events.append(self._event(self._end(end)))
            elif tag == 0x60:
                dropped_events = self._small(end)
            elif tag == 0x6A:
                if links is None:
                    links = []
                link = self._link(self._end(end))
                if link is None:
                    dropped_links += 1
                else:
                    links.append(link)
            elif tag == 0x70:
                dropped_links += self._small(end)
            elif tag == 0x7A:
                part = self._end(end)
                while self._at < part:
                    tag = self._varint(part)
                    if tag == 0x12:
                        description = self._text(part)
                    elif tag == 0x18:
                        code = self._small(part)
                    else:
                        self._skip(tag, part)
            elif tag == 0x85:
                flags = self._fixed(end, 4)
            else:
                self._skip(tag, end)
        if not trace_id or not span_id:
            self.rejected += 1
            return
        self.rows.append(
            finished(
                self._stored_s,
                (trace_id, span_id, parent_id),
                self._service,
                name,
                kind,
                (start, stop),
                (code, description, self._reason),
                flags,
                state,
                (
                    "{" + ",".join(attributes) + "}",
                    "[" + ",".join(events) + "]" if events is not None else "[]",
                    "[" + ",".join(links) + "]" if links is not None else "[]",
                    self._resource,
                    self._library,
                ),
                (dropped_attributes, dropped_events, dropped_links),
                joined([*terms, *self._resource_terms]),
            )
        )

    def _span_attribute(self, end: int) -> tuple[str, Term] | None:
        """Return an attribute as a member of a JSON object, and its term; None for the reason of a cancellation."""
        octets = self._data[self._at : end] if end - self._at <= SHORT else b""
        known = self._known.get(octets)
        if known is not None:
            self._at = end
            return known
        value = self._attribute(end, 0)
        if self._key == "tracekit.cancelled" and value[0] == '"':
            self._reason = unquoted(value)
            return None
        known = (f"{quote(self._key)}:{value}", term(self._key, value))
        if octets and len(self._known) < KNOWN:
            self._known[octets] = known
        return known

    def _log(self, end: int) -> None:
        trace_id = span_id = level = name = ""
        body = "null"
        severity = dropped = 0
        time = observed = 0
        attributes = []
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x09:
                time = self._fixed(end, 8)
            elif tag == 0x10:
                severity = self._small(end)
            elif tag == 0x1A:
                level = self._text(end)
            elif tag == 0x2A:
                body = self._value(self._end(end), 0)
            elif tag == 0x32:
                attributes.append(self._member(self._end(end), 0))
            elif tag == 0x38:
                dropped = self._small(end)
            elif tag == 0x4A:
                trace_id = self._id(end, 16)
            elif tag == 0x52:
                span_id = self._id(end, 8)
            elif tag == 0x59:
                observed = self._fixed(end, 8)
            elif tag == 0x62:
                name = self._text(end)
            else:
                self._skip(tag, end)
        if len(self.rows) == MAX_RECORDS:
            raise Malformed(f"more than {MAX_RECORDS} log records")
        self.rows.append(
            logged(
                self._stored_s,
                trace_id,
                span_id,
                self._service,
                time or observed,
                severity,
                level,
                self._logger,
                name,
                body,
                "{" + ",".join(attributes) + "}",
                dropped,
            )
        )

    def _event(self, end: int) -> str:
        self._count()
        time_ns = 0
        name = ""
        attributes = []
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x09:
                time_ns = self._fixed(end, 8)
            elif tag == 0x12:
                name = self._text(end)
            elif tag == 0x1A:
                attributes.append(self._member(self._end(end), 0))
            else:
                self._skip(tag, end)
        return f'{{"name":{quote(name)},"time_ns":{time_ns},"attributes":{{{",".join(attributes)}}}}}'

    def _link(self, end: int) -> str | None:
        trace_id = span_id = ""
        attributes = []
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x0A:
                trace_id = self._id(end, 16)
            elif tag == 0x12:
                span_id = self._id(end, 8)
            elif tag == 0x22:
                attributes.append(self._member(self._end(end), 0))
            else:
                self._skip(tag, end)
        if not trace_id or not span_id:
            return None
        return f'{{"trace_id":"{trace_id}","span_id":"{span_id}","attributes":{{{",".join(attributes)}}}}}'

    def _member(self, end: int, depth: int) -> str:
        """Read a ``KeyValue`` as a member of an object of JSON."""
        value = self._attribute(end, depth)
        return f"{quote(self._key)}:{value}"

    def _attribute(self, end: int, depth: int) -> str:
        """Read a ``KeyValue``: return the value as JSON text, and leave the key in ``_key``."""
        self._count()
        key = ""
        value = "null"
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x0A:
                key = self._text(end)
            elif tag == 0x12:
                value = self._value(self._end(end), depth)
            else:
                self._skip(tag, end)
        self._key = key
        return value

    def _value(self, end: int, depth: int) -> str:
        """Read an ``AnyValue`` as JSON text."""
        if depth > MAX_DEPTH:
            raise Malformed(f"values are nested deeper than {MAX_DEPTH}")
        value = "null"
        while self._at < end:
            tag = self._varint(end)
            if tag == 0x0A:
                value = quote(self._text(end))
            elif tag == 0x10:
                value = "true" if self._varint(end) else "false"
            elif tag == 0x18:
                value = str(self._signed(end))
            elif tag == 0x21:
                value = double_text(self._fixed(end, 8))
            elif tag == 0x2A:  # array_value
                stop = self._end(end)
                items = []
                while (part := self._find(0x0A, stop)) >= 0:
                    items.append(self._value(part, depth + 1))
                value = "[" + ",".join(items) + "]"
            elif tag == 0x32:  # kvlist_value
                stop = self._end(end)
                items = []
                while (part := self._find(0x0A, stop)) >= 0:
                    items.append(self._member(part, depth + 1))
                value = "{" + ",".join(items) + "}"
            elif tag == 0x3A:
                stop = self._end(end)
                value = base64_text(self._data[self._at : stop])
                self._at = stop
            else:
                self._skip(tag, end)
        return value

    def _count(self) -> None:
        self._parts += 1
        if self._parts > self._most_parts:
            raise Malformed(f"more than {self._most_parts} attributes and events")

    def _text(self, end: int) -> str:
        stop = self._end(end)
        begin = self._at
        self._at = stop
        return self._data[begin:stop].decode("utf-8", "replace")

    def _id(self, end: int, size: int) -> str:
        """Read an id in hexadecimal, or "" for one of another size or of zeros."""
        stop = self._end(end)
        begin = self._at
        self._at = stop
        if stop - begin != size:
            return ""
        text = self._data[begin:stop].hex()
        return text if text.strip("0") else ""

    def _end(self, end: int) -> int:
        """Read the length of a field; return where the field ends."""
        length = self._varint(end)
        left = end - self._at
        if length > left:
            raise Malformed("a field is longer than its message")
        return self._at + length

    def _varint(self, end: int) -> int:
        data = self._data
        at = self._at
        number = shift = 0
        if at < end and data[at] < 0x80:
            self._at = at + 1
            return data[at]
        while at < end and shift < 70:
            octet = data[at]
            at += 1
            number |= (octet & 0x7F) << shift
            if octet < 0x80:
                self._at = at
                return number & 0xFFFF_FFFF_FFFF_FFFF
            shift += 7
        raise Malformed("a number is cut off or too long")

    def _signed(self, end: int) -> int:
        number = self._varint(end)
        return number if compiled or number < 1 << 63 else number - (1 << 64)

    def _small(self, end: int) -> int:
        """Read a number of 32 bits."""
        return self._varint(end) & 0xFFFF_FFFF

    def _fixed(self, end: int, size: int) -> int:
        """Read a number of *size* octets."""
        begin = self._at
        if size > end - begin:
            raise Malformed("a number is cut off")
        self._at = begin + size
        data = self._data
        number = 0
        for at in range(begin + size - 1, begin - 1, -1):
            number = number << 8 | data[at]
        return number

    def _skip(self, tag: int, end: int) -> None:
        """Skip a field that is not read here."""
        wire = tag & 7
        if tag < 8 or tag > 0xFFFF_FFFF:
            raise Malformed("bad field number")
        if wire == TEXT:
            self._at = self._end(end)
        elif wire == VARINT:
            self._varint(end)
        elif wire == FIXED64:
            self._fixed(end, 8)
        elif wire == FIXED32:
            self._fixed(end, 4)
        else:
            raise Malformed(f"bad wire type {wire}")
