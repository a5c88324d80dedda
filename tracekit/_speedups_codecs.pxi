# The compiled twin's codecs: hex, ``tracestate`` and ``baggage`` text, and the carriers that hold them.

from cpython.dict cimport PyDict_Items
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

cdef const char* HEX = "0123456789abcdef"

# What an octet may be part of, a bit each, so that every check is one look-up.
cdef enum:
    STATE_FIRST = 1
    STATE_KEY = 2
    STATE_VALUE = 4
    TOKEN = 8
    LABEL_VALUE = 16
    UNRESERVED = 32
    LABEL_PLAIN = 64  # may stand in a label's value as it is

cdef uint8_t[256] _class
cdef signed char[256] _nibble  # of a lowercase hex digit, else -1
cdef signed char[256] _any_nibble  # of a hex digit in either case, else -1


cdef int _fill_tables() except -1:
    cdef int octet
    cdef str char
    for octet in range(256):
        char = chr(octet)
        _class[octet] = 0
        _nibble[octet] = "0123456789abcdef".find(char)
        _any_nibble[octet] = "0123456789abcdef".find(char.lower()) if octet < 128 else -1
        if char in "abcdefghijklmnopqrstuvwxyz0123456789":
            _class[octet] |= STATE_FIRST | STATE_KEY
        if char in "_-*/@":
            _class[octet] |= STATE_KEY
        if 0x20 <= octet <= 0x7E and char not in ",=":
            _class[octet] |= STATE_VALUE
        if octet < 128 and (char.isalnum() or char in "!#$%&'*+-.^_`|~"):
            _class[octet] |= TOKEN
        if 0x21 <= octet <= 0x7E and char not in "\",;\\":
            _class[octet] |= LABEL_VALUE
        if _class[octet] & LABEL_VALUE and char != "%":
            _class[octet] |= LABEL_PLAIN
        if octet < 128 and (char.isalnum() or char in "-._~/"):
            _class[octet] |= UNRESERVED
    return 0


_fill_tables()


cdef inline bint _decode(const uint8_t* text, int digits, uint64_t* number) noexcept:
    """Read *digits* (at most 16) lowercase hex digits; tell whether they are that. The caller owns the bounds."""
    cdef uint64_t total = 0
    cdef int at, nibble, bad = 0
    for at in range(digits):
        nibble = _nibble[text[at]]
        bad |= nibble
        total = total << 4 | <uint64_t>(nibble & 15)
    number[0] = total
    return bad >= 0


cdef inline bint _decode_any(const uint8_t* text, uint64_t* number) noexcept:
    """Read 16 hex digits of either case, as ``_decode`` does."""
    cdef uint64_t total = 0
    cdef int at, nibble, bad = 0
    for at in range(16):
        nibble = _any_nibble[text[at]]
        bad |= nibble
        total = total << 4 | <uint64_t>(nibble & 15)
    number[0] = total
    return bad >= 0


cdef inline void _encode(uint64_t number, int digits, uint8_t* text) noexcept:
    cdef int at
    for at in range(digits - 1, -1, -1):
        text[at] = HEX[number & 15]
        number >>= 4


cdef inline bint _is_space(uint8_t char) noexcept:
    return char == c" " or char == c"\t"


def parse_hex(str text not None, int digits):
    """Return the id that *text* spells, or 0 if it is not *digits* lowercase hex digits."""
    cdef const uint8_t* chars
    cdef uint64_t high = 0, low = 0
    if PyUnicode_GET_LENGTH(text) != digits or not PyUnicode_IS_ASCII(text):
        return 0
    chars = <const uint8_t*>PyUnicode_DATA(text)
    if digits <= 16:
        return low if _decode(chars, digits, &low) else 0
    if digits <= 32:
        if not _decode(chars, digits - 16, &high) or not _decode(chars + digits - 16, 16, &low):
            return 0
        return <object>high << 64 | low
    return 0 if text.strip("0123456789abcdef") else int(text, 16)


MAX_STATE_MEMBERS = 32
MAX_STATE_CHARS = 32 * (256 + 1 + 256) + 31
MAX_LABELS = 64
MAX_LABEL_BYTES = 8192

cdef enum:
    C_STATE_MEMBERS = 32
    C_STATE_CHARS = 32 * (256 + 1 + 256) + 31
    C_LABELS = 64
    C_LABEL_BYTES = 8192


cdef inline bint _all(const uint8_t* chars, Py_ssize_t size, uint8_t wanted) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        if not _class[chars[at]] & wanted:
            return False
    return True


cdef inline bint _is_state_key(const uint8_t* chars, Py_ssize_t size) noexcept:
    return 0 < size <= 256 and _class[chars[0]] & STATE_FIRST and _all(chars, size, STATE_KEY)


cdef inline bint _is_state_value(const uint8_t* chars, Py_ssize_t size) noexcept:
    return 0 < size <= 256 and chars[size - 1] != c" " and _all(chars, size, STATE_VALUE)


cpdef int count_tracestate(str text) noexcept:
    """Return how many members a ``tracestate`` value has, or -1 if it breaks the Level 2 grammar or has more than 32.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    return -1 if text is None else _count_tracestate(text)


cdef int _count_tracestate(str text) noexcept:
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    if size > C_STATE_CHARS or not PyUnicode_IS_ASCII(text):
        return -1
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(text)
    cdef Py_ssize_t start = 0, stop, end, equals
    cdef int count = 0
    while start <= size:
        stop = start
        while stop < size and chars[stop] != c",":
            stop += 1
        end = stop
        while start < end and _is_space(chars[start]):
            start += 1
        while start < end and _is_space(chars[end - 1]):
            end -= 1
        if start < end:
            equals = start
            while equals < end and chars[equals] != c"=":
                equals += 1
            if equals == end or not _is_state_key(chars + start, equals - start):
                return -1
            if not _is_state_value(chars + equals + 1, end - equals - 1):
                return -1
            count += 1
        start = stop + 1
    return count if count <= C_STATE_MEMBERS else -1


def is_state_key(str key not None):
    """Tell whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _-*/@``, first a letter or digit."""
    return PyUnicode_IS_ASCII(key) and _is_state_key(<const uint8_t*>PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))


def is_state_value(str value not None):
    """Tell whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space last."""
    return PyUnicode_IS_ASCII(value) and _is_state_value(
        <const uint8_t*>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value)
    )


def is_label_key(str key not None):
    """Tell whether *key* is an RFC 7230 token, which is what a label's key must be."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(key)
    return size > 0 and PyUnicode_IS_ASCII(key) and _all(<const uint8_t*>PyUnicode_DATA(key), size, TOKEN)


cpdef str strip_space(str text):
    """Return *text* without spaces and tabs around it."""
    cdef Py_ssize_t size = 0 if text is None else PyUnicode_GET_LENGTH(text)
    if size and PyUnicode_IS_ASCII(text):
        if not _is_space((<const uint8_t*>PyUnicode_DATA(text))[0]):
            if not _is_space((<const uint8_t*>PyUnicode_DATA(text))[size - 1]):
                return text
    return text.strip(" \t")


cdef inline bint _chars(object text, const uint8_t** chars, Py_ssize_t* size) noexcept:
    """Point to the octets of ASCII str or any bytes; False for all else."""
    if isinstance(text, str):
        if not PyUnicode_IS_ASCII(text):
            return False
        chars[0] = <const uint8_t*>PyUnicode_DATA(text)
        size[0] = PyUnicode_GET_LENGTH(text)
        return True
    if isinstance(text, bytes):
        chars[0] = <const uint8_t*>PyBytes_AS_STRING(text)
        size[0] = PyBytes_GET_SIZE(text)
        return True
    return False


cdef object _utf8(object text):
    """Return str *text* in UTF-8, lone surrogates as U+FFFD: ASCII text itself, else bytes."""
    cdef str exact
    if PyUnicode_IS_ASCII(text):
        return text
    exact = text if type(text) is str else str.__str__(text)  # a subclass may have methods of its own
    try:
        return exact.encode()
    except UnicodeEncodeError:
        return exact.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


cdef inline Py_ssize_t _escaped_size(const uint8_t* octets, Py_ssize_t size, uint8_t plain) noexcept:
    cdef Py_ssize_t at, total = size
    for at in range(size):
        if not _class[octets[at]] & plain:
            total += 2
    return total


cdef inline uint8_t* _escape(const uint8_t* octets, Py_ssize_t size, uint8_t* out, uint8_t plain) noexcept:
    """Write what ``_escaped_size`` has counted, and return where it ends."""
    cdef Py_ssize_t at
    cdef uint8_t octet
    for at in range(size):
        octet = octets[at]
        if _class[octet] & plain:
            out[0] = octet
            out += 1
        else:
            out[0] = c"%"
            out[1] = b"0123456789ABCDEF"[octet >> 4]
            out[2] = b"0123456789ABCDEF"[octet & 15]
            out += 3
    return out


def escape_label(str value not None):
    """Return *value* percent-encoded as UTF-8 (RFC 3986), so that no character of it can end a member or a header.

    Lone surrogates, which UTF-8 cannot hold, go out as U+FFFD.
    """
    cdef object utf8 = _utf8(value)
    cdef Py_ssize_t size = 0
    cdef const uint8_t* octets = NULL
    _chars(utf8, &octets, &size)
    cdef object text = PyUnicode_New(_escaped_size(octets, size, UNRESERVED), 127)
    _escape(octets, size, <uint8_t*>PyUnicode_DATA(text), UNRESERVED)
    return text


def unescape_label(str text not None):
    """Return ASCII *text* with every ``%XX`` decoded as UTF-8; what is no UTF-8 becomes U+FFFD, a lone ``%`` stays."""
    if not PyUnicode_IS_ASCII(text):
        return text if "%" not in text else text.encode("ascii")  # the encoder's own error, as in the plain twin
    return _unescape(<const uint8_t*>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))


cdef str _unescape(const uint8_t* chars, Py_ssize_t size):
    cdef Py_ssize_t at = 0
    while at < size and chars[at] != c"%":
        at += 1
    if at == size:
        return PyUnicode_DecodeLatin1(<const char*>chars, size, NULL)
    cdef bytes octets = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* start = <uint8_t*>PyBytes_AS_STRING(octets)
    cdef uint8_t* out = start  # never past the end: an escape only shrinks
    at = 0
    while at < size:
        if (
            chars[at] == c"%"
            and at + 2 < size
            and _any_nibble[chars[at + 1]] >= 0
            and _any_nibble[chars[at + 2]] >= 0
        ):
            out[0] = <uint8_t>(_any_nibble[chars[at + 1]] << 4 | _any_nibble[chars[at + 2]])
            at += 3
        else:
            out[0] = chars[at]
            at += 1
        out += 1
    return PyUnicode_DecodeUTF8(<const char*>start, out - start, "replace")


def parse_baggage(str text not None):
    """Return the members of a ``baggage`` value as ``(key, value, properties)``, and how many were left out.

    A member that breaks the grammar is left out alone; so is all past 64 members or 8192 bytes, where
    the count goes no further than 16384.
    https://www.w3.org/TR/baggage/#header-content
    """
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), at, start, stop, end
    cdef int dropped = 0, kind
    cdef bint is_blank = True
    cdef Py_UCS4 char
    cdef void* data
    cdef bytes copy = None
    cdef const uint8_t* chars
    cdef list members = []
    cdef tuple member
    if size > C_LABEL_BYTES:
        # Whole members only: cut at the last comma that the limit allows.
        kind, data = PyUnicode_KIND(text), PyUnicode_DATA(text)
        end = min(size, <Py_ssize_t>(2 * C_LABEL_BYTES))
        size = C_LABEL_BYTES
        while size >= 0 and PyUnicode_READ(kind, data, size) != c",":
            size -= 1
        for at in range(size + 1, end):
            char = PyUnicode_READ(kind, data, at)
            if char == c",":
                is_blank = True
            elif is_blank and char != c" " and char != c"\t":
                is_blank = False
                dropped += 1
        size = max(size, <Py_ssize_t>0)
    if PyUnicode_KIND(text) == 1:
        chars = <const uint8_t*>PyUnicode_DATA(text)
    else:
        # No character past ASCII is legal anywhere: 0xFF stands for all that do not fit an octet.
        kind, data = PyUnicode_KIND(text), PyUnicode_DATA(text)
        copy = PyBytes_FromStringAndSize(NULL, size)
        for at in range(size):
            PyBytes_AS_STRING(copy)[at] = <char>min(PyUnicode_READ(kind, data, at), <Py_UCS4>0xFF)
        chars = <const uint8_t*>PyBytes_AS_STRING(copy)
    start = 0
    while start <= size:
        stop = start
        while stop < size and chars[stop] != c",":
            stop += 1
        end = stop
        while start < end and _is_space(chars[start]):
            start += 1
        while start < end and _is_space(chars[end - 1]):
            end -= 1
        if start < end:
            member = _parse_member(chars + start, end - start)
            if member is None or PyList_GET_SIZE(members) == C_LABELS:
                dropped += 1
            else:
                members.append(member)
        start = stop + 1
    return tuple(members), dropped


cdef inline Py_ssize_t _strip(const uint8_t** chars, Py_ssize_t size) noexcept:
    while size and _is_space(chars[0][0]):
        chars[0] += 1
        size -= 1
    while size and _is_space(chars[0][size - 1]):
        size -= 1
    return size


cdef tuple _parse_member(const uint8_t* chars, Py_ssize_t size):
    """Parse ``key=value;property;…``; None if it breaks the grammar."""
    cdef const uint8_t* end = chars + size
    cdef const uint8_t* piece = chars
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef const uint8_t* name
    cdef const uint8_t* value
    cdef Py_ssize_t name_size, value_size
    cdef str key = None, text = None
    cdef list properties = None
    while piece <= end:
        stop = piece
        equals = NULL
        while stop < end and stop[0] != c";":
            if equals == NULL and stop[0] == c"=":
                equals = stop
            stop += 1
        name = piece
        name_size = _strip(&name, (stop if equals == NULL else equals) - piece)
        if name_size == 0 or not _all(name, name_size, TOKEN):
            return None
        value_size = 0
        if equals != NULL:
            value = equals + 1
            value_size = _strip(&value, stop - value)
            if not _all(value, value_size, LABEL_VALUE):
                return None
        if key is None:
            if equals == NULL:
                return None
            key = PyUnicode_DecodeLatin1(<const char*>name, name_size, NULL)
            text = _unescape(value, value_size)
        else:
            if properties is None:
                properties = []
            properties.append(
                (
                    PyUnicode_DecodeLatin1(<const char*>name, name_size, NULL),
                    None if equals == NULL else _unescape(value, value_size),
                )
            )
        piece = stop + 1
    return (key, text, () if properties is None else tuple(properties))


cpdef int check_baggage(str text) noexcept:
    """Return how many members a ``baggage`` value has, or -1 if any of it would have to be left out or put right."""
    return -1 if text is None else _check_baggage(text)


cdef int _check_baggage(str text) noexcept:
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    cdef const uint8_t* start
    cdef const uint8_t* stop
    cdef const uint8_t* end
    cdef int count = 0
    if size > C_LABEL_BYTES or not PyUnicode_IS_ASCII(text):
        return -1
    start = <const uint8_t*>PyUnicode_DATA(text)
    end = start + size
    while start <= end:
        stop = start
        while stop < end and stop[0] != c",":
            stop += 1
        if not _is_member(start, stop):
            return -1
        count += 1
        start = stop + 1
    return count if count <= C_LABELS else -1


cdef bint _is_member(const uint8_t* piece, const uint8_t* end) noexcept:
    """Tell whether ``_parse_member`` would take it."""
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef const uint8_t* part
    cdef Py_ssize_t size
    cdef bint is_first = True
    while piece <= end:
        stop = piece
        equals = NULL
        while stop < end and stop[0] != c";":
            if equals == NULL and stop[0] == c"=":
                equals = stop
            stop += 1
        part = piece
        size = _strip(&part, (stop if equals == NULL else equals) - piece)
        if size == 0 or not _all(part, size, TOKEN):
            return False
        if equals != NULL:
            part = equals + 1
            size = _strip(&part, stop - part)
            if not _all(part, size, LABEL_VALUE):
                return False
        elif is_first:
            return False
        is_first = False
        piece = stop + 1
    return True


def make_members(labels):
    """Return a dict of str as members of ``baggage``; None where it is not that, or a key is none of a label."""
    cdef list members = []
    if type(labels) is not dict:
        return None
    # A copy: making a member can start a garbage collection, and a finaliser may change the dict.
    for key, value in PyDict_Items(labels):
        if type(key) is not str or type(value) is not str or not is_label_key(key):
            return None
        members.append((key, value, ()))
    return tuple(members)


def view_members(tuple members not None):
    """Return the members of ``baggage`` as a dict, without properties; of members with one key the last."""
    cdef dict view = {}
    for member in members:
        _check_member(member)
        view[(<tuple>member)[0]] = (<tuple>member)[1]
    return view


cdef inline int _check_member(object member) except -1:
    # Exact tuples: anything else could hold something else the next time.
    if type(member) is not tuple or PyTuple_GET_SIZE(member) != 3 or type((<tuple>member)[2]) is not tuple:
        raise TypeError("members must be tuples of a key, a value and a tuple of properties")
    return 0


def join_baggage(list texts not None):
    """Join repeated ``baggage`` fields, no further than the limit on all of them reaches."""
    cdef list joined = []
    cdef Py_ssize_t size = 0
    for text in texts:
        joined.append(text)
        size += 1 + len(text)
        if size > C_LABEL_BYTES:
            break
    return ",".join(joined)


def format_baggage(members):
    """Return the ``baggage`` value of *members*, and how many of them it holds.

    Members are left out from the end, whole, past 64 or 8192 bytes. Where they do not fit otherwise, no
    more is percent-encoded than must be.
    """
    cdef tuple given = tuple(members)
    cdef int kept = 0
    cdef str text = _format_baggage(given, UNRESERVED, &kept)
    if kept < min(<Py_ssize_t>len(given), <Py_ssize_t>C_LABELS):
        text = _format_baggage(given, LABEL_PLAIN, &kept)
    return text, kept


cdef str _format_baggage(tuple members, uint8_t plain, int* kept):
    cdef uint8_t[8192] out  # C_LABEL_BYTES: nothing is written before it has been counted
    cdef uint8_t* end = out
    cdef Py_ssize_t size = -1  # the first member has no comma before it
    cdef tuple properties, setting
    kept[0] = 0
    for member in members:
        if kept[0] == C_LABELS:
            break
        _check_member(member)
        key, value, properties = <tuple>member
        size += 1 + _member_size(key, value, properties, plain)
        if size > C_LABEL_BYTES:
            break
        if kept[0]:
            end[0] = c","
            end += 1
        end = _write_pair(key, value, end, plain)
        for setting in properties:
            end[0] = c";"
            end = _write_pair(setting[0], setting[1], end + 1, plain)
        kept[0] += 1
    return PyUnicode_DecodeLatin1(<const char*>out, end - out, NULL)


cdef Py_ssize_t _member_size(object key, object value, tuple properties, uint8_t plain) except -1:
    cdef Py_ssize_t size
    if value is None:
        raise TypeError("values must be str, not NoneType")
    size = _pair_size(key, value, plain)
    for setting in properties:
        if type(setting) is not tuple or PyTuple_GET_SIZE(setting) != 2:
            raise TypeError("properties must be tuples of a name and a value")
        size += 1 + _pair_size((<tuple>setting)[0], (<tuple>setting)[1], plain)
    return size


cdef Py_ssize_t _pair_size(object name, object value, uint8_t plain) except -1:
    cdef object utf8
    cdef Py_ssize_t size = 0
    cdef const uint8_t* octets = NULL
    if not isinstance(name, str) or not (value is None or isinstance(value, str)):
        raise TypeError(f"members must hold str, not {type(value if isinstance(name, str) else name).__name__}")
    if not PyUnicode_IS_ASCII(name):
        raise ValueError("keys must be ASCII")
    if value is None:
        return PyUnicode_GET_LENGTH(name)
    utf8 = _utf8(value)
    _chars(utf8, &octets, &size)
    return PyUnicode_GET_LENGTH(name) + 1 + _escaped_size(octets, size, plain)


cdef uint8_t* _write_pair(object name, object value, uint8_t* out, uint8_t plain) except NULL:
    """Write what ``_pair_size`` has counted."""
    cdef object utf8
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(name)
    cdef const uint8_t* octets = NULL
    memcpy(out, PyUnicode_DATA(name), size)
    out += size
    if value is None:
        return out
    out[0] = c"="
    utf8 = _utf8(value)
    _chars(utf8, &octets, &size)
    return _escape(octets, size, out + 1, plain)


cdef enum:
    C_FIELD_CHARS = 65536
    C_VALUE_CHARS = 16448  # above the longest value that any format accepts
    C_NAME_CHARS = 256


cdef struct Budget:
    Py_ssize_t chars  # how much more text one walk may take
    int prefixed  # how many more fields that a prefix names


@cython.final
@cython.no_gc  # holds str only
cdef class Sieve:
    """Reads and writes the *fields* of wire formats, and all fields that begin with one of *prefixes*, in a carrier.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or bytes, and a value may
    be a list or tuple of them. Fields are found in any case, in a mapping also under their WSGI name
    (``HTTP_TRACEPARENT``). An empty field counts as absent, and anything of another shape is ignored. Subclasses are
    read as the built-in type that they extend, so that none of their methods runs.

    Fields and prefixes are 1 to 256 lower-case ASCII characters. Reads at most 64 KiB in total and the first 64 fields
    with a prefix; a single value is cut just above the longest that any format accepts.
    """

    def __cinit__(self, fields=(), prefixes=()):
        cdef str name
        self.fields, self.prefixes = _field_names(fields, "fields"), _field_names(prefixes, "prefixes")
        for at in range(256):
            self.lengths[at] = 0
        for name in self.fields:
            self.lengths[<uint8_t>ord(name[0])] |= <uint64_t>1 << (len(name) & 63)
        for name in self.prefixes:
            self.lengths[<uint8_t>ord(name[0])] = ~<uint64_t>0

    cpdef list collect(self, object carrier):
        """Return the value of each field: None, a text, or a list of texts where it has several.

        Where there are prefixes, one more item is a dict of the fields that have one, by lower-case name, or None.
        """
        cdef list found = [None] * (len(self.fields) + (1 if self.prefixes else 0))
        _collect(carrier, self, found)
        return found

    def sift(self, carrier):
        """Return a dict of all that ``collect()`` finds, by lower-case name, or None."""
        cdef list found = self.collect(carrier)
        cdef dict fields = found.pop() if self.prefixes else None
        cdef Py_ssize_t index
        for index in range(len(self.fields)):
            value = found[index]
            if value is not None:
                if fields is None:
                    fields = {}
                fields[self.fields[index]] = value
        return fields

    def put(self, carrier, dict texts not None):
        """Set *texts*, by name, in *carrier*, a mutable mapping or a list of pairs, and remove all other fields.

        A None is not set. A list of bytes pairs gets bytes.
        """
        cdef bint as_bytes = _clear(carrier, self, None, texts)
        for name, text in texts.items():
            if text is not None:
                _set(carrier, name, text, as_bytes)

    cdef Py_ssize_t index(self, object key, bint is_mapping, Name* name) noexcept:
        """Return the index of the field that *key* names, the number of fields for one with a prefix, or -1."""
        cdef Py_ssize_t index
        cdef PyObject* field
        if not _chars(key, &name.chars, &name.size):
            return -1
        name.is_wsgi = (
            is_mapping
            and name.size > 5
            and name.chars[0] == c"H"
            and memcmp(name.chars, b"HTTP_", 5) == 0
            and isinstance(key, str)
        )
        if name.is_wsgi:
            name.chars += 5
            name.size -= 5
        if not 0 < name.size <= C_NAME_CHARS:
            return -1
        if not self.lengths[_lower(name.chars[0], name.is_wsgi)] >> (name.size & 63) & 1:
            return -1
        for index in range(PyTuple_GET_SIZE(self.fields)):
            field = PyTuple_GET_ITEM(self.fields, index)
            if PyUnicode_GET_LENGTH(<object>field) == name.size and _begins(name, <object>field):
                return index
        for index in range(PyTuple_GET_SIZE(self.prefixes)):
            field = PyTuple_GET_ITEM(self.prefixes, index)
            if PyUnicode_GET_LENGTH(<object>field) <= name.size and _begins(name, <object>field):
                return PyTuple_GET_SIZE(self.fields) if _is_ascii(name) else -1
        return -1


cdef tuple _field_names(names, str parameter):
    cdef list exact = []
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{parameter} must be an iterable of str, not {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{parameter} must be str, not {type(name).__name__}")
        name = str.__str__(name)
        if not 0 < len(name) <= C_NAME_CHARS or not name.isascii() or name != name.lower():
            raise ValueError(f"{parameter} must be 1 to {C_NAME_CHARS} lower-case ASCII characters: {ascii(name)[:80]}")
        exact.append(name)
    return tuple(exact)


cdef inline uint8_t _lower(uint8_t char, bint is_wsgi) noexcept:
    if c"A" <= char <= c"Z":
        return char | 0x20
    return c"-" if is_wsgi and char == c"_" else char


cdef inline bint _begins(Name* name, object wanted) noexcept:
    """Tell whether *name*, which is long enough, begins with *wanted*, lower-case ASCII, in any case."""
    cdef const uint8_t* chars = <const uint8_t*>PyUnicode_DATA(wanted)
    cdef Py_ssize_t at
    if memcmp(name.chars, chars, PyUnicode_GET_LENGTH(wanted)) == 0:
        return True
    for at in range(PyUnicode_GET_LENGTH(wanted)):
        if _lower(name.chars[at], name.is_wsgi) != chars[at]:
            return False
    return True


cdef inline bint _is_ascii(Name* name) noexcept:
    cdef Py_ssize_t at
    for at in range(name.size):
        if name.chars[at] >= 0x80:
            return False
    return True


cdef int _collect(carrier, Sieve sieve, list found) except -1:
    """Add what *carrier* holds to *found*, which has a place for each field and one more where there are prefixes."""
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0, index
    cdef Budget budget
    cdef Name name
    cdef bint is_mapping
    budget.chars, budget.prefixed = C_FIELD_CHARS, C_LABELS
    if type(carrier) is dict:
        # No method of the program's runs below, but an allocation can start a garbage collection, and a finaliser
        # may change the dict: PyDict_Next survives that, and key and value are held.
        while PyDict_Next(carrier, &position, &key, &value):
            index = sieve.index(<object>key, True, &name)
            if index >= 0:
                held_key, held_value = <object>key, <object>value
                if not _take(sieve, found, index, &name, held_value, &budget):
                    break
        return 0
    if type(carrier) is list:
        for pair in <list>carrier:
            if not _take_pair(sieve, found, pair, False, &budget):
                break
        return 0
    is_mapping = hasattr(carrier, "items")
    if isinstance(carrier, (str, bytes)) or not (is_mapping or hasattr(carrier, "__iter__")):
        raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type(carrier).__name__}")
    pairs = iter(carrier.items() if is_mapping else carrier)
    try:
        for pair in pairs:
            if not _take_pair(sieve, found, pair, is_mapping, &budget):
                break
    except RuntimeError:  # a finaliser or another thread changed what is iterated over: what was found stands
        pass
    return 0


cdef inline bint _take_pair(Sieve sieve, list found, object pair, bint is_mapping, Budget* budget) except -1:
    cdef Name name
    cdef Py_ssize_t index
    if isinstance(pair, tuple):
        if PyTuple_GET_SIZE(pair) != 2:
            return True
        key, value = (<tuple>pair)[0], (<tuple>pair)[1]
    elif isinstance(pair, list) and PyList_GET_SIZE(pair) == 2:
        key, value = (<list>pair)[0], (<list>pair)[1]
    else:
        return True
    index = sieve.index(key, is_mapping, &name)
    return index < 0 or _take(sieve, found, index, &name, value, budget)


cdef bint _take(Sieve sieve, list found, Py_ssize_t index, Name* name, object value, Budget* budget) except -1:
    """Add what *value* holds to *found*; tell whether there is room for more."""
    cdef list texts
    cdef dict prefixed
    cdef bint has_room
    if index < PyTuple_GET_SIZE(sieve.fields):
        return _take_value(found, index, value, &budget.chars, False)
    if budget.prefixed == 0:
        return True
    budget.prefixed -= 1
    key = PyUnicode_DecodeLatin1(<const char*>name.chars, name.size, NULL).lower()
    if name.is_wsgi:
        key = key.replace("_", "-")
    if found[index] is None:
        found[index] = {}
    prefixed = found[index]
    texts = [prefixed.get(key)]
    has_room = _take_value(texts, 0, value, &budget.chars, True)
    if texts[0] is not None:
        prefixed[key] = texts[0]
    elif not prefixed:
        found[index] = None
    return has_room


cdef bint _take_value(list found, Py_ssize_t index, object value, Py_ssize_t* room, bint is_prefixed) except -1:
    if isinstance(value, tuple):
        for text in <tuple>value:
            if not _take_text(found, index, text, room, is_prefixed):
                return False
        return True
    if isinstance(value, list):
        for text in <list>value:
            if not _take_text(found, index, text, room, is_prefixed):
                return False
        return True
    return _take_text(found, index, value, room, is_prefixed)


cdef bint _take_text(list found, Py_ssize_t index, object text, Py_ssize_t* room, bint is_prefixed) except -1:
    cdef Py_ssize_t size
    if isinstance(text, str):
        size = PyUnicode_GET_LENGTH(text)
    elif isinstance(text, bytes):
        size = PyBytes_GET_SIZE(text)
    else:
        return True
    if size == 0 and not is_prefixed:  # a label may be empty, any other field is then as good as absent
        return True
    room[0] -= min(size, <Py_ssize_t>C_VALUE_CHARS)
    if room[0] < 0:
        return False
    if isinstance(text, bytes):
        # To copy a mebibyte would cost more than to reject it.
        text = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(text), min(size, <Py_ssize_t>C_VALUE_CHARS), NULL)
    elif type(text) is not str:
        text = str.__str__(text)
    earlier = found[index]
    if earlier is None:
        found[index] = text
    elif type(earlier) is list:
        (<list>earlier).append(text)
    else:
        found[index] = [earlier, text]
    return True


cpdef object put(object carrier, str name, str text):
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None removes it.

    Fields of that name in another case are removed: more than one ``traceparent`` counts as none. A list of bytes pairs
    gets bytes.
    """
    _put(carrier, name, text)


cdef int _put(carrier, str name, str text) except -1:
    cdef bint as_bytes
    if type(carrier) is dict and len(<dict>carrier) == 0:
        if text is not None:
            PyDict_SetItem(carrier, name, text)
        return 0
    as_bytes = _clear(carrier, None, name, text)
    if text is not None:
        _set(carrier, name, text, as_bytes)
    return 0


cdef int _set(carrier, name, text, bint as_bytes) except -1:
    if type(carrier) is dict:
        PyDict_SetItem(carrier, name, text)
    elif isinstance(carrier, list):
        carrier.append((name.encode(), text.encode()) if as_bytes else (name, text))
    else:
        carrier[name] = text
    return 0


cdef bint _clear(carrier, Sieve sieve, str name, texts) except -1:
    """Remove the fields of *sieve*, or the field *name*; tell whether *carrier* is a list of bytes pairs.

    A dict keeps the keys that *texts*, a dict or the text of *name*, is going to replace in their place.
    """
    cdef PyObject* at
    cdef Py_ssize_t position = 0
    cdef list stale = None
    if type(carrier) is dict:
        while PyDict_Next(carrier, &position, &at, NULL):
            if _is_field(<object>at, sieve, name) and not _is_kept(<object>at, sieve, texts, name):
                held = <object>at  # before anything is allocated, which can start a garbage collection
                if stale is None:
                    stale = []
                stale.append(held)
    elif isinstance(carrier, list):
        return _clear_list(carrier, sieve, name)
    elif isinstance(carrier, dict):
        stale = [key for key in list(carrier) if _is_field(key, sieve, name) and not _is_kept(key, sieve, texts, name)]
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        stale = [key for key in list(carrier.keys()) if _is_field(key, sieve, name)]
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    if stale is not None:
        for key in stale:
            try:
                del carrier[key]
            except Exception:  # a KeyError, or an error of the key's own methods, which costs that key only
                pass
    return False


cdef bint _clear_list(object pairs, Sieve sieve, str name) except -1:
    # Of pairs of subclasses no method runs, so that nothing changes the list on the way.
    cdef list kept = []
    cdef bint as_bytes = False, is_first = True, is_changed = False
    for pair in <list>pairs:
        if isinstance(pair, tuple) and PyTuple_GET_SIZE(pair):
            key = (<tuple>pair)[0]
        elif isinstance(pair, list) and PyList_GET_SIZE(pair):
            key = (<list>pair)[0]
        else:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
        if is_first:
            as_bytes, is_first = isinstance(key, bytes), False
        if _is_field(key, sieve, name):
            is_changed = True
        else:
            kept.append(pair)
    if is_changed:
        pairs[:] = kept
    return as_bytes


cdef inline bint _is_field(object key, Sieve sieve, str name) noexcept:
    """Tell whether *key* names a field of *sieve*, or, without one, is *name*, in any case."""
    cdef Name found
    if sieve is not None:
        return sieve.index(key, False, &found) >= 0
    found.is_wsgi = False
    return (
        _chars(key, &found.chars, &found.size)
        and found.size == PyUnicode_GET_LENGTH(name)
        and _begins(&found, name)
    )


cdef inline bint _is_kept(object key, Sieve sieve, texts, str name) except -1:
    """Tell whether *key*, which names a field, is exactly a name in *texts*, so that its value will be replaced."""
    if texts is None or type(key) is not str:
        return False
    if sieve is not None:
        return (<dict>texts).get(key) is not None
    return memcmp(PyUnicode_DATA(key), PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name)) == 0
