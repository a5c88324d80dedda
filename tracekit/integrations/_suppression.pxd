cimport cython

from .._core.scopes cimport Scope, innermost

cpdef bint is_suppressed() except -1
cpdef bint is_http_suppressed() except -1


@cython.locals(scope=Scope)
cdef bint _is_set(str name) except -1
