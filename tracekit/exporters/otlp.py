"""Spans to a collector over OTLP: HTTP with protobuf or JSON, or gRPC; by way of a spool on disk, where they are not to be lost.

Spec: https://opentelemetry.io/docs/specs/otlp/ and https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .._core.errors import clip
from .._core.records import Account
from .._core.twin import encode_spans
from .._environment import say
from .._export.notices import Notices
from ._otlp.answers import Answer
from ._otlp.json import encode_spans_as_json
from ._otlp.outbox import Ledger, Outbox
from ._otlp.sender import Backoff, Sender, say_rejected
from ._otlp.settings import DEFAULTS, check_headers, endpoint_of, otlp_settings, without_secrets
from ._sqlite.file import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._core.twin import Span
    from ._otlp.outbox import Batch

__all__ = ["Answer", "DeliveryError", "Ledger", "OTLPExporter", "encode_spans", "encode_spans_as_json"]

MAX_REQUEST_BYTES = 4 * 2**20  # what a gRPC server takes unless told otherwise; one span may be larger
FAREWELL_S = 3.0  # how long a spool is emptied while the program ends
_PROTOCOLS = ("http/protobuf", "http/json", "grpc")
_LEASE_MARGIN_S = 5.0


class DeliveryError(Exception):
    """The collector did not get a batch; the message says why, and what to change."""


class _Transport(Protocol):
    url: str

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer: ...
    def close(self) -> None: ...


class OTLPExporter:
    """Send spans to the collector at *endpoint*, a URL; a path of ``/v1/traces`` is added to one without a path.

    What is not given is read from OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and so on, see
    docs/configuration.md) in *environ*, by default ``os.environ``. *protocol* is "http/protobuf", "http/json" or "grpc";
    *compression* "none" or "gzip"; the certificates are files in PEM.

    A batch is tried for *timeout_s* altogether, again and again where the collector is away or answers 429, 502, 503 or
    504, and is then lost and counted. With *spool*, the path of a file, nothing is lost: a batch is written there first,
    and deleted when the collector has taken it, in this process or, after a crash, the next; several may share the file.
    It takes *spool_bytes* at most; past that the oldest batches go, and are counted in ``ledger()``. A batch that is in the
    spool counts as exported in ``tracekit.statistics()``.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        compression: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        client_certificate: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        protocol: str | None = None,
        insecure: bool | None = None,
        spool: str | os.PathLike[str] | None = None,
        spool_bytes: int = 256 * 2**20,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        found, wrong = otlp_settings(environ, protocol)
        say(wrong)
        given = {
            "headers": headers,
            "timeout_s": timeout_s,
            "compression": compression,
            "certificate": certificate,
            "client_certificate": client_certificate,
            "client_key": client_key,
            "protocol": protocol,
            "insecure": insecure,
            "spool": spool,
        }
        settings = {**DEFAULTS, **found, **{key: value for key, value in given.items() if value is not None}}
        self.protocol = _one_of("protocol", settings["protocol"], _PROTOCOLS)
        self.compression = _one_of("compression", settings["compression"], ("none", "gzip"))
        self.timeout_s = _positive("timeout_s", settings["timeout_s"])
        self._insecure = bool(settings["insecure"])
        self._headers = _checked_headers(settings.get("headers") or {})
        paths = ("certificate", "client_certificate", "client_key")
        self._files = tuple(None if settings.get(key) is None else os.fspath(settings[key]) for key in paths)
        self._endpoint = _checked_endpoint(endpoint or found.get("endpoint"), self.protocol)
        self.endpoint = without_secrets(self._endpoint)
        self._spool = None if settings.get("spool") is None else os.fspath(settings["spool"])
        self._spool_bytes = spool_bytes
        self._make_transport = _transports(self.protocol)
        self._failed = 0
        self._notices = Notices()
        self._begin()

    def _begin(self) -> None:
        """Have nothing of another process's: no connection, no lock, no thread."""
        self._pid = os.getpid()
        self._is_late = threading.Event()
        self._transport: _Transport | None = None
        self._outbox = self._sender = None
        self._evicted = -1  # how many the spool had evicted when it was last looked at
        if self._spool is not None:
            self._outbox = Outbox(self._spool, max_bytes=self._spool_bytes)
            self._sender = Sender(
                self._outbox, self._send_batch, self._notices, lease_s=self.timeout_s + _LEASE_MARGIN_S
            )

    def _adopt(self) -> None:
        if self._pid != os.getpid():
            # Kept, as its end would close what the parent uses, or wait for threads that only the parent has.
            self._inherited = self._transport
            self._begin()
            self._failed = 0

    def start(self) -> None:
        """Begin to send what an earlier process has left in the spool."""
        self._adopt()
        if self._sender is not None:
            self._sender.wake()

    def export(self, spans: Sequence[Span]) -> None:
        """Deliver *spans*, or put them into the spool; ``DeliveryError`` where none of them could be."""
        self._adopt()
        lost, reason = 0, ""
        for body, count in self._bodies(spans):
            try:
                lost += self._spooled(body, count) if self._outbox is not None else self._delivered(body, count)
            except DeliveryError as error:
                lost, reason = lost + count, str(error)
        if reason and lost == len(spans):
            raise DeliveryError(reason)
        if reason:
            self._notices.say("error", reason[:80], "%d spans lost: %s", lost, reason)
        self._failed += lost

    def _bodies(self, spans: Sequence[Span]) -> Iterator[tuple[bytes, int]]:
        """Give requests of at most 4 MiB, unless a single span is larger, with the number of spans in each."""
        if not spans:
            return
        body = encode_spans_as_json(spans) if self.protocol == "http/json" else encode_spans(spans)
        if len(body) <= MAX_REQUEST_BYTES or len(spans) == 1:
            yield body, len(spans)
        else:
            half = len(spans) // 2
            yield from self._bodies(spans[:half])
            yield from self._bodies(spans[half:])

    def _spooled(self, body: bytes, count: int) -> int:
        assert self._outbox is not None
        assert self._sender is not None
        body, content_type, content_encoding = self._packed(body)
        try:
            evicted = self._outbox.put(body, spans=count, content_type=content_type, content_encoding=content_encoding)
        except StoreError as error:
            raise DeliveryError(f"not spooled: {error}") from error
        if evicted > self._evicted >= 0:
            message = "the spool is full: its oldest spans are dropped (said once; `tracekit spool %s` counts on)"
            self._notices.say("warning", "evicted", message, self._spool)
        self._evicted = evicted
        self._sender.wake()
        return 0

    def _delivered(self, body: bytes, count: int) -> int:
        """Try until the collector has said yes or no, or the time is over; return how many spans it rejected."""
        packed = self._packed(body)
        deadline = time.monotonic() + self.timeout_s
        backoff = Backoff()
        while True:
            answer = self._send(*packed, max(0.1, deadline - time.monotonic()))
            if answer.outcome == "taken":
                return say_rejected(self._notices, answer, count)
            wait_s = backoff.next_s(answer.after_s)
            is_over = answer.outcome == "refused" or answer.is_lasting or time.monotonic() + wait_s >= deadline
            if is_over or self._is_late.wait(wait_s):
                raise DeliveryError(answer.reason)

    def _packed(self, body: bytes) -> tuple[bytes, str, str]:
        content_type = "application/json" if self.protocol == "http/json" else "application/x-protobuf"
        if self.compression == "none" or self.protocol == "grpc":  # which compresses by itself
            return body, content_type, ""
        # Level 1: it is the program's own processor. 31: with the header of gzip.
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(body) + packer.flush(), content_type, "gzip"

    def _send_batch(self, batch: Batch) -> Answer:
        return self._send(batch.body, batch.content_type, batch.content_encoding, self.timeout_s)

    def _send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer:
        try:
            if self._transport is None:
                self._transport = self._connect()
            return self._transport.send(body, content_type, content_encoding, timeout_s)
        except OSError as error:  # a certificate's file
            where = f"{error.filename} cannot be read" if error.filename else f"{self.endpoint} cannot be reached"
            return Answer("later", f"{where}: {error.strerror or error}", is_lasting=True)

    def _connect(self) -> _Transport:
        certificate, client_certificate, client_key = self._files
        for path in self._files:
            if path is not None:
                with open(path, "rb"):  # the library's own error would not name it
                    pass
        options = {"compression": self.compression, "insecure": self._insecure} if self.protocol == "grpc" else {}
        return self._make_transport(
            self._endpoint, self._headers, certificate, client_certificate, client_key, **options
        )

    def probe(self, span: Span) -> Answer:
        """Send *span* alone, once, past the spool, and return what the collector says."""
        self._adopt()
        ((body, _),) = self._bodies([span])
        return self._send(*self._packed(body), self.timeout_s)

    def account(self) -> Account:
        """Return how many spans the collector rejected, or were lost on the way, of those that ``export()`` took."""
        return Account(failed=self._failed)

    def ledger(self) -> Ledger | None:
        """Return where the spans went that were ever put into the spool; None without one, ``StoreError`` if it cannot be read."""
        self._adopt()
        return None if self._outbox is None else self._outbox.ledger()

    def flush(self, timeout_s: float) -> bool:
        """Try to empty the spool now; return whether it is empty. Without a spool nothing waits."""
        self._adopt()
        return self._sender is None or self._sender.flush(timeout_s)

    def hurry(self) -> None:
        """Wait for no collector any more that is away."""
        self._adopt()
        self._is_late.set()

    def shutdown(self) -> None:
        """Close the connection; what is in the spool is sent while that works, for 3 s at most, and stays there else."""
        self._adopt()
        if self._sender is not None:
            self._sender.close(FAREWELL_S)
        if self._outbox is not None:
            self._outbox.close()
        if self._transport is not None:
            self._transport.close()
        self._begin()


def _transports(protocol: str) -> Callable[..., _Transport]:
    """Return what makes transports; at once, so that a library that is missing is said where the exporter is made."""
    try:
        if protocol == "grpc":
            from ._otlp.grpc import GrpcTransport

            return GrpcTransport
        from ._otlp.http import HttpTransport

        return HttpTransport
    except ModuleNotFoundError as error:
        extra = "otlp-grpc" if protocol == "grpc" else "otlp"
        message = f"{protocol} needs {error.name}: pip install 'tracekit[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error


def _one_of(parameter: str, value: Any, words: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{parameter} must be str, not {type(value).__name__}")
    if value not in words:
        raise ValueError(f"{parameter} must be one of {', '.join(words)}: {value[:64]!a}")
    return value


def _positive(parameter: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{parameter} must be a number, not {type(value).__name__}")
    if not 0 < value <= 3600:
        raise ValueError(f"{parameter} must be above 0 and at most 3600: {value}")
    return float(value)


def _checked_headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    items = list(headers.items())
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in items):
        raise TypeError("headers must hold str names and values")
    try:
        return check_headers(items)
    except ValueError as error:
        raise ValueError(f"headers {error}") from None


def _checked_endpoint(endpoint: Any, protocol: str) -> str:
    if endpoint is not None and not isinstance(endpoint, str):
        raise TypeError(f"endpoint must be str, not {type(endpoint).__name__}")
    try:
        return endpoint_of(endpoint, protocol)
    except ValueError as error:
        raise ValueError(f"endpoint {error}: {clip(without_secrets(endpoint or ''))}") from None
