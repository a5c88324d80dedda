# The compiled twin's codecs: hex, ``tracestate`` and ``baggage`` text, and the carriers that hold them.

from cpython.dict cimport PyDict_Items
from cpython.tuple cimport PyTuple_GET_SIZE

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


def count_tracestate(str text not None):
    """Return how many members a ``tracestate`` value has, or -1 if it breaks the Level 2 grammar or has more than 32.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    return _count_tracestate(text)


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


def check_baggage(str text not None):
    """Return how many members a ``baggage`` value has, or -1 if any of it would have to be left out or put right."""
    return _check_baggage(text)


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


def collect(carrier, tuple names not None):
    """Return what *carrier* holds under each of *names*: None, a text, or a list of texts where it came several times.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or
    bytes, and a value may be a list of them. Names are lowercase ASCII and found in any case, in a
    mapping also as WSGI spells them (``HTTP_TRACEPARENT``). Whatever is shaped otherwise is passed over.
    At most 64 KiB are taken, of one value no more than every format refuses.
    """
    cdef list found = [None] * len(names)
    _collect(carrier, names, found)
    return found


cdef int _collect(carrier, tuple names, list found) except -1:
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0, index, room = C_FIELD_CHARS
    cdef bint is_mapping
    if type(carrier) is dict:
        # No method of the program's runs below, but an allocation can start a garbage collection, and a finaliser
        # may change the dict: PyDict_Next survives that, and the value is held.
        while PyDict_Next(carrier, &position, &key, &value):
            index = _find(<object>key, names, True)
            if index >= 0:
                held = <object>value
                if not _take(found, index, held, &room):
                    break
        return 0
    if type(carrier) is list:
        for pair in <list>carrier:
            if not _collect_pair(pair, names, found, False, &room):
                break
        return 0
    is_mapping = hasattr(carrier, "items")
    pairs = iter(carrier.items() if is_mapping else carrier)
    try:
        for pair in pairs:
            if not _collect_pair(pair, names, found, is_mapping, &room):
                break
    except RuntimeError:  # a finaliser or another thread changed what is iterated over: what was found stands
        pass
    return 0


cdef inline bint _collect_pair(object pair, tuple names, list found, bint is_mapping, Py_ssize_t* room) except -1:
    # Subclasses are read as the tuple or list that they are: their methods do not run.
    cdef Py_ssize_t index
    if isinstance(pair, tuple):
        if PyTuple_GET_SIZE(pair) == 2:
            index = _find((<tuple>pair)[0], names, is_mapping)
            if index >= 0:
                return _take(found, index, (<tuple>pair)[1], room)
    elif isinstance(pair, list) and PyList_GET_SIZE(pair) == 2:
        name, value = (<list>pair)[0], (<list>pair)[1]
        index = _find(name, names, is_mapping)
        if index >= 0:
            return _take(found, index, value, room)
    return True


cdef inline bint _is_name(const uint8_t* chars, const uint8_t* name, Py_ssize_t size, bint is_wsgi) noexcept:
    """Tell whether *chars* are the lowercase *name* in any case; in WSGI's spelling "_" stands for "-"."""
    cdef Py_ssize_t at
    cdef uint8_t char
    for at in range(size):
        char = chars[at]
        if c"A" <= char <= c"Z":
            char |= 0x20
        elif is_wsgi and char == c"_":
            char = c"-"
        if char != name[at]:
            return False
    return True


cdef inline Py_ssize_t _find(object text, tuple names, bint is_mapping) noexcept:
    cdef const uint8_t* chars
    cdef const uint8_t* name
    cdef Py_ssize_t size, name_size, index
    if not _chars(text, &chars, &size):
        return -1
    for index in range(len(names)):
        if not _chars(names[index], &name, &name_size):
            continue
        if size == name_size and _is_name(chars, name, size, False):
            return index
    if is_mapping and size > 5 and isinstance(text, str) and memcmp(chars, b"HTTP_", 5) == 0:
        for index in range(len(names)):
            if not _chars(names[index], &name, &name_size):
                continue
            if size - 5 == name_size and _is_name(chars + 5, name, name_size, True):
                return index
    return -1


cdef bint _take(list found, Py_ssize_t index, object value, Py_ssize_t* room) except -1:
    """Add what *value* holds to *found*; tell whether there is room for more."""
    if isinstance(value, tuple):
        for text in <tuple>value:
            if not _take_text(found, index, text, room):
                return False
        return True
    if isinstance(value, list):
        for text in <list>value:
            if not _take_text(found, index, text, room):
                return False
        return True
    return _take_text(found, index, value, room)


cdef bint _take_text(list found, Py_ssize_t index, object text, Py_ssize_t* room) except -1:
    if not isinstance(text, (str, bytes)):
        return True
    text = _bounded(text, room)
    if text is None:
        return False
    earlier = found[index]
    if earlier is None:
        found[index] = text
    elif type(earlier) is list:
        (<list>earlier).append(text)
    else:
        found[index] = [earlier, text]
    return True


cdef enum:
    C_FIELD_CHARS = 65536
    C_VALUE_CHARS = 16448  # past the longest that any format takes
    C_NAME_CHARS = 256


cdef inline str _bounded(object text, Py_ssize_t* room):
    """Return *text* or octets as text, None if there is no *room*; of octets past all limits what shows that."""
    # To copy a mebibyte would cost more than to refuse it.
    cdef Py_ssize_t size
    if isinstance(text, bytes):
        size = min(PyBytes_GET_SIZE(text), <Py_ssize_t>C_VALUE_CHARS)
        room[0] -= size
        return PyUnicode_DecodeLatin1(PyBytes_AS_STRING(text), size, NULL) if room[0] >= 0 else None
    room[0] -= min(PyUnicode_GET_LENGTH(text), <Py_ssize_t>C_VALUE_CHARS)
    if room[0] < 0:
        return None
    return text if type(text) is str else str.__str__(text)  # a subclass may have methods of its own


cdef list _field_names(names, str parameter):
    """Return *names* as a list of exact str, each of 1 to 256 lower-case ASCII characters."""
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
    return exact


@cython.final
cdef class Sieve:
    """Finds the fields of all formats in a carrier at once: *fields*, and names that start with one of *prefixes*."""

    cdef frozenset names
    cdef tuple prefixes
    # Which lengths, below 64, names with this first character have: nearly all other headers stop here.
    cdef uint64_t[256] lengths
    cdef bint[256] is_prefix

    def __cinit__(self, fields=(), prefixes=()):
        cdef str name
        self.names = frozenset(_field_names(fields, "fields"))
        self.prefixes = tuple(_field_names(prefixes, "prefixes"))
        for at in range(256):
            self.lengths[at] = self.is_prefix[at] = 0
        for name in self.names:
            self.lengths[<uint8_t>ord(name[0])] |= <uint64_t>1 << (len(name) & 63)
        for name in self.prefixes:
            self.is_prefix[<uint8_t>ord(name[0])] = True

    def sift(self, carrier):
        """Return what is found, by its lowercase name, as ``collect`` would; None if nothing is.

        At most 64 KiB are taken, of one value no more than every format refuses, of names with a prefix the first 64:
        what a peer sends is bounded before it is parsed.
        """
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t position = 0, room = C_FIELD_CHARS
        cdef int prefixed = 0
        cdef dict found = {}
        cdef bint is_mapping
        cdef str name
        if type(carrier) is dict:
            # As in _collect: nothing of the program's runs but finalisers, so that what is used is held.
            while PyDict_Next(carrier, &position, &key, &value):
                if not self._may_be(<object>key, True):
                    continue
                held_key, held_value = <object>key, <object>value
                name = self._name(held_key, True, &prefixed)
                if name is not None and not _keep(found, name, held_value, &room):
                    break
            return found or None
        if type(carrier) is list:
            for pair in <list>carrier:
                if not self._sift_pair(pair, False, found, &prefixed, &room):
                    break
            return found or None
        is_mapping = hasattr(carrier, "items")
        pairs = iter(carrier.items() if is_mapping else carrier)
        try:
            for pair in pairs:
                if not self._sift_pair(pair, is_mapping, found, &prefixed, &room):
                    break
        except RuntimeError:  # as in _collect
            pass
        return found or None

    cdef bint _sift_pair(self, object pair, bint is_mapping, dict found, int* prefixed, Py_ssize_t* room) except -1:
        cdef str name
        if isinstance(pair, tuple):
            if PyTuple_GET_SIZE(pair) != 2 or not self._may_be((<tuple>pair)[0], is_mapping):
                return True
            key, value = (<tuple>pair)[0], (<tuple>pair)[1]
        elif isinstance(pair, list) and PyList_GET_SIZE(pair) == 2:
            key, value = (<list>pair)[0], (<list>pair)[1]
        else:
            return True
        name = self._name(key, is_mapping, prefixed)
        return name is None or _keep(found, name, value, room)

    cdef inline bint _may_be(self, object text, bint is_mapping) noexcept:
        """Tell whether *text* has the first character and the length of a name, or a prefix's first character."""
        cdef const uint8_t* chars
        cdef Py_ssize_t size
        cdef uint8_t first
        if not _chars(text, &chars, &size) or size == 0 or size > C_NAME_CHARS + 5:
            return False
        first = chars[0] | 0x20 if c"A" <= chars[0] <= c"Z" else chars[0]
        return (
            (self.lengths[first] >> (size & 63) & 1) != 0
            or self.is_prefix[first]
            or (is_mapping and _is_wsgi(text, chars, size))
        )

    cdef str _name(self, object text, bint is_mapping, int* prefixed):
        """Return *text* in lower case if it is one of the names."""
        cdef const uint8_t* chars
        cdef Py_ssize_t size
        cdef str name
        if not self._may_be(text, is_mapping) or not _chars(text, &chars, &size):
            return None
        if is_mapping and _is_wsgi(text, chars, size):
            name = PyUnicode_DecodeLatin1(<const char*>chars + 5, size - 5, NULL).replace("_", "-")
        else:
            name = PyUnicode_DecodeLatin1(<const char*>chars, size, NULL)
        if not PyUnicode_IS_ASCII(name) or PyUnicode_GET_LENGTH(name) > C_NAME_CHARS:
            return None
        name = name.lower()
        if name in self.names:
            return name
        if prefixed[0] == C_LABELS or not name.startswith(self.prefixes):
            return None
        prefixed[0] += 1
        return name


cdef inline bint _is_wsgi(object text, const uint8_t* chars, Py_ssize_t size) noexcept:
    return size > 5 and isinstance(text, str) and memcmp(chars, b"HTTP_", 5) == 0


cdef bint _keep(dict found, str name, object value, Py_ssize_t* room) except -1:
    """Add what *value* holds to *found*; tell whether there was room for it."""
    cdef list texts = [found.get(name)]
    cdef bint has_room = _take(texts, 0, value, room)
    if texts[0] is not None:
        found[name] = texts[0]
    return has_room


def put(carrier, str name not None, str text):
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None takes it out.

    What stood there under *name* in any case goes: two ``traceparent`` headers are none. A list of
    bytes pairs gets bytes.
    """
    _put(carrier, name, text)


cdef int _put(carrier, str name, str text) except -1:
    cdef PyObject* key
    cdef Py_ssize_t position = 0
    cdef list stale = None
    if type(carrier) is dict:
        if len(<dict>carrier) == 0:
            if text is not None:
                PyDict_SetItem(carrier, name, text)
            return 0
        while PyDict_Next(carrier, &position, &key, NULL):
            if <object>key is not name and _is_stale(<object>key, name):
                held = <object>key  # before the list is made, which can start a garbage collection
                if stale is None:
                    stale = []
                stale.append(held)
        if stale is not None:
            for other in stale:
                _remove(carrier, other)
        if text is not None:
            PyDict_SetItem(carrier, name, text)
        else:
            (<dict>carrier).pop(name, None)
    elif isinstance(carrier, list):
        _put_pair(carrier, name, text)
    elif isinstance(carrier, dict):
        for other in list(carrier):
            if _is_stale(other, name):
                _remove(carrier, other)
        if text is not None:
            carrier[name] = text
        else:
            carrier.pop(name, None)
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        for other in list(carrier.keys()):
            if _is_named(other, name):
                _remove(carrier, other)
        if text is not None:
            carrier[name] = text
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    return 0


cdef int _remove(object carrier, object key) except -1:
    """Remove *key*, whose own methods may run and fail, which costs that key only."""
    try:
        del carrier[key]
    except Exception:
        pass
    return 0


cdef int _put_pair(object pairs, str name, str text) except -1:
    # Of pairs of subclasses no method runs, so that nothing changes the list on the way.
    cdef list kept = []
    cdef bint as_bytes = False, is_first = True, is_stale = False
    for pair in <list>pairs:
        if isinstance(pair, tuple) and PyTuple_GET_SIZE(pair):
            first = (<tuple>pair)[0]
        elif isinstance(pair, list) and PyList_GET_SIZE(pair):
            first = (<list>pair)[0]
        else:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
        if is_first:
            as_bytes, is_first = isinstance(first, bytes), False
        if _is_named(first, name):
            is_stale = True
        else:
            kept.append(pair)
    if is_stale:
        pairs[:] = kept
    if text is not None:
        pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))
    return 0


cdef inline bint _is_stale(object key, str name) noexcept:
    """Tell whether *key* of a dict is *name* but for its case or type; *name* itself is replaced in its place."""
    return _is_named(key, name) and not (
        type(key) is str
        and memcmp(PyUnicode_DATA(key), PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name)) == 0
    )


cdef inline bint _is_named(object key, str name) noexcept:
    cdef const uint8_t* chars
    cdef const uint8_t* wanted
    cdef Py_ssize_t size, wanted_size
    return (
        _chars(key, &chars, &size)
        and _chars(name, &wanted, &wanted_size)
        and size == wanted_size
        and _is_name(chars, wanted, size, False)
    )
