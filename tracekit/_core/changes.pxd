from libc.stdint cimport uint64_t

cimport cython

from .context cimport SpanContext, from_words, new_span_id, with_labels
from .interpreter cimport RANDOM, SAMPLED, lent
from .scopes cimport Scope, put_context
from .span cimport UNSET, Span, enlist, index_of, known_kind


cpdef object amend(Span span, str name, dict attributes, object status)
cpdef object rekind(Span span, str kind)
cpdef object relabel(Span span, object labels)


@cython.locals(base=SpanContext, bits=int, state=str, id=uint64_t)
cpdef object resample(Span span, bint sampled, object start_ns=*)


@cython.locals(scope=Scope)
cdef object _put_context(Span span, SpanContext context)
cpdef object retrace(Span span, SpanContext context)
