"""The trace of a response, reported to its client: a metric in ``Server-Timing``.

    Server-Timing = metric *( OWS "," OWS metric )           ; several headers are one list, at most 8192 characters
    metric        = name *( OWS ";" OWS parameter )
    parameter     = token OWS "=" OWS ( token / quoted-string )

    "trace" ";desc=" traceparent                             ; name and key in any case

Each hop appends its own metric, so the last one is that of the called service. A metric with a malformed ``desc``
counts only if there is no other. ``traceparent;desc="..."``, written by Splunk's instrumentation, is read too. All
other metrics are ignored, and stay when a trace is appended.

Spec: https://w3c.github.io/trace-context/#trace-context-server-timing-metric-format
and https://www.w3.org/TR/server-timing/#the-server-timing-header-field
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .._core.codecs import Sieve, put
from .._core.errors import FormatError
from .w3c import format_traceparent, parse_traceparent

if TYPE_CHECKING:
    from .._core.context import SpanContext

__all__ = ["SERVER_TIMING"]

_FIELD: Final = "server-timing"
_SIEVE = Sieve((_FIELD,))
_MAX_CHARS = 8192
# The text between commas, or semicolons, outside of quoted strings.
_METRIC = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL)


class _ServerTiming:
    name: str = "server-timing"
    fields: tuple[str, ...] = (_FIELD,)

    def read(self, carrier: Any) -> SpanContext | None:
        """Return the context in the last metric named ``trace``, or None."""
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
        """Append the metric to the header if *context* is valid; other metrics stay."""
        if not context.is_valid:
            return
        metric = f"trace;desc={format_traceparent(context)}"
        if isinstance(carrier, list):
            added = carrier[:1]
            put(added, _FIELD, metric)  # as octets if the other pairs are octets
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
        if key.strip(" \t").lower() == "desc":  # the first parameter of a name counts
            value = value.strip(" \t")
            return parse_traceparent(value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value)
    return None


SERVER_TIMING: Final = _ServerTiming()
