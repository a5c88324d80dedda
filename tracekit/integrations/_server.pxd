cimport cython

from .._carriers cimport extract, reads_w3c
from .._core.span cimport Span, mapping_of, start_request_span, tracer_in_use
from .._core.tracer cimport Tracer
from ._forced cimport Forced as _Forced

cdef str _CONTINUE, _LINK, _IGNORE


ctypedef object (*describe)(object request)


cdef class Callers:
    cdef object _trust
    cdef _Forced _forced
    cdef list _routes

    cdef object _start(self, str name, object path, object headers, object attributes_of, object arguments)

    @cython.locals(tracer=Tracer, span=Span, links=tuple, others=tuple, is_late=bint, may_be_kept=bint)
    cdef object _start_described(self, str name, object path, object headers, describe attributes_of, object request)
    cdef object _trust_of(self, object path)


cdef object _called(object call)
