"""W3C Trace Context and Baggage.

    traceparent   = version "-" trace-id "-" parent-id "-" flags   ; 2, 32, 16 and 2 lowercase hex digits
    tracestate    = member *31( OWS "," OWS member )               ; member = key "=" value, or empty
    baggage       = member *63( OWS "," OWS member )               ; member = key OWS "=" OWS value *( OWS ";" OWS property )

Two ``traceparent`` values are none. A bad ``tracestate`` never costs the ``traceparent``; without a
good ``traceparent`` there is no ``tracestate``. Several ``tracestate`` or ``baggage`` fields are one list.

Specs: https://www.w3.org/TR/trace-context-2/ and https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

from typing import Any, Final

from .._core.labels import Labels
from .._core.twin import SpanContext, collect, join_baggage, put, read_tracecontext, write_tracecontext

__all__ = ["BAGGAGE", "TRACECONTEXT"]


class _TraceContext:
    name: Final = "tracecontext"
    fields: Final = ("traceparent", "tracestate")

    # The compiled functions themselves: every request pays for these two.
    read = staticmethod(read_tracecontext)
    write = staticmethod(write_tracecontext)

    def __reduce__(self) -> str:
        return "TRACECONTEXT"


class _Baggage:
    name: Final = "baggage"
    fields: Final = ("baggage",)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return a context of labels only; members that break the grammar are left out and counted in ``labels.dropped``."""
        (text,) = collect(carrier, self.fields)
        if text is None:
            return None
        if isinstance(text, list):
            text = join_baggage(text)
        labels = Labels.parse(text)
        return SpanContext(labels=labels) if labels else None

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set ``baggage`` where there are labels."""
        labels = context.labels
        if labels:  # else a baggage header that the program set by itself stays
            put(carrier, "baggage", str(labels))

    def __reduce__(self) -> str:
        return "BAGGAGE"


TRACECONTEXT: Final = _TraceContext()
BAGGAGE: Final = _Baggage()
