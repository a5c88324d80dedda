"""Calls to methods of the program's objects, which may raise anything."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeGuard, TypeVar

    T = TypeVar("T")

_NAME = 512  # characters of the name of a class

# Read past the metaclass, which may define attributes with these names.
_name: Any = type.__dict__["__name__"].__get__
_qualname: Any = type.__dict__["__qualname__"].__get__
_module: Any = type.__dict__["__module__"].__get__
_traceback: Any = BaseException.__dict__["__traceback__"].__get__

_PACKAGE = __name__.partition(".")[0]
_CO_OPTIMIZED = 1  # the flag of a function: the f_locals of a class body may be an object of the program


def ask(function: Callable[[Any], Any], value: Any, default: Any = None) -> Any:
    """Return ``function(value)``, or *default* if that raises. Exceptions of signal handlers pass through."""
    try:
        return function(value)
    except Exception:
        return default
    except BaseException as error:
        if is_interrupt(error):
            raise
        return default


def is_a(value: object, kind: type[T]) -> TypeGuard[T]:
    """Return whether the class of *value* is *kind* or derives from it, as C checks it.

    ``isinstance()`` also asks the value for its ``__class__``: that of a proxy or a mock is the class of another object,
    and a proxy may raise.
    """
    return issubclass(type(value), kind)


def acts_as(value: object, kind: type) -> bool:
    """Return ``isinstance(value, kind)`` for an abstract class, which proxies may name as theirs; False if that raises."""
    return bool(ask(lambda value: isinstance(value, kind), value, False))


def is_interrupt(error: BaseException) -> bool:
    """Return whether a signal handler raised *error*, which is no ``Exception``, rather than a method of an object.

    The default handler of SIGINT has no frame: a Ctrl-C during a method of an object cannot be told from an error of it.
    """
    entry = _traceback(error)
    while entry is not None and entry.tb_next is not None:
        interrupted, entry = entry.tb_frame, entry.tb_next
        frame = entry.tb_frame
        # The second argument of a handler is the interrupted frame.
        if frame.f_code.co_flags & _CO_OPTIMIZED and any(value is interrupted for value in frame.f_locals.values()):
            return True
    if entry is None or type(error) is not KeyboardInterrupt:
        return False
    module = entry.tb_frame.f_globals.get("__name__")
    return type(module) is str and module.partition(".")[0] == _PACKAGE


def class_name(kind: type) -> tuple[str, str]:
    """Return the name of *kind*, and its qualified name with its module unless it is a built-in class."""
    name = plain_text(ask(_name, kind), _NAME)
    qualified = plain_text(ask(_qualname, kind), _NAME)
    module = plain_text(ask(_module, kind), _NAME)
    return name, qualified if module in ("", "builtins") else f"{module}.{qualified}"


def type_name(value: object) -> str:
    """Return the name of the class of *value*, for messages. A metaclass of the program cannot make it raise."""
    return class_name(type(value))[0]


def plain_text(text: Any, limit: int) -> str:
    """Return at most *limit* characters of *text* as a plain str; empty if it is no str."""
    return str.__getitem__(text, slice(limit)) if issubclass(type(text), str) else ""
