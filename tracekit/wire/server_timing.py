"""The trace of a response, for whoever sent the request: a metric in ``Server-Timing``.

    Server-Timing = metric *( OWS "," OWS metric )           ; several headers are one list
    metric        = "trace" ";desc=" traceparent             ; the name in any case; desc may be a quoted string

``traceparent;desc="..."``, which Splunk's instrumentation writes, is read too. Other metrics are passed over, and stay
when the trace is added.

Spec: https://w3c.github.io/trace-context/#trace-context-http-response-headers-format
"""

from __future__ import annotations

from typing import Any, Final

from .._accel import SpanContext, collect, format_traceparent, parse_traceparent, put
from .._errors import FormatError

__all__ = ["SERVER_TIMING"]

_FIELD: Final = "server-timing"
_MAX_CHARS = 8192


class _ServerTiming:
    name: Final = "server-timing"
    fields: Final = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context of the first metric named ``trace``; None where there is none."""
        (found,) = collect(carrier, self.fields)
        texts = [found] if isinstance(found, str) else found or []
        if sum(map(len, texts)) > _MAX_CHARS:
            raise FormatError(_FIELD, f"{sum(map(len, texts))} characters, must be {_MAX_CHARS} at most")
        for text in texts:
            # No comma or semicolon can stand in what is looked for, quoted or not.
            for metric in text.split(","):
                name, *parameters = [piece.strip(" \t") for piece in metric.split(";")]
                if name.lower() in ("trace", "traceparent"):
                    return _context(parameters, metric)
        return None

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Add the metric of a valid context behind what the header has already."""
        if not context.is_valid:
            return
        (found,) = collect(carrier, self.fields)
        metrics = [found] if isinstance(found, str) else found or []
        put(carrier, _FIELD, ", ".join([*filter(None, metrics), f"trace;desc={format_traceparent(context)}"]))


def _context(parameters: list[str], metric: str) -> SpanContext:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip(" \t").lower() == "desc":
            context = parse_traceparent(value.strip(" \t").strip('"'))
            if context is not None:
                return context
    raise FormatError(_FIELD, "the trace must have a traceparent as its desc", metric)


SERVER_TIMING: Final = _ServerTiming()
