cimport cython

from .interpreter cimport here, is_here
from .scopes cimport Scope, held_scope, innermost, last_replaced, live, may_swap, newest, replace, swap_scope


@cython.final
cdef class Body:
    cdef Scope _inside, _under, _held
    cdef object _owner, _replaced


@cython.locals(held_before=Scope)
cpdef tuple open_body(object start, Scope under)


@cython.locals(scope=Scope, copy=Scope)
cdef Scope _restored(Scope inner)
cdef bint _stands_on(Scope scope, Scope under) noexcept
cdef Scope _floor(Scope inside, Scope under)
