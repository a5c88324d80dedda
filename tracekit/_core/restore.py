"""Spans that another process recorded."""

from __future__ import annotations

from ..cython import compiled
from .attributes import MISSING, clean
from .context import Link, SpanContext
from .guard import type_name
from .records import STATUS_CODES, Instrumentation, Status
from .span import Span

if not compiled:
    from .codecs import Entries, Items
    from .context import generation
    from .span import UNSET, add_ended, index_of, known_kind, new_span, tracer_in_use

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, Literal

_MAX_LENGTH: Final = 0x7FFF_FFFF


def restore_span(
    context: SpanContext,
    parent: SpanContext | None,
    name: str,
    kind: Literal["internal", "server", "client", "producer", "consumer"],
    start_ns: int,
    end_ns: int,
    attributes: dict[str, Any] | None,
    events: list[tuple[str, int, dict[str, Any] | None]] | None,
    links: list[Link] | None,
    status: Status,
    dropped: tuple[int, int, int, int],
    instrumentation: Instrumentation | None = None,
) -> Span:
    """Return the span that another process recorded with these values, and hand it to the exporter.

    *dropped* counts attributes, events and links that were left out, and values that were shortened.
    """
    self = new_span()
    code, description = status
    self._status, self._description = max(index_of(STATUS_CODES, code, "status"), UNSET), description
    self.dropped_attributes, self.dropped_events, self.dropped_links, self.truncated_values = dropped
    tracer = tracer_in_use()
    self.parent, self._tracer = parent, tracer if tracer.kept is None else tracer.kept
    self._name, self._kind = name, known_kind(kind)
    if instrumentation is not None:
        self._tracer = self._tracer.replace(instrumentation=instrumentation)
    self._attributes = _kept(attributes)
    if events:
        self._events = Entries()
        for event, time_ns, attributes in events:
            self._events.append(str.__str__(event), time_ns, _kept(attributes))
    if links:
        self._links = Entries()
        for link in links:
            if not isinstance(link[0], SpanContext):
                raise TypeError(f"links must hold a SpanContext, not {type_name(link[0])}")
            self._links.append(link[0], 0, _kept(link[1]))
    self._start, self._stop, self._generation = start_ns, end_ns, generation()
    self._is_recorded = self._has_ended = self._owns_context = True
    self.context = context
    add_ended(self)
    return self


def _kept(attributes: Mapping[str, Any] | None) -> Items | None:
    """Return attributes that another process has limited already as this one keeps them."""
    if not attributes:
        return None
    items = Items()
    for key, value in attributes.items():
        kind = type(value)
        if kind is not str and kind is not int and kind is not bool and kind is not float:
            value, _ = clean(value, _MAX_LENGTH)
            if value is MISSING:
                continue
        items.put(key, value)
    return items
