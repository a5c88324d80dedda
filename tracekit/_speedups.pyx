# cython: language_level=3, always_allow_keywords=True
"""Compiled codecs: the names of ``_core/codecs_plain.py``, in C. The docstrings are there.

They know text, octets and numbers only, no span and no context. Comments name the condition on which a path relies:
a bound before the index, the GIL around a list or a counter.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_SetItem
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memmove

import os as _os

from ._core.free_threading cimport stable
cimport tracekit._core.pending

from ._core.attributes import int_text as _int_text

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object) noexcept
    int PyUnicode_KIND(object) noexcept
    void* PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    Py_UCS4 PyUnicode_READ(int kind, void* data, Py_ssize_t at) noexcept
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)
    void* PyMem_Realloc(void* block, size_t size)
    void PyMem_Free(void* block)

cdef extern from *:
    """
    #ifndef TRACEKIT_TRAINED
        #define TRACEKIT_TRAINED 0
    #endif
    """
    bint TRACEKIT_TRAINED

_IS_TRAINED = TRACEKIT_TRAINED  # by bench/training.py; see setup.py

include "_speedups_codecs.pxi"
include "_speedups_carriers.pxi"
include "_speedups_ids.pxi"
include "_speedups_items.pxi"
include "_speedups_octets.pxi"
