"""Read an ASGI scope: attributes of the server span, and the route that the app chose.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._http import server_of
from ._redaction import MAX_TEXT, Redaction

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["SPAN_KEY", "attributes_of", "route_of"]

SPAN_KEY = "tracekit.span"


def attributes_of(scope: MutableMapping[str, Any], kind: str, method: str, redaction: Redaction) -> dict[str, Any]:
    """Return the attributes of the request in *scope*; malformed fields are left out."""
    get = scope.get
    scheme = get("scheme") or ("http" if kind == "http" else "ws")
    path = get("raw_path")
    if type(path) is bytes:  # as it was sent; in "path" the server has decoded "%2F" and "%3F"
        path = path.decode("latin-1")
        if "?" in path:
            path = path.partition("?")[0]
    else:
        path = get("path", "")
    attributes = {"http.request.method": method, "url.path": path, "url.scheme": scheme}
    try:
        host = agent = b""
        for name, value in get("headers", ()):
            if name == b"host":
                host = value
                if agent:
                    break
            elif name == b"user-agent":
                agent = value
                if host:
                    break
        if agent:
            attributes["user_agent.original"] = agent[:MAX_TEXT].decode("latin-1")
        server = get("server")
        address, port = server_of(host, scheme, server if type(server) is not list else tuple(server))
        if address:
            attributes["server.address"] = address
            if port:
                attributes["server.port"] = port
    except Exception:  # malformed fields: keep the attributes found so far
        pass
    try:
        if query := get("query_string"):
            attributes["url.query"] = redaction.query(query[:MAX_TEXT].decode("latin-1"))
        if version := get("http_version"):
            attributes["network.protocol.version"] = version
        if method == "HTTP":
            attributes["http.request.method"] = "_OTHER"
            attributes["http.request.method_original"] = scope["method"][:64]
    except Exception:
        pass
    try:
        if (client := get("client")) and (address := client[0]):
            attributes["client.address"] = address
            if client[1]:  # 0 if the client's address comes from a proxy's header
                attributes["network.peer.address"] = address
    except Exception:
        pass
    return attributes


def route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the path template of the chosen route, as Starlette and FastAPI set it, or ""."""
    route = scope.get("route")
    if route is None:
        return ""
    try:
        # The inner route overwrites the mount's template, and has only the rest of the path.
        prefix: str = scope["root_path"][len(scope["app_root_path"]) :] if "app_root_path" in scope else ""
        path: str = "" if hasattr(route, "routes") else route.path
        if prefix:
            inner = getattr(route, "param_convertors", ())
            outer = {str(value): name for name, value in scope["path_params"].items() if name not in inner}
            prefix = "/".join([f"{{{outer[part]}}}" if part in outer else part for part in prefix.split("/")])
        return prefix + path
    except Exception:  # another framework's kind of route
        return ""
