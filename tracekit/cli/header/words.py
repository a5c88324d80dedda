"""The fields of a trace header in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.context import ids_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._core.context import SpanContext

TITLES = {
    "tracecontext": "W3C Trace Context",
    "baggage": "W3C Baggage",
    "b3": "B3, Zipkin's, in one header",
    "b3multi": "B3, Zipkin's, in several headers",
    "jaeger": "Jaeger",
    "xray": "AWS X-Ray",
    "ottrace": "OpenTracing's ot-tracer",
    "datadog": "Datadog",
    "cloudtrace": "Google Cloud Trace",
    "grpc": "OpenCensus in gRPC metadata",
    "seed": "the Go Tracing Roadmap's",
    "environ": "W3C in the environment",
    "server-timing": "the trace of a response",
}


class Word(NamedTuple):
    """One value of a header, and its meaning."""

    what: str
    value: str
    meaning: str = ""


_DECISIONS = {
    "-1": "rejected by a user's rule",
    "0": "rejected by the sampler",
    "1": "kept by the sampler",
    "2": "kept by a user's rule",
}


def words(name: str, fields: dict[str, str | list[str]], context: SpanContext) -> Iterator[Word]:
    """Yield the values of *context*, which the format *name* has read from *fields*, and their meanings."""
    trace_id, span_id = ids_of(context)
    version = str(fields.get("traceparent", "")).strip(" \t")[:2]
    if version:
        yield Word("version", version, "" if version == "00" else "a later one, read as far as 00 goes")
    if trace_id:
        low = f"its low half is {trace_id & (2**64 - 1)} in decimal, as Datadog has it" if name == "datadog" else ""
        yield Word("trace id", context.trace_id, low)
        decimal = f"{span_id} in decimal, as the header has it" if name in ("datadog", "cloudtrace") else ""
        yield Word("span id", context.span_id if span_id else "none", decimal if span_id else "")
    parent = _parent_id(name, fields)
    if parent:
        yield Word("parent id", parent, "the caller's own parent; not passed on")
    if trace_id or not context.deferred:
        if context.deferred:
            yield Word("decision", "left open", "the receiver decides")
        else:
            yield Word("decision", "sampled" if context.sampled else "not sampled")
    if name in ("tracecontext", "server-timing") and context.flags & 2:
        yield Word("random", "yes", "the right-most 7 bytes of the trace id are random")
    for key, value in context.state.items():
        yield Word(f"tracestate {key}", value, _state_meaning(key, value))
    for key, value, properties in context.labels.members:
        more = "; ".join([word if setting is None else f"{word}={setting}" for word, setting in properties])
        yield Word(f"label {key}", value, f"with {more}" if more else "")
    for kept in context.extra.values():
        yield from _extra_words(name, kept)


def _parent_id(name: str, fields: dict[str, str | list[str]]) -> str:
    field, separator, place = {
        "b3": ("b3", "-", 3),
        "b3multi": ("x-b3-parentspanid", None, 0),
        "jaeger": ("uber-trace-id", ":", 2),
    }.get(name, ("", None, 0))
    text = fields.get(field)
    parts = text.replace("%3A", ":").replace("%3a", ":").split(separator) if isinstance(text, str) else []
    return parts[place] if len(parts) > place and parts[place].strip("0") else ""


def _state_meaning(key: str, value: str) -> str:
    if key == "ot":
        words = dict(part.partition(":")[::2] for part in value.split(";"))
        threshold = words.get("th", "")
        if 0 < len(threshold) <= 14 and set(threshold) <= set("0123456789abcdef"):
            share = 100 * (1 - int(threshold.ljust(14, "0"), 16) / 2**56)
            return f"OpenTelemetry: {share:.4g} % of the traces are kept"
        return "OpenTelemetry"
    return {"dd": "Datadog", "rojo": "the specification's example", "congo": "the specification's example"}.get(key, "")


def _extra_words(name: str, kept: Any) -> Iterator[Word]:
    """Yield the values of the format *name* beyond ids and decision."""
    if name in ("b3", "b3multi") and kept == "d":
        yield Word("debug", "yes", "every service is to record this trace")
    elif name == "jaeger":
        for key, value in pairs(kept):
            if key == "flags":
                bits = int(value, 16)
                yield from [Word(bit, "yes", why) for mask, bit, why in _JAEGER_FLAGS if bits & mask]
                if bits & ~0x0B:
                    yield Word("flags", f"{bits & ~0x0B:#04x}", "unknown; passed on")
            else:
                yield Word(key, value, "a new trace, found again by this word" if key == "debug-id" else "")
    elif name == "datadog":
        for key, value in pairs(kept):
            if key == "priority":
                yield Word("priority", value, _DECISIONS.get(value, ""))
            elif key == "origin":
                yield Word("origin", value, "where the trace began")
            elif key == "tags":
                for tag in value.split(","):
                    tag_key, _, word = tag.partition("=")
                    yield Word(f"tag {tag_key}", word, _TAGS.get(tag_key, "passed on"))
    elif name == "xray":
        for key, value in pairs(kept):
            yield Word(key, value, "the callee shall decide" if (key, value) == ("Sampled", "?") else "passed on")
    elif isinstance(kept, bytes):
        yield Word("tail", kept[:64].hex(), f"{len(kept)} bytes of unknown fields; passed on")
    elif isinstance(kept, str):
        yield Word("options", kept, "bits above the first are unknown; passed on")


_JAEGER_FLAGS = ((2, "debug", "every service is to record this trace"), (8, "firehose", "not to be indexed"))
_TAGS = {"_dd.p.tid": "the high 64 bits of the trace id", "_dd.p.dm": "who decided to keep the trace"}


def pairs(kept: Any) -> list[tuple[str, str]]:
    """Return the pairs that a format has *kept*, if it keeps pairs."""
    return [(pair[0], pair[1]) for pair in kept] if isinstance(kept, tuple) else []
