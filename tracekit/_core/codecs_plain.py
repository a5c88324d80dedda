"""The plain codecs: hex, ``tracestate`` and ``baggage`` text."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    Member = tuple[str, str, tuple[tuple[str, str | None], ...]]  # of baggage: key, value, properties

HEX: Final = frozenset("0123456789abcdef")


def is_a(value: object, *types: type) -> bool:
    """Like ``isinstance()``, but without calling ``value.__class__``, which may be a property."""
    return issubclass(type(value), types)


def parse_hex(text: str, digits: int) -> int:
    """Return the id that *text* spells, or 0 if it is not *digits* lowercase hex digits."""
    # int(text, 16) alone also accepts "_", "+", spaces and full-width digits.
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
    """Return the number of members in a ``tracestate`` value, or -1 for over 32 or for an error in the Level 2 grammar.

    https://www.w3.org/TR/trace-context-2/#tracestate-header
    """
    if len(text) > MAX_STATE_CHARS:
        return -1
    count = 0
    for member in text.split(","):
        # A value may begin with spaces, a member may not: white space at its ends is optional.
        member = member.strip(" \t")
        if not member:
            continue
        key, equals, value = member.partition("=")
        if not equals or not is_state_key(key) or not is_state_value(value):
            return -1
        count += 1
    return count if count <= MAX_STATE_MEMBERS else -1


def is_state_key(key: str) -> bool:
    """Return whether *key* is a Level 2 ``tracestate`` key: 1 to 256 of ``a-z 0-9 _-*/@``, first a letter or digit."""
    return 0 < len(key) <= 256 and key[0] in _STATE_KEY_FIRST and _STATE_KEY.issuperset(key)


def is_state_value(value: str) -> bool:
    """Return whether *value* is a ``tracestate`` value: 1 to 256 printable ASCII but ``,`` and ``=``, no space last."""
    return 0 < len(value) <= 256 and value[-1] != " " and _STATE_VALUE.issuperset(value)


def is_label_key(key: str) -> bool:
    """Return whether *key* is an RFC 7230 token, as a label's key must be."""
    return bool(key) and _TOKEN.issuperset(key)


def strip_space(text: str) -> str:
    """Return *text* without spaces and tabs around it."""
    return text.strip(" \t")


def escape_label(value: str) -> str:
    """Return *value* percent-encoded as UTF-8 (RFC 3986), so that no character in it can end a member or a header.

    Lone surrogates, which UTF-8 cannot express, become U+FFFD.
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
    """Return ASCII *text* with every ``%XX`` decoded as UTF-8; invalid UTF-8 becomes U+FFFD, a lone ``%`` stays."""
    if "%" not in text:
        return text
    head, *parts = text.encode("ascii").split(b"%")
    octets = bytearray(head)
    for part in parts:
        # bytes.fromhex() alone also accepts white space and an empty string.
        if len(part) >= 2 and _HEX_ANY.issuperset(part[:2]):
            octets += bytes.fromhex(part[:2].decode()) + part[2:]
        else:
            octets += b"%" + part
    return octets.decode("utf-8", "replace")


def parse_baggage(text: str) -> tuple[tuple[Member, ...], int]:
    """Return the members of a ``baggage`` value as ``(key, value, properties)``, and the number of dropped ones.

    A malformed member is dropped alone, and so are members past 64 or past 8192 bytes. The count covers the first 16384
    characters.
    https://www.w3.org/TR/baggage/#header-content
    """
    dropped = 0
    if len(text) > MAX_LABEL_BYTES:
        # Drop whole members: cut at the last comma within the limit.
        cut = text.rfind(",", 0, MAX_LABEL_BYTES + 1)
        rest = text[cut + 1 : 2 * MAX_LABEL_BYTES].split(",")
        dropped = sum([piece.strip(" \t") != "" for piece in rest])
        text = text[: max(cut, 0)]
    members: list[Member] = []
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


def _parse_member(piece: str) -> Member | None:
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
    """Return the number of members in a ``baggage`` value, or -1 if it is not to be sent on unchanged."""
    members, dropped = parse_baggage(text)
    return -1 if dropped or text.count(",") != len(members) - 1 else len(members)


def make_members(labels: Any) -> tuple[Member, ...] | None:
    """Return the members of ``baggage`` for a dict of str to str; None for anything else or an invalid key."""
    if type(labels) is not dict:
        return None
    pairs = list(labels.copy().items())  # a copy, because another thread or a finalizer may change the dict
    for key, value in pairs:
        if type(key) is not str or type(value) is not str or not is_label_key(key):
            return None
    return tuple([(key, value, ()) for key, value in pairs])


def view_members(members: tuple[Member, ...]) -> dict[str, str]:
    """Return the members of ``baggage`` as a dict, without properties; the last member of a key wins."""
    view = {}
    for member in members:
        _check_member(member)
        view[member[0]] = member[1]
    return view


def _check_member(member: object) -> None:
    if type(member) is not tuple or len(member) != 3 or type(member[2]) is not tuple:
        raise TypeError("members must be tuples of a key, a value and a tuple of properties")


def join_baggage(texts: list[str]) -> str:
    """Join repeated ``baggage`` fields, up to the limit on all of them together."""
    joined: list[str] = []
    size = 0
    for text in texts:
        joined.append(text)
        size += 1 + len(text)
        if size > MAX_LABEL_BYTES:
            break
    return ",".join(joined)


def format_baggage(members: Iterable[Member]) -> tuple[str, int]:
    """Return the ``baggage`` value of *members*, and the number of members in it.

    Members past 64 or past 8192 bytes are omitted. If they do not fit otherwise, only the characters that require it
    are percent-encoded.
    """
    members = tuple(members)
    text, kept = _format_baggage(members, _ESCAPES)
    return (text, kept) if kept == min(len(members), MAX_LABELS) else _format_baggage(members, _FEW_ESCAPES)


def _format_baggage(members: tuple[Member, ...], escapes: tuple[str, ...]) -> tuple[str, int]:
    pieces: list[str] = []
    size = -1  # the first member follows no comma
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
    if not is_a(name, str) or not (value is None or is_a(value, str)):
        raise TypeError(f"members must hold str, not {type(value if is_a(name, str) else name).__name__}")
    if not str.isascii(name):
        raise ValueError("keys must be ASCII")
    name = str.__str__(name)
    return name if value is None else f"{name}={_escape(str.__str__(value), escapes)}"
