cimport cython

from ..._core.interpreter cimport borrow, is_lent, lent
from ..._core.span cimport Span
from .contexts cimport from_otel, to_otel

cdef object _sdk_span


@cython.final
cdef class OtelSpan:
    cdef dict __dict__
    cdef object __weakref__
    cdef readonly Span tracekit_span
    cdef bint _records, _sets


@cython.locals(found=OtelSpan)
cpdef OtelSpan face(Span span)
cpdef object leave(Span span, object exc, bint records, bint sets_status)
cpdef object time_of(object time_ns)
