# The value of the one ContextVar, in C: read, changed in place while no other Context shares it, else set without a
# Token.
#
# A Context keeps the values of its variables in an immutable tree, a HAMT: ContextVar.set() copies the nodes on the way
# to its entry, some thousand instructions, so that copies of the Context (tasks, callbacks) may share the rest. Here
# the reference counts of the tree and of these nodes are examined first. If each is 1, only the running Context can
# reach the entry, and its value is replaced. Copies and iterators of the Context own a reference to the tree, and a
# tree that another was made from owns one to each node that both use: then, and wherever the structures are not as
# expected, the variable is set in the usual way.

cdef extern from *:
    """
    /* For scopes.py alone: the state of the variable and of collections is static. */
    #if !defined(TRACEKIT_VARIABLE) && defined(__PYX_HAVE__tracekit___core__scopes)
    #define TRACEKIT_VARIABLE
    #include <stdint.h>
    #include <string.h>

    #if PY_VERSION_HEX < 0x030C0000
    /* CPython 3.11 may collect garbage inside PyContextVar_Set(), and a finalizer that sets a variable then frees the
       tree that the interrupted set is reading. Later versions collect between bytecodes only. So here a set does not
       collect, and in the thread that collects, values change in place or not at all: the tree stays, and the first
       value that is replaced in the Context of that set is kept until the next collection. */
    #define Py_BUILD_CORE 1
    #undef _PyGC_FINALIZED
    #include "internal/pycore_interp.h"
    #undef Py_BUILD_CORE
    static inline PyObject *tk_set(PyObject *var, PyObject *value) {
        struct _gc_runtime_state *gc = &PyThreadState_Get()->interp->gc;
        int enabled = gc->enabled;
        PyObject *token;
        gc->enabled = 0;
        token = PyContextVar_Set(var, value);
        gc->enabled = enabled;
        return token;
    }
    static inline int tk_take_back(PyObject *var, PyObject *token) {
        struct _gc_runtime_state *gc = &PyThreadState_Get()->interp->gc;
        int enabled = gc->enabled, result;
        gc->enabled = 0;
        result = PyContextVar_Reset(var, token);
        gc->enabled = enabled;
        return result;
    }

    static uint64_t tk_collector; /* the thread state that began this collection; 0: unknown, perhaps this one */
    static PyObject *tk_interrupted; /* the Context in which it began, borrowed */
    static PyObject *tk_kept;
    static PyObject *tk_note; /* the function in gc.callbacks that sets these, as the first one */
    static PyObject *tk_early; /* values that callbacks before it have replaced, until it is the first again */

    static inline int tk_is_early(void) { /* these three may be of an earlier collection */
        PyObject *callbacks = PyThreadState_Get()->interp->gc.callbacks;
        return callbacks == NULL || PyList_GET_SIZE(callbacks) == 0 || PyList_GET_ITEM(callbacks, 0) != tk_note;
    }

    static inline int tk_is_collecting(void) {
        PyThreadState *thread = PyThreadState_Get();
        if (thread->interp->gc.collecting) return tk_collector == 0 || tk_collector == thread->id || tk_is_early();
        tk_collector = 0; /* not when a collection stops, as callbacks of the program are called after this then */
        return 0;
    }

    static PyObject *tk_collection(PyObject *self, PyObject *const *args, Py_ssize_t count) { /* in gc.callbacks */
        (void)self;
        if (count > 0 && PyUnicode_Check(args[0]) && PyUnicode_CompareWithASCIIString(args[0], "start") == 0) {
            PyThreadState *thread = PyThreadState_Get();
            tk_collector = thread->id;
            tk_interrupted = thread->context;
            Py_CLEAR(tk_kept);
            if (!tk_is_early()) {
                if (PyList_SetSlice(tk_early, 0, PY_SSIZE_T_MAX, NULL) < 0) return NULL;
                Py_RETURN_NONE;
            }
            /* Those after it in the list are still called, once, as CPython counts. */
            PyObject *callbacks = thread->interp->gc.callbacks;
            Py_ssize_t at;
            for (at = PyList_GET_SIZE(callbacks) - 1; at > 0; at--) {
                if (PyList_GET_ITEM(callbacks, at) == tk_note) {
                    if (PyList_SetSlice(callbacks, at, at + 1, NULL) < 0) return NULL;
                    if (PyList_Insert(callbacks, 0, tk_note) < 0) return NULL;
                    break;
                }
            }
        }
        Py_RETURN_NONE;
    }

    static inline int tk_watch_collections(void) {
        static PyMethodDef method = {
            "tracekit_notes_the_thread", (PyCFunction)(void (*)(void))tk_collection, METH_FASTCALL, NULL
        };
        PyObject *module = PyImport_ImportModule("gc"), *function = PyCFunction_New(&method, NULL);
        PyObject *callbacks = module == NULL ? NULL : PyObject_GetAttrString(module, "callbacks");
        int result;
        tk_early = PyList_New(0);
        result = callbacks == NULL || function == NULL || tk_early == NULL ? -1 : PyList_Insert(callbacks, 0, function);
        tk_note = function; /* for good */
        Py_XDECREF(module);
        Py_XDECREF(callbacks);
        return result;
    }
    #else
    #define tk_set PyContextVar_Set
    #define tk_take_back PyContextVar_Reset
    #define tk_is_collecting() 0
    #endif

    /* CPython's own structures (pycore_context.h, pycore_hamt.h, hamt.c), the same from 3.8 to 3.15 with the GIL.
       tk_change_in_place() compares them with objects of known content. */
    typedef struct {
        PyObject_HEAD
        PyObject *context, *var, *before;
        int used;
    } tk_token;
    typedef struct {
        PyObject_HEAD
        PyObject *root;
    } tk_tree;
    typedef struct {
        PyObject_HEAD
        PyObject *outer;
        tk_tree *values;
    } tk_context;
    typedef struct {
        PyObject_HEAD
        PyObject *name, *initial, *cached; /* borrowed: the value that was read or set last, ... */
        uint64_t thread, version; /* ... and when: valid until the thread enters or leaves a Context */
    } tk_variable;
    typedef struct {
        PyObject_VAR_HEAD
        uint32_t bitmap; /* a bit for each entry: a variable and its value, or NULL and the next node */
        PyObject *entries[1];
    } tk_sparse;
    typedef struct {
        PyObject_HEAD
        PyObject *nodes[32];
        Py_ssize_t count; /* of those that are not NULL */
    } tk_dense;

    static tk_token *tk_change; /* the one Token; NULL: set as others do */
    static PyObject *tk_placed; /* the variable that is changed in place, borrowed; NULL: none is */
    static uint32_t tk_way; /* five bits for each node on the way to its place */
    static PyTypeObject *tk_sparse_type, *tk_dense_type;

    /* The first one is compared with its own count; the Context at import is too small to have one. */
    static inline int tk_is_dense(PyObject *node) {
        PyTypeObject *type = Py_TYPE(node);
        Py_ssize_t count = 0;
        int i;
        if (type == tk_dense_type) return 1;
        if (
            tk_dense_type != NULL || strcmp(type->tp_name, "hamt_array_node") != 0
            || (size_t)type->tp_basicsize != sizeof(tk_dense)
        ) return 0;
        for (i = 0; i < 32; i++) count += ((tk_dense *)node)->nodes[i] != NULL;
        if (count != ((tk_dense *)node)->count) return 0;
        tk_dense_type = type;
        return 1;
    }

    /* Where *context*, the running one, keeps the value of tk_placed, if no other Context shares it; or NULL. */
    static inline PyObject **tk_place(PyObject *context) {
        tk_tree *tree = ((tk_context *)context)->values;
        uint32_t way = tk_way;
        PyObject *node;
        if (Py_REFCNT(tree) != 1) return NULL;
        for (node = tree->root; Py_REFCNT(node) == 1; way >>= 5) {
            if (Py_TYPE(node) == tk_sparse_type) {
                uint32_t bit = (uint32_t)1 << (way & 31), below = ((tk_sparse *)node)->bitmap;
                PyObject **entry;
                if (!(below & bit)) return NULL;
                below &= bit - 1;
                below -= (below >> 1) & 0x55555555; /* the number of its bits */
                below = (below & 0x33333333) + ((below >> 2) & 0x33333333);
                below = (((below + (below >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24;
                entry = ((tk_sparse *)node)->entries + 2 * below;
                if (entry[0] == tk_placed) return entry + 1;
                if (entry[0] != NULL) return NULL;
                node = entry[1];
            }
            else if (tk_is_dense(node)) {
                node = ((tk_dense *)node)->nodes[way & 31];
                if (node == NULL) return NULL;
            }
            else return NULL;
        }
        return NULL;
    }

    static inline PyObject *tk_held(PyObject *var) { /* new reference; None where nothing is */
        tk_variable *variable = (tk_variable *)var;
        PyThreadState *thread = PyThreadState_Get();
        PyObject *value = NULL;
        if (
            var == tk_placed && variable->thread == thread->id && variable->version == thread->context_ver
            && thread->context != NULL /* a thread that ends drops it and keeps the version */
            && variable->cached != NULL
        ) return Py_NewRef(variable->cached);
        if (PyContextVar_Get(var, NULL, &value) < 0) return NULL;
        return value != NULL ? value : Py_NewRef(Py_None);
    }

    /* Take *value*, which is being deallocated, out of the cache. It is there if a thread ends with it in its Context:
       then a finalizer may make a new Context, in which CPython takes the cache for good. */
    static inline void tk_forget(PyObject *value) {
        tk_variable *variable = (tk_variable *)tk_placed;
        if (variable != NULL && variable->cached == value) variable->cached = NULL;
    }

    static inline int tk_holds(PyObject *var, PyObject *value) {
        PyObject *found = tk_held(var);
        Py_XDECREF(found);
        return found == NULL ? -1 : found == value;
    }

    static inline int tk_put(PyObject *var, PyObject *value) { /* 1; 0 where it is not set, because that is unsafe */
        PyThreadState *thread = PyThreadState_Get();
        PyObject *context = thread->context, *token; /* NULL before a thread's first ContextVar */
        tk_token *change = tk_change;
        if (var == tk_placed && context != NULL) {
            PyObject **place = tk_place(context);
            if (place != NULL) {
                PyObject *before = *place;
                *place = Py_NewRef(value);
                ((tk_variable *)var)->cached = value;
                ((tk_variable *)var)->thread = thread->id;
                ((tk_variable *)var)->version = thread->context_ver;
    #if PY_VERSION_HEX < 0x030C0000
                if (tk_is_collecting()) {
                    /* The tree that the interrupted set makes may have the former value, and replace this one. */
                    ((tk_variable *)var)->cached = NULL;
                    if (tk_is_early()) {
                        int result = PyList_Append(tk_early, before);
                        if (result == 0 && PyList_GET_SIZE(tk_early) > 4000) /* the program has removed the function */
                            result = PyList_SetSlice(tk_early, 0, 2000, NULL);
                        Py_DECREF(before);
                        return result < 0 ? -1 : 1;
                    }
                    if (tk_kept == NULL && (tk_collector == 0 || context == tk_interrupted)) {
                        tk_kept = before;
                        return 1;
                    }
                }
    #endif
                Py_DECREF(before);
                return 1;
            }
        }
        if (context != NULL && tk_is_collecting()) return tk_holds(var, value);
        /* A Token is an object that the garbage collector tracks; resetting a variable makes none. So one Token serves
           every change: filled with the running Context and the new value as the former one, and reset. */
        if (change != NULL && change->var == var && context != NULL) {
            /* None is set, not removed: asgiref writes a Context's values back where it copied the Context, and would
               leave a closed scope there. Where the variable has no value, it stays so, which takes no memory. */
            int result = value == Py_None ? tk_holds(var, value) : 0;
            if (result != 0) return result;
            change->context = context;
            change->before = value;
            change->used = 0;
            result = tk_take_back(var, (PyObject *)change);
            change->context = change->before = NULL; /* borrowed */
            return result < 0 ? -1 : 1;
        }
        token = tk_set(var, value);
        if (token == NULL) return -1;
        Py_DECREF(token);
        return 1;
    }

    /* Learn to set *var*, Py_True in *context*, the running one, without a new Token. */
    static inline int tk_learn_token(PyObject *var, PyObject *context) {
        PyObject *made = tk_set(var, Py_None);
        tk_token *token = (tk_token *)made;
        int result = made == NULL ? -1 : 0;
        if (
            result == 0 && (size_t)Py_TYPE(made)->tp_basicsize >= sizeof(tk_token) && token->context == context
            && token->var == var && token->before == Py_True && token->used == 0
            && (result = tk_take_back(var, made)) == 0 && token->used == 1
        ) {
            PyObject_GC_UnTrack(made);
            Py_CLEAR(token->context);
            Py_CLEAR(token->before);
            tk_change = token; /* for good */
            made = NULL;
            if ((result = tk_put(var, Py_False)) > 0 && (result = tk_holds(var, Py_False)) == 0) tk_change = NULL;
        }
        Py_XDECREF(made);
        return result < 0 ? -1 : 0;
    }

    /* Learn the place of *var*, the only variable with a value in *context*, the running one. */
    static inline int tk_learn_place(PyObject *var, PyObject *context) {
        tk_variable *variable = (tk_variable *)var;
        PyThreadState *thread = PyThreadState_Get();
        PyObject *copy, *node, **place;
        tk_tree *tree;
        Py_hash_t hash = PyObject_Hash(var);
        int result;
        if (
            (result = tk_put(var, Py_True)) <= 0
            || (size_t)Py_TYPE(context)->tp_basicsize < sizeof(tk_context)
            || (size_t)Py_TYPE(var)->tp_basicsize < sizeof(tk_variable)
            || variable->cached != Py_True || variable->thread != thread->id || variable->version != thread->context_ver
        ) return result;
        tree = ((tk_context *)context)->values;
        if (tree == NULL || strcmp(Py_TYPE(tree)->tp_name, "hamt") != 0 || (node = tree->root) == NULL) return 0;
        if (
            strcmp(Py_TYPE(node)->tp_name, "hamt_bitmap_node") != 0 || Py_SIZE(node) != 2
            || ((tk_sparse *)node)->entries[0] != var || ((tk_sparse *)node)->entries[1] != Py_True
        ) return 0;
        tk_sparse_type = Py_TYPE(node);
        tk_way = (uint32_t)hash;
        if (sizeof(hash) > 4) tk_way ^= (uint32_t)((uint64_t)hash >> 32);
        if (tk_way == 0xFFFFFFFF) tk_way = 0xFFFFFFFE;
        tk_placed = var; /* which lives as long as the module */
        if (
            tk_place(context) != ((tk_sparse *)node)->entries + 1
            || (result = tk_put(var, Py_False)) <= 0 || (result = tk_holds(var, Py_False)) <= 0
        ) {
            tk_placed = NULL;
            return result < 0 ? -1 : 0;
        }
        copy = PyContext_CopyCurrent();
        if (copy == NULL) {
            tk_placed = NULL;
            return -1;
        }
        place = tk_place(context);
        Py_DECREF(copy);
        if (place != NULL || tk_place(context) == NULL) tk_placed = NULL;
        return 0;
    }

    /* Have tk_put() change *var*, whose default is None, in place or else without making a Token, as far as CPython's
       structures are as expected. */
    static inline int tk_change_in_place(PyObject *var) {
        int result = 0;
    #if !defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x03100000 /* without the GIL, threads would share the Token */
        PyObject *context = PyContext_New(), *token = NULL;
    #if PY_VERSION_HEX < 0x030C0000
        result = tk_watch_collections(); /* first: a finalizer may import this during a collection */
    #endif
        if (result < 0 || context == NULL || PyContext_Enter(context) < 0) result = -1;
        else {
            token = tk_set(var, Py_True);
            result = token == NULL || tk_learn_token(var, context) < 0 || tk_learn_place(var, context) < 0 ? -1 : 0;
            if (PyContext_Exit(context) < 0) result = -1;
        }
        Py_XDECREF(token);
        Py_XDECREF(context);
    #else
        (void)var;
    #endif
        return result;
    }
    #endif
    """
    object held "tk_held"(object)
    bint put "tk_put"(object, object) except -1
    void forget "tk_forget"(object) noexcept
    int change_in_place "tk_change_in_place"(object) except -1
    bint is_collecting "tk_is_collecting"() noexcept
