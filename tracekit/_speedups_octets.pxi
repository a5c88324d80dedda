# The octets of protocol buffers, with attributes as OTLP has them. A nested message is written behind room for its
# size, and moved where the size takes more or fewer octets. Field numbers: opentelemetry/proto/common/v1/common.proto.

cdef extern from "Python.h":
    PyObject* _new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) noexcept
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    char* _octets_of "PyBytes_AS_STRING"(PyObject*) noexcept
    int64_t PyLong_AsLongLongAndOverflow(object, int* overflow) except? -1
    bint PyUnicode_IS_COMPACT_ASCII(object) noexcept
    ctypedef struct PyASCIIObject:
        pass

cdef extern from *:
    """
    /* A loop over the octets would say the same, but compilers turn it into 20 to 50 instructions. */
    static inline uint64_t tk_swapped(uint64_t word) {
        word = (word & 0x00ff00ff00ff00ffu) << 8 | (word >> 8 & 0x00ff00ff00ff00ffu);
        word = (word & 0x0000ffff0000ffffu) << 16 | (word >> 16 & 0x0000ffff0000ffffu);
        return word << 32 | word >> 32;
    }
    static inline void tk_put_big(uint8_t *at, uint64_t word) {
        word = PY_BIG_ENDIAN ? word : tk_swapped(word);
        memcpy(at, &word, 8);
    }
    static inline void tk_put_little(uint8_t *at, uint64_t word) {
        word = PY_BIG_ENDIAN ? tk_swapped(word) : word;
        memcpy(at, &word, 8);
    }
    """
    void tk_put_big(uint8_t* at, uint64_t word) noexcept
    void tk_put_little(uint8_t* at, uint64_t word) noexcept

cdef enum:
    MAX_SCALAR = 16  # octets that a tag and a varint or fixed number take at most
    MAX_SHORT = 0x7F + 2  # of a message whose size takes one octet, with its tag
    SHORT_KEY = 64


cdef inline void _copy(uint8_t* to, const uint8_t* octets, Py_ssize_t size) noexcept:
    """Copy *size* octets: up to 32 as two words that overlap, which takes less than a call of memcpy()."""
    if size > 32:
        memcpy(to, octets, <size_t>size)
    elif size > 16:
        memcpy(to, octets, 16)
        memcpy(to + size - 16, octets + size - 16, 16)
    elif size >= 8:
        memcpy(to, octets, 8)
        memcpy(to + size - 8, octets + size - 8, 8)
    elif size >= 4:
        memcpy(to, octets, 4)
        memcpy(to + size - 4, octets + size - 4, 4)
    elif size > 0:
        to[0], to[size >> 1], to[size - 1] = octets[0], octets[size >> 1], octets[size - 1]


cdef inline const uint8_t* _ascii(PyObject* text) noexcept:
    """Return the characters of a compact ASCII text."""
    return <const uint8_t*>(<PyASCIIObject*>text + 1)


cdef inline uint8_t* _put_varint(uint8_t* at, uint64_t number) noexcept:
    """Write *number*, ten octets at most; return the position behind it."""
    while number >= 0x80:
        at[0] = <uint8_t>(number & 0x7F | 0x80)
        at += 1
        number >>= 7
    at[0] = <uint8_t>number
    return at + 1


cdef inline uint8_t* _put_fixed64(uint8_t* at, uint64_t number) noexcept:
    """Write *number*, little-endian; return the position behind it."""
    tk_put_little(at, number)
    return at + 8


cdef inline uint64_t _bits_of(double number) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &number, 8)
    return bits


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class Octets:
    """A growing run of octets; *tag* is a field's number and wire type, as protocol buffers write them."""
    # Every write asks need() for room first. The octets are those of a bytes object that has a single reference, and
    # becomes the result without a copy.

    def __dealloc__(self):
        Py_XDECREF(self.whole)

    cdef inline int need(self, Py_ssize_t count) except -1:
        return 0 if self.room - self.size >= count else self.grow(count)

    cdef int grow(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t room = self.size + count + (self.size >> 1) + 4096
        self.resize(room)
        self.room = room
        return 0

    cdef int resize(self, Py_ssize_t size) except -1:
        if self.whole != NULL:
            try:
                _PyBytes_Resize(&self.whole, size)
            except BaseException:  # the octets are gone
                self.start, self.size, self.room = NULL, 0, 0
                raise
        else:
            self.whole = _new_bytes(NULL, size)
            if self.whole == NULL:
                raise MemoryError
        self.start = <uint8_t*>_octets_of(self.whole)
        return 0

    cdef inline void advance(self, const uint8_t* end) noexcept:
        """Count the octets up to *end* as written."""
        self.size = end - self.start

    cdef int append(self, bytes octets) except -1:
        self.need(len(octets))
        memcpy(self.start + self.size, <const uint8_t*>octets, <size_t>len(octets))
        self.size += len(octets)
        return 0

    cdef inline int raw(self, uint8_t tag, const uint8_t* octets, Py_ssize_t size) except -1:
        cdef uint8_t* at
        self.need(size + MAX_SCALAR)
        at = self.start + self.size
        at[0] = tag
        at = _put_varint(at + 1, <uint64_t>size)
        _copy(at, octets, size)
        self.advance(at + size)
        return 0

    cdef inline int text(self, uint8_t tag, str text) except -1:
        cdef object utf8
        if PyUnicode_IS_COMPACT_ASCII(text):
            return self.raw(tag, _ascii(<PyObject*>text), PyUnicode_GET_LENGTH(text))
        utf8 = _utf8(text)
        return self.raw(tag, <const uint8_t*>PyBytes_AS_STRING(utf8), PyBytes_GET_SIZE(utf8))

    cdef inline int name(self, uint8_t tag, str text) except -1:
        return self.text(tag, text) if PyUnicode_GET_LENGTH(text) else 0

    cdef inline int number(self, uint8_t tag, uint64_t number) except -1:
        if number:
            self.need(MAX_SCALAR)
            self.start[self.size] = tag
            self.advance(_put_varint(self.start + self.size + 1, number))
        return 0

    cdef inline int time(self, uint8_t tag, int64_t time_ns) except -1:
        if time_ns:
            self.need(MAX_SCALAR)
            self.start[self.size] = tag
            self.advance(_put_fixed64(self.start + self.size + 1, <uint64_t>time_ns))
        return 0

    cdef Py_ssize_t open(self, uint8_t tag) except -1:
        """Begin a nested message, and return the position with which it is ended."""
        return self.open_wide(tag, 1)

    cdef int close(self, Py_ssize_t begin) except -1:
        self.close_wide(begin, 1)
        return 0

    cdef inline Py_ssize_t open_wide(self, uint8_t tag, int width) except -1:
        """Begin a nested message whose size takes probably *width* octets; ``close_wide()`` ends it."""
        self.need(MAX_SCALAR)
        self.start[self.size] = tag
        self.size += 1 + width
        return self.size

    cdef inline Py_ssize_t close_wide(self, Py_ssize_t begin, int width) except -1:
        """Write the size of the message from *begin* on before it, or move the message; return the size."""
        cdef Py_ssize_t size = self.size - begin
        cdef int taken = 1
        while size >> 7 * taken:
            taken += 1
        if taken != width:
            self.need(MAX_SCALAR)
            memmove(self.start + begin + taken - width, self.start + begin, <size_t>size)
        self.advance(_put_varint(self.start + begin - width, <uint64_t>size) + size)
        return size

    cdef inline int ids(self, uint64_t high, uint64_t low, uint64_t span, str state) except -1:
        cdef uint8_t* at
        self.need(2 * MAX_SCALAR)
        at = self.start + self.size
        at[0], at[1] = 0x0A, 16
        tk_put_big(at + 2, high)
        tk_put_big(at + 10, low)
        at[18], at[19] = 0x12, 8
        tk_put_big(at + 20, span)
        self.advance(at + 28)
        if state is not None:
            self.text(0x1A, state)
        return 0

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
    ) except -1:
        cdef uint8_t* at
        cdef Py_ssize_t begin = self.open_wide(0x12, 2)
        self.ids(high, low, span, state)
        if parent:
            self.need(MAX_SCALAR)
            at = self.start + self.size
            at[0], at[1] = 0x22, 8
            tk_put_big(at + 2, parent)
            self.advance(at + 10)
        self.name(0x2A, name)
        self.need(2 * MAX_SCALAR)
        at = self.start + self.size
        at[0], at[1] = 0x30, <uint8_t>kind
        at += 2
        if start_ns:
            at[0] = 0x39
            at = _put_fixed64(at + 1, <uint64_t>start_ns)
        if stop_ns:
            at[0] = 0x41
            at = _put_fixed64(at + 1, <uint64_t>stop_ns)
        self.advance(at)
        return begin

    cdef Py_ssize_t close_span(self, Py_ssize_t begin, uint32_t flags) except -1:
        self.flags(0x85, flags)
        return self.close_wide(begin, 2)

    cdef inline int flags(self, int tag, uint32_t flags) except -1:
        cdef uint8_t* at
        self.need(MAX_SCALAR)
        at = _put_varint(self.start + self.size, <uint64_t>tag)
        _put_fixed64(at, flags)  # fixed32: the other half is overwritten
        self.advance(at + 4)
        return 0

    cdef int attributes(self, uint8_t tag, dict attributes) except -1:
        for key, value in attributes.items():
            self.attribute(tag, key, value)
        return 0

    cdef int items(self, uint8_t tag, Items items) except -1:
        cdef PyObject** pair = items.pairs
        cdef PyObject** end = pair + 2 * items.size
        while pair < end:
            if not self.short(tag, pair[0], pair[1]):
                self.long(tag, <str>pair[0], <object>pair[1])
            pair += 2
        return 0

    cdef int attribute(self, uint8_t tag, str key, object value) except -1:
        if not self.short(tag, <PyObject*>key, <PyObject*>value):
            self.long(tag, key, value)
        return 0

    cdef int long(self, uint8_t tag, str key, object value) except -1:
        cdef Py_ssize_t part, whole = self.open(tag)
        self.name(0x0A, key)
        part = self.open(0x12)
        self.value(value)
        self.close(part)
        self.close(whole)
        return 0

    cdef inline bint short(self, uint8_t tag, PyObject* key, PyObject* value) except -1:
        """Write an attribute in one piece, if all its sizes take one octet and its texts are ASCII; return whether."""
        cdef Py_ssize_t key_size = PyUnicode_GET_LENGTH(<object>key), size
        cdef int overflow = 0
        cdef int64_t number
        cdef uint8_t* begin
        cdef uint8_t* at
        cdef uint8_t* end
        if not PyUnicode_IS_COMPACT_ASCII(<object>key) or not 0 < key_size <= SHORT_KEY:
            return False
        self.need(MAX_SHORT)
        begin = self.start + self.size
        at = begin + 4 + key_size
        if PyUnicode_CheckExact(<object>value):
            size = PyUnicode_GET_LENGTH(<object>value)
            if not PyUnicode_IS_COMPACT_ASCII(<object>value) or size > 0x7F - 6 - key_size:
                return False
            at[2], at[3] = 0x0A, <uint8_t>size
            _copy(at + 4, _ascii(value), size)
            end = at + 4 + size
        elif PyBool_Check(<object>value):
            at[2], at[3] = 0x10, <object>value is True
            end = at + 4
        elif PyLong_CheckExact(<object>value):
            number = PyLong_AsLongLongAndOverflow(<object>value, &overflow)
            if overflow:
                return False
            at[2] = 0x18
            end = _put_varint(at + 3, <uint64_t>number)
        elif PyFloat_CheckExact(<object>value):
            at[2] = 0x21
            end = _put_fixed64(at + 3, _bits_of(PyFloat_AS_DOUBLE(<object>value)))
        else:
            return False
        begin[0], begin[1], begin[2], begin[3] = tag, <uint8_t>(end - begin - 2), 0x0A, <uint8_t>key_size
        _copy(begin + 4, _ascii(key), key_size)
        at[0], at[1] = 0x12, <uint8_t>(end - at - 2)
        self.advance(end)
        return True

    cdef int value(self, object value) except -1:
        """Write an ``AnyValue``; None is one without a value. An attribute nests three levels deep at most."""
        cdef type kind = type(value)
        cdef Py_ssize_t whole, part
        cdef int64_t number
        cdef int overflow = 0
        if kind is str:
            self.text(0x0A, <str>value)
        elif kind is bool:
            self.need(MAX_SCALAR)
            self.start[self.size], self.start[self.size + 1] = 0x10, value is True
            self.size += 2
        elif kind is int:
            number = PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                self.text(0x0A, _int_text(value))
            else:
                self.need(MAX_SCALAR)
                self.start[self.size] = 0x18
                self.advance(_put_varint(self.start + self.size + 1, <uint64_t>number))
        elif kind is float:
            self.need(MAX_SCALAR)
            self.start[self.size] = 0x21
            self.advance(_put_fixed64(self.start + self.size + 1, _bits_of(<double>value)))
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
        """Return all that was written, and begin anew."""
        cdef object whole
        if self.whole == NULL:
            return b""
        self.resize(self.size)
        whole = <object>self.whole
        Py_DECREF(whole)
        self.whole = NULL
        self.start, self.size, self.room = NULL, 0, 0
        return whole

    def __reduce__(self):
        raise TypeError("octets that are being written cannot be pickled")
