"""Forced sampling: a bound on the traces that are recorded because a caller asked for it.

Any client can send "sampled", or "debug" in B3 and Jaeger. It can also choose the trace id, and with it the random bits
that a probability sampler uses. So decisions of callers are followed only as far as the local sampler allows:

- ``AlwaysOn`` keeps all traces, so nothing is forced.
- ``Ratio(p)`` allows the share p of all requests, and *per_second* traces beyond that.
- ``Rate(n)`` is asked as for a new trace, with the randomness above the caller's threshold rescaled to the whole range.
  It bounds new traces and forced ones together to n a second.
- A custom sampler is asked; of the traces that it rejects, *per_second* are followed.

Further traces are recorded neither here nor by the services that are called from here.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from .. import SpanContext, TraceState
from .._core.context import ids_of
from .._export.notices import Notices
from .._sampling import NEVER, Rate, randomness, threshold_text
from ..cython import binding, cclass, nonecheck

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._core.tracer import Tracer


_SAMPLED: Final = 0x01
_MAX_SHARE: Final = 10.0  # traces; bounds the unused share of a Ratio
_RATE_SLACK: Final = 1.25  # within one second, a Rate may exceed its target

_notices = Notices()


@binding(False)
@cclass
class Forced:
    """Follow callers' decisions within the sampler's bound, and *per_second* traces a second beyond it.

    *clock* returns seconds. Raises ``TypeError`` or ``ValueError`` if *per_second* is not a number from 0 on.
    """

    def __init__(self, per_second: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, int | float):
            raise TypeError(f"forced_per_s must be a number, not {type(per_second).__name__}")
        if not per_second >= 0:
            raise ValueError(f"forced_per_s must be 0 or more: {per_second}")
        self._per_second = per_second
        self._clock = clock
        self._since_s = clock()
        self._tokens = math.inf  # clipped to the size of the bucket at its first use
        self._share = _MAX_SHARE
        self._tracer: Tracer | None = None
        self._kept = 0.0  # the share of its traces that the tracer keeps

    @nonecheck(True)
    def count(self, tracer: Tracer) -> None:
        """Count a request, sampled or not, towards the share that *tracer* keeps."""
        if self._tracer is not tracer:
            self._kept = 1 - tracer.threshold / NEVER
            self._tracer = tracer
        share = self._share + self._kept
        self._share = min(_MAX_SHARE, share)  # both are C's numbers

    def admit(self, tracer: Tracer, caller: SpanContext, name: str, attributes: Mapping[str, Any]) -> SpanContext:
        """Return *caller*, which is sampled or deferred, with the decision that holds here."""
        sampler: Any = tracer.sampler
        if math.isinf(self._per_second):
            return caller
        is_forced = caller.sampled
        if not ids_of(caller)[0]:  # the trace id and its randomness are made here
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
                "callers ask for more traces to be recorded than the sampler and forced_per_s=%g allow: the others "
                "are not recorded (logged once)",
                self._per_second,
            )
        return _decided(caller)

    def _take(self, per_second: float) -> bool:
        """Take a token from a bucket that is filled with *per_second* tokens a second and holds one second's worth."""
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
    except Exception:  # a new trace would not be kept either
        return False


def _decided(caller: SpanContext, entry: str = "", sampled: int = 0, *, deferred: bool = False) -> SpanContext:
    """Return *caller* with another decision, and *entry* as its threshold in tracestate."""
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
