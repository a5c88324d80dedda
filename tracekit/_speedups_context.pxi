# The compiled twin's ids, clock, and ``SpanContext`` with its W3C form.

cdef enum:
    POOL = 256

cdef uint64_t[256] _pool
cdef int _pool_left = 0
cdef object _ids = None
cdef object _clock = None
cdef uint32_t _generation = 0


cdef uint64_t _draw() except 0:
    """Take a random word that is not 0."""
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


cdef enum:
    STRETCH = 256

cdef uint64_t _walk = 0
cdef uint64_t _mask = 0
cdef int _steps_left = 0


cdef uint64_t _new_span_id() except? 0:
    """Return a span id that is not 0.

    Each word of the operating system's randomness costs more than the rest of making a span, so two of them are
    stretched to 256 ids: a SplitMix64 walk from the one, under the other as mask. The walk is a
    permutation, so no id comes twice in a stretch; trace ids are not stretched.
    """
    global _walk, _mask, _steps_left
    cdef uint64_t word = 0, start, mask
    if _ids is not None:
        return <uint64_t>_ids.span_id()
    while word == 0:
        if _steps_left <= 0:
            start, mask = _draw(), _draw()
            _walk, _mask, _steps_left = start, mask, STRETCH
        _steps_left -= 1
        _walk += <uint64_t>0x9E3779B97F4A7C15
        word = _walk
        mask = _mask
        word = (word ^ word >> 30) * <uint64_t>0xBF58476D1CE4E5B9
        word = (word ^ word >> 27) * <uint64_t>0x94D049BB133111EB
        word ^= word >> 31 ^ mask
    return word


def set_ids(source):
    """Take ids from *source* (``trace_id()`` and ``span_id()`` return ints); None: from the operating system again."""
    global _ids
    _ids = source


def set_clock(clock):
    """Take the time, Unix nanoseconds, from *clock* instead of the operating system; None undoes it."""
    global _clock
    _clock = clock


cdef enum:
    ANCHOR_DRIFT_NS = 5_000_000

cdef int64_t _anchor = <int64_t>_time.time_ns() - tk_monotonic_ns()


def check_clock():
    """Set the wall clock's distance from the monotonic clock anew where they drifted apart by more than 5 ms.

    Each span keeps the distance it started with: its duration is monotonic.
    """
    global _anchor
    cdef int64_t anchor = <int64_t>_time.time_ns() - tk_monotonic_ns()
    if not -ANCHOR_DRIFT_NS <= anchor - _anchor <= ANCHOR_DRIFT_NS:
        _anchor = anchor


cdef object _no_labels = None
cdef object _labels_type = None
cdef object _state_type = None
cdef object _make_state = None
cdef object _parse_labels = None
cdef object _make_labels = None
cdef object _restore = None


def set_values(no_labels, parse_labels, make_labels, state_type, make_state, restore):
    """Make known what is written above this module: types of labels and tracestate, and what unpickles a context."""
    global _labels_type, _no_labels, _parse_labels, _make_labels, _state_type, _make_state, _restore
    _labels_type, _no_labels, _parse_labels = type(no_labels), no_labels, parse_labels
    _make_labels = make_labels
    _state_type, _make_state = state_type, make_state
    _restore = restore


cdef uint64_t _word(const uint8_t* octets) noexcept:
    """Read eight octets, big-endian."""
    cdef uint64_t word = 0
    cdef int at
    for at in range(8):
        word = word << 8 | octets[at]
    return word


cdef int _id(object value, int words, str parameter, uint64_t* out) except -1:
    """Read an id of one or two 64-bit words from hex or bytes."""
    cdef const uint8_t* chars
    cdef int at
    cdef bint good
    if isinstance(value, str):
        good = PyUnicode_GET_LENGTH(value) == 16 * words and PyUnicode_IS_ASCII(value)
        chars = <const uint8_t*>PyUnicode_DATA(value)
        for at in range(words):
            good = good and _decode(chars + 16 * at, 16, &out[at])
    elif isinstance(value, bytes):
        good = PyBytes_GET_SIZE(value) == 8 * words
        for at in range(words if good else 0):
            out[at] = _word(<const uint8_t*>PyBytes_AS_STRING(value) + 8 * at)
    else:
        raise TypeError(f"{parameter} must be str or bytes, not {type(value).__name__}")
    if not good:
        raise ValueError(
            f"{parameter} must be {16 * words} lowercase hex digits or {8 * words} bytes: {ascii(value)[:80]}"
        )
    return 0


cdef str _hex(uint64_t high, uint64_t low, int digits):
    cdef object text = PyUnicode_New(digits, 127)
    cdef uint8_t* chars = <uint8_t*>PyUnicode_DATA(text)
    if digits == 32:
        _encode(high, 16, chars)
        chars += 16
    _encode(low, 16, chars)
    return text


@cython.final
@cython.no_gc  # holds immutable values only, so it is in no cycle
@cython.freelist(256)
cdef class SpanContext:
    """What of a span travels: its ids, the trace flags, the tracestate and the labels. Immutable; equal by value.

    Missing ids are all zeros; ``is_valid`` tells whether both are there. ``flags`` are the eight W3C
    bits. ``deferred`` is true while nobody has decided whether the trace is sampled.
    """

    cdef uint64_t high, low, span
    cdef uint16_t bits
    cdef bint remote, is_made
    cdef str _state  # checked text, or None
    cdef object _labels  # Labels that are not empty, or None
    cdef dict _extra  # never changed once it is here, or None

    def __init__(
        self,
        trace_id="00000000000000000000000000000000",
        span_id="0000000000000000",
        flags=0,
        *,
        state=None,
        labels=None,
        is_remote=False,
        deferred=None,
        extra=None,
    ):
        # __init__ and not __cinit__, which every span would pay for; called again, it must change nothing.
        cdef uint64_t[2] trace
        cdef uint64_t span
        if self.is_made:
            raise AttributeError("SpanContext is immutable")
        self.is_made = True
        _id(trace_id, 2, "trace_id", trace)
        _id(span_id, 1, "span_id", &span)
        if not isinstance(flags, int):
            raise TypeError(f"flags must be int, not {type(flags).__name__}")
        if not 0 <= flags <= 0xFF:
            raise ValueError(f"flags must be 0 to 255: {flags}")
        if state is not None and not isinstance(state, _state_type):
            raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
        if labels is not None and not isinstance(labels, _labels_type):
            raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
        if deferred is None:
            deferred = not flags and not (trace[0] | trace[1] and span)
        self.high, self.low, self.span = trace[0], trace[1], span
        self.bits = <uint16_t>flags | (DEFERRED if deferred else 0)
        self._state = str(state) if state else None
        self._labels = labels or None
        self.remote = bool(is_remote)
        self._extra = dict(extra or {}) or None

    @property
    def trace_id(self):
        """The trace's id, 32 lowercase hex digits."""
        return _hex(self.high, self.low, 32)

    @property
    def span_id(self):
        """The span's id, 16 lowercase hex digits."""
        return _hex(0, self.span, 16)

    @property
    def id(self):
        """The trace's and the span's id, 24 bytes."""
        cdef bytes octets = PyBytes_FromStringAndSize(NULL, 24)
        cdef uint8_t* out = <uint8_t*>PyBytes_AS_STRING(octets)
        cdef int at
        for at in range(8):
            out[at] = <uint8_t>(self.high >> (56 - 8 * at))
            out[8 + at] = <uint8_t>(self.low >> (56 - 8 * at))
            out[16 + at] = <uint8_t>(self.span >> (56 - 8 * at))
        return octets

    @property
    def flags(self):
        """The W3C trace flags: bit 0 sampled, bit 1 random."""
        return self.bits & 0xFF

    @property
    def sampled(self):
        """Whether the trace is recorded."""
        return (self.bits & SAMPLED) != 0

    @property
    def deferred(self):
        """Whether nobody has decided yet if the trace is sampled."""
        return (self.bits & DEFERRED) != 0

    @property
    def is_remote(self):
        """Whether the span is another process's."""
        return self.remote

    @property
    def is_valid(self):
        """Whether both ids are there, so that a span can be its child."""
        return self._is_valid()

    @property
    def state(self):
        """The W3C tracestate: what vendors pass along."""
        return _make_state(self._state or "")

    @property
    def labels(self):
        """The labels that travel with the trace."""
        return _no_labels if self._labels is None else self._labels

    @property
    def extra(self):
        """What a wire format said beyond all this, by the format's name; that format writes it again."""
        return _NO_ATTRIBUTES if self._extra is None else _MappingProxyType(self._extra)

    def replace(self, *, state=None, labels=None, is_remote=None, extra=None):
        """Return a copy with another tracestate, labels, ``is_remote`` or extra words; None keeps what is there."""
        if state is not None and not isinstance(state, _state_type):
            raise TypeError(f"state must be a TraceState, not {type(state).__name__}")
        if labels is not None and not isinstance(labels, _labels_type):
            raise TypeError(f"labels must be Labels, not {type(labels).__name__}")
        return _make_context(
            self.high,
            self.low,
            self.span,
            self.bits,
            self._state if state is None else (str(state) or None),
            self._labels if labels is None else (labels or None),
            self.remote if is_remote is None else bool(is_remote),
            self._extra if extra is None else (dict(extra) or None),
        )

    cdef inline bint _is_valid(self) noexcept:
        return self.span != 0 and (self.high | self.low) != 0

    def __eq__(self, other):
        if type(other) is not SpanContext:
            return NotImplemented
        cdef SpanContext that = <SpanContext>other
        return (
            self.high == that.high
            and self.low == that.low
            and self.span == that.span
            and self.bits == that.bits
            and self.remote == that.remote
            and self._labels == that._labels
            and self._extra == that._extra
            and (self._state == that._state or self.state == that.state)
        )

    def __hash__(self):
        # Ids are random already. Only the mixing of -1, the C API's word for "error", is Cython's.
        return <Py_hash_t>(self.high ^ self.low ^ self.span)

    def __reduce__(self):
        # By a function's name, not the class's, so that either twin reads what the other wrote.
        return _restore, (self.id, self.bits, self._state or "", str(self.labels), self.remote, self._extra)

    def __repr__(self):
        remote = ", remote" if self.remote else ""
        return f"<SpanContext {self.trace_id}/{self.span_id} flags={self.bits & 0xFF:02x}{remote}>"


cdef inline SpanContext _make_context(
    uint64_t high, uint64_t low, uint64_t span, uint16_t bits, str state, object labels, bint remote, dict extra
):
    cdef SpanContext context = SpanContext.__new__(SpanContext)
    context.high = high
    context.low = low
    context.span = span
    context.bits = bits
    context._state = state
    context._labels = labels
    context.remote = remote
    context._extra = extra
    context.is_made = True
    return context


def make_context(bytes id not None, int flags, str state not None, labels, bint is_remote, dict extra=None):
    """Return the context with these 24 bytes of ids and these flags, ``deferred`` (0x100) among them.

    Nothing but the length is checked: *state* is a well-formed ``tracestate`` or empty.
    """
    if PyBytes_GET_SIZE(id) != 24:
        raise ValueError("id must be 24 bytes")
    cdef const uint8_t* octets = <const uint8_t*>PyBytes_AS_STRING(id)
    return _make_context(
        _word(octets),
        _word(octets + 8),
        _word(octets + 16),
        <uint16_t>(flags & 0x1FF),
        state or None,
        labels,
        is_remote,
        extra,
    )


def make_remote(trace_id, uint64_t span_id, int flags, dict extra=None):
    """Return the remote context with these ids, of 128 and 64 bits, ``deferred`` (0x100) among the flags."""
    cdef uint64_t high = <uint64_t>(trace_id >> 64), low = <uint64_t>(trace_id & 0xFFFF_FFFF_FFFF_FFFF)
    return _make_context(high, low, span_id, <uint16_t>(flags & 0x1FF), None, None, True, extra)


def ids_of(SpanContext context not None):
    """Return the trace id and the span id of *context* as numbers."""
    return <object>context.high << 64 | context.low, context.span


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


cdef dict _DEBUG = {"b3": "d"}


from libc.string cimport memchr

cdef enum:
    MAX_B3_CHARS = 256  # far more than is needed, since the parent id may be anything


def parse_b3(str text not None):
    """Return the remote context that a ``b3`` value holds, or None if it breaks the grammar.

    https://github.com/openzipkin/b3-propagation#single-header
    """
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), at
    cdef uint64_t high = 0, low = 0, span = 0
    cdef const uint8_t* chars = NULL
    cdef object octets = text
    if size == 0 or size > MAX_B3_CHARS:
        return None
    if not PyUnicode_IS_ASCII(text):
        octets = text.encode("ascii", "replace")  # only the parent id may be anything: nobody uses it
    _chars(octets, &chars, &size)
    if size == 1:
        return _with_state(0, 0, 0, chars[0])
    at = 32 if size > 32 and chars[32] == c"-" else 16
    if size < at + 17 or chars[at] != c"-":
        return None
    # From here on every index below at + 17 is inside the text.
    if at == 32 and not _decode_any(chars, &high):
        return None
    if not _decode_any(chars + at - 16, &low) or not _decode_any(chars + at + 1, &span):
        return None
    if not (high | low) or not span:
        return None
    size -= at + 17
    chars += at + 17
    if size and (chars[0] != c"-" or memchr(chars, c",", size) != NULL):  # a comma: several values
        return None
    if size < 2 or chars[1] == c"-":
        return _make_context(high, low, span, DEFERRED, None, None, True, None)
    return _with_state(high, low, span, chars[1]) if size == 2 or chars[2] == c"-" else None


cdef SpanContext _with_state(uint64_t high, uint64_t low, uint64_t span, uint8_t state):
    if state == c"1" or state == c"d":
        return _make_context(high, low, span, SAMPLED, None, None, True, _DEBUG if state == c"d" else None)
    return _make_context(high, low, span, 0, None, None, True, None) if state == c"0" else None


def format_b3(context):
    """Return the ``b3`` value of *context*: ids and decision, or what it has of them, which may be nothing."""
    cdef SpanContext plain
    cdef uint8_t* chars
    cdef uint8_t state
    cdef int digits
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    plain = <SpanContext>context
    state = c"1" if plain.bits & SAMPLED else 0 if plain.bits & DEFERRED else c"0"
    # Debug implies sampled: where another format's decision stands, it would undo that.
    if state == c"1" and plain._extra is not None and plain._extra.get("b3") == "d":
        state = c"d"
    if not plain._is_valid():
        return chr(state) if state else ""
    digits = 32 if plain.high else 16
    text = PyUnicode_New(digits + (19 if state else 17), 127)
    chars = <uint8_t*>PyUnicode_DATA(text)
    if plain.high:
        _encode(plain.high, 16, chars)
        chars += 16
    _encode(plain.low, 16, chars)
    chars[16] = c"-"
    _encode(plain.span, 16, chars + 17)
    if state:
        chars[33] = c"-"
        chars[34] = state
    return text


cdef Sieve _B3_FIELDS = Sieve(("b3",))


def read_b3(carrier):
    """Return the context, or the decision alone, that ``b3`` holds; None if there is none.

    Raises ``FormatError`` where it is bad or came twice.
    """
    cdef list found = [None]
    _collect(carrier, _B3_FIELDS, found)
    text = found[0]
    if text is None:
        return None
    context = parse_b3(text) if type(text) is str else None
    if context is None:
        raise _bad_b3(text)
    return context


def write_b3(context, carrier):
    """Set ``b3`` to what *context* has of ids and decision; where that is nothing, take it out."""
    _put(carrier, "b3", format_b3(context) or None)


cdef enum:
    MAX_BINARY_BYTES = 512


def decode_binary(bytes octets not None):
    """Return the remote context that the binary form holds, or None if it is malformed.

    Fields may be missing. What follows an unknown field is kept, and written again.
    https://github.com/census-instrumentation/opencensus-specs/blob/master/encodings/BinaryEncoding.md
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(octets), at = 1
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(octets)
    cdef uint64_t high = 0, low = 0, span = 0
    cdef uint16_t bits = DEFERRED
    if not 0 < size <= MAX_BINARY_BYTES or data[0] != 0:
        return None
    while at < size and data[at] <= 2:
        if data[at] == 0:
            if size - at < 17:
                return None
            high, low = _word(data + at + 1), _word(data + at + 9)
            at += 17
        elif data[at] == 1:
            if size - at < 9:
                return None
            span = _word(data + at + 1)
            at += 9
        else:
            if size - at < 2:
                return None
            bits = data[at + 1] & SAMPLED
            at += 2
    if not (high | low) or not span:
        return None
    return _make_context(high, low, span, bits, None, None, True, {"grpc_bin": octets[at:]} if at < size else None)


def encode_binary(context):
    """Return the binary form of *context*: 29 bytes, 27 while the decision is deferred, and what came behind them."""
    cdef SpanContext plain
    cdef bytes octets
    cdef uint8_t* out
    cdef int at
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    plain = <SpanContext>context
    octets = PyBytes_FromStringAndSize(NULL, 27 if plain.bits & DEFERRED else 29)
    out = <uint8_t*>PyBytes_AS_STRING(octets)
    out[0] = out[1] = 0
    out[18] = 1
    for at in range(8):
        out[2 + at] = <uint8_t>(plain.high >> (56 - 8 * at))
        out[10 + at] = <uint8_t>(plain.low >> (56 - 8 * at))
        out[19 + at] = <uint8_t>(plain.span >> (56 - 8 * at))
    if not plain.bits & DEFERRED:
        out[27] = 2
        out[28] = plain.bits & SAMPLED
    tail = None if plain._extra is None else plain._extra.get("grpc_bin")
    if type(tail) is not bytes or tail[:1] <= b"\2" or len(octets) + len(tail) > MAX_BINARY_BYTES:
        return octets
    return octets + tail


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


def parse_traceparent(str text not None):
    """Return the remote context that a ``traceparent`` value holds, or None if it breaks the grammar.

    Versions above 00 are read as far as 00 goes; optional white space around the value is ignored.
    https://www.w3.org/TR/trace-context-2/#traceparent-header
    """
    return _parse_traceparent(text)


cdef SpanContext _parse_traceparent(str text):
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    if size > 512 or not PyUnicode_IS_ASCII(text):
        return None
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(text)
    while size and _is_space(chars[0]):
        chars += 1
        size -= 1
    while size and _is_space(chars[size - 1]):
        size -= 1
    # From here on every index below 55 is inside the text.
    if size < 55 or chars[2] != c"-" or chars[35] != c"-" or chars[52] != c"-":
        return None
    cdef uint64_t version, high, low, span_id, flags
    if not _decode(chars, 2, &version) or version == 0xFF:
        return None
    if size > 55 and (version == 0 or chars[55] != c"-"):
        return None
    if not (
        _decode(chars + 3, 16, &high)
        and _decode(chars + 19, 16, &low)
        and _decode(chars + 36, 16, &span_id)
        and _decode(chars + 53, 2, &flags)
    ):
        return None
    if not (high | low) or not span_id:
        return None
    return _make_context(high, low, span_id, <uint16_t>flags, None, None, True, None)


def format_traceparent(context):
    """Return the ``traceparent`` value of *context*, version 00; flags the standard does not know go out as 0."""
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    return _format_traceparent(<SpanContext>context)


cdef str _format_traceparent(SpanContext context):
    cdef object text = PyUnicode_New(55, 127)
    cdef uint8_t* chars = <uint8_t*>PyUnicode_DATA(text)
    chars[0] = chars[1] = c"0"
    chars[2] = chars[35] = chars[52] = c"-"
    _encode(context.high, 16, chars + 3)
    _encode(context.low, 16, chars + 19)
    _encode(context.span, 16, chars + 36)
    _encode(context.bits & (SAMPLED | RANDOM), 2, chars + 53)
    return text


cdef Sieve _TRACECONTEXT_FIELDS = Sieve(("traceparent", "tracestate"))


def read_tracecontext(carrier):
    """Return the context of ``traceparent`` and, where that is well-formed, ``tracestate``; None if there is none.

    Raises ``FormatError`` where ``traceparent`` is bad or came twice.
    """
    cdef list found = [None, None]
    cdef SpanContext context
    _collect(carrier, _TRACECONTEXT_FIELDS, found)
    if found[0] is None:
        return None
    context = _join_tracecontext(found)
    if context is None:
        raise _bad_traceparent(found[0])
    return context


cdef SpanContext _join_tracecontext(list found):
    """Return the context of a ``traceparent`` and a ``tracestate`` as ``_collect`` found them; None if it is bad."""
    cdef SpanContext context
    cdef object state = found[1]
    if not isinstance(found[0], str):
        return None
    context = _parse_traceparent(found[0])
    if context is None or state is None:
        return context
    if type(state) is list:
        # Only text within the limit is joined.
        if sum(map(len, state)) > C_STATE_CHARS:
            return context
        state = ",".join(state)
    if _count_tracestate(state) > 0:
        context._state = _stripped(state)
    return context


cdef str _stripped(str text):
    """Return ASCII *text*, not empty, without the white space around it; mostly *text* itself."""
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(text)
    if _is_space(chars[0]) or _is_space(chars[PyUnicode_GET_LENGTH(text) - 1]):
        return text.strip(" \t")
    return text


cdef Sieve _W3C_FIELDS = Sieve(("traceparent", "tracestate", "baggage"))


def read_w3c(carrier):
    """Return what ``traceparent``, ``tracestate`` and ``baggage`` hold together; what is bad counts as absent."""
    return _read_w3c(carrier)


cdef SpanContext _read_w3c(carrier):
    cdef list found = [None, None, None]
    cdef SpanContext context
    _collect(carrier, _W3C_FIELDS, found)
    context = _join_tracecontext(found)
    baggage = found[2]
    if baggage is None:
        return context
    if type(baggage) is list:
        baggage = join_baggage(baggage)
    if _check_baggage(baggage) > 0:
        labels = _make_labels(_stripped(baggage))
    else:
        labels = _parse_labels(baggage)
        if not labels:
            return context
    if context is None:
        return _make_context(0, 0, 0, DEFERRED, None, labels, False, None)
    context._labels = labels
    return context


def write_w3c(context, carrier):
    """Set ``traceparent`` and ``tracestate`` of a valid context, and ``baggage`` where there are labels."""
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    _write_w3c(<SpanContext>context, carrier)


cdef int _write_w3c(SpanContext context, carrier) except -1:
    if type(carrier) is dict and len(<dict>carrier) == 0:  # the common case: nothing stale to look for
        if context._is_valid():
            PyDict_SetItem(carrier, "traceparent", _format_traceparent(context))
            if context._state is not None:
                PyDict_SetItem(carrier, "tracestate", context._state)
    elif context._is_valid():
        _put(carrier, "traceparent", _format_traceparent(context))
        _put(carrier, "tracestate", context._state)
    if context._labels is not None:  # else a baggage header that the program set by itself stays
        _put(carrier, "baggage", str(context._labels))
    return 0


def write_tracecontext(context, carrier):
    """Set ``traceparent``, and ``tracestate`` where there is one; an invalid context writes neither."""
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    cdef SpanContext plain = <SpanContext>context
    if plain._is_valid():
        _put(carrier, "traceparent", _format_traceparent(plain))
        _put(carrier, "tracestate", plain._state)
