"""OpenTelemetry's samplers, id generators and span limits, on either side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..._foreign import ForeignSampler

if TYPE_CHECKING:
    from ..._core.records import Limits
    from ..._core.tracer import Tracer

__all__ = [
    "RandomIds",
    "limits_in_environment",
    "limits_of",
    "part_limits_of",
    "sampler_in_use",
    "sampler_of",
]


class RandomIds:
    """OpenTelemetry's IdGenerator over the operating system's random numbers."""

    def generate_trace_id(self) -> int:
        """Return a random, non-zero number of 128 bits."""
        return int.from_bytes(os.urandom(16)) or 1

    def generate_span_id(self) -> int:
        """Return a random, non-zero number of 64 bits."""
        return int.from_bytes(os.urandom(8)) or 1

    def is_trace_id_random(self) -> bool:
        """Tell that all bits of a trace id are random."""
        return True


def sampler_of(sampler: Any) -> Any:
    """Return *sampler*, one of OpenTelemetry's, as ``tracekit.configure()`` takes it."""
    return ForeignSampler(sampler)


def sampler_in_use(tracer: Tracer) -> Any:
    """Return the sampler of *tracer*: where a fixed ratio decides, the SDK's with that ratio, or None without the SDK."""
    if tracer.sampler is not None:
        return tracer.sampler
    try:
        from opentelemetry.sdk.trace import sampling
    except ImportError:
        return None
    if not tracer.threshold:
        return sampling.DEFAULT_ON
    return sampling.ParentBased(sampling.TraceIdRatioBased(1 - tracer.threshold / 2**56))


def limits_of(given: Any, usual: Limits) -> Limits:
    """Return the SDK's ``SpanLimits`` as tracekit's, with *usual* for the ones that tracekit alone has.

    None, a number without a limit, is the largest that ``tracekit.configure()`` takes; a length without a limit is the
    usual one.
    """
    length = getattr(given, "max_span_attribute_length", None)
    return usual._replace(
        attributes=_count(getattr(given, "max_span_attributes", None)),
        events=_count(getattr(given, "max_events", None)),
        links=_count(getattr(given, "max_links", None)),
        value_length=usual.value_length if length is None else _count(length),
    )


def part_limits_of(given: Any, usual: Limits) -> tuple[int, int, int]:
    """Return the limits of the SDK's ``SpanLimits`` on the attributes of an event, of a link, and on their length."""
    length = getattr(given, "max_attribute_length", None)
    return (
        _count(getattr(given, "max_event_attributes", None)),
        _count(getattr(given, "max_link_attributes", None)),
        usual.value_length if length is None else _count(length),
    )


def limits_in_environment() -> Any:
    """Return the SDK's ``SpanLimits`` where its variables are set and it can be imported, else None.

    A variable that is set to an empty text means no limit there, unlike for ``tracekit.configure()``.
    """
    if not any(name.startswith("OTEL_") and name.endswith("_LIMIT") for name in os.environ):
        return None
    try:
        from opentelemetry.sdk.trace import SpanLimits

        return SpanLimits()
    except (ImportError, ValueError):  # no SDK, or a variable that holds no number
        return None


def _count(limit: Any) -> int:
    return max(0, min(limit, 1 << 31)) if isinstance(limit, int) else 1 << 31
