from .._core.span cimport Span
from ._grpc cimport Server, end, fail, number_of, settle

cdef object _count_received(Span server_span, object received)
cdef object _returned(Span server_span, object context)
cdef bint _is_active(object context) except -1
cdef int _gone(object context) except -1
cdef object _raised(Span server_span, object context, object error)
