# cython: nonecheck=True
"""Client spans of HTTP, shared by every client integration: names, attributes, headers, errors, redaction.

One span is one attempt: each hop of a redirect and each retry has its own, and they are siblings. A span ends with the
response's body, or at once where there is none.

No span is made, and no header is written, where

- OpenTelemetry's suppression keys are set: an instrumentation above traces this request and has written its headers,
  or an exporter is sending;
- the current span is an open client span of HTTP for the same host: a library above sends this request through this
  one.

Compiled: this is most of the work for a request.

Conventions: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._carriers import inject
from .._propagation import names
from ..cython import binding, cclass, compiled
from ._http import DEFAULT_PORTS, METHODS, error_type, is_port, report
from ._peers import Peers

if not compiled:
    from .._carriers import reads_w3c
    from .._core.codecs import Items
    from .._core.scopes import effective, held_span, innermost
    from .._core.span import Span, start_request_span, tracer_in_use
    from ._redaction import Redaction
    from ._suppression import is_http_suppressed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

# Names of spans: a method may be of a subclass of str, such as http.HTTPMethod.
_NAMES: Final = {method: method for method in METHODS}
_ROOM: Final = 7  # attributes that most requests have, with those of the response
_ORIGINALS: Final = 64  # characters kept of an unknown method
_MAX_KNOWN: Final = 1024  # entries of a cache

_W3C: Final = frozenset({"traceparent", "tracestate"})
_W3C_AND_LABELS: Final = _W3C | {"baggage"}
_stale: dict[tuple[str, ...], frozenset[str]] = {}
_stale_fields: Any = None


@binding(False)
@cclass
class Client:
    """Start the client spans of one integration.

    *propagate_to* names the hosts that get labels, see ``Peers``; *redact* adds names of query parameters whose values
    are secret, see ``Redaction``. Raises ``TypeError`` or ``ValueError`` for invalid ones.
    """

    if not compiled:
        __slots__ = ("_origins", "_peers", "_redaction")

    def __init__(
        self,
        *,
        propagate_to: Iterable[str] | Callable[[str], bool] | None = None,
        redact: Iterable[str] = (),
    ) -> None:
        self._peers = Peers(propagate_to)
        self._redaction = Redaction(redact)
        self._origins: dict[tuple[str, str, int | None], tuple[str, int | None]] = {}

    def start(
        self, method: str, scheme: str, host: str, port: int | None, target: str, resends: int = 0
    ) -> tuple[Span, dict[str, str]]:
        """Return the span of an attempt, and the headers that carry its context.

        *host* is without port and brackets, a *port* of None is the scheme's. *target* is path and query, or a whole
        URL as proxies get it, whose user info and fragment are left out. *resends* counts the attempts before.
        """
        name = _NAMES.get(method, "HTTP")
        attributes = self._attributes(method, name, scheme, host, port, target, resends) if may_record() else None
        client_span = start_request_span(tracer_in_use(), name, "client", attributes, (), None)
        return client_span, headers_for(client_span, self._peers, host)

    def _attributes(
        self, method: str, name: str, scheme: str, host: str, port: int | None, target: str, resends: int
    ) -> Items:
        path = target if type(target) is str else str(target)
        if "#" in path:
            path = path.partition("#")[0]
        end = path.find("?")
        if end >= 0:
            query = path[end + 1 :]
            redacted = self._redaction.query(query)
            if redacted is not query:
                path = f"{path[: end + 1]}{redacted}"
        found = self._origins.get((scheme, host, port))
        if found is None:
            found = self._origin(scheme, host, port)
        path = found[0] + path if path.startswith("/") else _whole_url(found[0], path)
        attributes = Items.__new__(Items)
        attributes.reserve(_ROOM)
        attributes.add("http.request.method", "_OTHER" if name == "HTTP" else name)
        attributes.add("url.full", path)
        attributes.add("server.address", host)
        if found[1] is not None:
            attributes.add("server.port", found[1])
        if name == "HTTP":
            attributes.add("http.request.method_original", method[:_ORIGINALS])
        if resends:
            attributes.add("http.request.resend_count", resends)
        return attributes

    def _origin(self, scheme: str, host: str, port: int | None) -> tuple[str, int | None]:
        """Return the beginning of a URL, and the port if it is a valid one."""
        default = DEFAULT_PORTS.get(scheme)
        netloc = f"[{host}]" if ":" in host else host
        if port is not None and port != default:
            netloc = f"{netloc}:{port}"
        number = port or default
        found = f"{scheme}://{netloc}", number if is_port(number) else None
        if len(host) <= 255:
            if len(self._origins) >= _MAX_KNOWN:
                self._origins.clear()
            self._origins[scheme, host, port] = found
        return found


def may_record() -> bool:
    """Return whether a span that starts here may be recorded, so that its attributes are of use."""
    tracer = tracer_in_use()
    if tracer.records_all:
        return True
    if not tracer.recording:
        return False
    scope = innermost()
    parent = None if scope is None else effective(scope)
    return parent is None or parent.sampled or parent.deferred


def headers_for(client_span: Span, peers: Peers, host: str) -> dict[str, str]:
    """Return the headers that carry the context of *client_span* to *host*, which may get its labels, or not."""
    context = client_span.context
    if context._labels is not None:
        context = peers.context_for(host, context)
    return inject({}, context)


def is_traced_above(host: str) -> bool:
    """Return whether this request, to *host*, is traced by a library above, or must not be traced."""
    scope = innermost()
    if scope is None:
        return False
    if scope.ambient is not None and is_http_suppressed():
        return True
    above = held_span(scope)
    if above is None:
        return False
    span = above
    if span._kind != "client" or not span._is_recorded or span._has_ended:
        return False
    attributes = span.attributes
    return "http.request.method" in attributes and attributes.get("server.address") == host


def answer(client_span: Span, status: Any, version: str | None = None) -> None:
    """Write the details of a response to the span, which stays open. Statuses from 400 on are errors."""
    if not client_span._is_recorded or client_span._has_ended:
        return
    try:
        client_span._put("http.response.status_code", status)
        if status >= 400:
            client_span._put("error.type", str(int(status)))
            client_span.set_status("error")
        if version:
            client_span._put("network.protocol.version", version)
    except Exception as error:  # an invalid response: the library has its own error for it
        report(error)


def end(client_span: Span) -> None:
    """End the span, if it is open."""
    if not client_span._has_ended:
        client_span._end(None)


def fail(client_span: Span, error: BaseException) -> None:
    """Record *error*, which ended the attempt, and end the span."""
    if client_span._has_ended:
        return
    try:
        if isinstance(error, Exception):
            client_span.set_attribute("error.type", error_type(error))
        client_span.__exit__(type(error), error, error.__traceback__)
    except Exception as ours:  # the program must get its own error, not this one
        report(ours)
        end(client_span)


def stale_fields(written: Collection[str]) -> frozenset[str]:
    """Return the names, in lower case, of headers that a request must not keep beside the *written* ones.

    They are all fields of the configured formats, since a reader would find another trace in them; the program's
    ``baggage`` header stays where no labels are sent.
    """
    global _stale_fields
    if reads_w3c():
        return _W3C_AND_LABELS if "baggage" in written else _W3C
    fields, _ = names()
    if fields is not _stale_fields:
        _stale_fields = fields
        _stale.clear()
    key = tuple(written)
    found = _stale.get(key)
    if found is None:
        if len(_stale) >= _MAX_KNOWN:
            _stale.clear()
        found = _stale[key] = (frozenset(map(str.lower, fields)) - {"baggage"}) | frozenset(key)
    return found


def _whole_url(origin: str, target: str) -> str:
    """Return the URL of a *target* that is no path: a URL, without its user info, a query, or ``*`` of OPTIONS."""
    path, mark, query = target.partition("?")
    scheme, slashes, rest = path.partition("://")
    if slashes:
        authority, slash, path = rest.partition("/")
        path = f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}"
    else:
        path = f"{origin}/{path}" if path else origin
    return f"{path}{mark}{query}"
