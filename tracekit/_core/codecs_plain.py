"""The plain twin's codecs: hex, ``tracestate`` and ``baggage`` text, and the carriers that hold them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "HEX",
    "MAX_LABELS",
    "MAX_LABEL_BYTES",
    "MAX_STATE_CHARS",
    "MAX_STATE_MEMBERS",
    "Sieve",
    "check_baggage",
    "count_tracestate",
    "escape_label",
    "format_baggage",
    "is_label_key",
    "is_state_key",
    "is_state_value",
    "join_baggage",
    "make_members",
    "parse_baggage",
    "parse_hex",
    "put",
    "strip_space",
    "unescape_label",
    "utf8",
    "view_members",
]

HEX: Final = frozenset("0123456789abcdef")


def parse_hex(text: str, digits: int) -> int:
    """Return the id that *text* spells, or 0 if it is not *digits* lowercase hex digits."""
    # int(text, 16) alone would also take "_", "+", spaces and full-width digits.
    if len(text) != digits or not text or not HEX.issuperset(text):
        return 0
    return int(text, 16)


_STATE_KEY_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_STATE_KEY = _STATE_KEY_FIRST | frozenset("_-*/@")
_STATE_VALUE = frozenset(map(chr, range(0x20, 0x7F))) - frozenset(",=")
_HEX_ANY = frozenset(b"0123456789abcdefABCDEF")
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BAGGAGE_VALUE = frozenset(map(chr, range(0x21, 0x7F))) - frozenset('",;\\')
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")
_ESCAPES = tuple(chr(octet) if octet in _UNRESERVED else f"%{octet:02X}" for octet in range(256))
_FEW_ESCAPES = tuple(
    chr(octet) if chr(octet) in _BAGGAGE_VALUE and octet != 0x25 else f"%{octet:02X}" for octet in range(256)
)

MAX_STATE_MEMBERS: Final = 32
MAX_STATE_CHARS: Final = 32 * (256 + 1 + 256) + 31
MAX_LABELS: Final = 64
MAX_LABEL_BYTES: Final = 8192
MAX_FIELD_CHARS: Final = 65536
MAX_VALUE_CHARS: Final = 16448  # above the longest value that any format accepts
MAX_NAME_CHARS: Final = 256

_NOTHING: Final = object()


def count_tracestate(text: str) -> int:
    """Return how many members a ``tracestate`` value has, or -1 if it breaks the Level 2 grammar or has more than 32.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    if len(text) > MAX_STATE_CHARS:
        return -1
    count = 0
    for member in text.split(","):
        # Leading spaces belong to a value, but a member begins with its key: both ends are optional white space.
        member = member.strip(" \t")
        if not member:
            continue
        key, equals, value = member.partition("=")
        if not equals or not is_state_key(key) or not is_state_value(value):
            return -1
        count += 1
    return count if count <= MAX_STATE_MEMBERS else -1


def is_state_key(key: str) -> bool:
    """Tell whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _-*/@``, first a letter or digit."""
    return 0 < len(key) <= 256 and key[0] in _STATE_KEY_FIRST and _STATE_KEY.issuperset(key)


def is_state_value(value: str) -> bool:
    """Tell whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space last."""
    return 0 < len(value) <= 256 and value[-1] != " " and _STATE_VALUE.issuperset(value)


def is_label_key(key: str) -> bool:
    """Tell whether *key* is an RFC 7230 token, which is what a label's key must be."""
    return bool(key) and _TOKEN.issuperset(key)


def strip_space(text: str) -> str:
    """Return *text* without spaces and tabs around it."""
    return text.strip(" \t")


def escape_label(value: str) -> str:
    """Return *value* percent-encoded as UTF-8 (RFC 3986), so that no character of it can end a member or a header.

    Lone surrogates, which UTF-8 cannot hold, go out as U+FFFD.
    """
    return _escape(value, _ESCAPES)


def _escape(value: str, escapes: tuple[str, ...]) -> str:
    return "".join([escapes[octet] for octet in utf8(value)])


def utf8(text: str) -> bytes:
    """Return *text* in UTF-8, lone surrogates as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def unescape_label(text: str) -> str:
    """Return ASCII *text* with every ``%XX`` decoded as UTF-8; what is no UTF-8 becomes U+FFFD, a lone ``%`` stays."""
    if "%" not in text:
        return text
    head, *parts = text.encode("ascii").split(b"%")
    octets = bytearray(head)
    for part in parts:
        # bytes.fromhex alone would also take white space, or nothing at all.
        if len(part) >= 2 and _HEX_ANY.issuperset(part[:2]):
            octets += bytes.fromhex(part[:2].decode()) + part[2:]
        else:
            octets += b"%" + part
    return octets.decode("utf-8", "replace")


def parse_baggage(text: str) -> tuple[tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...], int]:
    """Return the members of a ``baggage`` value as ``(key, value, properties)``, and how many were left out.

    A member that breaks the grammar is left out alone; so is all past 64 members or 8192 bytes, where
    the count goes no further than 16384.
    https://www.w3.org/TR/baggage/#header-content
    """
    dropped = 0
    if len(text) > MAX_LABEL_BYTES:
        # Whole members only: cut at the last comma that the limit allows.
        cut = text.rfind(",", 0, MAX_LABEL_BYTES + 1)
        rest = text[cut + 1 : 2 * MAX_LABEL_BYTES].split(",")
        dropped = sum([piece.strip(" \t") != "" for piece in rest])
        text = text[: max(cut, 0)]
    members: list[tuple[str, str, tuple[tuple[str, str | None], ...]]] = []
    for piece in text.split(","):
        piece = piece.strip(" \t")
        if not piece:
            continue
        member = _parse_member(piece)
        if member is None or len(members) == MAX_LABELS:
            dropped += 1
        else:
            members.append(member)
    return tuple(members), dropped


def _parse_member(piece: str) -> tuple[str, str, tuple[tuple[str, str | None], ...]] | None:
    first, *rest = piece.split(";")
    key, equals, value = first.partition("=")
    key, value = key.strip(" \t"), value.strip(" \t")
    if not equals or not is_label_key(key) or not _BAGGAGE_VALUE.issuperset(value):
        return None
    properties: list[tuple[str, str | None]] = []
    for text in rest:
        name, equals, setting = text.partition("=")
        name, setting = name.strip(" \t"), setting.strip(" \t")
        if not is_label_key(name) or not _BAGGAGE_VALUE.issuperset(setting):
            return None
        properties.append((name, unescape_label(setting) if equals else None))
    return key, unescape_label(value), tuple(properties)


def check_baggage(text: str) -> int:
    """Return how many members a ``baggage`` value has, or -1 if any of it would have to be left out or put right."""
    members, dropped = parse_baggage(text)
    return -1 if dropped or text.count(",") != len(members) - 1 else len(members)


def make_members(labels: Any) -> tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...] | None:
    """Return a dict of str as members of ``baggage``; None where it is not that, or a key is none of a label."""
    if type(labels) is not dict:
        return None
    pairs = list(labels.items())  # a copy: another thread may change the dict
    for key, value in pairs:
        if type(key) is not str or type(value) is not str or not is_label_key(key):
            return None
    return tuple([(key, value, ()) for key, value in pairs])


def view_members(members: tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...]) -> dict[str, str]:
    """Return the members of ``baggage`` as a dict, without properties; of members with one key the last."""
    view = {}
    for member in members:
        _check_member(member)
        view[member[0]] = member[1]
    return view


def _check_member(member: object) -> None:
    if type(member) is not tuple or len(member) != 3 or type(member[2]) is not tuple:
        raise TypeError("members must be tuples of a key, a value and a tuple of properties")


def join_baggage(texts: list[str]) -> str:
    """Join repeated ``baggage`` fields, no further than the limit on all of them reaches."""
    joined: list[str] = []
    size = 0
    for text in texts:
        joined.append(text)
        size += 1 + len(text)
        if size > MAX_LABEL_BYTES:
            break
    return ",".join(joined)


def format_baggage(members: Iterable[tuple[str, str, tuple[tuple[str, str | None], ...]]]) -> tuple[str, int]:
    """Return the ``baggage`` value of *members*, and how many of them it holds.

    Members are left out from the end, whole, past 64 or 8192 bytes. Where they do not fit otherwise, no
    more is percent-encoded than must be.
    """
    members = tuple(members)
    text, kept = _format_baggage(members, _ESCAPES)
    return (text, kept) if kept == min(len(members), MAX_LABELS) else _format_baggage(members, _FEW_ESCAPES)


def _format_baggage(
    members: tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...], escapes: tuple[str, ...]
) -> tuple[str, int]:
    pieces: list[str] = []
    size = -1  # the first member has no comma before it
    for member in members[:MAX_LABELS]:
        _check_member(member)
        key, value, properties = member
        if value is None:
            raise TypeError("values must be str, not NoneType")
        piece = _pair(key, value, escapes)
        for setting in properties:
            if type(setting) is not tuple or len(setting) != 2:
                raise TypeError("properties must be tuples of a name and a value")
            piece += ";" + _pair(*setting, escapes)
        size += 1 + len(piece)
        if size > MAX_LABEL_BYTES:
            break
        pieces.append(piece)
    return ",".join(pieces), len(pieces)


def _pair(name: str, value: str | None, escapes: tuple[str, ...]) -> str:
    for text in (name, value):
        if not _is_a(text, str) and (text is not value or value is not None):
            raise TypeError(f"members must hold str, not {type(text).__name__}")
    if not str.isascii(name):
        raise ValueError("keys must be ASCII")
    name = str.__str__(name)
    return name if value is None else f"{name}={_escape(str.__str__(value), escapes)}"


@final
class Sieve:
    """Reads and writes the *fields* of wire formats, and all fields that begin with one of *prefixes*, in a carrier.

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
        """Return the value of each field: None, a text, or a list of texts where it has several.

        Where there are prefixes, one more item is a dict of the fields that have one, by lower-case name, or None.
        """
        found = self.sift(carrier) or {}
        values: list[Any] = [found.pop(field, None) for field in self._fields]
        return [*values, found or None] if self._prefixes else values

    def sift(self, carrier: Any) -> dict[str, str | list[str]] | None:
        """Return a dict of all that ``collect()`` finds, by lower-case name, or None."""
        found: dict[str, str | list[str]] = {}
        room, prefixed = MAX_FIELD_CHARS, MAX_LABELS
        is_mapping = type(carrier) is not list and hasattr(carrier, "items")
        for key, value in _pairs(carrier, is_mapping):
            name = _name(key, is_mapping)
            is_field = name in self._fields
            if name is None or not (is_field or (prefixed and name.startswith(self._prefixes))):
                continue
            prefixed -= not is_field
            for text in _items(value) if _is_a(value, tuple, list) else (value,):
                if not _is_a(text, str, bytes):
                    continue
                size = str.__len__(text) if _is_a(text, str) else bytes.__len__(text)
                if size == 0 and is_field:  # a label may be empty, any other field is then as good as absent
                    continue
                room -= min(size, MAX_VALUE_CHARS)
                if room < 0:
                    return found or None
                _append(found, name, _text(text))
        return found or None

    def put(self, carrier: Any, texts: dict[str, str | None]) -> None:
        """Set *texts*, by name, in *carrier*, a mutable mapping or a list of pairs, and remove all other fields.

        A None is not set. A list of bytes pairs gets bytes.
        """
        _replace(carrier, texts, self._has)

    def _has(self, key: object) -> bool:
        name = _name(key, False)
        return name is not None and (name in self._fields or name.startswith(self._prefixes))


def put(carrier: Any, name: str, text: str | None) -> None:
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None removes it.

    Fields of that name in another case are removed: more than one ``traceparent`` counts as none. A list of bytes pairs
    gets bytes.
    """
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


def _is_a(value: object, *types: type) -> bool:
    # isinstance() would also ask the value's __class__, which may be a property of the program's.
    return issubclass(type(value), types)


def _pairs(carrier: Any, is_mapping: bool) -> Iterator[tuple[Any, Any]]:
    """Return the pairs of *carrier*, no further than it can be iterated over."""
    if isinstance(carrier, str | bytes) or not (is_mapping or hasattr(carrier, "__iter__")):
        raise TypeError(f"carrier must be a mapping or an iterable of pairs, not {type(carrier).__name__}")
    pairs = iter(carrier.items() if is_mapping else carrier)
    try:
        # A dict is copied in one step, so that no other thread changes it in the middle.
        for pair in list(pairs) if type(carrier) is dict else pairs:
            items = list(itertools.islice(_items(pair), 3)) if _is_a(pair, tuple, list) else ()
            if len(items) == 2:
                yield items[0], items[1]
    except RuntimeError:  # a finaliser or another thread changed it all the same: what was found stands
        pass


def _items(value: Any) -> Iterator[Any]:
    """Return what a list or tuple holds; of subclasses no method runs, so that none can fail or change a carrier."""
    # An iterator, not a slice: a finaliser that empties the list while CPython 3.11 makes a slice of it crashes that.
    return list.__iter__(value) if _is_a(value, list) else tuple.__iter__(value)


def _name(key: Any, is_mapping: bool) -> str | None:
    """Return the name that *key* spells, in lower case; None if it cannot be one."""
    if _is_a(key, bytes):
        name = bytes.__getitem__(key, slice(MAX_NAME_CHARS + 1)).decode("latin-1")
    elif _is_a(key, str):
        name = str.__str__(key)
        if is_mapping and len(name) > 5 and name.startswith("HTTP_"):
            name = name[5:].replace("_", "-")
    else:
        return None
    # Lowering what is not ASCII would make a "k" of the Kelvin sign.
    return name.lower() if len(name) <= MAX_NAME_CHARS and name.isascii() else None


def _text(text: Any) -> str:
    # To copy a mebibyte would cost more than to reject it.
    return (
        bytes.__getitem__(text, slice(MAX_VALUE_CHARS)).decode("latin-1") if _is_a(text, bytes) else str.__str__(text)
    )


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
        # A key that is going to be replaced keeps its place.
        stale = [
            key for key in list(carrier) if is_stale(key) and not (type(key) is str and texts.get(key) is not None)
        ]
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        stale = [key for key in list(carrier.keys()) if is_stale(key)]
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")
    for key in stale:
        try:
            del carrier[key]
        except Exception:  # a KeyError, or an error of the key's own methods, which costs that key only
            pass
    for name, text in texts.items():
        if text is not None:
            carrier[name] = text


def _replace_pairs(pairs: list[Any], texts: dict[str, str | None], is_stale: Callable[[object], bool]) -> None:
    held = list(list.__iter__(pairs))
    keys = []
    for pair in held:
        key = next(_items(pair), _NOTHING) if _is_a(pair, tuple, list) else _NOTHING
        if key is _NOTHING:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
        keys.append(key)
    as_bytes = bool(keys) and _is_a(keys[0], bytes)
    kept = [pair for pair, key in zip(held, keys, strict=True) if not is_stale(key)]
    if len(kept) != len(held):
        pairs[:] = kept
    for name, text in texts.items():
        if text is not None:
            pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))
