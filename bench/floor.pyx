# cython: language_level=3
"""The physical floor of ``with span()``: compiled context managers that only set and restore a ContextVar."""

cimport cython
from cpython.contextvars cimport PyContextVar_Reset, PyContextVar_Set, get_value

from contextvars import ContextVar

cdef object _current = ContextVar("floor", default=None)


@cython.final
@cython.freelist(8)
cdef class ResetByToken:
    """Restore the ContextVar with the Token of the change: the least work, but it raises in a foreign Context."""

    cdef object token

    def __enter__(self):
        self.token = PyContextVar_Set(_current, self)
        return self

    def __exit__(self, kind, exc, traceback):
        PyContextVar_Reset(_current, self.token)
        self.token = None


@cython.final
@cython.freelist(8)
cdef class SetAgain:
    """Restore the value of the ContextVar by setting it again, which works from anywhere."""

    cdef object held

    def __enter__(self):
        self.held = get_value(_current)
        PyContextVar_Set(_current, self)
        return self

    def __exit__(self, kind, exc, traceback):
        PyContextVar_Set(_current, self.held)
        self.held = None
