cimport cython

from ..._core.interpreter cimport borrow, is_a, is_lent, lent
from ..._core.span cimport Span
from ..._core.tracer cimport Tracer
from ..._speedups cimport Entries, Items
from .contexts cimport from_otel, to_otel

cdef object _sdk_span, _changed
cdef dict _forms


cdef class OtelSpan:
    cdef dict __dict__
    cdef object __weakref__
    cdef readonly Span tracekit_span
    cdef bint _records, _sets


@cython.locals(found=OtelSpan, is_usual=bint)
cpdef OtelSpan face(Span span)


@cython.locals(made=Entries)
cdef Entries _entries(Span span, object parts, Py_ssize_t most, Py_ssize_t most_attributes, object read)


cpdef object replace_attributes(OtelSpan made, object attributes)


@cython.locals(span=Span)
cpdef object leave(OtelSpan made, object exc, bint records, bint sets_status, bint escaped)


cdef inline bint is_ours(object given) noexcept:
    return type(given) is OtelSpan or isinstance(given, OtelSpan)


cpdef object time_of(object time_ns)


@cython.locals(found=tuple)
cdef object _known(object ours)
