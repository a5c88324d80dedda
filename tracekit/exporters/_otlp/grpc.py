"""OTLP over gRPC: each request is one unary call; the channel stays open.

Spec: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc

from ..._core.errors import FormatError
from ..._environment import say
from ..._export.notices import one_line
from ..._version import __version__
from .answers import MAX_ANSWER_BYTES, Answer, fields, parse_response
from .causes import grpc_fault
from .settings import GRPC_SCHEMES, PATHS, shown, without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Files

_METHODS = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
_Code = grpc.StatusCode
_RETRYABLE = {
    *(_Code.CANCELLED, _Code.DEADLINE_EXCEEDED, _Code.ABORTED, _Code.OUT_OF_RANGE, _Code.UNAVAILABLE, _Code.DATA_LOSS)
}
# The details of grpcio's own errors for a channel that is not connected.
_NOT_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving")
# The details of grpcio's own error for an answer of more than 4 MiB, before or after decompression.
_LARGE_ANSWER = ("CLIENT: Received message larger", "Decompressed message larger")
_ADVICE = {
    _Code.UNAUTHENTICATED: "it requires authentication: set headers, or OTEL_EXPORTER_OTLP_HEADERS",
    _Code.PERMISSION_DENIED: "these headers do not permit sending spans: set others, or OTEL_EXPORTER_OTLP_HEADERS",
    _Code.UNIMPLEMENTED: "it is not an OTLP collector, or does not accept {signal}",
    _Code.RESOURCE_EXHAUSTED: "it has no room for even one of these spans, and does not permit a retry",
}


class GrpcTransport:
    """Call the service for *signal* at *endpoint*. Not shared by processes."""

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], files: Files, *, signal: str, compression: str, insecure: bool
    ) -> None:
        url = urlsplit(endpoint) if "://" in endpoint else None
        if url is not None and url.scheme not in GRPC_SCHEMES and url.path not in ("", "/"):
            url = None  # a target of gRPC's own: dns:///collector:4317, unix:///run/collector.sock
        if url is not None and url.path not in ("", "/"):  # as OpenTelemetry's exporters ignore it, without a word
            say([f"OTLP over gRPC has no use for the path of its endpoint, and ignores it: {shown(endpoint)}"])
        self.is_secure = is_secure = not insecure if url is None else GRPC_SCHEMES.get(url.scheme, False)
        target = endpoint if url is None else url.netloc.rpartition("@")[2]
        self.signal = signal
        self._target, self._shown = target, without_secrets(target)
        self.url = f"{'grpcs' if is_secure else 'grpc'}://{self._shown}"
        # Channels share connections otherwise, and a new one would get that of the one before.
        options = [("grpc.primary_user_agent", f"tracekit/{__version__}"), ("grpc.use_local_subchannel_pool", 1)]
        if is_secure:
            certificate, client_certificate, client_key = map(_read, files, PATHS)
            credentials = grpc.ssl_channel_credentials(certificate, client_key, client_certificate)
            self._make_channel = partial(grpc.secure_channel, target, credentials, options)
        else:
            self._make_channel = partial(grpc.insecure_channel, target, options)
        self.metadata = tuple((name.lower(), value) for name, value in headers.items())
        self.compression = grpc.Compression.Gzip if compression == "gzip" else grpc.Compression.NoCompression
        self._earlier: Any = None  # the channel before, of which a call may be left
        self._open()

    def _open(self) -> None:
        self.channel = self._make_channel()
        # Without serializers messages are bytes.
        self.call: Any = self.channel.unary_unary(_METHODS[self.signal])

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer:
        """Call with *body*, and return the answer, or one that describes the failure, within *timeout_s*."""
        if content_type != "application/x-protobuf" or content_encoding:
            return Answer(
                "refused", f"{self.url}: gRPC requires protobuf without encoding; this was spooled for another protocol"
            )
        try:
            response = self.call(body, timeout=timeout_s, metadata=self.metadata, compression=self.compression)
        except grpc.RpcError as error:
            details = error.details() or ""
            if error.code() is _Code.DEADLINE_EXCEEDED or any(mark in details for mark in _NOT_CONNECTED):
                self._reconnect()
            return self._failed(error)
        try:
            if len(response) > MAX_ANSWER_BYTES:
                raise FormatError("answer", f"must be at most {MAX_ANSWER_BYTES} bytes")
            rejected, message = parse_response(response)
        except FormatError as error:
            return Answer("later", f"{self.url} answered, but as no OTLP collector does ({error})")
        return Answer("taken", message, rejected)

    def _reconnect(self) -> None:
        """Have later requests use a new connection, and try it at once.

        TCP may take a quarter of an hour to find that the one in use is dead, and a channel that could not connect
        fails all calls for up to two minutes before it tries again.
        """
        earlier, self._earlier = self._earlier, self.channel
        self._open()
        if earlier is not None:
            earlier.close()

    def close(self) -> None:
        self.channel.close()
        if self._earlier is not None:
            self._earlier.close()

    def _failed(self, error: Any) -> Answer:
        code, after_s = error.code(), _retry_after(error)
        said = f"{self.url} answered {code.name}"
        details = one_line((error.details() or "").replace(self._target, self._shown), 200)
        if code is _Code.RESOURCE_EXHAUSTED and any(mark in details for mark in _LARGE_ANSWER):
            return Answer("later", f"{self.url} answered, but as no OTLP collector does ({details})")
        fault = grpc_fault(error.details() or "", is_secure=self.is_secure) if code is _Code.UNAVAILABLE else ""
        if fault:
            return Answer("later", f"{self.url}: {fault}", after_s=after_s, is_lasting="certificate" in fault)
        if code in _RETRYABLE or (code is _Code.RESOURCE_EXHAUSTED and after_s is not None):
            advice = "is a collector listening there?" if code is _Code.UNAVAILABLE else ""
            return Answer("later", ": ".join(part for part in (said, advice, details) if part), after_s=after_s)
        advice = _ADVICE.get(code, "the collector rejects these spans").format(signal=self.signal)
        is_too_large = code is _Code.RESOURCE_EXHAUSTED
        return Answer("refused", f"{said}: {advice}: {details}", is_too_large=is_too_large)


def _retry_after(error: Any) -> float | None:
    """Return the delay of a ``google.rpc.RetryInfo`` in the trailing metadata."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return _delay(value)
    return None


def _delay(status: bytes) -> float | None:
    # google.rpc.Status { 3: details, each an Any { 1: type_url, 2: value } }; RetryInfo { 1: Duration { 1: s, 2: ns } }
    try:
        for number, detail in fields(status):
            if number != 3 or not isinstance(detail, bytes):
                continue
            any_of = dict(fields(detail))
            if any_of.get(1) == b"type.googleapis.com/google.rpc.RetryInfo":
                info = dict(fields(any_of.get(2, b"")))  # type: ignore[arg-type]
                duration = dict(fields(info.get(1, b"")))  # type: ignore[arg-type]
                seconds, nanos = duration.get(1, 0), duration.get(2, 0)
                if isinstance(seconds, int) and isinstance(nanos, int):
                    return min(seconds + nanos / 1e9, 600.0)
    except FormatError:
        pass
    return None


def _read(path: str | None, name: str) -> bytes | None:
    """Return the content of *path*. Raises ValueError where it is not whole: gRPC notices with each request alone."""
    if path is None:
        return None
    with open(path, "rb") as file:
        content = file.read()
    if not content.count(b"-----BEGIN ") == content.count(b"-----END ") > 0:
        raise ValueError(f"{name} is not valid: it must be PEM, whole")
    return content
