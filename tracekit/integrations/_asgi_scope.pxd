from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

cimport cython

from .._core.free_threading cimport WITHOUT_GIL, is_guarded
from .._speedups cimport Items
from ._redaction cimport Redaction

cdef enum:
    _KNOWN = 64

cdef Py_ssize_t _ROOM, _MOST
cdef str _OUTER
cdef dict _METHODS
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

    /* A new reference to fields[key], or None. *place* is where the last dict had it. */
    #ifdef Py_GIL_DISABLED
    static inline PyObject *tk_field(PyObject *fields, PyObject *key, Py_ssize_t *place) {
        PyObject *value;
        (void)place;
        return PyDict_GetItemRef(fields, key, &value) ? value : Py_NewRef(Py_None);
    }
    #else
    static inline PyObject *tk_find(PyObject *fields, PyObject *key, Py_ssize_t *place) {
        PyObject *value = PyDict_GetItemWithError(fields, key), *found;
        Py_ssize_t at = 0, next = 0;
        if (value == NULL) return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
        for (; PyDict_Next(fields, &next, &found, NULL); at = next) {
            if (found == key) {
                *place = at;
                break;
            }
        }
        return Py_NewRef(value);
    }

    static inline PyObject *tk_field(PyObject *fields, PyObject *key, Py_ssize_t *place) {
        Py_ssize_t at = *place;
        PyObject *found, *value;
        if (PyDict_Next(fields, &at, &found, &value) && found == key) return Py_NewRef(value);
        return tk_find(fields, key, place);
    }
    #endif

    static inline Py_ssize_t tk_place_of(PyObject *object, Py_ssize_t most) {
        size_t address = (size_t)object;
        return (Py_ssize_t)((address >> 4 ^ address >> 10) % (size_t)most);
    }

    static inline int tk_is_text(PyObject *value) {
        return PyUnicode_CheckExact(value) && PyUnicode_GET_LENGTH(value) > 0;
    }

    static inline int tk_spells(PyObject *text, PyObject *octets) {
        return PyUnicode_CheckExact(text) && PyUnicode_IS_ASCII(text) && PyBytes_CheckExact(octets)
            && PyUnicode_GET_LENGTH(text) == PyBytes_GET_SIZE(octets)
            && memcmp(PyUnicode_DATA(text), PyBytes_AS_STRING(octets), (size_t)PyBytes_GET_SIZE(octets)) == 0;
    }

    static inline int tk_same_octets(PyObject *one, PyObject *other) {
        return PyBytes_CheckExact(one) && PyBytes_CheckExact(other)
            && PyBytes_GET_SIZE(one) == PyBytes_GET_SIZE(other)
            && memcmp(PyBytes_AS_STRING(one), PyBytes_AS_STRING(other), (size_t)PyBytes_GET_SIZE(one)) == 0;
    }

    static inline int tk_same_text(PyObject *one, PyObject *other) {
        return one == other || (PyUnicode_CheckExact(one) && PyUnicode_CheckExact(other) && tk_same(one, other));
    }

    static inline int tk_same_pair(PyObject *one, PyObject *other) {
        PyObject *first, *second;
        int strange = 0, other_strange = 0;
        if (one == other) return 1;
        if (
            !PyTuple_CheckExact(one) || !PyTuple_CheckExact(other)
            || PyTuple_GET_SIZE(one) != 2 || PyTuple_GET_SIZE(other) != 2
        ) return 0;
        first = PyTuple_GET_ITEM(one, 1), second = PyTuple_GET_ITEM(other, 1);
        return tk_same_text(PyTuple_GET_ITEM(one, 0), PyTuple_GET_ITEM(other, 0))
            && PyLong_CheckExact(first) && PyLong_CheckExact(second)
            && PyLong_AsLongAndOverflow(first, &strange) == PyLong_AsLongAndOverflow(second, &other_strange)
            && !strange && !other_strange;
    }
    #endif
    """
    object tk_field(PyObject*, PyObject*, Py_ssize_t*)
    Py_ssize_t place_of "tk_place_of"(object, Py_ssize_t) noexcept
    bint is_text "tk_is_text"(object) noexcept
    bint spells "tk_spells"(object, bytes) noexcept
    bint same_octets "tk_same_octets"(object, object) noexcept
    bint same_text "tk_same_text"(object, object) noexcept
    bint same_pair "tk_same_pair"(object, object) noexcept
    bint same "tk_same"(object one, str other) except -1
    object header "tk_header"(object headers, bytes wanted)


@cython.final
cdef class Field:
    cdef str _name
    cdef Py_ssize_t _place


cdef Field _CLIENT, _PATH, _QUERY, _RAW_PATH, _ROUTE, _SCHEME, _SERVER, _VERSION


cdef inline object field(dict fields, Field key):
    return tk_field(<PyObject*>fields, <PyObject*>key._name, &key._place)


cdef inline int append(Items attributes, str key, object value) except -1:
    if attributes.size == attributes.room:
        return attributes.add(key, value)
    attributes.pairs[2 * attributes.size] = <PyObject*>key
    attributes.pairs[2 * attributes.size + 1] = <PyObject*>value
    attributes.size += 1
    Py_INCREF(key)
    Py_INCREF(value)
    return 0


cdef inline bint append_ours(Items attributes, Py_ssize_t count, str key, object value) except -1:
    if WITHOUT_GIL or attributes is None or attributes.size != count:
        return False
    if attributes.seen is not None or attributes.places is not None:
        return False
    append(attributes, key, value)
    return True


cpdef str known_method(object method)


@cython.locals(attributes=Items, fields=dict, is_other=bint)
cpdef Items attributes_of(object scope, object headers, bint is_http, str method, Redaction redaction)


@cython.locals(octets=bytes, text=str, is_plain=bint)
cdef object _path_of(dict fields)
cdef object _add_agent(Items attributes, object agent)


@cython.locals(last=tuple)
cdef object _add_server(Items attributes, object host, object scheme, object server)
cdef object _add_query(Items attributes, object query, Redaction redaction)
cdef object _add_version(Items attributes, object version)
cdef object _add_method(Items attributes, object method)
cdef object _add_client(Items attributes, object client)


@cython.locals(plain=bytes)
cdef str _latin(object octets, Py_ssize_t most)


cdef class Routes:
    cdef list _known

    @cython.locals(fields=dict, at=Py_ssize_t, known=tuple, found=tuple, template=str, is_mounted=bint)
    cdef tuple find(self, object scope, str before)


@cython.locals(prefix=str)
cdef object route_of(dict fields, object route)
cdef object _template_of(str path, list parameters)
