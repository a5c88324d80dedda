"""Read a WSGI environ: attributes of the server span, and the route that the app chose.

Specification: https://peps.python.org/pep-3333/
Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from ._http import METHODS, path_of_target, server_of
from ._redaction import MAX_TEXT, Redaction

if TYPE_CHECKING:
    from collections.abc import Mapping

SPAN_KEY: Final = "tracekit.span"
ROUTE_KEY: Final = "tracekit.route"  # set by a framework's hook


def path_of(environ: Mapping[str, Any]) -> str:
    """Return the decoded path, for prefixes of ``routes`` and ``exclude``; "" if it is malformed."""
    try:
        path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")
    except Exception:
        return ""


def attributes_of(environ: Mapping[str, Any], method: str, redaction: Redaction) -> dict[str, Any]:
    """Return the attributes of the request in *environ*; malformed fields are left out."""
    get = environ.get
    scheme = get("wsgi.url_scheme", "http")
    path = get("RAW_URI") or get("REQUEST_URI")  # as it was sent; in PATH_INFO the server has decoded "%2F"
    if type(path) is not str or not path.startswith("/"):
        path = path_of(environ)
        if not path.startswith("/"):
            path = path_of_target(path)
    elif "?" in path or "#" in path:
        path = path_of_target(path)
    attributes = {"http.request.method": method, "url.path": path, "url.scheme": scheme}
    try:
        if agent := get("HTTP_USER_AGENT"):
            attributes["user_agent.original"] = agent[:MAX_TEXT]
        local = get("SERVER_NAME")
        host = get("HTTP_HOST", "")
        server = _server if len(host) <= MAX_TEXT else _server.__wrapped__  # which a cache would keep
        address, port = server(host, scheme, local, get("SERVER_PORT", ""))
        if address:
            attributes["server.address"] = address
            if port:
                attributes["server.port"] = port
    except Exception:  # malformed fields: keep the attributes found so far
        pass
    try:
        if query := get("QUERY_STRING"):
            attributes["url.query"] = redaction.query(query[:MAX_TEXT])
        protocol = get("SERVER_PROTOCOL", "")
        if protocol.startswith("HTTP/"):
            attributes["network.protocol.version"] = protocol[5:69]
        if method == "HTTP":
            attributes["http.request.method"] = "_OTHER"
            attributes["http.request.method_original"] = environ["REQUEST_METHOD"][:64]
        if client := get("REMOTE_ADDR"):
            attributes["client.address"] = client[:MAX_TEXT]
            if get("REMOTE_PORT"):
                attributes["network.peer.address"] = attributes["client.address"]
    except Exception:
        pass
    return attributes


@functools.lru_cache(maxsize=256)
def _server(host: str, scheme: str, local: Any, port: Any) -> tuple[str, int | None]:
    listens_on = int(port) if type(port) is str and port.isdigit() and len(port) <= 5 else port
    return server_of(host.encode("latin-1", "replace"), scheme, (local, listens_on) if local else None)


def method_of(environ: Mapping[str, Any]) -> str:
    """Return the method, or "HTTP" for one that is unknown: a client can send any number of them."""
    method = environ.get("REQUEST_METHOD", "GET")
    return method if type(method) is str and method in METHODS else "HTTP"


def headers_of(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the request's headers under their names in HTTP, for the capture of headers."""
    found = [
        (name[5:].replace("_", "-").lower(), value)
        for name, value in environ.items()
        if type(name) is str and name.startswith("HTTP_")
    ]
    named = {"content-type": environ.get("CONTENT_TYPE"), "content-length": environ.get("CONTENT_LENGTH")}
    return found + [(name, value) for name, value in named.items() if value]


def route_of(environ: Mapping[str, Any], root: Any) -> str:
    """Return the path template of the chosen route, as Flask or a framework's hook left it in *environ*, or "".

    *root* is the SCRIPT_NAME of the request before the app ran: an app that dispatches to others adds to it.
    """
    try:
        route = environ.get(ROUTE_KEY)
        if route is None:
            request = environ.get("werkzeug.request")
            if request is None:
                return ""
            route = request.url_rule.rule
        prefix = environ.get("SCRIPT_NAME", "")[len(root) :]
        return f"{prefix}{route}" if type(route) is str else ""
    except Exception:  # no route, or another framework's kind of request
        return ""
