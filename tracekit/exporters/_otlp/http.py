"""OTLP over HTTP: each request is one POST; the connection stays open.

Spec: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import sys
import time
import weakref
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ..._core.errors import FormatError
from ..._export.notices import one_line
from ..._version import __version__
from .answers import MAX_ANSWER_BYTES, Answer, parse_json_response, parse_response
from .causes import tls_fault
from .connections import Connection, TLSConnection, Unreachable
from .settings import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .settings import Files

MAX_RETRY_AFTER_S = 600.0
_MAX_HEADER_BYTES = 65536
_MAX_IDLE = 2  # connections: requests of a spool's thread and of the exporting thread may overlap
_PIECE = 8192
_IN_PATH = "!$%&'()*+,/:;=?@[]~"  # left as it is written, as a URL may be percent-encoded already
_CLOSED = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
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
    """Post bodies to *endpoint*, through the proxy that the environment names. Not shared by processes."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], files: Files, *, signal: str) -> None:
        self.signal = signal
        url = urlsplit(endpoint)
        path, query = quote(url.path or "/", _IN_PATH), quote(url.query, _IN_PATH)
        self._target = f"{path}?{query}" if query else path
        self._via = ""  # the proxy, for messages
        self.url = without_secrets(endpoint)
        self.headers = {"user-agent": f"tracekit/{__version__}", **_credentials(url, "authorization")}
        self.headers |= {name.lower(): value for name, value in headers.items()}
        self._connect = self._connector(url, files)
        self._idle: list[Connection] = []
        weakref.finalize(self, _close, self._idle).atexit = False  # without a warning for each socket

    def _connector(self, url: SplitResult, files: Files) -> Callable[[], Connection]:
        """Return a function that makes a connection, through the proxy if there is one."""
        is_tls = url.scheme == "https"
        if is_tls:
            context = _context(*files)
        own = _address(url)
        name = _proxy(url)
        if not name:
            return lambda: TLSConnection(*own, context=context) if is_tls else Connection(*own)
        try:
            proxy = urlsplit(name if "://" in name else f"http://{name}")
            is_valid = proxy.scheme == "http" and bool(proxy.hostname)
            address, credentials = _address(proxy), _credentials(proxy, "proxy-authorization")
        except ValueError:  # its text has parts of the URL, and so of a password
            is_valid = False
        if not is_valid:
            raise ValueError(f"{url.scheme}_proxy must be a URL such as http://proxy:3128")
        self._via = f" through the proxy {address[0]}:{address[1]}"
        if not is_tls:
            host = f"[{own[0]}]" if ":" in own[0] else own[0]
            self._target = f"http://{host}:{own[1]}{self._target}"
            self.headers |= credentials
            return lambda: Connection(*address)

        def through_tunnel() -> Connection:
            connection = TLSConnection(*address, context=context)
            connection.set_tunnel(own[0].rstrip("."), own[1], headers=credentials)
            return connection

        return through_tunnel

    def send(self, body: bytes, content_type: str, content_encoding: str, timeout_s: float) -> Answer:
        """Post *body*, and return the answer, or one that describes the failure, within *timeout_s*."""
        headers = {**self.headers, "content-type": content_type}
        if content_encoding:
            headers["content-encoding"] = content_encoding
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            connection.limit(timeout_s, MAX_ANSWER_BYTES + _MAX_HEADER_BYTES)
            if connection.sock is None:
                connection.connect()
            # A collector may refuse a body before it has read all of it, and close: then its answer tells why.
            with contextlib.suppress(*_CLOSED):
                connection.request("POST", self._target, body, headers)
            with connection.getresponse() as response:
                answer = self._answer(response, _read(response))
                is_whole = response.isclosed() or response.length == 0
        except (http.client.HTTPException, OSError, ValueError) as error:
            connection.close()
            return _failed(error, self.url, self._via)
        except BaseException:
            connection.close()
            raise
        if is_whole and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        _close(self._idle)

    def _answer(self, response: http.client.HTTPResponse, octets: bytes) -> Answer:
        status = response.status
        if 200 <= status < 300:
            return self._taken(response, octets)
        said = f"{self.url} answered {status} {one_line(response.reason or '', 60)}".rstrip()
        if status in _RETRYABLE:
            return Answer("later", said, after_s=_retry_after(response.headers.get("Retry-After")))
        if 300 <= status < 400:
            # Most often the request's own target on another host, with the query that may be a key.
            location = without_secrets(response.headers.get("Location", "elsewhere"))
            return Answer("refused", f"{said}: set the endpoint to {one_line(location, 200)}")
        advice = _ADVICE.get(status, "the collector rejects these spans").format(signal=self.signal)
        if status == 400 and b"HTTPS" in octets:  # as Go's servers and nginx answer
            advice = "it speaks TLS: write https:// instead of http://"
        return Answer("refused", f"{said}: {advice}", is_too_large=status == 413)

    def _taken(self, response: http.client.HTTPResponse, octets: bytes) -> Answer:
        if not octets:  # all fields of the message are optional, and a 204 has no content: RFC 9110, 15.3.5
            return Answer("taken")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        try:
            if encoding != "identity":
                raise FormatError("answer", f"the encoding {one_line(encoding, 60)} was not requested")
            if kind == "application/json":
                rejected, message = parse_json_response(octets)
            elif kind in ("application/x-protobuf", "application/protobuf"):
                rejected, message = parse_response(octets)
            else:
                raise FormatError("answer", f"{one_line(kind, 60) or 'no Content-Type'} is not OTLP's")
        except FormatError as error:
            return Answer("later", f"{self.url} answered {response.status}, but as no OTLP collector does ({error})")
        return Answer("taken", message, rejected)


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the body; raise ValueError if one of success is larger than any answer of a collector."""
    octets = bytearray()
    while len(octets) <= MAX_ANSWER_BYTES:
        piece = response.read1(_PIECE)
        if not piece:
            if response.length:  # read1() does not tell
                raise http.client.IncompleteRead(bytes(octets), response.length)
            return bytes(octets)
        octets += piece
    if response.status >= 300:  # an error page
        return bytes(octets)
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


def _failed(error: Exception, url: str, via: str) -> Answer:
    """Return the answer for a failed exchange, with a remedy where one is known."""
    cause = error.__cause__ if isinstance(error, Unreachable) else error
    text = one_line(str(cause), 200)
    if isinstance(cause, socket.gaierror):
        setting = "the proxy" if via else "the endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT"
        return Answer("later", f"{url}{via}: no such host: check {setting}")
    if isinstance(error, Unreachable):
        advice = "is it running?" if via else "is a collector listening there?"
        if isinstance(cause, TimeoutError):
            return Answer("later", f"{url}{via} cannot be reached in time: {advice}")
        why = one_line(getattr(cause, "strerror", None) or text, 200)
        return Answer("later", f"{url}{via} cannot be reached: {advice} ({why})")
    if isinstance(cause, TimeoutError):
        return Answer("later", f"{url} does not answer in time")
    if isinstance(cause, ssl.SSLError):
        if fault := tls_fault(str(cause)):
            return Answer("later", f"{url}: {fault}", is_lasting=True)
        # A server of gRPC alone closes connections that do not offer HTTP/2, and one that restarts closes any.
        return Answer("later", f"{url}: TLS failed (4317 is the port of OTLP/gRPC): {text}")
    if isinstance(cause, http.client.HTTPException | ConnectionError):
        return Answer(
            "later", f"{url} closes the connection, or does not speak HTTP (4317 is the port of OTLP/gRPC): {text}"
        )
    if text.startswith("Tunnel connection failed: "):
        return Answer("later", f"{url}: the proxy answered {text[26:]}: check https_proxy and no_proxy")
    return Answer("later", f"{url}: {type(cause).__name__}: {text}")


def _close(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()


def _context(certificate: str | None, client_certificate: str | None, client_key: str | None) -> ssl.SSLContext:
    def password() -> str:  # without this OpenSSL would ask for it on the terminal
        raise ValueError("client_key is encrypted: store it without a password")

    what = "certificate"
    try:
        context = ssl.create_default_context(cafile=certificate)
        context.set_alpn_protocols(["http/1.1"])
        if client_certificate:
            what = "client_certificate or client_key"
            context.load_cert_chain(client_certificate, client_key, password)
    except ssl.SSLError as error:
        raise ValueError(f"{what} is not valid: {error.reason or error}") from error
    return context


def _proxy(url: SplitResult) -> str | None:
    """Return the proxy that requests to *url* go through, if any."""
    if sys.platform not in ("darwin", "win32") and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # costs more to import than the rest of this

    name = getproxies().get(url.scheme)
    host = url.hostname or ""
    whole = f"[{host}]:{_address(url)[1]}" if ":" in host else f"{host}:{_address(url)[1]}"
    return None if not name or proxy_bypass(host) or proxy_bypass(whole) else name


def _address(url: SplitResult) -> tuple[str, int]:
    host = url.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    return host, url.port or (443 if url.scheme == "https" else 80)


def _credentials(url: SplitResult, name: str) -> dict[str, str]:
    """Return the header *name* with the credentials in *url*, or nothing if it has none."""
    if not url.username and not url.password:
        return {}
    text = f"{unquote(url.username or '')}:{unquote(url.password or '')}"
    return {name: f"Basic {base64.b64encode(text.encode()).decode()}"}
