from libc.stdint cimport int64_t, uint32_t

cimport cython

from .free_threading cimport (
    WITHOUT_GIL,
    allow,
    alone,
    count_of,
    drained,
    end_one,
    keep,
    reset_records,
    share,
    start_one,
    waiting,
)

cdef extern from *:
    """
    static inline int tk_cannot_append(PyObject *items, PyObject *item) {
        if (PyList_Append(items, item) == 0) return 0;
        PyErr_Clear();
        return 1;
    }
    """
    bint cannot_append "tk_cannot_append"(list, object) noexcept


@cython.final
cdef class Buffer:
    cdef public Py_ssize_t capacity, mark, taken
    cdef public bint is_open, is_asleep
    cdef public object wake
    cdef list _spans
    cdef readonly int64_t started, ended, dropped, unsampled, passed

    @cython.locals(count=Py_ssize_t)
    cpdef object end(self, object span, bint is_recorded)

    @cython.locals(count=Py_ssize_t, room=Py_ssize_t)
    cdef object _end_alone(self, object span)
    cdef object _wake(self)
    cpdef object processed(self)
    cpdef reset(self)


cdef Buffer _buffer
cdef inline Buffer the_buffer():
    return _buffer
