cimport cython

from .._carriers cimport reads_w3c
from .._core.context cimport SpanContext
from .._core.scopes cimport Scope, effective, held_span, innermost
from .._core.span cimport Span, start_request_span, tracer_in_use
from .._core.tracer cimport Tracer
from .._speedups cimport Items
from ._redaction cimport Redaction
from ._suppression cimport is_http_suppressed

cdef dict _NAMES, _stale
cdef object _stale_fields
cdef frozenset _W3C, _W3C_AND_LABELS
cdef Py_ssize_t _ROOM


cdef class Client:
    cdef object _peers
    cdef Redaction _redaction
    cdef dict _origins

    @cython.locals(client_span=Span)
    cpdef tuple start(
        self, object method, object scheme, object host, object port, object target, object resends=*
    )

    @cython.locals(attributes=Items, path=str, query=str, redacted=str, found=tuple, end=Py_ssize_t)
    cdef Items _attributes(
        self, object method, str name, object scheme, object host, object port, object target, object resends
    )
    cdef tuple _origin(self, object scheme, object host, object port)


@cython.locals(tracer=Tracer, scope=Scope, parent=SpanContext)
cpdef bint may_record() except -1


@cython.locals(context=SpanContext)
cpdef dict headers_for(Span client_span, object peers, object host)


@cython.locals(scope=Scope, span=Span)
cpdef bint is_traced_above(object host) except -1
cpdef object answer(Span client_span, object status, object version=*)
cpdef object end(Span client_span)
cpdef object fail(Span client_span, object error)


@cython.locals(key=tuple)
cpdef frozenset stale_fields(object written)
cdef str _whole_url(str origin, str target)
