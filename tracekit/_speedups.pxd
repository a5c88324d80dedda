# The functions and types of _speedups.pyx that other compiled modules call directly.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

cpdef uint64_t random_word() except 0
cpdef uint64_t stretched_word() except 0
cpdef str hex_text(uint64_t high, uint64_t low, int digits)
cpdef bytes id_octets(uint64_t high, uint64_t low, uint64_t span)
cpdef (uint64_t, uint64_t, uint64_t, int) split_traceparent(str text) noexcept
cpdef str join_traceparent(uint64_t high, uint64_t low, uint64_t span, int flags)
cpdef (uint64_t, uint64_t, uint64_t, int) split_b3(str text)
cpdef str join_b3(uint64_t high, uint64_t low, uint64_t span, int decision)
cpdef (uint64_t, uint64_t, uint64_t, int, int) split_binary(bytes octets) noexcept
cpdef bytes join_binary(uint64_t high, uint64_t low, uint64_t span, int flags)
cpdef object put(object carrier, str name, str text)
cpdef int count_tracestate(str text) noexcept
cpdef int check_baggage(str text) noexcept
cpdef str strip_space(str text)


cdef struct Name:
    const uint8_t* chars
    Py_ssize_t size
    bint is_wsgi  # "_" stands for "-"


@cython.final
@cython.no_gc  # holds str only
cdef class Sieve:
    cdef tuple fields, prefixes
    # The lengths, modulo 64, of the names that begin with a character: nearly all other headers are rejected by it.
    cdef uint64_t[256] lengths

    cpdef list collect(self, object carrier)
    cdef Py_ssize_t index(self, object key, bint is_mapping, Name* name) noexcept


cpdef bint has_text_keys(dict items) noexcept


cdef enum:
    FEW = 4


@cython.final
@cython.no_gc
cdef class Items:
    cdef PyObject** pairs
    cdef Py_ssize_t size, room, left_out
    cdef PyObject* first[2 * FEW]  # where the pairs are while they are few
    cdef dict seen, places

    cdef void clear(self) noexcept
    cdef int reserve(self, Py_ssize_t count) except -1
    cdef void append(self, PyObject* key, PyObject* value) noexcept
    cdef int make_places(self) except -1
    cdef Py_ssize_t find(self, str key) except? -2
    cdef Py_ssize_t count(self) noexcept
    cdef bint has(self, str key) except -1
    cdef int put(self, str key, object value) except -1
    cdef int add(self, str key, object value) except -1
    cdef bint fits(self, Py_ssize_t max_count, Py_ssize_t max_length) noexcept
    cdef bint fill(self, dict items, Py_ssize_t max_count, Py_ssize_t max_length) except -1
    cdef dict mapping(self)


cdef struct Entry:
    PyObject* head
    int64_t number
    PyObject* items


@cython.final
@cython.no_gc
cdef class Entries:
    cdef Entry* entries
    cdef Py_ssize_t size, room

    cdef Py_ssize_t count(self) noexcept
    cdef int append(self, object head, int64_t number, Items items) except -1
    cdef object head(self, Py_ssize_t at)
    cdef int64_t number(self, Py_ssize_t at) noexcept
    cdef Items items(self, Py_ssize_t at)


@cython.final
@cython.no_gc
cdef class Octets:
    cdef PyObject* whole
    cdef uint8_t* start
    cdef Py_ssize_t size, room

    cdef int need(self, Py_ssize_t count) except -1
    cdef int grow(self, Py_ssize_t count) except -1
    cdef int resize(self, Py_ssize_t size) except -1
    cdef void advance(self, const uint8_t* end) noexcept
    cdef int append(self, bytes octets) except -1
    cdef int raw(self, uint8_t tag, const uint8_t* octets, Py_ssize_t size) except -1
    cdef int text(self, uint8_t tag, str text) except -1
    cdef int name(self, uint8_t tag, str text) except -1
    cdef int number(self, uint8_t tag, uint64_t number) except -1
    cdef int time(self, uint8_t tag, int64_t time_ns) except -1
    cdef int flags(self, int tag, uint32_t flags) except -1
    cdef int ids(self, uint64_t high, uint64_t low, uint64_t span, str state) except -1
    cdef Py_ssize_t open_span(
        self,
        uint64_t high,
        uint64_t low,
        uint64_t span,
        str state,
        uint64_t parent,
        str name,
        int kind,
        int64_t start_ns,
        int64_t stop_ns,
    ) except -1
    cdef Py_ssize_t close_span(self, Py_ssize_t begin, uint32_t flags) except -1
    cdef Py_ssize_t open(self, uint8_t tag) except -1
    cdef Py_ssize_t open_wide(self, uint8_t tag, int width) except -1
    cdef int close(self, Py_ssize_t begin) except -1
    cdef Py_ssize_t close_wide(self, Py_ssize_t begin, int width) except -1
    cdef int attributes(self, uint8_t tag, dict attributes) except -1
    cdef int items(self, uint8_t tag, Items items) except -1
    cdef int attribute(self, uint8_t tag, str key, object value) except -1
    cdef int long(self, uint8_t tag, str key, object value) except -1
    cdef bint short(self, uint8_t tag, PyObject* key, PyObject* value) except -1
    cdef int value(self, object value) except -1
