"""Chrome's trace event format, which Perfetto's UI, ``chrome://tracing`` and Speedscope open.

A service is a process of the format, and a *lane* is a thread. Slices of one thread must nest, and concurrent spans do
not, so each lane holds a span with those descendants that nest in it; a span that overlaps another one, or outlives its
parent, starts on a free lane. Arrows (flow events) lead from a parent to a child on another lane, and along links.

A file that was written here can be read again: of its spans, the resource, flags and tracestate are missing.

Format: "Trace Event Format", https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import heapq
import json
import re
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.attributes import CANCELLED_KEY
from .values import KIND_NUMBERS, STATUS_NUMBERS, key_values, mapping_of, request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from .._sqlite.reader import StoredSpan

_PREFIX = "attributes."


if TYPE_CHECKING:
    _Id = tuple[str, str]  # of a trace and of a span in it
    _Arrows = dict[_Id, list[dict[str, Any]]]


class _Place(NamedTuple):
    """The position of a slice; times are nanoseconds since the first span."""

    process: int
    lane: int
    start: int
    end: int


class _Layout(NamedTuple):
    """Of all spans: the start of the first one, the events that name processes and lanes, places, and arrows."""

    base: int
    names: list[str]
    places: dict[_Id, _Place]
    outgoing: _Arrows
    incoming: _Arrows


class _Lanes:
    """The lanes of one service. A lane is a stack of open slices: (end, trace id, span id)."""

    def __init__(self) -> None:
        self._stacks: list[list[tuple[int, str, str]]] = []
        self._busy: list[tuple[int, int]] = []  # heap of end and lane of each outermost slice
        self._free: list[int] = []  # heap

    def put(self, span: StoredSpan, start: int, end: int, preferred: int | None) -> tuple[int, bool]:
        """Return the lane of *span*, and whether it is in its parent's slice there.

        It starts no earlier than those before; *preferred* is its parent's lane.
        """
        while self._busy and self._busy[0][0] <= start:
            _, lane = heapq.heappop(self._busy)
            self._stacks[lane].clear()
            heapq.heappush(self._free, lane)
        slice = (end, span.trace_id, span.span_id)
        if preferred is not None:
            stack = self._stacks[preferred]
            while stack and stack[-1][0] <= start and stack[-1][1:] != (span.trace_id, span.parent_id):
                stack.pop()
            if stack and stack[-1][1:] == (span.trace_id, span.parent_id) and end <= stack[-1][0]:
                stack.append(slice)
                return preferred, True
        if self._free:
            lane = heapq.heappop(self._free)
        else:
            lane = len(self._stacks)
            self._stacks.append([])
        self._stacks[lane].append(slice)
        heapq.heappush(self._busy, (end, lane))
        return lane, False

    def __len__(self) -> int:
        return len(self._stacks)


def write_perfetto(spans: Iterable[StoredSpan], file: TextIO) -> None:
    """Write *spans*, of any number of traces, to *file* as one JSON object. ``ts`` counts from the first span.

    They come in order of their start and are iterated twice. In memory are their ids and places, not the spans.
    """
    layout = _lay_out(spans)
    file.write(f'{{"displayTimeUnit":"ns","otherData":{{"start_unix_ns":"{layout.base}"}},"traceEvents":[')
    separator = "\n"
    for event in chain(layout.names, _events(spans, layout)):
        file.write(separator + event)
        separator = ",\n"
    file.write("\n]}\n")


def _ordered(spans: Iterable[StoredSpan]) -> Iterator[StoredSpan]:
    """Yield *spans*, and of those that start together a parent before its children."""
    for _, together in groupby(spans, key=attrgetter("start_ns")):
        yield from _parents_first(list(together))


def _parents_first(spans: list[StoredSpan]) -> list[StoredSpan]:
    if len(spans) == 1:
        return spans
    parents = {(span.trace_id, span.span_id): (span.trace_id, span.parent_id) for span in spans}
    depths: dict[Any, int] = {}
    for id in parents:
        path: list[Any] = []
        on_path = set()
        step: Any = id
        while step in parents and step not in depths and step not in on_path:  # ids of strangers may form a circle
            path.append(step)
            on_path.add(step)
            step = parents[step]
        depth = depths.get(step, -1)
        for step in reversed(path):
            depth += 1
            depths[step] = depth
    return sorted(spans, key=lambda span: (depths[span.trace_id, span.span_id], -span.end_ns))


def _lay_out(spans: Iterable[StoredSpan]) -> _Layout:
    base: int | None = None
    names: list[str] = []
    processes: dict[str, int] = {}
    lanes: dict[str, _Lanes] = {}
    places: dict[_Id, _Place] = {}
    sources: list[tuple[str, _Id, _Id]] = []
    known_ids: dict[str, str] = {}  # one object for equal trace ids
    for span in _ordered(spans):
        base = span.start_ns if base is None else base
        process = processes.setdefault(span.service, len(processes) + 1)
        if span.service not in lanes:
            lanes[span.service] = _Lanes()
            names.append(_encode({"ph": "M", "name": "process_name", "pid": process, "args": {"name": span.service}}))
        start = span.start_ns - base
        end = max(start, span.end_ns - base)
        trace_id = known_ids.setdefault(span.trace_id, span.trace_id)
        id, parent_id = (trace_id, span.span_id), (trace_id, span.parent_id or "")
        parent = places.get(parent_id)
        preferred = parent.lane if parent is not None and parent.process == process else None
        known = len(lanes[span.service])
        lane, in_parent = lanes[span.service].put(span, start, end, preferred)
        if lane == known:
            named = {"name": f"lane {lane + 1}"}
            names.append(_encode({"ph": "M", "name": "thread_name", "pid": process, "tid": lane + 1, "args": named}))
        places[id] = _Place(process, lane, start, end)
        if span.parent_id and not in_parent:
            sources.append(("child", id, parent_id))
        links = map(mapping_of, span.links)
        sources += [("link", id, (str(link.get("trace_id", "")), str(link.get("span_id", "")))) for link in links]
    return _Layout(base or 0, names, places, *_arrows(sources, places))


def _events(spans: Iterable[StoredSpan], layout: _Layout) -> Iterator[str]:
    base, _, places, outgoing, incoming = layout
    for span in _ordered(spans):
        id = span.trace_id, span.span_id
        place = places[id]
        yield _slice(span, place)
        # Perfetto binds an arrow to the slice that began last on the lane: here, before any other begins.
        for arrow in outgoing.get(id, ()):
            yield _at({"ph": "s", **arrow}, place, place.start)
        for arrow in incoming.get(id, ()):
            yield _at({"ph": "f", "bp": "e", **arrow}, place, place.start)
        yield from _instants(span, place, base)


def _arrows(sources: list[tuple[str, _Id, _Id]], places: dict[_Id, _Place]) -> tuple[_Arrows, _Arrows]:
    """Return the arrows that begin at each span, and those that end there, of *sources*: name, end and begin."""
    outgoing: _Arrows = {}
    incoming: _Arrows = {}
    number = 0
    for name, id, source in sources:
        if source in places:
            number += 1
            arrow = {"cat": name, "name": name, "id": number}
            outgoing.setdefault(source, []).append(arrow)
            incoming.setdefault(id, []).append(arrow)
    return outgoing, incoming


def _slice(span: StoredSpan, place: _Place) -> str:
    details: dict[str, Any] = {"trace_id": span.trace_id, "span_id": span.span_id, "parent_id": span.parent_id}
    if span.status != "unset":
        details["status"] = f"{span.status}: {span.description}" if span.description else span.status
    if span.links:
        details["links"] = span.links
    shown = {
        "ph": "X",
        "name": span.name,
        "cat": span.kind if span.status != "error" else f"{span.kind},error",
        "args": details | _prefixed(span.attributes),
    }
    if span.status == "error":
        shown["cname"] = "terrible"  # Chrome's name for red
    return _at(shown, place, place.start, place.end - place.start)


def _instants(span: StoredSpan, place: _Place, base: int) -> Iterator[str]:
    for event in span.events:
        if isinstance(event, dict) and isinstance(event.get("time_ns"), int):
            # On a lane, an event is drawn at the innermost slice, which may be that of a child.
            details = {"span_id": span.span_id} | _prefixed(event.get("attributes"))
            named = {"ph": "i", "s": "t", "name": str(event.get("name", "")), "args": details}
            yield _at(named, place, event["time_ns"] - base)


def _prefixed(attributes: Any) -> dict[str, Any]:
    return {f"{_PREFIX}{key}": value for key, value in mapping_of(attributes).items()}


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(_PREFIX): value for key, value in details.items() if key.startswith(_PREFIX)}


def _at(event: dict[str, Any], place: _Place, start: int, duration: int | None = None) -> str:
    """Return *event* with its place. Times are decimal fractions of microseconds, which a float would round."""
    where = f'"pid":{place.process},"tid":{place.lane + 1},"ts":{_micros(start)}'
    if duration is not None:
        where += f',"dur":{_micros(duration)}'
    return f"{_encode(event)[:-1]},{where}}}"


def _micros(ns: int) -> str:
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 1000}.{ns % 1000:03d}"


def _encode(event: dict[str, Any]) -> str:
    text = _json(event)
    return text if text.isascii() and _BACKSLASH not in text else _ESCAPED.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    pair, surrogate = found.groups(default="")
    return pair or f"\\u{ord(surrogate or _BACKSLASH):04x}"


_BACKSLASH = "\\"
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Perfetto 52 shows an escape as it is written if the text has no quote, so text is UTF-8; and it takes a closing quote
# after a backslash for an escaped one, and rejects the file, so that backslash is written as its number.
_ESCAPED = re.compile(r'\\\\(?=")|(\\.)|([\ud800-\udfff])')


def read_perfetto(document: dict[str, Any]) -> dict[str, Any]:
    """Return *document*, as ``write_perfetto()`` makes it, as an OTLP request. Raises on another shape."""
    base = int(document["otherData"]["start_unix_ns"])
    services: dict[Any, str] = {}
    found: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []  # of the last span
    for event in document["traceEvents"]:
        if event["ph"] == "M" and event["name"] == "process_name":
            services[event["pid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            events = []
            resource = {"service.name": services[event["pid"]]}
            found.append(request(resource, {}, _otlp(event, base, events)))
        elif event["ph"] == "i":  # follows its span
            at = base + round(event["ts"] * 1000)
            attributes = key_values(_plain(event["args"]))
            events.append({"timeUnixNano": at, "name": event["name"], "attributes": attributes})
    return {"resourceSpans": found}


def _otlp(event: dict[str, Any], base: int, events: list[dict[str, Any]]) -> dict[str, Any]:
    details = event["args"]
    start_ns = base + round(event["ts"] * 1000)  # exact: a float has 53 bits, and nanoseconds of 100 days fewer
    attributes = _plain(details)
    status, _, description = details.get("status", "").partition(": ")
    if status == "cancelled":
        attributes[CANCELLED_KEY] = description
    return {
        "traceId": details["trace_id"],
        "spanId": details["span_id"],
        "parentSpanId": details["parent_id"],
        "name": event["name"],
        "kind": KIND_NUMBERS.get(event["cat"].partition(",")[0], 1),
        "startTimeUnixNano": start_ns,
        "endTimeUnixNano": start_ns + round(event["dur"] * 1000),
        "status": {"code": STATUS_NUMBERS.get(status, 0), "message": "" if status == "cancelled" else description},
        "attributes": key_values(attributes),
        "events": events,
        "links": [
            {
                "traceId": link["trace_id"],
                "spanId": link["span_id"],
                "attributes": key_values(link.get("attributes") or {}),
            }
            for link in details.get("links", [])
        ],
    }
