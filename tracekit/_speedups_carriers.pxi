# The compiled carriers: find and set the fields of wire formats in headers and metadata.

from cpython.tuple cimport PyTuple_GET_ITEM

cdef enum:
    C_FIELD_CHARS = 65536
    C_VALUE_CHARS = 16448  # above the longest value that any format accepts
    C_NAME_CHARS = 256


cdef struct Budget:
    Py_ssize_t chars  # the remaining characters of text that the walk may take
    int prefixed  # the remaining fields with a prefix that the walk may take


@cython.final
@cython.no_gc  # holds str only
@cython.binding(False)
cdef class Sieve:
    """The *fields* of one or more wire formats, and all fields that begin with one of *prefixes*, in carriers.

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
        """Return the value of each field: None, a text, or a list of several texts.

        With prefixes, the last item is a dict of the fields that begin with one, by lower-case name, or None.
        """
        cdef list found = [None] * (len(self.fields) + (1 if self.prefixes else 0))
        _collect(carrier, self, found)
        return found

    def sift(self, carrier):
        """Return all fields that ``collect()`` finds in a dict, by lower-case name, or None."""
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

        Texts that are None are not set. A list of bytes pairs gets bytes.
        """
        cdef bint as_bytes = _clear(carrier, self, None, texts)
        for name, text in texts.items():
            if text is not None:
                _set(carrier, name, text, as_bytes)

    cdef Py_ssize_t index(self, object key, bint is_mapping, Name* name) noexcept:
        """Return the index of the field named *key*, the number of fields if it has a prefix, or -1; fill *name*."""
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
    """Return whether *name*, in any case, begins with *wanted*, which is lower-case ASCII and not longer."""
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
    """Add the fields in *carrier* to *found*, which has an item for each field and, with prefixes, one more."""
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0, index
    cdef Budget budget
    cdef Name name
    cdef bint is_mapping
    budget.chars, budget.prefixed = C_FIELD_CHARS, C_LABELS
    if type(carrier) is dict:
        # No method of a key or value runs below. But an allocation can start a garbage collection, in which a
        # finalizer may change the dict: PyDict_Next() tolerates that, and key and value are kept alive.
        carrier = stable(carrier)
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
    except RuntimeError:  # a finalizer or another thread has changed the carrier: keep the fields found so far
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
    """Add the texts in *value* to *found*; return whether the budget allows more."""
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
    if size == 0 and not is_prefixed:  # an empty field counts as absent; a label may be empty
        return True
    room[0] -= min(size, <Py_ssize_t>C_VALUE_CHARS)
    if room[0] < 0:
        return False
    if isinstance(text, bytes):
        # Copying a mebibyte would cost more than rejecting it.
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

    Fields of that name in another case are removed, because more than one ``traceparent`` counts as none. A list of
    bytes pairs gets bytes.
    """
    cdef bint as_bytes
    if name is None:
        raise TypeError("name must be str, not NoneType")
    if type(carrier) is dict and len(<dict>carrier) == 0:
        if text is not None:
            PyDict_SetItem(carrier, name, text)
        return
    as_bytes = _clear(carrier, None, name, text)
    if text is not None:
        _set(carrier, name, text, as_bytes)


cdef int _set(carrier, name, text, bint as_bytes) except -1:
    if type(carrier) is dict:
        PyDict_SetItem(carrier, name, text)
    elif isinstance(carrier, list):
        carrier.append((name.encode(), text.encode()) if as_bytes else (name, text))
    else:
        carrier[name] = text
    return 0


cdef bint _clear(carrier, Sieve sieve, str name, texts) except -1:
    """Remove the fields of *sieve*, or the field *name*; return whether *carrier* is a list of bytes pairs.

    A dict keeps the keys whose values will be replaced by *texts*, a dict or the text of *name*.
    """
    cdef PyObject* at
    cdef Py_ssize_t position = 0
    cdef list stale = None
    if type(carrier) is dict:
        names = stable(carrier)
        while PyDict_Next(names, &position, &at, NULL):
            if _is_field(<object>at, sieve, name) and not _is_kept(<object>at, sieve, texts, name):
                held = <object>at  # before an allocation, which can start a garbage collection
                if stale is None:
                    stale = []
                stale.append(held)
    elif isinstance(carrier, list):
        return _clear_list(carrier, sieve, name)
    elif isinstance(carrier, dict):
        stale = [key for key in list(carrier) if _is_field(key, sieve, name) and not _is_kept(key, sieve, texts, name)]
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and in some a new value does not replace the old one.
        stale = [key for key in list(carrier.keys()) if _is_field(key, sieve, name)]
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    if stale is not None:
        for key in stale:
            try:
                del carrier[key]
            except Exception:  # a KeyError, or an error in the key's methods: the key stays
                pass
    return False


cdef bint _clear_list(object pairs, Sieve sieve, str name) except -1:
    # No method of a pair runs, so nothing changes the list during the loop.
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
    """Return whether *key*, in any case, is a field of *sieve* or, if that is None, *name*."""
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
    """Return whether *key* is exactly a name in *texts*, so that its value will be replaced."""
    if texts is None or type(key) is not str:
        return False
    if sieve is not None:
        return (<dict>texts).get(key) is not None
    return memcmp(PyUnicode_DATA(key), PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name)) == 0
