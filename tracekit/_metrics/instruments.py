"""Which duration a span measures, and with which attributes, by OpenTelemetry's conventions; and the table of all series.

Spec: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ and those of RPC, databases and messaging beside it
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .._sampling import adjusted_count
from .histograms import Exemplar, Explicit, Exponential

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._core.span import Span

Attributes = tuple[tuple[str, Any], ...]
Series = dict[Attributes, Explicit | Exponential]

# Seconds: the boundaries that the conventions advise for HTTP, RPC and messaging, and those for databases.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_DATABASE_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_OVERFLOW: Final[Attributes] = (("otel.metric.overflow", True),)
_MAX_VALUE: Final = 256  # characters of an attribute's value


class Instrument(NamedTuple):
    """A histogram of durations in seconds. ``keys`` are the span's attributes that tell its series apart."""

    name: str
    description: str
    keys: tuple[str, ...]
    bounds: tuple[float, ...] = BOUNDS


_HTTP = ("http.request.method", "http.response.status_code", "network.protocol.version", "url.scheme")
_PEER = ("server.address", "server.port")
_RPC = (
    *("rpc.system.name", "rpc.system", "rpc.service", "rpc.method"),
    *("rpc.response.status_code", "rpc.grpc.status_code"),
)
_MESSAGING = ("messaging.system", "messaging.operation.name", "messaging.destination.name")
_DATABASE = (
    *("db.system.name", "db.system", "db.namespace", "db.collection.name"),
    *("db.operation.name", "db.query.summary", "db.response.status_code"),
)

_SERVER_HTTP = Instrument("http.server.request.duration", "Duration of HTTP server requests.", (*_HTTP, "http.route"))
_CLIENT_HTTP = Instrument("http.client.request.duration", "Duration of HTTP client requests.", (*_HTTP, *_PEER))
_SERVER_RPC = Instrument("rpc.server.call.duration", "Duration of incoming remote procedure calls.", _RPC)
_CLIENT_RPC = Instrument("rpc.client.call.duration", "Duration of outgoing remote procedure calls.", (*_RPC, *_PEER))
_CLIENT_DATABASE = Instrument(
    "db.client.operation.duration", "Duration of database client operations.", (*_DATABASE, *_PEER), _DATABASE_BOUNDS
)
_SENT_MESSAGE = Instrument(
    "messaging.client.operation.duration", "Duration of messaging operations of a client.", (*_MESSAGING, *_PEER)
)
_HANDLED_MESSAGE = Instrument("messaging.process.duration", "Duration of processing of messages.", _MESSAGING)
# The name in the Collector's span metrics connector.
_OTHER = Instrument("traces.span.metrics.duration", "Duration of spans.", ())

# By the kind of span: the attribute that marks a convention, and its instrument. The first one counts.
_BY_KIND: Final[dict[str, tuple[tuple[str, Instrument], ...]]] = {
    "server": (("rpc.system.name", _SERVER_RPC), ("rpc.system", _SERVER_RPC), ("http.request.method", _SERVER_HTTP)),
    "client": (
        ("rpc.system.name", _CLIENT_RPC),
        ("rpc.system", _CLIENT_RPC),
        ("db.system.name", _CLIENT_DATABASE),
        ("db.system", _CLIENT_DATABASE),
        ("messaging.system", _SENT_MESSAGE),
        ("http.request.method", _CLIENT_HTTP),
    ),
    "producer": (("messaging.system", _SENT_MESSAGE),),
    "consumer": (("messaging.system", _HANDLED_MESSAGE),),
}


def _instrument_of(kind: str, attributes: Mapping[str, Any], internal: bool) -> Instrument | None:
    """Return the instrument of a span; None for one that only *internal* would measure."""
    if kind == "internal":
        return _OTHER if internal else None
    for mark, instrument in _BY_KIND.get(kind, ()):
        if mark in attributes:
            return instrument
    return _OTHER


def _attributes_of(span: Span, attributes: Mapping[str, Any], instrument: Instrument) -> Attributes:
    """Return the attributes of the span's series: those of the convention, and ``error.type`` for an error."""
    code = span.status.code
    found: list[tuple[str, Any]] = []
    if instrument is _OTHER:
        found = [("span.name", span.name[:_MAX_VALUE]), ("span.kind", span.kind), ("status.code", code)]
    for key in instrument.keys:
        if key in attributes:
            value = attributes[key]
            if type(value) is str:
                found.append((key, value if len(value) <= _MAX_VALUE else value[:_MAX_VALUE]))
            elif type(value) is int or type(value) is bool:
                found.append((key, value))
    error = attributes.get("error.type")
    if type(error) is str:
        found.append(("error.type", error[:_MAX_VALUE]))
    elif code == "error":
        found.append(("error.type", _error_type(span)))
    return tuple(found)


def _error_type(span: Span) -> str:
    """Return the type of the last recorded exception."""
    for _, _, attributes in reversed(span.events):
        kind = attributes.get("exception.type")
        if type(kind) is str:
            return kind[:_MAX_VALUE]
    return "_OTHER"  # as the conventions ask for, where the type is not known


class Table:
    """The histograms of finished spans.

    At most *max_series* of an instrument, the last of which takes the spans of all further ones.
    """

    def __init__(self, bounds: tuple[float, ...] | None, exponential: bool, internal: bool, max_series: int) -> None:
        self._bounds, self._exponential = bounds, exponential
        self._internal, self._max_series = internal, max_series
        self.start_ns = time.time_ns()
        self.instruments: dict[Instrument, Series] = {}
        self.resource: Mapping[str, Any] = {}

    def add(self, span: Span) -> None:
        """Measure *span*, as often as its trace counts for others that were not sampled."""
        kind = span.kind
        if kind == "internal" and not self._internal:
            return
        attributes = span.attributes
        instrument = _instrument_of(kind, attributes, self._internal)
        end_ns = span.end_ns
        if instrument is None or end_ns is None:
            return
        context = span.context
        weight = adjusted_count(context)
        if weight is None:  # no threshold, as under AlwaysOn
            weight = 1.0
        if not weight:
            return
        series = self.instruments.setdefault(instrument, {})
        key = _attributes_of(span, attributes, instrument)
        histogram = series.get(key)
        if histogram is None:
            if len(series) >= self._max_series - 1:
                key = _OVERFLOW
            histogram = series.get(key)
            if histogram is None:
                bounds = instrument.bounds if self._bounds is None else self._bounds
                histogram = series[key] = Exponential() if self._exponential else Explicit(bounds)
        seconds = (end_ns - span.start_ns) / 1e9
        histogram.add(weight, Exemplar(context.trace_id, context.span_id, seconds, end_ns))
        self.resource = span.resource
