# cython: nonecheck=True
"""``RuntimeContext``: tracekit's scopes as the store of OpenTelemetry's current Context.

There is no second ContextVar. The current Context is a view of the innermost scope, made when first asked for and kept
with the scope; ``attach()`` opens a scope and returns a token that holds it, so a token can be detached from any task or
thread, in any order, more than once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import baggage as _baggage
from opentelemetry.context import context as _context
from opentelemetry.context.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from ...cython import binding, cclass, compiled, final, freelist
from .contexts import RemoteSpan, labels_of, originals

if not compiled:
    from ..._core.context import generation
    from ..._core.guard import is_a
    from ..._core.interpreter import DEFERRED, references
    from ..._core.scopes import (
        CONTEXT,
        KEYS_ONLY,
        LINKED,
        SPAN,
        WITH_SPAN,
        attach_scope,
        close_scope,
        effective,
        held_span,
        innermost,
        keep_view,
        make_scope,
    )
    from .contexts import from_otel, relabelled, remote_span
    from .spans import face, is_ours

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..._core.context import SpanContext
    from ..._core.labels import Labels
    from ..._core.scopes import Scope

_EMPTY: Final = Context()
# The API's constants are private; its functions show them.
(SPAN_KEY,) = set_span_in_context(INVALID_SPAN, _EMPTY)
(BAGGAGE_KEY,) = _baggage.set_baggage("key", "value", _EMPTY)
_NO_KEYS: Final[dict[str, object]] = {}
_api_set_baggage: Final = _baggage.set_baggage
_HELD_ONCE: Final = 2 if compiled else 1  # references: that one, and a local variable; the plain form does not count

if not compiled:
    # Of a dict of any class, whose own methods may be the program's.
    value_of: Any = dict.get
    has_key: Any = dict.__contains__
    count_of: Any = dict.__len__
    put_value: Any = dict.__setitem__

    def is_untouched(_: RuntimeContext) -> bool:
        """Return whether the runtime's methods may be inlined: tests of others replace them."""
        return False


@final
@freelist(16)
@binding(False)
@cclass
class Ambient:
    """The values of a Context that tracekit has no use for; scopes inherit them."""

    if not compiled:
        __slots__ = ("_baggage", "_labels", "_span", "_span_id", "keys")

    keys: Mapping[str, object]  # all but the span and the baggage
    _baggage: Any  # the very objects, which the labels were made from
    _labels: Labels | None
    _span: Any  # of another implementation of the API
    _span_id: bytes | None  # its ids: it is current where they are


@final
@freelist(16)
@binding(False)
@cclass
class Token:
    """The result of ``attach()``. Nothing else of this Context refers to its scope, so its last reference can be told."""

    if not compiled:
        __slots__ = ("_scope",)

    _scope: Scope | None  # None once it is detached

    # As contextvars.Token, which the SDK's is: some libraries do not use detach(), as it logs errors.

    @property
    def var(self) -> RuntimeContext:
        """What ``reset()`` detaches the token from."""
        return _runtime

    def __enter__(self) -> Token:
        return self

    def __exit__(self, *exc_info: object) -> None:
        _runtime.detach(self)


def _attach(context: Any) -> Token:
    scope = scope_for(context) if is_a(context, dict) else make_scope(CONTEXT, None, None, None)
    token = Token.__new__(Token)
    token._scope = scope
    _drop_lost()
    attach_scope(scope, context)
    return token


def _drop_lost() -> None:
    """Take out attached scopes that cannot be current again: their tokens are gone, and that of the current one, too.

    A program that attaches a context for each message and detaches none would pile them up. A token, a Context or a
    generator's body that holds a scope is seen by its references. The plain form does not count them, and drops none.
    """
    inner = innermost()
    if inner is None or not _is_attached(inner) or references(inner) > _HELD_ONCE:
        return
    below = inner._prev
    while below is not None and _is_attached(below) and references(below) <= _HELD_ONCE:
        inner._prev = below._prev
        below = inner._prev


def _is_attached(scope: Scope) -> bool:
    return scope._leans == KEYS_ONLY or scope._leans == WITH_SPAN


def _detach(token: Token) -> None:
    scope = token._scope
    if scope is not None:
        token._scope = None
        close_scope(scope)


def scope_for(context: Mapping[str, Any]) -> Scope:
    """Return a scope, not yet open, in which what *context*, an OpenTelemetry Context, holds is current. Never raises."""
    given = value_of(context, SPAN_KEY)
    base: SpanContext | None = None
    foreign = None
    if given is not None:
        if is_ours(given):
            made = given
            span = made.tracekit_span
            base = span.context
            if base._labels is None and count_of(context) == 1:
                scope = make_scope(SPAN, span, base, None)
                scope._carries = True
                return scope
        else:
            base = context_of(given)
            if base is not None and type(given) is not RemoteSpan:
                foreign = given
    baggage = value_of(context, BAGGAGE_KEY)
    labels = _labels(baggage, base) if baggage else None
    scope = make_scope(CONTEXT, None, relabelled(base, labels), None)
    scope._carries = True
    if is_ours(given):
        made = given
        scope._kind = SPAN
        scope._span = made.tracekit_span
    count = count_of(context) - has_key(context, SPAN_KEY) - has_key(context, BAGGAGE_KEY)
    if count or baggage is not None or foreign is not None:
        ambient = Ambient.__new__(Ambient)
        ambient.keys = _other_keys(context) if count else _NO_KEYS
        ambient._baggage = baggage
        ambient._labels = labels
        ambient._span = foreign
        ambient._span_id = None if foreign is None or base is None else base.id
        scope.ambient = ambient
    return scope


def _other_keys(context: Any) -> dict[str, object]:
    keys = dict(context)
    keys.pop(SPAN_KEY, None)
    keys.pop(BAGGAGE_KEY, None)
    return keys


def context_of(given: Any) -> SpanContext | None:
    """Return the context of a Context's span that is not one of tracekit's."""
    if given is INVALID_SPAN:
        return None
    if type(given) is RemoteSpan:
        remote: SpanContext = given.tracekit_context
        return remote
    try:
        context = from_otel(given.get_span_context())
    except Exception:  # a mock of a test
        return None
    return context if context is not None and context.is_valid else None


def _labels(baggage: Any, base: SpanContext | None) -> Labels | None:
    """Return *baggage* as labels; those that are as in *base*, or as current here, keep their properties."""
    scope = innermost()
    context = base
    if scope is not None:
        if scope.ambient is not None:
            ambient = scope.ambient
            if ambient._baggage is baggage:
                return ambient._labels  # type: ignore[no-any-return]
        if base is None or base._labels is None:
            context = effective(scope)
    return labels_of(baggage, None if context is None else context._labels)


@final
@binding(False)
@cclass
class RuntimeContext:
    """OpenTelemetry's current Context, kept in tracekit's scopes.

    ``fallback`` is the runtime before ``install()``, for the tokens that it made.
    """

    if not compiled:
        fallback: Any = None

    def get_current(self) -> Context:
        """Return the view of the current scope, the same object while nothing changes."""
        return _current_view()

    def attach(self, context: Context) -> Any:
        """Make *context* current, and return a token for ``detach()``.

        OpenTelemetry takes any object here. One that is no Context has no meaning, but is returned as the current one.
        """
        return _attach(context)

    def detach(self, token: Any) -> None:
        """Close the scope that ``attach()`` returned, from anywhere, in any order. Does nothing the second time."""
        if type(token) is Token:
            _detach(token)
        elif self.fallback is not None:
            try:
                self.fallback.detach(token)
            except Exception:  # made in another Context, or no token at all
                pass

    def reset(self, token: Any) -> None:
        """Detach *token*, for libraries that call ``token.var.reset(token)``."""
        self.detach(token)


if hasattr(_context, "_RuntimeContext"):
    _context._RuntimeContext.register(RuntimeContext)


def _current_view() -> Context:
    scope = innermost()
    if scope is None:
        return _EMPTY
    if scope.view is not None and scope._generation == generation():
        return scope.view  # type: ignore[no-any-return]
    return _view(scope)


def _view(scope: Scope) -> Context:
    """Return OpenTelemetry's form of *scope*, and keep it with the scope if nothing can change while that is open."""
    context = effective(scope)
    span = held_span(scope)
    ambient = scope.ambient
    view = Context() if ambient is None or not ambient.keys else Context(ambient.keys)
    if span is not None:
        put_value(view, SPAN_KEY, face(span))
    elif context is not None and (context._is_valid() or not context._bits & DEFERRED):
        is_foreign = ambient is not None and ambient._span is not None and ambient._span_id == context.id
        put_value(view, SPAN_KEY, ambient._span if is_foreign else remote_span(context))
    labels = None if context is None else context._labels
    if ambient is not None and ambient._labels is labels:
        if ambient._baggage is not None:
            put_value(view, BAGGAGE_KEY, ambient._baggage)
    elif labels is not None:
        put_value(view, BAGGAGE_KEY, originals(labels, None if ambient is None else ambient._baggage))
    if scope._kind != LINKED and scope._generation == generation():
        keep_view(scope, view)
    return view


_runtime = RuntimeContext()
RUNTIME = _runtime


def get_current() -> Context:
    """Return the current Context. Takes the place of ``opentelemetry.context.get_current()``."""
    if is_untouched(_runtime):
        return _current_view()
    current: Context = RUNTIME.get_current()
    return current


def attach(context: Context) -> Any:
    """Make *context* current, and return a token for ``detach()``. Takes the place of ``opentelemetry.context.attach()``."""
    if is_untouched(_runtime):
        return _attach(context)
    return RUNTIME.attach(context)


def set_baggage(name: str, value: object, context: Context | None = None) -> Context:
    """Return *context*, or the current one, with *value* under *name* in its baggage.

    Takes the place of ``opentelemetry.baggage.set_baggage()``, which copies the current Context twice.
    """
    if context is not None or not is_untouched(_runtime):
        return _api_set_baggage(name, value, context)
    view = _current_view()
    if type(view) is not Context:  # something of the program's was attached
        return _api_set_baggage(name, value)
    found = value_of(view, BAGGAGE_KEY)
    baggage: dict[str, object] = {}
    if type(found) is dict:
        given = found
        baggage = given.copy()
    baggage[name] = value
    made = Context(view)
    put_value(made, BAGGAGE_KEY, baggage)
    return made


def detach(token: Any) -> None:
    """Close the scope that ``attach()`` returned. Takes the place of ``opentelemetry.context.detach()``."""
    if type(token) is Token and is_untouched(_runtime):
        _detach(token)
    else:
        RUNTIME.detach(token)
