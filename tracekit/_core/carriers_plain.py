"""The plain carriers: find and set the fields of wire formats in headers and metadata."""

from __future__ import annotations

import itertools

from ..cython import final
from .codecs_plain import MAX_LABELS, is_a

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

MAX_FIELD_CHARS: Final = 65536
MAX_VALUE_CHARS: Final = 16448  # above the longest value that any format accepts
MAX_NAME_CHARS: Final = 256

_NOTHING: Final = object()


@final
class Sieve:
    """The *fields* of one or more wire formats, and all fields that begin with one of *prefixes*, in carriers.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or bytes, and a value may
    be a list or tuple of them. Fields are found in any case, in a mapping also under their WSGI name
    (``HTTP_TRACEPARENT``). An empty field counts as absent, and anything of another shape is ignored. Subclasses are
    read as the built-in type that they extend, so that none of their methods runs.

    Fields and prefixes are 1 to 256 lower-case ASCII characters. Reads at most 64 KiB in total and the first 64 fields
    with a prefix; a single value is cut just above the longest that any format accepts.
    """

    __slots__ = ("_fields", "_prefixes")

    def __init__(self, fields: Iterable[str] = (), prefixes: Iterable[str] = ()) -> None:
        self._fields = _field_names(fields, "fields")
        self._prefixes = _field_names(prefixes, "prefixes")

    def collect(self, carrier: Any) -> list[Any]:
        """Return the value of each field: None, a text, or a list of several texts.

        With prefixes, the last item is a dict of the fields that begin with one, by lower-case name, or None.
        """
        found = self.sift(carrier) or {}
        values: list[Any] = [found.pop(field, None) for field in self._fields]
        return [*values, found or None] if self._prefixes else values

    def sift(self, carrier: Any) -> dict[str, str | list[str]] | None:
        """Return all fields that ``collect()`` finds in a dict, by lower-case name, or None."""
        found: dict[str, str | list[str]] = {}
        room, prefixed = MAX_FIELD_CHARS, MAX_LABELS
        is_mapping = type(carrier) is not list and hasattr(carrier, "items")
        for key, value in _pairs(carrier, is_mapping):
            name = _name(key, is_mapping)
            is_field = name in self._fields
            if name is None or not (is_field or (prefixed and name.startswith(self._prefixes))):
                continue
            prefixed -= not is_field
            for text in _items(value) if is_a(value, tuple, list) else (value,):
                if not is_a(text, str, bytes):
                    continue
                size = str.__len__(text) if is_a(text, str) else bytes.__len__(text)
                if size == 0 and is_field:  # an empty field counts as absent; a label may be empty
                    continue
                room -= min(size, MAX_VALUE_CHARS)
                if room < 0:
                    return found or None
                _append(found, name, _text(text))
        return found or None

    def put(self, carrier: Any, texts: dict[str, str | None]) -> None:
        """Set *texts*, by name, in *carrier*, a mutable mapping or a list of pairs, and remove all other fields.

        Texts that are None are not set. A list of bytes pairs gets bytes.
        """
        _replace(carrier, texts, self._has)

    def _has(self, key: object) -> bool:
        name = _name(key, False)
        return name is not None and (name in self._fields or name.startswith(self._prefixes))


def put(carrier: Any, name: str, text: str | None) -> None:
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None removes it.

    Fields of that name in another case are removed, because more than one ``traceparent`` counts as none. A list of
    bytes pairs gets bytes.
    """
    if not is_a(name, str):
        raise TypeError(f"name must be str, not {type(name).__name__}")
    _replace(carrier, {name: text}, lambda key: _name(key, False) == name)


def _field_names(names: Iterable[str], parameter: str) -> tuple[str, ...]:
    exact = []
    if isinstance(names, str | bytes):
        raise TypeError(f"{parameter} must be an iterable of str, not {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{parameter} must be str, not {type(name).__name__}")
        name = str.__str__(name)
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isascii() or name != name.lower():
            raise ValueError(
                f"{parameter} must be 1 to {MAX_NAME_CHARS} lower-case ASCII characters: {ascii(name)[:80]}"
            )
        exact.append(name)
    return tuple(exact)


def _pairs(carrier: Any, is_mapping: bool) -> Iterator[tuple[Any, Any]]:
    """Yield the names and values in *carrier*, until the end or a change of the carrier."""
    if isinstance(carrier, str | bytes) or not (is_mapping or hasattr(carrier, "__iter__")):
        raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type(carrier).__name__}")
    pairs = iter(carrier.items() if is_mapping else carrier)
    try:
        # Copying a dict is one step, in which no other thread can change it.
        for pair in list(pairs) if type(carrier) is dict else pairs:
            items = list(itertools.islice(_items(pair), 3)) if is_a(pair, tuple, list) else ()
            if len(items) == 2:
                yield items[0], items[1]
    except RuntimeError:  # a finalizer or another thread has changed the carrier: keep the fields found so far
        pass


def _items(value: Any) -> Iterator[Any]:
    """Iterate over a list or tuple without the methods of a subclass, which could fail or change the carrier."""
    # Not a slice: CPython 3.11 crashes if a finalizer empties a list while it is being sliced.
    return list.__iter__(value) if is_a(value, list) else tuple.__iter__(value)


def _name(key: Any, is_mapping: bool) -> str | None:
    """Return the field name *key* in lower case, or None if it cannot be a field name."""
    if is_a(key, bytes):
        name = bytes.__getitem__(key, slice(MAX_NAME_CHARS + 1)).decode("latin-1")
    elif is_a(key, str):
        name = str.__str__(key)
        if is_mapping and len(name) > 5 and name.startswith("HTTP_"):
            name = name[5:].replace("_", "-")
    else:
        return None
    # str.lower() turns the Kelvin sign into "k".
    return name.lower() if len(name) <= MAX_NAME_CHARS and name.isascii() else None


def _text(text: Any) -> str:
    # Copying a mebibyte would cost more than rejecting it.
    return bytes.__getitem__(text, slice(MAX_VALUE_CHARS)).decode("latin-1") if is_a(text, bytes) else str.__str__(text)


def _append(found: dict[str, str | list[str]], name: str, text: str) -> None:
    earlier = found.get(name)
    if earlier is None:
        found[name] = text
    elif isinstance(earlier, list):
        earlier.append(text)
    else:
        found[name] = [earlier, text]


def _replace(carrier: Any, texts: dict[str, str | None], is_stale: Callable[[object], bool]) -> None:
    if isinstance(carrier, list):
        _replace_pairs(carrier, texts, is_stale)
        return
    if isinstance(carrier, dict):
        # Keys whose values will be replaced stay.
        stale = [
            key for key in list(carrier) if is_stale(key) and not (type(key) is str and texts.get(key) is not None)
        ]
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and in some a new value does not replace the old one.
        stale = [key for key in list(carrier.keys()) if is_stale(key)]
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    for key in stale:
        try:
            del carrier[key]
        except Exception:  # a KeyError, or an error in the key's methods: the key stays
            pass
    for name, text in texts.items():
        if text is not None:
            carrier[name] = text


def _replace_pairs(pairs: list[Any], texts: dict[str, str | None], is_stale: Callable[[object], bool]) -> None:
    held = list(list.__iter__(pairs))
    keys = []
    for pair in held:
        key = next(_items(pair), _NOTHING) if is_a(pair, tuple, list) else _NOTHING
        if key is _NOTHING:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
        keys.append(key)
    as_bytes = bool(keys) and is_a(keys[0], bytes)
    kept = [pair for pair, key in zip(held, keys, strict=True) if not is_stale(key)]
    if len(kept) != len(held):
        pairs[:] = kept
    for name, text in texts.items():
        if text is not None:
            pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))
