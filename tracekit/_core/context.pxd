from libc.stdint cimport uint16_t, uint32_t, uint64_t

cimport cython

from .._speedups cimport hex_text, id_octets, random_word, stretched_word
from .free_threading cimport retire
from .interpreter cimport DEFERRED, RANDOM, SAMPLED, publish

cdef object _ids
cdef uint32_t _generation
cdef int _trace_bits


cdef inline uint32_t generation() noexcept:
    return _generation


cdef inline int new_trace_bits() noexcept:
    return _trace_bits


cdef inline bint has_ids() noexcept:
    return _ids is not None


cdef (uint64_t, uint64_t) new_trace_id() except *
cpdef uint64_t new_span_id() except? 0


@cython.final
cdef class SpanContext:
    cdef uint64_t _high, _low, _span
    cdef uint16_t _bits
    cdef bint _remote, _is_made
    cdef str _state
    cdef object _labels
    cdef dict _extra
    cdef object _face

    cdef bint _is_valid(self) noexcept


@cython.locals(context=SpanContext)
cdef SpanContext from_words(
    uint64_t high, uint64_t low, uint64_t span, int bits, str state, object labels, bint remote, dict extra
)


@cython.locals(context=SpanContext)
cdef SpanContext child_context(SpanContext base, int bits, str state)
cdef object _ids_of(SpanContext context)
cdef bint _are_equal(SpanContext one, SpanContext other)


@cython.locals(context=SpanContext)
cdef SpanContext with_labels(SpanContext base, object labels)
