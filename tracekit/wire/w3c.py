"""W3C Trace Context and Baggage.

    traceparent   = version "-" trace-id "-" parent-id "-" flags   ; 2, 32, 16 and 2 lowercase hex digits
    tracestate    = member *31( OWS "," OWS member )               ; member = key "=" value, or empty
    baggage       = member *63( OWS "," OWS member )               ; member = key OWS "=" OWS value *( ";" property )

A carrier with more than one ``traceparent`` is treated as having none. A malformed ``tracestate`` does not affect the
``traceparent``; without a valid ``traceparent`` the ``tracestate`` is ignored. Several ``tracestate`` or ``baggage``
fields are one list.

Specs: https://www.w3.org/TR/trace-context-2/ and https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

from typing import Any, Final

from .._core.labels import Labels
from .._core.twin import Sieve, SpanContext, join_baggage, put, read_tracecontext, write_tracecontext

__all__ = ["BAGGAGE", "TRACECONTEXT"]


_BAGGAGE_SIEVE = Sieve(("baggage",))


class _TraceContext:
    name: Final = "tracecontext"
    fields: Final = ("traceparent", "tracestate")

    # The functions of the implementation in use, without a wrapper: every request calls both.
    read = staticmethod(read_tracecontext)
    write = staticmethod(write_tracecontext)

    def __reduce__(self) -> str:
        return "TRACECONTEXT"


class _Baggage:
    name: Final = "baggage"
    fields: Final = ("baggage",)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return a context of labels only, or None; malformed members are dropped and counted in ``labels.dropped``."""
        (text,) = _BAGGAGE_SIEVE.collect(carrier)
        if text is None:
            return None
        if isinstance(text, list):
            text = join_baggage(text)
        labels = Labels.parse(text)
        return SpanContext(labels=labels) if labels else None

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Set ``baggage`` if *context* has labels."""
        labels = context.labels
        if labels:  # otherwise a baggage header that the program has set stays
            put(carrier, "baggage", str(labels))

    def __reduce__(self) -> str:
        return "BAGGAGE"


TRACECONTEXT: Final = _TraceContext()
BAGGAGE: Final = _Baggage()
