"""Traces that are recorded because a caller said so, and how many of them a second.

Whoever can send a request can say "sampled", or "debug" in B3 and Jaeger, and can choose the trace's id and with it
everything that a probability decides by. So a decision that came in is followed as far as the sampler here allows:

- ``AlwaysOn`` keeps everything: there is nothing to force.
- ``Ratio(p)`` allows the share p of all requests; beyond that *per_second* traces are followed.
- ``Rate(n)`` is asked as for a new trace, with the part of the randomness that the caller's own threshold left open,
  and bounds it all: n a second.
- A sampler of the program's own is asked; of those that it does not keep, *per_second* are followed.

A trace beyond that is not recorded here, nor by the services that are called from here.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from .. import SpanContext, TraceState
from .._core.context import ids_of
from .._export.notices import Notices
from .._sampling import NEVER, Rate, randomness, threshold_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.tracer import Tracer

__all__ = ["Forced"]

_SAMPLED: Final = 0x01
_MAX_SHARE: Final = 10.0  # traces that a Ratio's share may save up: chance is uneven
_RATE_SLACK: Final = 1.25  # a Rate is exact within ten seconds, not within one

_notices = Notices()


class Forced:
    """Follow the decisions of callers, and of those that the sampler would not make at most *per_second* a second.

    *clock* returns seconds. Raises ``TypeError`` or ``ValueError`` for a *per_second* that is no number from 0 on.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, int | float):
            raise TypeError(f"forced_per_s must be a number, not {type(per_second).__name__}")
        if not per_second >= 0:
            raise ValueError(f"forced_per_s must be 0 or more: {per_second}")
        self._per_second = per_second
        self._clock = clock
        self._since_s = clock()
        self._tokens = math.inf  # as many as the bucket holds
        self._share = _MAX_SHARE

    def count(self, tracer: Tracer) -> None:
        """Count a request, sampled or not, where *tracer* keeps a share of them."""
        self._share = min(_MAX_SHARE, self._share + (1 - tracer.threshold / NEVER))

    def admit(self, tracer: Tracer, caller: SpanContext, name: str, attributes: Mapping[str, Any]) -> SpanContext:
        """Return what counts here of *caller*, which is sampled or leaves the decision to the sampler here."""
        sampler: Any = tracer.sampler
        if math.isinf(self._per_second):
            return caller
        is_forced = caller.sampled
        if not ids_of(caller)[0]:  # the trace, and with it chance, begins here
            is_followed = not is_forced or (not isinstance(sampler, Rate) and self._take(self._per_second))
            return caller if is_followed else _decided(caller, deferred=True)
        if isinstance(sampler, Rate):
            threshold = caller.state.sampling()[0]
            raised = sampler.thin(randomness(caller), threshold)
            if raised >= 0 and self._take(_RATE_SLACK * sampler.per_second):
                if is_forced and (raised <= threshold or not raised):
                    return caller
                return _decided(caller, f"ot=th:{threshold_text(raised)}", _SAMPLED)
        elif sampler is not None:
            if not is_forced or _keeps(sampler, randomness(caller), name, attributes) or self._take(self._per_second):
                return caller
        elif randomness(caller) >= tracer.threshold and self._share >= 1:
            self._share -= 1
            return caller
        elif is_forced and self._take(self._per_second):
            return caller
        if is_forced:
            _notices.say(
                "warning",
                "forced",
                "more traces come in sampled than the sampler here and forced_per_s=%g allow: the others are not "
                "recorded (said once)",
                self._per_second,
            )
        return _decided(caller)

    def _take(self, per_second: float) -> bool:
        """Take a token from the bucket, which holds as many as a second brings."""
        now_s = self._clock()
        brought = max(0.0, now_s - self._since_s) * per_second
        self._since_s = now_s
        tokens = min(self._tokens + brought, max(1.0, per_second) if per_second else 0.0)
        is_there = tokens >= 1
        self._tokens = tokens - is_there
        return is_there


def _keeps(sampler: Any, chance: int, name: str, attributes: Mapping[str, Any]) -> bool:
    try:
        return bool(sampler.sample(chance, name, "server", attributes)[0])
    except Exception:  # as for a new trace: it is not kept
        return False


def _decided(caller: SpanContext, entry: str = "", sampled: int = 0, *, deferred: bool = False) -> SpanContext:
    """Return *caller* with another decision, which *entry* of its tracestate tells."""
    return SpanContext(
        caller.id[:16],
        caller.id[16:],
        (caller.flags & ~_SAMPLED) | sampled,
        state=TraceState.parse(caller.state.decided(entry)),
        labels=caller.labels,
        is_remote=caller.is_remote,
        deferred=deferred,
        extra=caller.extra,
    )
