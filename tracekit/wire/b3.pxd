from libc.stdint cimport uint64_t

cimport cython

from .._core.context cimport SpanContext, from_words
from .._core.interpreter cimport DEFERRED, SAMPLED
from .._speedups cimport Sieve, join_b3, put, split_b3

cdef Sieve _SINGLE, _MULTI
cdef dict _DEBUG


@cython.locals(high=uint64_t, low=uint64_t, span=uint64_t, decision=int, flags=int)
cpdef SpanContext parse_b3(str text)


@cython.locals(decision=int)
cdef str _text(SpanContext context)
