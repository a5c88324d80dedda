"""OpenTracing's ScopeManager over tracekit's scopes.

tracekit's scopes decide which span is active. The ContextVar here only keeps the ``Scope`` objects of the running Context,
because programs start scopes without a reference to them and close them through ``ScopeManager.active``.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import opentracing

from ... import _current
from ..._core.scopes import context_scope, current_span, is_current, put_context
from ..._core.span import span_scope
from .spans import Span, leave

if TYPE_CHECKING:
    from ..._core.context import SpanContext
    from ..._core.span import Span as TracekitSpan

_places: ContextVar[tuple[_Place, ...]] = ContextVar("tracekit_opentracing_scopes", default=())


class _Place:
    """Holds a ``Scope`` until it is closed: tasks that inherited it do not keep its span alive."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope | None = scope


class Scope(opentracing.Scope):  # type: ignore[misc]
    """The time in which a span is active. Closing it does nothing while one that was opened later is open."""

    def __init__(self, manager: ScopeManager, span: Any, finish_on_close: bool = False) -> None:
        super().__init__(manager, span)
        self._finishes = bool(finish_on_close)
        self._opened: Any = None  # tracekit's scope; None where the span was made current in another way
        self._place: _Place | None = None

    def close(self) -> None:
        """Make the span that was active before active again; finish this one if ``finish_on_close`` was set."""
        if self._place is None or _innermost() not in (None, self):
            return
        opened, self._opened = self._opened, None
        if opened is None:  # closed by another thread meanwhile
            return
        self._place.scope = None
        self._place = None
        opened.__exit__(None, None, None)
        if isinstance(self.span, Span):
            self.span.scopes.remove(self)
        if self._finishes:
            self.span.finish()

    def put_context(self, context: SpanContext) -> None:
        """Take over the changed context of the span."""
        if self._opened is not None:
            put_context(self._opened, context)

    def is_of(self, now: TracekitSpan | None) -> bool:
        """Return whether *now*, the current span, is this scope's; None is that of another tracer's span."""
        if isinstance(self.span, Span):
            return self.span.tracekit_span is now
        opened = self._opened
        return opened is not None and is_current(opened)

    def __exit__(self, kind: Any, exc: BaseException | None, traceback: Any) -> None:
        if exc is not None and isinstance(self.span, Span):
            try:
                leave(self.span.tracekit_span, exc)
            finally:  # a signal handler may raise there
                self.close()
        else:
            super().__exit__(kind, exc, traceback)


class ScopeManager(opentracing.ScopeManager):  # type: ignore[misc]
    """Makes spans active, and returns the active one: that of a ``Scope``, or a span that tracekit made current."""

    def __init__(self, tracer: Any = None) -> None:
        super().__init__()
        self._tracer = tracer

    def activate(self, span: Any, finish_on_close: bool) -> Scope:
        """Make *span* current until the returned scope is closed; with another tracer's span, no span is current."""
        scope = Scope(self, span, finish_on_close)
        scope._place = _Place(scope)
        inner = span.tracekit_span if isinstance(span, Span) else None
        scope._opened = context_scope(None) if inner is None else span_scope(inner)
        scope._opened.__enter__()
        if isinstance(span, Span):
            span.scopes.append(scope)
        _places.set((*(place for place in _places.get() if place.scope is not None), scope._place))
        return scope

    @property
    def active(self) -> Any:
        """The innermost scope that is not closed, or None."""
        now = current_span()
        scope = _innermost()
        if scope is not None:
            if scope.is_of(now):
                return scope
        elif now is not None:
            # In a thread to which only tracekit's scopes were handed.
            scopes = Span.of(self._tracer, now).scopes
            if scopes:
                return scopes[-1]
        return None if now is None else Scope(self, Span.of(self._tracer, now))


def _innermost() -> Any:
    """Return the scope that was opened last of those that are open in the running Context, or None."""
    for place in reversed(_places.get()):
        scope = place.scope
        if scope is not None:
            return scope
    return None


def patch_no_parent_scope() -> None:
    """Replace OpenTracing's helper of this name, which empties the ContextVar of OpenTracing's manager."""
    try:
        from opentracing.scope_managers import contextvars as module
    except ImportError:
        return
    module.no_parent_scope = _no_parent_scope


def _no_parent_scope() -> Any:
    return _current.use_context(None)
