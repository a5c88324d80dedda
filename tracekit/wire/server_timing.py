"""The trace of a response, for whoever sent the request: a metric in ``Server-Timing``.

    Server-Timing = metric *( OWS "," OWS metric )           ; several headers are one list, 8192 characters at most
    metric        = name *( OWS ";" OWS parameter )
    parameter     = token OWS "=" OWS ( token / quoted-string )

    "trace" ";desc=" traceparent                             ; name and key in any case

Each hop adds its own behind what is there, so the last one is that of the service that was asked. One whose ``desc``
is malformed counts only where there is no other. ``traceparent;desc="..."``, which Splunk's instrumentation writes, is
read too. Other metrics are passed over, and stay when the trace is added.

Spec: https://w3c.github.io/trace-context/#trace-context-server-timing-metric-format
and https://www.w3.org/TR/server-timing/#the-server-timing-header-field
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, put
from .._core.errors import FormatError
from ..wire.w3c import format_traceparent, parse_traceparent

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["SERVER_TIMING"]

_FIELD: Final = "server-timing"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 8192
# What stands between commas, or semicolons, that are not inside a quoted string.
_METRIC = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)


class _ServerTiming:
    name: Final = "server-timing"
    fields: Final = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context of the last metric named ``trace``; None where there is none."""
        (found,) = _SIEVE.collect(carrier)
        texts = [found] if isinstance(found, str) else found or []
        size = sum(map(len, texts))
        if size > _MAX_CHARS:
            raise FormatError(_FIELD, f"{size} characters, must be {_MAX_CHARS} at most")
        last: SpanContext | None = None
        bad: str | None = None
        for text in texts:
            for metric in _METRIC.findall(text):
                name, *parameters = [piece.strip(" \t") for piece in _PARAMETER.findall(metric)] or [""]
                if name.lower() in ("trace", "traceparent"):
                    context = _context(parameters)
                    last, bad = (last, metric) if context is None else (context, bad)
        if last is None and bad is not None:
            raise FormatError(_FIELD, "the trace must have a traceparent as its desc", bad)
        return last

    def write(self, context: SpanContext, carrier: Any) -> None:
        """Add the metric of a valid context behind what the header has already, which stays."""
        if not context.is_valid:
            return
        metric = f"trace;desc={format_traceparent(context)}"
        if isinstance(carrier, list):
            added = carrier[:1]
            put(added, _FIELD, metric)  # of octets where the others are
            carrier.append(added[-1])
            return
        (found,) = _SIEVE.collect(carrier)
        metrics = [found] if isinstance(found, str) else found or []
        put(carrier, _FIELD, ", ".join([*filter(None, metrics), metric]))

    def __reduce__(self) -> str:
        return "SERVER_TIMING"


def _context(parameters: list[str]) -> SpanContext | None:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip(" \t").lower() == "desc":  # of parameters with one name, the first is the one
            value = value.strip(" \t")
            return parse_traceparent(value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value)
    return None


SERVER_TIMING: Final = _ServerTiming()
