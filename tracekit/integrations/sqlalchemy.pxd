cimport cython

from .._core.span cimport Span, start_request_span, tracer_in_use
from .._speedups cimport Items
from ._client cimport end, may_record
from ._suppression cimport is_suppressed

cdef dict _SYSTEMS
cdef Py_ssize_t _ROOM


@cython.locals(attributes=Items, fields=dict, known=dict)
cdef object _start(object conn, object statement, object parameters, object owner, object executemany)
cpdef dict _attributes_of(object engine, object dialect)
cdef object _code_of(object error)
