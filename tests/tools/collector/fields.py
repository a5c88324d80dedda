"""A trace that uses every field of a span, and the comparison with the Collector's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tracekit
from tracekit import Link, SpanContext, TraceState
from tracekit.exporters.otlp import OTLPExporter

from .server import ARRIVE_S, Failed, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

    from .server import Server

NOW = 1_700_000_000_000_000_000
REMOTE = SpanContext("a" * 32, "b" * 16, 3, state=TraceState({"x": "1", "y": "2"}), is_remote=True)
LOCAL = SpanContext("c" * 32, "d" * 16, 0)
VALUES: dict[str, Any] = {
    "text": "two  words, a+b, 100%25, \"so\" \\ 'too'",
    "grüße": "日本 🎉",
    "empty": "",
    "yes": True,
    "no": False,
    "least": -(2**63),
    "most": 2**63 - 1,
    "share": 0.1,
    "tiny": 5e-324,
    "octets": b"\x00\xff",
    "texts": ["a", "b"],
    "numbers": [1, 2],
}


def check(server: Server, protocol: str, compression: str, certificate: Path | None) -> int:
    """Send the trace, and return the number of fields that the Collector's file has as they were sent."""
    exporter = OTLPExporter(
        server.url(protocol), protocol=protocol, compression=compression, certificate=certificate, environ={}
    )
    resource = {"service.version": "1.2", "deployment": "tést"}
    tracekit.configure(service="shop", resource=resource, exporter=exporter, environ={})
    before = tracekit.statistics()
    wanted = send()
    if not tracekit.flush(30):
        raise Failed("the spans were not sent")
    after = tracekit.statistics()
    if after.exported - before.exported != len(wanted) or after.failed != before.failed:
        raise Failed(f"{len(wanted)} spans ended: {before} became {after}")
    wait_until(lambda: wanted.keys() <= set(server.span_ids), ARRIVE_S, "the spans did not arrive")
    found = {}
    for group in server.resources:
        for scope in group.scope_spans:
            for span in scope.spans:
                if span.span_id.hex() in wanted:
                    if span.span_id.hex() in found:
                        raise Failed(f"{span.name} arrived twice")
                    found[span.span_id.hex()] = fields(span)
                    check_resource(group, {"service.name": "shop", **resource})
    compare(found, wanted)
    return sum(map(len, wanted.values()))


def compare(found: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> None:
    """Raise ``Failed`` for the first field that differs."""
    for span_id, expected in wanted.items():
        got = found[span_id]
        for name in expected.keys() | got.keys():
            if got.get(name) != expected.get(name):
                span = expected["name"]
                raise Failed(f"{name} of {span!r}: {got.get(name)!r} arrived, {expected.get(name)!r} was sent")


def check_resource(group: ResourceSpans, sent: dict[str, str]) -> None:
    arrived = mapping(group.resource.attributes)
    if not sent.items() <= arrived.items():
        raise Failed(f"the resource {arrived} arrived, {sent} was sent")
    if (name := group.scope_spans[0].scope.name) != "tracekit":
        raise Failed(f"the instrumentation scope is named {name!r}")


def send() -> dict[str, dict[str, Any]]:
    """End three spans, and return the expected fields of each by span id, written out by hand."""
    with tracekit.use_context(REMOTE):
        root = tracekit.span(
            "checkout", kind="server", attributes=VALUES, links=[Link(LOCAL, {"why": "x"}), REMOTE], start_ns=NOW
        )
    with root:
        child = tracekit.span("reserve", kind="client", start_ns=NOW + 1)
        child.add_event("reserved", {"item": "lantern"}, time_ns=NOW + 2)
        child.add_event("bare", time_ns=NOW + 3)
        child.set_status("error", "sold out: grüße")
        child.end(NOW + 4)
        other = tracekit.span("", kind="producer", start_ns=NOW + 5)
        other.set_status("ok")
        other.end(NOW + 5)
        root.end(NOW + 2_000_000_007)  # the end of the block counts no more
    common = {
        "trace_id": "a" * 32,
        "trace_state": "x=1,y=2",
        "attributes": {},
        "events": [],
        "links": [],
        "status": (0, ""),
        "dropped": (0, 0, 0),
        "flags": 0x103,
    }
    return {
        root.context.span_id: {
            **common,
            "name": "checkout",
            "kind": 2,
            "parent": "b" * 16,
            "times": (NOW, NOW + 2_000_000_007),
            "attributes": {key: tuple(value) if isinstance(value, list) else value for key, value in VALUES.items()},
            "links": [
                ("c" * 32, "d" * 16, "", 0x100, {"why": "x"}),
                ("a" * 32, "b" * 16, "x=1,y=2", 0x303, {}),
            ],
            "flags": 0x303,
        },
        child.context.span_id: {
            **common,
            "name": "reserve",
            "kind": 3,
            "parent": root.context.span_id,
            "times": (NOW + 1, NOW + 4),
            "events": [("reserved", NOW + 2, {"item": "lantern"}), ("bare", NOW + 3, {})],
            "status": (2, "sold out: grüße"),
        },
        other.context.span_id: {
            **common,
            "name": "",
            "kind": 4,
            "parent": root.context.span_id,
            "times": (NOW + 5, NOW + 5),
            "status": (1, ""),
        },
    }


def fields(span: Any) -> dict[str, Any]:
    """The fields of an OTLP span in the form of ``send()``."""
    return {
        "name": span.name,
        "kind": span.kind,
        "trace_id": span.trace_id.hex(),
        "parent": span.parent_span_id.hex(),
        "trace_state": span.trace_state,
        "flags": span.flags,
        "times": (span.start_time_unix_nano, span.end_time_unix_nano),
        "attributes": mapping(span.attributes),
        "events": [(event.name, event.time_unix_nano, mapping(event.attributes)) for event in span.events],
        "links": [
            (link.trace_id.hex(), link.span_id.hex(), link.trace_state, link.flags, mapping(link.attributes))
            for link in span.links
        ],
        "status": (span.status.code, span.status.message),
        "dropped": (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
    }


def mapping(attributes: Any) -> dict[str, Any]:
    return {attribute.key: plain(attribute.value) for attribute in attributes}


def plain(value: Any) -> Any:
    """The Python value of an ``AnyValue``."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(plain(item) for item in value.array_value.values)
    return None if kind is None else getattr(value, kind)
