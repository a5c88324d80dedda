# The octets of protocol buffers, with attributes as OTLP has them. A nested message is written behind one octet for
# its size, and moved where the size takes more. Field numbers: opentelemetry/proto/common/v1/common.proto.

cdef enum:
    MAX_SCALAR = 16  # octets that a tag and a varint or fixed number take at most


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class Octets:
    """A growing run of octets; *tag* is a field's number and wire type, as protocol buffers write them."""
    # Every write asks need() for room first.

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

    cdef inline void fixed64(self, uint64_t number) noexcept:  # little-endian on every machine
        cdef uint8_t* octets = self.start + self.size
        cdef int at
        for at in range(8):  # one store where the machine is little-endian
            octets[at] = <uint8_t>(number >> 8 * at)
        self.size += 8

    cdef inline void word(self, uint64_t number) noexcept:  # big-endian, as ids are
        _put_word(number, self.start + self.size)
        self.size += 8

    cdef int raw(self, uint8_t tag, const uint8_t* octets, Py_ssize_t size) except -1:
        self.need(size + MAX_SCALAR)
        self.byte(tag)
        self.varint(<uint64_t>size)
        self.copy(octets, size)
        return 0

    cdef inline void copy(self, const uint8_t* octets, Py_ssize_t size) noexcept:
        memcpy(self.start + self.size, octets, <size_t>size)
        self.size += size

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
        """Begin a nested message, and return the position with which it is ended."""
        self.need(MAX_SCALAR)
        self.byte(tag)
        self.size += 1
        return self.size

    cdef Py_ssize_t open_long(self, uint8_t tag) except -1:
        """Begin a nested message of probably 128 to 16,383 octets; ``close_long()`` ends it."""
        self.need(MAX_SCALAR)
        self.byte(tag)
        self.size += 2
        return self.size

    cdef int close(self, Py_ssize_t begin) except -1:
        return self.end(begin, 1)

    cdef int close_long(self, Py_ssize_t begin) except -1:
        return self.end(begin, 2)

    cdef inline int end(self, Py_ssize_t begin, int room) except -1:
        """Write the size of the message from *begin* on into the *room* octets before it, or move the message."""
        cdef Py_ssize_t size = self.size - begin
        cdef Py_ssize_t rest = size >> 7
        cdef int taken = 1
        while rest:
            taken += 1
            rest >>= 7
        if taken != room:
            self.need(MAX_SCALAR)
            memmove(self.start + begin + taken - room, self.start + begin, <size_t>size)
        self.size = begin - room
        self.varint(<uint64_t>size)
        self.size += size
        return 0

    cdef int flags(self, int tag, uint32_t flags) except -1:
        cdef int at
        cdef uint8_t* octets
        self.need(MAX_SCALAR)
        self.varint(<uint64_t>tag)
        octets = self.start + self.size
        for at in range(4):  # fixed32, little-endian
            octets[at] = <uint8_t>(flags >> 8 * at)
        self.size += 4
        return 0

    cdef int trace_id(self, uint8_t tag, uint64_t high, uint64_t low) except -1:
        self.need(2 * MAX_SCALAR)
        self.byte(tag)
        self.byte(16)
        self.word(high)
        self.word(low)
        return 0

    cdef int span_id(self, uint8_t tag, uint64_t span) except -1:
        self.need(MAX_SCALAR)
        self.byte(tag)
        self.byte(8)
        self.word(span)
        return 0

    cdef int attributes(self, uint8_t tag, dict attributes) except -1:
        for key, value in attributes.items():
            self.attribute(tag, key, value)
        return 0

    cdef int items(self, uint8_t tag, Items items) except -1:
        cdef Py_ssize_t at
        for at in range(items.size):
            self.attribute(tag, <str>items.pairs[2 * at], <object>items.pairs[2 * at + 1])
        return 0

    cdef int attribute(self, uint8_t tag, str key, object value) except -1:
        cdef Py_ssize_t whole, part
        if type(value) is str and self.short(tag, key, <str>value):
            return 0
        whole = self.open(tag)
        self.name(0x0A, key)
        part = self.open(0x12)
        self.value(value)
        self.close(part)
        self.close(whole)
        return 0

    cdef bint short(self, uint8_t tag, str key, str value) except -1:
        """Write an attribute in one piece, if all its sizes take one octet and its texts are ASCII; return whether."""
        cdef Py_ssize_t key_size = PyUnicode_GET_LENGTH(key), size = PyUnicode_GET_LENGTH(value)
        cdef uint8_t* octets
        if not key_size or key_size + size > 0x7F - 6 or not PyUnicode_IS_ASCII(key) or not PyUnicode_IS_ASCII(value):
            return False
        self.need(0x7F + MAX_SCALAR)
        octets = self.start + self.size
        octets[0], octets[1] = tag, <uint8_t>(key_size + size + 6)
        octets[2], octets[3] = 0x0A, <uint8_t>key_size
        memcpy(octets + 4, PyUnicode_DATA(key), <size_t>key_size)
        octets += 4 + key_size
        octets[0], octets[1] = 0x12, <uint8_t>(size + 2)
        octets[2], octets[3] = 0x0A, <uint8_t>size
        memcpy(octets + 4, PyUnicode_DATA(value), <size_t>size)
        self.size += key_size + size + 8
        return True

    cdef int value(self, object value) except -1:
        """Write an ``AnyValue``; None is one without a value. An attribute nests three levels deep at most."""
        cdef type kind = type(value)
        cdef Py_ssize_t whole, part
        cdef double number
        cdef uint64_t bits
        if kind is str:
            self.text(0x0A, <str>value)
        elif kind is bool:
            self.need(MAX_SCALAR)
            self.byte(0x10)
            self.byte(1 if value is True else 0)
        elif kind is int:
            if -0x8000_0000_0000_0000 <= value <= 0x7FFF_FFFF_FFFF_FFFF:
                self.need(MAX_SCALAR)
                self.byte(0x18)
                self.varint(<uint64_t><int64_t>value)
            else:
                self.text(0x0A, _int_text(value))
        elif kind is float:
            number = value
            memcpy(&bits, &number, 8)
            self.need(MAX_SCALAR)
            self.byte(0x21)
            self.fixed64(bits)
        elif kind is bytes:
            self.raw(0x3A, <const uint8_t*>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        elif kind is tuple:
            whole = self.open(0x2A)
            for item in <tuple>value:
                part = self.open(0x0A)
                self.value(item)
                self.close(part)
            self.close(whole)
        elif kind is dict:
            whole = self.open(0x32)
            self.attributes(0x0A, <dict>value)
            self.close(whole)
        return 0

    def __bytes__(self):
        """Return all that was written."""
        return PyBytes_FromStringAndSize(<const char*>self.start, self.size)

    def __reduce__(self):
        raise TypeError("octets that are being written cannot be pickled")
