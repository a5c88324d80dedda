"""OTLP over HTTP: each request is one POST; the connection stays open.

Spec: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as http

from ..._core.errors import FormatError
from ..._export.notices import one_line
from ..._version import __version__
from .answers import MAX_ANSWER_BYTES, Answer, parse_json_response, parse_response
from .causes import tls_fault
from .connections import POOLS, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .settings import Files

MAX_RETRY_AFTER_S = 600.0
_MAX_HEADER_BYTES = 65536
_PIECE = 8192
_RETRYABLE = (429, 502, 503, 504)
_ADVICE = {
    400: "it does not understand the request: is it an OTLP collector, and of this protocol?",
    401: "it requires authentication: set headers, or OTEL_EXPORTER_OTLP_HEADERS",
    403: "these headers do not permit sending spans: set others, or OTEL_EXPORTER_OTLP_HEADERS",
    404: "the path of an OTLP/HTTP endpoint usually ends in /v1/{signal}",
    405: "the path of an OTLP/HTTP endpoint usually ends in /v1/{signal}",
    413: "a single span is larger than its limit: raise that, or lower tracekit.Limits",
    415: 'it expects another protocol: try "http/json" or "http/protobuf"',
}


class HttpTransport:
    """Post bodies to *endpoint*. Not shared by processes."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], files: Files, *, signal: str) -> None:
        self.signal = signal
        url = urllib3.util.parse_url(endpoint)
        self.url = url._replace(auth=None, fragment=None).url
        self.headers = {"user-agent": f"tracekit/{__version__}"}
        if url.auth:
            self.headers |= urllib3.util.make_headers(basic_auth=url.auth)
        self.headers |= {name.lower(): value for name, value in headers.items()}
        options: dict[str, Any] = {"num_pools": 1, "maxsize": 2, "retries": False}
        if url.scheme == "https":
            options |= dict(zip(("ca_certs", "cert_file", "key_file"), files, strict=True))
        proxy = getproxies().get(url.scheme or "")
        self.pool: urllib3.PoolManager
        if proxy and not proxy_bypass(url.host or ""):
            self.pool = urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)
        else:
            self.pool = urllib3.PoolManager(**options)
        self.pool.pool_classes_by_scheme = POOLS

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer:
        """Post *body*, and return the answer, or one that describes the failure, within *timeout_s*."""
        headers = {**self.headers, "content-type": content_type}
        if content_encoding:
            headers["content-encoding"] = content_encoding
        try:
            with exchange(timeout_s, MAX_ANSWER_BYTES + _MAX_HEADER_BYTES):
                response = self.pool.request(
                    "POST",
                    self.url,
                    body=body,
                    headers=headers,
                    timeout=urllib3.Timeout(total=timeout_s),
                    redirect=False,
                    preload_content=False,
                    decode_content=False,  # the request asks for none, and a few KiB may decode to some GiB
                )
                try:
                    return self._answer(response, _read(response))
                finally:
                    if response.length_remaining != 0:  # not read to its end, or of unknown length
                        response.close()
                    response.release_conn()
        except (http.HTTPError, OSError, ValueError) as error:
            return _failed(error, self.url)

    def close(self) -> None:
        self.pool.connection_from_url(self.url).close()  # clear() alone leaves sockets to the garbage collector
        self.pool.clear()

    def _answer(self, response: urllib3.BaseHTTPResponse, octets: bytes) -> Answer:
        status = response.status
        if 200 <= status < 300:
            return self._taken(response, octets)
        said = f"{self.url} answered {status} {one_line(response.reason or '', 60)}".rstrip()
        if status in _RETRYABLE:
            return Answer("later", said, after_s=_retry_after(response.headers.get("Retry-After")))
        if 300 <= status < 400:
            location = one_line(response.headers.get("Location", "elsewhere"), 200)
            return Answer("refused", f"{said}: set the endpoint to {location}")
        advice = _ADVICE.get(status, "the collector rejects these spans").format(signal=self.signal)
        if status == 400 and b"HTTPS" in octets:  # as Go's servers and nginx answer
            advice = "it speaks TLS: write https:// instead of http://"
        return Answer("refused", f"{said}: {advice}", is_too_large=status == 413)

    def _taken(self, response: urllib3.BaseHTTPResponse, octets: bytes) -> Answer:
        if not octets:  # all fields of the message are optional, and a 204 has no content: RFC 9110, 15.3.5
            return Answer("taken")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        try:
            if encoding != "identity":
                raise FormatError("answer", f"the encoding {one_line(encoding, 60)} was not asked for")
            if kind == "application/json":
                rejected, message = parse_json_response(octets)
            elif kind in ("application/x-protobuf", "application/protobuf"):
                rejected, message = parse_response(octets)
            else:
                raise FormatError("answer", f"{one_line(kind, 60) or 'no Content-Type'} is not OTLP's")
        except FormatError as error:
            return Answer("later", f"{self.url} answered {response.status}, but as no OTLP collector does ({error})")
        return Answer("taken", message, rejected)


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """Return the body; raise ValueError if it is larger than any answer of a collector."""
    octets = bytearray()
    while len(octets) <= MAX_ANSWER_BYTES:
        piece = response.read1(_PIECE)
        if not piece:
            return bytes(octets)
        octets += piece
    raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_RETRY_AFTER_S)
    try:
        return max(0.0, min(parsedate_to_datetime(value).timestamp() - time.time(), MAX_RETRY_AFTER_S))
    except (ValueError, OverflowError, TypeError):
        return None


def _failed(error: Exception, url: str) -> Answer:
    """Return the answer for a failed exchange, with a remedy where one is known."""
    cause: BaseException = error
    while isinstance(cause, http.MaxRetryError | http.ProxyError) and isinstance(
        inner := getattr(cause, "reason", None) or getattr(cause, "original_error", None), Exception
    ):
        cause = inner
    last = cause.args[-1] if cause.args else cause
    text = one_line(str(last), 200)
    if isinstance(cause, http.NameResolutionError):
        return Answer("later", f"{url}: no such host: check the endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT")
    if isinstance(cause, http.NewConnectionError):  # before its base class, ConnectTimeoutError
        why = text.rpartition("connection: ")[2].partition("] ")[2] or text
        return Answer("later", f"{url} cannot be reached: is a collector listening there? ({why})")
    if isinstance(cause, http.ConnectTimeoutError):
        return Answer("later", f"{url} cannot be reached in time: is a collector listening there?")
    # urllib3 gives a timeout before the answer, in connecting or in sending, as a ProtocolError.
    if isinstance(cause, http.ReadTimeoutError | TimeoutError) or isinstance(last, TimeoutError):
        return Answer("later", f"{url} does not answer in time")
    if isinstance(cause, http.SSLError | ssl.SSLError):
        fault = tls_fault(str(cause))
        # A server of gRPC alone closes connections that do not offer HTTP/2.
        fault = fault or f"TLS failed (4317 is the port of OTLP/gRPC): {one_line(str(cause), 200)}"
        return Answer("later", f"{url}: {fault}", is_lasting=True)
    if isinstance(cause, http.ProtocolError):
        return Answer("later", f"{url} breaks off, or does not speak HTTP (4317 is the port of OTLP/gRPC): {text}")
    if isinstance(cause, OSError) and cause.filename:
        return Answer("later", f"{cause.filename} cannot be read: {cause.strerror}", is_lasting=True)
    return Answer("later", f"{url}: {type(cause).__name__}: {text}")
