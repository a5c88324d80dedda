"""Hostile objects: subclasses of str, int, list, dict, Mapping ... whose methods misbehave while tracekit calls them.

Every method asks a ``Mischief`` first. It may raise, return nonsense, change the container that tracekit is iterating over,
run the collector, or call tracekit again.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

MARK = "_raised_by_a_hostile_object"
_NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    1 << 70,
    3.5,
    "",
    "traceparent",
    b"",
    b"\xff",
    (),
    ("a",),
    [1],
    {},
    object,
    NotImplemented,
)


class Hostility(Exception):
    """An exception of the program."""


class HostileExit(BaseException):
    """One that ``except Exception`` does not catch."""


class Mischief:
    """Decides how the next method of a hostile object behaves.

    ``left`` limits the number of misbehaving calls, so that every run ends. Only methods called in ``thread`` misbehave,
    since the order of calls in other threads cannot be replayed.
    """

    def __init__(self, rng: random.Random, again: Callable[[], object], finalize: Callable[[], object]) -> None:
        self.rng = rng
        self.again = again  # makes a random call
        self.finalize = finalize  # makes a call that is allowed in finalizers
        self.left = 0
        self.thread = threading.get_ident()
        self.containers: list[Any] = []  # the arguments of the current call, to be changed

    def act(self, name: str, behave: Callable[[], Any]) -> Any:
        """Run the method *name*; *behave* is its normal implementation."""
        if threading.get_ident() == self.thread:
            if name == "__del__":
                # A finalizer that runs inside ContextVar.set() must not set the same variable: contextvar_set() in
                # CPython's context.c is not reentrant. So finalizers open no scopes.
                return self.finalize()
            if self.left > 0:
                self.left -= 1
                match self.rng.randrange(10):
                    case 0 | 1:
                        raise self.error()
                    case 2:
                        return self.rng.choice(_NONSENSE)
                    case 3 | 4 | 5:
                        self.wreck()
                    case 6 | 7:
                        self.again()
                    case 8:
                        gc.collect(self.rng.choice([0, 0, 0, 2]))
        try:
            return behave()
        except Exception as error:  # an earlier change may have made it fail
            setattr(error, MARK, True)
            raise

    def error(self) -> BaseException:
        """Return an exception that ``is_hostile`` recognizes."""
        kind = self.rng.choice(
            [Hostility, Hostility, HostileExit, AttributeError, KeyError, MemoryError, OSError, RecursionError]
        )
        error: BaseException = kind("hostile")
        setattr(error, MARK, True)
        return error

    def wreck(self) -> None:
        """Change the containers of the current call, bypassing their own methods."""
        rng = self.rng
        for container in self.containers:
            how = rng.randrange(5)
            if isinstance(container, dict):
                keys = list(dict.keys(container))
                if how == 0 or not keys:
                    dict.clear(container)
                elif how == 1:
                    dict.popitem(container)
                elif how == 2:
                    dict.update(container, {f"more{number}": "" for number in range(rng.choice([1, 100]))})
                else:
                    # Without a lookup: the __hash__ of a key may be hostile.
                    kept = dict.popitem(container)
                    dict.clear(container)
                    dict.update(container, {"kept": kept[1]})
            elif isinstance(container, list):
                if how == 0:
                    list.clear(container)
                elif how == 1 and container:
                    list.pop(container, rng.randrange(len(container)))
                elif how == 2:
                    list.extend(container, [("more", "")] * rng.choice([1, 100]))
                else:
                    list.__setitem__(container, slice(None), [("kept", "")] * len(container))


def is_hostile(error: BaseException | None) -> bool:
    """Return whether a hostile object raised *error*, its cause or its context."""
    waiting, seen = [error], set()
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if MARK in getattr(part, "__dict__", ()):
            return True
        waiting += [part.__cause__, part.__context__]
        if isinstance(part, BaseExceptionGroup):
            waiting += BaseExceptionGroup.exceptions.__get__(part)
    return False


def is_hostile_type(kind: type) -> bool:
    """Return whether *kind* is one of the types below."""
    return str(type.__getattribute__(kind, "__module__")) == __name__


mischief: Mischief | None = None  # in use


def use(new: Mischief | None) -> None:
    """Make all hostile objects ask *new*; with None they behave normally."""
    global mischief
    mischief = new


def ask(name: str, behave: Callable[[], Any]) -> Any:
    """Run the method *name*, whose normal implementation is *behave*."""
    return behave() if mischief is None else mischief.act(name, behave)


def _method(base: type, name: str) -> Any:
    plain = getattr(base, name, None)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ask(name, lambda: None if plain is None else plain(self, *args, **kwargs))

    method.__name__ = name
    return method


_COMMON = "__eq__ __ne__ __hash__ __str__ __repr__ __format__ __bool__ __reduce_ex__ __del__"
_SIZED = "__len__ __iter__ __getitem__ __contains__ __add__ __mul__"
_TEXT = "__lt__ __mod__ startswith endswith lower upper strip split partition replace encode decode join isascii find"
_NUMBER = "__index__ __int__ __float__ __lt__ __le__ __gt__ __ge__ __sub__ __rsub__ __neg__ __round__ bit_length"
_FILLED = "__setitem__ __delitem__ keys values items get pop append extend update setdefault index count"


def _hostile(name: str, base: type, *names: str) -> Any:
    """Return a subclass of *base* with hostile versions of its methods *names*."""
    wanted = " ".join([_COMMON, *names]).split()
    body = {method: _method(base, method) for method in wanted if hasattr(base, method) or method == "__del__"}
    return type(name, (base,), {**body, "__module__": __name__})


HostileStr = _hostile("HostileStr", str, _SIZED, _TEXT)
HostileBytes = _hostile("HostileBytes", bytes, _SIZED, _TEXT)
HostileInt = _hostile("HostileInt", int, _NUMBER)
HostileFloat = _hostile("HostileFloat", float, _NUMBER)
HostileList = _hostile("HostileList", list, _SIZED, _FILLED)
HostileTuple = _hostile("HostileTuple", tuple, _SIZED, _FILLED)
HostileDict = _hostile("HostileDict", dict, _SIZED, _FILLED)
HostileObject = _hostile(
    "HostileObject", object, "__len__ __iter__ __getitem__ __index__ keys items __enter__ __exit__ __call__"
)


class _Map(MutableMapping):  # type: ignore[type-arg]
    def __init__(self, pairs: Any) -> None:
        self._pairs = dict(pairs)

    def __getitem__(self, key: Any) -> Any:
        return self._pairs[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._pairs[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._pairs[key]


HostileMapping = _hostile("HostileMapping", _Map, _SIZED, _FILLED)


class HostileIterable:
    """An iterable that is no container."""

    def __init__(self, items: Any) -> None:
        self._items = list(items)

    def __iter__(self) -> Iterator[Any]:
        ask("__iter__", lambda: None)
        for item in self._items:
            ask("__next__", lambda: None)
            yield item


class _HostileType(type):
    """A metaclass that makes even the name of a class hostile."""

    def __getattribute__(cls, name: str) -> Any:
        return ask(name, lambda: type.__getattribute__(cls, name))


class HostileError(Exception, metaclass=_HostileType):
    """An exception whose class and attributes are hostile too."""

    def __str__(self) -> str:
        return ask("__str__", lambda: "text")  # type: ignore[no-any-return]

    def __setattr__(self, name: str, value: object) -> None:
        ask("__setattr__", lambda: Exception.__setattr__(self, name, value))

    def __getattribute__(self, name: str) -> Any:
        return ask("__getattribute__", lambda: Exception.__getattribute__(self, name))
