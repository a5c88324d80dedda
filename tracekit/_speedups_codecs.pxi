# The compiled codecs: hex, ``tracestate`` and ``baggage`` text.

from cpython.dict cimport PyDict_Items
from cpython.tuple cimport PyTuple_GET_SIZE

cdef const char* HEX = "0123456789abcdef"

# The roles that an octet may have, one bit each, so that every check is one look-up.
cdef enum:
    STATE_FIRST = 1
    STATE_KEY = 2
    STATE_VALUE = 4
    TOKEN = 8
    LABEL_VALUE = 16
    UNRESERVED = 32
    LABEL_PLAIN = 64  # needs no encoding in a label's value

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
    """Read *digits* (at most 16) characters into *number*; return whether all are lowercase hex digits."""
    cdef uint64_t total = 0
    cdef int at, nibble, bad = 0
    for at in range(digits):
        nibble = _nibble[text[at]]
        bad |= nibble
        total = total << 4 | <uint64_t>(nibble & 15)
    number[0] = total
    return bad >= 0


cdef inline uint64_t _digits(uint64_t chars, uint64_t* bad) noexcept:
    """Return the 32 bits that eight lowercase hex digits spell, one digit an octet; set bits in *bad* if one is none.

    All eight octets are worked on at once. Added to an octet below 0x80, 0x80 - n sets its top bit if it is n or more.
    """
    cdef uint64_t each = 0x0101010101010101, seven = chars & each * 0x7F
    bad[0] |= (
        chars
        | ~(seven + each * (0x80 - c"0"))
        | (seven + each * (0x80 - c"9" - 1) & ~(seven + each * (0x80 - c"a")))
        | (seven + each * (0x80 - c"f" - 1))
    ) & each * 0x80
    chars = (chars & each * 0x0F) + (chars >> 6 & each) * 9  # 0x40 is in letters, whose last four bits are 1 to 6
    chars = (chars | chars >> 4) & <uint64_t>0x00FF00FF00FF00FF
    chars = (chars | chars >> 8) & <uint64_t>0x0000FFFF0000FFFF
    return (chars | chars >> 16) & <uint64_t>0xFFFFFFFF


cdef inline bint _decode16(const uint8_t* text, uint64_t* number) noexcept:
    """Read 16 characters into *number*; return whether all are lowercase hex digits."""
    cdef uint64_t bad = 0
    number[0] = _digits(_word(text), &bad) << 32
    number[0] |= _digits(_word(text + 8), &bad)
    return bad == 0


cdef inline uint64_t _lowered(uint64_t chars) noexcept:
    """Return eight characters with 0x20 set in those that have 0x40: letters in lower case, and no other a digit."""
    return chars | (chars & <uint64_t>0x4040404040404040) >> 1


cdef inline bint _decode_any(const uint8_t* text, uint64_t* number) noexcept:
    """Like ``_decode16`` for hex digits of either case."""
    cdef uint64_t bad = 0
    number[0] = _digits(_lowered(_word(text)), &bad) << 32
    number[0] |= _digits(_lowered(_word(text + 8)), &bad)
    return bad == 0


cdef inline uint64_t _spelled(uint64_t number) noexcept:
    """Return the eight lowercase hex digits of a number of 32 bits, one digit an octet; see ``_digits``."""
    cdef uint64_t each = 0x0101010101010101
    number = (number | number << 16) & <uint64_t>0x0000FFFF0000FFFF
    number = (number | number << 8) & <uint64_t>0x00FF00FF00FF00FF
    number = (number | number << 4) & <uint64_t>0x0F0F0F0F0F0F0F0F
    return number + each * c"0" + (number + each * 6 >> 4 & each) * (c"a" - c"9" - 1)


cdef inline void _encode16(uint64_t number, uint8_t* text) noexcept:
    _put_word(_spelled(number >> 32), text)
    _put_word(_spelled(number & <uint64_t>0xFFFFFFFF), text + 8)


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


cdef inline Py_ssize_t _strip(const uint8_t** chars, Py_ssize_t size) noexcept:
    while size and _is_space(chars[0][0]):
        chars[0] += 1
        size -= 1
    while size and _is_space(chars[0][size - 1]):
        size -= 1
    return size


cpdef int count_tracestate(str text) noexcept:
    """Return the number of members in a ``tracestate`` value, or -1 for over 32 or for an error in the Level 2 grammar.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    cdef Py_ssize_t size = -1 if text is None else PyUnicode_GET_LENGTH(text), start = 0, stop, length, equals
    cdef const uint8_t* chars
    cdef const uint8_t* member
    cdef int count = 0
    if not 0 <= size <= C_STATE_CHARS or not PyUnicode_IS_ASCII(text):
        return -1
    chars = <const uint8_t*>PyUnicode_DATA(text)
    while start <= size:
        stop = start
        while stop < size and chars[stop] != c",":
            stop += 1
        member = chars + start
        length = _strip(&member, stop - start)
        if length:
            equals = 0
            while equals < length and member[equals] != c"=":
                equals += 1
            if equals == length or not _is_state_key(member, equals):
                return -1
            if not _is_state_value(member + equals + 1, length - equals - 1):
                return -1
            count += 1
        start = stop + 1
    return count if count <= C_STATE_MEMBERS else -1


def is_state_key(str key not None):
    """Return whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _-*/@``, first a letter or digit."""
    return PyUnicode_IS_ASCII(key) and _is_state_key(<const uint8_t*>PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))


def is_state_value(str value not None):
    """Return whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space last."""
    return PyUnicode_IS_ASCII(value) and _is_state_value(
        <const uint8_t*>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value)
    )


def is_label_key(str key not None):
    """Return whether *key* is an RFC 7230 token, as a label's key must be."""
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
    """Point *chars* to the octets of an ASCII str or of bytes; return False for anything else."""
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
    """Return str *text* in UTF-8, with U+FFFD for lone surrogates: ASCII text unchanged, otherwise bytes."""
    cdef str exact
    if PyUnicode_IS_ASCII(text):
        return text
    exact = text if type(text) is str else str.__str__(text)  # a subclass may override encode()
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
    """Write as many octets as ``_escaped_size`` counted, and return the end."""
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
    """Return *value* percent-encoded as UTF-8 (RFC 3986), so that no character in it can end a member or a header.

    Lone surrogates, which UTF-8 cannot express, become U+FFFD.
    """
    cdef object utf8 = _utf8(value)
    cdef Py_ssize_t size = 0
    cdef const uint8_t* octets = NULL
    _chars(utf8, &octets, &size)
    cdef object text = PyUnicode_New(_escaped_size(octets, size, UNRESERVED), 127)
    _escape(octets, size, <uint8_t*>PyUnicode_DATA(text), UNRESERVED)
    return text


def unescape_label(str text not None):
    """Return ASCII *text* with every ``%XX`` decoded as UTF-8; invalid UTF-8 becomes U+FFFD, a lone ``%`` stays."""
    if not PyUnicode_IS_ASCII(text):
        return text if "%" not in text else text.encode("ascii")  # raises the encoder's error, as the plain form does
    return _unescape(<const uint8_t*>PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text))


cdef str _unescape(const uint8_t* chars, Py_ssize_t size):
    cdef Py_ssize_t at = 0
    while at < size and chars[at] != c"%":
        at += 1
    if at == size:
        return PyUnicode_DecodeLatin1(<const char*>chars, size, NULL)
    cdef bytes octets = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* start = <uint8_t*>PyBytes_AS_STRING(octets)
    cdef uint8_t* out = start  # cannot pass the end, because decoding only shortens
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
    """Return the members of a ``baggage`` value as ``(key, value, properties)``, and the number of dropped ones.

    A malformed member is dropped alone, and so are members past 64 or past 8192 bytes. The count covers the first 16384
    characters.
    https://www.w3.org/TR/baggage/#header-content
    """
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text), at, start, stop, end
    cdef int dropped = 0, kind
    cdef bint is_blank = True
    cdef Py_UCS4 char
    cdef void* data
    cdef bytes copy = None
    cdef const uint8_t* chars
    cdef const uint8_t* piece
    cdef list members = []
    cdef tuple member
    if size > C_LABEL_BYTES:
        # Drop whole members: cut at the last comma within the limit.
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
        # No character past ASCII is legal anywhere, so 0xFF can replace those that do not fit an octet.
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
        piece = chars + start
        end = _strip(&piece, stop - start)
        if end:
            member = _parse_member(piece, piece + end)
            if member is None or PyList_GET_SIZE(members) == C_LABELS:
                dropped += 1
            else:
                members.append(member)
        start = stop + 1
    return tuple(members), dropped


cdef struct Part:  # of a member: ``key=value``, or a property, whose value may be NULL
    const uint8_t* name
    const uint8_t* value
    Py_ssize_t name_size, value_size


cdef inline const uint8_t* _next_part(const uint8_t* piece, const uint8_t* end, Part* part) noexcept:
    """Read the part up to the next semicolon or *end*; return the position behind that, or NULL if it is malformed."""
    cdef const uint8_t* stop = piece
    cdef const uint8_t* equals = NULL
    while stop < end and stop[0] != c";":
        if equals == NULL and stop[0] == c"=":
            equals = stop
        stop += 1
    part.name, part.value, part.value_size = piece, NULL, 0
    part.name_size = _strip(&part.name, (stop if equals == NULL else equals) - piece)
    if part.name_size == 0 or not _all(part.name, part.name_size, TOKEN):
        return NULL
    if equals != NULL:
        part.value = equals + 1
        part.value_size = _strip(&part.value, stop - part.value)
        if not _all(part.value, part.value_size, LABEL_VALUE):
            return NULL
    return stop + 1


cdef tuple _parse_member(const uint8_t* piece, const uint8_t* end):
    """Parse ``key=value;property;…``; return None if it is malformed."""
    cdef Part part
    cdef str name, value, key = None, text = None
    cdef list properties = None
    while piece <= end:
        piece = _next_part(piece, end, &part)
        if piece == NULL or (key is None and part.value == NULL):
            return None
        name = PyUnicode_DecodeLatin1(<const char*>part.name, part.name_size, NULL)
        value = None if part.value == NULL else _unescape(part.value, part.value_size)
        if key is None:
            key, text = name, value
        else:
            if properties is None:
                properties = []
            properties.append((name, value))
    return (key, text, () if properties is None else tuple(properties))


cpdef int check_baggage(str text) noexcept:
    """Return the number of members in a ``baggage`` value, or -1 if it is not to be sent on unchanged."""
    cdef Py_ssize_t size = -1 if text is None else PyUnicode_GET_LENGTH(text)
    cdef const uint8_t* start
    cdef const uint8_t* stop
    cdef const uint8_t* end
    cdef int count = 0
    if not 0 <= size <= C_LABEL_BYTES or not PyUnicode_IS_ASCII(text):
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
    """Return whether ``_parse_member`` accepts the text."""
    cdef Part part
    cdef bint is_first = True
    while piece <= end:
        piece = _next_part(piece, end, &part)
        if piece == NULL or (is_first and part.value == NULL):
            return False
        is_first = False
    return True


def make_members(labels):
    """Return the members of ``baggage`` for a dict of str to str; None for anything else or an invalid key."""
    cdef list members = []
    if type(labels) is not dict:
        return None
    # A copy, because an allocation can start a garbage collection, in which a finalizer may change the dict.
    for key, value in PyDict_Items(labels):
        if type(key) is not str or type(value) is not str or not is_label_key(key):
            return None
        members.append((key, value, ()))
    return tuple(members)


def view_members(tuple members not None):
    """Return the members of ``baggage`` as a dict, without properties; the last member of a key wins."""
    cdef dict view = {}
    for member in members:
        _check_member(member)
        view[(<tuple>member)[0]] = (<tuple>member)[1]
    return view


cdef inline int _check_member(object member) except -1:
    # Exact tuples cannot change between two reads.
    if type(member) is not tuple or PyTuple_GET_SIZE(member) != 3 or type((<tuple>member)[2]) is not tuple:
        raise TypeError("members must be tuples of a key, a value and a tuple of properties")
    return 0


def join_baggage(list texts not None):
    """Join repeated ``baggage`` fields, up to the limit on all of them together."""
    cdef list joined = []
    cdef Py_ssize_t size = 0
    for text in texts:
        joined.append(text)
        size += 1 + len(text)
        if size > C_LABEL_BYTES:
            break
    return ",".join(joined)


def format_baggage(members):
    """Return the ``baggage`` value of *members*, and the number of members in it.

    Members past 64 or past 8192 bytes are omitted. If they do not fit otherwise, only the characters that require it
    are percent-encoded.
    """
    cdef tuple given = tuple(members)
    cdef int kept = 0
    cdef str text = _format_baggage(given, UNRESERVED, &kept)
    if kept < min(<Py_ssize_t>len(given), <Py_ssize_t>C_LABELS):
        text = _format_baggage(given, LABEL_PLAIN, &kept)
    return text, kept


cdef str _format_baggage(tuple members, uint8_t plain, int* kept):
    cdef uint8_t[8192] out  # C_LABEL_BYTES; every member is measured before it is written
    cdef uint8_t* end = out
    cdef Py_ssize_t size = -1  # the first member follows no comma
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
    """Write as many octets as ``_pair_size`` counted."""
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
