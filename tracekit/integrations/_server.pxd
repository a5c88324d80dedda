cimport cython

from .._carriers cimport reads_w3c
from .._core.span cimport Span, mapping_of, start_request_span, tracer_in_use
from .._core.tracer cimport Tracer


cdef class Callers:
    cdef object _trust, _forced
    cdef list _routes

    @cython.locals(tracer=Tracer, span=Span, links=tuple, others=tuple, is_late=bint)
    cdef object _start(self, str name, object path, object headers, object attributes_of, tuple arguments)
    cdef object _trust_of(self, object path)


cdef tuple _caller(object headers)
