# The attributes, events and links of a span: arrays of owned references, which the garbage collector neither counts nor
# visits, so that a buffer full of spans triggers no collection. They hold plain values, so they are in no cycle.

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object) noexcept
    bint PyBool_Check(object) noexcept
    PyObject* Py_XNewRef(PyObject*) noexcept
    void Py_XDECREF(PyObject*) noexcept

cdef extern from *:
    """
    /* Tell whether a dict's table is one for keys of type str alone, as CPython makes it until it gets another key. The
       struct is the beginning of the one in internal/pycore_dict.h, from 3.11 on. */
    static inline int tk_is_for_text(PyObject *dict) {
        const struct {
            Py_ssize_t references;
            uint8_t log2_size, log2_index_bytes, kind;
        } *table = (const void *)((PyDictObject *)dict)->ma_keys;
        return table->kind != 0;  /* DICT_KEYS_GENERAL */
    }
    """
    bint tk_is_for_text(dict items) noexcept


cdef enum:
    SEARCHED = 128  # attributes: the default limit

cdef bint _tables_tell = tk_is_for_text({"": 0}) and not tk_is_for_text({"": 0, 0: 0})  # that the struct is right


cdef inline bint _is_same(object one, object other) noexcept:
    """Tell whether two texts of type str are equal."""
    if <PyObject*>one == <PyObject*>other:
        return True
    return (
        PyUnicode_GET_LENGTH(one) == PyUnicode_GET_LENGTH(other)
        and PyUnicode_KIND(one) == PyUnicode_KIND(other)
        and not memcmp(
            PyUnicode_DATA(one), PyUnicode_DATA(other), <size_t>(PyUnicode_GET_LENGTH(one) * PyUnicode_KIND(one))
        )
    )


cdef inline bint _is_plain(PyObject* value, Py_ssize_t max_length) noexcept:
    if PyUnicode_CheckExact(<object>value):
        return PyUnicode_GET_LENGTH(<object>value) <= max_length
    return PyLong_CheckExact(<object>value) or PyFloat_CheckExact(<object>value) or PyBool_Check(<object>value)


cpdef bint has_text_keys(dict items) noexcept:
    """Tell whether all keys are of type str, and none of a subclass."""
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t at = 0
    if items is not None and _tables_tell and tk_is_for_text(items):
        return True
    while PyDict_Next(items, &at, &key, &value):
        if not PyUnicode_CheckExact(<object>key):
            return False
    return True


@cython.final
@cython.no_gc
@cython.freelist(512)
@cython.binding(False)
cdef class Items:
    """The attributes of a span, an event or a link, in the order in which their keys came."""
    # No Python code runs inside: keys are of type str, and replaced values are plain ones.

    def __dealloc__(self):
        self.clear()
        if self.pairs != self.first:
            PyMem_Free(self.pairs)

    cdef void clear(self) noexcept:
        cdef Py_ssize_t at, count = 2 * self.size
        self.size = 0
        self.places = None
        for at in range(count):
            Py_DECREF(<object>self.pairs[at])

    cdef int reserve(self, Py_ssize_t count) except -1:
        """Make room for *count* more, exactly so many at first."""
        cdef Py_ssize_t room
        cdef void* block
        if self.room - self.size >= count:
            return 0
        room = self.size + count + (self.size >> 1)
        if room <= FEW:
            self.pairs, self.room = self.first, FEW
            return 0
        block = PyMem_Realloc(NULL if self.pairs == self.first else self.pairs, 2 * <size_t>room * sizeof(PyObject*))
        if block == NULL:
            raise MemoryError
        if self.pairs == self.first:
            memcpy(block, self.first, sizeof(self.first))
        self.pairs, self.room = <PyObject**>block, room
        return 0

    cdef inline void append(self, PyObject* key, PyObject* value) noexcept:
        cdef PyObject** pair = self.pairs + 2 * self.size
        pair[0], pair[1] = key, value
        Py_INCREF(<object>key)
        Py_INCREF(<object>value)
        self.size += 1

    cdef int make_places(self) except -1:
        cdef dict made
        cdef Py_ssize_t at
        if self.places is None:
            made = {}
            if self.places is None:  # a finalizer may run while a dict is made
                for at in range(self.size):
                    made[<object>self.pairs[2 * at]] = at
                self.places = made
        return 0

    cdef Py_ssize_t find(self, str key) except? -2:
        """Return the place of *key*, or -1. For many keys (under a raised limit) an index replaces the search."""
        cdef Py_ssize_t at
        cdef object place
        if self.size > SEARCHED:
            self.make_places()
        if self.places is not None:
            place = self.places.get(key)
            return -1 if place is None else <Py_ssize_t>place
        for at in range(self.size):
            if _is_same(<object>self.pairs[2 * at], key):
                return at
        return -1

    cdef Py_ssize_t count(self) noexcept:
        return self.size

    cdef bint has(self, str key) except -1:
        return self.find(key) >= 0

    cdef int put(self, str key, object value) except -1:
        cdef Py_ssize_t at = self.find(key)
        cdef PyObject* before
        if at < 0:
            self.reserve(1 if self.size else 4)
            self.append(<PyObject*>key, <PyObject*>value)
            if self.places is not None:
                self.places[key] = self.size - 1
        else:
            before = self.pairs[2 * at + 1]
            self.pairs[2 * at + 1] = <PyObject*>value
            Py_INCREF(value)
            Py_DECREF(<object>before)
        if self.seen is not None:
            self.seen[key] = value
        return 0

    cdef int add(self, str key, object value) except -1:
        """Put *value* under *key*, which is not there yet."""
        self.reserve(1)
        self.append(<PyObject*>key, <PyObject*>value)
        if self.places is not None:
            self.places[key] = self.size - 1
        return 0

    cdef bint fits(self, Py_ssize_t max_count, Py_ssize_t max_length) noexcept:
        """Tell whether none would have to be converted, cut or left out."""
        cdef Py_ssize_t at
        for at in range(self.size):
            if not _is_plain(self.pairs[2 * at + 1], max_length):
                return False
        return self.size <= max_count

    cdef bint fill(self, dict items, Py_ssize_t max_count, Py_ssize_t max_length) except -1:
        """Put all *items* and return True; or put none where one would have to be converted, cut or left out."""
        cdef PyObject* key
        cdef PyObject* value
        cdef Py_ssize_t at = 0
        if self.size and self.size + len(items) > SEARCHED:
            self.make_places()  # before anything of *items* is borrowed, which a finalizer may change
        if self.size + len(items) > max_count:
            return False
        if not self.size and self.seen is None and self.places is None:
            self.reserve(len(items))
            while PyDict_Next(items, &at, &key, &value):
                if not _is_plain(value, max_length):
                    self.clear()
                    return False
                self.append(key, value)
            return True
        while PyDict_Next(items, &at, &key, &value):
            if not _is_plain(value, max_length):
                return False
        at = 0
        while PyDict_Next(items, &at, &key, &value):
            self.put(<str>key, <object>value)
        return True

    cdef dict mapping(self):
        """Return the dict that holds them, always the same; later ones enter it, too."""
        cdef dict made
        cdef Py_ssize_t at
        if self.seen is None:
            made = {}
            if self.seen is None:  # a finalizer may run while a dict is made
                for at in range(self.size):
                    made[<object>self.pairs[2 * at]] = <object>self.pairs[2 * at + 1]
                self.seen = made
        return self.seen

    def __reduce__(self):
        raise TypeError("the attributes of a span are pickled as a dict")


@cython.final
@cython.no_gc
@cython.binding(False)
cdef class Entries:
    """The events of a span (a name, a time, attributes or None), or its links (a context, 0, attributes or None)."""

    def __dealloc__(self):
        cdef Py_ssize_t at
        for at in range(self.size):
            Py_DECREF(<object>self.entries[at].head)
            Py_XDECREF(self.entries[at].items)
        PyMem_Free(self.entries)

    cdef Py_ssize_t count(self) noexcept:
        return self.size

    cdef int append(self, object head, int64_t number, Items items) except -1:
        cdef void* block
        cdef Py_ssize_t room
        if self.size == self.room:
            room = self.size + (self.size >> 1) + 1
            block = PyMem_Realloc(self.entries, <size_t>room * sizeof(Entry))
            if block == NULL:
                raise MemoryError
            self.entries, self.room = <Entry*>block, room
        Py_INCREF(head)
        self.entries[self.size].head = <PyObject*>head
        self.entries[self.size].number = number
        self.entries[self.size].items = NULL if items is None else Py_XNewRef(<PyObject*>items)
        self.size += 1
        return 0

    cdef object head(self, Py_ssize_t at):
        return <object>self.entries[at].head

    cdef int64_t number(self, Py_ssize_t at) noexcept:
        return self.entries[at].number

    cdef Items items(self, Py_ssize_t at):
        return <Items>self.entries[at].items if self.entries[at].items != NULL else None

    def __reduce__(self):
        raise TypeError("the events of a span are pickled as a list")
