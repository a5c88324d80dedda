"""Spans of a store as OTLP's JSON: one ``ExportTraceServiceRequest``, which collectors and viewers read from a file."""

from __future__ import annotations

import json
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ... import Link, SpanContext, Status, TraceState
from ..._core.records import Instrumentation
from .._otlp.json import encode_spans_as_json
from .._sqlite.cells import int_of
from .values import mapping_of, values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from ... import Span
    from .._sqlite.reader import StoredSpan

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


def _restored(spans: list[StoredSpan]) -> Iterator[SimpleNamespace]:
    """Yield the fields of a ``Span`` that the encoder reads."""
    resource_of = _shared(values_of)
    library_of = _shared(_library)
    for span in spans:
        context = _context(span.trace_id, span.span_id, span.flags, span.state)
        if context is None:
            continue
        library = library_of(span.instrumentation)
        changed = {
            "context": context,
            "parent": _context(span.trace_id, span.parent_id, is_remote=span.parent_is_remote),
            "status": Status(cast("Any", span.status), span.description),
            "attributes": values_of(span.attributes),
            "events": [_event(event) for event in span.events if isinstance(event, dict)],
            "links": [link for link in map(_link, span.links) if link is not None],
            "resource": resource_of(span.resource),
            "instrumentation": library if library.name else None,
        }
        yield SimpleNamespace(**span._asdict() | changed)


def _shared(make: Callable[[dict[str, Any]], _T]) -> Callable[[dict[str, Any]], _T]:
    """Return *make* with one object for equal mappings of spans that are in memory: the encoder groups by identity."""
    by_identity: dict[int, _T] = {}
    by_text: dict[str, _T] = {}

    def shared(mapping: dict[str, Any]) -> _T:
        found = by_identity.get(id(mapping))
        if found is None:
            text = json.dumps(mapping, sort_keys=True)
            if text not in by_text:
                by_text[text] = make(mapping)
            found = by_identity[id(mapping)] = by_text[text]
        return found

    return shared


def _context(
    trace_id: Any, span_id: Any, flags: int = 0, state: str = "", *, is_remote: bool = False
) -> SpanContext | None:
    try:
        ids = bytes.fromhex(trace_id), bytes.fromhex(span_id)
        return SpanContext(*ids, flags & 0xFF, state=_state(state), is_remote=is_remote)
    except (TypeError, ValueError):
        return None


def _state(text: str) -> TraceState:
    """Return the tracestate in *text*; an empty one where it is invalid, which costs the span nothing else."""
    try:
        return TraceState.parse(text)
    except ValueError:
        return TraceState()


def _library(library: dict[str, Any]) -> Instrumentation:
    name, version, url = (str(library.get(key, "")) for key in ("name", "version", "schema_url"))
    return Instrumentation(name, version, url, values_of(mapping_of(library.get("attributes"))))


def _event(event: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    attributes = values_of(mapping_of(event.get("attributes")))
    return str(event.get("name", "")), int_of(event.get("time_ns")), attributes


def _link(link: Any) -> Link | None:
    fields = mapping_of(link)
    context = _context(fields.get("trace_id"), fields.get("span_id"))
    return None if context is None else Link(context, values_of(mapping_of(fields.get("attributes"))))
