"""Which hosts get labels. Ids and tracestate are sent to every host.

Labels may identify users and tenants, and callers can add their own. They are sent to

- loopback, private and shared addresses: RFC 1918, RFC 4193 and RFC 6598;
- names without a dot, and names that end in ``.internal``, ``.local``, ``.localhost`` or ``.svc``;
- hosts named by ``propagate_to=`` or, without that argument, by ``TRACEKIT_PROPAGATE_TO``, separated by commas.

Every client integration asks ``Peers`` for each request that it sends, so each hop of a redirect is checked.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from .. import Labels
from .._core.errors import clip
from .._export.notices import Notices

if TYPE_CHECKING:
    import ipaddress

    from .. import SpanContext

PROPAGATE_TO: Final = "TRACEKIT_PROPAGATE_TO"

_OWN_ENDINGS: Final = (".internal", ".local", ".localhost", ".svc")
_OWN_NETWORKS: Final = (
    *("127.0.0.0/8", "::1", "0.0.0.0", "::"),  # as a destination, the last two are this host
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
)
# Compiled, and ipaddress imported, at their first use: many programs have no labels.
_NAME: Final = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
# Other spellings of IPv4 addresses, which getaddrinfo() accepts: "2130706433", "0x7f000001", "127.1".
_NUMERIC: Final = r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)"
_MAX_KNOWN: Final = 1024
_NO_LABELS: Final = Labels()

_notices = Notices()


class Peers:
    """The hosts that get labels.

    *propagate_to* adds hosts to the default ones: a name or address, ``.example.com`` or ``*.example.com`` for all
    names below ``example.com``, or ``*`` for every host, in ASCII, without scheme, port and path. A function of the
    host's name or address, in lower case, replaces the default. Raises ``TypeError`` or ``ValueError`` for anything
    else. An invalid name in the environment is ignored, with one warning.
    """

    def __init__(self, propagate_to: Iterable[str] | Callable[[str], bool] | None = None) -> None:
        self._decide = propagate_to if callable(propagate_to) else None
        self._names: set[str] = set()
        self._endings: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}
        if self._decide is not None:
            return
        if propagate_to is None:
            self._add_from_environment(os.environ.get(PROPAGATE_TO, ""))
            return
        if isinstance(propagate_to, str | bytes) or not isinstance(propagate_to, Iterable):
            raise TypeError(
                f"propagate_to must be an iterable of host names or a function, not {type(propagate_to).__name__}"
            )
        for pattern in list(propagate_to):  # a method of a str of the program may change a dict or a set
            if not isinstance(pattern, str):
                raise TypeError(f"propagate_to must hold str, not {type(pattern).__name__}")
            self._add(pattern)

    def context_for(self, host: str, context: SpanContext) -> SpanContext:
        """Return *context*, without its labels if *host* must not get them."""
        if not context.labels or self.gets_labels(host):
            return context
        _notices.say(
            "warning",
            host,
            "labels are not sent to %s, which is not one of your own hosts; to send them, add it to propagate_to= or "
            "to %s (logged once per host)",
            host if re.fullmatch(_NAME, host) else clip(host),
            PROPAGATE_TO,
        )
        return context.replace(labels=_NO_LABELS)

    def gets_labels(self, host: str) -> bool:
        """Return whether *host*, a name or an address in any case, gets labels; False if the function raises."""
        known = self._known.get(host)
        if known is None:
            name = _normal(host)
            if self._decide is not None:
                return self._ask(self._decide, name)
            bare = name.removesuffix(".")
            known = bare in self._names or bare.endswith(self._endings) or _is_own(name)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if len(host) <= 255:
                self._known[host] = known
        return known

    def _ask(self, decide: Callable[[str], bool], name: str) -> bool:
        try:
            return bool(decide(name))
        except Exception as error:  # the request is sent all the same
            message = "propagate_to raised %s: labels are not sent (logged once per class of error)"
            _notices.say("warning", type(error), message, type(error).__name__)
            return False

    def _add(self, pattern: str) -> None:
        host = pattern.strip().lower()
        if host == "*":
            self._endings += ("",)
            return
        is_ending = host.startswith((".", "*."))
        name = _normal(host.removeprefix("*")[1:] if is_ending else host).removesuffix(".")
        if not _is_name(name) and (is_ending or _address(name) is None):
            raise ValueError(
                f"propagate_to must hold host names in ASCII, without scheme, port or path: {pattern[:64]!a}"
            )
        if is_ending:
            self._endings += (f".{name}",)
        else:
            self._names.add(name)

    def _add_from_environment(self, text: str) -> None:
        for pattern in filter(None, map(str.strip, text[:65536].split(","))):
            try:
                self._add(pattern)
            except ValueError:
                message = "%s: invalid host name %s is ignored"
                _notices.say("warning", (PROPAGATE_TO, pattern), message, PROPAGATE_TO, clip(pattern))


def _is_own(name: str) -> bool:
    address = _address(name)
    if address is not None:
        return any(address in network for network in _own_networks())
    bare = name.removesuffix(".")
    # With a trailing dot, "ai." is a top-level domain.
    return _is_name(bare) and ("." not in name or bare == "localhost" or bare.endswith(_OWN_ENDINGS))


@functools.cache
def _own_networks() -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    import ipaddress

    return [ipaddress.ip_network(network) for network in _OWN_NETWORKS]


def _normal(host: str) -> str:
    name = host.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    address = _address(name)
    return name if address is None else str(address)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    import ipaddress

    try:
        address = ipaddress.ip_address(name.partition("%")[0])  # without a zone id
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_name(name: str) -> bool:
    return re.fullmatch(_NAME, name) is not None and re.fullmatch(_NUMERIC, name) is None
