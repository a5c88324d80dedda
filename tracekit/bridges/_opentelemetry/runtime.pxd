cimport cython
from cpython.object cimport PyObject

from ..._core.context cimport SpanContext, generation
from ..._core.interpreter cimport DEFERRED, is_a, references
from ..._core.scopes cimport CONTEXT, KEYS_ONLY, LINKED, SPAN, WITH_SPAN, Scope, attach_scope, close_scope, effective
from ..._core.scopes cimport held_span, innermost, keep_view, make_scope
from ..._core.span cimport Span
from .contexts cimport from_otel, relabelled, remote_span
from .spans cimport OtelSpan, face, is_ours

cdef extern from "Python.h":
    PyObject* PyDict_GetItemWithError(object, object) except? NULL
    int PyDict_Contains(object, object) except -1
    Py_ssize_t PyDict_Size(object) except -1
    int PyDict_SetItem(object, object, object) except -1
    PyObject** _PyObject_GetDictPtr(object) noexcept
    Py_ssize_t PyDict_GET_SIZE(PyObject*) noexcept

cdef object _EMPTY, _NO_KEYS, _api_set_baggage
cdef Py_ssize_t _HELD_ONCE


cdef inline object value_of(object context, object key):
    cdef PyObject* value = PyDict_GetItemWithError(context, key)
    return <object>value if value != NULL else None


cdef inline bint has_key(object context, object key) except -1:
    return PyDict_Contains(context, key)


cdef inline Py_ssize_t count_of(object context) except -1:
    return PyDict_Size(context)


cdef inline object put_value(object context, object key, object value):
    PyDict_SetItem(context, key, value)


@cython.final
cdef class Ambient:
    cdef readonly object keys
    cdef object _baggage, _labels, _span, _span_id


@cython.final
cdef class Token:
    cdef Scope _scope


@cython.locals(scope=Scope, token=Token)
cdef Token _attach(object context)


@cython.locals(inner=Scope, below=Scope)
cdef object _drop_lost()
cdef bint _is_attached(Scope scope) noexcept


@cython.locals(scope=Scope)
cdef object _detach(Token token)


@cython.final
cdef class RuntimeContext:
    cdef dict __dict__  # tests of others replace its methods
    cdef public object fallback


@cython.locals(base=SpanContext, made=OtelSpan, span=Span, scope=Scope, ambient=Ambient, count=Py_ssize_t)
cpdef Scope scope_for(object context)
cdef dict _other_keys(object context)


@cython.locals(context=SpanContext)
cdef SpanContext context_of(object given)


@cython.locals(scope=Scope, ambient=Ambient, context=SpanContext)
cdef object _labels(object baggage, SpanContext base)


@cython.locals(ambient=Ambient, context=SpanContext)
cdef object _view(Scope scope)
cdef RuntimeContext _runtime


cdef inline bint is_untouched(RuntimeContext runtime) noexcept:
    cdef PyObject* replaced = _PyObject_GetDictPtr(runtime)[0]
    return replaced == NULL or PyDict_GET_SIZE(replaced) == 0


@cython.locals(scope=Scope)
cdef object _current_view()


@cython.locals(given=dict, baggage=dict)
cpdef object set_baggage(object name, object value, object context=*)
