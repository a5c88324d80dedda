from libc.stdint cimport uint64_t

cimport cython

from .context cimport SpanContext, child_context, from_words, new_span_id, new_trace_bits, new_trace_id
from .interpreter cimport DEFERRED, RANDOM, SAMPLED, SUPPRESSED

cdef uint64_t _MASK56
cdef tuple _DROP, _KEEP


@cython.final
cdef class Tracer:
    cdef readonly bint recording, records_all, sees_trace
    cdef readonly uint64_t threshold
    cdef readonly str state
    cdef readonly object sampler
    cdef readonly object limits
    cdef readonly object resource
    cdef readonly object instrumentation
    cdef readonly object hooks
    cdef readonly object parts
    cdef Tracer kept
    cdef Tracer _at_rest
    cdef Py_ssize_t max_attributes, max_events, max_links, max_value
    cdef Py_ssize_t max_event_attributes, max_link_attributes, max_part_value

    cdef Tracer at_rest(self)

    @cython.locals(bits=int, high=uint64_t, low=uint64_t, keep=bint, state=str)
    cdef SpanContext root(
        self, SpanContext base, str name, str kind, object attributes, object links, dict added
    )

    @cython.locals(bits=int, keep=bint, state=str)
    cdef SpanContext child(
        self, SpanContext base, str name, str kind, object attributes, object links, dict added
    )

    @cython.locals(randomness=uint64_t, keep=bint, entry=str, state=str)
    cdef tuple _sample(
        self,
        uint64_t high,
        uint64_t low,
        SpanContext base,
        str name,
        str kind,
        object attributes,
        object links,
        dict added,
    )
