"""``RuntimeContext``: tracekit's scopes as the store of OpenTelemetry's current Context.

There is no second ContextVar. The current Context is a view of the innermost scope, made when first asked for and kept
with the scope; ``attach()`` opens a scope and returns it as the token, so a token can be detached from any task or
thread, in any order, more than once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import baggage as _baggage
from opentelemetry.context.context import Context, _RuntimeContext
from opentelemetry.trace import INVALID_SPAN
from opentelemetry.trace.propagation import _SPAN_KEY as SPAN_KEY

from ..._core.scopes import Scope, attach_scope, current_context, current_scope, current_view, inside, keep_view
from .contexts import RemoteSpan, from_otel, labels_of, originals, relabelled
from .spans import OtelSpan, face

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.context import SpanContext
    from ..._core.labels import Labels
    from ..._core.span import Span

__all__ = ["BAGGAGE_KEY", "RUNTIME", "SPAN_KEY", "Meaning", "RuntimeContext", "meaning_of", "span_of"]

BAGGAGE_KEY = _baggage._BAGGAGE_KEY
_EMPTY = Context()
_OWN_KEYS = (SPAN_KEY, BAGGAGE_KEY)


class Ambient(NamedTuple):
    """The values of a Context that tracekit has no use for; scopes inherit them."""

    keys: dict[str, object]  # all but the span and the baggage
    baggage: Mapping[str, object] | None  # the very objects, which the labels were made from
    labels: Labels | None
    span: Any  # of another implementation of the API
    span_id: bytes  # its ids: it is current where they are


class Meaning(NamedTuple):
    """The parts of a Context."""

    span: Span | None
    context: SpanContext | None
    ambient: Ambient | None


def meaning_of(context: Mapping[str, Any]) -> Meaning:
    """Return the parts of *context*, an OpenTelemetry Context. Never raises."""
    given = context.get(SPAN_KEY)
    span, base = span_of(given)
    foreign = given if span is None and base is not None and not isinstance(given, RemoteSpan) else None
    baggage = context.get(BAGGAGE_KEY)
    labels = _labels(baggage, base) if baggage else None
    base = relabelled(base, labels)
    keys = {key: value for key, value in context.items() if key not in _OWN_KEYS}
    if not keys and baggage is None and foreign is None:
        return Meaning(span, base, None)
    id = base.id if foreign is not None and base is not None else b""
    return Meaning(span, base, Ambient(keys, baggage, labels, foreign, id))


def span_of(given: Any) -> tuple[Span | None, SpanContext | None]:
    """Return the span, if it is tracekit's, and the context of a Context's span."""
    kind = type(given)
    if given is None or given is INVALID_SPAN:
        return None, None
    if issubclass(kind, OtelSpan):
        return given.tracekit_span, given.tracekit_span.context
    if kind is RemoteSpan:
        return None, given.tracekit_context
    try:
        context = from_otel(given.get_span_context())
    except Exception:  # a mock of a test
        return None, None
    return None, context if context is not None and context.is_valid else None


def _labels(baggage: Any, base: SpanContext | None) -> Labels | None:
    """Return *baggage* as labels; those that are as in *base*, or as current here, keep their properties."""
    scope = current_scope()
    ambient = None if scope is None else scope.ambient
    if ambient is not None and ambient.baggage is baggage:
        known: Labels | None = ambient.labels
        return known
    context = base if base is not None and base.labels else current_context()
    return labels_of(baggage, None if context is None else context.labels or None)


class RuntimeContext(_RuntimeContext):
    """OpenTelemetry's current Context, kept in tracekit's scopes."""

    fallback: Any = None  # the runtime before install(), for tokens that it made

    def get_current(self) -> Context:
        """Return the view of the current scope, the same object while nothing changes."""
        view: Context | None = current_view()
        if view is not None:
            return view
        scope = current_scope()
        return _EMPTY if scope is None else _view(scope)

    def attach(self, context: Context) -> Any:
        """Make *context* current, and return a token for ``detach()``."""
        if not isinstance(context, dict):
            # OpenTelemetry takes any object here. It has no meaning but is returned as the current one.
            return attach_scope(None, None, None, context)
        return attach_scope(*meaning_of(context), context)

    def detach(self, token: Any) -> None:
        """Close the scope that ``attach()`` returned, from anywhere, in any order. Does nothing the second time."""
        if isinstance(token, Scope):
            token.__exit__(None, None, None)
        elif self.fallback is not None:
            try:
                self.fallback.detach(token)
            except Exception:  # made in another Context, or no token at all
                pass


def _view(scope: Scope) -> Context:
    context, span, changes = inside(scope)
    ambient: Ambient | None = scope.ambient
    values: dict[str, object] = {} if ambient is None else dict(ambient.keys)
    if span is not None:
        values[SPAN_KEY] = face(span)
    elif context is not None and (context.is_valid or not context.deferred):
        is_foreign = ambient is not None and ambient.span is not None and ambient.span_id == context.id
        values[SPAN_KEY] = ambient.span if is_foreign and ambient is not None else RemoteSpan(context)
    labels = None if context is None else context.labels or None
    if ambient is not None and ambient.labels is labels:
        if ambient.baggage is not None:
            values[BAGGAGE_KEY] = ambient.baggage
    elif labels is not None:
        values[BAGGAGE_KEY] = originals(labels, None if ambient is None else ambient.baggage)
    view = Context(values)
    if not changes:
        keep_view(scope, view)
    return view


RUNTIME = RuntimeContext()
