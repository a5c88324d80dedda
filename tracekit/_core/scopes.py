"""Scopes: the one ContextVar, and the rule that decides which one is current.

The variable holds a ``Scope``, one opening of "this is current", which stands on the scope that was current before.
Closing marks a scope closed and removes it from the Context that opened it; a Context that inherited it keeps it as the parent,
"child even though ended". Reading skips closed scopes that were opened in the running Context. So a close from another
task, thread or Context, in any order, never raises and never leaves an ended span current in the Context that opened it.
"""

from __future__ import annotations

from ..cython import binding, cclass, compiled, final, freelist, no_gc_clear, nonecheck
from .context import SpanContext
from .inherited import INHERITS, inherited_value, is_inherited
from .labels import Labels
from .misuse import misused
from .stdlib import ContextVar

if not compiled:
    from .context import generation, with_labels
    from .free_threading import (
        WITHOUT_GIL,
        alone,
        is_own,
        is_seen_again,
        may_inherit,
        note_inherited,
        own,
        share,
    )
    from .interpreter import (
        SAMPLED,
        borrow,
        change_in_place,
        exchange,
        forbid_new,
        forget,
        held,
        here,
        is_collecting,
        is_gone,
        is_here,
        is_lent,
        lent,
        put,
        references,
        referent,
        running_body,
        running_context,
        weak,
    )

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final

_current: Final[ContextVar[Any]] = ContextVar("tracekit_scope", default=None)
_threads_inherit: Final = INHERITS

# Replaced by a new object whenever scopes are replaced, and whenever one is closed that the running Context did not
# open. Counting would be a race between threads.
_replaced = object()
_closed_elsewhere = object()

if not compiled:
    SPAN: Final = 0
    CONTEXT: Final = 1
    LABELS: Final = 2
    LINKED: Final = 3
    WITH_SPAN: Final = 1
    KEYS_ONLY: Final = 2
    FOR_THREAD: Final = 3

    def last_replaced() -> object:
        """Return an object that is replaced whenever scopes are."""
        return _replaced


@final
@no_gc_clear  # a cycle goes through a foreign value and a Context, which is cleared
@freelist(128)
@binding(False)
@cclass
class Scope:
    """One opening of "this is current" by a span, a remote context or labels; a context manager that opens once.

    Closing works from any task, thread or Context, in any order, and never raises. An open scope
    keeps its span alive; a closed one keeps ids only, however long a task that inherited it lives.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_carries",
        "_context",
        "_generation",
        "_is_closed",
        "_is_released",
        "_kind",
        "_labels",
        "_leans",
        "_origin",
        "_outer",
        "_owner",
        "_prev",
        "_settled",
        "_span",
        "_stand_in",
        "_waiting",
        "ambient",
        "view",
    )

    _kind: int
    _generation: int
    _is_closed: bool
    _is_released: bool
    _span: Any  # a Span; once released None, or a weak reference where others hold this scope
    _context: SpanContext | None
    _labels: Labels | None
    _prev: Scope | None
    _base: Scope | None  # of labels: the nearest scope under them that is not labels
    # Of labels: _closed_elsewhere when all scopes down to the base were last seen open. Of a span, where a bridge opened it
    # in the body of a generator: a weak reference to that.
    _settled: Any
    _outer: Scope | None  # the same span's opening before this one, where it was entered again while open
    _stand_in: Scope | None  # the copy that replaced this scope when one under it was closed
    # The first scope that this one stands in for, borrowed: where there is one, its _stand_in is this scope, and it
    # clears this when it is deallocated.
    _origin: Any
    _owner: Any  # refers to the opener's Context
    # Attached, not entered: closed with the scope under it (KEYS_ONLY), unless it holds an open span (WITH_SPAN).
    # FOR_THREAD: made by _for_thread().
    _leans: int
    _waiting: int  # of a closed scope that was left in its place: how many wait there, with those under it
    _carries: bool  # whether this scope or one under it has foreign values, or may lean
    # For the bridges to other APIs. Values that mean nothing here, inherited by the scopes that are opened on this one,
    # and the other API's form of this scope, kept while the scope is open.
    ambient: Any
    view: Any

    def __init__(self) -> None:
        raise TypeError("scopes are made by use_span(), use_context() and use_labels()")

    def __enter__(self) -> Any:
        if self._owner is not None or self._is_closed:
            misused(RuntimeError("a scope opens once: call use_span(), use_context() or use_labels() again"))
        else:
            open_scope(self)
        if self._kind == SPAN:
            return held_span(self)
        return self._context if self._kind == CONTEXT else self._labels

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        close_scope(self)

    def __dealloc__(self) -> None:
        forget(self)
        # An ordinary close has left nothing to do.
        if not self._is_released or self._prev is not None or self._stand_in is not None or self._outer is not None:
            _deallocate(self)


if not compiled:
    import sys

    def _finalize(self: Scope, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Not one made by Scope.__new__() alone, nor at the interpreter's end: modules may be empty by then.
        if hasattr(self, "_generation") and not is_finalizing():
            self.__dealloc__()

    Scope.__del__ = _finalize  # type: ignore[attr-defined]

    # There deallocating a chain of Python objects recurses; other versions stop at a depth.
    _RECURSES = sys.version_info[:2] == (3, 13)


def make_scope(kind: int, span: Any, context: SpanContext | None, labels: Labels | None) -> Scope:
    """Return a scope that is not open yet."""
    scope = Scope.__new__(Scope)
    if not compiled:  # C fields start as None, False and NULL
        scope._is_closed = scope._is_released = False
        scope._prev = scope._base = scope._outer = scope._stand_in = None
        scope._origin = scope._owner = scope._settled = scope.ambient = scope.view = None
        scope._carries = False
        scope._leans = scope._waiting = 0
    scope._kind = kind
    scope._generation = generation()
    scope._span = span
    scope._context = context
    scope._labels = labels
    return scope


def context_scope(context: SpanContext | None) -> Scope:
    """Return a scope, not yet open, in which *context* is current; None: nothing is."""
    return make_scope(CONTEXT, None, context, None)


def label_scope(labels: Labels) -> Scope:
    """Return a scope, not yet open, that adds *labels* to those in force."""
    if not isinstance(labels, Labels):
        raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
    return make_scope(LABELS, None, None, labels)


def linked_scope(context: SpanContext | None, until: Any = None) -> Scope:
    """Return a scope, not yet open, in which a span is the root of a new trace that is linked to *context*.

    Nothing is current in it; the span *until*, where one is given, is until it ends.
    """
    scope = make_scope(LINKED, None if until is None else weak(until), context, None)
    scope._is_released = True
    return scope


def attach_scope(scope: Scope, view: Any) -> None:
    """Open *scope*, which a bridge to another API made, and keep *view*, that API's form of it."""
    prev = innermost()
    span = scope._span
    scope._leans = KEYS_ONLY if span is None or held_span(prev) is span else WITH_SPAN
    keep_view(scope, view)
    _open_on(scope, prev)


def keep_view(scope: Scope, view: Any) -> None:
    """Keep *view*, another API's form of *scope*, until it is closed."""
    if not scope._is_closed:
        scope._carries = True
        scope.view = view


def open_scope(scope: Scope) -> None:
    """Make *scope* current in the running Context."""
    _open_on(scope, innermost())


def open_in_body(scope: Scope) -> None:
    """Open *scope*, a span's. If a generator's body calls this and finishes without closing it, it leans on the one under it.

    The plain form does not know its generator, and keeps the scope open.
    """
    scope._settled = running_body()
    open_scope(scope)
    if scope._settled is not None:
        scope._carries = True


def _open_on(scope: Scope, prev: Scope | None) -> None:
    """Make *scope* current, where *prev* is."""
    scope._prev = prev
    if prev is not None and prev._carries:
        _inherit(scope, prev)
    if scope._kind == LABELS:
        _add_labels(scope, prev)
    if compiled:
        put(_current, scope)
    else:
        before = exchange(_current, scope)
        if before is not prev:  # a signal handler closed it between two bytecodes
            scope._prev = prev = live(before)
            _inherit(scope, prev)
            if scope._kind == LABELS:
                _add_labels(scope, prev)
    # After the set: it makes the Context of a thread that had none.
    if prev is not None and _is_here(prev):
        scope._owner = prev._owner
    else:
        scope._owner = here()


def _inherit(scope: Scope, prev: Scope | None) -> None:
    """Take over the foreign values of *prev*; an attached scope brings its values."""
    if not scope._leans:
        scope.ambient = None if prev is None else prev.ambient
    if prev is not None and prev._carries:
        scope._carries = True


def _add_labels(scope: Scope, prev: Scope | None) -> None:
    """Add the labels of *scope* to those that are in force in *prev*."""
    base = None if prev is None else effective(prev)
    if base is not None and base._labels is not None and scope._labels is not None:
        scope._labels = base._labels.merge(scope._labels)
    scope._context = with_labels(base, scope._labels)
    scope._base = prev._base if prev is not None and prev._kind == LABELS else prev
    scope._settled = _closed_elsewhere


def close_scope(scope: Scope) -> None:
    """Close *scope*, and make the scope under it current where *scope* is current. Does nothing where it is closed already."""
    global _closed_elsewhere
    if WITHOUT_GIL:
        own(scope)
        if not _closes_quickly(scope):
            alone()
    if scope._is_closed and scope._stand_in is None:
        return
    scope._is_closed = True  # first: a signal handler that closes a scope under this one replaces open ones only
    if scope._stand_in is not None:
        close_scope(scope._stand_in)  # one step: a copy has no copy
        if held(_current) is scope:  # inherited before it was replaced
            put(_current, live(scope._prev))
        return
    inner = held(_current)
    if inner is scope:
        is_ordinary = _is_here(scope)
        inner = live(scope._prev)
        if not put(_current, inner):
            is_ordinary = False  # a reading takes it out later
        elif inner is not None and inner._kind == LABELS:
            _settle(inner)
        if is_ordinary:
            scope._prev = scope._owner = None  # it will not be current again, so that a chain of tasks does not grow
        else:
            _closed_elsewhere = object()  # inherited: labels may stand on it in the Context that opened it
    elif inner is not None and _is_here(scope):
        if not _waits(inner, scope):
            _rebuild(inner, scope)
        _closed_elsewhere = object()  # a generator's body closed it, or labels of the body's consumer may stand on it
    else:
        _closed_elsewhere = object()
        if inner is not None and newest(inner) is scope:
            put(_current, live(inner._prev))  # inherited before this scope took its place
        elif WITHOUT_GIL and inner is not None and inner._leans == FOR_THREAD and newest(inner._prev) is scope:
            put(_current, live(inner._prev._prev))
        if is_gone(scope._owner):
            scope._prev = scope._owner = None
    _release(scope)


def _closes_quickly(scope: Scope) -> bool:
    """Tell whether closing *scope*, this thread's, concerns no other thread: it is current here, and opened here."""
    prev = scope._prev
    return (
        not scope._is_closed
        and scope._stand_in is None
        and scope.view is None
        and held(_current) is scope
        and _is_here(scope)
        and (
            prev is None
            or (is_own(prev) and not prev._is_closed and (prev._kind != LABELS or prev._settled is _closed_elsewhere))
        )
    )


def _release(scope: Scope) -> None:
    if scope.view is not None:
        scope.view = None
    if scope._is_released:
        return
    span = scope._span
    if span is not None:
        # Contexts that inherited this scope may still ask for the span, but no longer keep it alive.
        left = weak(span) if references(scope) > 1 else None
        if scope._is_released:  # meanwhile: a new object may have had garbage collected, and other threads run
            return
        scope._is_released, scope._span = True, left
    scope._is_released = True


def _deallocate(scope: Scope) -> None:
    if scope._span is not None and not scope._is_released:  # never closed: its Context is gone
        scope._span._drop_scope(scope)
    if scope._stand_in is not None and is_lent(scope._stand_in._origin, scope):
        scope._stand_in._origin = borrow(None)
    if not compiled and not _RECURSES:
        return
    if _may_end(scope._prev) or _may_end(scope._base) or _may_end(scope._outer) or _may_end(scope._stand_in):
        _release_chain(scope)


# Scopes to deallocate, one after the other: a chain of a million must not recurse a million deep.
_released: list[Any] = []
_is_releasing = False


def _may_end(scope: Scope | None) -> bool:
    """Tell whether *scope* may be deallocated with one that refers to it up to four times."""
    return scope is not None and references(scope) <= 4


def _release_chain(scope: Scope) -> None:
    """Release the scopes that *scope* refers to. The outermost call empties the list, those inside it only add to it."""
    global _is_releasing
    _released.extend((scope._prev, scope._base, scope._outer, scope._stand_in))
    scope._prev = scope._base = scope._outer = scope._stand_in = None
    while _released and not _is_releasing:  # again, if another thread has added to it before the flag was False
        _is_releasing = True
        try:
            while _released:
                _released.pop()
        finally:
            _is_releasing = False


def newest(scope: Scope) -> Scope:
    """Return the scope that has replaced *scope*, or *scope* itself."""
    while scope._stand_in is not None:
        scope = scope._stand_in
    return scope


def newest_open(scope: Scope | None) -> Scope | None:
    """Return the first that is open of *scope*, its replacement, and the same span's openings before it.

    Its Context, or a scope that stands on it, keeps it alive.
    """
    while scope is not None:
        scope = newest(scope)
        if not scope._is_closed:
            return scope
        scope = scope._outer
    return None


_FEW = 16  # open scopes that are copied for a closed one under them


def _waits(top: Scope, closed: Scope) -> bool:
    """Tell whether *closed* can wait under *top*, without a look at each scope between them, for others to be closed.

    Such looks are made where the number that waits has doubled, or else many spans that are closed oldest first would take
    quadratic time; and where few scopes stand above, or some may lean on it.
    """
    under = closed._prev
    closed._waiting = under._waiting + 1 if under is not None and under._is_closed and _is_here(under) else 1
    if top._carries or closed._waiting & (closed._waiting - 1) == 0:
        return False
    scope: Scope | None = top
    for _ in range(_FEW):
        if scope is None or scope is closed:
            return False
        scope = scope._prev
    return True


def _rebuild(top: Scope, closed: Scope) -> bool:
    """Replace the scopes from *top* down to *closed* by copies that stand on the scope under it.

    Tasks that inherited an original before keep it as it was; those spawned from now on inherit the copy.
    Scopes that lean on *closed* are closed with it.
    """
    above: list[Scope] = []
    leaning: list[Scope] = []
    are_labels = True
    owner = closed._owner
    scope: Scope | None = top
    while scope is not closed:
        if scope is None or (scope._owner is not owner and not _is_here(scope)):
            return False  # not in this chain: a generator's, whose body is not running
        if not scope._is_closed:
            if (scope._leans or scope._settled is not None) and _leans_now(scope):
                leaning.append(scope)
            else:
                above.append(scope)
                are_labels = are_labels and scope._kind == LABELS
        scope = scope._prev
    for scope in leaning:
        scope._is_closed = True
        _release(scope)
    under = live(closed)  # closed may have been replaced, and a copy of it stand elsewhere
    count = 0
    scope = closed
    while scope is not None and scope is not under:
        count += 1
        scope = scope._prev
    # Copying many for each one that is closed would take quadratic time, and while garbage is collected the copies may have
    # no place. A reading here skips those that are left, and has labels on them copied once these are innermost; a task
    # that inherits them from now on does not, where it closes all scopes above them itself.
    are_labels = are_labels and (closed._kind != LABELS or closed._stand_in is not None)
    is_left = is_collecting() or (len(above) > _FEW * count and not are_labels)
    put(_current, live(top) if is_left else replace(above, under))
    return True


def _leans_now(scope: Scope) -> bool:
    """Tell whether *scope* is closed with the one under it."""
    if scope._leans:
        return scope._leans == KEYS_ONLY or scope._span is None or scope._is_released or scope._span.ended
    if scope._kind != SPAN or scope._settled is None:
        return False
    body = referent(scope._settled)
    return body is None or (getattr(body, "gi_frame", None) is None and getattr(body, "ag_frame", None) is None)


def replace(above: list[Scope], prev: Scope | None) -> Scope | None:
    """Replace the scopes *above*, the innermost first, by copies that stand on *prev*; return the innermost copy."""
    global _replaced
    _replaced = object()
    copies: dict[Scope, Scope] = {}
    for original in reversed(above):
        copy = make_scope(original._kind, original._span, original._context, original._labels)
        copy._generation = original._generation
        copy._is_released = original._is_released
        copy._owner = original._owner
        copy._leans, copy.ambient = original._leans, original.ambient
        if original._kind == SPAN:
            copy._settled = original._settled
        if original._carries:
            copy._carries = True
            copy.view = original.view if original._kind != LABELS else None
        _stand_on_again(copy, prev)
        copies[original] = copy
        # Each opening of a span knows the one before it, of which there may be a copy now.
        copy._outer = copies.get(original._outer, original._outer) if original._outer is not None else None
        original._outer = None
        if original._span is not None and not original._is_released:
            original._span._move_scope(original, copy)
        root = lent(original._origin)
        if root is None:
            root = original
        original._origin = borrow(None)  # its place is the copy's now
        root._stand_in, copy._origin = copy, borrow(root)
        original._stand_in = copy
        original._is_closed, original._owner = True, None
        _release(original)
        prev = copy
    return prev


def _stand_on_again(scope: Scope, prev: Scope | None) -> None:
    """Have the copy of a scope, whose labels are merged already, stand on *prev*."""
    scope._prev = prev
    if scope._kind == LABELS:
        scope._context = with_labels(None if prev is None else effective(prev), scope._labels)
        scope._base = prev._base if prev is not None and prev._kind == LABELS else prev
        scope._settled = None


def effective(scope: Scope) -> SpanContext | None:
    """Return the context that is current inside *scope*."""
    if scope._kind == LINKED:
        span = held_span(scope)
        return None if span is None else span.context
    context = scope._context
    if context is not None and scope._generation != generation() and not context._remote:
        return context.replace(is_remote=True)  # opened before a fork, by the parent
    return context


def held_span(scope: Scope | None) -> Any:
    """Return the span that is current inside *scope*, or None where that is none of this process."""
    while scope is not None and scope._generation == generation() and scope._kind == LABELS:
        scope = live(scope._base)
    if scope is None or scope._generation != generation():
        return None
    span = scope._span
    if span is not None and scope._is_released:
        span = referent(span)
    return None if scope._kind == LINKED and span is not None and span.ended else span


def _is_here(scope: Scope) -> bool:
    """Tell whether *scope* was opened in the running Context."""
    return is_here(scope._owner)


def live(scope: Scope | None) -> Scope | None:
    """Return the innermost of *scope* and those under it that is still open, or that was inherited."""
    return _live_below(scope) if scope is not None and scope._is_closed else scope


def _live_below(scope: Scope | None) -> Scope | None:
    while scope is not None and scope._is_closed:
        if _is_here(scope):
            scope = scope._prev
            continue
        copy = newest(scope)
        if copy is scope or not _is_here(copy):
            break
        scope = copy  # a scope above stands on the replacement here
    return scope


def innermost() -> Scope | None:
    """Return the scope that is current here, or None."""
    inner = held(_current)
    if WITHOUT_GIL:
        own(inner)
    if _threads_inherit:
        inner = _unstick(inner)
    if WITHOUT_GIL and inner is not None:
        if inner._is_closed or inner._kind == LABELS:
            inner = _settle(inner)
        return inner if inner is None or is_own(inner) else _for_thread(inner)
    return inner if inner is None or (not inner._is_closed and inner._kind != LABELS) else _settle(inner)


def _for_thread(inner: Scope) -> Scope:
    """Return *inner*, another thread's, or from the second look on a scope of this thread that stands on it.

    So the spans of this thread need not be alone. It adds no labels, and is never closed.
    """
    if _is_here(inner) or inner._carries or inner._kind == LINKED or not is_seen_again(inner):
        return inner
    context = effective(inner)
    if context is None or not context._bits & SAMPLED:
        return inner
    scope = make_scope(LABELS, None, with_labels(context, context._labels), context._labels)
    scope._leans = FOR_THREAD
    scope._prev = inner
    scope._base = inner._base if inner._kind == LABELS else inner
    scope._settled = _closed_elsewhere
    put(_current, scope)
    scope._owner = here()
    return scope


def _unstick(inner: Scope | None) -> Scope | None:
    """Return *inner*, or where this thread inherited it a scope in its place, in which its span is current until it ends.

    From then on spans are roots that are linked to it: a thread may serve others long after.
    """
    if WITHOUT_GIL:
        if not may_inherit(inner):
            return inner
        alone()
    is_inherited_here = is_inherited(_current, inner)
    if WITHOUT_GIL:
        note_inherited(inherited_value())
    if not is_inherited_here or inner is None or inner._kind == LINKED or _is_here(inner):
        return inner
    context = effective(inner)
    if context is None or not context.is_valid:
        context = linked_context(inner)
    scope = linked_scope(context, until=held_span(inner))
    put(_current, scope)
    return scope


def _settle(inner: Scope) -> Scope | None:
    """Take out scopes that were closed from elsewhere, before a task spawned from here inherits them."""
    if inner._settled is _closed_elsewhere and not inner._is_closed:
        return inner
    if WITHOUT_GIL:
        alone()
    scope = live(inner)
    if scope is not inner:
        put(_current, scope)
    while scope is not None and scope._kind == LABELS and not is_collecting():
        seen = _closed_elsewhere
        below = scope._prev
        # Those that are closed change nothing for the ones on them; a copy of those that were replaced stands elsewhere.
        while below is not None and below._kind == LABELS and below._stand_in is None:
            below = below._prev
        if below is None or live(below) is below or not _rebuild(scope, below):
            # A closed scope stays under labels that were inherited; the Context that opened them has yet to take it out.
            if below is None or not below._is_closed or _is_here(scope):
                scope._settled = seen
                if WITHOUT_GIL and scope._leans == FOR_THREAD and scope._prev is not None:
                    context = effective(scope._prev)
                    scope._context = with_labels(context, None if context is None else context._labels)
            break
        scope = held(_current)
    return scope


def inside_context(context: Any) -> tuple[SpanContext | None, Any]:
    """Return the context and the span that are current in *context*, the ``contextvars.Context`` of another task.

    For a look from outside: nothing is entered, written or settled. Where the innermost scope is closed and one under
    it is open, it is the open one.
    """
    inner = context.get(_current)
    scope = inner
    while scope is not None and scope._is_closed:
        scope = newest(scope) if scope._stand_in is not None else scope._prev
    if scope is None:
        scope = inner
    return (None, None) if scope is None else (effective(scope), held_span(scope))


def thread_context(ident: int) -> Any:
    """Return the running ``contextvars.Context`` of the thread *ident*, or None; the plain form knows none."""
    return running_context(ident)


def current_scope() -> Scope | None:
    """Return the scope that is current here, or None."""
    return innermost()


def current_span() -> Any:
    """Return the span that a new span would have as its parent here, or None where that is none of this process."""
    scope = innermost()
    if scope is None:
        return None
    if scope._kind == SPAN and not scope._is_released and scope._generation == generation():
        return scope._span  # as held_span() does
    return held_span(scope)


def current_context() -> SpanContext | None:
    """Return the context that a new span would continue here, local or remote, ids and labels; None if there is none."""
    scope = innermost()
    return None if scope is None else effective(scope)


def is_current(scope: Scope) -> bool:
    """Return whether *scope*, or the copy that replaced it, is the innermost one here apart from labels."""
    inner = innermost()
    while inner is not None and inner._kind == LABELS:
        inner = live(inner._base)
    return scope is not None and inner is newest(scope)


@nonecheck(True)
def put_context(scope: Scope, context: SpanContext) -> None:
    """Let *scope*, which a span opened, have the changed *context* of this span."""
    global _closed_elsewhere
    if WITHOUT_GIL:
        _closed_elsewhere = object()  # scopes of other threads may stand on it
    if scope._kind == SPAN:
        scope._context = context
        scope.view = None
    if scope._stand_in is not None:
        put_context(scope._stand_in, context)


def linked_context(scope: Scope | None) -> SpanContext | None:
    """Return the context that the root of a new trace started in *scope* is linked to, or None."""
    while scope is not None and scope._kind == LABELS:
        scope = live(scope._base)
    return None if scope is None or scope._kind != LINKED else scope._context


def held_scope() -> Scope | None:
    """Return the value of the running Context, open or not, for ``swap_scope()`` to put back."""
    if _threads_inherit:
        _unstick(held(_current))
    inner: Scope | None = held(_current)
    return inner


def may_swap() -> bool:
    """Return whether ``swap_scope()`` is safe here: not in the thread that collects garbage."""
    return not is_collecting()


def swap_scope(scope: Scope | None) -> Scope | None:
    """Make *scope*, open or None, the value of the running Context, and return the one before."""
    inner: Scope | None
    if _threads_inherit:
        _unstick(held(_current))
    if compiled:
        inner = held(_current)
        put(_current, scope)
    else:
        inner = exchange(_current, scope)
    return inner


if WITHOUT_GIL:
    share(_current)
forbid_new(Scope)
change_in_place(_current)
