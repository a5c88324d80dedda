from .._core.context cimport SpanContext, from_words
from .._core.interpreter cimport DEFERRED, RANDOM, SAMPLED
from .._speedups cimport Sieve, check_baggage, count_tracestate, join_traceparent, put, split_traceparent, strip_space

from libc.stdint cimport uint64_t

cimport cython

cdef Sieve _TRACECONTEXT, _BAGGAGE, _W3C


@cython.locals(high=uint64_t, low=uint64_t, span=uint64_t, flags=int)
cpdef SpanContext parse_traceparent(str text)
cdef str _traceparent(SpanContext context)


@cython.locals(found=list, context=SpanContext)
cpdef SpanContext read_tracecontext(object carrier)


@cython.locals(context=SpanContext)
cdef SpanContext _join(object parent, object state)


@cython.locals(found=list, context=SpanContext)
cpdef SpanContext read_w3c(object carrier)


@cython.locals(fields=dict)
cdef object _write(SpanContext context, object carrier)
cdef object _write_both(SpanContext context, object carrier)
