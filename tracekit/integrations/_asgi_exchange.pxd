from cpython.object cimport PyObject

cimport cython

from .._core.scopes cimport Scope, close_scope, open_scope
from .._core.span cimport Span, _enter, _exit
from .._core.tracer cimport Tracer
from .._speedups cimport Items as _Items
from ._asgi_scope cimport Field, Routes, append_ours, attributes_of, field, known_method, same
from ._redaction cimport Redaction
from ._server cimport Callers

cdef str _KEY
cdef Py_ssize_t _MOST
cdef Field _HEADERS, _KIND, _METHOD, _MORE, _PATH, _STATUS


cdef extern from *:
    """
    /* Send *value* to the coroutine *inner* and return the yielded object, or *returned*; NULL on an exception. */
    static PyObject *tk_resume(PyObject *inner, PyObject *value, PyObject *returned) {
        PyObject *result = NULL;
        if (PyIter_Send(inner, value, &result) != PYGEN_RETURN) return result;
        Py_DECREF(result);
        return Py_NewRef(returned);
    }

    static inline int tk_spelled(PyObject *text, const char *wanted, Py_ssize_t size) {
        return PyUnicode_GET_LENGTH(text) == size && PyUnicode_IS_ASCII(text)
            && memcmp(PyUnicode_DATA(text), wanted, (size_t)size) == 0;
    }

    /* The kind of a message in the shape that Starlette sends: a dict that begins with "type" and the status (borrowed;
       *code* is its number), or with "type" and the body. TK_OTHER: any other message, also of these kinds. */
    enum { TK_OTHER, TK_START, TK_MORE, TK_LAST };

    static inline int tk_read(PyObject *message, PyObject **status, long *code) {
        Py_ssize_t at = 0;
        PyObject *key, *value, *kind;
        int overflow = 0;
    #ifdef Py_GIL_DISABLED
        return TK_OTHER;  /* borrowed references are not safe there */
    #endif
        if (!PyDict_CheckExact(message) || !PyDict_Next(message, &at, &key, &kind)) return TK_OTHER;
        if (!PyUnicode_CheckExact(key) || !PyUnicode_CheckExact(kind) || !tk_spelled(key, "type", 4)) return TK_OTHER;
        if (!PyDict_Next(message, &at, &key, &value) || !PyUnicode_CheckExact(key)) return TK_OTHER;
        if (tk_spelled(kind, "http.response.start", 19)) {
            if (!tk_spelled(key, "status", 6) || !PyLong_CheckExact(value)) return TK_OTHER;
            *status = value;
            *code = PyLong_AsLongAndOverflow(value, &overflow);
            return overflow || !*code ? TK_OTHER : TK_START;
        }
        if (!tk_spelled(kind, "http.response.body", 18) || !tk_spelled(key, "body", 4)) return TK_OTHER;
        if (!PyDict_Next(message, &at, &key, &value)) return TK_LAST;
        if (!PyUnicode_CheckExact(key) || !tk_spelled(key, "more_body", 9)) return TK_OTHER;
        return value == Py_True ? TK_MORE : value == Py_False ? TK_LAST : TK_OTHER;
    }

    /* PyIter_Send() asks the type for am_send; without it, each step makes and takes apart a StopIteration. */
    typedef PySendResult (*tk_sendfunc)(PyObject *self, PyObject *value, PyObject **result);

    static inline int tk_quicken_steps(PyObject *kind, tk_sendfunc resume) {
        PyAsyncMethods *methods = ((PyTypeObject *)kind)->tp_as_async;
        if (methods != NULL) methods->am_send = resume;
        return 0;
    }

    static inline PyObject *tk_raised(void) { return NULL; }  /* where an exception is set already */

    /* A step has a result or an exception: code that may raise comes between these two. */
    static inline void tk_clear(PyObject **result) { Py_CLEAR(*result); }
    static inline void tk_none(PyObject **result) { *result = Py_NewRef(Py_None); }

    /* Calls of a Sender with one argument go to C at once; others, to __call__. */
    typedef PyObject *(*tk_watch)(PyObject *sender, PyObject *message);
    static tk_watch tk_watched;

    static inline PyObject *tk_send(PyObject *sender, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
        Py_ssize_t at, count = PyVectorcall_NARGS(nargsf);
        PyObject *given, *named = NULL, *result = NULL;
        if (kwnames == NULL && count == 1) return tk_watched(sender, args[0]);
        given = PyTuple_New(count);
        if (given == NULL) return NULL;
        for (at = 0; at < count; at++) PyTuple_SET_ITEM(given, at, Py_NewRef(args[at]));
        if (kwnames != NULL) {
            named = PyDict_New();
            for (at = 0; named != NULL && at < PyTuple_GET_SIZE(kwnames); at++) {
                if (PyDict_SetItem(named, PyTuple_GET_ITEM(kwnames, at), args[count + at]) < 0) Py_CLEAR(named);
            }
        }
        if (kwnames == NULL || named != NULL) result = Py_TYPE(sender)->tp_call(sender, given, named);
        Py_DECREF(given);
        Py_XDECREF(named);
        return result;
    }

    static inline void tk_quicken_sends(PyObject *kind, Py_ssize_t offset, tk_watch watched) {
        tk_watched = watched;
        ((PyTypeObject *)kind)->tp_vectorcall_offset = offset;
        ((PyTypeObject *)kind)->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    }
    """
    enum:
        TK_START
        TK_MORE
        TK_LAST
    int tk_read(object message, PyObject** status, long* code) noexcept
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    ctypedef PySendResult (*tk_sendfunc)(PyObject*, PyObject*, PyObject**)
    PySendResult PyIter_Send(object inner, object value, PyObject** result) noexcept
    int tk_quicken_steps(object kind, tk_sendfunc resume) except -1
    object tk_raised()
    void tk_clear(PyObject** result) noexcept
    void tk_none(PyObject** result) noexcept
    ctypedef object (*tk_watch)(object, object)
    ctypedef void* vectorcallfunc
    vectorcallfunc tk_send
    object tk_resume(object inner, object value, object returned)
    void tk_quicken_sends(object kind, Py_ssize_t offset, tk_watch watched) noexcept


@cython.locals(exchange=Exchange)
cdef object _attributes_of(object request)


cdef dict _copied(object scope)


@cython.locals(tracer=Tracer, attributes=_Items, count=Py_ssize_t)
cdef Py_ssize_t _count_of(Span span) except? -2


cdef class Requests:
    cdef Callers _callers
    cdef object _is_excluded, _extras
    cdef Redaction _redaction
    cdef Routes _routes

    @cython.locals(fields=dict, span=Span, exchange=Exchange, is_http=bint, method=str, name=str)
    cpdef object open(self, object scope, object receive, object send)


cdef class Sender


cdef class Exchange:
    cdef Span _span
    cdef Scope _opened
    cdef Redaction _redaction
    cdef object _scope, _headers, _receive, _send, _extras, _status
    cdef str _method
    cdef Routes _routes
    cdef Py_ssize_t _count
    cdef bint _is_watched, _is_complete, _has_failed

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

    @cython.locals(span=Span, route=tuple)
    cdef object _describe(self)
    cdef object _put(self, str key, object value)
    cdef object _answer(self, object status)
    cdef object _see_start(self, object message)
    cdef object _see_status(self, object message)


@cython.final
cdef class Sender:
    cdef Exchange _exchange
    cdef vectorcallfunc _call  # NULL: calls go to __call__


cdef inline void answer_quickly(Sender sender) noexcept:
    sender._call = tk_send


cdef object _watched(Sender sender, object message)


cdef inline void quicken_sends(object kind) noexcept:
    cdef Sender one = Sender.__new__(Sender)
    tk_quicken_sends(kind, <char*>&one._call - <char*><void*>one, <tk_watch>_watched)


cdef class Request(Exchange):
    @cython.locals(fields=dict)
    cdef object _see(self, object message)

    @cython.locals(span=Span)
    cdef object _finish(self)


cdef inline bint see_quickly(Request request, object message) except -1:
    cdef PyObject* status
    cdef long code
    cdef int read = tk_read(message, &status, &code)
    if read == TK_START and request._extras is None:
        request._status = <object>status
        request._has_failed = code >= 500
        return True
    request._is_complete = read == TK_LAST
    return read == TK_LAST or read == TK_MORE


@cython.final
cdef class Sending:
    cdef Request _request
    cdef object _coroutine, _unsent, _before
    cdef bint _is_last

    cdef object _fail(self)

    @cython.locals(request=Request)
    cdef object _begin(self)

    @cython.locals(request=Request)
    cdef object _keep(self)

    @cython.locals(request=Request)
    cdef object _take_back(self, object error)


cdef inline PySendResult resume_sending(Sending self, object value, PyObject** result) except PYGEN_ERROR:
    cdef PySendResult outcome
    if self._unsent is not None:
        result[0] = NULL
        self._begin()
    outcome = PyIter_Send(self._coroutine, value, result)
    if outcome == PYGEN_RETURN:
        tk_clear(result)
        self._keep()
        tk_none(result)
    elif outcome == PYGEN_ERROR:
        self._fail()
    return outcome


cdef inline int quicken_steps(object kind) except -1:
    return tk_quicken_steps(kind, <tk_sendfunc>resume_sending)


cdef class WebSocket(Exchange):
    cdef bint _is_accepted
    cdef Py_ssize_t _received, _sent

    cdef object _see_code(self, object message)


@cython.locals(sending=Sending)
cdef Sending _sending(Request request, object inner, object message)
