"""The plain twin's scopes: the one ContextVar and what it points to."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, final

from .context import DEFERRED, SpanContext, generation, make_from_parts

if TYPE_CHECKING:
    from contextvars import Token
    from types import TracebackType

    from .labels import Labels
    from .span import Span

__all__ = [
    "LABELS",
    "SPAN",
    "Body",
    "Scope",
    "current_context",
    "current_scope",
    "current_span",
    "linked_context",
    "swap_scope",
    "use_scope",
]

_current: ContextVar[Scope | None] = ContextVar("tracekit_scope", default=None)
# A Token of this one tells its Context from every other, copies included: reset() refuses elsewhere. It is a
# variable of its own because a Token also holds the value before, which here is nothing.
_here: ContextVar[None] = ContextVar("tracekit_here")

_replaced = object()  # another one each time that scopes are; counting would be a race between threads

SPAN: Final = 0
CONTEXT: Final = 1
LABELS: Final = 2
LINKED: Final = 3


@final
class Scope:
    """One opening of "this is current" by a span, a remote context or labels; a context manager that opens once.

    Closing works from any task, thread or Context, in any order, and never raises. An open scope
    keeps its span alive; a closed one keeps ids only, however long a task that inherited it lives.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_context",
        "_generation",
        "_kind",
        "_labels",
        "_origin",
        "_owner",
        "_prev",
        "_span",
        "_stand_in",
    )

    def __init__(self, kind: int, span: Span | None, context: SpanContext | None, labels: Labels | None) -> None:
        self._kind = kind
        self._span: Span | weakref.ref[Span] | None = span
        self._context = context
        self._labels = labels
        self._prev: Scope | None = None
        self._owner: Token[None] | None = None
        self._closed = False
        # What took this scope's place when one under it was closed, and whose place this one took.
        self._stand_in: Scope | None = None
        self._origin: weakref.ref[Scope] | None = None
        self._generation = generation()

    def __enter__(self) -> Span | SpanContext | Labels | None:
        if self._owner is not None or self._closed:
            raise RuntimeError("a scope opens once: call use_span(), use_context() or use_labels() again")
        self._open()
        if self._kind == SPAN:
            return self._held_span()
        return self._context if self._kind == CONTEXT else self._labels

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> None:
        prev = current_scope()
        self._prev = prev
        if self._kind == LABELS:
            base = None if prev is None else prev._effective()
            if base is not None and base._labels is not None:
                self._labels = base._labels.merge(self._labels)  # type: ignore[arg-type]
            self._context = _with_labels(base, self._labels)
        _current.set(self)
        self._owner = _here.set(None)

    def _close(self) -> None:
        if self._stand_in is not None:
            self._stand_in._close()  # one step: it has none of its own
            if _current.get() is self:  # inherited before it was replaced
                _current.set(_live(self._prev))
            return
        if self._closed:
            return
        self._closed = True
        held = _current.get()
        if held is self:
            is_here = _is_here(self)
            _current.set(_live(self._prev))
            current_scope()
            if is_here:
                # An ordinary close. Nobody pops this scope again, so a chain of tasks that each start the
                # next one does not grow; labels still need the span or remote context that they stood on.
                self._owner = None
                anchor = self._prev if self._kind == LABELS else None
                while anchor is not None and anchor._kind == LABELS:
                    anchor = anchor._prev
                self._prev = anchor
        elif held is not None and _is_here(self):
            _rebuild(held, self)
        elif held is not None and _newest(held) is self:
            _current.set(_live(held._prev))  # inherited before this scope took its place
        self._release()

    def _release(self) -> None:
        span = self._span
        if span is not None and not isinstance(span, weakref.ref):
            # Whoever inherited this scope may still ask for the span, but no longer keeps it alive.
            self._span = weakref.ref(span)

    def _effective(self) -> SpanContext | None:
        """Return the context that is current inside this scope."""
        if self._kind == LINKED:
            span = self._held_span()
            return None if span is None else span.context
        context = self._context
        if context is not None and self._generation != generation() and not context._is_remote:
            return context.replace(is_remote=True)  # opened before a fork, by the parent
        return context

    def _held_span(self) -> Span | None:
        # Not recursive: labels may be thousands deep.
        scope: Scope | None = self
        while scope is not None and scope._generation == generation() and scope._kind == LABELS:
            scope = _live(scope._prev)
        if scope is None or scope._generation != generation():
            return None
        span = scope._span() if isinstance(scope._span, weakref.ref) else scope._span
        return None if scope._kind == LINKED and span is not None and span.ended else span


def _with_labels(base: SpanContext | None, labels: Labels | None) -> SpanContext:
    if base is None:
        return make_from_parts(0, 0, DEFERRED, "", labels or None, False)
    return make_from_parts(
        base._trace_id, base._span_id, base._flags, base._state, labels or None, base._is_remote, base._extra
    )


def _is_here(scope: Scope) -> bool:
    """Tell whether *scope* was opened in the Context that runs now."""
    if scope._owner is None:
        return False
    try:
        _here.reset(scope._owner)
    except (ValueError, RuntimeError):
        return False
    scope._owner = _here.set(None)  # a Token works once
    return True


def _live(scope: Scope | None) -> Scope | None:
    """Return the innermost of *scope* and those under it that is still open, or that was inherited."""
    while scope is not None and scope._closed:
        if _is_here(scope):
            scope = scope._prev
            continue
        copy = _newest(scope)
        if copy is scope or not _is_here(copy):
            break
        scope = copy  # what stands on a scope stands on what has taken its place here
    return scope


def _newest(scope: Scope) -> Scope:
    """Return what has taken the place of *scope*, or *scope* itself."""
    while scope._stand_in is not None:
        scope = scope._stand_in
    return scope


def _rebuild(top: Scope, closed: Scope) -> bool:
    """Put copies of the scopes from *top* down to *closed*, which go on without it, in the place of the originals.

    Tasks that inherited an original before keep it as it was; those spawned from now on inherit the copy.
    """
    above: list[Scope] = []
    scope: Scope | None = top
    while scope is not closed:
        if scope is None or not _is_here(scope):
            return False  # not in this chain: a generator's, whose body is not running
        if not scope._closed:
            above.append(scope)
        scope = scope._prev
    _current.set(_replace(above, _live(closed._prev)))
    return True


def _replace(above: list[Scope], prev: Scope | None) -> Scope | None:
    """Put copies that stand on *prev* in the place of the scopes *above*, the innermost first; return the innermost."""
    global _replaced
    _replaced = object()
    for original in reversed(above):
        copy = Scope(original._kind, None, original._context, original._labels)
        copy._span, copy._generation = original._span, original._generation
        copy._prev = prev
        if copy._kind == LABELS:
            copy._context = _with_labels(None if prev is None else prev._effective(), copy._labels)
        copy._owner = _here.set(None)
        span = original._span
        if span is not None and not isinstance(span, weakref.ref):
            span._replace_scope(original, copy)
        root = original if original._origin is None else original._origin()
        if root is not None:
            root._stand_in, copy._origin = copy, weakref.ref(root)
        original._stand_in = copy
        original._closed, original._owner = True, None
        original._release()
        prev = copy
    return prev


def current_scope() -> Scope | None:
    """Return the scope that says what is current here, or None."""
    held = _current.get()
    return held if held is None or (not held._closed and held._kind != LABELS) else _settle(held)


def _settle(held: Scope) -> Scope | None:
    """Put right what was closed from elsewhere, before a task spawned from here inherits it; return the innermost."""
    scope = _live(held)
    if scope is not held:
        _current.set(scope)
    while scope is not None and scope._kind == LABELS:
        below = scope._prev
        while below is not None and below._kind == LABELS and not below._closed:
            below = below._prev
        if below is None or not below._closed or not _is_here(below) or not _rebuild(scope, below):
            break
        scope = _current.get()
    return scope


def use_scope(kind: int, span: Span | None, context: SpanContext | None, labels: Labels | None) -> Scope:
    """Return a scope, not yet open, for a span (kind 0), a context or nothing (1), labels (2), or a link (3).

    Inside a link to *context* nothing is current, and a span is the root of a new trace, linked to it; only until
    *span* ends, where that is given, *span* is still current.
    """
    scope = Scope(kind, span, context, labels)
    if kind == LINKED:
        scope._release()
    return scope


def current_span() -> Span | None:
    """Return the span that a new span would have as its parent here, or None where that is none of this process."""
    scope = current_scope()
    return None if scope is None else scope._held_span()


def current_context() -> SpanContext | None:
    """Return what a new span would continue here: ids and labels, local or remote; None where there is neither."""
    scope = current_scope()
    return None if scope is None else scope._effective()


def linked_context(scope: Scope | None) -> SpanContext | None:
    """Return what the root of a new trace that is started in *scope* is linked to."""
    while scope is not None and scope._kind == LABELS:
        scope = _live(scope._prev)
    return None if scope is None or scope._kind != LINKED else scope._context


def swap_scope(scope: Scope | None) -> Scope | None:
    """Make *scope*, open or None, what the running Context holds, and return what it held."""
    held = _current.get()
    _current.set(scope)
    return held


@final
class Body:
    """The scopes of a generator's body, from *inside* down to *under*, to be put in place for each step.

    They go along to whichever task or thread makes the step, and what the body left open stays in them.
    """

    __slots__ = ("_held", "_inside", "_replaced", "_under")

    def __init__(self, inside: Scope | None, under: Scope | None) -> None:
        self._inside = inside
        self._under = under
        self._held: Scope | None = None
        self._replaced = _replaced

    def enter(self) -> None:
        """Put the scopes in place, for the step that follows."""
        scope = self._inside
        while scope is not None and scope is not self._under:
            if scope._owner is not None:
                scope._owner = _here.set(None)
            scope = scope._prev
        self._held = swap_scope(self._inside)
        self._replaced = _replaced

    def leave(self) -> None:
        """Take them out again after the step, as it left them."""
        held, self._held = self._held, None
        is_as_before = self._replaced is _replaced
        self._inside = swap_scope(held if is_as_before else _restored(held))
        if not is_as_before and not _stands_on(self._inside, self._under):
            self._under = _floor(self._inside, self._under)


def _restored(held: Scope | None) -> Scope | None:
    """Return what a consumer holds, standing on the copies where a step has replaced what it stood on.

    The body can close what is under it, and its consumer may have opened more on that.
    """
    above: list[Scope] = []
    scope = held
    while scope is not None:
        copy = _newest(scope)
        if copy is not scope:
            return _replace(above, _live(copy)) if _is_here(copy) else held
        if not _is_here(scope):
            break
        if not scope._closed:
            above.append(scope)
        scope = scope._prev
    return held


def _stands_on(scope: Scope | None, under: Scope | None) -> bool:
    while scope is not None and scope is not under:
        scope = scope._prev
    return scope is under


def _floor(inside: Scope | None, under: Scope | None) -> Scope | None:
    """Return what a body stands on since its step has closed *under*, or what that stood on.

    What is below is others', in whose Contexts it must stay; where that cannot be told, nothing is the body's own.
    """
    while under is not None:
        if under._stand_in is not None:
            under = under._stand_in
        elif under._closed and _is_here(under):
            under = under._prev
        else:
            break
    return under if _stands_on(inside, under) else inside
