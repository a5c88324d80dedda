"""What each wire format costs: valid, absent and bad headers, beside the OpenTelemetry propagator of the same name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit._propagation import use_formats
from tracekit.wire import b3, cloudtrace, datadog, grpc_bin, jaeger, ottrace, seed_header, server_timing, w3c, xray

from . import inputs
from .measure import Subject
from .rows import BARE, FLOOR, OTEL, OURS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["against_traceparent", "nothing_found", "subjects"]

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# By name: the format, and a carrier that is valid; a bad one is the same with a quote at the end of each value, and a
# huge one has 1 MiB of octets, as a server has them, in its first value.
FORMATS: dict[str, tuple[Any, Any]] = {
    "tracecontext": (w3c.TRACECONTEXT, {"traceparent": inputs.TRACEPARENT}),
    "baggage": (w3c.BAGGAGE, {"baggage": inputs.BAGGAGE}),
    "b3": (b3.SINGLE, {"b3": f"{TRACE}-{SPAN}-1"}),
    "b3multi": (b3.MULTI, {"x-b3-traceid": TRACE, "x-b3-spanid": SPAN, "x-b3-sampled": "1"}),
    "jaeger": (jaeger.JAEGER, {"uber-trace-id": f"{TRACE}:{SPAN}:0:1"}),
    "xray": (xray.XRAY, {"X-Amzn-Trace-Id": f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1"}),
    "cloudtrace": (cloudtrace.CLOUDTRACE, {"x-cloud-trace-context": f"{TRACE}/{int(SPAN, 16)};o=1"}),
    "datadog": (
        datadog.DATADOG,
        {
            "x-datadog-trace-id": str(int(TRACE[16:], 16)),
            "x-datadog-parent-id": str(int(SPAN, 16)),
            "x-datadog-sampling-priority": "1",
            "x-datadog-tags": f"_dd.p.dm=-4,_dd.p.tid={TRACE[:16]}",
        },
    ),
    "ottrace": (
        ottrace.OTTRACE,
        {"ot-tracer-traceid": TRACE[16:], "ot-tracer-spanid": SPAN, "ot-tracer-sampled": "true"},
    ),
    "grpc": (
        grpc_bin.BINARY,
        [("grpc-trace-bin", b"\0\0" + bytes.fromhex(TRACE) + b"\1" + bytes.fromhex(SPAN) + b"\2\1")],
    ),
    "seed": (seed_header.SEED, {"trace-id": f"{TRACE}/{SPAN.lstrip('0')};o=1"}),
    "server-timing": (server_timing.SERVER_TIMING, {"server-timing": f"trace;desc={inputs.TRACEPARENT}"}),
}
_PROPAGATORS = {
    "tracecontext": ("opentelemetry.trace.propagation.tracecontext", "TraceContextTextMapPropagator"),
    "baggage": ("opentelemetry.baggage.propagation", "W3CBaggagePropagator"),
    "b3": ("opentelemetry.propagators.b3", "B3SingleFormat"),
    "b3multi": ("opentelemetry.propagators.b3", "B3MultiFormat"),
    "jaeger": ("opentelemetry.propagators.jaeger", "JaegerPropagator"),
    "xray": ("opentelemetry.propagators.aws", "AwsXRayPropagator"),
}
# What most requests are: ten headers, none of them a trace's.
PLAIN = [(name.encode(), value.encode()) for name, value in inputs.REQUEST.items() if "trace" not in name]
PLAIN = [pair for pair in PLAIN if pair[0] != b"baggage"] + [
    (b"content-type", b"application/json"),
    (b"content-length", b"42"),
    (b"x-forwarded-for", b"192.0.2.1"),
]

_READ = """
try:
    read(carrier)
except FormatError:
    pass
"""


def subjects(name: str) -> dict[str, Subject]:
    """Return the subjects of a format: read, bad, huge, absent and write, and OpenTelemetry's read and write."""
    format, valid = FORMATS[name]
    names = {"read": format.read, "FormatError": tracekit.FormatError}
    found = {
        "read": Subject("read(carrier)", {**names, "carrier": valid}),
        "bad": Subject(_READ, {**names, "carrier": _spoilt(valid)}),
        "1 MiB": Subject(_READ, {**names, "carrier": _huge(valid)}),
        "absent": Subject("read(carrier)", {**names, "carrier": PLAIN}),
        "write": Subject(
            "write(item, {})",
            {"write": format.write},
            items=lambda count: [format.read(valid) for _ in range(count)],
        ),
    }
    peer = _propagator(name)
    if peer is not None:
        found[f"read, {OTEL}"] = Subject("read(carrier)", {"read": peer.extract, "carrier": valid})
        found[f"write, {OTEL}"] = Subject(
            "write({}, item)",
            {"write": peer.inject},
            items=lambda count: [peer.extract(valid) for _ in range(count)],
        )
    return found


def _spoilt(carrier: Any) -> Any:
    if isinstance(carrier, list):
        return [(name, value[:-3]) for name, value in carrier]
    return {name: f'{value}"' for name, value in carrier.items()}


def _huge(carrier: Any) -> list[tuple[bytes, bytes]]:
    (first, _), *others = dict(carrier).items()
    rest = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in others]
    return [(first.encode(), b"0" * (1 << 20)), *rest]


def _propagator(name: str) -> Any:
    try:
        module, kind = _PROPAGATORS[name]
        return getattr(importlib.import_module(module), kind)()
    except (KeyError, ModuleNotFoundError):
        return None


def against_traceparent() -> dict[str, Mapping[str, Subject]]:
    """Return the rows that hold one format, or one size, against another."""
    ours, theirs = FORMATS["b3"], FORMATS["tracecontext"]
    written = ours[0].read(ours[1])
    long = {"baggage": "key=" + "x" * 8188}
    huge = {"baggage": "key=" + "x" * ((1 << 20) - 4)}
    return {
        "b3_read": {
            OURS: Subject("read(carrier)", {"read": ours[0].read, "carrier": ours[1]}),
            FLOOR: Subject("read(carrier)", {"read": theirs[0].read, "carrier": theirs[1]}),
        },
        "b3_write": {
            OURS: Subject("write(context, {})", {"write": ours[0].write, "context": written}),
            FLOOR: Subject("write(context, {})", {"write": theirs[0].write, "context": written}),
        },
        "huge": {
            OURS: Subject("extract(carrier)", {"extract": tracekit.extract, "carrier": huge}, chunk=20),
            FLOOR: Subject("extract(carrier)", {"extract": tracekit.extract, "carrier": long}, chunk=20),
        },
    }


def nothing_found() -> dict[str, Subject]:
    """Return the look for every request's format in one that has none, beside a call that does nothing."""

    class AllFormats:
        def __enter__(self) -> None:
            use_formats([format for name, (format, _) in FORMATS.items() if name != "server-timing"])

        def __exit__(self, *_: object) -> None:
            use_formats([w3c.TRACECONTEXT, w3c.BAGGAGE])

    return {
        OURS: Subject("extract(carrier)", {"extract": tracekit.extract, "carrier": PLAIN}, AllFormats),
        BARE: Subject("extract(carrier)", {"extract": lambda _: None, "carrier": PLAIN}),
    }
