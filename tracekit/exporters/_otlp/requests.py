"""Encoded requests: their size limit, and the split of one that is too large.

    ExportTraceServiceRequest = 1: repeated ResourceSpans
    ResourceSpans             = 1: resource, 2: repeated ScopeSpans
    ScopeSpans                = 1: scope, 2: repeated Span

Spec: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto
"""

from __future__ import annotations

import json
import math
import operator
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.errors import FormatError
from .answers import fields
from .messages import varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_REQUEST_BYTES = 4 * 2**20  # the default limit of gRPC servers; one of a single item may be larger

_LEAST_BYTES = 1 << 16
_MAX_UNPACKED = 64 * 2**20
_PROTOBUF, _JSON = "application/x-protobuf", "application/json"


class Request(NamedTuple):
    """The body of one request, and its number of spans."""

    body: bytes
    spans: int
    content_type: str
    content_encoding: str


class Batch(NamedTuple):
    """A request in a spool: its body, the number of earlier attempts to send it, and the number of counted failures."""

    id: int
    body: bytes
    spans: int
    content_type: str
    content_encoding: str
    attempts: int
    failures: int = 0


class Ledger(NamedTuple):
    """The fate of all spans put into a spool since its file was created: ``put == sent + rejected + evicted + waiting + aside``.

    Spans that were set *aside* are still in the file, but are no longer sent.
    """

    put: int
    sent: int
    rejected: int
    evicted: int
    waiting: int
    waiting_bytes: int
    aside: int = 0


def pack(body: bytes, content_encoding: str) -> bytes:
    """Return *body* in *content_encoding*, "gzip" or ""."""
    if not content_encoding:
        return body
    # Level 1, to save the program's processor time. 31: with the header of gzip.
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


class SizeLimit:
    """The maximum size of requests before compression, learned from requests that the collector found too large."""

    def __init__(self) -> None:
        self.max_bytes: float = math.inf
        self._too_large: float = math.inf  # the smallest request of one span that was rejected for its size

    def taken(self, size: int) -> None:
        """Record that the collector accepted a request of *size* bytes."""
        if size >= self._too_large:
            self._too_large = math.inf

    def split(self, request: Request | Batch) -> list[tuple[bytes, int]]:
        """Return the packed bodies and span counts of both halves of *request*, which was too large.

        A span is left out if one of its size or less was rejected alone, so a collector that accepts nothing is not
        asked about each span. The list is empty if that leaves no span, or if the body is not a request.
        """
        try:
            body = _unpacked(request.body, request.content_encoding)
            spans = list(_spans_of_json(body) if request.content_type == _JSON else _spans_of_protobuf(body))
        except (FormatError, ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error):
            return []
        join = _json_of_spans if request.content_type == _JSON else _protobuf_of_spans
        if len(spans) < 2:
            self._too_large = min(self._too_large, len(body))
            return []
        self.max_bytes = min(self.max_bytes, max(_LEAST_BYTES, len(body) // 2))
        kept = [(span, size) for span in spans if (size := len(join([span]))) < self._too_large]
        half = sum([size for _, size in kept]) / 2
        at = total = 0
        while at < len(kept) - 1 and (at == 0 or total + kept[at][1] <= half):
            total += kept[at][1]
            at += 1
        parts = [[span for span, _ in part] for part in (kept[:at], kept[at:]) if part]
        return [(pack(join(part), request.content_encoding), len(part)) for part in parts]


class _Encoded(NamedTuple):
    """One encoded span, with the other fields of its ResourceSpans and ScopeSpans."""

    resource: Any
    scope: Any
    span: Any


def _unpacked(body: bytes, content_encoding: str) -> bytes:
    if content_encoding != "gzip":
        return body
    unpacker = zlib.decompressobj(31)
    octets = unpacker.decompress(body, _MAX_UNPACKED)
    if not unpacker.eof:
        raise FormatError("batch", "must be one whole stream of gzip")
    return octets


def _spans_of_protobuf(body: bytes) -> Iterator[_Encoded]:
    for resource_spans in _messages(body, 1):
        resource = _rest(resource_spans)
        for scope_spans in _messages(resource_spans, 2):
            scope = _rest(scope_spans)
            for span in _messages(scope_spans, 2):
                yield _Encoded(resource, scope, span)


def _messages(octets: bytes, wanted: int) -> Iterator[bytes]:
    for number, value in fields(octets):
        if number == wanted and isinstance(value, bytes):
            yield value


def _rest(octets: bytes) -> tuple[bytes, bytes]:
    """Return the fields of a message below and above 2. All fields of these messages are texts and messages."""
    below, above = [
        b"".join([_message(number, value) for number, value in fields(octets) if is_in(number, 2)])
        for is_in in (operator.lt, operator.gt)
    ]
    return below, above


def _message(number: int, value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise FormatError("batch", "must be an ExportTraceServiceRequest")
    return varint(number << 3 | 2) + varint(len(value)) + value


def _protobuf_of_spans(spans: Sequence[_Encoded]) -> bytes:
    return b"".join([_message(1, _joined(rest, _scopes_of(outer))) for rest, outer in _grouped(spans, 0)])


def _scopes_of(spans: list[_Encoded]) -> list[bytes]:
    return [_joined(rest, [span.span for span in inner]) for rest, inner in _grouped(spans, 1)]


def _joined(rest: tuple[bytes, bytes], parts: list[bytes]) -> bytes:
    return b"".join([rest[0], *[_message(2, part) for part in parts], rest[1]])


def _grouped(spans: Iterable[_Encoded], field: int) -> Iterator[tuple[Any, list[_Encoded]]]:
    """Yield runs of spans that have the same *field*."""
    run: list[_Encoded] = []
    for span in spans:
        if run and run[0][field] != span[field]:
            yield run[0][field], run
            run = []
        run.append(span)
    if run:
        yield run[0][field], run


def _spans_of_json(body: bytes) -> Iterator[_Encoded]:
    for resource_spans in json.loads(body)["resourceSpans"]:
        resource = resource_spans | {"scopeSpans": None}  # to be replaced in its place
        for scope_spans in resource_spans["scopeSpans"]:
            scope = scope_spans | {"spans": None}
            for span in scope_spans["spans"]:
                yield _Encoded(resource, scope, span)


def _json_of_spans(spans: Sequence[_Encoded]) -> bytes:
    request = {
        "resourceSpans": [
            resource
            | {"scopeSpans": [scope | {"spans": [span.span for span in inner]} for scope, inner in _grouped(outer, 1)]}
            for resource, outer in _grouped(spans, 0)
        ]
    }
    return json.dumps(request, separators=(",", ":")).encode("ascii")
