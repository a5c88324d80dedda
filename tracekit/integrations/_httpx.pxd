from .._core.span cimport Span
from ._client cimport Client, answer, end, fail, is_traced_above, stale_fields

cdef dict _VERSIONS

cdef tuple _start(Client client, object library, object request)
cdef object _answer(Span client_span, object response, object wrapped, object kind)
cdef object _with_headers(object library, object request, dict headers)
cdef object _take_back(object request, object sent, object given)
