from .._core.span cimport Span
from ._grpc cimport Method, end, end_with, fail, number_of, settle
from ._suppression cimport is_suppressed

cdef object _count(Span client_span, object sent)
cdef object _now(object coroutine)
