cimport cython

from ._core.context cimport SpanContext
from ._core.scopes cimport Scope, effective, innermost
from ._core.span cimport Span
from .wire.w3c cimport read_w3c, _write_both

cdef object _sieve, _read, _write


cdef inline bint reads_w3c() noexcept:
    return _read is None
