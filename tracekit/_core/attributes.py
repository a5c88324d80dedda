"""Attribute values: the types that a span keeps, and the conversion of every other value.

Kept as they are: ``str``, ``bool``, ``int``, ``float``, ``bytes``; sequences (as tuples) and mappings (as dicts with
str keys) of those and of ``None``, three levels deep. Subclasses become their plain type.

Converted: UUIDs, decimals, fractions, paths, IP addresses and networks to text; dates, times and durations to ISO 8601;
enum members to their value; NumPy scalars and arrays to numbers and tuples; named tuples and instances of dataclasses,
attrs, pydantic and msgspec to mappings of their fields, without those that their repr leaves out. Any other object
becomes ``str(value)``, with one warning for its type.

A value that cannot be converted, and ``None``, is dropped and counted; within a sequence or mapping it is ``None``.
"""

from __future__ import annotations

import os
from itertools import islice

from .guard import ask, class_name, is_interrupt
from .stdlib import Mapping, MemberDescriptorType, Sequence, Set, ValuesView, index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# The attribute that holds the reason of a cancellation, for formats whose status knows only success and error.
CANCELLED_KEY = "tracekit.cancelled"


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()

_DEPTH = 3  # levels of sequences and mappings
# Bounds on all levels of a value together, as multiples of its limit.
_ELEMENTS = 8
_CHARACTERS = 64
_MAX_INT_BITS = 16384
_WARNINGS = 64  # types
_SEQUENCES = (Sequence, Set, ValuesView)


class Bounded(str):
    """Text with a separate limit, which ``clean`` does not cut. ``cuts`` counts its truncations."""

    cuts = 0


def clean(value: object, limit: int) -> tuple[Any, int]:
    """Return *value* as an attribute, and the number of truncations; ``MISSING`` if it cannot be converted.

    *limit* bounds the characters of a text and the elements of a sequence or mapping. All levels of a value together
    hold at most 8 times as many elements and 64 times as many characters. Never raises.
    """
    kind = type(value)
    if kind is str:
        text: str = value  # type: ignore[assignment]
        return (text, 0) if len(text) <= limit else (text[:limit], 1)
    if kind is int or kind is float or kind is bool:
        return value, 0
    if value is None:
        return MISSING, 0
    if kind is Bounded:
        return str.__str__(value), value.cuts  # type: ignore[attr-defined]
    cleaner = _Cleaner(limit, _ELEMENTS * limit, _CHARACTERS * limit)
    if kind is tuple or kind is list:
        return cleaner.sequence(value, _DEPTH), cleaner.cuts  # type: ignore[arg-type]
    plain = cleaner.element(value, _DEPTH)
    return MISSING if plain is None else plain, cleaner.cuts


def pruned(value: object, limit: int) -> Any:
    """Return a copy of *value* that makes about *limit* characters of text, or ``MISSING`` if *value* itself does.

    Texts, bytes, sequences and mappings are cut, other objects are kept.
    """
    # The repr of an element has at least three characters: "1, ".
    cleaner = _Cleaner(limit, limit // 3 + 1, limit, converts=False)
    copy = cleaner.element(value, 3 * _DEPTH)
    return copy if cleaner.cuts else MISSING


def int_text(number: int) -> str:
    """Return the text of an int for a format that cannot hold it: hexadecimal, as decimal takes quadratic time."""
    return hex(number) if number.bit_length() <= _MAX_INT_BITS else f"<int of {number.bit_length()} bits>"


def unusual_text(number: float) -> str:
    """Return the text of a float that is not finite, for a format that cannot hold it, as OTLP's JSON has it."""
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"


def whole(text: str) -> str:
    """Return *text* with U+FFFD for each lone surrogate, which UTF-8 cannot hold."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Cleaner:
    """The conversion of one value: the bounds that are left, and the truncations so far."""

    __slots__ = ("characters", "converts", "cuts", "elements", "limit")

    def __init__(self, limit: int, elements: int, characters: int, converts: bool = True) -> None:
        self.limit = limit
        self.elements = elements
        self.characters = characters
        self.converts = converts
        self.cuts = 0

    def element(self, value: Any, depth: int) -> Any:
        """Return *value* converted, or ``MISSING`` if that raises."""
        try:
            return self.convert(type(value), value, depth)
        except Exception:
            return MISSING
        except BaseException as error:
            if is_interrupt(error):
                raise
            return MISSING

    def convert(self, kind: Any, value: Any, depth: int) -> Any:
        if kind is tuple or kind is list:
            return self.sequence(value, depth)
        if kind is dict and len(value) <= self.limit:
            # A copy is listed: list() may collect garbage, whose finalizers may change *value*.
            return self.mapping(list(value.copy().items()), depth)
        # Not isinstance(), which asks a value for its __class__.
        if issubclass(kind, str):
            return self.text(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, int):
            return int.__int__(value)
        if issubclass(kind, float):
            return float.__float__(value)
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return self.octets(kind, value)
        if issubclass(kind, (tuple, list)):
            names = getattr(kind, "_fields", None)
            if type(names) is tuple and self.converts:
                return self.mapping(zip(names, value, strict=True), depth)
            return self.sequence(value, depth)
        if issubclass(kind, dict) or issubclass(kind, Mapping):
            return self.mapping(value.items(), depth)
        if not self.converts:
            return self.sequence(value, depth) if issubclass(kind, _SEQUENCES) else value
        simpler = _known(kind, value, self.limit)
        if simpler is MISSING:
            if issubclass(kind, _SEQUENCES):
                return self.sequence(value, depth)
            simpler = _fields(kind, value, self.limit)
        if simpler is MISSING:
            simpler = _protocol(kind, value)
        if simpler is MISSING:
            _warn(kind)
            simpler = str(value)
        self.elements -= 1
        return self.convert(type(simpler), simpler, depth) if self.elements >= 0 else MISSING

    def text(self, value: str) -> str:
        size, room = str.__len__(value), min(self.limit, self.characters)
        if size > room:
            self.cuts += 1
            value, size = str.__getitem__(value, slice(room)), room
        self.characters -= size
        return str.__str__(value)

    def octets(self, kind: Any, value: Any) -> Any:
        room = min(self.limit, self.characters)
        if issubclass(kind, bytes):
            octets = bytes.__getitem__(value, slice(room + 1))
        elif issubclass(kind, bytearray):
            octets = bytes(bytearray.__getitem__(value, slice(room + 1)))
        elif value.nbytes <= room:
            octets = value.tobytes()
        elif value.c_contiguous:
            octets = value.cast("B")[: room + 1].tobytes()
        else:
            return MISSING
        if len(octets) > room:
            self.cuts += 1
            octets = octets[:room]
        self.characters -= len(octets)
        return octets

    def sequence(self, value: Iterable[Any], depth: int) -> Any:
        return tuple([self.member(item, depth - 1) for item in self.read(value)]) if depth else MISSING

    def mapping(self, pairs: Iterable[Any], depth: int) -> Any:
        if depth == 0:
            return MISSING
        kept: dict[Any, Any] = {}
        for pair in self.read(pairs):
            if type(pair) is not tuple or len(pair) != 2:
                self.cuts += 1
                continue
            key = self.member(pair[0], 0)
            if key is None and pair[0] is not None:  # counted already
                continue
            if type(key) is not str and self.converts:
                key = self.text(key.decode("utf-8", "replace") if type(key) is bytes else ask(str, key, ""))
            kept[key] = self.member(pair[1], depth - 1)
        return kept

    def member(self, item: Any, depth: int) -> Any:
        """Return a member of a sequence or mapping converted. One that cannot be is counted and becomes ``None``."""
        kind = type(item)
        if kind is str:
            size = len(item)
            if size <= self.limit and size <= self.characters:
                self.characters -= size
                return item
        elif item is None or kind is int or kind is float or kind is bool:
            return item
        plain = self.element(item, depth)
        if plain is MISSING:
            self.cuts += 1
            return None
        return plain

    def read(self, items: Iterable[Any]) -> Sequence[Any]:
        """Return the first elements of *items*, as many as there is room for, without asking for its length."""
        room = min(self.limit, self.elements)
        if type(items) is tuple or type(items) is list:
            self.cuts += len(items) > room
            self.elements -= min(len(items), room)
            return items[:room]
        kept: list[Any] = []
        iterator = iter(items)
        try:
            for item in iterator:
                if len(kept) == room:
                    self.cuts += 1
                    break
                kept.append(item)
        except Exception:
            self.cuts += 1
        except BaseException as error:
            if is_interrupt(error):
                raise
            self.cuts += 1
        self.elements -= len(kept)
        return kept


def _duration(value: Any) -> str:
    """Return a timedelta as an ISO 8601 duration; the sign goes first, as in ISO 8601-2."""
    micros: int = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    seconds, fraction = divmod(abs(micros), 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    text = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if seconds or fraction:
        text += f"{seconds}.{fraction:06}".rstrip("0").rstrip(".") + "S"
    elif not text and not days:
        text = "0S"
    sign = "-" if micros < 0 else ""
    return f"{sign}P" + f"{days}D" * bool(days) + f"T{text}" * bool(text)


def _numpy_scalar(value: Any) -> Any:
    if value.dtype.kind == "M":
        return str(value)  # a datetime has no nanoseconds
    if value.dtype.kind == "m":
        return value.astype("timedelta64[us]").item()
    item = value.item()
    if type(item) is not type(value):
        return item
    return float(value) if value.dtype.kind == "f" else str(value)  # a long double


# By name, as importing these modules would slow down every program that does not use them.
_CONVERSIONS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("builtins", "complex"): str,
    ("collections", "UserString"): str,
    ("datetime", "date"): lambda value: value.isoformat(),
    ("datetime", "time"): lambda value: value.isoformat(),
    ("datetime", "timedelta"): _duration,
    ("decimal", "Decimal"): str,
    ("enum", "Enum"): lambda value: value.value,
    ("fractions", "Fraction"): str,
    ("ipaddress", "IPv4Address"): str,
    ("ipaddress", "IPv4Network"): str,
    ("ipaddress", "IPv6Address"): str,
    ("ipaddress", "IPv6Network"): str,
    ("numpy", "generic"): _numpy_scalar,
    ("uuid", "UUID"): str,
}
_mro: Any = type.__dict__["__mro__"].__get__
_module: Any = type.__dict__["__module__"].__get__
_name: Any = type.__dict__["__name__"].__get__


def _known(kind: Any, value: Any, limit: int) -> Any:
    """Return a simpler form of *value* if its class derives from one in the table, else ``MISSING``."""
    for base in _mro(kind):
        name = _module(base), _name(base)
        if name == ("numpy", "ndarray"):
            if value.ndim == 0:
                return value[()]
            part = value[: limit + 1]
            return part.tolist() if value.ndim == 1 and value.dtype.kind not in "mM" else list(part)
        if name in _CONVERSIONS:
            return _CONVERSIONS[name](value)
    return MISSING


# Where dataclasses, attrs, pydantic (2.10, 2.0 and 1.0) and msgspec keep the fields of a class.
_FIELDS = (
    "__dataclass_fields__",
    "__attrs_attrs__",
    "__pydantic_fields__",
    "model_fields",
    "__fields__",
    "__struct_fields__",
)


def _fields(kind: Any, value: Any, limit: int) -> Any:
    """Return the fields of *value* as a dict, or ``MISSING`` if its class declares none. Properties are not called."""
    for name in _FIELDS:
        fields: Any = getattr(kind, name, None)
        if type(fields) is dict or issubclass(type(fields), tuple):
            break
    else:
        return MISSING
    members = ask(_members, value)
    found: dict[str, Any] = {}
    for field in islice(fields, limit + 1):
        name = field if type(field) is str else field.name
        # A set field is in __dict__ or in a slot; a descriptor in its place might query a database.
        item = members.get(name, MISSING) if type(members) is dict else MISSING
        if item is MISSING:
            slot = getattr(kind, name, None)
            item = ask(slot.__get__, value, MISSING) if type(slot) is MemberDescriptorType else MISSING
        shown = getattr(fields[name] if type(fields) is dict else field, "repr", True)
        if shown and item is not MISSING:
            found[name] = shown(item) if callable(shown) else item
    return found if found or not fields else MISSING


def _members(value: Any) -> Any:
    return object.__getattribute__(value, "__dict__")


def _protocol(kind: Any, value: Any) -> Any:
    """Return *value* as an int or as a path if its class says that it is one, else ``MISSING``."""
    if hasattr(kind, "__index__"):
        return ask(index, value, MISSING)
    return ask(os.fsdecode, value, MISSING) if hasattr(kind, "__fspath__") else MISSING


_warned: set[str] = set()


def _warn(kind: type) -> None:
    """Log, once for each class, that its instances are recorded as text."""
    _, name = class_name(kind)
    if name in _warned or len(_warned) >= _WARNINGS:
        return
    _warned.add(name)
    from .log import log  # most programs never need it

    log("warning", "an attribute of type %s is recorded as str(value); pass a str, number, sequence or mapping", name)
