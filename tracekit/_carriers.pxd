cimport cython

from ._core.context cimport SpanContext
from ._core.free_threading cimport retire
from ._core.interpreter cimport is_a
from ._core.scopes cimport Scope, effective, innermost
from ._core.span cimport Span
from .wire.w3c cimport read_w3c, _write_both

cdef object _sieve, _read, _write


cdef extern from *:
    """
    /* Tell whether a pair of the list *pairs* may be traceparent, tracestate or baggage: other names of bytes differ in
       length or in the first letter. */
    static inline int tk_may_hold_w3c(PyObject *pairs) {
        Py_ssize_t at;
        for (at = 0; at < PyList_GET_SIZE(pairs); at++) {
            PyObject *pair = PyList_GET_ITEM(pairs, at), *name;
            Py_ssize_t size;
            char first;
            if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2) return 1;
            name = PyTuple_GET_ITEM(pair, 0);
            if (!PyBytes_CheckExact(name)) return 1;
            size = PyBytes_GET_SIZE(name);
            first = PyBytes_AS_STRING(name)[0] | 0x20;
            if (size == 7 ? first == 'b' : (size == 10 || size == 11) && first == 't') return 1;
        }
        return 0;
    }
    """
    bint may_hold_w3c "tk_may_hold_w3c"(list) noexcept


cpdef object extract(object carrier)


cdef inline bint reads_w3c() noexcept:
    return _read is None
