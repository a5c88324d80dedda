# The compiled twin's OTLP encoder: finished spans straight into the bytes of one ExportTraceServiceRequest.
#
# A nested message is written behind one octet for its size, and moved where the size takes more. Field
# numbers: opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto, resource/v1/resource.proto.

cdef extern from "Python.h":
    void* PyMem_Realloc(void* block, size_t size)
    void PyMem_Free(void* block)

cdef enum:
    HAS_IS_REMOTE = 0x100
    IS_REMOTE = 0x200
    MAX_SCALAR = 16  # octets that a tag and a varint or fixed number take at most


@cython.final
@cython.no_gc
cdef class Octets:
    """A growing run of octets. Every write asks ``need()`` for room first."""

    cdef uint8_t* start
    cdef Py_ssize_t size, room

    def __dealloc__(self):
        PyMem_Free(self.start)

    cdef inline int need(self, Py_ssize_t count) except -1:
        return 0 if self.room - self.size >= count else self.grow(count)

    cdef int grow(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t room = self.size + count + (self.size >> 1) + 4096
        cdef void* block = PyMem_Realloc(self.start, <size_t>room)
        if block == NULL:
            raise MemoryError
        self.start, self.room = <uint8_t*>block, room
        return 0

    cdef inline void byte(self, uint8_t octet) noexcept:
        self.start[self.size] = octet
        self.size += 1

    cdef inline void varint(self, uint64_t number) noexcept:  # ten octets at most
        while number >= 0x80:
            self.byte(<uint8_t>(number & 0x7F | 0x80))
            number >>= 7
        self.byte(<uint8_t>number)

    cdef inline void fixed64(self, uint64_t number) noexcept:  # little-endian, whatever the machine is
        cdef int at
        for at in range(8):
            self.byte(<uint8_t>(number >> 8 * at))

    cdef inline void fixed32(self, uint32_t number) noexcept:
        cdef int at
        for at in range(4):
            self.byte(<uint8_t>(number >> 8 * at))

    cdef inline void id64(self, uint64_t number) noexcept:  # big-endian, as ids are
        cdef int at
        for at in range(8):
            self.byte(<uint8_t>(number >> (56 - 8 * at)))

    cdef int raw(self, uint8_t tag, const uint8_t* octets, Py_ssize_t size) except -1:
        self.need(size + MAX_SCALAR)
        self.byte(tag)
        self.varint(<uint64_t>size)
        memcpy(self.start + self.size, octets, <size_t>size)
        self.size += size
        return 0

    cdef int text(self, uint8_t tag, str text) except -1:
        cdef object utf8
        if PyUnicode_IS_ASCII(text):
            return self.raw(tag, <const uint8_t*>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))
        utf8 = _utf8(text)
        return self.raw(tag, <const uint8_t*>PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8))

    cdef int name(self, uint8_t tag, str text) except -1:
        return self.text(tag, text) if PyUnicode_GET_LENGTH(text) else 0

    cdef int number(self, uint8_t tag, uint64_t number) except -1:
        if number:
            self.need(MAX_SCALAR)
            self.byte(tag)
            self.varint(number)
        return 0

    cdef int time(self, uint8_t tag, int64_t time_ns) except -1:
        if time_ns:
            self.need(MAX_SCALAR)
            self.byte(tag)
            self.fixed64(<uint64_t>time_ns)
        return 0

    cdef Py_ssize_t open(self, uint8_t tag) except -1:
        """Begin a nested message; what this returns ends it."""
        self.need(MAX_SCALAR)
        self.byte(tag)
        self.size += 1
        return self.size

    cdef int close(self, Py_ssize_t begin) except -1:
        cdef Py_ssize_t size = self.size - begin
        cdef Py_ssize_t rest = size >> 7
        cdef int more = 0
        if rest:
            while rest:
                more += 1
                rest >>= 7
            self.need(more)
            memmove(self.start + begin + more, self.start + begin, <size_t>size)
        self.size = begin - 1
        self.varint(<uint64_t>size)
        self.size += size
        return 0


def encode_spans(spans):
    """Return *spans* as the bytes of one OTLP ``ExportTraceServiceRequest``.

    https://opentelemetry.io/docs/specs/otlp/ - spans of one resource stand together, in their order. What OTLP has
    no place for: the status "cancelled" is left unset, and why becomes the attribute ``tracekit.cancelled``; an int
    past 64 bits becomes its text in hexadecimal, a lone surrogate U+FFFD. Labels stay with the context.
    """
    cdef Octets out = Octets()
    cdef Span span
    cdef list group
    cdef dict groups = {}
    for item in spans:
        if type(item) is not Span:
            raise TypeError(f"spans must hold spans, not {type(item).__name__}")
        span = <Span>item
        group = <list>groups.get(id(span.tracer.resource))
        if group is None:
            group = groups[id(span.tracer.resource)] = []
        group.append(span)
    for group in groups.values():
        _put_resource_spans(out, group)
    return PyBytes_FromStringAndSize(<const char*>out.start, out.size)


cdef int _put_resource_spans(Octets out, list spans) except -1:
    cdef Py_ssize_t resource_spans, part, scope
    cdef Span span = spans[0]
    resource_spans = out.open(0x0A)
    part = out.open(0x0A)
    for key, value in dict(span.tracer.resource).items():
        _put_attribute(out, 0x0A, str.__str__(key), value)  # of a StrEnum, say
    out.close(part)
    part = out.open(0x12)
    scope = out.open(0x0A)
    out.text(0x0A, "tracekit")
    out.text(0x12, _VERSION)
    out.close(scope)
    for span in spans:
        _put_span(out, span)
    out.close(part)
    out.close(resource_spans)
    return 0


cdef int _put_span(Octets out, Span span) except -1:
    cdef Py_ssize_t whole = out.open(0x12), part
    cdef SpanContext parent = span.parent
    cdef uint32_t flags = HAS_IS_REMOTE
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0
    _put_ids(out, span.context)
    if parent is not None and parent.span:
        out.need(MAX_SCALAR)
        out.byte(0x22)
        out.byte(8)
        out.id64(parent.span)
    if parent is not None and parent.remote:
        flags |= IS_REMOTE
    out.name(0x2A, span._name)
    out.number(0x30, <uint64_t>(_KINDS.index(span._kind) + 1) if span._kind is not _INTERNAL else 1)
    out.time(0x39, span.start)
    out.time(0x41, span.stop)
    if span._attributes is not None:
        # Nothing that runs in here can change an ended span's attributes: their keys and values are plain.
        while PyDict_Next(span._attributes, &position, &key, &value):
            _put_attribute(out, 0x4A, <object>key, <object>value)
    if span._status == CANCELLED:
        _put_attribute(out, 0x4A, _CANCELLED_KEY, span.description or "")
    out.number(0x50, span.dropped_attributes)
    if span._events is not None:
        for name, time_ns, attributes in span._events:
            part = out.open(0x5A)
            out.time(0x09, time_ns)
            out.name(0x12, name)
            if attributes is not None:
                _put_attributes(out, 0x1A, attributes)
            out.close(part)
    out.number(0x60, span.dropped_events)
    if span._links is not None:
        for target, attributes in span._links:
            part = out.open(0x6A)
            _put_ids(out, <SpanContext?>target)
            _put_attributes(out, 0x22, dict(attributes))
            out.need(MAX_SCALAR)
            out.byte(0x35)
            _put_flags(out, <SpanContext>target, HAS_IS_REMOTE | (IS_REMOTE if (<SpanContext>target).remote else 0))
            out.close(part)
    out.number(0x70, span.dropped_links)
    if span._status == OK or span._status == ERROR:
        part = out.open(0x7A)
        if span._status == ERROR and span.description is not None:
            out.name(0x12, span.description)
        out.number(0x18, 1 if span._status == OK else 2)
        out.close(part)
    out.need(MAX_SCALAR)
    out.byte(0x85)
    out.byte(0x01)
    _put_flags(out, span.context, flags)
    out.close(whole)
    return 0


cdef int _put_ids(Octets out, SpanContext context) except -1:
    out.need(2 * MAX_SCALAR)
    out.byte(0x0A)
    out.byte(16)
    out.id64(context.high)
    out.id64(context.low)
    out.byte(0x12)
    out.byte(8)
    out.id64(context.span)
    if context._state is not None:
        out.text(0x1A, context._state)
    return 0


cdef inline void _put_flags(Octets out, SpanContext context, uint32_t flags) noexcept:
    out.fixed32(context.bits & 0xFF | flags)


cdef int _put_attributes(Octets out, uint8_t tag, dict attributes) except -1:
    for key, value in attributes.items():
        _put_attribute(out, tag, key, value)
    return 0


cdef int _put_attribute(Octets out, uint8_t tag, str key, object value) except -1:
    cdef Py_ssize_t whole = out.open(tag), part
    out.name(0x0A, key)
    part = out.open(0x12)
    _put_value(out, value)
    out.close(part)
    out.close(whole)
    return 0


cdef int _put_value(Octets out, object value) except -1:
    """Write an ``AnyValue``; None is one without a value. An attribute nests three levels deep at most."""
    cdef type kind = type(value)
    cdef Py_ssize_t whole, part
    cdef double number
    cdef uint64_t bits
    if kind is str:
        out.text(0x0A, <str>value)
    elif kind is bool:
        out.need(MAX_SCALAR)
        out.byte(0x10)
        out.byte(1 if value is True else 0)
    elif kind is int:
        if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
            out.need(MAX_SCALAR)
            out.byte(0x18)
            out.varint(<uint64_t><int64_t>value)
        else:
            out.text(0x0A, _int_text(value))
    elif kind is float:
        number = value
        memcpy(&bits, &number, 8)
        out.need(MAX_SCALAR)
        out.byte(0x21)
        out.fixed64(bits)
    elif kind is bytes:
        out.raw(0x3A, <const uint8_t*>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    elif kind is tuple:
        whole = out.open(0x2A)
        for item in <tuple>value:
            part = out.open(0x0A)
            _put_value(out, item)
            out.close(part)
        out.close(whole)
    elif kind is dict:
        whole = out.open(0x32)
        _put_attributes(out, 0x0A, <dict>value)
        out.close(whole)
    return 0
