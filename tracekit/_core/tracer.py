"""``Tracer``: the settings that ``configure()`` made, and the sampling decision about a new trace."""

from __future__ import annotations

from ..cython import binding, cclass, compiled, final
from .codecs import count_tracestate
from .context import Link, SpanContext
from .guard import type_name
from .log import log
from .records import DEFAULT_LIMITS, NO_ATTRIBUTES, Limits
from .tracestate import make_state

if not compiled:
    from .context import child_context, from_words, new_span_id, new_trace_bits, new_trace_id
    from .interpreter import DEFERRED, RANDOM, SAMPLED, SUPPRESSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, Protocol

    from .records import Instrumentation

    class Hooks(Protocol):
        """Is called at the start of every recorded span, before its end and after it. Never raises."""

        def started(self, span: Any, parent: Any) -> None: ...
        def ending(self, span: Any) -> None: ...
        def ended(self, span: Any) -> None: ...

    class RootSampler(Protocol):
        """Decides about a new trace; ``randomness`` has 56 bits."""

        def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]: ...


_MASK56: Final = (1 << 56) - 1
_DROP: Final = (False, None)
_KEEP: Final = (True, None)


@final
@binding(False)
@cclass
class Tracer:
    """The settings that ``configure()`` made, as ``span()`` reads them.

    ``threshold`` is the 56-bit rejection threshold of consistent probability sampling: a new trace is
    kept where the random 56 bits of its id are not below it; ``state`` is the tracestate of a kept root
    (``ot=th:…``) or empty. ``sampler``, where there is one, decides instead; if it ``sees_trace``, with
    ``sample_trace()``, which also gets trace id, parent and links, and returns attributes for the root.
    ``parts`` are other limits on the attributes of an event, of a link, and on the length of their values.
    ``records_all`` records the spans of traces that are not kept as well, for readers inside the process: their
    contexts stay unsampled, and the exporter does not get them.

    The sampler and the hooks are objects of the program, which may hold spans, and a span hides its references from the
    garbage collector. So a span has ``kept`` instead, which has no sampler, and ``at_rest()`` once it has ended.
    """

    if not compiled:
        __slots__ = (
            "_at_rest",
            "hooks",
            "instrumentation",
            "kept",
            "limits",
            "max_attributes",
            "max_event_attributes",
            "max_events",
            "max_link_attributes",
            "max_links",
            "max_part_value",
            "max_value",
            "parts",
            "recording",
            "records_all",
            "resource",
            "sampler",
            "sees_trace",
            "state",
            "threshold",
        )

        kept: Tracer | None
        _at_rest: Tracer | None

    def __init__(
        self,
        *,
        recording: bool = False,
        records_all: bool = False,
        threshold: int = 0,
        state: str = "",
        sampler: RootSampler | None = None,
        limits: Limits = DEFAULT_LIMITS,
        resource: Mapping[str, Any] = NO_ATTRIBUTES,
        instrumentation: Instrumentation | None = None,
        hooks: Hooks | None = None,
        parts: tuple[int, int, int] | None = None,
    ) -> None:
        self.recording = recording
        self.records_all = records_all
        self.threshold = threshold
        self.state = state
        self.sampler = sampler
        self.sees_trace = hasattr(sampler, "sample_trace")
        self.limits = limits if type(limits) is Limits else Limits(*limits)
        self.resource = resource
        self.instrumentation = instrumentation
        self.hooks = hooks
        self.max_attributes = limits.attributes
        self.max_events = limits.events
        self.max_links = limits.links
        self.max_value = limits.value_length
        self.parts = parts
        self.max_event_attributes, self.max_link_attributes, self.max_part_value = parts or (
            limits.attributes,
            limits.attributes,
            limits.value_length,
        )
        self.kept = None if sampler is None else self._without_sampler(hooks)  # None: this one
        if not compiled:
            self._at_rest = None

    def hook(self, hooks: Hooks | None) -> None:
        """Call *hooks* from now on, for the open spans of this tracer too."""
        self.hooks = hooks
        if self.kept is not None:
            self.kept.hooks = hooks

    def at_rest(self) -> Tracer:
        """Return the settings that a span keeps once it has ended: without a sampler and hooks; always the same."""
        if self.hooks is None and self.sampler is None:
            return self
        if self._at_rest is None:
            self._at_rest = self._without_sampler(None)
        return self._at_rest

    def _without_sampler(self, hooks: Hooks | None) -> Tracer:
        return Tracer(
            recording=self.recording,
            records_all=self.records_all,
            threshold=self.threshold,
            state=self.state,
            limits=self.limits,
            resource=self.resource,
            instrumentation=self.instrumentation,
            hooks=hooks,
            parts=self.parts,
        )

    def replace(
        self,
        *,
        recording: bool | None = None,
        records_all: bool | None = None,
        sampler: RootSampler | None = None,
        limits: Limits | None = None,
        resource: Mapping[str, Any] | None = None,
        instrumentation: Instrumentation | None = None,
        hooks: Hooks | None = None,
        parts: tuple[int, int, int] | None = None,
    ) -> Tracer:
        """Return a copy with another value of each argument that is not None."""
        return Tracer(
            recording=self.recording if recording is None else recording,
            records_all=self.records_all if records_all is None else records_all,
            threshold=self.threshold,
            state=self.state,
            sampler=self.sampler if sampler is None else sampler,
            limits=self.limits if limits is None else limits,
            resource=self.resource if resource is None else resource,
            instrumentation=self.instrumentation if instrumentation is None else instrumentation,
            hooks=self.hooks if hooks is None else hooks,
            parts=self.parts if parts is None else parts,
        )

    def root(
        self,
        base: SpanContext | None,
        name: str,
        kind: str,
        attributes: Mapping[str, Any] | None,
        links: Any,
        added: dict[str, Any] | None,
    ) -> SpanContext:
        """Return the context of a new trace's first span; it keeps labels, a decision and a trace id of *base*.

        *added* receives the attributes that the sampler returns.
        """
        bits = new_trace_bits()
        state = None
        if base is None:
            high, low = new_trace_id()
            if self.recording and self.sampler is None:
                if low & _MASK56 >= self.threshold:
                    bits |= SAMPLED
                    state = self.state or None
            elif self.recording:
                keep, state = self._sample(high, low, None, name, kind, attributes, links, added)
                if keep:
                    bits |= SAMPLED
            return from_words(high, low, new_span_id(), bits, state, None, False, None)
        has_trace = (base._high | base._low) != 0
        if has_trace:
            high, low, bits = base._high, base._low, base._bits & RANDOM
        else:
            high, low = new_trace_id()
        state = base._state
        if not base._bits & DEFERRED:
            bits |= base._bits & (SAMPLED | SUPPRESSED)
            if not (has_trace or base._remote or base._bits & SAMPLED):
                bits |= SUPPRESSED  # below SpanContext(deferred=False): an exporter's own work, or an excluded request
        else:
            keep, state = self._sample(high, low, base, name, kind, attributes, links, added)
            if keep:
                bits |= SAMPLED
            elif has_trace and not self.recording:
                bits |= DEFERRED  # the trace is another process's, and nothing decides here
        return from_words(high, low, new_span_id(), bits, state, base._labels, False, base._extra)

    def child(
        self,
        base: SpanContext,
        name: str,
        kind: str,
        attributes: Mapping[str, Any] | None,
        links: Any,
        added: dict[str, Any] | None,
    ) -> SpanContext:
        """Return the context of a new span in the trace of *base*, about which nothing is decided yet."""
        keep, state = self._sample(base._high, base._low, base, name, kind, attributes, links, added)
        bits = (base._bits & RANDOM) | (SAMPLED if keep else 0 if self.recording else DEFERRED)
        return child_context(base, bits, state)

    def _sample(
        self,
        high: int,
        low: int,
        base: SpanContext | None,
        name: str,
        kind: str,
        attributes: Mapping[str, Any] | None,
        links: Any,
        added: dict[str, Any] | None,
    ) -> tuple[bool, str | None]:
        """Decide about a trace; return whether it is kept, and its tracestate from here on."""
        state = None if base is None else base._state
        if not self.recording:
            return _DROP if state is None else (False, state)
        randomness = low & _MASK56
        if state is not None:
            said = make_state(state).sampling()[1]
            if said >= 0:
                randomness = said
        entry: str | None = None
        if self.sampler is None:
            keep = randomness >= self.threshold
            if keep and self.state:
                entry = self.state
        else:
            keep, entry = self._ask(randomness, high, low, base, name, kind, attributes, links, added)
        if state is not None:
            return keep, make_state(state).decided(entry or "") or None
        return (keep, entry) if entry is not None else _KEEP if keep else _DROP

    def _ask(
        self,
        randomness: int,
        high: int,
        low: int,
        parent: SpanContext | None,
        name: str,
        kind: str,
        attributes: Mapping[str, Any] | None,
        links: Any,
        added: dict[str, Any] | None,
    ) -> tuple[bool, str | None]:
        """Ask the sampler; return whether the trace is kept, and its entry for tracestate if that is well-formed."""
        sampler: Any = self.sampler
        try:
            seen = attributes or NO_ATTRIBUTES
            if added is None:
                keep, entry = sampler.sample(randomness, name, kind, seen)
            else:
                given = [link if isinstance(link, Link) else Link(getattr(link, "context", link)) for link in links]
                keep, entry, more = sampler.sample_trace(high << 64 | low, parent, name, kind, seen, given)
                if keep:
                    added.update(more)
            if not keep:
                return _DROP
            text = str.__str__(entry) if entry else ""  # of a StrEnum, say
            return True, text if count_tracestate(text) > 0 else None
        except Exception:  # a custom sampler must not break a request
            _report(sampler)
            return _DROP


_REPORTS: Final = 64
_reported: set[str] = set()


def _report(sampler: Any) -> None:
    """Log the exception or the answer that *sampler* failed with, once for each class."""
    try:
        if hasattr(sampler, "sample_trace"):  # ours, of OpenTelemetry's
            sampler = getattr(sampler, "sampler", sampler)
        name = type_name(sampler)
        if name not in _reported and len(_reported) < _REPORTS:
            _reported.add(name)
            log("exception", "the sampler %s failed: its trace is not recorded; further failures are not logged", name)
    except Exception:  # an attribute of the sampler, or the recursion limit
        pass
