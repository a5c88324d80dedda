"""OpenTelemetry's samplers, id generators and span limits, on either side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..._core.records import Limits
from .spans import KIND_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.records import Limits
    from ..._core.tracer import Tracer

__all__ = ["RandomIds", "limits_of", "sampler_in_use", "sampler_of"]

_KINDS = {name: kind for kind, name in KIND_NAMES.items()}


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


class _Sampler:
    """An OpenTelemetry sampler as one of tracekit's; only the decision counts, not attributes that it would add."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        # Ratio samplers compare the low 64 bits of the trace id, of which tracekit's samplers get 56.
        result = self._sampler.should_sample(None, randomness << 8, name, _KINDS[kind], attributes, ())
        return bool(result.decision.is_sampled()), ""


def sampler_of(sampler: Any) -> Any:
    """Return *sampler*, one of OpenTelemetry's, as ``tracekit.configure()`` takes it."""
    return _Sampler(sampler)


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
    usual one. Attributes of events and links have the limits of the span's.
    """
    length = getattr(given, "max_span_attribute_length", None)
    return usual._replace(
        attributes=_count(getattr(given, "max_span_attributes", None)),
        events=_count(getattr(given, "max_events", None)),
        links=_count(getattr(given, "max_links", None)),
        value_length=usual.value_length if length is None else _count(length),
    )


def _count(limit: Any) -> int:
    return max(0, min(limit, 1 << 31)) if isinstance(limit, int) else 1 << 31
