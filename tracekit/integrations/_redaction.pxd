cimport cython


cdef extern from *:
    Py_ssize_t find "PyUnicode_FindChar"(
        str text, Py_UCS4 character, Py_ssize_t begin, Py_ssize_t end, int direction
    ) except -2


cdef class Redaction:
    cdef frozenset _more
    cdef readonly dict _known

    cpdef bint is_secret(self, str name) except -1

    @cython.locals(known=dict, begin=Py_ssize_t, end=Py_ssize_t, equals=Py_ssize_t, size=Py_ssize_t)
    cpdef str query(self, str query)
    cdef str _redacted(self, str query)
    cdef str _pair(self, str pair)
    cdef bint _decide(self, str name) except -1
