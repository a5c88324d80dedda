# Calls that CPython makes for each span, without the objects and the argument parsing that they take in general.

cdef extern from *:
    """
    #ifndef TRACEKIT_CALLS
    #define TRACEKIT_CALLS
    #include <structmember.h>

    typedef PyObject *(*tk_enter)(PyObject *);
    typedef PyObject *(*tk_exit)(PyObject *, PyObject *);  /* with the exception, or None */

    #if PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)
    /* Before CPython 3.14, ``with`` makes two bound methods at each entry, objects that the garbage collector tracks.
       These are not tracked, are kept for reuse, and call C; other calls go to the method as it was. */
    typedef struct {  /* in the class */
        PyObject_HEAD
        PyTypeObject *kind;
        PyObject *function;
        tk_enter enter;
        tk_exit exit;
    } tk_method;

    typedef struct {
        PyObject_HEAD
        vectorcallfunc call;
        tk_method *method;
        PyObject *self;
    } tk_bound;

    #if CYTHON_USE_FREELISTS  /* not under the sanitizers, which watch freed memory */
    #define TK_SPARE 32
    static tk_bound *tk_spare[TK_SPARE];
    static int tk_spares;
    #endif

    static PyObject *tk_bound_call(PyObject *called, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
        tk_bound *bound = (tk_bound *)called;
        PyObject *method, *result;
        if (kwnames == NULL) {
            Py_ssize_t count = PyVectorcall_NARGS(nargsf);
            if (count == 0 && bound->method->enter != NULL) return bound->method->enter(bound->self);
            if (count == 3 && bound->method->exit != NULL) return bound->method->exit(bound->self, args[1]);
        }
        method = PyMethod_New(bound->method->function, bound->self);
        if (method == NULL) return NULL;
        result = PyObject_Vectorcall(method, args, nargsf, kwnames);
        Py_DECREF(method);
        return result;
    }

    static void tk_bound_dealloc(PyObject *object) {
        tk_bound *bound = (tk_bound *)object;
        PyObject *self = bound->self;
        Py_DECREF(bound->method);
    #if CYTHON_USE_FREELISTS
        if (tk_spares < TK_SPARE) tk_spare[tk_spares++] = bound;
        else
    #endif
            PyObject_Free(bound);
        Py_DECREF(self);  /* last: it may run any code */
    }

    static PyObject *tk_bound_getattro(PyObject *object, PyObject *name) {
        PyObject *found = PyObject_GenericGetAttr(object, name);
        if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            found = PyObject_GetAttr(((tk_bound *)object)->method->function, name);
        }
        return found;
    }

    static PyObject *tk_bound_repr(PyObject *object) {
        tk_bound *bound = (tk_bound *)object;
        PyObject *method = PyMethod_New(bound->method->function, bound->self), *text;
        if (method == NULL) return NULL;
        text = PyObject_Repr(method);
        Py_DECREF(method);
        return text;
    }

    static Py_hash_t tk_bound_hash(PyObject *object) {
        tk_bound *bound = (tk_bound *)object;
        Py_hash_t hash = (Py_hash_t)(((size_t)bound->self >> 4) ^ (size_t)bound->method);
        return hash == -1 ? -2 : hash;
    }

    static PyObject *tk_bound_compare(PyObject *one, PyObject *other, int op) {
        int same;
        if (Py_TYPE(one) != Py_TYPE(other) || (op != Py_EQ && op != Py_NE)) Py_RETURN_NOTIMPLEMENTED;
        same = ((tk_bound *)one)->self == ((tk_bound *)other)->self
            && ((tk_bound *)one)->method == ((tk_bound *)other)->method;
        return PyBool_FromLong(same == (op == Py_EQ));
    }

    static PyObject *tk_bound_reduce(PyObject *object, PyObject *Py_UNUSED(ignored)) {
        tk_bound *bound = (tk_bound *)object;
        PyObject *name = PyObject_GetAttrString(bound->method->function, "__name__");
        if (name == NULL) return NULL;
        return Py_BuildValue("O(ON)", PyDict_GetItemString(PyEval_GetBuiltins(), "getattr"), bound->self, name);
    }

    static PyMethodDef tk_bound_methods[] = {
        {"__reduce__", tk_bound_reduce, METH_NOARGS, NULL},
        {NULL, NULL, 0, NULL},
    };
    static PyMemberDef tk_bound_members[] = {
        {"__self__", T_OBJECT, offsetof(tk_bound, self), READONLY, NULL},
        {NULL, 0, 0, 0, NULL},
    };

    static PyTypeObject tk_bound_type = {
        PyVarObject_HEAD_INIT(NULL, 0)
        .tp_name = "tracekit.method",
        .tp_basicsize = sizeof(tk_bound),
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .tp_vectorcall_offset = offsetof(tk_bound, call),
        .tp_call = PyVectorcall_Call,
        .tp_dealloc = tk_bound_dealloc,
        .tp_getattro = tk_bound_getattro,
        .tp_repr = tk_bound_repr,
        .tp_hash = tk_bound_hash,
        .tp_richcompare = tk_bound_compare,
        .tp_methods = tk_bound_methods,
        .tp_members = tk_bound_members,
    };

    static PyObject *tk_method_get(PyObject *descriptor, PyObject *self, PyObject *Py_UNUSED(owner)) {
        tk_method *method = (tk_method *)descriptor;
        tk_bound *bound;
        if (self == NULL) return Py_NewRef(method->function);
        if (Py_TYPE(self) != method->kind)
            return PyErr_Format(PyExc_TypeError, "this is a method of %s", method->kind->tp_name);
    #if CYTHON_USE_FREELISTS
        if (tk_spares) bound = tk_spare[--tk_spares];
        else
    #endif
            bound = (tk_bound *)PyObject_Malloc(sizeof(tk_bound));
        if (bound == NULL) return PyErr_NoMemory();
        PyObject_Init((PyObject *)bound, &tk_bound_type);
        bound->call = tk_bound_call;
        bound->method = (tk_method *)Py_NewRef(descriptor);
        bound->self = Py_NewRef(self);
        return (PyObject *)bound;
    }

    static PyObject *tk_method_getattro(PyObject *descriptor, PyObject *name) {
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "__get__") == 0)
            return PyObject_GenericGetAttr(descriptor, name);
        return PyObject_GetAttr(((tk_method *)descriptor)->function, name);
    }

    static void tk_method_dealloc(PyObject *descriptor) {
        Py_XDECREF(((tk_method *)descriptor)->function);
        PyObject_Free(descriptor);
    }

    static PyTypeObject tk_method_type = {
        PyVarObject_HEAD_INIT(NULL, 0)
        .tp_name = "tracekit.method_descriptor",
        .tp_basicsize = sizeof(tk_method),
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .tp_dealloc = tk_method_dealloc,
        .tp_getattro = tk_method_getattro,
        .tp_descr_get = tk_method_get,
    };

    /* Have *name* of *kind*, a class that cannot be extended, call *enter* or *exit*. */
    static inline int tk_bind(PyObject *kind, const char *name, tk_enter enter, tk_exit exit) {
        PyObject *names = ((PyTypeObject *)kind)->tp_dict;
        PyObject *function = PyDict_GetItemString(names, name);
        tk_method *method;
        int failed;
        if (function == NULL || PyType_Ready(&tk_bound_type) < 0 || PyType_Ready(&tk_method_type) < 0) return -1;
        method = PyObject_New(tk_method, &tk_method_type);
        if (method == NULL) return -1;
        method->kind = (PyTypeObject *)kind;
        method->function = Py_NewRef(function);
        method->enter = enter;
        method->exit = exit;
        failed = PyDict_SetItemString(names, name, (PyObject *)method);
        Py_DECREF(method);
        PyType_Modified((PyTypeObject *)kind);
        return failed;
    }
    #else
    static inline int tk_bind(PyObject *kind, const char *name, tk_enter enter, tk_exit exit) {
        (void)kind; (void)name; (void)enter; (void)exit;
        return 0;
    }
    #endif

    /* span("name"), and with attributes=, as calls of C; every other call goes to the function as it was. Where that
       raises TypeError, *explain* gets the names of the keyword arguments, and returns a better message or None. */
    typedef PyObject *(*tk_start)(PyObject *, PyObject *);

    #ifndef Py_GIL_DISABLED
    static vectorcallfunc tk_general;
    static tk_start tk_simple;
    static PyObject *tk_attributes;
    static PyObject *tk_explain;

    static void tk_say(PyObject *kwnames) {
        PyObject *kind, *value, *traceback, *message;
        PyErr_Fetch(&kind, &value, &traceback);
        message = PyObject_CallOneArg(tk_explain, kwnames);
        if (message == NULL && PyErr_ExceptionMatches(PyExc_Exception)) PyErr_Clear();
        if ((message == NULL && !PyErr_Occurred()) || message == Py_None) PyErr_Restore(kind, value, traceback);
        else {  /* the message, or KeyboardInterrupt in its making */
            Py_XDECREF(kind); Py_XDECREF(value); Py_XDECREF(traceback);
            if (message != NULL) PyErr_SetObject(PyExc_TypeError, message);
        }
        Py_XDECREF(message);
    }

    static PyObject *tk_span(PyObject *function, PyObject *const *args, size_t nargsf, PyObject *kwnames) {
        if (PyVectorcall_NARGS(nargsf) == 1 && PyUnicode_CheckExact(args[0])) {
            if (kwnames == NULL) return tk_simple(args[0], Py_None);
            if (PyTuple_GET_SIZE(kwnames) == 1 && PyTuple_GET_ITEM(kwnames, 0) == tk_attributes)
                return tk_simple(args[0], args[1]);
        }
        PyObject *result = tk_general(function, args, nargsf, kwnames);
        if (result == NULL && kwnames != NULL && PyErr_ExceptionMatches(PyExc_TypeError)) tk_say(kwnames);
        return result;
    }

    static inline int tk_quicken(PyObject *function, tk_start simple, PyObject *explain) {
        Py_ssize_t offset = Py_TYPE(function)->tp_vectorcall_offset;
        vectorcallfunc general = PyVectorcall_Function(function);
        if (general == NULL || offset <= 0) return 0;
        tk_attributes = PyUnicode_InternFromString("attributes");
        if (tk_attributes == NULL) return -1;
        tk_general = general;
        tk_simple = simple;
        tk_explain = Py_NewRef(explain);
        *(vectorcallfunc *)((char *)function + offset) = tk_span;
        return 0;
    }
    #else
    static inline int tk_quicken(PyObject *function, tk_start simple, PyObject *explain) {
        (void)function; (void)simple; (void)explain;
        return 0;
    }
    #endif
    #endif
    """
    ctypedef object (*tk_enter)(object)
    ctypedef object (*tk_exit)(object, object)
    ctypedef object (*tk_start)(object, object)
    int tk_bind(object kind, const char* name, tk_enter enter, tk_exit exit) except -1
    int tk_quicken(object function, tk_start simple, object explain) except -1
