from libc.stdint cimport uint32_t

from .._speedups cimport Octets
from .context cimport SpanContext
from .span cimport CANCELLED, ERROR, OK, Span

cdef enum:
    HAS_IS_REMOTE = 0x100
    IS_REMOTE = 0x200


cdef object _put_resource_spans(Octets out, list spans)
cdef object _put_scope_spans(Octets out, list spans)
cdef object _put_span(Octets out, Span span)
cdef object _put_events(Octets out, Span span)
cdef object _put_links(Octets out, Span span)
cdef object _put_ids(Octets out, SpanContext context)
cdef uint32_t _flags(SpanContext context) noexcept
