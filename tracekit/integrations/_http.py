"""Shared by server and client spans of HTTP: method names, addresses, names of errors.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import functools
from typing import Any, Final

from .._export.notices import Notices, describe

# RFC 9110, PATCH (RFC 5789) and QUERY. Others become "_OTHER": a client can send any number of them.
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_HOST: Final = 255  # characters kept of a name: RFC 1035, section 2.3.4
NOTICES: Final = Notices()  # shared by the integrations: each cause is logged once


def parse_host(host: bytes) -> tuple[str, int | None]:
    """Return address and port of a ``Host`` header, "" and None for missing ones.

    Brackets of an IPv6 address and user info are removed.
    """
    text = host.rpartition(b"@")[2][:_MAX_HOST].decode("latin-1")
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        address, _, port = text.partition(":")
    return address, read_port(port)


def path_of_target(target: str) -> str:
    """Return the path of a request's *target*, without query, fragment, and the user info of an absolute form.

    RFC 9112, section 3.2. Servers pass on what clients send, also fragments and forms that are no target.
    """
    path = target.partition("?")[0].partition("#")[0]
    if path.startswith("/"):
        return path
    if "://" in path:
        return "/" + path.partition("://")[2].partition("/")[2]
    authority, slash, rest = path.partition("/")
    return authority.rpartition("@")[2] + slash + rest


def server_of(host: bytes, scheme: str, server: Any) -> tuple[str, int | None]:
    """Return address and port of a server, from the ``Host`` header and ASGI's ``server``; "" and None if unknown.

    *server* is a pair of address and port, or None. On a Unix socket the port is None, or the pair is. May raise for
    arguments of other types.
    """
    if len(host) > _MAX_HOST:  # no client sends such a header twice, and the cache would keep it
        return _server_of.__wrapped__(host, scheme, server)
    return _server_of(host, scheme, server)


@functools.lru_cache(maxsize=256)
def _server_of(host: bytes, scheme: str, server: Any) -> tuple[str, int | None]:
    address, port = parse_host(host)
    if not server:
        return address, port
    local, listens_on = server
    if not address:
        return local, listens_on if is_port(listens_on) else None
    if port is None and is_port(listens_on):
        port = DEFAULT_PORTS.get(scheme)
    return address, port


def read_port(text: str) -> int | None:
    """Return the port that *text* has in decimal digits, None for any other text."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if is_port(number) else None


def is_port(port: object) -> bool:
    """Return whether *port* is a valid port of TCP or UDP, other than 0."""
    return type(port) is int and 0 < port <= 65535


def error_type(error: BaseException) -> str:
    """Return the name of the class of *error*, with its module unless built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def report(error: Exception) -> None:
    """Log that *error* prevented a request from being traced in full, once per class of error."""
    message = "a request is not traced in full: %s (logged once per class of error)"
    NOTICES.say("warning", type(error), message, describe(error))
