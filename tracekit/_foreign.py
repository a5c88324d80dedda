"""OpenTelemetry's samplers and id generators for ``configure()``, by their methods: nothing of OpenTelemetry is imported."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

from ._core.context import SpanContext, ids_of
from ._core.guard import type_name
from ._core.log import log
from ._core.records import NO_ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._core.context import Link

_API: Final = "opentelemetry.trace"


class ForeignSampler:
    """A sampler with OpenTelemetry's ``should_sample()``. Like every sampler, it is asked about new traces only.

    ``RECORD_ONLY`` counts as not sampled. The attributes that it returns are added to the root span, and the entries of
    its tracestate come first.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        # A caller may leave the decision open, which OpenTelemetry's flags cannot express. A sampler that follows the
        # parent would take that for a rejection, so it gets no parent.
        self._follows_parent = any(kind.__name__ == "ParentBased" for kind in type(sampler).__mro__)

    def sample(self, randomness: int, name: str, kind: str, attributes: Mapping[str, Any]) -> tuple[bool, str]:
        """Decide without a trace id, for samplers that ask this one. Ratio samplers compare 64 bits of the id."""
        return self.sample_trace(randomness << 8, None, name, kind, attributes, ())[:2]

    def sample_trace(
        self,
        trace_id: int,
        parent: SpanContext | None,
        name: str,
        kind: str,
        attributes: Mapping[str, Any],
        links: Sequence[Link],
    ) -> tuple[bool, str, Mapping[str, Any]]:
        """Return whether to keep the trace, an entry for its tracestate, and attributes for its root."""
        api: Any = sys.modules.get(_API)
        kinds = getattr(api, "SpanKind", None)
        result = self.sampler.should_sample(
            None if api is None else _parent(api, None if self._follows_parent else parent),
            trace_id,
            name,
            kind if kinds is None else kinds[kind.upper()],
            attributes,
            [api.Link(_context(api, link.context), link.attributes) for link in links] if api is not None else links,
        )
        is_kept = bool(result.decision.is_sampled())
        if not is_kept:
            return False, "", NO_ATTRIBUTES
        state = result.trace_state
        text = "" if not state else state.to_header()
        is_parents = parent is not None and text == str(parent.state)
        return True, "" if is_parents else text, result.attributes or NO_ATTRIBUTES

    def __repr__(self) -> str:
        return f"ForeignSampler({self.sampler!r})"


def _parent(api: Any, parent: SpanContext | None) -> Any:
    """Return an OpenTelemetry Context with *parent*, never the current one: the trace may be a new one inside another."""
    empty = sys.modules["opentelemetry.context"].Context()
    if parent is None or not parent.is_valid:
        return empty
    return api.set_span_in_context(api.NonRecordingSpan(_context(api, parent)), empty)


def _context(api: Any, context: SpanContext) -> Any:
    state = str(context.state)
    vendors = api.TraceState.from_header([state] if state else [])
    return api.SpanContext(*ids_of(context), context.is_remote, api.TraceFlags(context.flags), vendors)


class ForeignIds:
    """Ids from an object with OpenTelemetry's ``generate_trace_id()`` and ``generate_span_id()``.

    An id that cannot be used, because the method raises or returns no int of that size, is replaced by a random one.
    That is logged once.
    """

    def __init__(self, generator: Any) -> None:
        self.generator = generator
        self._is_reported = False

    @property
    def are_random(self) -> bool:
        """Whether the generator declares the last 56 bits of its trace ids random."""
        try:
            return bool(self.generator.is_trace_id_random())
        except Exception:  # older generators lack the method
            return False

    def trace_id(self) -> int:
        return self._next("generate_trace_id", 16)

    def span_id(self) -> int:
        return self._next("generate_span_id", 8)

    def _next(self, method: str, size: int) -> int:
        try:
            id = getattr(self.generator, method)()
            if isinstance(id, int) and 0 < id < 1 << 8 * size:
                return int(id)
            wrong = f"returned no int of 1 to {8 * size} bits"
        except Exception as error:
            wrong = f"raised {type_name(error)}"
        if not self._is_reported:
            self._is_reported = True
            log("warning", "%s.%s() %s; tracekit uses random ids instead", type_name(self.generator), method, wrong)
        return int.from_bytes(os.urandom(size)) or 1
