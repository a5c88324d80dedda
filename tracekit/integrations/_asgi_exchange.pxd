cdef class Exchange:
    cdef object _span, _scope, _receive, _send, _extras, _status
    cdef bint _is_complete

    cdef object _answer_to_nothing(self)
    cdef object _disconnect(self)
    cdef object _describe(self)
    cdef object _see_start(self, object message)
    cdef object _see_status(self, object message)


cdef class Request(Exchange):
    pass


cdef class WebSocket(Exchange):
    cdef bint _is_accepted
    cdef Py_ssize_t _received, _sent

    cdef object _see_code(self, object message)
