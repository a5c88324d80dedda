from libc.stdint cimport uint32_t

cimport cython
from cpython.object cimport PyObject

from .context cimport SpanContext, generation, with_labels
from .free_threading cimport (
    WITHOUT_GIL,
    alone,
    is_own,
    is_seen_again,
    may_inherit,
    note_inherited,
    own,
    share,
)
from .interpreter cimport (
    SAMPLED,
    borrow,
    forbid_new,
    here,
    is_gone,
    is_here,
    is_lent,
    lent,
    references,
    referent,
    running_body,
    running_context,
    weak,
)
from .variable cimport change_in_place, forget, held, is_collecting, put

cdef object _current
cdef bint _threads_inherit
cdef object _replaced, _closed_elsewhere
cdef list _released
cdef bint _is_releasing
cdef Py_ssize_t _FEW


cdef inline object last_replaced():
    return _replaced


cdef enum:
    SPAN = 0
    CONTEXT = 1
    LABELS = 2
    LINKED = 3

cdef enum:
    WITH_SPAN = 1
    KEYS_ONLY = 2
    FOR_THREAD = 3


@cython.final
cdef class Scope:
    cdef signed char _kind, _leans
    cdef unsigned char _is_closed, _is_released, _carries  # smaller than bint: a task that lives keeps its scope
    cdef uint32_t _generation, _waiting
    cdef object _span
    cdef SpanContext _context
    cdef object _labels
    cdef object _settled
    cdef Scope _prev, _base, _outer, _stand_in
    cdef PyObject* _origin
    cdef object _owner
    cdef readonly object ambient, view


@cython.locals(scope=Scope)
cdef Scope make_scope(int kind, object span, SpanContext context, object labels)


cdef object open_scope(Scope scope)
cdef object open_in_body(Scope scope)
cdef object _open_on(Scope scope, Scope prev)
cdef object keep_view(Scope scope, object view)


@cython.locals(prev=Scope)
cdef object attach_scope(Scope scope, object view)
cdef object _inherit(Scope scope, Scope prev)


@cython.locals(base=SpanContext)
cdef object _add_labels(Scope scope, Scope prev)


@cython.locals(inner=Scope)
cdef object close_scope(Scope scope)


@cython.locals(prev=Scope)
cdef bint _closes_quickly(Scope scope) except -1
cdef object _release(Scope scope)
cdef object _deallocate(Scope scope)
cdef bint _may_end(Scope scope) noexcept
cdef object _release_chain(Scope scope)
cdef Scope newest(Scope scope)
cdef Scope newest_open(Scope scope)
cpdef object put_context(Scope scope, SpanContext context)


@cython.locals(inner=Scope)
cpdef bint is_current(Scope scope) except -1


@cython.locals(scope=Scope, under=Scope)
cdef bint _waits(Scope top, Scope closed) except -1


@cython.locals(scope=Scope, under=Scope, are_labels=bint, count=Py_ssize_t)
cdef bint _rebuild(Scope top, Scope closed) except -1
cdef bint _leans_now(Scope scope) except -1


@cython.locals(original=Scope, copy=Scope, root=Scope)
cdef Scope replace(list above, Scope prev)
cdef object _stand_on_again(Scope scope, Scope prev)
cdef SpanContext effective(Scope scope)
cdef object held_span(Scope scope)
cdef bint _is_here(Scope scope) noexcept
cdef Scope live(Scope scope)


@cython.locals(copy=Scope)
cdef Scope _live_below(Scope scope)


@cython.locals(inner=Scope)
cdef Scope innermost()


@cython.locals(context=SpanContext, scope=Scope)
cdef Scope _for_thread(Scope inner)


@cython.locals(context=SpanContext, scope=Scope)
cdef Scope _unstick(Scope inner)


@cython.locals(scope=Scope, below=Scope, context=SpanContext)
cdef Scope _settle(Scope inner)


@cython.locals(inner=Scope, scope=Scope)
cpdef tuple inside_context(object context)
cpdef object thread_context(unsigned long ident)
cpdef SpanContext linked_context(Scope scope)


@cython.locals(scope=Scope)
cpdef object current_span()


@cython.locals(scope=Scope)
cpdef SpanContext current_context()


cpdef Scope held_scope()
cdef bint may_swap() noexcept


@cython.locals(inner=Scope)
cpdef Scope swap_scope(Scope scope)
