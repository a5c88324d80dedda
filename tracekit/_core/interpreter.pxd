# The C form of interpreter.py, inlined where it is used. A borrowed pointer does not keep its object alive.

from cpython.object cimport PyObject, PyObject_TypeCheck, PyTypeObject
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cimport tracekit._core.pending

cdef extern from *:
    """
    #ifndef TRACEKIT_INTERPRETER
    #define TRACEKIT_INTERPRETER
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
    #define Py_BUILD_CORE 1
    #undef _PyGC_FINALIZED
    #include "internal/pycore_frame.h"
    #undef Py_BUILD_CORE
    #endif

    /* The running Context of another thread, a new reference, or None. The GIL keeps it from changing, and threads that
       Python knows from ending; a thread that is added meanwhile is added before the one that is looked at. */
    static PyObject *tk_thread_context(unsigned long ident) {
    #ifdef Py_GIL_DISABLED
        (void)ident;
    #else
        PyThreadState *thread = PyInterpreterState_ThreadHead(PyThreadState_Get()->interp);
        for (; thread != NULL; thread = PyThreadState_Next(thread)) {
            if (thread->thread_id == ident) {
                PyObject *context = thread->context;
                return Py_NewRef(context != NULL ? context : Py_None);
            }
        }
    #endif
        return Py_NewRef(Py_None);
    }

    #if PY_VERSION_HEX < 0x030D0000
    #define tk_is_finalizing _Py_IsFinalizing
    #else
    #define tk_is_finalizing Py_IsFinalizing
    #endif

    static inline int tk_refers_to(PyObject *ref, PyObject *target) { /* *target* is alive */
    #if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
        return _Py_atomic_load_ptr_relaxed(&((PyWeakReference *)ref)->wr_object) == target;
    #elif PY_VERSION_HEX >= 0x030D0000
        PyObject *got = NULL;
        if (PyWeakref_GetRef(ref, &got) < 0) { PyErr_Clear(); return 0; }
        Py_XDECREF(got);
        return got != NULL && got == target;
    #else
        return PyWeakref_GetObject(ref) == target;
    #endif
    }

    #ifdef Py_GIL_DISABLED
    #define tk_here() PyWeakref_NewRef(tk_running_context(), NULL)  /* which returns the one that there is */
    #else
    static PyObject *tk_last_here;  /* the weak reference that tk_here() made last */

    static inline PyObject *tk_here(void) {  /* new reference */
        PyObject *context = tk_running_context(), *ref = tk_last_here;
        if (ref == NULL || !tk_refers_to(ref, context)) {
            ref = PyWeakref_NewRef(context, NULL);
            if (ref == NULL) return NULL;
            Py_XSETREF(tk_last_here, Py_NewRef(ref));
            return ref;
        }
        return Py_NewRef(ref);
    }
    #endif

    /* Borrowed pointers. An object without references is being deallocated: callbacks of its weak references run before
       it is forgotten here. Without the GIL another thread may be deallocating it. */
    #if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000
    #define tk_lend(object) PyUnstable_EnableTryIncRef(object)
    #define tk_take(borrowed) PyUnstable_TryIncRef(borrowed)
    #else
    #define tk_lend(object) ((void)(object))
    #define tk_take(borrowed) (Py_REFCNT(borrowed) > 0 ? (Py_INCREF(borrowed), 1) : 0)
    #endif
    static inline PyObject *tk_borrow(PyObject *object) {
        if (object == Py_None) return NULL;
        tk_lend(object);
        return object;
    }
    static inline PyObject *tk_lent(PyObject *borrowed) {  /* new reference, or None */
        return borrowed != NULL && tk_take(borrowed) ? borrowed : Py_NewRef(Py_None);
    }

    /* Tell whether *code*, a generator's, has exception handlers, of which the compiler itself makes one from 3.12 on.
       The first byte of each entry of the table has its highest bit set (CPython's exception_handling_notes). */
    static inline int tk_has_handlers(PyCodeObject *code) {
        const char *table = PyBytes_AS_STRING(code->co_exceptiontable);
        Py_ssize_t i, size = PyBytes_GET_SIZE(code->co_exceptiontable), entries = 0;
        for (i = 0; i < size; i++) entries += (table[i] & 0x80) != 0;
        return entries > (PY_VERSION_HEX >= 0x030C0000);
    }

    /* A weak reference to the generator whose body runs here, or None. Looking at the flags of the code makes no frame
       object, which would cost half a span.

       CPython clears the weak references to a generator before it closes one that it deallocates, and not again after:
       one made by the body then would refer to freed memory. So there is none where the generator has a single
       reference, as it has then, unless its code has no handler, so that nothing of it runs then. */
    static inline PyObject *tk_running_body(void) {
        PyThreadState *thread = PyThreadState_Get();
    #if PY_VERSION_HEX < 0x030D0000
        struct _PyInterpreterFrame *frame = thread->cframe->current_frame;
    #else
        struct _PyInterpreterFrame *frame = thread->current_frame;
    #endif
        PyObject *generator = NULL, *ref;
        PyFrameObject *object;
        int flags = 0, is_safe = 0;
        if (frame != NULL) {
    #if PY_VERSION_HEX < 0x030C0000
            flags = frame->f_code->co_flags;
    #else
            PyObject *code = PyUnstable_InterpreterFrame_GetCode(frame);
            if (PyCode_Check(code)) flags = ((PyCodeObject *)code)->co_flags;
            Py_DECREF(code);
    #endif
        }
        if (!(flags & (CO_GENERATOR | CO_ASYNC_GENERATOR))) return Py_NewRef(Py_None);
        object = PyThreadState_GetFrame(thread);
        if (object != NULL) {
            PyCodeObject *code = PyFrame_GetCode(object);
            is_safe = !tk_has_handlers(code);
            Py_DECREF(code);
            generator = PyFrame_GetGenerator(object);
            Py_DECREF(object);
        }
        if (generator == NULL) return Py_NewRef(Py_None);
        ref = is_safe || Py_REFCNT(generator) > 2 ? PyWeakref_NewRef(generator, NULL) : Py_NewRef(Py_None);
        Py_DECREF(generator);
        return ref;
    }

    static inline PyObject *tk_referent(PyObject *ref) {  /* new reference, or None */
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *got = NULL;
        if (PyWeakref_GetRef(ref, &got) < 0) PyErr_Clear();
        return got ? got : Py_NewRef(Py_None);
    #else
        PyObject *got = PyWeakref_GetObject(ref);
        if (got == NULL) PyErr_Clear();
        return Py_NewRef(got ? got : Py_None);
    #endif
    }

    /* An object made without the function that fills its fields would crash. */
    static PyObject *tk_no_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)args; (void)kwargs;
        return PyErr_Format(
            PyExc_TypeError, "%s objects are made by span(), use_span(), use_context() and use_labels()", type->tp_name
        );
    }
    static inline void tk_publish(PyObject *kind, const char *name) { ((PyTypeObject *)kind)->tp_name = name; }
    static inline void tk_forbid_new(PyObject *kind) { ((PyTypeObject *)kind)->tp_new = tk_no_new; }
    #endif
    """
    int64_t tk_monotonic_ns() noexcept
    PyObject* tk_running_context() noexcept
    object tk_thread_context(unsigned long)
    bint tk_is_finalizing() noexcept
    bint tk_refers_to(PyObject*, PyObject*) noexcept
    object tk_here()
    object tk_running_body()
    object tk_referent(PyObject*)
    PyObject* tk_borrow(object) noexcept
    object tk_lent(PyObject*)
    void tk_publish(object, const char*) noexcept
    void tk_forbid_new(object) noexcept

cdef extern from "Python.h":
    object PyWeakref_NewRef(object target, object callback)
    Py_ssize_t Py_REFCNT(object) noexcept

cdef enum:
    SAMPLED = 0x01
    RANDOM = 0x02
    DEFERRED = 0x100
    SUPPRESSED = 0x200


cdef inline int64_t monotonic_ns() noexcept:
    return tk_monotonic_ns()


cdef inline bint is_finalizing() noexcept:
    return tk_is_finalizing()


cdef inline object here():
    return tk_here()


cdef inline bint is_here(object owner) noexcept:
    cdef PyObject* context = tk_running_context()
    return context != NULL and owner is not None and tk_refers_to(<PyObject*>owner, context)


cdef inline object running_body():
    return tk_running_body()


cdef inline bint is_gone(object owner) noexcept:
    return owner is not None and tk_referent(<PyObject*>owner) is None


cdef inline object weak(object target):
    return PyWeakref_NewRef(target, None)


cdef inline object referent(object ref):
    return tk_referent(<PyObject*>ref)


cdef inline PyObject* borrow(object target) noexcept:
    return tk_borrow(target)


cdef inline object lent(PyObject* borrowed):
    return tk_lent(borrowed)


cdef inline bint is_lent(PyObject* borrowed, object target) noexcept:
    return borrowed == <PyObject*>target


cdef inline object running_context(unsigned long ident):
    return tk_thread_context(ident)


cdef inline Py_ssize_t references(object target) noexcept:
    return Py_REFCNT(target)


cdef inline void forbid_new(object kind) noexcept:
    tk_forbid_new(kind)


cdef inline void publish(object kind, const char* name) noexcept:
    tk_publish(kind, name)


cdef inline bint is_a(object value, object kind) noexcept:
    return PyObject_TypeCheck(value, <PyTypeObject*>kind)
