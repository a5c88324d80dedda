cimport cython

from ..._core.context cimport SpanContext, with_labels
from ..._core.interpreter cimport DEFERRED, is_a

cdef object _FLAGS, _new
cdef bint _IS_TUPLE

cpdef object remote_span(SpanContext context)
cpdef object to_otel(SpanContext context)


@cython.locals(context=SpanContext)
cpdef SpanContext from_otel(object face)
cpdef SpanContext relabelled(SpanContext context, object labels)


@cython.locals(given=dict, is_any=bint)
cpdef object labels_of(object baggage, object before)


@cython.locals(given=dict)
cpdef dict attributes_of(object attributes)
