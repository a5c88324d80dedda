from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

cimport cython

from ._asgi_exchange cimport (
    PYGEN_ERROR,
    PYGEN_NEXT,
    PYGEN_RETURN,
    Exchange,
    PyIter_Send,
    PySendResult,
    Requests,
    tk_clear,
    tk_none,
    tk_quicken_steps,
    tk_raised,
    tk_resume,
    tk_sendfunc,
)


cdef extern from *:
    """
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
    int tk_quicken_calls(object kind, tk_serving serve) except -1


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
    cdef object _fail(self)


cdef object _RETURNED


cdef inline PySendResult resume_serving(Serving self, object value, PyObject** result) except PYGEN_ERROR:
    cdef PySendResult outcome
    cdef object given
    result[0] = NULL
    if not self._has_begun or self._is_running or self._coroutine is None:
        given = self._step(value)
        if given is _RETURNED:
            tk_none(result)
            return PYGEN_RETURN
        result[0] = <PyObject*>given
        Py_INCREF(given)
        return PYGEN_NEXT
    self._is_running = True
    outcome = PyIter_Send(self._coroutine, value, result)
    if outcome == PYGEN_NEXT:
        self._is_running = False
    elif outcome == PYGEN_RETURN:
        tk_clear(result)
        self._end(None)
        tk_none(result)
    else:
        self._fail()
    return outcome


@cython.locals(serving=Serving)
cdef object _serving(object middleware, object scope, object receive, object send)


cdef inline int quicken(object kind) except -1:
    tk_quicken_steps(Serving, <tk_sendfunc>resume_serving)
    return tk_quicken_calls(kind, <tk_serving>_serving)
