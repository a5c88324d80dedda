# Cython saves a pending exception around each __dealloc__, by two calls that are expensive in the usual case of none.

cdef extern from *:
    """
    #ifndef TRACEKIT_PENDING
    #define TRACEKIT_PENDING
    static inline void tk_fetch(PyObject **kind, PyObject **value, PyObject **traceback) {
        if (PyErr_Occurred() != NULL) PyErr_Fetch(kind, value, traceback);
        else *kind = *value = *traceback = NULL;
    }
    static inline void tk_restore(PyObject *kind, PyObject *value, PyObject *traceback) {
        if (kind != NULL || PyErr_Occurred() != NULL) PyErr_Restore(kind, value, traceback);
    }
    #define PyErr_Fetch tk_fetch
    #define PyErr_Restore tk_restore
    #endif
    """
