# One thread at a time in the compiled core where the interpreter runs without the GIL; with the GIL, this is empty.
#
# The core is written for the GIL: no other thread runs between two of its steps, unless it calls the program or waits.
# A critical section (PEP 703) keeps that promise, because its lock is released while the thread waits for anything, so
# there is no deadlock. Each function of the modules below that handles objects runs in one section, which all share.
# Cython marks where these functions begin and end, for its tool "refnanny"; setup.py adds TK_BEGIN and TK_END there.
#
# Without a section: values that never change (contexts, labels), codecs, and objects of one request in integrations
# that resume the program.

cdef extern from *:
    """
    #ifndef TRACEKIT_FREE_THREADING
    #define TRACEKIT_FREE_THREADING
    #if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000 /* before, the plain implementation runs there */
    #define TK_WITHOUT_GIL 1
    #define TK_THREAD_LOCAL _Thread_local
    #define tk_retire(object) Py_INCREF(object)

    static inline PyObject *tk_stable(PyObject *dict) {
        return PyDict_CheckExact(dict) ? PyDict_Copy(dict) : Py_NewRef(dict);
    }

    #if defined(__PYX_HAVE__tracekit___core__buffer) || defined(__PYX_HAVE__tracekit___core__otlp) \\
        || defined(__PYX_HAVE__tracekit___core__scopes) || defined(__PYX_HAVE__tracekit___core__span) \\
        || defined(__PYX_HAVE__tracekit___core__tracer) || defined(__PYX_HAVE__tracekit__debug___recorder) \\
        || defined(__PYX_HAVE__tracekit__integrations___asgi_scope) \\
        || defined(__PYX_HAVE__tracekit__integrations___client) \\
        || defined(__PYX_HAVE__tracekit__integrations___forced) \\
        || defined(__PYX_HAVE__tracekit__integrations___server) \\
        || defined(__PYX_HAVE__tracekit__bridges___opentelemetry__contexts) \\
        || defined(__PYX_HAVE__tracekit__bridges___opentelemetry__propagator) \\
        || defined(__PYX_HAVE__tracekit__bridges___opentelemetry__runtime) \\
        || defined(__PYX_HAVE__tracekit__bridges___opentelemetry__spans) \\
        || defined(__PYX_HAVE__tracekit__bridges___opentelemetry__tracer)
    typedef struct {
        Py_ssize_t depth; /* how many functions of the core this thread is in */
        PyCriticalSection section;
    } tk_thread;

    typedef struct { /* of all extension modules; in the first that is loaded */
        PyObject *lock;
        tk_thread *(*mine)(void);
    } tk_common;

    static tk_thread *tk_make_mine(void) {
        static _Thread_local tk_thread mine;
        return &mine;
    }

    static tk_common *tk_shared;
    static _Thread_local tk_thread *tk_mine;

    static void tk_join(void) {
        static const char name[] = "tracekit.section";
        static tk_common own;
        PyObject *modules = PyInterpreterState_GetDict(PyInterpreterState_Get());
        PyObject *capsule = modules == NULL ? NULL : PyDict_GetItemString(modules, name);
        if (capsule != NULL) tk_shared = PyCapsule_GetPointer(capsule, name);
        else {
            own.lock = PyList_New(0);
            own.mine = tk_make_mine;
            capsule = PyCapsule_New(&own, name, NULL);
            if (
                modules == NULL || own.lock == NULL || capsule == NULL
                || PyDict_SetItemString(modules, name, capsule) < 0
            ) Py_FatalError("tracekit: out of memory");
            Py_DECREF(capsule);
            tk_shared = &own;
        }
    }

    static tk_thread *tk_first(void) { /* at the import of the module, and in a thread that is new to it */
        if (tk_shared == NULL) tk_join();
        return tk_mine = tk_shared->mine();
    }

    static inline void tk_begin(void) {
        tk_thread *mine = tk_mine;
        if (mine == NULL) mine = tk_first();
        if (mine->depth++ == 0) PyCriticalSection_Begin(&mine->section, tk_shared->lock);
    }

    static inline void tk_end(void) {
        if (--tk_mine->depth == 0) PyCriticalSection_End(&tk_mine->section);
    }

    #define TK_BEGIN tk_begin()
    #define TK_END tk_end()
    #define tk_is_inside() (tk_mine != NULL && tk_mine->depth > 0)
    #endif
    #else
    #define TK_WITHOUT_GIL 0
    #define TK_THREAD_LOCAL
    #define tk_retire(object) ((void)(object))
    #define tk_stable(dict) Py_NewRef(dict)
    #endif
    #ifndef TK_BEGIN
    #define TK_BEGIN
    #define TK_END
    #define tk_is_inside() 1
    #endif
    #endif
    """
    const bint TK_WITHOUT_GIL
    void tk_retire(object) noexcept
    object tk_stable(object)
    bint is_guarded "tk_is_inside"() noexcept


cdef inline void retire(object replaced) noexcept:
    """Keep *replaced*, a setting, for good: a thread may be about to take a reference to it."""
    if replaced is not None:
        tk_retire(replaced)


cdef inline object stable(object items):
    """Return a dict that no other thread changes, with the items of *items*, if that is a dict of the program's."""
    return tk_stable(items) if TK_WITHOUT_GIL else items
