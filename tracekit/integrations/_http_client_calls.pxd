from .._core.span cimport Span
from ._client cimport Client, answer, end, fail, is_traced_above, stale_fields

cdef object _start(Client client, object connection)
cdef object _write(list buffer, dict headers)
cdef str _name_of(bytes line)
cdef object _answer(object response, tuple traced)
cdef object _cut_off(Span client_span)
cdef bint _is_of_connection(object error) except -1
