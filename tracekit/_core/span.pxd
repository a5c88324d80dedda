from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from .._speedups cimport Entries, Items, has_text_keys
from .calls cimport tk_bind, tk_enter, tk_exit, tk_quicken, tk_start
from .buffer cimport Buffer, the_buffer
from .context cimport SpanContext, child_context, generation, has_ids
from .free_threading cimport (
    WITHOUT_GIL,
    alone,
    is_guarded,
    own,
    retire,
    share,
    stable,
    start_one,
    unlock_all,
)
from .interpreter cimport (
    DEFERRED,
    RANDOM,
    SAMPLED,
    SUPPRESSED,
    borrow,
    forbid_new,
    is_a,
    is_finalizing,
    is_lent,
    lent,
    monotonic_ns,
    publish,
    referent,
    weak,
)
from .scopes cimport (
    SPAN,
    Scope,
    close_scope,
    effective,
    innermost,
    linked_context,
    make_scope,
    newest_open,
    open_scope,
)
from .tracer cimport Tracer

cdef Tracer _tracer
cdef Buffer _buffer
cdef object _observer, _clock
cdef int64_t _anchor
cdef str _INTERNAL
cdef tuple _NO_LINKS, _NO_CLASSES
cdef PyObject* _oldest
cdef PyObject* _newest
cdef int _watchers


cdef inline Tracer tracer_in_use():
    return _tracer


cdef enum:
    UNSET = 0
    OK = 1
    ERROR = 2
    CANCELLED = 3


@cython.final
cdef class Span:
    cdef object __weakref__
    cdef readonly SpanContext context
    cdef readonly SpanContext parent
    cdef Tracer _tracer
    cdef PyObject* _scope
    cdef PyObject* _older
    cdef PyObject* _newer
    cdef PyObject* _face
    cdef str _name
    cdef str _kind
    cdef str _description
    cdef Items _attributes
    cdef Entries _events
    cdef Entries _links
    cdef tuple _expected
    cdef int64_t _start, _stop, _distance
    cdef uint32_t _generation
    cdef uint8_t _status
    cdef bint _is_recorded, _has_ended, _owns_context, _is_listed
    cdef readonly uint32_t dropped_attributes, dropped_events, dropped_links, truncated_values

    @cython.locals(scope=Scope)
    cdef object _leave(self)
    cpdef object _drop_scope(self, Scope scope)
    cpdef object _move_scope(self, Scope scope, Scope copy)
    cdef object _rename(self, str name)

    @cython.locals(stop=int64_t, is_here=bint)
    cdef object _end(self, object end_ns)
    cdef object _late(self, str method)
    cdef object _begin(self, object start_ns)
    cdef int64_t _now(self) except? -1

    @cython.locals(attributes=Items, kind=type)
    cdef object _put(self, str key, object value)

    @cython.locals(attributes=Items, given=Items)
    cdef object _put_all(self, object items)

    @cython.locals(cleaned=Items)
    cdef Items _clean(self, object items, Py_ssize_t most, Py_ssize_t length)


@cython.locals(scope=Scope)
cdef object _enter(Span self)


cdef object _exit(Span self, object exc)


@cython.locals(self=Span)
cdef object _simple(object name, object attributes)


cdef inline int quicken(object kind, object function, object explain) except -1:
    tk_bind(kind, b"__enter__", <tk_enter>_enter, NULL)
    tk_bind(kind, b"__exit__", NULL, <tk_exit>_exit)
    return tk_quicken(function, <tk_start>_simple, explain)


cdef bint _is_quiet(Tracer tracer) noexcept
cdef object enlist(Span span)
cdef object _delist(Span span)


@cython.locals(span=Span)
cpdef object open_spans(list taken, Py_ssize_t limit)


@cython.locals(span=Span)
cdef Span new_span()


@cython.locals(ghost=Span)
cdef object _abandon(Span span)
cdef int64_t _ns(object time_ns) except? -1
cdef int64_t _distance_now() except? -1
cpdef Span start_with(
    Tracer tracer, str name, str kind, dict attributes, tuple links, object parent, object start_ns
)


@cython.locals(self=Span, scope=Scope, base=SpanContext, linked=SpanContext, given=Span, is_local=bint, added=dict)
cdef Span _start(
    Tracer tracer, str name, str kind, object attributes, object items, tuple links, object parent, object start_ns
)


@cython.locals(self=Span)
cpdef Span start_request_span(Tracer tracer, str name, str kind, object attributes, tuple links, object parent)


@cython.locals(items=Items)
cpdef dict mapping_of(object attributes)
cdef object _items(object attributes)
cdef object _viewed(Items items)
cdef tuple _link(object target)
cdef tuple _classes(object expected)
cdef tuple _alive(tuple expected)
cdef object known_kind(object kind)
cdef int index_of(tuple names, object name, str parameter) except -2
cdef object _process(Span span)
cdef object add_ended(Span span)


@cython.locals(entries=Entries, at=Py_ssize_t)
cpdef tuple dropped_parts(Span span)
cdef Py_ssize_t _dropped_of(Items items) noexcept
