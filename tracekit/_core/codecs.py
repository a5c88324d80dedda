"""The plain twin's codecs: hex, ``tracestate`` and ``baggage`` text, and the carriers that hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "HEX",
    "MAX_LABELS",
    "MAX_LABEL_BYTES",
    "MAX_STATE_CHARS",
    "MAX_STATE_MEMBERS",
    "Sieve",
    "check_baggage",
    "collect",
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
    for key, value in labels.items():
        if type(key) is not str or type(value) is not str or not is_label_key(key):
            return None
    return tuple([(key, value, ()) for key, value in labels.items()])


def view_members(members: tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...]) -> dict[str, str]:
    """Return the members of ``baggage`` as a dict, without properties; of members with one key the last."""
    return {key: value for key, value, _ in members}


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
    for key, value, properties in members[:MAX_LABELS]:
        piece = _pair(key, value, escapes)
        for name, setting in properties:
            piece += ";" + _pair(name, setting, escapes)
        size += 1 + len(piece)
        if size > MAX_LABEL_BYTES:
            break
        pieces.append(piece)
    return ",".join(pieces), len(pieces)


def _pair(name: str, value: str | None, escapes: tuple[str, ...]) -> str:
    if not name.isascii():
        raise ValueError("keys must be ASCII")
    return name if value is None else f"{name}={_escape(value, escapes)}"


def collect(carrier: Any, names: tuple[str, ...]) -> list[str | list[str] | None]:
    """Return what *carrier* holds under each of *names*: None, a text, or a list of texts where it came several times.

    A carrier is a mapping or an iterable of ``(name, value)`` pairs; names and values are str or
    bytes, and a value may be a list of them. Names are lowercase ASCII and found in any case, in a
    mapping also as WSGI spells them (``HTTP_TRACEPARENT``). Whatever is shaped otherwise is passed over.
    At most 64 KiB are taken, of one value no more than every format refuses.
    """
    found: list[str | list[str] | None] = [None] * len(names)
    room = MAX_FIELD_CHARS
    is_mapping = hasattr(carrier, "items")
    for pair in carrier.items() if is_mapping else carrier:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            continue
        name, value = pair
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        elif not isinstance(name, str):
            continue
        elif is_mapping and name.startswith("HTTP_"):
            name = name[5:].replace("_", "-")
        if not name.isascii():  # "K" (Kelvin) lowers to "k"
            continue
        name = name.lower()
        if name in names:
            at = names.index(name)
            for text in value if isinstance(value, tuple | list) else (value,):
                if not isinstance(text, str | bytes):
                    continue
                room -= _size(text)
                if room < 0:
                    return found
                _append(found, at, _bounded(text))
    return found


def _size(text: str | bytes) -> int:
    # A subclass may have methods of its own.
    return min(str.__len__(text) if isinstance(text, str) else bytes.__len__(text), MAX_VALUE_CHARS)


def _bounded(text: str | bytes) -> str:
    """Return *text* or octets as text; of octets past all limits what shows that."""
    # To copy a mebibyte would cost more than to refuse it.
    return (
        bytes.__getitem__(text, slice(MAX_VALUE_CHARS)).decode("latin-1")
        if isinstance(text, bytes)
        else str.__str__(text)
    )


def _append(found: list[str | list[str] | None], at: int, text: str) -> None:
    earlier = found[at]
    if earlier is None:
        found[at] = text
    elif isinstance(earlier, list):
        earlier.append(text)
    else:
        found[at] = [earlier, text]


@final
class Sieve:
    """Finds the fields of all formats in a carrier at once: *names*, and names that start with one of *prefixes*."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, names: Iterable[str], prefixes: Iterable[str] = ()) -> None:
        self._names = frozenset(names)
        self._prefixes = tuple(prefixes)

    def sift(self, carrier: Any) -> dict[str, str | list[str]] | None:
        """Return what is found, by its lowercase name, as ``collect`` would; None if nothing is.

        At most 64 KiB are taken, of one value no more than every format refuses, of names with a prefix the first 64:
        what a peer sends is bounded before it is parsed.
        """
        found: dict[str, str | list[str]] | None = None
        room, prefixed = MAX_FIELD_CHARS, 0
        is_mapping = hasattr(carrier, "items")
        for pair in carrier.items() if is_mapping else carrier:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                continue
            name, value = pair
            if isinstance(name, bytes):
                name = name.decode("latin-1")
            elif not isinstance(name, str):
                continue
            elif is_mapping and name.startswith("HTTP_"):
                name = name[5:].replace("_", "-")
            if not name.isascii() or len(name) > MAX_NAME_CHARS:
                continue
            name = name.lower()
            if name not in self._names:
                if not name.startswith(self._prefixes) or prefixed == MAX_LABELS:
                    continue
                prefixed += 1
            for text in value if isinstance(value, tuple | list) else (value,):
                if not isinstance(text, str | bytes):
                    continue
                room -= _size(text)
                if room < 0:
                    return found
                if found is None:
                    found = {}
                text = _bounded(text)
                earlier = found.get(name)
                if earlier is None:
                    found[name] = text
                elif isinstance(earlier, list):
                    earlier.append(text)
                else:
                    found[name] = [earlier, text]
        return found


MAX_FIELD_CHARS: Final = 65536
MAX_VALUE_CHARS: Final = 16448  # past the longest that any format takes
MAX_NAME_CHARS: Final = 256


def put(carrier: Any, name: str, text: str | None) -> None:
    """Set *name* to *text* in *carrier*, a mutable mapping or a list of pairs; None takes it out.

    What stood there under *name* in any case goes: two ``traceparent`` headers are none. A list of
    bytes pairs gets bytes.
    """
    if isinstance(carrier, list):
        _put_pair(carrier, name, text)
    elif isinstance(carrier, dict):
        for key in [key for key in carrier if key != name and _is_named(key, name)]:
            del carrier[key]
        if text is not None:
            carrier[name] = text
        else:
            carrier.pop(name, None)
    elif hasattr(carrier, "keys") and hasattr(carrier, "__setitem__"):
        # Some mappings ignore case, and some add to what is there where others replace it.
        for key in [key for key in carrier.keys() if _is_named(key, name)]:  # noqa: SIM118 - not all iterate
            try:
                del carrier[key]
            except KeyError:
                pass
        if text is not None:
            carrier[name] = text
    else:
        raise TypeError(f"carrier must be a mutable mapping or a list of pairs, not {type(carrier).__name__}")


def _put_pair(pairs: list[Any], name: str, text: str | None) -> None:
    for pair in pairs:
        if not isinstance(pair, tuple | list) or not pair:
            raise TypeError(f"carrier must be a list of pairs, not of {type(pair).__name__}")
    as_bytes = bool(pairs) and isinstance(pairs[0][0], bytes)
    pairs[:] = [pair for pair in pairs if not _is_named(pair[0], name)]
    if text is not None:
        pairs.append((name.encode(), text.encode()) if as_bytes else (name, text))


def _is_named(key: object, name: str) -> bool:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    return isinstance(key, str) and key.isascii() and key.lower() == name
