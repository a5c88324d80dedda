"""OpenTelemetry's samplers, id generators and span limits, on either side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..._core.records import DEFAULT_LIMITS, Limits
from .spans import KIND_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RandomIds", "limits_of", "sampler_of"]

_MOST = 1 << 31
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


def limits_of(limits: Any) -> Limits:
    """Return *limits*, the SDK's ``SpanLimits``, as tracekit's; those that it leaves open are tracekit's defaults."""
    names = ("max_span_attributes", "max_events", "max_links", "max_span_attribute_length")
    given = [getattr(limits, name, None) for name in names]
    values = [
        default if not isinstance(value, int) else min(max(value, 0), _MOST)
        for value, default in zip(given, DEFAULT_LIMITS, strict=False)
    ]
    return DEFAULT_LIMITS._replace(attributes=values[0], events=values[1], links=values[2], value_length=values[3])
