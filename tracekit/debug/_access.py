"""Who may see pages of this machine: the checks of a request before any page is made. ``tracekit ui`` uses them, too.

A server on the loopback interface is open to every page in a browser of the same machine. So ``Host`` must name this
server (DNS rebinding gives a stranger's name to 127.0.0.1), and ``Origin`` and ``Sec-Fetch-Site`` must not name another
site. Behind a proxy every client seems local, so the default also rejects requests whose headers name one. Not every
proxy adds such a header: nginx does not by default, and a program behind it needs *auth*.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from .._core.checks import check_called_at_once
from .._export.notices import Notices

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

_MAX_HOST: Final = 255
_ANY: Final = ("", "0.0.0.0", "::")  # addresses to bind to that are no names of the server
_FORWARDED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")

_notices = Notices()


class Visitor(NamedTuple):
    """A request for a page, as ``auth=`` sees it."""

    client: str | None  # the address of the peer; None on a Unix socket, and where the server does not know it
    method: str
    path: str
    headers: Mapping[str, str]  # by name in lower case; repeated ones joined with ", "


class Access(NamedTuple):
    """The answer of ``auth=``: whether the visitor may see the pages, and values that were marked sensitive."""

    pages: bool
    sensitive: bool = False


Authorize: TypeAlias = Callable[[Visitor], Access | bool]


class Rejection(NamedTuple):
    """The reason for a rejection: a status of HTTP, and one line for the visitor."""

    status: Literal[400, 403, 405]
    reason: str


class Gate:
    """Decides about visitors.

    *auth* is called with each visitor whose request is not from another site; without it, only loopback peers may see
    the pages, with sensitive values. *hosts* are further names of this server that ``Host`` may contain, without port;
    names of the loopback interface and *bound*, the address of the server, are always accepted. Raises ``TypeError``
    for other arguments.
    """

    def __init__(self, auth: Authorize | None = None, hosts: Iterable[str] = (), bound: str = "") -> None:
        if auth is not None and not callable(auth):
            raise TypeError(f"auth must be callable, not {type(auth).__name__}")
        check_called_at_once("auth", auth)
        if isinstance(hosts, str | bytes) or not isinstance(hosts, Iterable):
            raise TypeError(f"hosts must be an iterable of names, not {type(hosts).__name__}")
        names = set() if bound in _ANY else {bound.lower()}
        for host in hosts:
            if not isinstance(host, str):
                raise TypeError(f"hosts must hold str, not {type(host).__name__}")
            names.add(host.lower().removesuffix("."))
        self._auth = auth or _local
        self._hosts = frozenset(names)

    def check(self, visitor: Visitor) -> Access | Rejection:
        """Return the access of *visitor*, or the reason for its rejection. Never raises."""
        if visitor.method not in ("GET", "HEAD"):
            return Rejection(405, "only GET and HEAD: the pages change nothing")
        headers = visitor.headers
        host = headers.get("host", "")
        if not self._is_ours(host):
            return Rejection(403, "Host is not a name of this server: open the page as localhost, or see hosts=")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return Rejection(403, "the request comes from another site: open the page by its address")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Rejection(403, "the request comes from another origin: open the page by its address")
        try:
            answer = self._auth(visitor)
            access = answer if isinstance(answer, Access) else Access(answer is True)
        except Exception as error:
            _notices.raised("auth", self._auth, error)
            access = Access(False)
        return access if access.pages is True else Rejection(403, "not for this client: only loopback, or see auth=")

    def _is_ours(self, host: str) -> bool:
        return names_loopback(host) or (len(host) <= _MAX_HOST and _split(host.lower())[0] in self._hosts)


def headers_by_name(headers: Iterable[tuple[bytes, bytes] | tuple[str, str]]) -> dict[str, str]:
    """Return *headers* by name in lower case; repeated ones are joined with ", ", which no check accepts."""
    found: dict[str, str] = {}
    for pair in headers:
        name, text = [word if isinstance(word, str) else bytes(word).decode("latin-1") for word in pair]
        key = name.lower()
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def names_loopback(host: str) -> bool:
    """Return whether *host*, a value of ``Host``, is an address or a name of the loopback interface."""
    if len(host) > _MAX_HOST:
        return False
    name, _ = _split(host.lower())
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def is_local_origin(origin: str) -> bool:
    """Return whether *origin*, a value of ``Origin``, is a page that this machine serves."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and names_loopback(parts.netloc)


def _split(host: str) -> tuple[str, str]:
    """Return name and port of a ``Host``, both "" where it is malformed."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        is_good = bool(bracket) and (not port or port[0] == ":")
        port = port[1:]
    else:
        name, _, port = host.partition(":")
        is_good = True
    if not is_good or (port and not (port.isascii() and port.isdigit())):
        return "", ""
    return name.removesuffix("."), port


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


def _local(visitor: Visitor) -> Access:
    """Accept loopback peers whose headers name no proxy."""
    is_local = visitor.client is not None and _is_loopback(visitor.client)
    return Access(is_local and not any(name in visitor.headers for name in _FORWARDED), sensitive=True)
