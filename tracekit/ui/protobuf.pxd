from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython


cdef enum:
    VARINT = 0
    FIXED64 = 1
    TEXT = 2
    FIXED32 = 5
    KNOWN = 1000
    SHORT = 256


cdef class _Reader:
    cdef readonly list rows
    cdef readonly int64_t rejected, size
    cdef bytes _data
    cdef Py_ssize_t _at, _length, _parts, _most_parts
    cdef str _key, _resource, _service, _library, _logger
    cdef bint _are_logs
    cdef object _reason
    cdef object _stored_s
    cdef dict _known
    cdef list _resource_terms

    @cython.locals(part=Py_ssize_t)
    cpdef request(self)

    @cython.locals(tag=uint64_t)
    cdef Py_ssize_t _find(self, uint64_t wanted, Py_ssize_t end) except -2

    @cython.locals(begin=Py_ssize_t, part=Py_ssize_t)
    cdef object _resource_spans(self, Py_ssize_t end)

    @cython.locals(part=Py_ssize_t, attributes=list, terms=list, value=str)
    cdef object _read_resource(self, Py_ssize_t end)

    @cython.locals(tag=uint64_t, begin=Py_ssize_t, part=Py_ssize_t, bytes_a_row=Py_ssize_t, items=list)
    cdef object _scope_spans(self, Py_ssize_t end)

    @cython.locals(
        tag=uint64_t, part=Py_ssize_t, kind=uint32_t, code=uint32_t, flags=uint32_t, dropped_attributes=int64_t,
        dropped_events=int64_t, dropped_links=int64_t, start=uint64_t, stop=uint64_t, attributes=list, events=list,
        links=list, terms=list, known=tuple,
    )
    cdef object _span(self, Py_ssize_t end)

    @cython.locals(value=str, octets=bytes, known=tuple)
    cdef tuple _span_attribute(self, Py_ssize_t end)

    @cython.locals(
        tag=uint64_t, severity=uint32_t, dropped=uint32_t, time=uint64_t, observed=uint64_t, attributes=list,
    )
    cdef object _log(self, Py_ssize_t end)

    @cython.locals(tag=uint64_t, time_ns=uint64_t, attributes=list)
    cdef str _event(self, Py_ssize_t end)

    @cython.locals(tag=uint64_t, attributes=list)
    cdef object _link(self, Py_ssize_t end)

    @cython.locals(value=str)
    cdef str _member(self, Py_ssize_t end, int depth)

    @cython.locals(tag=uint64_t, key=str, value=str)
    cdef str _attribute(self, Py_ssize_t end, int depth)

    @cython.locals(tag=uint64_t, part=Py_ssize_t, stop=Py_ssize_t, items=list, value=str)
    cdef str _value(self, Py_ssize_t end, int depth)

    cdef int _count(self) except -1

    @cython.locals(stop=Py_ssize_t, begin=Py_ssize_t)
    cdef str _text(self, Py_ssize_t end)

    @cython.locals(stop=Py_ssize_t, begin=Py_ssize_t)
    cdef str _id(self, Py_ssize_t end, Py_ssize_t size)

    @cython.locals(length=uint64_t, left=uint64_t)
    cdef Py_ssize_t _end(self, Py_ssize_t end) except -1

    @cython.locals(data=bytes, at=Py_ssize_t, number=uint64_t, shift=int, octet=uint64_t)
    cdef uint64_t _varint(self, Py_ssize_t end) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(number=uint64_t)
    cdef int64_t _signed(self, Py_ssize_t end) except? -1
    cdef uint32_t _small(self, Py_ssize_t end) except? 0xFFFFFFFF

    @cython.locals(begin=Py_ssize_t, data=bytes, at=Py_ssize_t, number=uint64_t)
    cdef uint64_t _fixed(self, Py_ssize_t end, Py_ssize_t size) except? 0xFFFFFFFFFFFFFFFF

    @cython.locals(wire=int)
    cdef object _skip(self, uint64_t tag, Py_ssize_t end)
