"""The W3C tracestate: a short list in which each tracing vendor propagates one value.

https://www.w3.org/TR/trace-context-2/#tracestate-header
"""

from __future__ import annotations

from .codecs import MAX_STATE_CHARS, MAX_STATE_MEMBERS, count_tracestate, is_state_key, is_state_value
from .errors import FormatError, clip
from .stdlib import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Final

MAX_OT_CHARS: Final = 256
_HEX = frozenset("0123456789abcdef")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_SUBKEY = _LOWER | frozenset("0123456789")
_SUBVALUE = _SUBKEY | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ._-")


class TraceState(Mapping[str, str]):
    """An immutable mapping of vendor key to value, newest first; at most 32 members.

    Text that was received and not changed is sent unchanged, duplicates and white space included.
    """

    __slots__ = ("_text", "_view")

    _text: str
    _view: dict[str, str] | None

    def __new__(cls, members: Mapping[str, str] | None = None) -> TraceState:
        if members is None:
            return make_state("")
        if isinstance(members, TraceState):
            return members
        if not isinstance(members, Mapping):
            raise TypeError(f"members must be a mapping, not {type(members).__name__}")
        texts = [_member(key, value) for key, value in members.items()]
        if len(texts) > MAX_STATE_MEMBERS:
            raise ValueError(f"members must be at most {MAX_STATE_MEMBERS}: {len(texts)}")
        return make_state(",".join(texts))

    @classmethod
    def parse(cls, text: str) -> TraceState:
        """Return the tracestate of *text*, which is kept unchanged.

        Raises ``FormatError`` where a member breaks the Level 2 grammar, or there are more than 32.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}")
        text = str.__str__(text)
        count = count_tracestate(text)
        if count < 0:
            raise FormatError("tracestate", _complaint(text), text)
        return make_state(text.strip(" \t") if count else "")

    def set(self, key: str, value: str) -> TraceState:
        """Return a tracestate with *key* first, as the standard requires of a changed member; a 33rd is dropped."""
        others = [f"{k}={v}" for k, v in self.items() if k != key]
        return make_state(",".join([_member(key, value), *others[: MAX_STATE_MEMBERS - 1]]))

    def decided(self, entry: str) -> str:
        """Return the ``tracestate`` value after a sampling decision that *entry*, checked text or empty, records.

        The members of *entry* come first. An ``ot`` member that was here before loses the threshold of the earlier
        decision and keeps all else, such as ``rv``; a malformed one stays as it is, unless *entry* has one.
        """
        before, newer = self._members(), make_state(entry)._members()
        old, new = parse_ot(before.get("ot", "")), parse_ot(newer.get("ot", ""))
        if not newer and "th" not in old:
            return self._text
        members = newer | {key: value for key, value in before.items() if key not in newer}
        subkeys = new | {key: value for key, value in old.items() if key != "th"}
        if old:
            text = format_ot(subkeys)
            if len(text) > MAX_OT_CHARS:  # drop the threshold: better unknown than wrong
                text = format_ot({key: value for key, value in subkeys.items() if key != "th"})
            members.pop("ot")
            members = {"ot": text, **members} if text else members
        return ",".join([f"{key}={value}" for key, value in list(members.items())[:MAX_STATE_MEMBERS]])

    def sampling(self) -> tuple[int, int]:
        """Return rejection threshold and randomness, 56 bits each, of the ``ot`` member; -1 for one that it lacks.

        https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
        """
        if "ot=" not in self._text:
            return -1, -1
        said = parse_ot(self._members().get("ot", ""))
        threshold, randomness = said.get("th", ""), said.get("rv", "")
        return (
            int(threshold.ljust(14, "0"), 16) if 0 < len(threshold) <= 14 and _HEX.issuperset(threshold) else -1,
            int(randomness, 16) if len(randomness) == 14 and _HEX.issuperset(randomness) else -1,
        )

    def without(self, key: str) -> TraceState:
        """Return a tracestate without *key*."""
        return make_state(",".join([f"{k}={v}" for k, v in self.items() if k != key]))

    def _members(self) -> dict[str, str]:
        view = self._view
        if view is None:
            view = {}
            for member in self._text.split(","):
                key, equals, value = member.strip(" \t").partition("=")
                if equals:
                    view.setdefault(key, value)  # the first of duplicates is the newest
            self._view = view
        return view

    def __getitem__(self, key: str) -> str:
        return self._members()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members())

    def __len__(self) -> int:
        return len(self._members())

    def __bool__(self) -> bool:
        return bool(self._text)

    def __str__(self) -> str:
        """Return the ``tracestate`` value."""
        return self._text

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TraceState):
            return self._text == other._text or list(self.items()) == list(other.items())
        return self._members() == other if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._members().items()))

    def __reduce__(self) -> Any:
        return TraceState.parse, (self._text,)

    def __repr__(self) -> str:
        return f"TraceState({self._members()!r})"


def make_state(text: str) -> TraceState:
    """Return the tracestate with *text*, which has been checked."""
    state = object.__new__(TraceState)
    state._text = text
    state._view = None
    return state


def parse_ot(text: str) -> dict[str, str]:
    """Return the sub-keys of an ``ot`` member by name; none of one that breaks the grammar or names a key twice.

    ``list = key ":" value *( ";" key ":" value )``, at most 256 characters:
    https://opentelemetry.io/docs/specs/otel/trace/tracestate-handling/
    """
    if not 0 < len(text) <= MAX_OT_CHARS:
        return {}
    found: dict[str, str] = {}
    for member in text.split(";"):
        key, colon, value = member.partition(":")
        if not colon or key in found or key[:1] not in _LOWER:
            return {}
        if not _SUBKEY.issuperset(key) or not _SUBVALUE.issuperset(value):
            return {}
        found[key] = value
    return found


def format_ot(subkeys: Mapping[str, str]) -> str:
    """Return the ``ot`` member with *subkeys*."""
    return ";".join([f"{key}:{value}" for key, value in subkeys.items()])


def _member(key: object, value: object) -> str:
    for parameter, text in (("key", key), ("value", value)):
        if not isinstance(text, str):
            raise TypeError(f"a tracestate {parameter} must be str, not {type(text).__name__}")
    name, text = str.__str__(key), str.__str__(value)
    if not is_state_key(name):
        raise ValueError(
            f"a tracestate key must be 1 to 256 of a-z 0-9 _ - * / @, first a letter or digit: {clip(key)}"
        )
    if not is_state_value(text):
        raise ValueError(
            f"a tracestate value must be 1 to 256 printable ASCII but ',' and '=', no space last: {clip(value)}"
        )
    return f"{name}={text}"


def _complaint(text: str) -> str:
    if len(text) > MAX_STATE_CHARS:
        return f"longer than {MAX_STATE_CHARS} characters"
    for member in text.split(","):
        member = member.strip(" \t")
        key, equals, value = member.partition("=")
        if member and not equals:
            return f"a member has no '=': {clip(member)}"
        if member and not is_state_key(key):
            return f"a key must be 1 to 256 of a-z 0-9 _ - * / @, first a letter or digit: {clip(key)}"
        if member and not is_state_value(value):
            return f"a value must be 1 to 256 printable ASCII but ',' and '=': {clip(value)}"
    return f"more than {MAX_STATE_MEMBERS} members"
