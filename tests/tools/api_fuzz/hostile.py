"""Objects that misbehave while tracekit looks at them, for ``tests.tools.api_fuzz``.

Each is a real str, int, list, dict, Mapping ... whose methods ask a ``Mischief`` first. That lets them behave, raise,
return nonsense, clear or change the containers that are being walked, drop objects that are in use, or call tracekit again.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping
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
    """The exception of a hostile object's own."""


class HostileExit(BaseException):
    """The same, past ``except Exception``."""


class Mischief:
    """What hostile objects do next; the same for the same random numbers.

    ``left`` is how many more methods may misbehave, so that nothing goes on for ever. Methods misbehave in ``thread``
    alone; elsewhere, where the order of calls is chance, they behave.
    """

    def __init__(self, rng: random.Random, again: Callable[[], object], read: Callable[[], object]) -> None:
        self.rng = rng
        self.again = again  # calls tracekit
        self.read = read  # calls only what asks tracekit, and opens and closes nothing
        self.left = 0
        self.thread = threading.get_ident()
        self.containers: list[Any] = []  # what is being walked; the only reference but the caller's

    def act(self, name: str, behave: Callable[[], Any]) -> Any:
        """Be asked for the method *name*, whose proper result *behave* returns."""
        if threading.get_ident() == self.thread:
            if name == "__del__":
                # Contexts are not reentrant: a finaliser that runs inside ContextVar.set() and sets the variable itself
                # breaks CPython, with any library (context.c, contextvar_set). So finalisers only read.
                return self.read()
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
        except Exception as error:  # the object may not be any more what it was
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
        """Change what is being walked, past whatever methods it has of its own."""
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
                    # Not by a key, whose __hash__ may be hostile: all but one go.
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
    """Tell whether *error*, or what it came of, was raised by a hostile object."""
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


mischief: Mischief | None = None  # the one in use


def use(new: Mischief | None) -> None:
    """Have all hostile objects ask *new*; None: they behave."""
    global mischief
    mischief = new


def ask(name: str, behave: Callable[[], Any]) -> Any:
    """Do what the mischief in use makes of the method *name*."""
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


def _hostile(base: type, *names: str) -> Any:
    """Return a subclass of *base* whose methods *names*, as far as *base* has them, are hostile."""
    wanted = " ".join([_COMMON, *names]).split()
    body = {name: _method(base, name) for name in wanted if hasattr(base, name) or name == "__del__"}
    return type(f"Hostile{base.__name__.title()}", (base,), body)


HostileStr = _hostile(str, _SIZED, _TEXT)
HostileBytes = _hostile(bytes, _SIZED, _TEXT)
HostileInt = _hostile(int, _NUMBER)
HostileFloat = _hostile(float, _NUMBER)
HostileList = _hostile(list, _SIZED, _FILLED)
HostileTuple = _hostile(tuple, _SIZED, _FILLED)
HostileDict = _hostile(dict, _SIZED, _FILLED)
HostileObject = _hostile(object, "__len__ __iter__ __getitem__ __index__ keys items __enter__ __exit__ __call__")


class _Map(Mapping):  # type: ignore[type-arg]
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


HostileMapping = _hostile(_Map, _SIZED, _FILLED)


class HostileIterable:
    """Iterates over *items* once, with something in between."""

    def __init__(self, items: Any) -> None:
        self._items = list(items)

    def __iter__(self) -> Iterator[Any]:
        ask("__iter__", lambda: None)
        for item in self._items:
            ask("__next__", lambda: None)
            yield item


class _HostileType(type):
    """A metaclass whose classes do not even tell their name."""

    def __getattribute__(cls, name: str) -> Any:
        return ask(name, lambda: type.__getattribute__(cls, name))


class HostileError(Exception, metaclass=_HostileType):
    """An exception to record, with methods and a class of its own."""

    def __str__(self) -> str:
        return ask("__str__", lambda: "text")  # type: ignore[no-any-return]

    def __setattr__(self, name: str, value: object) -> None:
        ask("__setattr__", lambda: Exception.__setattr__(self, name, value))

    def __getattribute__(self, name: str) -> Any:
        return ask("__getattribute__", lambda: Exception.__getattribute__(self, name))
