cimport cython

from .._speedups cimport Items

cdef Py_ssize_t _ROOM
cdef tuple _last


@cython.locals(attributes=Items, fields=dict, text=str)
cpdef Items attributes_of(object scope, object kind, object method, object redaction)


@cython.locals(plain=bytes)
cdef str _latin(object octets, Py_ssize_t most)


@cython.locals(last=tuple)
cdef tuple _server_of(object host, object scheme, object server)


@cython.locals(fields=dict, prefix=str)
cpdef object route_of(object scope)
