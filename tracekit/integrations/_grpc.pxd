cimport cython

from .._carriers cimport reads_w3c
from .._core.span cimport Span, start_request_span, tracer_in_use
from .._core.tracer cimport Tracer
from .._speedups cimport Items
from ._client cimport headers_for, may_record, stale_fields
from ._server cimport Callers

cdef Py_ssize_t _ROOM


cdef class Client:
    cdef object _peers
    cdef public bint is_active


cdef class Method:
    cdef Client _client
    cdef str _name, _host
    cdef dict _attributes

    @cython.locals(tracer=Tracer, attributes=dict, client_span=Span)
    cpdef tuple start(self, object metadata)


cdef class Server:
    cdef public bint is_active
    cdef Callers _callers
    cdef object _is_excluded

    @cython.locals(name=str)
    cpdef object start(self, object method, object context)


cpdef object end(Span ours)
cpdef object settle(Span ours, int code, object details=*, bint is_server=*)
cpdef object fail(Span ours, object error, object code=*)
cpdef object end_with(Span client_span, object call)
cpdef object number_of(object code)


@cython.locals(ours=list, stale=frozenset)
cdef object _written(object metadata, dict written)
cdef bint _is_sendable(object value) except -1


@cython.locals(found=Items)
cpdef Items _with_peer(dict attributes, object context)
