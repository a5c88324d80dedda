"""OpenTracing's Span and SpanContext on tracekit's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import opentracing

from ... import _configure
from ..._core.changes import rekind, relabel, resample
from ..._core.guard import ask, is_a, type_name
from ..._core.misuse import misused
from ..._core.outcome import outcome_of
from ..._core.records import DEFAULT_LIMITS, KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from ..._core.context import SpanContext as TracekitContext
    from ..._core.span import Span as TracekitSpan

_KINDS = KINDS[1:]
# OpenTracing's names of an error's parts in log_kv(), beside OpenTelemetry's.
_ERROR_FIELDS = {"error.kind": "exception.type", "message": "exception.message", "stack": "exception.stacktrace"}


class SpanContext(opentracing.SpanContext):  # type: ignore[misc]
    """The part of a span that travels; ``tracekit_context`` is tracekit's."""

    def __init__(self, context: TracekitContext) -> None:
        self.tracekit_context = context

    @property
    def baggage(self) -> dict[str, str]:
        """The labels, as a new dict."""
        return dict(self.tracekit_context.labels)

    @property
    def trace_id(self) -> int:
        """The trace id as a number."""
        return int(self.tracekit_context.trace_id, 16)

    @property
    def span_id(self) -> int:
        """The span id as a number."""
        return int(self.tracekit_context.span_id, 16)


class Span(opentracing.Span):  # type: ignore[misc]
    """OpenTracing's Span; ``tracekit_span`` is tracekit's. No method raises."""

    def __init__(self, tracer: Any, span: TracekitSpan) -> None:
        self._tracer = tracer
        self.tracekit_span = span
        self.scopes: list[Any] = []  # the open ones of a ScopeManager

    @classmethod
    def of(cls, tracer: Any, span: TracekitSpan) -> Span:
        """Return the object for *span*, the same one while anything refers to it."""
        known = _spans.get(id(span))
        if known is None or known.tracekit_span is not span:
            known = _spans[id(span)] = cls(tracer, span)
        return known

    @property
    def context(self) -> SpanContext:
        """The context with the baggage of now."""
        return SpanContext(self.tracekit_span.context)

    @property
    def operation_name(self) -> str:
        """The name."""
        return self.tracekit_span.name

    def set_operation_name(self, operation_name: str) -> Self:
        """Rename the span."""
        self.tracekit_span.update_name(text_of(operation_name))
        return self

    def finish(self, finish_time: float | None = None) -> None:
        """End the span, now or at *finish_time*, Unix time in seconds."""
        self.tracekit_span.end(nanoseconds(finish_time, "finish_time"))

    def set_tag(self, key: str, value: Any) -> Self:
        """Record an attribute. ``span.kind``, ``sampling.priority`` and ``error`` take effect whenever they are set."""
        span = self.tracekit_span
        key, value = text_of(key), plain(value)
        if key == "sampling.priority":
            priority = priority_of(value)
            if priority is not None and priority != span.context.sampled:
                resample(span, priority)
                self._spread()
                hooks = _configure.tracer_in_use().hooks
                if hooks is not None and span.is_recording:
                    hooks.started(span, None)
        elif key == "span.kind":
            if value in _KINDS:
                rekind(span, value)
        elif key == "error" and value in (True, "true"):
            span.set_status("error")
        span.set_attribute(key, value)
        return self

    def log_kv(self, key_values: Mapping[str, Any], timestamp: float | None = None) -> Self:
        """Record an event; its name is the value of "event". An exception in "error.object" is recorded as such."""
        values = items_of(key_values, "key_values")
        if not values:
            return self
        time_ns = nanoseconds(timestamp, "timestamp")
        name = text_of(values.pop("event", "log"))
        error = values.pop("error.object", None)
        if is_a(error, BaseException):
            for key in _ERROR_FIELDS:  # the exception itself says more
                values.pop(key, None)
            kept = {key: plain(value) for key, value in values.items()}
            self.tracekit_span.record_exception(error, kept, time_ns=time_ns)
            return self
        if error is not None:
            values["error.object"] = error
        if name == "error":
            name = "exception"
            values = {_ERROR_FIELDS.get(key, key): value for key, value in values.items()}
        self.tracekit_span.add_event(name, {key: plain(value) for key, value in values.items()}, time_ns=time_ns)
        return self

    def set_baggage_item(self, key: str, value: str) -> Self:
        """Add a label, for the children that start from now on and, where the span is active, for every hand-off."""
        span = self.tracekit_span
        try:
            labels = span.context.labels.merge({text_of(key): text_of(value)})
        except ValueError as error:  # not a label's key
            misused(error)
        else:
            relabel(span, labels)
            self._spread()
        return self

    def get_baggage_item(self, key: str) -> str | None:
        """Return a label, or None."""
        return self.tracekit_span.context.labels.get(text_of(key))

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        try:
            if exc is not None:
                leave(self.tracekit_span, exc)
        finally:  # a signal handler may raise there
            self.finish()

    def _spread(self) -> None:
        """Have the changed context in the scopes that a ScopeManager opened."""
        for scope in list(self.scopes):
            scope.put_context(self.tracekit_span.context)


# By the id of tracekit's span, which the value keeps alive.
_spans: WeakValueDictionary[int, Span] = WeakValueDictionary()


def leave(span: TracekitSpan, exc: BaseException) -> None:
    """Record that *exc* leaves *span*, as ``with span:`` does: once a trace, and a cancellation is no error."""
    if span.is_recording:
        try:
            outcome = outcome_of(exc, span.context.trace_id, DEFAULT_LIMITS.value_length)
            for error in outcome.errors:
                span.record_exception(error)
            span.set_status(outcome.code, outcome.description)
        except Exception:  # the recursion limit
            span.set_status("error")


def items_of(mapping: Any, parameter: str) -> dict[str, Any]:
    """Return *mapping* as a dict with keys of text; empty where it is no mapping."""
    try:
        return {text_of(key): value for key, value in list(mapping.items())}
    except Exception:  # no mapping, or one of the program's
        misused(TypeError(f"{parameter} must be a mapping, not {type_name(mapping)}"))
        return {}


def kind_of(value: Any) -> str:
    """Return the kind that the tag ``span.kind`` names."""
    return value if type(value) is str and value in _KINDS else KINDS[0]


def priority_of(value: Any) -> bool | None:
    """Return whether the tag ``sampling.priority`` asks for the trace; None where it does not decide."""
    number = None if value is None else ask(float, value)
    return None if number is None else number > 0


def text_of(value: Any) -> str:
    """Return *value* as text, "" for None and where ``str()`` fails."""
    if is_a(value, str):
        return str.__str__(value)
    return "" if value is None else ask(str, value, "")


def plain(value: Any) -> Any:
    """Return *value* as OpenTracing has tags: a string, a bool or a number; else its text."""
    if value is None or is_a(value, str) or is_a(value, int) or is_a(value, float):
        return value
    return text_of(value)


def nanoseconds(seconds: Any, parameter: str) -> int | None:
    """Return *seconds*, Unix time, in nanoseconds; None for none."""
    if seconds is None:
        return None
    number = None if any(is_a(seconds, kind) for kind in (str, bytes, bytearray)) else ask(float, seconds)
    if number is not None and math.isfinite(number):
        return int(number * 1e9)
    misused(TypeError(f"{parameter} must be a number of seconds, not {type_name(seconds)}"))
    return None
