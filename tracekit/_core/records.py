"""The small immutable records that hang on a span, and the limits that bound it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .twin import SpanContext

__all__ = [
    "DEFAULT_LIMITS",
    "KINDS",
    "NO_ATTRIBUTES",
    "STATUS_CODES",
    "Account",
    "Event",
    "Limits",
    "Link",
    "Statistics",
    "Status",
]

KINDS = ("internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error", "cancelled")

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


class Event(NamedTuple):
    """Something that happened at one moment of a span; ``time_ns`` is Unix time."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any] = NO_ATTRIBUTES


class Link(NamedTuple):
    """A pointer from a span to another one that caused it without being its parent."""

    context: SpanContext
    attributes: Mapping[str, Any] = NO_ATTRIBUTES


class Status(NamedTuple):
    """How a span ended: ``code`` is one of "unset", "ok", "error", "cancelled"."""

    code: str
    description: str = ""


class Limits(NamedTuple):
    """Bounds on what one span holds; what is cut is counted on the span.

    ``value_length`` counts characters of a string or bytes value, and elements of a sequence or mapping.
    """

    attributes: int = 128
    events: int = 128
    links: int = 128
    value_length: int = 4096


DEFAULT_LIMITS = Limits()


class Account(NamedTuple):
    """What became of the spans that an exporter took without raising, as far as they were not delivered, as of now.

    ``queued`` it still holds, ``failed`` it has lost, ``unsampled`` it has discarded by sampling; the last two over its life.
    """

    queued: int = 0
    failed: int = 0
    unsampled: int = 0


class Statistics(NamedTuple):
    """Where every span of this process went since it started (or was forked).

    ``started = ended + open`` and ``ended = exported + queued + dropped + failed + unsampled``.
    """

    started: int
    ended: int
    open: int
    exported: int
    queued: int
    dropped: int
    failed: int
    unsampled: int
