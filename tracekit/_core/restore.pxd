cimport cython

from .._speedups cimport Entries, Items
from .context cimport generation
from .span cimport UNSET, Span, add_ended, index_of, known_kind, new_span, tracer_in_use


@cython.locals(items=Items)
cdef Items _kept(object attributes)
