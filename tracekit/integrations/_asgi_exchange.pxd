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

    typedef PyObject *(*tk_serving)(PyObject *middleware, PyObject *scope, PyObject *receive, PyObject *send);
    static tk_serving tk_serve;
    static ternaryfunc tk_call_method;  /* calls __call__, as for every class of Python's */

    static PyObject *tk_call(PyObject *self, PyObject *args, PyObject *kwargs) {
        if (PyTuple_GET_SIZE(args) == 3 && (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0)) {
            return tk_serve(self, PyTuple_GET_ITEM(args, 0), PyTuple_GET_ITEM(args, 1), PyTuple_GET_ITEM(args, 2));
        }
        return tk_call_method(self, args, kwargs);
    }

    /* Subclasses call __call__: Python gives a class its own tp_call where it finds a function of that name. */
    static int tk_quicken_calls(PyObject *kind, tk_serving serve) {
        if (!PyType_Check(kind)) {
            PyErr_SetString(PyExc_TypeError, "kind must be a class");
            return -1;
        }
        tk_serve = serve;
        if (((PyTypeObject *)kind)->tp_call != tk_call) tk_call_method = ((PyTypeObject *)kind)->tp_call;
        ((PyTypeObject *)kind)->tp_call = tk_call;
        return 0;
    }
    """
    ctypedef object (*tk_serving)(object, object, object, object)
    object tk_resume(object inner, object value, object returned)
    int tk_quicken_calls(object kind, tk_serving serve) except -1


cdef object _described(Exchange exchange)


cdef class Requests:
    cdef Callers _callers
    cdef object _is_excluded, _redaction, _extras

    @cython.locals(fields=dict, span=Span, exchange=Exchange, is_http=bint, method=str, name=str)
    cpdef object open(self, object scope, object receive, object send)


cdef class Exchange:
    cdef Span _span
    cdef Scope _opened
    cdef object _scope, _headers, _redaction, _receive, _send, _extras, _status
    cdef str _method
    cdef bint _is_watched, _is_complete

    cdef bint _is_http(self)
    cdef object _receiver(self)
    cdef object _sender(self)
    cpdef object leave(self, object error)
    cdef object _close(self)
    cdef object _fail(self, object error)
    cdef object _answer_to_nothing(self)
    cdef object _disconnect(self)
    cdef object _describe(self)
    cdef object _see_start(self, object message)
    cdef object _see_status(self, object message)


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


@cython.final
cdef class Serving:
    cdef object _middleware, _scope, _receive, _send, _coroutine
    cdef Exchange _exchange
    cdef bint _has_begun, _is_running

    cdef object _check(self)
    cdef object _step(self, object value)

    @cython.locals(requests=Requests, exchange=Exchange)
    cdef object _begin(self)

    @cython.locals(exchange=Exchange)
    cdef object _end(self, object error)


@cython.locals(serving=Serving)
cdef object _serving(object middleware, object scope, object receive, object send)


cdef inline int quicken(object kind) except -1:
    return tk_quicken_calls(kind, <tk_serving>_serving)
