# Mutual exclusion in the compiled core where the interpreter runs without the GIL; with the GIL, this is empty.
#
# The core is written for the GIL: no other thread runs between two of its steps, unless it calls the program or waits.
# So a function runs *alone*: it has the one critical section (PEP 703), whose lock is released while the thread waits
# for anything, so there is no deadlock. The functions in the lists TK_QUICK, those of every span, run *quick* instead,
# beside each other: they touch only objects that their own thread has made, their thread's record, and settings, which
# only change while a thread is alone. They call none of the program's code, and block on nothing that waits for them.
#
# - A quick function sets ``busy`` in its thread's record, then looks at ``alone``, the number of threads that run alone
#   or wait for it. If that is not 0, it clears ``busy`` and takes the section, which keeps the others out.
# - To be alone, a thread raises ``alone``, takes the section, and waits until no other thread is busy. All four steps
#   are sequentially consistent, so one of the two threads sees the other. It does not wait attached to the interpreter
#   for long: a busy thread may itself wait for all threads to stop.
# - A quick function that meets another thread's object, or is about to call the program, calls own() or alone() first,
#   before it has changed anything, and so does each function that is not in the lists: from there on it runs alone.
#
# Every access to another thread's object is therefore alone, after all that its thread has done. Reference counts of
# objects that all threads use are not counted (share()).
#
# Cython marks where functions begin and end, for its tool "refnanny"; setup.py adds TK_BEGIN and TK_END there.
#
# Without any of this: values that never change (contexts, labels), codecs, and objects of one request in integrations
# that resume the program.

from libc.stdint cimport int64_t

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

    #if defined(__PYX_HAVE__tracekit___core__body) || defined(__PYX_HAVE__tracekit___core__buffer) \\
        || defined(__PYX_HAVE__tracekit___core__changes) || defined(__PYX_HAVE__tracekit___core__otlp) \\
        || defined(__PYX_HAVE__tracekit___core__restore) || defined(__PYX_HAVE__tracekit___core__scopes) \\
        || defined(__PYX_HAVE__tracekit___core__span) \\
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
    #include <string.h>
    #ifdef _WIN32
    #include <windows.h>
    #else
    #include <limits.h>
    #include <pthread.h>
    #include <time.h>
    #endif
    /* The compiler compares the names. */
    #define TK_IS(name, other) (strcmp(name, other) == 0)
    #define TK_METHOD(name, other) (TK_IS(name, other) || TK_IS(name, other " (wrapper)"))
    #define TK_LEAF(name) ( \\
        TK_IS(name, "here") || TK_IS(name, "is_gone") || TK_IS(name, "lent") \\
        || TK_IS(name, "referent") || TK_IS(name, "stable") || TK_IS(name, "the_buffer") \\
        || TK_IS(name, "tracer_in_use") || TK_IS(name, "weak") || TK_METHOD(name, "__dealloc__"))
    #if defined(__PYX_HAVE__tracekit___core__span)
    #define TK_QUICK(name) ( \\
        TK_LEAF(name) || TK_METHOD(name, "span") || TK_METHOD(name, "__enter__") || TK_METHOD(name, "__exit__") \\
        || TK_METHOD(name, "end") || TK_METHOD(name, "set_attribute") || TK_IS(name, "_simple") \\
        || TK_IS(name, "_start") || TK_IS(name, "_items") || TK_IS(name, "known_kind") || TK_IS(name, "_put_all") \\
        || TK_IS(name, "_put") || TK_IS(name, "_enter") || TK_IS(name, "_exit") || TK_IS(name, "_leave") \\
        || TK_IS(name, "_end") || TK_IS(name, "_is_quiet") || TK_IS(name, "_ns"))
    #elif defined(__PYX_HAVE__tracekit___core__scopes)
    #define TK_QUICK(name) ( \\
        TK_LEAF(name) || TK_METHOD(name, "current_span") || TK_METHOD(name, "current_context") \\
        || TK_IS(name, "innermost") || TK_IS(name, "_unstick") || TK_IS(name, "_settle") || TK_IS(name, "effective") \\
        || TK_IS(name, "make_scope") || TK_IS(name, "open_scope") || TK_IS(name, "_open_on") \\
        || TK_IS(name, "close_scope") || TK_IS(name, "_closes_quickly") || TK_IS(name, "_release") \\
        || TK_IS(name, "_is_here") || TK_IS(name, "live"))
    #elif defined(__PYX_HAVE__tracekit___core__tracer)
    #define TK_QUICK(name) (TK_LEAF(name) || TK_IS(name, "root") || TK_IS(name, "child"))
    #elif defined(__PYX_HAVE__tracekit___core__buffer)
    #define TK_QUICK(name) (TK_LEAF(name) || TK_METHOD(name, "end"))
    #endif
    #ifndef TK_QUICK
    #define TK_QUICK(name) 0
    #endif

    enum { TK_BUSY, TK_QUEUED, TK_ALONE }; /* quick; quick, in the section; alone, in the section */

    typedef struct tk_thread { /* the record of a thread, used again when that is gone; never freed */
        char apart[64]; /* the lines of the cache with a record are its thread's */
        Py_ssize_t depth; /* how many functions of the core this thread is in */
        int mode, busy, in_use, rounds;
        PyCriticalSection section;
        struct tk_thread *next;
        /* Of the buffer: counts, spans that wait, and how many more this thread may add without being alone. */
        int64_t started, ended, unsampled;
        PyObject *spans;
        Py_ssize_t room;
        /* Of scopes: whether the value that this thread inherited is known, that value, and the last one of another
           thread that was seen here; borrowed, to be compared. */
        int has_inherited;
        PyObject *inherited, *seen;
        char too[64];
    } tk_thread;

    typedef struct { /* of all extension modules; in the first that is loaded */
        PyObject *lock;
        tk_thread *(*mine)(void);
        tk_thread *all;
        char apart[64]; /* a line of the cache that is written only to be alone */
        Py_ssize_t alone;
        char too[64];
    } tk_common;

    static tk_common *tk_shared;
    static _Thread_local tk_thread *tk_mine;

    static inline tk_thread *tk_records(void) { /* to which a new thread may add its own meanwhile, before the others */
        return _Py_atomic_load_ptr(&tk_shared->all);
    }

    #ifdef _WIN32
    static DWORD tk_key;

    static void WINAPI tk_gone(void *record) {
        if (record != NULL) _Py_atomic_store_int_release(&((tk_thread *)record)->in_use, 0);
    }

    static int tk_make_key(void) { return (tk_key = FlsAlloc(tk_gone)) == FLS_OUT_OF_INDEXES; }
    #define tk_set_key(record) FlsSetValue(tk_key, record)
    #define tk_pause() Sleep(0)
    #else
    static pthread_key_t tk_key;

    /* Late, as others that are told of the thread's end may still use Python; ThreadSanitizer has the last round. */
    static void tk_gone(void *record) {
        tk_thread *mine = record;
        if (++mine->rounds < PTHREAD_DESTRUCTOR_ITERATIONS - 1) pthread_setspecific(tk_key, mine);
        else _Py_atomic_store_int_release(&mine->in_use, 0);
    }

    static void tk_after_fork(void) { /* in the child, before any of the program's code: other threads are gone */
        tk_thread *one, *mine = pthread_getspecific(tk_key);
        int is_inside = mine != NULL && mine->depth > 0;
        for (one = tk_records(); one != NULL; one = one->next) {
            if (one == mine) continue;
            one->depth = 0;
            one->busy = one->in_use = 0;
        }
        tk_shared->alone = is_inside && mine->mode == TK_ALONE;
        /* The lock may have been handed over to a thread that waited for it. */
        if (!is_inside || mine->mode == TK_BUSY) memset(&tk_shared->lock->ob_mutex, 0, sizeof(PyMutex));
    }

    static int tk_make_key(void) {
        return pthread_key_create(&tk_key, tk_gone) || pthread_atfork(NULL, NULL, tk_after_fork);
    }
    #define tk_set_key(record) pthread_setspecific(tk_key, record)
    #define tk_pause() nanosleep(&(struct timespec){0, 20000}, NULL)
    #endif

    static tk_thread *tk_make_mine(void) { /* in the first module only */
        static _Thread_local tk_thread *mine;
        if (mine != NULL) return mine;
        for (mine = _Py_atomic_load_ptr(&tk_shared->all); mine != NULL; mine = mine->next) {
            int unused = 0;
            if (_Py_atomic_compare_exchange_int(&mine->in_use, &unused, 1)) break;
        }
        if (mine == NULL) {
            mine = PyMem_RawCalloc(1, sizeof(tk_thread));
            if (mine == NULL) Py_FatalError("tracekit: out of memory");
            mine->in_use = 1;
            mine->next = _Py_atomic_load_ptr(&tk_shared->all);
            while (!_Py_atomic_compare_exchange_ptr(&tk_shared->all, &mine->next, mine)) {}
        }
        mine->rounds = mine->has_inherited = 0;
        mine->seen = NULL;
        tk_set_key(mine);
        return mine;
    }

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
            if (tk_make_key()) Py_FatalError("tracekit: out of keys for threads");
        }
    }

    static tk_thread *tk_first(void) { /* at the import of the module, and in a thread that is new to it */
        if (tk_shared == NULL) tk_join();
        return tk_mine = tk_shared->mine();
    }

    /* CPython hands an object's lock over to a thread that has waited for it for 1 ms, also while it stops the threads
       for a fork. In the child, such a lock has no owner: only those that this thread's sections hold have one. */
    static int tk_unlock(PyObject *object, void *section) {
        uintptr_t at = (uintptr_t)section;
        PyMutex *lock = &object->ob_mutex;
        for (; at != 0 && !(at & 1); at = ((PyCriticalSection *)(at & ~(uintptr_t)3))->_cs_prev) { /* 1: is suspended */
            PyCriticalSection2 *held = (PyCriticalSection2 *)(at & ~(uintptr_t)3);
            if (held->_cs_base._cs_mutex == lock || ((at & 2) && held->_cs_mutex2 == lock)) return 1; /* 2: has two */
        }
        if (lock->_bits) memset(lock, 0, sizeof(PyMutex));
        return 1;
    }

    static inline void tk_unlock_all(void) {
        PyUnstable_GC_VisitObjects(tk_unlock, (void *)PyThreadState_Get()->critical_section);
    }

    static void tk_wait(void) { /* until no thread is busy; those that begin from now on see ``alone`` */
        tk_thread *one = tk_records();
        for (; one != NULL; one = one->next) {
            int looks = 0;
            while (_Py_atomic_load_int(&one->busy)) {
                if (++looks < 1000) continue;
                Py_BEGIN_ALLOW_THREADS
                tk_pause();
                Py_END_ALLOW_THREADS
            }
        }
    }

    static void tk_be_alone(tk_thread *mine) {
        int mode = mine->mode;
        mine->mode = TK_ALONE;
        if (mode == TK_BUSY) _Py_atomic_store_int_release(&mine->busy, 0);
        _Py_atomic_add_ssize(&tk_shared->alone, 1);
        if (mode == TK_BUSY) PyCriticalSection_Begin(&mine->section, tk_shared->lock);
        tk_wait();
    }

    static void tk_queue(tk_thread *mine) {
        int looks;
        _Py_atomic_store_int(&mine->busy, 0);
        for (looks = 0; looks < 1000; looks++) { /* most functions take less than waking a thread */
            if (_Py_atomic_load_ssize(&tk_shared->alone)) continue;
            _Py_atomic_store_int(&mine->busy, 1);
            if (!_Py_atomic_load_ssize(&tk_shared->alone)) return;
            _Py_atomic_store_int(&mine->busy, 0);
        }
        mine->mode = TK_QUEUED;
        PyCriticalSection_Begin(&mine->section, tk_shared->lock);
    }

    static void tk_leave(tk_thread *mine) {
        int mode = mine->mode;
        PyCriticalSection_End(&mine->section);
        if (mode == TK_ALONE) _Py_atomic_add_ssize(&tk_shared->alone, -1);
    }

    static inline void tk_begin(int is_quick) {
        tk_thread *mine = tk_mine;
        if (mine == NULL) mine = tk_first();
        if (mine->depth++ == 0) {
            mine->mode = TK_BUSY;
            if (is_quick) {
                _Py_atomic_store_int(&mine->busy, 1);
                if (_Py_atomic_load_ssize(&tk_shared->alone)) tk_queue(mine);
            }
            else tk_be_alone(mine);
        }
        else if (!is_quick && mine->mode != TK_ALONE) tk_be_alone(mine);
    }

    static inline void tk_end(void) {
        tk_thread *mine = tk_mine;
        if (--mine->depth == 0) {
            if (mine->mode == TK_BUSY) _Py_atomic_store_int_release(&mine->busy, 0);
            else tk_leave(mine);
        }
    }

    static inline void tk_alone(void) {
        if (tk_mine->mode != TK_ALONE) tk_be_alone(tk_mine);
    }

    static inline int tk_is_own(PyObject *object) {
        return _Py_IsOwnedByCurrentThread(object);
    }

    static inline void tk_own(PyObject *object) {
        if (object != Py_None && !tk_is_own(object)) tk_alone();
    }

    static inline void tk_share(PyObject *object) {
    #if PY_VERSION_HEX >= 0x030F0000
        PyUnstable_SetImmortal(object);
    #else
        if (tk_is_own(object)) Py_SET_REFCNT(object, (Py_ssize_t)UINT32_MAX + 1);
    #endif
    }

    /* The value that the thread inherited from its starter: tell whether *value* may be that. */
    static inline int tk_may_inherit(PyObject *value) {
        return !tk_mine->has_inherited || tk_mine->inherited == value;
    }
    static inline void tk_inherited(PyObject *value) {
        tk_mine->has_inherited = 1;
        tk_mine->inherited = value == Py_None ? NULL : value;
    }
    static inline int tk_is_seen_again(PyObject *value) {
        if (tk_mine->seen == value) return 1;
        tk_mine->seen = value;
        return 0;
    }

    /* The buffer's part of the records. All but the first two are called alone. */
    static inline void tk_start_one(void) { tk_mine->started++; }

    static inline int tk_keep(PyObject *span) { /* -1: an exception is set */
        tk_thread *mine = tk_mine;
        if (mine->spans == NULL && (mine->spans = PyList_New(0)) == NULL) return -1;
        if (PyList_Append(mine->spans, span) < 0) return -1;
        mine->ended++;
        return 0;
    }

    static inline int tk_end_one(PyObject *span, int is_recorded, int has_place) { /* 0: not without being alone */
        tk_thread *mine = tk_mine;
        if (!is_recorded) {
            mine->ended++;
            mine->unsampled++;
            return 1;
        }
        if (!has_place || mine->room == 0) return 0;
        mine->room--;
        return tk_keep(span) < 0 ? -1 : 1;
    }

    static inline Py_ssize_t tk_waiting(void) {
        Py_ssize_t count = 0;
        tk_thread *one;
        for (one = tk_records(); one != NULL; one = one->next) {
            if (one->spans != NULL) count += PyList_GET_SIZE(one->spans);
        }
        return count;
    }

    /* Allow this thread to add spans, so that no more than *limit* of them wait. *afresh*, and where others were
       allowed to add all that are left: with no longer the former allowances. */
    static inline void tk_allow(Py_ssize_t limit, int afresh) {
        tk_thread *one;
        Py_ssize_t left = limit - tk_waiting(), rest = left;
        for (one = tk_records(); one != NULL; one = one->next) rest -= one->room;
        if (afresh || rest < 4) {
            for (one = tk_records(); one != NULL; one = one->next) one->room = 0;
            rest = left;
        }
        tk_mine->room = rest > 2048 ? 512 : rest > 3 ? rest / 4 : 0;
    }

    static inline PyObject *tk_drain(void) { /* new reference */
        PyObject *spans = NULL;
        tk_thread *one;
        for (one = tk_records(); one != NULL; one = one->next) {
            PyObject *more = one->spans;
            if (more == NULL || PyList_GET_SIZE(more) == 0) continue;
            if (spans == NULL) spans = more;
            else {
                if (PyList_SetSlice(spans, PyList_GET_SIZE(spans), PyList_GET_SIZE(spans), more) < 0) {
                    one = tk_mine; /* out of memory: those that were taken stay */
                    more = one->spans;
                    one->spans = spans;
                    if (more != spans) Py_XDECREF(more);
                    return NULL;
                }
                Py_DECREF(more);
            }
            one->spans = NULL;
        }
        return spans != NULL ? spans : PyList_New(0);
    }

    static inline int64_t tk_count(int which) {
        int64_t count = 0;
        tk_thread *one;
        for (one = tk_records(); one != NULL; one = one->next)
            count += which == 0 ? one->started : which == 1 ? one->ended : one->unsampled;
        return count;
    }

    static inline void tk_reset(void) {
        tk_thread *one;
        for (one = tk_records(); one != NULL; one = one->next)
            one->started = one->ended = one->unsampled = one->room = 0;
    }

    #define TK_BEGIN(name) tk_begin(TK_QUICK(name))
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
    #define TK_BEGIN(name)
    #define TK_END
    #define tk_is_inside() 1
    #define tk_alone() ((void)0)
    #define tk_own(object) ((void)(object))
    #define tk_is_own(object) 1
    #define tk_share(object) ((void)(object))
    #define tk_may_inherit(value) 1
    #define tk_inherited(value) ((void)(value))
    #define tk_is_seen_again(value) 1
    #define tk_start_one() ((void)0)
    #define tk_keep(span) ((void)(span), 0)
    #define tk_end_one(span, is_recorded, has_place) ((void)(span), (void)(is_recorded), (void)(has_place), 0)
    #define tk_waiting() 0
    #define tk_allow(limit, afresh) ((void)(limit), (void)(afresh))
    #define tk_drain() Py_NewRef(Py_None)
    #define tk_count(which) ((void)(which), 0)
    #define tk_reset() ((void)0)
    #define tk_unlock_all() ((void)0)
    #endif
    #endif
    """
    const bint WITHOUT_GIL "TK_WITHOUT_GIL"
    void tk_retire(object) noexcept
    object tk_stable(object)
    bint is_guarded "tk_is_inside"() noexcept
    void alone "tk_alone"() noexcept
    void own "tk_own"(object) noexcept
    bint is_own "tk_is_own"(object) noexcept
    void share "tk_share"(object) noexcept
    bint may_inherit "tk_may_inherit"(object) noexcept
    void note_inherited "tk_inherited"(object) noexcept
    bint is_seen_again "tk_is_seen_again"(object) noexcept
    void start_one "tk_start_one"() noexcept
    int keep "tk_keep"(object) except -1
    int end_one "tk_end_one"(object, bint, bint) except -1
    Py_ssize_t waiting "tk_waiting"() noexcept
    void allow "tk_allow"(Py_ssize_t, bint) noexcept
    list drained "tk_drain"()
    int64_t count_of "tk_count"(int) noexcept
    void reset_records "tk_reset"() noexcept
    void unlock_all "tk_unlock_all"() noexcept


cdef inline void retire(object replaced) noexcept:
    """Keep *replaced*, a setting, for good: a thread may be about to take a reference to it."""
    if replaced is not None:
        tk_retire(replaced)


cdef inline object stable(object items):
    """Return a dict that no other thread changes, with the items of *items*, if that is a dict of the program's."""
    return tk_stable(items) if WITHOUT_GIL else items
