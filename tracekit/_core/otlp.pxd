from libc.stdint cimport uint32_t, uint64_t

cimport cython

from .._speedups cimport Entries, Items, Octets
from .buffer cimport Buffer
from .context cimport SpanContext
from .free_threading cimport WITHOUT_GIL
from .span cimport CANCELLED, ERROR, OK, Span
from .tracer cimport Tracer

cdef str _INTERNAL
cdef tuple KINDS

cdef enum:
    HAS_IS_REMOTE = 0x100
    IS_REMOTE = 0x200
    _PORTION = 256
    _LARGE = 512
    _FEW = 8
    _COPIED = 1024
    _GROUP = 32

cdef Buffer _buffer


@cython.final
cdef class Run:
    cdef Tracer _tracer
    cdef readonly bytes octets
    cdef readonly Py_ssize_t count


@cython.final
cdef class Encoder:
    cdef list _items
    cdef Py_ssize_t _most
    cdef readonly Py_ssize_t count, busy
    cdef public Py_ssize_t group, taken
    cdef public bint is_open
    cdef bint is_lost

    @cython.locals(count=Py_ssize_t, spans=list, items=list, fresh=list)
    cpdef bint work(self) except -1


@cython.locals(
    out=Octets, run=Run, first=Span, span=Span, tracer=Tracer, made=list, outs=list, load=Py_ssize_t, place=Py_ssize_t,
    at=Py_ssize_t, records_all=bint
)
cdef object _put_runs(list runs, list spans)


cpdef list split_run(Run run)


@cython.locals(
    span=Span, run=Run, own=Tracer, tracer=Tracer, group=list, tracers=list, their_groups=list, at=Py_ssize_t,
    load=Py_ssize_t, size=Py_ssize_t
)
cpdef bytes encode_spans(object spans, object pause=*)


@cython.locals(width=int)
cdef Py_ssize_t _put_resource_spans(Octets out, list groups, Py_ssize_t load, object pause) except -1


@cython.locals(run=Run, width=int)
cdef Py_ssize_t _put_scope_spans(Octets out, list spans, Py_ssize_t load, object pause) except -1


@cython.locals(span=Span, run=Run)
cdef Tracer _tracer_of(object item)


@cython.locals(run=Run, count=Py_ssize_t)
cdef Py_ssize_t _count(list items) except -1
cdef int _width(Py_ssize_t count) noexcept


@cython.locals(parent=uint64_t, is_remote=bint)
cdef Py_ssize_t _put_span(Octets out, Span span) except -1


@cython.locals(at=Py_ssize_t)
cdef int _number_of(object kind) except -1


@cython.locals(items=Items)
cdef object _put_events(Octets out, Entries events)


@cython.locals(items=Items, target=SpanContext)
cdef object _put_links(Octets out, Entries links)
cdef uint32_t _flags(SpanContext context) noexcept
