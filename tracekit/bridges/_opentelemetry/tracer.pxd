cimport cython

from ..._core.context cimport SpanContext
from ..._core.interpreter cimport is_a, is_finalizing, lent
from ..._core.scopes cimport SPAN, Scope, close_scope, current_context, current_span, make_scope, open_in_body
from ..._core.span cimport Span, start_with, tracer_in_use
from ..._core.tracer cimport Tracer
from .contexts cimport attributes_of, relabelled
from .runtime cimport context_of, value_of
from .spans cimport OtelSpan, face, is_ours, leave, time_of

cdef object _INTERNAL
cdef tuple _SPAN_KINDS


@cython.final
cdef class Settings:
    cdef public dict changes


@cython.final
cdef class OtelTracer:
    cdef dict __dict__
    cdef object __weakref__
    cdef readonly object instrumentation
    cdef object _provider
    cdef Settings _settings
    cdef object _metrics, _config
    cdef bint _is_off
    cdef tuple _derived


@cython.final
cdef class CurrentSpan:
    cdef OtelSpan _given, _made
    cdef Scope _scope
    cdef CurrentSpan _outer
    cdef OtelTracer _tracer
    cdef object _name
    cdef tuple _options
    cdef bint _records, _sets, _ends


@cython.locals(in_use=Tracer, derived=tuple)
cdef Tracer _tracer_of(OtelTracer self)


@cython.locals(tracer=Tracer, span=Span, made=OtelSpan)
cdef OtelSpan _start(
    OtelTracer self, object name, object context, object kind, object attributes, object links, object start_time
)


@cython.locals(number=int)
cdef object _kind_name(object kind)
cdef tuple _targets(object links)


@cython.locals(made=OtelSpan, span=Span, parent=SpanContext, here=SpanContext)
cdef object _parent(object context)


@cython.locals(current=CurrentSpan)
cdef CurrentSpan _current_span(
    OtelTracer tracer, OtelSpan given, object name, tuple options, bint records, bint sets, bint ends
)
cdef CurrentSpan _again(CurrentSpan current)


@cython.locals(outer=CurrentSpan)
cdef object _set_aside(CurrentSpan current)


cdef object _decorated(CurrentSpan current, object function)


@cython.locals(here=SpanContext)
cdef Scope _scope_of(Span span)


@cython.locals(native=Span)
cpdef object get_current_span(object context=*)
