"""Read an ASGI scope: attributes of the server span, and the route that the app chose.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..cython import compiled
from ._http import METHODS, path_of_target, server_of
from ._redaction import MAX_TEXT, Redaction

if not compiled:
    from .._core.codecs import Items

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SPAN_KEY = "tracekit.span"
_last: tuple[Any, Any, Any, tuple[str, int | None]] = (None, None, (), ("", None))  # the arguments and the result
_ROOM = 12  # attributes that most requests have, with the status

if not compiled:

    def same(one: Any, other: str) -> bool:
        """Return ``one == other``."""
        return bool(one == other)

    def header(headers: Any, wanted: bytes) -> Any:
        """Return the value of the first of *headers*, pairs of bytes in a list or a tuple, with this name; or None."""
        for pair in headers:
            if isinstance(pair, list | tuple) and len(pair) == 2 and pair[0] == wanted:
                return pair[1]
        return None


def known_method(method: Any) -> str:
    """Return *method*, "GET" if it is None, and "HTTP" if it is none of HTTP's."""
    if method is None:
        return "GET"
    return method if type(method) is str and (same(method, "GET") or method in METHODS) else "HTTP"


def attributes_of(
    scope: MutableMapping[str, Any], headers: Any, is_http: bool, method: str, redaction: Redaction
) -> Items:
    """Return the attributes of the request in *scope* with *headers*, a list or a tuple; malformed fields are left out."""
    fields: dict[str, Any] = scope if type(scope) is dict else dict(scope)
    scheme = fields.get("scheme") or ("http" if is_http else "ws")
    path = fields.get("raw_path")
    if type(path) is bytes:  # as it was sent; in "path" the server has decoded "%2F" and "%3F"
        octets: bytes = path
        text = octets.decode("latin-1")
        is_plain = len(octets) > 0 and octets[0] == 0x2F and b"?" not in octets and b"#" not in octets
        path = text if is_plain else path_of_target(text)
    else:
        path = fields.get("path")
        if path is None:
            path = ""
        elif type(path) is str and not path.startswith("/"):
            path = path_of_target(path)
    is_other = same(method, "HTTP")
    attributes = Items.__new__(Items)
    attributes.reserve(_ROOM)
    attributes.add("http.request.method", "_OTHER" if is_other else method)
    attributes.add("url.path", path)
    attributes.add("url.scheme", scheme)
    try:
        if agent := header(headers, b"user-agent"):
            attributes.add("user_agent.original", _latin(agent, MAX_TEXT))
        host = header(headers, b"host") or b""
        server = fields.get("server")
        name, port = _server_of(host, scheme, server if type(server) is not list else tuple(server))
        if type(name) is str and name:
            attributes.add("server.address", name)
            if port is not None:
                attributes.add("server.port", port)
    except Exception:  # malformed fields: keep the attributes found so far
        pass
    try:
        if query := fields.get("query_string"):
            attributes.add("url.query", redaction.query(_latin(query, MAX_TEXT)))
        if version := fields.get("http_version"):
            attributes.add("network.protocol.version", version)
        if is_other:
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
    if last[0] == host and (last[2] is server or last[2] == server) and (last[1] is scheme or last[1] == scheme):
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
        outer_path = fields.get("app_root_path")
        if outer_path is not None:
            prefix = fields["root_path"][len(outer_path) :]
        path: str = "" if hasattr(route, "routes") else route.path
        if prefix:
            inner = getattr(route, "param_convertors", ())
            outer = {str(value): name for name, value in fields["path_params"].items() if name not in inner}
            prefix = "/".join([f"{{{outer[part]}}}" if part in outer else part for part in prefix.split("/")])
            return prefix + path
        return path if type(path) is str else "" + path
    except Exception:  # another framework's kind of route
        return ""
