cimport cython

from .._core.span cimport Span, _enter, _exit
from .._speedups cimport Items
from ._redaction cimport Redaction
from ._server cimport Callers


cdef extern from *:
    object bound "PyMethod_New"(object function, object owner)


cdef dict _VERSIONS, _known_hosts
cdef object _USER_AGENT, _HOST, _Response, _StreamResponse, _MatchInfo, _Route
cdef Py_ssize_t _MAX_KNOWN, _ROOM


cdef class Server:
    cdef public bint is_active
    cdef Callers _callers
    cdef object _is_excluded
    cdef Redaction _redaction

    cdef Span _start(self, object request)


@cython.locals(attributes=Items, target=str, query=str, path=str, end=Py_ssize_t)
cpdef Items _attributes_of(object request, object message, str method, Redaction redaction)
cdef tuple _server_of(str host, str scheme, object request)
cdef object _finish(Span server_span, object request, object response)
cdef bint _has_sent(object request, str field) except -1
cdef object _fail(Span server_span, object request, object error)
cdef object _describe(Span server_span, object request, object status)
