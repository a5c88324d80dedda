from libc.stdint cimport uint32_t

cimport cython

from .._speedups cimport Entries, Items, Octets
from .context cimport SpanContext
from .span cimport CANCELLED, ERROR, OK, Span
from .tracer cimport Tracer

cdef str _INTERNAL

cdef enum:
    HAS_IS_REMOTE = 0x100
    IS_REMOTE = 0x200


@cython.locals(span=Span, tracer=Tracer, group=list)
cpdef bytes encode_spans(object spans)
cdef object _put_resource_spans(Octets out, list groups)


@cython.locals(span=Span)
cdef object _put_scope_spans(Octets out, list spans)
cdef object _put_span(Octets out, Span span)


@cython.locals(items=Items)
cdef object _put_events(Octets out, Entries events)


@cython.locals(items=Items, target=SpanContext)
cdef object _put_links(Octets out, Entries links)
cdef object _put_ids(Octets out, SpanContext context)
cdef uint32_t _flags(SpanContext context) noexcept
