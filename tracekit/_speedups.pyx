# cython: language_level=3, always_allow_keywords=True
"""The compiled twin: the same names in the same order as ``_core/span.py``, which says how it works.

What is particular here: ids are three ``uint64``; ``SpanContext``, ``Scope`` and ``Span`` come from
freelists; a scope's owner is a weak reference to the ``contextvars.Context`` it was opened in, whose
identity a bare address would not prove. A C function runs undivided under the GIL, which every
counter and list here relies on; a free-threaded interpreter turns its GIL on to load this module, as
it does for any that does not say otherwise.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_SetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

import os as _os
import time as _time
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from contextvars import ContextVar as _ContextVar
from types import MappingProxyType as _MappingProxyType

from ._core.attributes import (
    CANCELLED_KEY as _CANCELLED_KEY,
    MISSING as _MISSING,
    clean as _clean_value,
    int_text as _int_text,
)
from ._core.errors import FormatError as _FormatError, bad_b3 as _bad_b3, bad_traceparent as _bad_traceparent
from ._core.outcome import close_with as _close_with, exception_attributes as _exception_attributes
from ._core.records import (
    DEFAULT_LIMITS as _DEFAULT_LIMITS,
    KINDS as _KINDS,
    NO_ATTRIBUTES as _NO_ATTRIBUTES,
    STATUS_CODES as _STATUS_CODES,
    Event as _Event,
    Link as _Link,
    Status as _Status,
)
from ._version import __version__ as _VERSION

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

    static inline PyObject *tk_running_context(void) {
        return PyThreadState_Get()->context;  /* borrowed; NULL before a thread's first ContextVar */
    }

    #if PY_VERSION_HEX < 0x030C0000
    /* CPython 3.11 may collect garbage inside PyContextVar_Set(), and what a finalizer sets then is freed under its
       feet (later versions collect between bytecodes only). */
    #define Py_BUILD_CORE 1
    #undef _PyGC_FINALIZED
    #include "internal/pycore_interp.h"
    #undef Py_BUILD_CORE
    static inline int tk_is_collecting(void) { return PyThreadState_Get()->interp->gc.collecting; }
    static inline PyObject *tk_set_current(PyObject *var, PyObject *value) {
        struct _gc_runtime_state *gc = &PyThreadState_Get()->interp->gc;
        int enabled = gc->enabled;
        PyObject *token;
        gc->enabled = 0;
        token = PyContextVar_Set(var, value);
        gc->enabled = enabled;
        return token;
    }
    #else
    #define tk_is_collecting() 0
    #define tk_set_current PyContextVar_Set
    #endif

    /* An object made without the function that fills its fields would crash. */
    static PyObject *tk_no_span(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "spans are made by tracekit.span()");
        return NULL;
    }
    static PyObject *tk_no_scope(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "scopes are made by use_span(), use_context() and use_labels()");
        return NULL;
    }
    static void tk_forbid_new(PyObject *span, PyObject *scope) {
        ((PyTypeObject *)span)->tp_new = tk_no_span;
        ((PyTypeObject *)scope)->tp_new = tk_no_scope;
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
    int64_t tk_monotonic_ns() noexcept
    PyObject* tk_running_context() noexcept
    bint tk_refers_to(PyObject*, PyObject*) noexcept
    object tk_referent(PyObject*)
    bint tk_is_collecting() noexcept
    object tk_set_current(object var, object value)
    void tk_forbid_new(object span, object scope) noexcept

cdef extern from "Python.h":
    int PyContextVar_Get(object var, PyObject* default, PyObject** value) except -1
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
    "Body",
    "Buffer",
    "Root",
    "Scope",
    "Sieve",
    "Span",
    "SpanContext",
    "Tracer",
    "after_fork",
    "buffer",
    "check_baggage",
    "check_clock",
    "count_tracestate",
    "current_context",
    "current_scope",
    "current_span",
    "decode_binary",
    "decode_tags",
    "encode_binary",
    "encode_spans",
    "encode_tags",
    "escape_label",
    "extract",
    "format_b3",
    "format_baggage",
    "format_traceparent",
    "ids_of",
    "inject",
    "is_label_key",
    "is_state_key",
    "is_state_value",
    "join_baggage",
    "linked_context",
    "make_context",
    "make_members",
    "make_remote",
    "parse_b3",
    "parse_baggage",
    "parse_decimal",
    "parse_hex",
    "parse_traceparent",
    "put",
    "read_b3",
    "read_tracecontext",
    "read_w3c",
    "restore_span",
    "retrace",
    "set_clock",
    "set_formats",
    "set_ids",
    "set_observer",
    "set_tracer",
    "set_values",
    "span",
    "swap_scope",
    "unescape_label",
    "use_scope",
    "view_members",
    "write_b3",
    "write_tracecontext",
    "write_w3c",
]

IMPLEMENTATION = "compiled"

cdef enum:
    SAMPLED = 0x01
    RANDOM = 0x02
    DEFERRED = 0x100  # above the eight wire bits: nobody has decided yet

cdef uint64_t MASK56 = (<uint64_t>1 << 56) - 1

include "_speedups_codecs.pxi"
include "_speedups_carriers.pxi"
include "_speedups_context.pxi"
include "_speedups_scopes.pxi"


@cython.final
cdef class Root:
    """The type of ``ROOT``: as ``parent=``, start a new trace that inherits nothing, labels included."""

    def __repr__(self):
        return "tracekit.ROOT"


ROOT = Root()

cdef enum:  # places in STATUS_CODES
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
    # The innermost open scope of this span, or NULL. Borrowed: an open scope owns its span, and what closes, replaces
    # or deallocates it sets this to another that is open. A closed one must never stand here.
    cdef PyObject* scope
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
        return _NO_ATTRIBUTES if self._attributes is None else _MappingProxyType(self._attributes)

    @property
    def events(self):
        """What happened during the work, in order."""
        if self._events is None:
            return ()
        return tuple([_event(name, time_ns, attributes) for name, time_ns, attributes in self._events])

    @property
    def links(self):
        """Which other spans caused the work."""
        return () if self._links is None else tuple(self._links)

    @property
    def status(self):
        """How the work went."""
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

    def set_attribute(self, key, value):
        """Record *value* under *key*, in place of an earlier one. See ``_attributes`` for what a value may be."""
        if not isinstance(key, str):
            raise TypeError(f"key must be str, not {type(key).__name__}")
        if self.recorded and not self._ended:
            self._put(key if type(key) is str else str.__str__(key), value)
        else:
            self._late("set_attribute")

    def set_attributes(self, attributes):
        """Record every item of *attributes*."""
        items = _items(attributes)
        if self.recorded and not self._ended:
            self._put_all(items)
        else:
            self._late("set_attributes")

    def add_event(self, name, attributes=None, *, time_ns=None):
        """Record that something happened, now or at *time_ns* (Unix time)."""
        cdef dict cleaned = None
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if time_ns is not None and not isinstance(time_ns, int):
            raise TypeError(f"time_ns must be int, not {type(time_ns).__name__}")
        items = () if attributes is None else _items(attributes)
        if not self.recorded or self._ended:
            self._late("add_event")
            return
        if self._events is None:
            self._events = []
        if PyList_GET_SIZE(self._events) >= self.tracer.max_events:
            self.dropped_events += 1
            return
        if items:
            cleaned = self._clean(items)
        self._events.append((str.__str__(name), self._now() if time_ns is None else _ns(time_ns), cleaned))

    def add_link(self, target, attributes=None):
        """Record that *target* caused this work without being its parent."""
        context, own = _link(target)
        items = _items(attributes) if attributes is not None else own
        if not self.recorded or self._ended:
            self._late("add_link")
            return
        if self._links is None:
            self._links = []
        if PyList_GET_SIZE(self._links) >= self.tracer.max_links:
            self.dropped_links += 1
            return
        cleaned = self._clean(items)
        self._links.append(_Link(context, _NO_ATTRIBUTES if cleaned is None else _MappingProxyType(cleaned)))

    def set_status(self, code, description=""):
        """Say how the work went. "ok" is final, "unset" changes nothing, as in OpenTelemetry."""
        cdef int number = _index(_STATUS_CODES, code, "code")
        if description is None:
            description = ""
        elif not isinstance(description, str):
            raise TypeError(f"description must be str, not {type(description).__name__}")
        if not self.recorded or self._ended:
            self._late("set_status")
        elif number != UNSET and self._status != OK:
            self._status = number
            self.description = str.__str__(description)[: self.tracer.max_value]

    def record_exception(self, exception, attributes=None):
        """Record *exception* as an event with type, message and stack; the status stays as it is."""
        if not isinstance(exception, BaseException):
            raise TypeError(f"exception must be an exception, not {type(exception).__name__}")
        items = () if attributes is None else _items(attributes)
        if self.recorded and not self._ended:
            recorded = _exception_attributes(exception, self.context.trace_id)
            self.add_event("exception", {**recorded, **dict(items)})
        else:
            self._late("record_exception")

    def update_name(self, name):
        """Give the span another name."""
        if not isinstance(name, str):
            raise TypeError(f"name must be str, not {type(name).__name__}")
        if self.recorded and not self._ended:
            self._name = str.__str__(name)
        else:
            self._late("update_name")

    def end(self, end_ns=None):
        """End the span, now or at *end_ns* (Unix time), and hand it to the exporter. Only the first call counts."""
        if end_ns is not None and not isinstance(end_ns, int):
            raise TypeError(f"end_ns must be int, not {type(end_ns).__name__}")
        if self._ended:
            self._late("end")
        self._end(end_ns)

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
            _buffer.ended_count += 1
            _buffer.unsampled_count += 1
            return
        # Nobody ended it and nobody can any more: what it holds moves to a span that can be exported. That has
        # ended from the start: whatever fails here while the interpreter goes down, it leaves no ghost of its own.
        ghost = Span.__new__(Span)
        ghost._ended = ghost.recorded = ghost.owns_context = True
        ghost.context, ghost.parent, ghost.tracer = self.context, self.parent, self.tracer
        ghost._name, ghost._kind, ghost.description = self._name, self._kind, self.description
        ghost._attributes, ghost._events, ghost._links = self._attributes, self._events, self._links
        ghost.anchor, ghost.generation, ghost._status = self.anchor, self.generation, self._status
        ghost.start = ghost.stop = self.start
        ghost.dropped_attributes, ghost.dropped_events = self.dropped_attributes, self.dropped_events
        ghost.dropped_links, ghost.truncated_values = self.dropped_links, self.truncated_values
        if ghost._status == UNSET:
            ghost._status, ghost.description = CANCELLED, "abandoned: nobody ended the span"
        try:
            ghost.stop = max(ghost._now(), ghost.start)
        except Exception:  # a clock of somebody's own
            pass
        _buffer._add(ghost)
        if _observer is not None:
            _observer.ended(ghost)

    def __reduce__(self):
        raise TypeError("a span stays in its process: pickle span.context instead")

    def __repr__(self):
        state = "ended" if self._ended else "open"
        return f"<Span {_clip_name(self._name)} {self.context.trace_id}/{self.context.span_id} {state}>"

    cdef Scope _leave(self):
        cdef Scope scope
        if self.scope == NULL:
            return None
        scope = <Scope>self.scope
        self.scope = _newest_open(scope.outer)
        scope.outer = None
        return scope

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
            if _observer is not None:
                _observer.ended(self)
        return 0

    cdef inline int _late(self, str method) except -1:
        if self._ended and _observer is not None:
            _observer.late(self, method)
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

    cdef int _put_all(self, object items) except -1:
        if type(items) is dict:
            try:
                for key, value in (<dict>items).items():
                    self._put(key, value)
            except RuntimeError:  # a value of the program's own changed the dict on the way
                pass
        else:
            for key, value in <list>items:
                self._put(key, value)
        return 0

    cdef dict _clean(self, items):
        cdef dict cleaned = {}
        for key, value in list(items.items()) if type(items) is dict else items:
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


cdef object _items(attributes):
    """Return the pairs of a mapping with str keys as a list, or the mapping itself if it is a dict with plain ones."""
    cdef list items
    cdef bint is_plain = True
    cdef PyObject* key
    cdef Py_ssize_t position = 0
    if type(attributes) is dict:
        while PyDict_Next(attributes, &position, &key, NULL):
            if type(<object>key) is not str:
                is_plain = False
        if is_plain:
            return attributes
    elif not isinstance(attributes, _Mapping):
        raise TypeError(f"attributes must be a mapping, not {type(attributes).__name__}")
    try:
        items = list(attributes.items())
    except Exception:  # a mapping of the program's own costs its attributes, not the program
        return []
    for name, _ in items:
        if not isinstance(name, str):
            raise TypeError(f"attributes must have str keys, not {type(name).__name__}")
    return [(str.__str__(name), value) for name, value in items]


cdef tuple _link(target):
    cdef object items = []
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
        limits=_DEFAULT_LIMITS,
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
cdef object _observer = None


def set_tracer(Tracer tracer not None):
    """Make *tracer* the one that new spans are made by."""
    global _tracer
    _tracer = tracer


def set_observer(observer):
    """Have *observer* told of every start, every end, and every call that comes after the end; None: nobody."""
    global _observer
    _observer = observer


def span(name, *, kind="internal", attributes=None, links=(), parent=None, start_ns=None):
    """Start a span, child of what is current here; ``with`` makes it current and ends it.

    *parent* takes its place in a trace from a ``Span`` or a ``SpanContext`` instead, or from nowhere
    (``tracekit.ROOT``: a new trace, no labels). *start_ns* is Unix time, for work that began earlier.
    """
    cdef Tracer tracer = _tracer
    cdef Span self
    cdef Scope scope = None
    cdef SpanContext base = None, linked = None
    cdef bint is_local = False  # whether the parent is a span of this process, sharing the sampling decision
    cdef object items = None
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
        if parent is None and scope is not None:
            linked = _linked_context(scope)
    else:
        self.parent = base
        if base.bits & DEFERRED:
            keep, state = _sample(tracer, base.low, base._state, name, kind, attributes)
            self.context = _make_context(
                base.high,
                base.low,
                _new_span_id(),
                (base.bits & RANDOM) | (SAMPLED if keep else 0 if tracer.recording else DEFERRED),
                state,
                base._labels,
                False,
                base._extra,
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
                base._extra,
            )
    _buffer.started_count += 1
    if tracer.recording and self.context.bits & SAMPLED:
        self.recorded = True
        self.anchor = _anchor
        self.start = self._now() if start_ns is None else _ns(start_ns)
        if items is not None:
            self._put_all(items)
    if linked is not None:
        self.add_link(linked)
    if links is not ():
        for target in links:
            self.add_link(target)
    if _observer is not None:
        _observer.started(self, parent)
    return self


def restore_span(
    SpanContext context not None,
    SpanContext parent,
    str name not None,
    str kind not None,
    int64_t start_ns,
    int64_t end_ns,
    dict attributes,
    list events,
    list links,
    status,
    tuple dropped not None,
):
    """Return the span that another process recorded with these values, and hand it to the exporter.

    *dropped* counts attributes, events and links that were left out, and values that were shortened.
    """
    cdef Span self = Span.__new__(Span)
    code, description = status
    self._status = _index(_STATUS_CODES, code, "status")
    self.description = description
    self.dropped_attributes, self.dropped_events, self.dropped_links, self.truncated_values = dropped
    self._kind = _KINDS[_index(_KINDS, kind, "kind")]
    self.parent, self.tracer, self._name = parent, _tracer, name
    self._attributes, self._events, self._links = attributes, events, links
    self.start, self.stop, self.generation = start_ns, end_ns, _generation
    self.recorded = self._ended = self.owns_context = True
    self.context = context
    _buffer.started_count += 1
    _buffer._add(self)
    if _observer is not None:
        _observer.started(self, parent)
        _observer.ended(self)
    return self


def retrace(Span span not None, SpanContext context not None):
    """Give *span*, which has ended, another context with the same ids: one whose tracestate says more."""
    cdef SpanContext own = span.context
    if not span._ended:
        raise ValueError("span must have ended")
    if own.high != context.high or own.low != context.low or own.span != context.span:
        raise ValueError("context must have the span's ids")
    span.context = context


cdef object _read = None  # W3C's, called without a detour
cdef object _write = None
cdef Sieve _sieve = None


def set_formats(Sieve sieve=None, read=None, write=None):
    """Have ``extract()`` call *read*, and ``inject()`` call *write*; without arguments, W3C's.

    *read* gets what *sieve* finds in the carrier, or, without one, the carrier.
    """
    global _sieve, _read, _write
    _sieve, _read, _write = sieve, read, write


def extract(carrier):
    """Return the context that *carrier* holds in any of the configured formats, or None: a new trace.

    *carrier* is a mapping, or an iterable of ``(name, value)`` pairs, of str or bytes. What is
    malformed counts as absent. The first format with ids wins, labels are added up. A context without
    ids (``is_valid`` False) has labels or a decision only; a span opened under it is a root that keeps them.
    """
    if type(carrier) is not dict and type(carrier) is not list and not hasattr(carrier, "items"):
        if isinstance(carrier, (str, bytes)) or not hasattr(carrier, "__iter__"):
            raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type(carrier).__name__}")
        carrier = list(carrier)  # every format reads it from the start
    if _read is None:
        return _read_w3c(carrier)
    if _sieve is not None:
        carrier = _sieve.sift(carrier)
        if carrier is None:
            return None
    try:
        return _read(carrier)
    except _FormatError:
        return None


def inject(carrier, context=None):
    """Write *context*, or what is current, into *carrier* in every configured format, and return *carrier*.

    *carrier* is a mutable mapping or a list of pairs. Where nothing is current it stays as it is.
    """
    cdef Scope scope
    if context is None:
        scope = _innermost()
        if scope is not None:
            context = _effective(scope)
        if context is None:
            return carrier
    elif type(context) is Span:
        context = (<Span>context).context
    elif type(context) is not SpanContext:
        raise TypeError(f"context must be a SpanContext or a Span, not {type(context).__name__}")
    if _write is None:
        _write_w3c(<SpanContext>context, carrier)
    else:
        _write(context, carrier)
    return carrier


cdef SpanContext _root(Tracer tracer, SpanContext base, name, kind, attributes):
    """Return the context of a new trace's first span, which keeps what *base* has: labels, a decision, a trace id."""
    cdef uint16_t bits = RANDOM
    cdef uint64_t high, low
    cdef str state = None
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
        keep, state = _sample(tracer, low, state, name, kind, attributes)
        if keep:
            bits |= SAMPLED
        elif base is not None and (base.high | base.low) and not tracer.recording:
            bits |= DEFERRED  # somebody else's trace, and nothing decides here
    return _make_context(
        high, low, _new_span_id(), bits, state, labels, False, None if base is None else base._extra
    )


cdef tuple _KEEP = (1, None)
cdef tuple _DROP = (0, None)


cdef tuple _sample(Tracer tracer, uint64_t low, str state, name, kind, attributes):
    """Decide about a trace; return whether it is kept, and the tracestate that says so from here on, or None."""
    cdef uint64_t randomness = low & MASK56
    cdef int64_t said
    cdef str entry = None
    cdef bint keep
    if not tracer.recording:
        return _DROP if state is None else (0, state)
    if state is not None:
        said = _make_state(state).sampling()[1]
        if said >= 0:
            randomness = <uint64_t>said
    if tracer.sampler is None:
        keep = randomness >= tracer.threshold
        if keep and PyUnicode_GET_LENGTH(tracer.state):
            entry = tracer.state
    else:
        try:
            answer, entry = tracer.sampler.sample(randomness, name, kind, attributes or _NO_ATTRIBUTES)
            keep = bool(answer)
            if not keep or not entry or _count_tracestate(entry) <= 0:
                entry = None
        except Exception:  # a sampler of the user's own must not break the user's request
            keep, entry = False, None
    if state is not None:
        return keep, _make_state(state).decided(entry or "") or None
    return (keep, entry) if entry is not None else _KEEP if keep else _DROP


@cython.final
cdef class Buffer:
    """Where finished spans wait for the pipeline's thread: bounded, and counted from start to drain.

    ``wake`` is called, without arguments, when a span arrives while ``is_asleep``, which that ends, and when
    the buffer is half full.
    """

    cdef public Py_ssize_t capacity
    cdef public bint is_open, is_asleep
    cdef public object wake
    cdef list _spans
    cdef int64_t started_count, ended_count, dropped_count, unsampled_count

    def __cinit__(self):
        self.capacity = 16384
        self.is_open = False
        self.wake = None
        self.reset()

    def reset(self):
        """Forget every span and every count."""
        self._spans = []
        self.is_asleep = True
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

    cdef int _add(self, Span span) except -1:
        cdef Py_ssize_t count
        self.ended_count += 1
        if not span.recorded:
            self.unsampled_count += 1
            return 0
        count = PyList_GET_SIZE(self._spans)
        if count >= self.capacity or not self.is_open:
            self.dropped_count += 1
            return 0
        self._spans.append(span)
        if (self.is_asleep or count == self.capacity >> 1) and self.wake is not None:
            self.is_asleep = False
            self.wake()
        return 0

    def lose(self, uint32_t count):
        """Count *count* recorded spans that were lost in another process."""
        self.started_count += count
        self.ended_count += count
        self.dropped_count += count

    def drain(self):
        """Take out every span."""
        cdef list spans = self._spans
        self._spans = []
        return spans

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


include "_speedups_otlp.pxi"


def after_fork():
    """Forget, in the child of a fork, what is the parent's: random words drawn ahead, open spans, buffered spans."""
    global _generation, _pool_left, _steps_left
    _generation += 1
    _pool_left = _steps_left = 0
    buffer.reset()


tk_forbid_new(Span, Scope)
