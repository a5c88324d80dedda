"""Read an ASGI scope: attributes of the server span, and the route that the app chose.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..cython import binding, cclass, compiled, final, nonecheck
from ._http import METHODS, path_of_target, server_of
from ._redaction import MAX_TEXT, Redaction

if not compiled:
    from .._core.codecs import Items

if TYPE_CHECKING:
    from collections.abc import MutableMapping


@final
@binding(False)
@cclass
class Field:
    """A key of dicts that nearly all have at the same place; C looks there first, which needs no hash table."""

    if not compiled:
        __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name


SPAN_KEY = "tracekit.span"
_last: tuple[Any, ...] = (b"", None, (), "", None)  # the arguments of server_of(), and its result
_ROOM = 12  # attributes that most requests have, with the status
_CLIENT, _PATH, _QUERY, _RAW_PATH = Field("client"), Field("path"), Field("query_string"), Field("raw_path")
_SCHEME, _SERVER, _VERSION = Field("scheme"), Field("server"), Field("http_version")
_ROUTE = Field("route")
_MOST = MAX_TEXT
_METHODS = {method: method for method in METHODS}
_OUTER = "app_root_path"

if not compiled:
    _KNOWN: Final = 64  # routes that are remembered

    def field(fields: dict[str, Any], key: Field) -> Any:
        """Return the value of *key*, or None."""
        return fields.get(key._name)

    def append(attributes: Items, key: str, value: Any) -> None:
        """Put *value* under *key*, which is not there yet; there is room for it."""
        attributes.add(key, value)

    def append_ours(_attributes: Items | None, _count: int, _key: str, _value: Any) -> bool:
        """Append to attributes that are *count*, as at first, if no view of them exists; else return False."""
        return False

    def place_of(one: object, most: int) -> int:
        """Return a number below *most* from the address of an object; those of one class are a multiple of 64 apart."""
        return (id(one) >> 4 ^ id(one) >> 10) % most

    def is_text(value: Any) -> bool:
        """Tell whether *value* is a text, of type str, with a character."""
        return type(value) is str and value != ""

    def spells(text: Any, octets: bytes) -> bool:
        """Tell whether *octets* are those of *text*; C answers for ASCII only, and else False."""
        return type(text) is str and text == octets.decode("latin-1")

    def same_octets(one: Any, other: Any) -> bool:
        """Tell whether both are bytes, and equal."""
        return type(one) is bytes and type(other) is bytes and one == other

    def same_text(one: Any, other: Any) -> bool:
        """Tell whether both are the same object, or equal texts."""
        return one is other or (type(one) is str and type(other) is str and one == other)

    def same_pair(one: Any, other: Any) -> bool:
        """Tell whether both are the same object, or equal pairs of a text and a number."""
        if type(one) is not tuple or type(other) is not tuple or len(one) != 2 or len(other) != 2:
            return one is other
        return same_text(one[0], other[0]) and type(one[1]) is type(other[1]) is int and bool(one[1] == other[1])

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
    if method is None or same_text(method, "GET"):
        return "GET"
    return _METHODS.get(method, "HTTP") if type(method) is str else "HTTP"


def attributes_of(
    scope: MutableMapping[str, Any], headers: Any, is_http: bool, method: str, redaction: Redaction
) -> Items:
    """Return the attributes of the request in *scope* with *headers*, a list or a tuple; malformed fields are left out."""
    fields: dict[str, Any] = scope if type(scope) is dict else dict(scope)
    attributes = Items.__new__(Items)
    attributes.reserve(_ROOM)
    scheme = field(fields, _SCHEME)
    if not is_text(scheme):
        scheme = scheme or ("http" if is_http else "ws")
    is_other = same(method, "HTTP")
    append(attributes, "http.request.method", "_OTHER" if is_other else method)
    append(attributes, "url.path", _path_of(fields))
    append(attributes, "url.scheme", scheme)
    # Values of the specification's types raise nothing; each of the others costs only itself.
    agent = header(headers, b"user-agent")
    if agent is not None:
        _add_agent(attributes, agent)
    _add_server(attributes, header(headers, b"host"), scheme, field(fields, _SERVER))
    query = field(fields, _QUERY)
    if query is not None and not same_octets(query, b""):
        _add_query(attributes, query, redaction)
    version = field(fields, _VERSION)
    if is_text(version):
        append(attributes, "network.protocol.version", version)
    elif version is not None:
        _add_version(attributes, version)
    if is_other:
        _add_method(attributes, fields.get("method"))
    client = field(fields, _CLIENT)
    if client is not None:
        _add_client(attributes, client)
    return attributes


def _path_of(fields: dict[str, Any]) -> Any:
    """Return the path without the query: as it was sent, since in "path" the server has decoded "%2F" and "%3F"."""
    path = field(fields, _PATH)
    sent = field(fields, _RAW_PATH)
    if type(sent) is bytes:
        octets: bytes = sent
        text = path if spells(path, octets) else octets.decode("latin-1")  # most are the same, which is not copied
        is_plain = len(octets) > 0 and octets[0] == 0x2F and b"?" not in octets and b"#" not in octets
        return text if is_plain else path_of_target(text)
    if path is None:
        return ""
    return path_of_target(path) if type(path) is str and not path.startswith("/") else path


def _add_agent(attributes: Items, agent: Any) -> None:
    try:
        if agent:
            append(attributes, "user_agent.original", _latin(agent, _MOST))
    except Exception:
        pass


def _add_server(attributes: Items, host: Any, scheme: Any, server: Any) -> None:
    """Add ``server_of()``, which most requests ask the same as the one before."""
    global _last
    last = _last
    if not (same_octets(last[0], host) and same_text(last[1], scheme) and same_pair(last[2], server)):
        try:
            pair = tuple(server) if type(server) is list else server
            _last = last = (host, scheme, pair, *server_of(host or b"", scheme, pair))
        except Exception:
            return
    name, port = last[3], last[4]
    if is_text(name):
        append(attributes, "server.address", name)
        if port is not None:
            append(attributes, "server.port", port)


@nonecheck(True)
def _add_query(attributes: Items, query: Any, redaction: Redaction) -> None:
    try:
        if query:
            append(attributes, "url.query", redaction.query(_latin(query, _MOST)))
    except Exception:
        pass


def _add_version(attributes: Items, version: Any) -> None:
    try:
        if version:
            append(attributes, "network.protocol.version", version)
    except Exception:
        pass


def _add_method(attributes: Items, method: Any) -> None:
    try:
        append(attributes, "http.request.method_original", method[:64])
    except Exception:
        pass


def _add_client(attributes: Items, client: Any) -> None:
    try:
        if client and (address := client[0]):
            append(attributes, "client.address", address)
            if client[1]:  # 0 if the client's address comes from a proxy's header
                append(attributes, "network.peer.address", address)
    except Exception:
        pass


def _latin(octets: Any, most: int) -> str:
    """Return the first *most* of *octets* as text."""
    if type(octets) is bytes:
        plain: bytes = octets
        return plain.decode("latin-1") if len(plain) <= most else plain[:most].decode("latin-1")
    text: str = octets[:most].decode("latin-1")
    return text


@binding(False)
@cclass
class Routes:
    """The routes that requests were served by last, with their templates and the names of the spans."""

    if not compiled:
        __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[tuple[Any, str, str, str] | None] = [None] * _KNOWN

    @nonecheck(True)
    def find(self, scope: MutableMapping[str, Any], before: str) -> tuple[Any, str, str, str] | None:
        """Return the chosen route, its template, *before*, which is the span's name, and the name with the template."""
        fields: dict[str, Any] = scope if type(scope) is dict else dict(scope)
        route = field(fields, _ROUTE)
        if route is None:
            return None
        at = place_of(route, _KNOWN)
        known = self._known[at]
        is_mounted = _OUTER in fields  # its template has parts of the request's path
        if known is not None and known[0] is route and same_text(known[2], before) and not is_mounted:
            return known
        template = route_of(fields, route)
        if template == "":
            return None
        found = (route, template, before, f"{before} {template}")
        if not is_mounted and len(template) <= _MOST:
            self._known[at] = found
        return found


def route_of(fields: dict[str, Any], route: Any) -> str:
    """Return the path template of *route*, as Starlette and FastAPI set it, or "".

    The value of a mount's parameter stays in it if the route has a parameter of the same name.
    """
    try:
        # The inner route overwrites the mount's template, and has only the rest of the path.
        prefix: str = ""
        outer_path = fields.get(_OUTER)
        if outer_path is not None:
            prefix = fields["root_path"][len(outer_path) :]
        is_mount = hasattr(route, "routes")
        path: str = "" if is_mount else route.path
        if prefix:
            inner = () if is_mount else getattr(route, "param_convertors", ())
            outer = [(name, value) for name, value in fields["path_params"].items() if name not in inner]
            prefix = _template_of(prefix, outer)
            return prefix + path if prefix else ""
        return path if type(path) is str else "" + path
    except Exception:  # another framework's kind of route
        return ""


def _template_of(path: str, parameters: list[tuple[str, Any]]) -> str:
    """Return *path* with names in place of the values of *parameters*; "" if one is not found, as clients choose them.

    The value of a number is not found where it is spelled in another way, such as "007".
    """
    end, after = len(path), ""
    for name, value in reversed(parameters):
        text = str(value)
        if not text:
            continue
        start = f"{path[:end]}/".rfind(f"/{text}/") + 1
        if not start:  # not a whole segment
            start = path.rfind(text, 0, end) if isinstance(value, str) else -1
            if start < 0:
                return ""
        after = f"{{{name}}}{path[start + len(text) : end]}{after}"
        end = start
    return path[:end] + after
