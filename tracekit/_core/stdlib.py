"""Names of the standard library that ``import tracekit`` needs, without the modules that define them.

``typing``, ``collections``, ``functools``, ``types`` and ``weakref`` take longer to import than all of tracekit. The
classes come from the modules below those, most of them in C, which Python has loaded at its start; type checkers see the
usual names. ``NamedTuple`` is made here, without the checks of ``typing`` and the documentation of ``collections``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in all modules that `import tracekit` loads: type checkers take it for True
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Mapping, Sequence, Set, ValuesView
    from contextvars import Context, ContextVar, Token, copy_context
    from operator import index
    from types import MappingProxyType, MemberDescriptorType
    from typing import NamedTuple
    from weakref import ref
else:
    import _collections
    import sys
    from _collections import deque
    from _collections_abc import Iterable, Mapping, Sequence, Set, ValuesView
    from _contextvars import Context, ContextVar, Token, copy_context
    from _operator import index, itemgetter
    from _weakref import ref

    MappingProxyType = type(type.__dict__)
    MemberDescriptorType = type(type(lambda: 0).__globals__)

__all__ = [
    "Context",
    "ContextVar",
    "Iterable",
    "Mapping",
    "MappingProxyType",
    "MemberDescriptorType",
    "NamedTuple",
    "Sequence",
    "Set",
    "Token",
    "ValuesView",
    "copy_context",
    "deque",
    "index",
    "ref",
]

if not TYPE_CHECKING:
    # The property that collections.namedtuple() uses: in C, where there is one.
    _getter = getattr(_collections, "_tuplegetter", lambda at, doc: property(itemgetter(at), doc=doc))

    _new = tuple.__new__
    # The index is the number of fields. Renaming their arguments takes a fifteenth of the time that eval() takes.
    _CONSTRUCTORS = (
        lambda _cls: _new(_cls, ()),
        lambda _cls, a: _new(_cls, (a,)),
        lambda _cls, a, b: _new(_cls, (a, b)),
        lambda _cls, a, b, c: _new(_cls, (a, b, c)),
        lambda _cls, a, b, c, d: _new(_cls, (a, b, c, d)),
        lambda _cls, a, b, c, d, e: _new(_cls, (a, b, c, d, e)),
        lambda _cls, a, b, c, d, e, f: _new(_cls, (a, b, c, d, e, f)),
        lambda _cls, a, b, c, d, e, f, g: _new(_cls, (a, b, c, d, e, f, g)),
        lambda _cls, a, b, c, d, e, f, g, h: _new(_cls, (a, b, c, d, e, f, g, h)),
        lambda _cls, a, b, c, d, e, f, g, h, i: _new(_cls, (a, b, c, d, e, f, g, h, i)),
    )

    class _Fields(type):
        """Makes classes as ``typing.NamedTuple`` does: of the fields of the body, tuples with their methods."""

        def __new__(cls, name, bases, body):
            if not bases:
                return type.__new__(cls, name, bases, body)
            fields = (*body["__annotations__"],)
            defaults = {field: body.pop(field) for field in fields if field in body}
            usual = _CONSTRUCTORS[len(fields)]
            code = usual.__code__.replace(co_name="__new__", co_varnames=("_cls", *fields))
            new = type(usual)(code, {"_new": _new, "__name__": __name__})
            new.__name__, new.__qualname__ = "__new__", f"{name}.__new__"
            new.__defaults__ = (*defaults.values(),)
            added = {"__slots__": (), "__new__": new, "__match_args__": fields}
            added |= {"_fields": fields, "_field_defaults": defaults}
            getters = {field: _getter(at, f"Field number {at}") for at, field in enumerate(fields)}
            return type(name, (_Methods, tuple), body | added | getters)

    NamedTuple = _Fields("NamedTuple", (), {})

    class _Methods:
        """The methods of a named tuple, as those of ``collections.namedtuple``."""

        __slots__ = ()

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **changes):
            made = self._make(map(changes.pop, self._fields, self))
            if changes:
                error = TypeError if sys.version_info >= (3, 13) else ValueError  # as collections does
                raise error(f"Got unexpected field names: {list(changes)!r}")
            return made

        __replace__ = _replace  # for copy.replace() of Python 3.13

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(map('{}={!r}'.format, self._fields, self))})"

        def __getnewargs__(self):
            return (*self,)
