# The compiled twin's scopes: the one ContextVar and what it points to.

cdef object _current = _ContextVar("tracekit_scope", default=None)
cdef uint64_t _replaced = 0  # how often scopes were

cdef enum:
    SPAN = 0
    CONTEXT = 1
    LABELS = 2
    LINKED = 3


@cython.final
@cython.no_gc  # in no cycle: a span points back without owning
@cython.freelist(128)
cdef class Scope:
    """One opening of "this is current" by a span, a remote context or labels; a context manager that opens once.

    Closing works from any task, thread or Context, in any order, and never raises. An open scope
    keeps its span alive; a closed one keeps ids only, however long a task that inherited it lives.
    """

    cdef int kind
    cdef uint32_t generation
    cdef bint closed
    cdef object span  # a Span while open; then None, or a weak reference where others hold this scope
    cdef SpanContext context
    cdef object labels
    cdef Scope prev
    cdef Scope outer  # the same span's opening before this one, where it was entered again while open
    cdef Scope stand_in  # the copy that replaced this scope when one under it was closed
    # The first scope that this one stands in for. Borrowed: where it is not NULL, origin.stand_in is this scope, and
    # the origin clears it when it is deallocated.
    cdef PyObject* origin
    cdef object owner  # a weak reference to the opener's Context

    def __init__(self):
        raise TypeError("scopes are made by use_span(), use_context() and use_labels()")

    def __enter__(self):
        if self.owner is not None or self.closed:
            raise RuntimeError("a scope opens once: call use_span(), use_context() or use_labels() again")
        _open(self)
        if self.kind == SPAN:
            return _held_span(self)
        return self.context if self.kind == CONTEXT else self.labels

    def __exit__(self, kind, exc, traceback):
        _close(self)

    def __dealloc__(self):
        if type(self.span) is Span and (<Span>self.span).scope == <PyObject*>self:
            (<Span>self.span).scope = _newest_open(self.outer)
        if self.stand_in is not None and self.stand_in.origin == <PyObject*>self:
            self.stand_in.origin = NULL
        if _ends_with(self.prev) or _ends_with(self.outer) or _ends_with(self.stand_in):
            _let_go(self)


cdef list _released = []  # scopes to deallocate
cdef bint _is_releasing = False


cdef inline bint _ends_with(Scope scope) noexcept:
    """Tell whether *scope* may be deallocated with a scope that holds it up to three times: prev, outer, stand_in."""
    return scope is not None and Py_REFCNT(scope) <= 3


cdef int _let_go(Scope scope) except -1:
    """Release the scopes that *scope* holds one after the other: a chain of a million must not recurse a million deep.

    The innermost call only adds to the list, the outermost empties it.
    """
    global _is_releasing
    for held in (scope.prev, scope.outer, scope.stand_in):
        if held is not None:
            _released.append(held)
    held = scope.prev = scope.outer = scope.stand_in = None
    if _is_releasing:
        return 0
    _is_releasing = True
    try:
        while _released:
            held = _released.pop()
            held = None
    finally:
        _is_releasing = False
    return 0


cdef PyObject* _newest_open(Scope scope) noexcept:
    """Return, borrowed, the innermost scope still open of *scope*, what replaced it, and the openings around it.

    The reference that keeps it alive is its Context's, or that of a scope inside it.
    """
    while scope is not None:
        scope = _newest(scope)
        if not scope.closed:
            return <PyObject*>scope
        scope = scope.outer
    return NULL


cdef inline Scope _make_scope(int kind, object span, SpanContext context, object labels):
    cdef Scope scope = Scope.__new__(Scope)
    scope.kind = kind
    scope.generation = _generation
    scope.span = span
    scope.context = context
    scope.labels = labels
    return scope


cdef inline Scope _held():
    """Return what the running Context holds, as it is."""
    cdef PyObject* value = NULL
    PyContextVar_Get(_current, NULL, &value)
    if value == NULL:
        return None
    cdef object held = <object>value
    # PyContextVar_Get returned a new reference and the assignment took another.
    _decref(value)
    return <Scope>held if type(held) is Scope else None


cdef extern from "Python.h":
    void _decref "Py_DECREF"(PyObject*) noexcept


cdef inline int _set_current(Scope scope) except -1:
    tk_set_current(_current, scope)
    return 0


cdef int _open(Scope scope) except -1:
    cdef Scope prev = _innermost()
    cdef SpanContext base
    scope.prev = prev
    if scope.kind == LABELS:
        base = None if prev is None else _effective(prev)
        if base is not None and base._labels is not None:
            scope.labels = base._labels.merge(scope.labels)
        scope.context = _with_labels(base, scope.labels)
    _set_current(scope)
    # After the set: it makes the Context of a thread that had none.
    if prev is not None and _is_here(prev):
        scope.owner = prev.owner
    else:
        scope.owner = PyWeakref_NewRef(<object>tk_running_context(), None)
    return 0


cdef int _close(Scope scope) except -1:
    cdef Scope held
    if scope.stand_in is not None:
        _close(scope.stand_in)  # one step: it has none of its own
        if _held() is scope:  # inherited before it was replaced
            _set_current(_live(scope.prev))
        return 0
    if scope.closed:
        return 0
    scope.closed = True
    held = _held()
    if held is scope:
        held = _live(scope.prev)
        _set_current(held)
        if held is not None and held.kind == LABELS:
            _settle(held)
        if _is_here(scope):
            _forget_prev(scope)  # an ordinary close
    elif held is not None and _is_here(scope):
        _rebuild(held, scope)
    else:
        if held is not None and _newest(held) is scope:
            _set_current(_live(held.prev))  # inherited before this scope took its place
        if scope.owner is not None and tk_referent(<PyObject*>scope.owner) is None:
            _forget_prev(scope)  # its Context is gone
    _release(scope)
    return 0


cdef inline int _forget_prev(Scope scope) except -1:
    """Let go of what is under *scope*, which nobody can pop any more, so that a chain of tasks does not grow."""
    cdef Scope anchor = scope.prev if scope.kind == LABELS else None
    # Labels still need the span or remote context that they stood on.
    while anchor is not None and anchor.kind == LABELS:
        anchor = anchor.prev
    scope.prev = anchor
    scope.owner = None
    return 0


cdef inline int _release(Scope scope) except -1:
    if type(scope.span) is Span:
        # Whoever inherited this scope may still ask for the span, but no longer keeps it alive.
        if Py_REFCNT(scope) > 1:
            scope.span = PyWeakref_NewRef(scope.span, None)
        else:
            scope.span = None
    return 0


cdef inline Scope _newest(Scope scope):
    """Return what has taken the place of *scope*, or *scope* itself."""
    while scope.stand_in is not None:
        scope = scope.stand_in
    return scope


cdef bint _rebuild(Scope top, Scope closed) except -1:
    """Put copies of the scopes from *top* down to *closed*, which go on without it, in the place of the originals.

    Tasks that inherited an original before keep it as it was; those spawned from now on inherit the copy.
    """
    cdef list above = []
    cdef Scope scope = top
    while scope is not closed:
        if scope is None or not _is_here(scope):
            return False  # not in this chain: a generator's, whose body is not running
        if not scope.closed:
            above.append(scope)
        scope = scope.prev
    _set_current(_replace(above, _live(closed.prev)))
    return True


cdef Scope _replace(list above, Scope prev):
    """Put copies that stand on *prev* in the place of the scopes *above*, the innermost first; return the innermost."""
    global _replaced
    cdef list copies = []
    cdef Py_ssize_t index
    cdef Scope original, copy, root
    _replaced += 1
    for original in reversed(above):
        copy = _make_scope(original.kind, original.span, original.context, original.labels)
        copy.generation = original.generation
        copy.prev = prev
        if copy.kind == LABELS:
            copy.context = _with_labels(None if prev is None else _effective(prev), copy.labels)
        copy.owner = original.owner
        copies.append(copy)
        if original.outer is not None:
            copy.outer = original.outer
            for index in range(len(copies) - 1):
                if above[len(above) - 1 - index] is original.outer:
                    copy.outer = copies[index]
            original.outer = None
        if type(original.span) is Span and (<Span>original.span).scope == <PyObject*>original:
            (<Span>original.span).scope = <PyObject*>copy
        root = original if original.origin == NULL else <Scope>original.origin
        original.origin = NULL  # it is what stood in for the root until now
        root.stand_in, copy.origin = copy, <PyObject*>root
        original.stand_in = copy
        original.closed, original.owner = True, None
        _release(original)
        prev = copy
    return prev


cdef inline SpanContext _effective(Scope scope):
    """Return the context that is current inside *scope*."""
    cdef SpanContext context = scope.context
    if scope.kind == LINKED:
        span = _held_span(scope)
        return None if span is None else (<Span>span).context
    if context is not None and scope.generation != _generation and not context.remote:
        return context.replace(is_remote=True)  # opened before a fork, by the parent
    return context


cdef object _held_span(Scope scope):
    # Not recursive: labels may be thousands deep.
    while scope.generation == _generation and scope.kind == LABELS:
        scope = _live(scope.prev)
        if scope is None:
            return None
    if scope.generation != _generation:
        return None
    span = scope.span
    if span is None or type(span) is Span:
        return span
    span = tk_referent(<PyObject*>span)
    return None if scope.kind == LINKED and type(span) is Span and (<Span>span)._ended else span


cdef SpanContext _with_labels(SpanContext base, object labels):
    if base is None:
        return _make_context(0, 0, 0, DEFERRED, None, labels or None, False, None)
    return _make_context(
        base.high, base.low, base.span, base.bits, base._state, labels or None, base.remote, base._extra
    )


cdef inline bint _is_here(Scope scope) noexcept:
    """Tell whether *scope* was opened in the Context that runs now."""
    cdef PyObject* here = tk_running_context()
    return here != NULL and scope.owner is not None and tk_refers_to(<PyObject*>scope.owner, here)


cdef inline Scope _live(Scope scope):
    """Return the innermost of *scope* and those under it that is still open, or that was inherited."""
    return _live_below(scope) if scope is not None and scope.closed else scope


cdef Scope _live_below(Scope scope):
    cdef Scope copy
    while scope is not None and scope.closed:
        if _is_here(scope):
            scope = scope.prev
            continue
        copy = _newest(scope)
        if copy is scope or not _is_here(copy):
            break
        scope = copy  # what stands on a scope stands on what has taken its place here
    return scope


cdef inline Scope _innermost():
    """Return the scope that says what is current here."""
    cdef Scope held = _held()
    return held if held is None or (not held.closed and held.kind != LABELS) else _settle(held)


cdef Scope _settle(Scope held):
    """Put right what was closed from elsewhere, before a task spawned from here inherits it; return the innermost."""
    cdef Scope scope = _live(held), below
    # Reading must not write while CPython 3.11 collects garbage: it may be in the middle of another set.
    if tk_is_collecting():
        return scope
    if scope is not held:
        _set_current(scope)
    while scope is not None and scope.kind == LABELS:
        below = scope.prev
        while below is not None and below.kind == LABELS and not below.closed:
            below = below.prev
        if below is None or not below.closed or not _is_here(below) or not _rebuild(scope, below):
            break
        scope = _held()
    return scope


def use_scope(int kind, span, SpanContext context, labels):
    """Return a scope, not yet open, for a span (kind 0), a context or nothing (1), labels (2), or a link (3).

    Inside a link to *context* nothing is current, and a span is the root of a new trace, linked to it; only until
    *span* ends, where that is given, *span* is still current.
    """
    if kind == LINKED and span is not None:
        span = PyWeakref_NewRef(span, None)
    return _make_scope(kind, span, context, labels)


def current_scope():
    """Return the scope that says what is current here, or None."""
    return _innermost()


def linked_context(Scope scope):
    """Return what the root of a new trace that is started in *scope* is linked to."""
    return _linked_context(scope)


cdef SpanContext _linked_context(Scope scope):
    while scope is not None and scope.kind == LABELS:
        scope = _live(scope.prev)
    return None if scope is None or scope.kind != LINKED else scope.context


def current_span():
    """Return the span that a new span would have as its parent here, or None where that is none of this process."""
    cdef Scope scope = _innermost()
    return None if scope is None else _held_span(scope)


def current_context():
    """Return what a new span would continue here: ids and labels, local or remote; None where there is neither."""
    cdef Scope scope = _innermost()
    return None if scope is None else _effective(scope)


def swap_scope(Scope scope):
    """Make *scope*, open or None, what the running Context holds, and return what it held."""
    cdef Scope held = _held()
    _set_current(scope)
    return held


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Body:
    """The scopes of a generator's body, from *inside* down to *under*, to be put in place for each step.

    They go along to whichever task or thread makes the step, and what the body left open stays in them.
    """

    cdef Scope inside, under, held
    cdef uint64_t replaced

    def __init__(self, Scope inside, Scope under):
        self.inside = inside
        self.under = under

    def enter(self):
        """Put the scopes in place, for the step that follows."""
        cdef PyObject* here = tk_running_context()
        cdef Scope scope = self.inside
        self.held = _held()
        self.replaced = _replaced
        if here == NULL:
            _set_current(self.held)
            here = tk_running_context()
        while scope is not None and scope is not self.under:
            if scope.owner is not None and not tk_refers_to(<PyObject*>scope.owner, here):
                scope.owner = PyWeakref_NewRef(<object>here, None)
            scope = scope.prev
        _set_current(self.inside)

    def leave(self):
        """Take them out again after the step, as it left them."""
        cdef Scope held = self.held
        cdef bint is_as_before = self.replaced == _replaced
        self.held = None
        if not is_as_before:
            held = _restored(held)
        self.inside = _held()
        _set_current(held)
        if not is_as_before and not _stands_on(self.inside, self.under):
            self.under = _floor(self.inside, self.under)


cdef Scope _restored(Scope held):
    """Return what a consumer holds, standing on the copies where a step has replaced what it stood on.

    The body can close what is under it, and its consumer may have opened more on that.
    """
    cdef list above = []
    cdef Scope scope = held, copy
    while scope is not None:
        copy = _newest(scope)
        if copy is not scope:
            return _replace(above, _live(copy)) if _is_here(copy) else held
        if not _is_here(scope):
            break
        if not scope.closed:
            above.append(scope)
        scope = scope.prev
    return held


cdef bint _stands_on(Scope scope, Scope under) noexcept:
    while scope is not None and scope is not under:
        scope = scope.prev
    return scope is under


cdef Scope _floor(Scope inside, Scope under):
    """Return what a body stands on since its step has closed *under*, or what that stood on.

    What is below is others', in whose Contexts it must stay; where that cannot be told, nothing is the body's own.
    """
    while under is not None:
        if under.stand_in is not None:
            under = under.stand_in
        elif under.closed and _is_here(under):
            under = under.prev
        else:
            break
    return under if _stands_on(inside, under) else inside
