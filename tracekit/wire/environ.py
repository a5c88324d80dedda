"""The environment as a carrier: TRACEPARENT and so on, for the processes that a process starts.

The variable of a field has the field's name in upper case, with ``_`` for every character but letters and digits, and
before a leading digit. Names are exact: neither ``traceparent`` nor CGI's ``HTTP_TRACEPARENT`` is read. Octets are
written in base64. A field with a prefix is written only if its variable name determines it, which is the case for
labels whose keys consist of ``a-z``, ``0-9`` and ``_``; others are counted in ``ENVIRON.left_out``.

Spec: https://opentelemetry.io/docs/specs/otel/context/env-carriers/
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any, Final

from .w3c import read_tracecontext, read_w3c, write_w3c

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence

    from .._core.context import SpanContext
    from . import Format

__all__ = ["ENVIRON", "fields_of", "set_fields", "variable"]

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


class _Environ:
    """W3C Trace Context and Baggage in the environment: the fields of these formats under their variable names."""

    name: str = "environ"
    fields: tuple[str, ...] = ("traceparent", "tracestate", "baggage")

    def __init__(self) -> None:
        self.left_out = 0  # number of fields, of any format, that no variable name can express

    def read(self, carrier: Mapping[str, str]) -> SpanContext | None:
        """Return the context in ``TRACEPARENT``, ``TRACESTATE`` and ``BAGGAGE``, or None."""
        found = fields_of(carrier, [self])
        read_tracecontext(found)  # raises FormatError; read_w3c() is lenient
        return read_w3c(found)

    def write(self, context: SpanContext, carrier: MutableMapping[str, str]) -> None:
        """Set the variables of *context*, and remove the variables that *context* has no value for."""
        found: dict[str, str] = {}
        write_w3c(context, found)
        set_fields(carrier, found, [self])

    def __reduce__(self) -> str:
        return "ENVIRON"


def variable(field: str) -> str:
    """Return the name of the environment variable for *field*."""
    name = "".join([char if char in _PLAIN else "_" for char in field]).upper()
    return name if name[:1].isalpha() or name[:1] == "_" else f"_{name}"


def fields_of(environ: Mapping[str, str], formats: Sequence[Format]) -> dict[str, str]:
    """Return the fields of *formats* in *environ*, by field name."""
    names = {variable(field): field for format in formats for field in format.fields}
    for prefix in _prefixes(formats):
        names.update({name: field for name in environ if isinstance(name, str) and (field := _field(prefix, name))})
    found = {}
    for name, field in names.items():
        try:
            if name in environ:
                found[field] = environ[name]
        except KeyError:  # a key with a custom __eq__
            pass
    return found


def set_fields(environ: MutableMapping[str, str], fields: Mapping[str, Any], formats: Sequence[Format]) -> None:
    """Set the variables of *fields* in *environ*, and remove all other variables of *formats*."""
    for field in fields_of(environ, formats):
        environ.pop(variable(field), None)
    for field, value in fields.items():
        name = variable(field)
        if any(field.startswith(prefix) and _field(prefix, name) != field for prefix in _prefixes(formats)):
            ENVIRON.left_out += 1
            continue
        environ[name] = binascii.b2a_base64(value, newline=False).decode() if isinstance(value, bytes) else value


def _prefixes(formats: Sequence[Format]) -> Iterator[str]:
    for format in formats:
        yield from getattr(format, "prefixes", ())


def _field(prefix: str, name: str) -> str | None:
    """Return the field with *prefix* whose variable is *name*, or None."""
    start = variable(prefix)
    field = prefix + name[len(start) :].lower()
    return field if name.startswith(start) and len(name) > len(start) and variable(field) == name else None


ENVIRON: Final = _Environ()
