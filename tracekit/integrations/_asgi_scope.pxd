cimport cython

from .._speedups cimport Items

cdef Py_ssize_t _ROOM
cdef tuple _last

cdef enum:
    TYPE = 0
    METHOD = 1
    PATH = 2
    HEADERS = 3
    SCHEME = 4
    RAW_PATH = 5
    SERVER = 6
    QUERY = 7
    VERSION = 8
    CLIENT = 9
    ROUTE = 10
    OUTER = 11
    MESSAGE = 12
    STATUS = 13
    MORE = 14


cdef extern from *:
    """
    #ifndef TRACEKIT_ASGI_SCOPE
    #define TRACEKIT_ASGI_SCOPE
    /* Return fields[key], or None. A server makes the dicts of all requests with the same keys in the same order, so the
       field is mostly where it was in the dict before: looking there takes a third of a search. */
    static inline PyObject *tk_field(PyObject *fields, PyObject *key, int number) {
        static Py_ssize_t places[16];
        Py_ssize_t place = places[number], next;
        PyObject *found, *value;
        if (fields == NULL || fields == Py_None) {
            PyErr_SetString(PyExc_TypeError, "fields must be a dict");
            return NULL;
        }
        next = place;
        if (PyDict_Next(fields, &next, &found, &value) && found == key) return Py_NewRef(value);
        value = PyDict_GetItemWithError(fields, key);
        if (value == NULL) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        Py_INCREF(value);
        if (PyDict_GET_SIZE(fields) <= 64) {
            PyObject *other;
            for (next = place = 0; PyDict_Next(fields, &next, &found, &other); place = next) {
                if (found == key) {
                    places[number] = place;
                    break;
                }
            }
        }
        return value;
    }

    static inline int tk_same(PyObject *one, PyObject *other) {
        if (one == other) return 1;
        if (!PyUnicode_CheckExact(one)) return PyObject_RichCompareBool(one, other, Py_EQ);
        return PyUnicode_GET_LENGTH(one) == PyUnicode_GET_LENGTH(other) && PyUnicode_KIND(one) == PyUnicode_KIND(other)
            && memcmp(
                PyUnicode_DATA(one), PyUnicode_DATA(other), (size_t)(PyUnicode_GET_LENGTH(one) * PyUnicode_KIND(one))
            ) == 0;
    }

    static PyObject *tk_header(PyObject *headers, PyObject *wanted) {
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
    object field "tk_field"(dict fields, str key, int number)
    bint same "tk_same"(object one, str other) except -1
    object header "tk_header"(object headers, bytes wanted)


cpdef str known_method(object method)


@cython.locals(attributes=Items, fields=dict, text=str, octets=bytes, is_plain=bint, is_other=bint)
cpdef Items attributes_of(object scope, bint is_http, str method, object redaction)


@cython.locals(plain=bytes)
cdef str _latin(object octets, Py_ssize_t most)


@cython.locals(last=tuple)
cdef tuple _server_of(object host, object scheme, object server)


@cython.locals(fields=dict, prefix=str)
cpdef object route_of(object scope)
