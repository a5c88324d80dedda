"""What server and client spans of HTTP share: method names, addresses, and URLs without secrets.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Final
from urllib.parse import unquote

from .._core.errors import clip

__all__ = ["DEFAULT_PORTS", "MAX_TEXT", "METHODS", "error_type", "parse_host", "redact_query", "report"]

# RFC 9110, PATCH (RFC 5789) and QUERY; whoever sends requests could make up any number of others.
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
MAX_TEXT: Final = 1024  # characters kept of a query or a header; more is no help to whoever reads the span

_SEPARATOR = re.compile("([&;])")
# What each of the keys below holds, or may hold when it is decoded; most queries do not, and are done with at once.
_SUSPECT = re.compile("key|auth|jwt|pass|pwd|sig|credential|secret|token|%").search
_SECRETS = frozenset(
    {
        "api-key",
        "api_key",
        "apikey",
        "auth",
        "authorization",
        "awsaccesskeyid",
        "jwt",
        "passwd",
        "pwd",
        "sig",
        "x-amz-credential",
        "x-goog-credential",
    }
)
_SECRET_ENDINGS = ("password", "secret", "signature", "token")

_reported: set[type[BaseException]] = set()


def redact_query(query: str) -> str:
    """Return *query*, without its ``?``, with ``REDACTED`` for values whose keys mean signatures and credentials.

    Keys count in any case and percent-encoding. More than 1024 characters are cut off.
    """
    query = query[:MAX_TEXT]
    if _SUSPECT(query.lower()) is None:
        return query
    pieces = _SEPARATOR.split(query)
    for at in range(0, len(pieces), 2):
        key, _, value = pieces[at].partition("=")
        if value and _is_secret(key):
            pieces[at] = f"{key}=REDACTED"
    return "".join(pieces)


def _is_secret(key: str) -> bool:
    plain = (unquote(key) if "%" in key else key).lower()
    return plain in _SECRETS or plain.endswith(_SECRET_ENDINGS)


@functools.lru_cache(maxsize=256)
def parse_host(host: bytes) -> tuple[str, int | None]:
    """Return address and port of a ``Host`` header; None for a port that it does not name, "" for no address at all.

    An IPv6 address loses its brackets; user info, which does not belong there, is left out.
    """
    text = host[:255].decode("latin-1").rpartition("@")[2]
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        address, _, port = text.partition(":")
    if port.isascii() and port.isdigit() and len(port) <= 5:
        return address, int(port)
    return address, None


def error_type(error: BaseException) -> str:
    """Return the name of the class of *error*, with its module unless built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def report(error: Exception) -> None:
    """Log that *error* kept a request from being traced, once per class of error; the request goes on."""
    if type(error) not in _reported and len(_reported) < 64:
        _reported.add(type(error))
        logging.getLogger("tracekit").warning(
            "a request is not traced: %s: %s (said once per kind of error)", type(error).__name__, clip(str(error))
        )
