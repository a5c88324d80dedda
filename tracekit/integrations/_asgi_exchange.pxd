cimport cython

from .._core.scopes cimport Scope, close_scope, open_scope
from .._core.span cimport ERROR, Span, _enter, _exit
from ._asgi_scope cimport attributes_of, known_method, route_of, same
from ._server cimport Callers

cdef str _KEY


cdef extern from *:
    """
    /* Send *value* to the coroutine *inner* and return the yielded object, or *returned*; NULL on an exception. */
    static PyObject *tk_resume(PyObject *inner, PyObject *value, PyObject *returned) {
        PyObject *result = NULL;
        if (PyIter_Send(inner, value, &result) != PYGEN_RETURN) return result;
        Py_DECREF(result);
        return Py_NewRef(returned);
    }
    """
    object tk_resume(object inner, object value, object returned)


cdef object _described(Exchange exchange)


cdef class Requests:
    cdef Callers _callers
    cdef object _is_excluded, _redaction, _extras

    @cython.locals(fields=dict, span=Span, exchange=Exchange, is_http=bint, method=str, name=str)
    cpdef object open(self, object scope, object receive, object send)


cdef class Sender


cdef class Exchange:
    cdef Span _span
    cdef Scope _opened
    cdef object _scope, _headers, _redaction, _receive, _send, _extras, _status
    cdef str _method
    cdef bint _is_watched, _is_complete

    cdef bint _is_http(self)
    cdef object _receiver(self)

    @cython.locals(sender=Sender)
    cdef object _sender(self)

    cdef object _watch(self, object message)
    cpdef object leave(self, object error)
    cdef object _close(self)
    cdef object _fail(self, object error)
    cdef object _answer_to_nothing(self)
    cdef object _disconnect(self)
    cdef object _describe(self)
    cdef object _see_start(self, object message)
    cdef object _see_status(self, object message)


@cython.final
cdef class Sender:
    cdef Exchange _exchange


cdef class Request(Exchange):
    @cython.locals(fields=dict)
    cdef object _see(self, object message)
    cdef object _finish(self)


@cython.final
cdef class Sending:
    cdef Request _request
    cdef object _coroutine

    cdef object _step(self, object value)


cdef class WebSocket(Exchange):
    cdef bint _is_accepted
    cdef Py_ssize_t _received, _sent

    cdef object _see_code(self, object message)


@cython.locals(sending=Sending)
cdef Sending _sending(Request request, object inner)
