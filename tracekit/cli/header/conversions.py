"""A context in another format, and the values lost in it: found by reading the written headers back."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._core.context import ids_of
from ..._core.errors import FormatError
from .words import pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._core.context import SpanContext


class Conversion(NamedTuple):
    """A message's context in another format, the values it cannot carry, and those it spells differently."""

    format: str
    headers: dict[str, str]
    lost: list[str]
    notes: list[str]


def convert(context: SpanContext, name: str, format: Any) -> Conversion:
    """Return *context* as the *format* called *name* writes it, with the values that are lost in it."""
    written: dict[str, Any] = {}
    format.write(context, written)
    back = None
    if written:
        try:
            back = format.read(written)
        except FormatError as error:  # tracekit writes none
            return Conversion(name, {}, [f"cannot be written: {error}"], [])
    headers = {
        field: binascii.b2a_base64(value, newline=False).rstrip(b"=").decode() if isinstance(value, bytes) else value
        for field, value in written.items()
    }
    if back is None:
        why = "there are no labels" if name == "baggage" else "it needs a trace id and a span id"
        return Conversion(name, {}, [f"nothing can be written: {why}"], [])
    return Conversion(name, headers, list(_changes(context, back, name)), list(_moves(context, name)))


def _changes(context: SpanContext, back: SpanContext, name: str) -> Iterator[str]:
    """Yield the values that a peer reads differently."""
    trace_id, span_id = ids_of(context)
    back_trace, back_span = ids_of(back)
    if trace_id != back_trace:
        yield "the ids and the decision are lost" if not back_trace else f"the trace id becomes {back.trace_id}"
    elif span_id != back_span:
        yield "the span id is lost"
    if trace_id == back_trace:
        if context.deferred and not back.deferred:
            yield f"nobody has decided: it goes out as {'sampled' if back.sampled else 'not sampled'}"
        elif back.deferred and not context.deferred:
            yield "the decision is lost"
        if context.flags & 2 and not back.flags & 2:
            yield "the random flag is lost"
    if context.state and not back.state:
        yield f"the tracestate is lost: {', '.join(context.state)}"
    there = {(key, value): more for key, value, more in back.labels.members}
    members = context.labels.members
    lost = dict.fromkeys([key for key, value, _ in members if (key, value) not in there])
    if lost:
        where = "; they go to baggage" if name == "tracecontext" else ""
        yield f"labels are lost: {', '.join(lost)}{where}"
    bare = dict.fromkeys([key for key, value, more in members if more and not there.get((key, value), more)])
    if bare:
        yield f"the properties of labels are lost: {', '.join(bare)}"
    for key, kept in context.extra.items():
        said = back.extra.get(key)
        if said != kept:
            words = [what for what, _ in pairs(kept) if what != "error"]
            what = ", ".join(dict.fromkeys(words)) if words else "debug" if kept == "d" else ""
            if what or not isinstance(kept, tuple):
                yield f"what {_said_by(key)} said is lost" + (f": {what}" if what else "")


def _said_by(key: str) -> str:
    return {"grpc_bin": "grpc-trace-bin", "seed": "trace-id"}.get(key, key)


def _moves(context: SpanContext, name: str) -> Iterator[str]:
    """Yield the values that a peer finds in another field, or in another spelling."""
    trace_id, span_id = ids_of(context)
    if not trace_id:
        return
    if name == "datadog":
        if trace_id >> 64:
            yield "x-datadog-trace-id: the high 64 bits go to x-datadog-tags"
        yield "the ids go out in decimal"
    elif name == "cloudtrace" and span_id:
        yield "the span id goes out in decimal"
    elif name in ("b3", "b3multi", "jaeger", "ottrace") and not trace_id >> 64:
        yield "a trace id of 64 bits goes out in 16 digits"
    elif name == "seed" and context.span_id[0] == "0":
        yield "the span id goes out without its leading zeros"
