"""OpenTracing's ScopeManager over tracekit's scopes.

An active scope is a scope of tracekit that has the OpenTracing ``Scope`` among its foreign values, so tasks, threads and
``tracekit.span()`` inherit it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import opentracing

from ... import _current
from ..._core.scopes import attach_scope, current_scope, current_span, is_in_place
from .spans import Span, leave

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Scope", "ScopeManager", "patch_no_parent_scope"]

_KEY = "tracekit-opentracing-scope"


class Ambient(NamedTuple):
    """Foreign values of a scope, with the fields that the bridge to OpenTelemetry reads."""

    keys: dict[str, object]
    baggage: Any = None
    labels: Any = None
    span: Any = None
    span_id: bytes = b""


class _Place:
    """Holds the ``Scope`` until it is closed: tasks that inherited it do not keep its span alive."""

    __slots__ = ("scope",)

    def __init__(self, scope: Scope) -> None:
        self.scope: Scope | None = scope


class Scope(opentracing.Scope):  # type: ignore[misc]
    """The time in which a span is active. Closing one that is not the active scope does nothing."""

    def __init__(self, manager: ScopeManager, span: Any, finish_on_close: bool = False) -> None:
        super().__init__(manager, span)
        self._finishes = bool(finish_on_close)
        self._opened: Any = None  # tracekit's scope; None where the span was made current in another way
        self._place: _Place | None = None

    def close(self) -> None:
        """Make the span that was active before active again; finish this one if that was asked for."""
        if self._place is None or self.manager.active is not self:
            return
        opened, self._opened = self._opened, None
        if opened is None:  # closed by another thread meanwhile
            return
        self._place.scope = self._place = None
        opened.__exit__(None, None, None)
        if isinstance(self.span, Span):
            self.span.scopes.remove(opened)
        if self._finishes:
            self.span.finish()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None and isinstance(self.span, Span):
            leave(self.span.tracekit_span, exc)
            self.close()
        else:
            super().__exit__(kind, exc, traceback)


class ScopeManager(opentracing.ScopeManager):  # type: ignore[misc]
    """Makes spans active, and returns the active one: that of a ``Scope``, or a span that tracekit made current."""

    def __init__(self, tracer: Any = None) -> None:
        super().__init__()
        self._tracer = tracer

    def activate(self, span: Any, finish_on_close: bool) -> Scope:
        """Make *span* current until the returned scope is closed; of a span of another tracer nothing is current."""
        scope = Scope(self, span, finish_on_close)
        scope._place = _Place(scope)
        inner = span.tracekit_span if isinstance(span, Span) else None
        here = current_scope()
        before = None if here is None else here.ambient
        keys = {_KEY: scope._place} if before is None else {**before.keys, _KEY: scope._place}
        ambient = Ambient(keys) if before is None else before._replace(keys=keys)
        scope._opened = attach_scope(inner, None if inner is None else inner.context, ambient, None)
        if inner is not None:
            span.scopes.append(scope._opened)
        return scope

    @property
    def active(self) -> Any:
        """The innermost scope that is not closed, or None."""
        here = current_scope()
        if here is None:
            return None
        place = None if here.ambient is None else here.ambient.keys.get(_KEY)
        scope = None if place is None else place.scope
        now = current_span()
        if scope is not None:
            if isinstance(scope.span, Span):
                if scope.span.tracekit_span is now:
                    return scope
            elif now is None and is_in_place(scope._opened, here):
                return scope
        return None if now is None else Scope(self, Span.of(self._tracer, now))


def patch_no_parent_scope() -> None:
    """Replace OpenTracing's helper of this name, which empties the ContextVar of OpenTracing's manager."""
    try:
        from opentracing.scope_managers import contextvars as module
    except ImportError:
        return
    module.no_parent_scope = _no_parent_scope


def _no_parent_scope() -> Any:
    return _current.use_context(None)
