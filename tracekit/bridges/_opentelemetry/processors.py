"""Span processors of OpenTelemetry as the hooks of a tracer, and one of ours: its metrics of started and live spans."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace as _trace

from ..._arguments import bounded_timeout
from ..._core.log import log
from .spans import face

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..._core.span import Span
    from .spans import OtelSpan


VARIABLE = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


class Processors:
    """The span processors of a provider, called in the order in which they were added.

    An exception of a processor is logged, once for each of its methods, and never reaches the program.
    """

    # Of all providers: one thread at a time changes them. Reentrant, as a signal handler may interrupt its holder. Libraries
    # take it to change _span_processors.
    _lock = threading.RLock()

    def __init__(self) -> None:
        self._span_processors: tuple[Any, ...] = ()  # as the SDK calls it: libraries change it although it is private
        self._reported: set[tuple[int, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._span_processors)

    def add_span_processor(self, span_processor: Any) -> None:
        """Add a processor, which is called last."""
        with self._lock:
            self._span_processors += (span_processor,)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Call ``on_start``, for libraries that take this object for one processor."""
        for processor in self._span_processors:
            self._call(processor, "on_start", span, parent_context=parent_context)

    def on_end(self, span: Any) -> None:
        """Call ``on_end``, for libraries that take this object for one processor."""
        for processor in self._span_processors:
            self._call(processor, "on_end", span)

    def started(self, span: Span, parent: Any) -> None:
        """Call ``on_start``; *parent* is the OpenTelemetry Context that was given, or None."""
        self.on_start(face(span), parent)

    def ending(self, span: Span) -> None:
        """Call ``_on_ending``, which not every processor has; the span can still be changed."""
        for processor in self._span_processors:
            if hasattr(processor, "_on_ending"):
                self._call(processor, "_on_ending", face(span))

    def ended(self, span: Span) -> None:
        self.on_end(face(span))

    def shutdown(self) -> None:
        for processor in self._span_processors:
            self._call(processor, "shutdown")

    def force_flush(self, timeout_millis: float = 30000) -> bool:
        """Flush all processors; return whether that was done in time. *timeout_millis* is as for the provider's."""
        deadline = time.monotonic() + bounded_timeout(timeout_millis, 30000, "timeout_millis") / 1000
        is_done = True
        for processor in self._span_processors:
            left = int((deadline - time.monotonic()) * 1000)
            if left <= 0:
                return False
            is_done = self._call(processor, "force_flush", left) is not False and is_done
        return is_done

    def _call(self, processor: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(processor, method)(*args, **kwargs)
        except Exception:
            key = (id(processor), method)
            if key not in self._reported:
                self._reported.add(key)
                log("exception", "%s.%s failed; further failures are not logged", type(processor).__name__, method)
            return False


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
