"""What an ASGI scope says about a request: the attributes of its server span, and the route that the app chose.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._http import server_of
from ._redaction import MAX_TEXT, Redaction

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["attributes_of", "route_of"]


def attributes_of(scope: MutableMapping[str, Any], kind: str, method: str, redaction: Redaction) -> dict[str, Any]:
    """Return what *scope* tells about the request, as far as it is well-formed."""
    get = scope.get
    scheme = get("scheme") or ("http" if kind == "http" else "ws")
    path = get("raw_path")
    if type(path) is bytes:  # as it was sent: in "path" the server has decoded "%2F", and "%3F"
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
    except Exception:  # hostile bytes, or a server that takes liberties: what was found so far will do
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
            if client[1]:  # 0 where a proxy's header has named the client, whose port is not known then
                attributes["network.peer.address"] = address
    except Exception:
        pass
    return attributes


def route_of(scope: MutableMapping[str, Any]) -> str:
    """Return the path template of the route that the app chose, where it says so as Starlette and FastAPI do, or ""."""
    route = scope.get("route")
    if route is None:
        return ""
    try:
        # A mount's own template is overwritten by the route inside, which knows only the rest of the path.
        prefix: str = scope["root_path"][len(scope["app_root_path"]) :] if "app_root_path" in scope else ""
        path: str = "" if hasattr(route, "routes") else route.path
        if prefix:
            inner = getattr(route, "param_convertors", ())
            outer = {str(value): name for name, value in scope["path_params"].items() if name not in inner}
            prefix = "/".join([f"{{{outer[part]}}}" if part in outer else part for part in prefix.split("/")])
        return prefix + path
    except Exception:  # some other framework's idea of a route
        return ""
