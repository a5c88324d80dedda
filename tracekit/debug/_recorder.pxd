from libc.stdint cimport int64_t, uint64_t

cimport cython

from .._core.context cimport SpanContext
from .._core.span cimport Span

cdef int _ERROR
cdef uint64_t _SPREAD

cdef enum:
    _SLOW_NS = 50_000_000
    _PER_BUCKET = 10
    _MAX_TRACE = 200
    _WINDOW = 6


cdef uint64_t _key_of(SpanContext context) noexcept


@cython.final
cdef class Trace:
    cdef readonly Span root
    cdef readonly list spans
    cdef readonly int64_t left_out
    cdef int64_t rings


@cython.final
cdef class Counts:
    cdef int64_t _at, _slot_ns
    cdef readonly list slots

    @cython.locals(at=int64_t, column=list)
    cdef object count(self, int64_t now_ns, Py_ssize_t slot)

    @cython.locals(passed=int64_t)
    cdef object _move(self, int64_t at)

    @cython.locals(at=int64_t)
    cpdef list sums(self, int64_t now_ns)


@cython.final
cdef class Family:
    cdef readonly tuple key
    cdef readonly list buckets, rings
    cdef readonly int64_t errors
    cdef readonly Counts minute, hour, total


@cython.final
cdef class Recorder:
    cdef readonly object lock
    cdef public object in_child
    cdef readonly bint is_on
    cdef object _clock, _pid, _samples
    cdef readonly dict families
    cdef dict _pending
    cdef readonly int64_t pending, evicted, kept, trimmed, max_spans, max_pending

    cpdef object forget(self)

    @cython.locals(span=Span, parent=SpanContext, key=uint64_t, waiting=list, gone=int64_t)
    cdef object _take(self, list batch, int64_t now_ns)

    @cython.locals(
        key=tuple, family=Family, took_ns=int64_t, micros=int64_t, slot=Py_ssize_t, trace=Trace, at=Py_ssize_t
    )
    cdef object _finish(self, Span root, int64_t now_ns)

    @cython.locals(found=list, children=list, span=Span, at=Py_ssize_t)
    cdef object _gather(self, Trace trace)

    @cython.locals(oldest=Trace)
    cdef object _keep(self, list ring, Trace trace)
    cdef object _trim(self, Trace trace)
    cpdef list waiting_below(self, Span span)


cpdef object _start_of(Span span)
cpdef tuple family_of(Span root)
