"""Read an ASGI scope: attributes of the server span, and the route that the app chose.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..cython import compiled
from ._http import path_of_target, server_of
from ._redaction import MAX_TEXT, Redaction

if not compiled:
    from .._core.codecs import Items

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["SPAN_KEY", "attributes_of", "route_of"]

SPAN_KEY = "tracekit.span"
_last: tuple[Any, Any, Any, tuple[str, int | None]] = (None, None, (), ("", None))  # the arguments and the result
_ROOM = 12  # attributes that most requests have, with the status


def attributes_of(scope: MutableMapping[str, Any], kind: str, method: str, redaction: Redaction) -> Items:
    """Return the attributes of the request in *scope*; malformed fields are left out."""
    fields: dict[str, Any] = scope if type(scope) is dict else dict(scope)
    scheme = fields.get("scheme") or ("http" if kind == "http" else "ws")
    path = fields.get("raw_path")
    if type(path) is bytes:  # as it was sent; in "path" the server has decoded "%2F" and "%3F"
        text = _latin(path, len(path))
        path = text if text.startswith("/") and "?" not in text and "#" not in text else path_of_target(text)
    else:
        path = fields.get("path", "")
        if type(path) is str and not path.startswith("/"):
            path = path_of_target(path)
    attributes = Items.__new__(Items)
    attributes.reserve(_ROOM)
    attributes.add("http.request.method", "_OTHER" if method == "HTTP" else method)
    attributes.add("url.path", path)
    attributes.add("url.scheme", scheme)
    try:
        host: Any = b""
        agent: Any = b""
        for name, value in fields.get("headers", ()):
            if name == b"host":
                host = value
                if agent:
                    break
            elif name == b"user-agent":
                agent = value
                if host:
                    break
        if agent:
            attributes.add("user_agent.original", _latin(agent, MAX_TEXT))
        server = fields.get("server")
        address, port = _server_of(host, scheme, server if type(server) is not list else tuple(server))
        if address:
            attributes.add("server.address", address)
            if port:
                attributes.add("server.port", port)
    except Exception:  # malformed fields: keep the attributes found so far
        pass
    try:
        if query := fields.get("query_string"):
            attributes.add("url.query", redaction.query(_latin(query, MAX_TEXT)))
        if version := fields.get("http_version"):
            attributes.add("network.protocol.version", version)
        if method == "HTTP":
            attributes.add("http.request.method_original", fields["method"][:64])
    except Exception:
        pass
    try:
        if (client := fields.get("client")) and (address := client[0]):
            attributes.add("client.address", address)
            if client[1]:  # 0 if the client's address comes from a proxy's header
                attributes.add("network.peer.address", address)
    except Exception:
        pass
    return attributes


def _latin(octets: Any, most: int) -> str:
    """Return the first *most* of *octets* as text."""
    if type(octets) is bytes:
        plain: bytes = octets
        return plain[:most].decode("latin-1")
    text: str = octets[:most].decode("latin-1")
    return text


def _server_of(host: Any, scheme: Any, server: Any) -> tuple[str, int | None]:
    """Return ``server_of()``, which most requests ask the same as the one before."""
    global _last
    last = _last
    if last[0] == host and last[2] == server and last[1] == scheme:
        return last[3]
    found = server_of(host, scheme, server)
    _last = (host, scheme, server, found)
    return found


def route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the path template of the chosen route, as Starlette and FastAPI set it, or ""."""
    fields: dict[str, Any] = scope if type(scope) is dict else dict(scope)
    route = fields.get("route")
    if route is None:
        return ""
    try:
        # The inner route overwrites the mount's template, and has only the rest of the path.
        prefix: str = ""
        if "app_root_path" in fields:
            prefix = fields["root_path"][len(fields["app_root_path"]) :]
        path: str = "" if hasattr(route, "routes") else route.path
        if prefix:
            inner = getattr(route, "param_convertors", ())
            outer = {str(value): name for name, value in fields["path_params"].items() if name not in inner}
            prefix = "/".join([f"{{{outer[part]}}}" if part in outer else part for part in prefix.split("/")])
        return prefix + path
    except Exception:  # another framework's kind of route
        return ""
