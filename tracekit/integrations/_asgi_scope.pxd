cimport cython


@cython.locals(attributes=dict)
cpdef dict attributes_of(object scope, object kind, object method, object redaction)
