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

from .._core.codecs import MAX_STATE_CHARS, join_baggage
from .._core.context import SpanContext
from .._core.errors import bad_traceparent
from .._core.labels import Labels, make_labels, parse_labels
from ..cython import compiled

if not compiled:
    from .._core.codecs import (
        Sieve,
        check_baggage,
        count_tracestate,
        join_traceparent,
        put,
        split_traceparent,
        strip_space,
    )
    from .._core.context import from_words
    from .._core.interpreter import DEFERRED, RANDOM, SAMPLED

__all__ = [
    "BAGGAGE",
    "TRACECONTEXT",
    "format_traceparent",
    "parse_traceparent",
    "read_tracecontext",
    "read_w3c",
    "write_tracecontext",
    "write_w3c",
]

_TRACECONTEXT: Final = Sieve(("traceparent", "tracestate"))
_BAGGAGE: Final = Sieve(("baggage",))
_W3C: Final = Sieve(("traceparent", "tracestate", "baggage"))


def parse_traceparent(text: str) -> SpanContext | None:
    """Return the remote context in a ``traceparent`` value, or None if it is malformed.

    Of versions above 00 the fields of 00 are read. White space around the value is ignored.
    """
    high, low, span, flags = split_traceparent(text)
    return None if flags < 0 else from_words(high, low, span, flags, None, None, True, None)


def format_traceparent(context: SpanContext) -> str:
    """Return the ``traceparent`` value of *context*, version 00, with flags unknown to the standard cleared."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return _traceparent(context)


def _traceparent(context: SpanContext) -> str:
    return join_traceparent(context._high, context._low, context._span, context._bits & (SAMPLED | RANDOM))


def read_tracecontext(carrier: Any) -> SpanContext | None:
    """Return the context in ``traceparent`` and ``tracestate``, or None without a ``traceparent``.

    Raises ``FormatError`` if ``traceparent`` is malformed or has several values; a malformed ``tracestate`` is dropped.
    """
    found = _TRACECONTEXT.collect(carrier)
    if found[0] is None:
        return None
    context = _join(found[0], found[1])
    if context is None:
        raise bad_traceparent(found[0])
    return context


def _join(parent: Any, state: Any) -> SpanContext | None:
    """Return the context for the values that ``collect()`` found, or None for a malformed ``traceparent``."""
    if not isinstance(parent, str):
        return None
    context = parse_traceparent(parent)
    if context is None or state is None:
        return context
    if type(state) is list:
        # Joins only text within the limit.
        if sum([len(text) for text in state]) > MAX_STATE_CHARS:
            return context
        state = ",".join(state)
    if count_tracestate(state) > 0:
        context._state = strip_space(state)
    return context


def read_w3c(carrier: Any) -> SpanContext | None:
    """Return the context in ``traceparent``, ``tracestate`` and ``baggage``; malformed fields count as absent."""
    found = _W3C.collect(carrier)
    context = _join(found[0], found[1])
    baggage: Any = found[2]
    if baggage is None:
        return context
    if type(baggage) is list:
        baggage = join_baggage(baggage)
    if check_baggage(baggage) > 0:
        labels = make_labels(strip_space(baggage))
    else:
        labels = parse_labels(baggage)
        if not labels:
            return context
    if context is None:
        return from_words(0, 0, 0, DEFERRED, None, labels, False, None)
    context._labels = labels
    return context


def write_tracecontext(context: SpanContext, carrier: Any) -> None:
    """Set ``traceparent`` and ``tracestate`` if *context* is valid."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    _write(context, carrier)


def _write(context: SpanContext, carrier: Any) -> None:
    if not context._is_valid():
        return
    text = _traceparent(context)
    fields = carrier if type(carrier) is dict else None
    if fields is not None and len(fields) == 0:  # the common case: no stale fields to remove
        fields["traceparent"] = text
        if context._state is not None:
            fields["tracestate"] = context._state
    else:
        put(carrier, "traceparent", text)
        put(carrier, "tracestate", context._state)


def write_w3c(context: SpanContext, carrier: Any) -> None:
    """Set ``traceparent`` and ``tracestate`` if *context* is valid, and ``baggage`` if it has labels."""
    if not isinstance(context, SpanContext):
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    _write_both(context, carrier)


def _write_both(context: SpanContext, carrier: Any) -> None:
    """Like ``write_w3c()``, but without its type check."""
    _write(context, carrier)
    if context._labels is not None:  # otherwise a baggage header that the program has set stays
        text = str(context._labels)
        if text:  # empty where no label fitted
            put(carrier, "baggage", text)


class _TraceContext:
    name: str = "tracecontext"
    fields: tuple[str, ...] = ("traceparent", "tracestate")

    # The functions of the implementation in use, without a wrapper: every request calls both.
    read = staticmethod(read_tracecontext)
    write = staticmethod(write_tracecontext)

    def __reduce__(self) -> str:
        return "TRACECONTEXT"


class _Baggage:
    name: str = "baggage"
    fields: tuple[str, ...] = ("baggage",)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return a context of labels only, or None; malformed members are dropped and counted in ``labels.dropped``."""
        (text,) = _BAGGAGE.collect(carrier)
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
