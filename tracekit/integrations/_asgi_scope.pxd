cimport cython

from .._core.free_threading cimport is_guarded
from .._speedups cimport Items

cdef Py_ssize_t _ROOM
cdef tuple _last


cdef extern from *:
    """
    #ifndef TRACEKIT_ASGI_SCOPE
    #define TRACEKIT_ASGI_SCOPE
    static inline int tk_same(PyObject *one, PyObject *other) {
        if (one == other) return 1;
        if (!PyUnicode_CheckExact(one)) return PyObject_RichCompareBool(one, other, Py_EQ);
        return PyUnicode_GET_LENGTH(one) == PyUnicode_GET_LENGTH(other) && PyUnicode_KIND(one) == PyUnicode_KIND(other)
            && memcmp(
                PyUnicode_DATA(one), PyUnicode_DATA(other), (size_t)(PyUnicode_GET_LENGTH(one) * PyUnicode_KIND(one))
            ) == 0;
    }

    static inline PyObject *tk_header(PyObject *headers, PyObject *wanted) {
        Py_ssize_t at;
        if (!PyList_Check(headers) && !PyTuple_Check(headers)) return Py_NewRef(Py_None);
        for (at = 0; at < PySequence_Fast_GET_SIZE(headers); at++) {
            PyObject *pair = PySequence_Fast_GET_ITEM(headers, at), *name;
            if ((!PyTuple_Check(pair) && !PyList_Check(pair)) || PySequence_Fast_GET_SIZE(pair) != 2) continue;
            name = PySequence_Fast_GET_ITEM(pair, 0);
            if (
                PyBytes_Check(name) && PyBytes_GET_SIZE(name) == PyBytes_GET_SIZE(wanted)
                && memcmp(PyBytes_AS_STRING(name), PyBytes_AS_STRING(wanted), (size_t)PyBytes_GET_SIZE(name)) == 0
            ) return Py_NewRef(PySequence_Fast_GET_ITEM(pair, 1));
        }
        return Py_NewRef(Py_None);
    }
    #endif
    """
    bint same "tk_same"(object one, str other) except -1
    object header "tk_header"(object headers, bytes wanted)


cpdef str known_method(object method)


@cython.locals(attributes=Items, fields=dict, text=str, octets=bytes, is_plain=bint, is_other=bint, name=str)
cpdef Items attributes_of(object scope, object headers, bint is_http, str method, object redaction)


@cython.locals(plain=bytes)
cdef str _latin(object octets, Py_ssize_t most)


@cython.locals(last=tuple)
cdef tuple _server_of(object host, object scheme, object server)


@cython.locals(fields=dict, prefix=str)
cpdef object route_of(object scope)
