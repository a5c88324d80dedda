"""``extract()`` and ``inject()``: between a carrier and a context, in the formats in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ._core.context import SpanContext
from ._core.errors import FormatError
from ._core.guard import type_name
from ._core.misuse import misused
from ._core.span import Span
from .cython import compiled

if not compiled:
    from ._core.free_threading import retire
    from ._core.guard import is_a
    from ._core.scopes import effective, innermost
    from .wire.w3c import _write_both, read_w3c

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core.codecs import Sieve

C = TypeVar("C")

_sieve: Sieve | None = None
_read: Callable[[Any], SpanContext | None] | None = None  # None: W3C's, without a detour
_write: Callable[[SpanContext, Any], None] | None = None


def set_formats(
    sieve: Sieve | None = None,
    read: Callable[[Any], SpanContext | None] | None = None,
    write: Callable[[SpanContext, Any], None] | None = None,
) -> None:
    """Have ``extract()`` call *read*, and ``inject()`` call *write*; without arguments, W3C's.

    *read* gets the fields that *sieve* finds in the carrier, or, without one, the carrier.
    """
    global _sieve, _read, _write
    retire((_sieve, _read, _write))
    _sieve, _read, _write = sieve, read, write


if not compiled:

    def reads_w3c() -> bool:
        """Tell whether ``extract()`` reads the W3C formats only."""
        return _read is None

    def may_hold_w3c(_pairs: list[Any]) -> bool:
        """Tell whether pairs may have a field of the W3C formats; C looks at the lengths and first letters of names."""
        return True


def extract(carrier: Any) -> SpanContext | None:
    """Return the context that *carrier* holds in any of the configured formats, or None: a new trace.

    *carrier* is a mapping, or an iterable of ``(name, value)`` pairs, of str or bytes. Malformed fields count as
    absent. The first format with ids wins, labels are added up. A context without ids (``is_valid`` False) has labels
    or a decision only; a span opened under it is a root that keeps them.
    """
    if _read is None:  # nothing of the program's runs in these two
        if type(carrier) is dict:
            return read_w3c(carrier)
        if type(carrier) is list:
            return read_w3c(carrier) if may_hold_w3c(carrier) else None
    try:
        if type(carrier) is not dict and type(carrier) is not list and not hasattr(carrier, "items"):
            if is_a(carrier, str) or is_a(carrier, bytes) or not hasattr(carrier, "__iter__"):
                raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type_name(carrier)}")
            carrier = list(carrier)  # every format reads it from the start
        if _read is None:
            return read_w3c(carrier)
        if _sieve is not None:
            carrier = _sieve.sift(carrier)
            if carrier is None:
                return None
        return _read(carrier)
    except FormatError:
        return None
    except Exception as error:  # a custom carrier or format
        misused(error)
        return None


def inject(carrier: C, context: SpanContext | Span | None = None) -> C:
    """Write *context*, by default the current one, into *carrier* in every configured format, and return *carrier*.

    *carrier* is a mutable mapping or a list of pairs. Where nothing is current it stays as it is.
    """
    if context is None:
        scope = innermost()
        context = None if scope is None else effective(scope)
        if context is None:
            return carrier
    elif is_a(context, Span):
        context = context.context
    elif not is_a(context, SpanContext):
        misused(TypeError(f"context must be a SpanContext or a Span, not {type_name(context)}"))
        return carrier
    try:
        if _write is None:
            _write_both(context, carrier)
        else:
            _write(context, carrier)
    except Exception as error:  # a carrier that cannot be written to, or a custom format
        misused(error)
    return carrier
