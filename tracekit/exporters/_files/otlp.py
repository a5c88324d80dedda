"""Spans of a store as OTLP's JSON: one ``ExportTraceServiceRequest``, which collectors and viewers read from a file."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from ... import Link, SpanContext, Status, TraceState
from ..._core.records import Instrumentation
from .._otlp.json import encode_spans_as_json
from .values import octets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from ... import Span
    from .._sqlite.reader import StoredSpan

__all__ = ["write_otlp"]

_T = TypeVar("_T")


_PORTION = 1000  # spans: so many are in memory, with their messages
_EMPTY = encode_spans_as_json([]).decode("ascii")
_BEGIN, _END = _EMPTY[:-2], _EMPTY[-2:]  # {"resourceSpans":[ and ]}


def write_otlp(spans: Iterable[StoredSpan], file: TextIO) -> None:
    """Write *spans* to *file*. Spans whose ids another program has written, and are not hexadecimal, are left out.

    The resource is repeated for each 1,000 spans.
    """
    file.write(_BEGIN)
    separator = ""
    rest = iter(spans)
    while portion := list(islice(rest, _PORTION)):
        found = encode_spans_as_json(cast("Iterable[Span]", _restored(portion))).decode("ascii")
        if found != _EMPTY:
            file.write(separator + found[len(_BEGIN) : -len(_END)])
            separator = ","
    file.write(_END)


def _restored(spans: list[StoredSpan]) -> Iterator[_Restored]:
    resources = _Shared(_values)
    libraries = _Shared(_library)
    for span in spans:
        context = _context(span.trace_id, span.span_id, span.flags, span.state)
        if context is None:
            continue
        parent = (
            None if span.parent_id is None else _context(span.trace_id, span.parent_id, is_remote=span.parent_is_remote)
        )
        library = libraries.of(span.instrumentation)
        yield _Restored(
            context,
            parent,
            span.name,
            span.kind,
            span.start_ns,
            span.end_ns,
            Status(cast("Any", span.status), span.description),
            _values(span.attributes),
            [_event(event) for event in span.events if isinstance(event, dict)],
            [link for link in map(_link, span.links) if link is not None],
            resources.of(span.resource),
            library if library.name else None,
            span.dropped_attributes,
            span.dropped_events,
            span.dropped_links,
        )


class _Shared(Generic[_T]):
    """One object for each of equal mappings: the encoder groups by identity."""

    def __init__(self, make: Callable[[dict[str, Any]], _T]) -> None:
        self._make = make
        self._by_identity: dict[int, _T] = {}  # of the mappings of spans that are in memory
        self._by_text: dict[str, _T] = {}

    def of(self, mapping: dict[str, Any]) -> _T:
        """Return the object for *mapping*."""
        found = self._by_identity.get(id(mapping))
        if found is None:
            text = json.dumps(mapping, sort_keys=True)
            if text not in self._by_text:
                self._by_text[text] = self._make(mapping)
            found = self._by_identity[id(mapping)] = self._by_text[text]
        return found


class _Restored(NamedTuple):
    """The fields of a ``Span`` that the encoder reads."""

    context: SpanContext
    parent: SpanContext | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: Status
    attributes: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]
    links: list[Link]
    resource: dict[str, Any]
    instrumentation: Instrumentation | None
    dropped_attributes: int
    dropped_events: int
    dropped_links: int


def _context(
    trace_id: Any, span_id: Any, flags: int = 0, state: str = "", *, is_remote: bool = False
) -> SpanContext | None:
    try:
        ids = bytes.fromhex(trace_id), bytes.fromhex(span_id)
        return SpanContext(*ids, flags & 0xFF, state=TraceState.parse(state), is_remote=is_remote)
    except (TypeError, ValueError):
        return None


def _library(library: dict[str, Any]) -> Instrumentation:
    name, version, url = (str(library.get(key, "")) for key in ("name", "version", "schema_url"))
    attributes = library.get("attributes")
    return Instrumentation(name, version, url, _values(attributes if isinstance(attributes, dict) else {}))


def _event(event: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    time_ns, attributes = event.get("time_ns"), event.get("attributes")
    return (
        str(event.get("name", "")),
        time_ns if isinstance(time_ns, int) else 0,
        _values(attributes if isinstance(attributes, dict) else {}),
    )


def _link(link: Any) -> Link | None:
    context = _context(link.get("trace_id"), link.get("span_id")) if isinstance(link, dict) else None
    attributes = link.get("attributes") if isinstance(link, dict) else None
    return None if context is None else Link(context, _values(attributes if isinstance(attributes, dict) else {}))


def _values(attributes: dict[str, Any]) -> dict[str, Any]:
    return {key: _value(value) for key, value in attributes.items()}


def _value(value: Any) -> Any:
    """Return *value* as it was before the store made JSON of it, as far as JSON shows it."""
    if isinstance(value, list):
        return tuple([_value(item) for item in value])
    if isinstance(value, dict):
        octets = octets_of(value)
        return _values(value) if octets is None else octets
    return value
