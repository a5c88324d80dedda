"""OpenTelemetry's metrics of started and live spans, which ``OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED`` asks for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as _trace

from ..._core.log import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from .spans import OtelSpan

VARIABLE = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


class SpanMetrics:
    """A span processor that counts by the SDK's own instruments. ``started()`` is called for spans not sampled, too."""

    def __init__(self, instruments: Any, decisions: Any) -> None:
        self._instruments = instruments
        self._decisions = decisions
        self._live: dict[Any, Callable[[], object]] = {}  # by ids, until the span ends

    def started(self, span: OtelSpan, context: Any) -> None:
        """Count *span*, started in *context* or, where that is None, in the current one."""
        try:
            parent = _trace.get_current_span(context).get_span_context()
            made = span.get_span_context()
            if not span.is_recording():
                decision = self._decisions.DROP
            else:
                is_sampled = made.trace_flags.sampled
                decision = self._decisions.RECORD_AND_SAMPLE if is_sampled else self._decisions.RECORD_ONLY
            ended = self._instruments.start_span(parent if parent.is_valid else None, decision)
            if span.is_recording():
                self._live[made.trace_id, made.span_id] = ended
        except Exception:  # a meter of the program's, or other names in another version of the SDK
            log("debug", "OpenTelemetry's metrics do not count a span")

    def on_start(self, span: OtelSpan, parent_context: Any = None) -> None:
        """Do nothing: the tracer calls ``started()``."""

    def on_end(self, span: OtelSpan) -> None:
        """Count *span* as live no longer."""
        made = span.get_span_context()
        ended = self._live.pop((made.trace_id, made.span_id), None)
        if ended is not None:
            ended()

    def shutdown(self) -> None:
        """Forget the live spans."""
        self._live.clear()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Return True: the meter exports."""
        return True


def span_metrics(meter_provider: Any) -> SpanMetrics | None:
    """Return the counter of spans, or None unless the environment asks for it and the SDK is installed."""
    if os.environ.get(VARIABLE, "").strip().lower() != "true":
        return None
    from opentelemetry import metrics  # takes as long to import as the bridge

    try:
        from opentelemetry.sdk.trace._tracer_metrics import create_tracer_metrics
        from opentelemetry.sdk.trace.sampling import Decision
    except ImportError:
        return None
    return SpanMetrics(create_tracer_metrics(meter_provider or metrics.get_meter_provider(), True), Decision)
