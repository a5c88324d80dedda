cimport cython

from .._core.span cimport Span
from ._client cimport Client, answer, end, fail, is_traced_above, stale_fields


cdef object _HTTP11


cdef class Sessions:
    cdef object _patches, _request_of, _some
    cdef Client _all
    cdef bint _has_some

    @cython.locals(client=Client)
    cpdef object add_to(self, object session, dict options)


@cython.final
cdef class _Attempts:
    cdef Client _client
    cdef Py_ssize_t _count

    @cython.locals(client_span=Span)
    cdef Span _start(self, object request)


cdef bint _has_config(object session) except -1
cdef object _write(object headers, dict written)
cdef object _end_with(Span client_span, object response)
cdef object _fail(Span client_span, object error)
cdef object _span_of(object attempt)
cdef object _version(object response)
cdef bint _is_of_reading(object error) except -1
