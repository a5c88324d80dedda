cimport cython

from .._core.span cimport Span, start_request_span, tracer_in_use
from .._speedups cimport Items
from ._client cimport end, may_record
from ._suppression cimport is_suppressed

cdef dict _SYSTEMS
cdef Py_ssize_t _ROOM


@cython.locals(span=Span)
cdef bint _traced(object cursor, object statement, tuple rest, object context, str event_name) except -1
cdef object _execute_inside(object cursor, object statement, tuple rest, object dialect, str event_name)


@cython.locals(attributes=Items, fields=dict, known=dict, span=Span)
cdef Span _start(object statement, object context, object many)
cdef object _fail(Span span, object error)
cpdef dict _attributes_of(object engine, object dialect)
cdef object _code_of(object error)
