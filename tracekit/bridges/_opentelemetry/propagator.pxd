cimport cython

from ..._core.context cimport SpanContext
from ..._core.interpreter cimport DEFERRED, is_a
from ..._core.scopes cimport current_context
from .contexts cimport remote_span
from .runtime cimport put_value, scope_for, value_of

cdef object _GETTER, _SETTER, _EMPTY


@cython.final
cdef class Propagator:
    pass


@cython.locals(baggage=dict)
cdef object _with(object context, SpanContext found)


@cython.locals(pairs=list)
cdef list _pairs(object carrier, object getter)
