"""The immutable records of a span, and the limits on it."""

from __future__ import annotations

from .stdlib import Mapping, MappingProxyType, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KINDS = ("internal", "server", "client", "producer", "consumer")
STATUS_CODES = ("unset", "ok", "error", "cancelled")

NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


class Event(NamedTuple):
    """An event during a span; ``time_ns`` is Unix time."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any] = NO_ATTRIBUTES


Event.__annotations__["attributes"] = Mapping[str, object]  # for typing.get_type_hints(): Any is not imported


class Status(NamedTuple):
    """The status of a span: ``code`` is one of "unset", "ok", "error", "cancelled"."""

    code: str
    description: str = ""


class Instrumentation(NamedTuple):
    """The library that made a span, which OpenTelemetry calls the instrumentation scope."""

    name: str
    version: str = ""
    schema_url: str = ""
    attributes: Mapping[str, Any] = NO_ATTRIBUTES


Instrumentation.__annotations__["attributes"] = Mapping[str, object]


class Limits(NamedTuple):
    """Limits on one span. Everything beyond them is dropped or cut, and counted on the span.

    ``value_length`` bounds the characters of a string or bytes value, and the elements of a sequence or mapping;
    ``stack_length`` bounds the characters of the stack trace of an exception.
    """

    attributes: int = 128
    events: int = 128
    links: int = 128
    value_length: int = 4096
    stack_length: int = 16384


DEFAULT_LIMITS = Limits()


class Account(NamedTuple):
    """The undelivered spans among those that an exporter has accepted without raising.

    ``queued`` spans it still holds, ``failed`` spans it has lost, ``unsampled`` spans it has discarded by sampling. The
    last two are counted since the exporter was made.
    """

    queued: int = 0
    failed: int = 0
    unsampled: int = 0


class Statistics(NamedTuple):
    """The number of spans in each state, since this process started or was forked.

    ``started = ended + open`` and ``ended = exported + queued + dropped + failed + unsampled``. Without an exporter,
    spans that OpenTelemetry's span processors get count as exported: only the processors know their fate.
    ``misused`` counts arguments that were left out because they could not be used.
    """

    started: int
    ended: int
    open: int
    exported: int
    queued: int
    dropped: int
    failed: int
    unsampled: int
    misused: int = 0
