"""Settings of the OTLP exporter from OpenTelemetry's environment variables.

A variable for one signal, such as traces, wins over the one for all signals. Header values and the user info of URLs are
secrets, and appear in no message.

Spec: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._core.errors import clip
from ..._environment import Environment, boolean, one_of, pairs, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# A message about a wrong variable names the default. gRPC has its own endpoint: see _ENDPOINTS.
DEFAULTS: dict[str, Any] = {"protocol": "http/protobuf", "timeout_s": 10.0, "compression": "none", "insecure": False}
_ENDPOINTS = {"grpc": "http://localhost:4317"}
_ENDPOINT = "http://localhost:4318/v1/"
GRPC_SCHEMES = {"http": False, "https": True, "grpc": False, "grpcs": True}  # whether it is over TLS
_GENERAL = "OTEL_EXPORTER_OTLP_ENDPOINT"
PATHS = {"certificate": "CERTIFICATE", "client_certificate": "CLIENT_CERTIFICATE", "client_key": "CLIENT_KEY"}
Files = tuple[str | None, str | None, str | None]  # in this order
_HOUR_S = 3600.0
_METADATA = frozenset("-._0123456789abcdefghijklmnopqrstuvwxyz")  # the characters that gRPC accepts
_TOKEN = _METADATA | frozenset("!#$%&'*+^`|~")  # RFC 9110, 5.6.2
# The request itself sets these: its length, its content, and the use of the connection after it.
_FRAMING = {"connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"}
_RESERVED = _FRAMING | {"accept-encoding", "content-encoding", "content-type", "host", "transfer-encoding"}


def otlp_settings(
    environ: Mapping[str, str] | None = None, protocol: str | None = None, signal: str = "traces"
) -> tuple[dict[str, Any], list[str]]:
    """Return arguments for ``OTLPExporter`` from *environ* (default: ``os.environ``), and a message per wrong variable.

    *signal* is "traces", "logs" or "metrics". ``endpoint`` includes the path for it; ``insecure`` is present for gRPC
    only. *protocol*, on which other settings depend, wins over the variable.
    """
    environment = Environment(environ)
    found: dict[str, Any] = {}
    prefix = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"

    def read(key: str, reader: Callable[[str], Any], suffix: str = "", instead: str = "", **options: Any) -> None:
        suffix = suffix or key.upper()
        names = (f"{prefix}{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}")
        value = environment.value(names, reader, None, instead or str(DEFAULTS[key]), **options)
        if value is not None:
            found[key] = value

    read("protocol", one_of("http/protobuf", "http/json", "grpc"))
    protocol = protocol or found.get("protocol", DEFAULTS["protocol"])
    endpoint = _endpoint(environment, protocol, signal)
    if endpoint is not None:
        found["endpoint"] = endpoint
    read("headers", lambda text: _named(pairs(text), protocol), instead="no header", show=lambda _: "(kept secret)")
    if reserved := [name for name in found.get("headers", ()) if _is_reserved(name, protocol)]:
        found["headers"] = {name: value for name, value in found["headers"].items() if name not in reserved}
        names = (f"{prefix}HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
        variable = next(name for name in names if environment.text(name) and name not in environment.wrong)
        environment.wrong[variable] = (
            f"{variable} names {', '.join(reserved)}, which the request sets itself; the other headers are used"
        )
    read("timeout_s", _timeout_s, "TIMEOUT", "10000")
    read("compression", one_of("gzip", "none"))
    for key, suffix in PATHS.items():
        read(key, _path, suffix, "none")
    if protocol == "grpc":
        read("insecure", boolean, instead="false")
    spool = environment.value("TRACEKIT_SPOOL", _path, None, "no spool") if signal == "traces" else None
    if spool is not None:
        found["spool"] = spool
    return found, list(environment.wrong.values())


def without_secrets(url: str) -> str:
    """Return *url* without user info, query and fragment; an ``@`` elsewhere removes everything before it."""
    head, at, tail = url.rpartition("@")
    scheme = head.partition("://")[0] if "://" in head else ""
    shown = (f"{scheme}://" if scheme.isalnum() else "") + f"...@{tail}" if at else url
    return shown.partition("?")[0].partition("#")[0]


def endpoint_of(text: str | None, protocol: str, signal: str = "traces") -> str:
    """Return the endpoint *text* with the path for *signal* if it has no path; raise ValueError if it is not valid."""
    if text is None:
        return _ENDPOINTS.get(protocol, _ENDPOINT + signal)
    if protocol == "grpc":
        return _target(text)
    whole_url = _url(text)
    return _url(text, f"v1/{signal}") if whole_url.count("/") == 3 and whole_url.endswith("/") else text


def _endpoint(environment: Environment, protocol: str, signal: str) -> str | None:
    default = _ENDPOINTS.get(protocol, _ENDPOINT + signal)
    is_grpc = protocol == "grpc"
    after_wrong = _GENERAL if environment.text(_GENERAL) else default
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    endpoint = environment.value(own, _target if is_grpc else _url, None, after_wrong, shown)
    if endpoint is None:
        general = _target if is_grpc else lambda text: _url(text, f"v1/{signal}")
        endpoint = environment.value(_GENERAL, general, None, default, shown)
    return endpoint


def shown(url: str) -> str:
    """Return *url* for a message: without secrets, and cut short."""
    return clip(without_secrets(url))


def _url(text: str, path: str = "") -> str:
    from urllib.parse import urlsplit  # costs more to import than tracekit

    try:
        # urlsplit() removes line feeds and tabs.
        parts = urlsplit(text if text.isprintable() and " " not in text else "")
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ValueError("must be a URL such as http://localhost:4318")
    base = parts.path
    if path or not base:
        base = f"{base.removesuffix('/')}/{path}"
    return text if base == parts.path else parts._replace(path=base).geturl()


def _target(text: str) -> str:
    """Check a gRPC target: a URL, or a name that gRPC resolves."""
    scheme, mark, rest = text.partition("://")
    if mark and scheme.lower() in GRPC_SCHEMES:
        _url(f"http://{rest}")
    elif not text.isprintable() or " " in text:
        raise ValueError("must be a URL or HOST:PORT")
    return text


def check_headers(headers: Iterable[tuple[str, str]], protocol: str) -> dict[str, str]:
    """Return *headers* with names in lower case, as gRPC requires.

    Raises ValueError, without the values, for a malformed header or one that the request sets, such as Content-Length.
    """
    found = _named(headers, protocol)
    for name in found:
        if _is_reserved(name, protocol):
            raise ValueError(f"must not hold {name}, which the request sets itself")
    return found


def _is_reserved(name: str, protocol: str) -> bool:
    return name in _RESERVED or (protocol == "grpc" and name.startswith("grpc-"))


def _named(headers: Iterable[tuple[str, str]], protocol: str) -> dict[str, str]:
    found = {}
    for at, (name, value) in enumerate(headers, 1):
        key = name.lower()
        if not key or not (_METADATA if protocol == "grpc" else _TOKEN).issuperset(key):
            raise ValueError(f"must hold valid header names: that of header {at} is not")
        if protocol == "grpc" and key.endswith("-bin"):
            raise ValueError(f"must hold text, which a name that ends in -bin, as that of header {at}, is not for")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"must hold values of printable ASCII: that of header {at} is not")
        found[key] = value.strip()
    return found


def _timeout_s(text: str) -> float:
    """Parse milliseconds into seconds; 0, no limit, becomes an hour."""
    return whole(0, round(_HOUR_S * 1000))(text) / 1000 or _HOUR_S


def _path(text: str) -> str:
    if "\0" in text:
        raise ValueError("must name a file")
    return text
