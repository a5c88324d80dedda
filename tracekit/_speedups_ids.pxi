# Random words, and ids as text and octets: hexadecimal, decimal, traceparent, B3 and OpenCensus's binary form.

cdef enum:
    POOL = 256
    STRETCH = 256
    DEFERRED = 0x100  # above the eight wire bits of the flags: no decision
    MAX_BINARY_BYTES = 512
    MAX_B3_CHARS = 256  # far more than is needed, since the parent id may be anything

cdef extern from *:
    """
    /* Each thread has its own where the GIL does not keep two from drawing the same word. */
    static TK_THREAD_LOCAL uint64_t tk_pool[256], tk_walk, tk_mask; /* POOL */
    static TK_THREAD_LOCAL int tk_pool_left, tk_steps_left;
    """
    uint64_t* _pool "tk_pool"
    int _pool_left "tk_pool_left", _steps_left "tk_steps_left"
    uint64_t _walk "tk_walk", _mask "tk_mask"


cpdef uint64_t random_word() except 0:
    """Return a random word of 64 bits that is not 0."""
    global _pool_left
    cdef uint64_t word = 0
    cdef bytes octets
    while word == 0:
        if _pool_left:
            _pool_left -= 1
            word = _pool[_pool_left]
        else:
            # os.urandom, not random: random.seed() in user code must not repeat an id.
            octets = _os.urandom(POOL * 8)
            if PyBytes_GET_SIZE(octets) != POOL * 8:
                raise OSError("os.urandom returned too little")
            memcpy(_pool, PyBytes_AS_STRING(octets), POOL * 8)
            _pool_left = POOL
    return word


cpdef uint64_t stretched_word() except 0:
    """Return a random word that is not 0, one of 256 made from two of ``random_word()``.

    Only the compiled form stretches words: a thread of the plain one could take the same one in the middle of a step.
    """
    # Each word of the operating system's randomness costs more than the rest of making a span: a SplitMix64 walk
    # starts at the one, and the other is its mask. The walk is a permutation, so no word comes twice in a stretch.
    global _walk, _mask, _steps_left
    cdef uint64_t word = 0, start, mask
    while word == 0:
        if _steps_left <= 0:
            start, mask = random_word(), random_word()
            _walk, _mask, _steps_left = start, mask, STRETCH
        _steps_left -= 1
        _walk += <uint64_t>0x9E3779B97F4A7C15
        word = _walk
        mask = _mask
        word = (word ^ word >> 30) * <uint64_t>0xBF58476D1CE4E5B9
        word = (word ^ word >> 27) * <uint64_t>0x94D049BB133111EB
        word ^= word >> 31 ^ mask
    return word


def forget_words():
    """Drop the words that were drawn ahead, which a child of a fork shares with its parent."""  # it has one thread
    global _pool_left, _steps_left
    _pool_left = _steps_left = 0


cdef inline uint64_t _word(const uint8_t* octets) noexcept:
    """Read eight octets, big-endian."""
    cdef uint64_t word = 0
    cdef int at
    for at in range(8):
        word = word << 8 | octets[at]
    return word


cdef inline void _put_word(uint64_t word, uint8_t* octets) noexcept:
    """Write eight octets, big-endian."""
    cdef int at
    for at in range(8):
        octets[at] = <uint8_t>(word >> (56 - 8 * at))


cpdef str hex_text(uint64_t high, uint64_t low, int digits):
    """Return *low*, or with 32 *digits* both words, in lowercase hex."""
    cdef object text = PyUnicode_New(32 if digits == 32 else 16, 127)
    cdef uint8_t* chars = <uint8_t*>PyUnicode_DATA(text)
    if digits == 32:
        _encode16(high, chars)
        chars += 16
    _encode16(low, chars)
    return text


cpdef bytes id_octets(uint64_t high, uint64_t low, uint64_t span):
    """Return the trace's and the span's id as 24 bytes."""
    cdef bytes octets = PyBytes_FromStringAndSize(NULL, 24)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(octets)
    _put_word(high, out)
    _put_word(low, out + 8)
    _put_word(span, out + 16)
    return octets


def parse_decimal(str text not None):
    """Return the number that *text*, 1 to 20 decimal digits, spells; -1 if it is not that or has over 64 bits."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), at
    cdef uint64_t total = 0, digit
    if not 0 < size <= 20 or not PyUnicode_IS_ASCII(text):
        return -1
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(text)
    for at in range(size):
        if not c"0" <= chars[at] <= c"9":
            return -1
        digit = chars[at] - c"0"
        # Nineteen digits always fit; the twentieth may not.
        if at == 19 and (total > 1844674407370955161 or (total == 1844674407370955161 and digit > 5)):
            return -1
        total = total * 10 + digit
    return total


cpdef (uint64_t, uint64_t, uint64_t, int) split_traceparent(str text) noexcept:
    """Return the words of the ids and the flags of a ``traceparent`` value; flags -1 if it breaks the grammar.

    Versions above 00 are read as far as 00 goes; optional white space around the value is ignored.
    https://www.w3.org/TR/trace-context-2/#traceparent-header
    """
    cdef (uint64_t, uint64_t, uint64_t, int) bad = (0, 0, 0, -1)
    cdef Py_ssize_t size = -1 if text is None else PyUnicode_GET_LENGTH(text)
    if not 0 <= size <= 512 or not PyUnicode_IS_ASCII(text):
        return bad
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(text)
    while size and _is_space(chars[0]):
        chars += 1
        size -= 1
    while size and _is_space(chars[size - 1]):
        size -= 1
    # From here on every index below 55 is inside the text.
    if size < 55 or chars[2] != c"-" or chars[35] != c"-" or chars[52] != c"-":
        return bad
    cdef uint64_t version, high, low, span, flags
    if not _decode(chars, 2, &version) or version == 0xFF:
        return bad
    if size > 55 and (version == 0 or chars[55] != c"-"):
        return bad
    if not (
        _decode16(chars + 3, &high)
        and _decode16(chars + 19, &low)
        and _decode16(chars + 36, &span)
        and _decode(chars + 53, 2, &flags)
    ):
        return bad
    if not (high | low) or not span:
        return bad
    return (high, low, span, <int>flags)


cpdef str join_traceparent(uint64_t high, uint64_t low, uint64_t span, int flags):
    """Return the ``traceparent`` value, version 00, of these words and these flags."""
    cdef object text = PyUnicode_New(55, 127)
    cdef uint8_t* chars = <uint8_t*>PyUnicode_DATA(text)
    chars[0] = chars[1] = c"0"
    chars[2] = chars[35] = chars[52] = c"-"
    _encode16(high, chars + 3)
    _encode16(low, chars + 19)
    _encode16(span, chars + 36)
    chars[53], chars[54] = HEX[flags >> 4 & 15], HEX[flags & 15]
    return text


cpdef (uint64_t, uint64_t, uint64_t, int) split_b3(str text):
    """Return the words of the ids and the decision (0, ``ord`` of "0", "1" or "d") of a ``b3`` value; -1 if it is bad.

    The parent id is not used, so it may be anything but a second value behind a comma.
    https://github.com/openzipkin/b3-propagation#single-header
    """
    cdef (uint64_t, uint64_t, uint64_t, int) bad = (0, 0, 0, -1)
    cdef Py_ssize_t size = 0 if text is None else PyUnicode_GET_LENGTH(text), at
    cdef uint64_t high = 0, low = 0, span = 0
    cdef const uint8_t* chars = NULL
    cdef object octets = text
    if not 0 < size <= MAX_B3_CHARS:
        return bad
    if not PyUnicode_IS_ASCII(text):
        octets = text.encode("ascii", "replace")  # only the parent id may be anything
    _chars(octets, &chars, &size)
    if size == 1:
        if not _is_decision(chars[0]):
            return bad
        return (0, 0, 0, <int>chars[0])
    at = 32 if size > 32 and chars[32] == c"-" else 16
    if size < at + 17 or chars[at] != c"-":
        return bad
    # From here on every index below at + 17 is inside the text.
    if at == 32 and not _decode_any(chars, &high):
        return bad
    if not _decode_any(chars + at - 16, &low) or not _decode_any(chars + at + 1, &span):
        return bad
    if not (high | low) or not span:
        return bad
    size -= at + 17
    chars += at + 17
    if size and (chars[0] != c"-" or memchr(chars, c",", size) != NULL):
        return bad
    if size < 2 or chars[1] == c"-":
        return (high, low, span, 0)
    if not _is_decision(chars[1]) or (size > 2 and chars[2] != c"-"):
        return bad
    return (high, low, span, <int>chars[1])


cdef inline bint _is_decision(uint8_t char) noexcept:
    return char == c"0" or char == c"1" or char == c"d"


cpdef str join_b3(uint64_t high, uint64_t low, uint64_t span, int decision):
    """Return the ``b3`` value of these words and of a decision as ``split_b3`` returns it, with 0 for none."""
    cdef uint8_t* chars
    cdef int digits = 32 if high else 16
    text = PyUnicode_New(digits + (19 if decision else 17), 127)
    chars = <uint8_t*>PyUnicode_DATA(text)
    if high:
        _encode16(high, chars)
        chars += 16
    _encode16(low, chars)
    chars[16] = c"-"
    _encode16(span, chars + 17)
    if decision:
        chars[33] = c"-"
        chars[34] = <uint8_t>decision
    return text


cpdef (uint64_t, uint64_t, uint64_t, int, int) split_binary(bytes octets) noexcept:
    """Return the words of the ids, the flags (or 0x100) and the size read of OpenCensus's binary form; size 0 if bad.

    Fields may be missing. The size ends before the first unknown field.
    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md
    """
    cdef (uint64_t, uint64_t, uint64_t, int, int) bad = (0, 0, 0, 0, 0)
    cdef Py_ssize_t size = 0 if octets is None else PyBytes_GET_SIZE(octets), at = 1
    cdef uint64_t high = 0, low = 0, span = 0
    cdef int flags = DEFERRED
    if not 0 < size <= MAX_BINARY_BYTES:
        return bad
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(octets)
    if data[0] != 0:
        return bad
    while at < size and data[at] <= 2:
        if data[at] == 0:
            if size - at < 17:
                return bad
            high, low = _word(data + at + 1), _word(data + at + 9)
            at += 17
        elif data[at] == 1:
            if size - at < 9:
                return bad
            span = _word(data + at + 1)
            at += 9
        else:
            if size - at < 2:
                return bad
            flags = data[at + 1] & 1
            at += 2
    if not (high | low) or not span:
        return bad
    return (high, low, span, flags, <int>at)


cpdef bytes join_binary(uint64_t high, uint64_t low, uint64_t span, int flags):
    """Return OpenCensus's binary form of these words: 29 bytes, 27 where *flags* are 0x100, no decision."""
    cdef bytes octets = PyBytes_FromStringAndSize(NULL, 27 if flags & DEFERRED else 29)
    cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(octets)
    out[0] = out[1] = 0
    out[18] = 1
    _put_word(high, out + 2)
    _put_word(low, out + 10)
    _put_word(span, out + 19)
    if not flags & DEFERRED:
        out[27] = 2
        out[28] = <uint8_t>(flags & 1)
    return octets


def decode_tags(bytes octets not None):
    """Return the pairs of the binary tag encoding, the last of equal keys; None if it is malformed or over 8192 bytes.

    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md#tag-context
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(octets), at = 1, length
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(octets)
    cdef int shift, part
    cdef dict tags = {}
    cdef str key = None, text = None
    if not 0 < size <= C_LABEL_BYTES or data[0] != 0:
        return None
    while at < size and data[at] == 0:
        at += 1
        for part in range(2):
            length = shift = 0
            while True:
                if at >= size or shift > 14:  # three octets of seven bits: far more than the limit
                    return None
                length |= <Py_ssize_t>(data[at] & 0x7F) << shift
                shift += 7
                at += 1
                if data[at - 1] < 0x80:
                    break
            if length > size - at:
                return None
            try:
                text = PyUnicode_DecodeUTF8(<const char*>data + at, length, NULL)
            except UnicodeDecodeError:
                return None
            at += length
            if part == 0:
                key = text
        tags[key] = text
    return tags


def encode_tags(tags):
    """Return *tags* in the binary tag encoding; those past 8192 bytes are left out, whole."""
    cdef uint8_t[C_LABEL_BYTES] out
    cdef uint8_t* end = &out[1]
    cdef const uint8_t* key_octets = NULL
    cdef const uint8_t* value_octets = NULL
    cdef Py_ssize_t key_size = 0, value_size = 0, used = 1, size
    out[0] = 0
    for key, value in tags.items():
        key, value = _utf8(<str?>key), _utf8(<str?>value)
        _chars(key, &key_octets, &key_size)
        _chars(value, &value_octets, &value_size)
        size = 1 + _varint_size(key_size) + key_size + _varint_size(value_size) + value_size
        if size <= C_LABEL_BYTES - used:
            used += size
            end[0] = 0
            end = _write_counted(key_octets, key_size, end + 1)
            end = _write_counted(value_octets, value_size, end)
    return PyBytes_FromStringAndSize(<const char*>out, used)


cdef inline int _varint_size(Py_ssize_t number) noexcept:
    # What takes more than two octets does not fit anyway.
    return 1 if number < 0x80 else 2


cdef inline uint8_t* _write_counted(const uint8_t* octets, Py_ssize_t size, uint8_t* out) noexcept:
    """Write *size*, below 2 to the 14th, and as many octets; the caller has seen that there is room."""
    if size >= 0x80:
        out[0] = <uint8_t>(size & 0x7F | 0x80)
        out += 1
    out[0] = <uint8_t>(size >> 7 if size >= 0x80 else size)
    memcpy(out + 1, octets, size)
    return out + 1 + size
