cimport cython

from .._core.tracer cimport Tracer

cdef double _MAX_SHARE


cdef class Forced:
    cdef object _per_second, _clock
    cdef double _since_s, _tokens, _share, _kept
    cdef Tracer _tracer

    @cython.locals(share=double)
    cpdef object count(self, Tracer tracer)
    cdef bint _take(self, double per_second) except -1
