"""The OTLP exporter: HTTP with protobuf or JSON, or gRPC, and an optional spool on disk that survives the process.

Spec: https://opentelemetry.io/docs/specs/otlp/ and https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from .._arguments import bounded_timeout
from .._core.checks import check_int, check_mode
from .._core.otlp import GROUP, IS_QUICK, Encoder, Run, encode_spans, split_run
from .._core.records import Account
from .._export.notices import describe, spans_of
from ._otlp.answers import Answer, backoff_s, report_rejected
from ._otlp.client import Client, Collector
from ._otlp.json import encode_spans_as_json
from ._otlp.requests import MAX_REQUEST_BYTES, Ledger, Request, SizeLimit, pack

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from .._core.span import Span
    from ._otlp.requests import Batch
    from ._otlp.spool import Spool

__all__ = ["Answer", "DeliveryError", "Ledger", "OTLPExporter", "encode_spans", "encode_spans_as_json"]

FAREWELL_S = 3.0  # for emptying the spool at the end of the program
_LEASE_MARGIN_S = 5.0
_MIN_SPOOL_BYTES = 2**20  # that of the file, whose module would import sqlite3


class DeliveryError(Exception):
    """The collector did not accept a batch; the message gives the reason and the remedy."""


class _Loss:
    """The number of spans that one ``export()`` lost, and the reason for the last of them."""

    def __init__(self) -> None:
        self.spans = 0
        self.reason = ""

    def add(self, spans: int, reason: str = "") -> None:
        self.spans += spans
        if spans and reason:
            self.reason = reason


class _Parcel(NamedTuple):
    """Encoded spans: requests that may be joined, before compression, with the number of spans in each.

    *spans* is the number of all, with those that could not be encoded.
    """

    bodies: list[tuple[bytes, int]]
    spans: int
    loss: _Loss


class _Try(NamedTuple):
    """A request, the number of its failures, the time of its next try on the monotonic clock, and its last error."""

    request: Request
    failures: int = 0
    not_before: float = 0.0
    reason: str = ""


class OTLPExporter:
    """Send spans to the collector at *endpoint*, a URL; the path ``/v1/traces`` is added to a URL without a path.

    The defaults of all arguments are OpenTelemetry's variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and so on, see
    docs/configuration.md) in *environ*, by default ``os.environ``. *protocol* is "http/protobuf", "http/json" or
    "grpc"; *compression* is "none" or "gzip"; the certificates are PEM files, which are read again once they have changed.

    A request has at most 4 MiB, unless a single span is larger. A request that is too large for the collector is
    halved, down to one span. Without *spool*, requests are retried while the collector is away or answers 429, 502, 503
    or 504, until it has accepted none for *timeout_s*; the remaining spans are lost and counted.

    With *spool*, the path of a file, a batch is written to the file first and deleted when the collector has accepted
    it, in this process or, after a crash, in the next one. Several processes may share the file. It has at most
    *spool_bytes* (at least 1 MiB); beyond that the oldest batches are dropped and counted in ``ledger()``. A new file
    gets the permissions *spool_mode*. A batch in the spool counts as exported in ``tracekit.statistics()``. A batch
    that fails 32 times while others are accepted is set aside, and the next process tries it once more. While the file
    cannot be used, spans are sent directly; a damaged file is renamed to ``*.damaged``.

    A span that cannot be encoded is counted as failed; the rest of its batch is sent.
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
        spool_mode: int = 0o600,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        collector = Collector(
            headers=headers,
            timeout_s=timeout_s,
            compression=compression,
            certificate=certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            protocol=protocol,
            insecure=insecure,
            environ=environ,
        )
        self._client = Client("traces", endpoint, collector, spool)
        self.endpoint, self.protocol = self._client.endpoint, self._client.protocol
        self.compression, self.timeout_s = self._client.compression, self._client.timeout_s
        self._spool_path = self._client.spool
        self._notices = self._client.notices
        check_int("spool_bytes", spool_bytes, _MIN_SPOOL_BYTES)
        self._spool_bytes = spool_bytes
        check_mode("spool_mode", spool_mode)
        self._spool_mode = spool_mode
        self._failed = 0
        self._begin()

    def _begin(self) -> None:
        """Reset state that a fork must not share: connections, locks and threads."""
        self._limit = SizeLimit()
        self._span_bytes = 1  # the average of the last request
        self._spool: Spool | None = None
        if self._spool_path is not None:
            from ._otlp.outbox import Outbox  # with sqlite3, which most programs do without
            from ._otlp.sender import Sender
            from ._otlp.spool import Spool

            outbox = Outbox(self._spool_path, max_bytes=self._spool_bytes, mode=self._spool_mode)
            lease_s = self.timeout_s + _LEASE_MARGIN_S
            sender = Sender(outbox, self._send, self._limit.split, self._notices, lease_s=lease_s)
            self._spool = Spool(outbox, sender, self._notices)

    def _adopt(self) -> None:
        if self._client.adopted():
            self._begin()
            self._failed = 0

    def start(self) -> None:
        """Begin to send the batches that an earlier process left in the spool."""
        self._adopt()
        if self._spool is not None:
            self._spool.sender.wake()

    def export(self, spans: Sequence[Span]) -> None:
        """Deliver *spans*, or put them into the spool; raise ``DeliveryError`` if all of them are lost."""
        self.deliver([self.prepare(spans)])

    prepared_export = export

    def encoder(self, most: int) -> Encoder | None:
        """Return an encoder of *most* spans for the threads that end them, or None where it would slow them down."""
        if type(self).prepare is not OTLPExporter.prepare:  # a subclass that expects spans
            return None
        return Encoder(most) if IS_QUICK and most >= 2 * GROUP and self.protocol != "http/json" else None

    def prepare(self, spans: Sequence[Span | Run]) -> _Parcel:
        """Encode *spans*, for ``deliver()``; a span that cannot be encoded is counted as failed there."""
        self._adopt()
        loss = _Loss()
        return _Parcel(list(self._bodies(spans, loss)), _count(spans), loss)

    def deliver(self, parcels: Sequence[_Parcel]) -> None:
        """Deliver *parcels* as ``export()`` does."""
        self._adopt()
        loss = _Loss()
        for parcel in parcels:
            loss.add(parcel.loss.spans, parcel.loss.reason)
        bodies = [body for parcel in parcels for body in parcel.bodies]
        direct = [request for request in self._requests(bodies) if self._spool is None or not self._spool.put(request)]
        self._deliver(direct, loss)
        if loss.reason and loss.spans == sum([parcel.spans for parcel in parcels]):
            raise DeliveryError(loss.reason)
        if loss.reason:
            self._notices.say("error", loss.reason[:80], "%s lost: %s", spans_of(loss.spans), loss.reason)
        self._failed += loss.spans

    def _bodies(self, spans: Sequence[Span | Run], loss: _Loss) -> Iterator[tuple[bytes, int]]:
        """Yield *spans* encoded, in bodies that are small enough for the collector, and the number in each."""
        at = 0
        while at < len(spans):
            begin, size = at, 0
            while at < len(spans):
                size += self._size(spans[at])
                if size > self._max_bytes and at > begin:
                    break
                at += 1
            yield from self._encoded(spans[begin:at], loss)

    def _size(self, item: Span | Run) -> int:
        """Return the octets of an item, those of a span as a guess."""
        return len(item.octets) if isinstance(item, Run) else self._span_bytes

    def _encoded(self, spans: Sequence[Span | Run], loss: _Loss) -> Iterator[tuple[bytes, int]]:
        count = _count(spans)
        try:
            body = self._body(spans)
        except Exception as error:
            if len(spans) == 1:
                loss.add(count, f"a span cannot be encoded: {describe(error)}")
                return
        else:
            self._span_bytes = len(body) // count + 1
            if len(body) <= self._max_bytes or count == 1:
                yield body, count
                return
        if len(spans) == 1 and isinstance(spans[0], Run):
            spans = split_run(spans[0])
        half = len(spans) // 2
        for part in (spans[:half], spans[half:]):
            yield from self._encoded(part, loss)

    def _body(self, spans: Sequence[Span | Run]) -> bytes:
        if self.protocol == "http/json":
            return encode_spans_as_json([span for span in spans if not isinstance(span, Run)])  # there is no run
        return encode_spans(spans, _pause)

    def _requests(self, bodies: list[tuple[bytes, int]]) -> Iterator[Request]:
        """Yield requests of *bodies*: of several, where they are small enough together.

        Requests in protocol buffers that are joined are one request: repeated fields are appended.
        https://protobuf.dev/programming-guides/encoding/#last-one-wins
        """
        content_type, encoding = self._client.content_type, self._client.content_encoding
        most = 0.0 if self.protocol == "http/json" else self._max_bytes
        at = 0
        while at < len(bodies):
            begin, size = at, len(bodies[at][0])
            at += 1
            while at < len(bodies) and size + len(bodies[at][0]) <= most:
                size += len(bodies[at][0])
                at += 1
            part = bodies[begin:at]
            body = part[0][0] if len(part) == 1 else b"".join([body for body, _ in part])
            yield Request(pack(body, encoding), sum([spans for _, spans in part]), content_type, encoding)

    @property
    def _max_bytes(self) -> float:
        """The maximum size of a request before compression, unless it holds a single span."""
        most = min(MAX_REQUEST_BYTES, self._limit.max_bytes)
        return most if self._spool is None else min(most, self._spool.outbox.max_body_bytes)

    def _deliver(self, requests: Sequence[Request], loss: _Loss) -> None:
        """Send *requests* until the collector has accepted none for ``timeout_s``; the remaining spans are lost.

        Each request has its own time of the next try, so a request that always fails does not delay the others.
        """
        waiting = [_Try(request) for request in requests]
        is_late = self._client.is_late  # a shutdown that this outlasts sets it, and begins anew
        deadline = time.monotonic() + self.timeout_s
        while waiting:
            waiting.sort(key=lambda one: one.not_before)
            request, failures, not_before, reason = waiting.pop(0)
            pause_s = not_before - time.monotonic()
            if failures and (not_before >= deadline or is_late.wait(max(0.0, pause_s))):
                loss.add(request.spans, reason)
                continue
            left_s = max(0.1, deadline - time.monotonic())
            answer = self._send(request, left_s / 2 if waiting else left_s)
            if answer.outcome == "taken":
                loss.add(report_rejected(self._notices, answer, request.spans))
                deadline = time.monotonic() + self.timeout_s
            elif answer.outcome == "later" and not answer.is_lasting:
                now = time.monotonic()
                not_before = now + backoff_s(failures, at_least_s=answer.after_s, left_s=deadline - now)
                waiting.append(_Try(request, failures + 1, not_before, answer.reason))
            else:
                parts = self._limit.split(request) if answer.is_too_large else []
                # At the front: the size of a span that was rejected alone decides about the others without a request.
                waiting[:0] = [_Try(request._replace(body=body, spans=spans)) for body, spans in parts]
                loss.add(request.spans - sum([spans for _, spans in parts]), answer.reason)

    def _send(self, request: Request | Batch, most_s: float = math.inf) -> Answer:
        timeout_s = min(most_s, self.timeout_s)
        answer = self._client.send(request.body, request.content_type, request.content_encoding, timeout_s)
        if answer.outcome == "taken":
            self._limit.taken(len(request.body))
        return answer

    def probe(self, span: Span) -> Answer:
        """Send *span* alone, once, without the spool, and return the collector's answer."""
        self._adopt()
        loss = _Loss()
        requests = list(self._requests(list(self._bodies([span], loss))))
        return self._send(requests[0]) if requests else Answer("refused", loss.reason)

    def account(self) -> Account:
        """Return the number of accepted spans that the collector rejected or that were lost on the way."""
        self._adopt()
        return Account(failed=self._failed)

    def ledger(self) -> Ledger | None:
        """Return the ledger of the spool, or None without one; raise ``StoreError`` if the file cannot be read."""
        self._adopt()
        return None if self._spool is None else self._spool.outbox.ledger()

    def flush(self, timeout_s: float) -> bool:
        """Try to empty the spool now, and return whether it is empty; True without a spool.

        Batches that another process is sending, and those that were set aside, do not count. *timeout_s* is as for
        ``tracekit.flush()``.
        """
        timeout_s = bounded_timeout(timeout_s, 0.0)
        self._adopt()
        return self._spool is None or self._spool.sender.flush(timeout_s)

    def hurry(self) -> None:
        """Stop waiting for retries: the program is ending."""
        self._adopt()
        self._client.is_late.set()

    def shutdown(self) -> None:
        """Send the batches in the spool, for at most 3 s and while that succeeds, and close the connection."""
        self._adopt()
        if self._spool is not None:
            self._spool.close(FAREWELL_S)
        self._client.close()
        self._client.begin()
        self._begin()


def _count(items: Sequence[Span | Run]) -> int:
    return sum([item.count if isinstance(item, Run) else 1 for item in items])


def _pause() -> None:
    time.sleep(1e-6)  # 0 would take the GIL back before a waiting thread has woken
