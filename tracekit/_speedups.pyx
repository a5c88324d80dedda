# cython: language_level=3, freethreading_compatible=True, always_allow_keywords=True
"""The compiled twin: the same names in the same order as ``_pure.py``, which says how it works.

What is particular here: ids are three ``uint64``; ``SpanContext``, ``Scope`` and ``Span`` come from
freelists; a scope's owner is a weak reference to the ``contextvars.Context`` it was opened in, whose
identity a bare address would not prove. In a build with the GIL a C function runs undivided, which
every counter and list here relies on; in a free-threaded build critical sections and atomics do it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_SetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import os as _os
import time as _time
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from contextvars import ContextVar as _ContextVar
from types import MappingProxyType as _MappingProxyType

from ._attributes import MISSING as _MISSING, clean as _clean_value
from ._errors import bad_traceparent as _bad_traceparent
from ._outcome import close_with as _close_with, exception_attributes as _exception_attributes
from ._records import (
    KINDS as _KINDS,
    NO_ATTRIBUTES as _NO_ATTRIBUTES,
    STATUS_CODES as _STATUS_CODES,
    Event as _Event,
    Limits as _Limits,
    Link as _Link,
    Status as _Status,
)

cdef extern from *:
    """
    #if defined(_WIN32)
    #include <windows.h>
    static int64_t tk_monotonic_ns(void) {
        static LARGE_INTEGER frequency;
        LARGE_INTEGER now;
        if (!frequency.QuadPart) QueryPerformanceFrequency(&frequency);
        QueryPerformanceCounter(&now);
        return (int64_t)(now.QuadPart / frequency.QuadPart) * 1000000000
             + (int64_t)(now.QuadPart % frequency.QuadPart) * 1000000000 / frequency.QuadPart;
    }
    #else
    #include <time.h>
    static inline int64_t tk_monotonic_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    #endif

    #ifdef Py_GIL_DISABLED
    #define TK_FREE_THREADED 1
    static PyMutex tk_mutex;
    #define TK_LOCK() PyMutex_Lock(&tk_mutex)
    #define TK_UNLOCK() PyMutex_Unlock(&tk_mutex)
    #define TK_COUNT(counter) __atomic_fetch_add(&(counter), 1, __ATOMIC_RELAXED)
    #else
    #define TK_FREE_THREADED 0
    #define TK_LOCK()
    #define TK_UNLOCK()
    #define TK_COUNT(counter) ((counter)++)
    #endif

    static inline PyObject *tk_running_context(void) {
        return PyThreadState_Get()->context;  /* borrowed; NULL before a thread's first ContextVar */
    }

    static inline int tk_refers_to(PyObject *ref, PyObject *target) {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *got = NULL;
        if (PyWeakref_GetRef(ref, &got) < 0) { PyErr_Clear(); return 0; }
        Py_XDECREF(got);
        return got != NULL && got == target;
    #else
        return PyWeakref_GetObject(ref) == target;
    #endif
    }

    static inline PyObject *tk_referent(PyObject *ref) {  /* new reference, or None */
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *got = NULL;
        if (PyWeakref_GetRef(ref, &got) < 0) PyErr_Clear();
        return got ? got : Py_NewRef(Py_None);
    #else
        return Py_NewRef(PyWeakref_GetObject(ref));
    #endif
    }
    """
    const bint TK_FREE_THREADED
    int64_t tk_monotonic_ns() noexcept
    void TK_LOCK() noexcept
    void TK_UNLOCK() noexcept
    void TK_COUNT(int64_t) noexcept
    PyObject* tk_running_context() noexcept
    bint tk_refers_to(PyObject*, PyObject*) noexcept
    object tk_referent(PyObject*)

cdef extern from "Python.h":
    int PyContextVar_Get(object var, PyObject* default, PyObject** value) except -1
    object PyContextVar_Set(object var, object value)
    object PyWeakref_NewRef(object target, object callback)
    Py_ssize_t Py_REFCNT(object) noexcept
    bint PyUnicode_IS_ASCII(object) noexcept
    int PyUnicode_KIND(object) noexcept
    void* PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    Py_UCS4 PyUnicode_READ(int kind, void* data, Py_ssize_t at) noexcept
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

__all__ = [
    "IMPLEMENTATION",
    "MAX_LABELS",
    "MAX_LABEL_BYTES",
    "MAX_STATE_CHARS",
    "MAX_STATE_MEMBERS",
    "ROOT",
    "Buffer",
    "Root",
    "Scope",
    "Span",
    "SpanContext",
    "Tracer",
    "adopt_scopes",
    "after_fork",
    "buffer",
    "check_clock",
    "collect",
    "count_tracestate",
    "current_context",
    "current_span",
    "escape_label",
    "format_baggage",
    "format_traceparent",
    "is_label_key",
    "is_state_key",
    "is_state_value",
    "make_context",
    "parse_baggage",
    "parse_hex",
    "parse_traceparent",
    "put",
    "read_tracecontext",
    "set_clock",
    "set_ids",
    "set_tracer",
    "set_values",
    "span",
    "swap_scope",
    "unescape_label",
    "use_scope",
    "write_tracecontext",
]

IMPLEMENTATION = "compiled"

cdef enum:
    SAMPLED = 0x01
    RANDOM = 0x02
    DEFERRED = 0x100  # above the eight wire bits: nobody has decided yet

cdef uint64_t MASK56 = (<uint64_t>1 << 56) - 1

# ---------------------------------------------------------------- codecs: ids and traceparent

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
    return _make_context(high, low, span_id, <uint16_t>flags, None, None, True)


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


# ---------------------------------------------------------------- codecs: tracestate and baggage

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
    """Tell whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _ - * / @``, first a letter or digit."""
    return PyUnicode_IS_ASCII(key) and _is_state_key(<const uint8_t*>PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key))


def is_state_value(str value not None):
    """Tell whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space at the end."""
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


cdef object _utf8(str text):
    """Return an object whose octets are *text* in UTF-8, lone surrogates as U+FFFD: ASCII text itself, else bytes."""
    if PyUnicode_IS_ASCII(text):
        return text
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


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
    cdef str key, value, name
    kept[0] = 0
    for key, value, properties in members:
        if kept[0] == C_LABELS:
            break
        size += 1 + _member_size(key, value, properties, plain)
        if size > C_LABEL_BYTES:
            break
        if kept[0]:
            end[0] = c","
            end += 1
        end = _write_pair(key, value, end, plain)
        for name, setting in properties:
            end[0] = c";"
            end = _write_pair(name, setting, end + 1, plain)
        kept[0] += 1
    return PyUnicode_DecodeLatin1(<const char*>out, end - out, NULL)


cdef Py_ssize_t _member_size(str key, str value, tuple properties, uint8_t plain) except -1:
    cdef Py_ssize_t size = _pair_size(key, value, plain)
    cdef str name
    for name, setting in properties:
        size += 1 + _pair_size(name, setting, plain)
    return size


cdef Py_ssize_t _pair_size(str name, str value, uint8_t plain) except -1:
    cdef object utf8
    cdef Py_ssize_t size = 0
    cdef const uint8_t* octets = NULL
    if name is None or not PyUnicode_IS_ASCII(name):
        raise ValueError("keys must be ASCII")
    if value is None:
        return PyUnicode_GET_LENGTH(name)
    utf8 = _utf8(value)
    _chars(utf8, &octets, &size)
    return PyUnicode_GET_LENGTH(name) + 1 + _escaped_size(octets, size, plain)


cdef uint8_t* _write_pair(str name, str value, uint8_t* out, uint8_t plain) except NULL:
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


# ---------------------------------------------------------------- carriers


def collect(carrier, tuple names not None):
    """Return what *carrier* holds under each of *names*: None, a text, or a list of texts where it came several times.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or
    bytes, and a value may be a list of them. Names are lowercase ASCII and found in any case, in a
    mapping also as WSGI spells them (``HTTP_TRACEPARENT``). Whatever is shaped otherwise is passed over.
    """
    cdef list found = [None] * len(names)
    _collect(carrier, names, found)
    return found


cdef int _collect(carrier, tuple names, list found) except -1:
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0, index
    cdef bint is_mapping
    if type(carrier) is dict:
        # Nothing below runs code of the program's, so the dict cannot change on the way.
        with cython.critical_section(carrier):
            while PyDict_Next(carrier, &position, &key, &value):
                index = _find(<object>key, names, True)
                if index >= 0:
                    _take(found, index, <object>value)
        return 0
    if type(carrier) is list:
        for pair in <list>carrier:
            _collect_pair(pair, names, found, False)
        return 0
    is_mapping = hasattr(carrier, "items")
    for pair in carrier.items() if is_mapping else carrier:
        _collect_pair(pair, names, found, is_mapping)
    return 0


cdef inline int _collect_pair(pair, tuple names, list found, bint is_mapping) except -1:
    cdef Py_ssize_t index
    if type(pair) is tuple:
        if len(<tuple>pair) == 2:
            index = _find((<tuple>pair)[0], names, is_mapping)
            if index >= 0:
                _take(found, index, (<tuple>pair)[1])
    elif isinstance(pair, (tuple, list)) and len(pair) == 2:
        name, value = pair
        index = _find(name, names, is_mapping)
        if index >= 0:
            _take(found, index, value)
    return 0


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


cdef int _take(list found, Py_ssize_t index, object value) except -1:
    if isinstance(value, (tuple, list)):
        for text in value:
            _take_text(found, index, text)
    else:
        _take_text(found, index, value)
    return 0


cdef int _take_text(list found, Py_ssize_t index, object text) except -1:
    if isinstance(text, bytes):
        text = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), NULL)
    elif not isinstance(text, str):
        return 0
    elif type(text) is not str:
        text = str.__str__(text)  # a subclass may have methods of its own
    earlier = found[index]
    if earlier is None:
        found[index] = text
    elif type(earlier) is list:
        (<list>earlier).append(text)
    else:
        found[index] = [earlier, text]
    return 0


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
        with cython.critical_section(carrier):
            while PyDict_Next(carrier, &position, &key, NULL):
                if <object>key is not name and _is_named(<object>key, name) and (
                    not isinstance(<object>key, str) or <object>key != name
                ):
                    if stale is None:
                        stale = []
                    stale.append(<object>key)
        if stale is not None:
            for other in stale:
                (<dict>carrier).pop(other, None)
        if text is not None:
            PyDict_SetItem(carrier, name, text)
        else:
            (<dict>carrier).pop(name, None)
    elif isinstance(carrier, list):
        _put_pair(carrier, name, text)
    elif isinstance(carrier, dict):
        for other in [other for other in carrier if other != name and _is_named(other, name)]:
            del carrier[other]
        if text is not None:
            carrier[name] = text
        else:
            carrier.pop(name, None)
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        for other in [other for other in carrier.keys() if _is_named(other, name)]:
            try:
                del carrier[other]
            except KeyError:
                pass
        if text is not None:
            carrier[name] = text
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    return 0


cdef int _put_pair(list pairs, str name, str text) except -1:
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or not pair:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
    as_bytes = bool(pairs) and isinstance(pairs[0][0], bytes)
    pairs[:] = [pair for pair in pairs if not _is_named(pair[0], name)]
    if text is not None:
        pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))
    return 0


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


cdef tuple _TRACECONTEXT_FIELDS = ("traceparent", "tracestate")


def read_tracecontext(carrier):
    """Return the context of ``traceparent`` and, where that is well-formed, ``tracestate``; None if there is none.

    Raises ``FormatError`` where ``traceparent`` is bad or came twice.
    """
    cdef list found = [None, None]
    cdef SpanContext context = None
    cdef object state
    _collect(carrier, _TRACECONTEXT_FIELDS, found)
    parent = found[0]
    if parent is None:
        return None
    if isinstance(parent, str):
        context = _parse_traceparent(parent)
    if context is None:
        raise _bad_traceparent(parent)
    state = found[1]
    if type(state) is list:
        # Only text within the limit is joined.
        state = ",".join(state) if sum(map(len, state)) <= C_STATE_CHARS else None
    if state is not None and _count_tracestate(state) > 0:
        context._state = (<str>state).strip(" \t")
    return context


def write_tracecontext(context, carrier):
    """Set ``traceparent``, and ``tracestate`` where there is one; an invalid context writes neither."""
    if type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext, not {type(context).__name__}")
    cdef SpanContext plain = <SpanContext>context
    if plain.span and (plain.high | plain.low):
        _put(carrier, "traceparent", _format_traceparent(plain))
        _put(carrier, "tracestate", plain._state)


# ---------------------------------------------------------------- ids and clock

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
        TK_LOCK()
        if _pool_left:
            _pool_left -= 1
            word = _pool[_pool_left]
            TK_UNLOCK()
        else:
            TK_UNLOCK()
            # os.urandom, not random: random.seed() in user code must not repeat an id.
            octets = _os.urandom(POOL * 8)
            if PyBytes_GET_SIZE(octets) != POOL * 8:
                raise OSError("os.urandom returned too little")
            TK_LOCK()
            memcpy(_pool, PyBytes_AS_STRING(octets), POOL * 8)
            _pool_left = POOL
            TK_UNLOCK()
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
            TK_LOCK()
            _walk, _mask, _steps_left = start, mask, STRETCH
            TK_UNLOCK()
        TK_LOCK()
        _steps_left -= 1
        _walk += <uint64_t>0x9E3779B97F4A7C15
        word = _walk
        mask = _mask
        TK_UNLOCK()
        word = (word ^ word >> 30) * <uint64_t>0xBF58476D1CE4E5B9
        word = (word ^ word >> 27) * <uint64_t>0x94D049BB133111EB
        word ^= word >> 31 ^ mask
    return word


def set_ids(source):
    """Take ids from *source* (``trace_id()`` and ``span_id()`` return ints) instead of the operating system; None undoes it."""
    global _ids
    _ids = source


def set_clock(clock):
    """Take the time, Unix nanoseconds, from *clock* instead of the operating system; None undoes it."""
    global _clock
    _clock = clock


def after_fork():
    """Forget, in the child of a fork, all that belongs to the parent: drawn random words, open spans, buffered spans."""
    global _generation, _pool_left, _steps_left
    _generation += 1
    _pool_left = _steps_left = 0
    buffer.reset()


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


# ---------------------------------------------------------------- the value that travels

cdef object _no_labels = None
cdef object _labels_type = None
cdef object _state_type = None
cdef object _make_state = None
cdef object _restore = None


def set_values(no_labels, state_type, make_state, restore):
    """Make known what is written above this module: the types of labels and tracestate, and what unpickles a context."""
    global _labels_type, _no_labels, _state_type, _make_state, _restore
    _labels_type, _no_labels = type(no_labels), no_labels
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

    def replace(self, *, state=None, labels=None, is_remote=None):
        """Return a copy with another tracestate, other labels, or another ``is_remote``; None keeps what is there."""
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
            and (self._state == that._state or self.state == that.state)
        )

    def __hash__(self):
        # Ids are random already. Only the mixing of -1, the C API's word for "error", is Cython's.
        return <Py_hash_t>(self.high ^ self.low ^ self.span)

    def __reduce__(self):
        # By a function's name, not the class's, so that either twin reads what the other wrote.
        return _restore, (self.id, self.bits, self._state or "", str(self.labels), self.remote)

    def __repr__(self):
        remote = ", remote" if self.remote else ""
        return f"<SpanContext {self.trace_id}/{self.span_id} flags={self.bits & 0xFF:02x}{remote}>"


cdef inline SpanContext _make_context(
    uint64_t high, uint64_t low, uint64_t span, uint16_t bits, str state, object labels, bint remote
):
    cdef SpanContext context = SpanContext.__new__(SpanContext)
    context.high = high
    context.low = low
    context.span = span
    context.bits = bits
    context._state = state
    context._labels = labels
    context.remote = remote
    context.is_made = True
    return context


def make_context(bytes id not None, int flags, str state not None, labels, bint is_remote):
    """Return the context with these 24 bytes of ids and these flags, ``deferred`` (0x100) among them.

    Nothing but the length is checked: *state* is a well-formed ``tracestate`` or empty.
    """
    if PyBytes_GET_SIZE(id) != 24:
        raise ValueError("id must be 24 bytes")
    cdef const uint8_t* octets = <const uint8_t*>PyBytes_AS_STRING(id)
    return _make_context(
        _word(octets), _word(octets + 8), _word(octets + 16), <uint16_t>(flags & 0x1FF), state or None, labels, is_remote
    )


# ---------------------------------------------------------------- scopes

cdef object _current = _ContextVar("tracekit_scope", default=None)

cdef enum:
    SPAN = 0
    CONTEXT = 1
    LABELS = 2


@cython.final
@cython.no_gc  # in no cycle: a span points back without owning
@cython.freelist(128)
cdef class Scope:
    """One opening of "this is current" by a span, a remote context or labels; a context manager that opens once.

    Closing works from any task, thread or Context, in any order, and never raises. An open scope
    keeps its span alive; a closed one keeps ids only, however long a task that inherited it lives.
    """

    cdef int kind
    cdef uint32_t generation
    cdef bint closed
    cdef object span  # a Span while open; then None, or a weak reference where others hold this scope
    cdef SpanContext context
    cdef object labels
    cdef Scope prev
    cdef Scope outer  # the same span's opening before this one, where it was entered again while open
    # What took this scope's place when one under it was closed, and, borrowed, whose place this one took.
    cdef Scope stand_in
    cdef PyObject* origin
    cdef object owner  # a weak reference to the opener's Context

    def __init__(self):
        raise TypeError("scopes are made by use_span(), use_context() and use_labels()")

    def __enter__(self):
        if self.owner is not None or self.closed:
            raise RuntimeError("a scope opens once: call use_span(), use_context() or use_labels() again")
        _open(self)
        if self.kind == SPAN:
            return _held_span(self)
        return self.context if self.kind == CONTEXT else self.labels

    def __exit__(self, kind, exc, traceback):
        _close(self)

    def __dealloc__(self):
        if type(self.span) is Span and (<Span>self.span).scope == <PyObject*>self:
            (<Span>self.span).scope = NULL
        if self.stand_in is not None:
            self.stand_in.origin = NULL
        # Iteratively: a chain of a million scopes must not recurse a million deep.
        cdef Scope scope = self.prev, below
        self.prev = None
        while scope is not None and Py_REFCNT(scope) == 1:
            below = scope.prev
            scope.prev = None
            scope = below
            below = None


cdef inline Scope _make_scope(int kind, object span, SpanContext context, object labels):
    cdef Scope scope = Scope.__new__(Scope)
    scope.kind = kind
    scope.generation = _generation
    scope.span = span
    scope.context = context
    scope.labels = labels
    return scope


cdef inline Scope _held():
    """Return what the running Context holds, as it is."""
    cdef PyObject* value = NULL
    PyContextVar_Get(_current, NULL, &value)
    if value == NULL:
        return None
    cdef object held = <object>value
    # PyContextVar_Get returned a new reference and the assignment took another.
    _decref(value)
    return <Scope>held if type(held) is Scope else None


cdef extern from "Python.h":
    void _decref "Py_DECREF"(PyObject*) noexcept


cdef int _open(Scope scope) except -1:
    cdef Scope prev = _innermost()
    cdef SpanContext base
    scope.prev = prev
    if scope.kind == LABELS:
        base = None if prev is None else _effective(prev)
        if base is not None and base._labels is not None:
            scope.labels = base._labels.merge(scope.labels)
        scope.context = _with_labels(base, scope.labels)
    PyContextVar_Set(_current, scope)
    # After the set: it makes the Context of a thread that had none.
    if prev is not None and _is_here(prev):
        scope.owner = prev.owner
    else:
        scope.owner = PyWeakref_NewRef(<object>tk_running_context(), None)
    return 0


cdef int _close(Scope scope) except -1:
    cdef Scope anchor, held
    if scope.stand_in is not None:
        _close(scope.stand_in)  # one step: it has none of its own
        if _held() is scope:  # inherited before it was replaced
            PyContextVar_Set(_current, _live(scope.prev))
        return 0
    if scope.closed:
        return 0
    scope.closed = True
    held = _held()
    if held is scope:
        held = _live(scope.prev)
        PyContextVar_Set(_current, held)
        if held is not None and held.kind == LABELS:
            _settle(held)
        if _is_here(scope):
            # An ordinary close. Nobody pops this scope again, so a chain of tasks that each start the
            # next one does not grow; labels still need the span or remote context that they stood on.
            scope.owner = None
            anchor = scope.prev if scope.kind == LABELS else None
            while anchor is not None and anchor.kind == LABELS:
                anchor = anchor.prev
            scope.prev = anchor
    elif held is not None and _is_here(scope):
        _rebuild(held, scope)
    elif held is not None and held.closed and held.kind == SPAN and _held_span(held) is scope.span:
        PyContextVar_Set(_current, _live(held.prev))  # inherited before this scope took its place
    _release(scope)
    return 0


cdef inline int _release(Scope scope) except -1:
    if type(scope.span) is Span:
        # Whoever inherited this scope may still ask for the span, but no longer keeps it alive.
        if TK_FREE_THREADED or Py_REFCNT(scope) > 1:
            scope.span = PyWeakref_NewRef(scope.span, None)
        else:
            scope.span = None
    return 0


cdef bint _rebuild(Scope top, Scope closed) except -1:
    """Put copies of the scopes from *top* down to *closed*, which go on without it, in the place of the originals.

    Tasks that inherited an original before keep it as it was; those spawned from now on inherit the copy.
    """
    cdef list above = [], copies = []
    cdef Py_ssize_t index
    cdef Scope scope = top, prev, original, copy, root
    while scope is not closed:
        if scope is None or not _is_here(scope):
            return False  # not in this chain: a generator's, whose body is not running
        if not scope.closed:
            above.append(scope)
        scope = scope.prev
    prev = _live(closed.prev)
    for original in reversed(above):
        copy = _make_scope(original.kind, original.span, original.context, original.labels)
        copy.generation = original.generation
        copy.prev = prev
        if copy.kind == LABELS:
            copy.context = _with_labels(None if prev is None else _effective(prev), copy.labels)
        copy.owner = original.owner
        copies.append(copy)
        if original.outer is not None:
            copy.outer = original.outer
            for index in range(len(copies) - 1):
                if above[len(above) - 1 - index] is original.outer:
                    copy.outer = copies[index]
            original.outer = None
        if type(original.span) is Span and (<Span>original.span).scope == <PyObject*>original:
            (<Span>original.span).scope = <PyObject*>copy
            if TK_FREE_THREADED:
                (<Span>original.span).owned_scope = copy
        root = original if original.origin == NULL else <Scope>original.origin
        original.origin = NULL  # it is what stood in for the root until now
        root.stand_in, copy.origin = copy, <PyObject*>root
        original.closed, original.owner = True, None
        _release(original)
        prev = copy
    PyContextVar_Set(_current, prev)
    return True


cdef inline SpanContext _effective(Scope scope):
    """Return the context that is current inside *scope*."""
    cdef SpanContext context = scope.context
    if context is not None and scope.generation != _generation and not context.remote:
        return context.replace(is_remote=True)  # opened before a fork, by the parent
    return context


cdef object _held_span(Scope scope):
    cdef Scope prev
    if scope.generation != _generation:
        return None
    if scope.kind == LABELS:
        prev = _live(scope.prev)
        return None if prev is None else _held_span(prev)
    span = scope.span
    if span is None or type(span) is Span:
        return span
    return tk_referent(<PyObject*>span)


cdef SpanContext _with_labels(SpanContext base, object labels):
    if base is None:
        return _make_context(0, 0, 0, DEFERRED, None, labels or None, False)
    return _make_context(base.high, base.low, base.span, base.bits, base._state, labels or None, base.remote)


cdef inline bint _is_here(Scope scope) noexcept:
    """Tell whether *scope* was opened in the Context that runs now."""
    cdef PyObject* here = tk_running_context()
    return here != NULL and scope.owner is not None and tk_refers_to(<PyObject*>scope.owner, here)


cdef inline Scope _live(Scope scope):
    """Return the innermost of *scope* and those under it that is still open, or that was inherited."""
    while scope is not None and scope.closed and _is_here(scope):
        scope = scope.prev
    return scope


cdef inline Scope _innermost():
    """Return the scope that says what is current here."""
    cdef Scope held = _held()
    return held if held is None or (not held.closed and held.kind != LABELS) else _settle(held)


cdef Scope _settle(Scope held):
    """Put right what was closed from elsewhere, before a task spawned from here inherits it; return the innermost."""
    cdef Scope scope = _live(held), below
    if scope is not held:
        PyContextVar_Set(_current, scope)
    while scope is not None and scope.kind == LABELS:
        below = scope.prev
        while below is not None and below.kind == LABELS and not below.closed:
            below = below.prev
        if below is None or not below.closed or not _is_here(below) or not _rebuild(scope, below):
            break
        scope = _held()
    return scope


def use_scope(int kind, span, SpanContext context, labels):
    """Return a scope, not yet open, for a span (kind 0), a context or nothing (1), or labels (2)."""
    return _make_scope(kind, span, context, labels)


def current_span():
    """Return the span that a new span would have as its parent here, or None where that is none of this process."""
    cdef Scope scope = _innermost()
    return None if scope is None else _held_span(scope)


def current_context():
    """Return what a new span would continue here: ids and labels, local or remote; None where there is neither."""
    cdef Scope scope = _innermost()
    return None if scope is None else _effective(scope)


def swap_scope(Scope scope):
    """Make *scope*, open or None, what the running Context holds, and return what it held."""
    cdef Scope held = _held()
    PyContextVar_Set(_current, scope)
    return held


def adopt_scopes(Scope scope, Scope until):
    """Make the running Context the owner of *scope* and of those under it, down to *until*.

    For a generator, whose body keeps its scopes while its steps move from one task or thread to another.
    """
    cdef PyObject* here = tk_running_context()
    if here == NULL:
        PyContextVar_Set(_current, _held())
        here = tk_running_context()
    while scope is not None and scope is not until:
        if scope.owner is not None and not tk_refers_to(<PyObject*>scope.owner, here):
            scope.owner = PyWeakref_NewRef(<object>here, None)
        scope = scope.prev


# ---------------------------------------------------------------- spans


@cython.final
cdef class Root:
    """The type of ``ROOT``: as ``parent=``, start a new trace that inherits nothing, labels included."""

    def __repr__(self):
        return "tracekit.ROOT"


ROOT = Root()

cdef enum:
    UNSET = 0
    OK = 1
    ERROR = 2
    CANCELLED = 3

cdef str _INTERNAL = _KINDS[0]


@cython.final
@cython.no_gc  # holds plain values, and its scope without owning it; so buffered spans cost the collector nothing
@cython.freelist(128)
cdef class Span:
    """A unit of work being recorded. ``with`` makes it current, and ends it; without ``with``, call ``end()``.

    Every method may be called from any task, thread or callback, before and after the end, and none
    raises for what a value holds; only a wrong type of a name or key is a ``TypeError``. What is written
    after the end, or to a span that is not recorded, is ignored. Bounded by ``Limits``: what is left
    out is counted in ``dropped_attributes``, ``dropped_events`` and ``dropped_links``, what is
    shortened in ``truncated_values``.
    """

    cdef object __weakref__
    cdef readonly SpanContext context
    cdef readonly SpanContext parent
    cdef Tracer tracer
    # The innermost open scope of this span, borrowed: it owns the span while open, and clears this when it goes.
    cdef PyObject* scope
    cdef Scope owned_scope  # the same, owned, where threads without a GIL could see it go
    cdef str _name
    cdef str _kind
    cdef str description
    cdef dict _attributes
    cdef list _events
    cdef list _links
    cdef int64_t start, stop, anchor
    cdef uint32_t generation
    cdef uint8_t _status
    cdef bint recorded, _ended, owns_context
    cdef readonly uint32_t dropped_attributes, dropped_events, dropped_links, truncated_values

    def __init__(self):
        raise TypeError("spans are made by tracekit.span()")

    @property
    def name(self):
        """What the work is called; a low-cardinality text."""
        return self._name

    @property
    def kind(self):
        """Which side of a hand-off between processes the span is, if any."""
        return self._kind

    @property
    def start_ns(self):
        """When the span started, Unix time in nanoseconds; 0 where it is not recorded."""
        return self.start

    @property
    def end_ns(self):
        """When the span ended, Unix time in nanoseconds; None while it is open."""
        return self.stop if self._ended else None

    @property
    def attributes(self):
        """What was recorded about the work; a read-only view."""
        with cython.critical_section(self):
            return _NO_ATTRIBUTES if self._attributes is None else _MappingProxyType(self._attributes)

    @property
    def events(self):
        """What happened during the work, in order."""
        with cython.critical_section(self):
            return () if self._events is None else tuple([_event(name, time_ns, attributes) for name, time_ns, attributes in self._events])

    @property
    def links(self):
        """Which other spans caused the work."""
        with cython.critical_section(self):
            return () if self._links is None else tuple(self._links)

    @property
    def status(self):
        """How the work went."""
        with cython.critical_section(self):
            return _Status(_STATUS_CODES[self._status], self.description or "")

    @property
    def resource(self):
        """What all spans of this process share: service name and so on."""
        return self.tracer.resource

    @property
    def ended(self):
        """Whether the span has ended."""
        return self._ended

    @property
    def is_recording(self):
        """Whether what is written to the span is kept: it is sampled, somebody exports it, and it has not ended."""
        return self.recorded and not self._ended

    @cython.critical_section
    def set_attribute(self, key, value):
        """Record *value* under *key*, in place of an earlier one. See ``_attributes`` for what a value may be."""
        if not isinstance(key, str):
            raise TypeError(f"key must be str, not {type(key).__name__}")
        if self.recorded and not self._ended:
            self._put(key if type(key) is str else str.__str__(key), value)

    @cython.critical_section
    def set_attributes(self, attributes):
        """Record every item of *attributes*."""
        cdef list items = _items(attributes)
        if self.recorded and not self._ended:
            for key, value in items:
                self._put(key, value)

    @cython.critical_section
    def add_event(self, name, attributes=None, *, time_ns=None):
        """Record that something happened, now or at *time_ns* (Unix time)."""
        cdef dict cleaned = None
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if time_ns is not None and not isinstance(time_ns, int):
            raise TypeError(f"time_ns must be int, not {type(time_ns).__name__}")
        items = () if attributes is None else _items(attributes)
        if not self.recorded or self._ended:
            return
        if self._events is None:
            self._events = []
        if PyList_GET_SIZE(self._events) >= self.tracer.max_events:
            self.dropped_events += 1
            return
        if items:
            cleaned = self._clean(items)
        self._events.append((name, self._now() if time_ns is None else time_ns, cleaned))

    @cython.critical_section
    def add_link(self, target, attributes=None):
        """Record that *target* caused this work without being its parent."""
        context, own = _link(target)
        items = _items(attributes) if attributes is not None else own
        if not self.recorded or self._ended:
            return
        if self._links is None:
            self._links = []
        if PyList_GET_SIZE(self._links) >= self.tracer.max_links:
            self.dropped_links += 1
            return
        cleaned = self._clean(items)
        self._links.append(_Link(context, _NO_ATTRIBUTES if cleaned is None else _MappingProxyType(cleaned)))

    @cython.critical_section
    def set_status(self, code, description=""):
        """Say how the work went. "ok" is final, "unset" changes nothing, as in OpenTelemetry."""
        cdef int number = _index(_STATUS_CODES, code, "code")
        if description is None:
            description = ""
        elif not isinstance(description, str):
            raise TypeError(f"description must be str, not {type(description).__name__}")
        if self.recorded and not self._ended and number != UNSET and self._status != OK:
            self._status = number
            self.description = str.__str__(description)[: self.tracer.max_value]

    def record_exception(self, exception, attributes=None):
        """Record *exception* as an event with type, message and stack; the status stays as it is."""
        if not isinstance(exception, BaseException):
            raise TypeError(f"exception must be an exception, not {type(exception).__name__}")
        items = () if attributes is None else _items(attributes)
        if self.recorded and not self._ended:
            self.add_event("exception", {**_exception_attributes(exception), **dict(items)})

    @cython.critical_section
    def update_name(self, name):
        """Give the span another name."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if self.recorded and not self._ended:
            self._name = str.__str__(name)

    def end(self, end_ns=None):
        """End the span, now or at *end_ns* (Unix time), and hand it to the exporter. Only the first call counts."""
        if end_ns is not None and not isinstance(end_ns, int):
            raise TypeError(f"end_ns must be int, not {type(end_ns).__name__}")
        self._end(end_ns)

    @cython.critical_section
    def __enter__(self):
        cdef Scope scope
        if not self.owns_context:
            # An unsampled child shares its parent's context; what is current stays the same.
            scope = _innermost()
            if scope is not None and _effective(scope) is self.context:
                return self
        scope = _make_scope(SPAN, self, self.context, None)
        if self.scope != NULL:  # entered again while open: each opening is closed by its own exit
            scope.outer = <Scope>self.scope
        _open(scope)
        self.scope = <PyObject*>scope
        if TK_FREE_THREADED:
            self.owned_scope = scope
        return self

    def __exit__(self, kind, exc, traceback):
        cdef Scope scope = self._leave()
        if scope is not None:
            _close(scope)
        if exc is not None and self.recorded and not self._ended:
            try:
                _close_with(self, exc)
            except Exception:  # never raise into the program; a status of "error" needs no more than this
                self.set_status("error", type(exc).__name__)
        if not self._ended:
            self._end(None)

    def __dealloc__(self):
        cdef Span ghost
        if self._ended or self.context is None or self.generation != _generation:
            return
        if not self.recorded:
            TK_COUNT(_buffer.ended_count)
            TK_COUNT(_buffer.unsampled_count)
            return
        # Nobody ended it and nobody can any more: what it holds moves to a span that can be exported.
        ghost = Span.__new__(Span)
        ghost.context, ghost.parent, ghost.tracer = self.context, self.parent, self.tracer
        ghost._name, ghost._kind, ghost.description = self._name, self._kind, self.description
        ghost._attributes, ghost._events, ghost._links = self._attributes, self._events, self._links
        ghost.start, ghost.anchor, ghost.generation = self.start, self.anchor, self.generation
        ghost._status, ghost.recorded, ghost.owns_context = self._status, True, True
        ghost.dropped_attributes, ghost.dropped_events = self.dropped_attributes, self.dropped_events
        ghost.dropped_links, ghost.truncated_values = self.dropped_links, self.truncated_values
        ghost.set_status("cancelled", "abandoned: nobody ended the span")
        ghost._end(None)

    def __reduce__(self):
        raise TypeError("a span stays in its process: pickle span.context instead")

    def __repr__(self):
        state = "ended" if self._ended else "open"
        return f"<Span {_clip_name(self._name)} {self.context.trace_id}/{self.context.span_id} {state}>"

    @cython.critical_section
    cdef Scope _leave(self):
        cdef Scope scope
        if self.scope == NULL:
            return None
        scope = <Scope>self.scope
        self.scope = <PyObject*>scope.outer if scope.outer is not None else NULL
        if TK_FREE_THREADED:
            self.owned_scope = scope.outer
        scope.outer = None
        return scope

    @cython.critical_section
    cdef int _end(self, object end_ns) except -1:
        if self._ended:
            return 0
        self._ended = True
        if self.recorded:
            self.stop = self._now() if end_ns is None else _ns(end_ns)
            if self.stop < self.start:
                self.stop = self.start
        if self.generation == _generation:  # else the parent process, which opened it, exports it
            _buffer._add(self)
        return 0

    cdef inline int64_t _now(self) except? -1:
        return tk_monotonic_ns() + self.anchor if _clock is None else _ns(_clock())

    cdef int _put(self, object key, object value) except -1:
        cdef type kind = type(value)
        cdef dict attributes = self._attributes
        if attributes is None:
            attributes = self._attributes = {}
        if len(attributes) >= self.tracer.max_attributes and key not in attributes:
            self.dropped_attributes += 1
            return 0
        if kind is str:
            if PyUnicode_GET_LENGTH(value) > self.tracer.max_value:
                value = value[: self.tracer.max_value]
                self.truncated_values += 1
        elif kind is not int and kind is not bool and kind is not float:
            value, cuts = _clean_value(value, self.tracer.max_value)
            self.truncated_values += <uint32_t>cuts
            if value is _MISSING:
                self.dropped_attributes += 1
                return 0
        PyDict_SetItem(attributes, key, value)
        return 0

    cdef dict _clean(self, items):
        cdef dict cleaned = {}
        for key, value in items:
            plain, cuts = _clean_value(value, self.tracer.max_value)
            self.truncated_values += <uint32_t>cuts
            if plain is _MISSING or len(cleaned) >= self.tracer.max_attributes:
                self.dropped_attributes += 1
            else:
                cleaned[key] = plain
        return cleaned or None


cdef int64_t _ns(object time_ns) except? -1:
    """Return a time as 64 bits hold it; the ends of that range stand for what is beyond them."""
    if time_ns > 0x7FFF_FFFF_FFFF_FFFF:
        return 0x7FFF_FFFF_FFFF_FFFF
    return 0 if time_ns < 0 else <int64_t>time_ns


cdef str _clip_name(str name):
    return ascii(name[:64])


cdef object _event(name, time_ns, attributes):
    return _Event(name, time_ns, _NO_ATTRIBUTES if attributes is None else _MappingProxyType(attributes))


cdef list _items(attributes):
    if type(attributes) is not dict and not isinstance(attributes, _Mapping):
        raise TypeError(f"attributes must be a mapping, not {type(attributes).__name__}")
    cdef list items
    cdef bint is_plain = True
    try:
        items = list(attributes.items())
    except Exception:  # a mapping of the program's own costs its attributes, not the program
        return []
    for key, _ in items:
        if type(key) is not str:
            is_plain = False
            if not isinstance(key, str):
                raise TypeError(f"attributes must have str keys, not {type(key).__name__}")
    return items if is_plain else [(str.__str__(key), value) for key, value in items]


cdef tuple _link(target):
    cdef list items = []
    if isinstance(target, _Link):
        target, attributes = target
        items = _items(attributes)
    if type(target) is Span:
        target = (<Span>target).context
    if type(target) is not SpanContext:
        raise TypeError(f"links must hold a SpanContext, a Span or a Link, not {type(target).__name__}")
    return target, items


cdef int _index(tuple names, name, str parameter) except -1:
    if not isinstance(name, str):
        raise TypeError(f"{parameter} must be str, not {type(name).__name__}")
    if name not in names:
        raise ValueError(f"{parameter} must be one of {', '.join(names)}: {_clip_name(name)}")
    return names.index(name)


# ---------------------------------------------------------------- what configure() decided


@cython.final
cdef class Tracer:
    """What ``configure()`` decided, as ``span()`` reads it.

    ``threshold`` is the 56-bit rejection threshold of consistent probability sampling: a new trace is
    kept where the random 56 bits of its id are not below it; ``state`` is what a kept root then carries
    (``ot=th:…``) or empty. ``sampler``, where there is one, is asked instead.
    """

    cdef readonly bint recording
    cdef readonly uint64_t threshold
    cdef readonly str state
    cdef readonly object sampler
    cdef readonly object limits
    cdef readonly object resource
    cdef Py_ssize_t max_attributes, max_events, max_links, max_value

    def __init__(
        self,
        *,
        bint recording=False,
        uint64_t threshold=0,
        str state not None="",
        sampler=None,
        limits=_Limits(),
        resource=_NO_ATTRIBUTES,
    ):
        self.recording = recording
        self.threshold = threshold
        self.state = state
        self.sampler = sampler
        self.limits = limits
        self.resource = resource
        self.max_attributes = limits.attributes
        self.max_events = limits.events
        self.max_links = limits.links
        self.max_value = limits.value_length


cdef Tracer _tracer = Tracer()
cdef list _retired = []


def set_tracer(Tracer tracer not None):
    """Make *tracer* the one that new spans are made by."""
    global _tracer
    if TK_FREE_THREADED:
        _retired.append(_tracer)  # another thread may be reading the pointer without a reference of its own
    _tracer = tracer


def span(name, *, kind="internal", attributes=None, links=(), parent=None, start_ns=None):
    """Start a span, child of what is current here; ``with`` makes it current and ends it.

    *parent* takes its place in a trace from a ``Span`` or a ``SpanContext`` instead, or from nowhere
    (``tracekit.ROOT``: a new trace, no labels). *start_ns* is Unix time, for work that began earlier.
    """
    cdef Tracer tracer = _tracer
    cdef Span self
    cdef Scope scope
    cdef SpanContext base = None
    cdef bint is_local = False  # whether the parent is a span of this process, sharing the sampling decision
    cdef list items = None
    cdef str state
    cdef int keep
    if type(name) is not str:
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        name = str.__str__(name)
    if kind is not _INTERNAL:
        kind = _KINDS[_index(_KINDS, kind, "kind")]
    if attributes is not None:
        items = _items(attributes)
    if links is not ():
        if not isinstance(links, _Iterable):
            raise TypeError(f"links must be an iterable, not {type(links).__name__}")
        links = tuple(links)
        for target in links:
            _link(target)
    if start_ns is not None and not isinstance(start_ns, int):
        raise TypeError(f"start_ns must be int, not {type(start_ns).__name__}")

    if parent is None:
        scope = _innermost()
        if scope is not None:
            base = _effective(scope)
            is_local = scope.kind == SPAN and scope.generation == _generation
    elif type(parent) is Span:
        base = (<Span>parent).context
        is_local = (<Span>parent).generation == _generation
        if not is_local:
            base = base.replace(is_remote=True)
    elif type(parent) is SpanContext:
        base = <SpanContext>parent
    elif type(parent) is not Root:
        raise TypeError(f"parent must be a Span, a SpanContext or tracekit.ROOT, not {type(parent).__name__}")

    self = Span.__new__(Span)
    self.generation = _generation
    self.owns_context = True
    self.tracer = tracer
    self._name = name
    self._kind = kind
    if base is None or not base._is_valid():
        self.context = _root(tracer, base, name, kind, attributes)
    else:
        self.parent = base
        if base.bits & DEFERRED:
            keep, state = _sample(tracer, base.high, base.low, name, kind, attributes)
            self.context = _make_context(
                base.high,
                base.low,
                _new_span_id(),
                (base.bits & RANDOM) | (SAMPLED if keep else 0),
                _put_first(state, base._state),
                base._labels,
                False,
            )
        elif is_local and tracer.recording and not base.bits & SAMPLED:
            # Not sampled, and inside a span that is not: nobody will ever see this one, so it has no identity.
            self.context = base
            self.owns_context = False
        else:
            self.context = _make_context(
                base.high,
                base.low,
                _new_span_id(),
                base.bits & (SAMPLED | RANDOM),
                base._state,
                base._labels,
                False,
            )
    TK_COUNT(_buffer.started_count)
    if tracer.recording and self.context.bits & SAMPLED:
        self.recorded = True
        self.anchor = _anchor
        self.start = self._now() if start_ns is None else _ns(start_ns)
        if items is not None:
            for key, value in items:
                self._put(key, value)
    if links is not ():
        for target in links:
            self.add_link(target)
    return self


cdef SpanContext _root(Tracer tracer, SpanContext base, name, kind, attributes):
    """Return the context of a new trace's first span, which keeps what *base* has: labels, a decision, a trace id."""
    cdef uint16_t bits = RANDOM
    cdef uint64_t high, low
    cdef str state = None, entry
    cdef object labels = None
    cdef int keep
    if base is not None and (base.high | base.low):
        high, low, bits = base.high, base.low, base.bits & RANDOM
    elif _ids is None:
        high, low = _draw(), _draw()
    else:
        trace_id = _ids.trace_id()
        high, low = <uint64_t>(trace_id >> 64), <uint64_t>(trace_id & 0xFFFF_FFFF_FFFF_FFFF)
    if base is not None:
        state, labels = base._state, base._labels
    if base is not None and not base.bits & DEFERRED:
        bits |= base.bits & SAMPLED
    else:
        keep, entry = _sample(tracer, high, low, name, kind, attributes)
        if keep:
            bits |= SAMPLED
            state = _put_first(entry, state)
    return _make_context(high, low, _new_span_id(), bits, state, labels, False)


cdef str _put_first(str entry, str state):
    return _make_state(state).put_first(entry) if entry and state else entry or state


cdef tuple _KEEP = (1, None)
cdef tuple _DROP = (0, None)


cdef tuple _sample(Tracer tracer, uint64_t high, uint64_t low, name, kind, attributes):
    if not tracer.recording:
        return _DROP
    if tracer.sampler is not None:
        try:
            keep, state = tracer.sampler.sample(_hex(high, low, 32), name, kind, attributes or _NO_ATTRIBUTES)
            return (1, state if state and _count_tracestate(state) > 0 else None) if keep else _DROP
        except Exception:  # a sampler of the user's own must not break the user's request
            return _DROP
    if (low & MASK56) < tracer.threshold:
        return _DROP
    return _KEEP if PyUnicode_GET_LENGTH(tracer.state) == 0 else (1, tracer.state)


# ---------------------------------------------------------------- finished spans


@cython.final
cdef class Buffer:
    """Where finished spans wait for the pipeline's thread: bounded, and counted from start to drain.

    ``wake`` is called, without arguments, when the first span arrives and when it is half full.
    """

    cdef public Py_ssize_t capacity
    cdef public bint is_open
    cdef public object wake
    cdef list _spans
    cdef int64_t started_count, ended_count, dropped_count, unsampled_count

    def __init__(self):
        self.capacity = 16384
        self.is_open = False
        self.wake = None
        self.reset()

    @cython.critical_section
    def reset(self):
        """Forget every span and every count."""
        self._spans = []
        self.started_count = self.ended_count = self.dropped_count = self.unsampled_count = 0

    @property
    def started(self):
        return self.started_count

    @property
    def ended(self):
        return self.ended_count

    @property
    def dropped(self):
        return self.dropped_count

    @property
    def unsampled(self):
        return self.unsampled_count

    def add(self, Span span not None):
        """Count *span*, which has ended, and keep it if it was recorded and there is room."""
        self._add(span)

    @cython.critical_section
    cdef int _add(self, Span span) except -1:
        cdef Py_ssize_t count
        TK_COUNT(self.ended_count)
        if not span.recorded:
            TK_COUNT(self.unsampled_count)
            return 0
        count = PyList_GET_SIZE(self._spans)
        if count >= self.capacity or not self.is_open:
            TK_COUNT(self.dropped_count)
            return 0
        self._spans.append(span)
        if (count == 0 or count == self.capacity >> 1) and self.wake is not None:
            self.wake()
        return 0

    @cython.critical_section
    def drain(self):
        """Take out every span."""
        cdef list spans = self._spans
        self._spans = []
        return spans

    @cython.critical_section
    def counts(self):
        """Return started, ended, dropped, unsampled and waiting, of one moment."""
        return (
            self.started_count,
            self.ended_count,
            self.dropped_count,
            self.unsampled_count,
            PyList_GET_SIZE(self._spans),
        )

    def __len__(self):
        return PyList_GET_SIZE(self._spans)


cdef Buffer _buffer = Buffer()
buffer = _buffer
