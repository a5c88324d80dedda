"""The W3C tracestate: a short list in which each vendor passes its own word along.

https://www.w3.org/TR/trace-context-2/#tracestate-header
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._accel import MAX_STATE_CHARS, MAX_STATE_MEMBERS, count_tracestate, is_state_key, is_state_value
from ._errors import FormatError, clip

__all__ = ["TraceState", "make_state"]


class TraceState(Mapping[str, str]):
    """An immutable mapping of vendor key to value, newest first; at most 32 members.

    Text that came in and was not changed goes out as it came, duplicates and white space between them included.
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
        """Return the tracestate that *text* spells, kept to the letter.

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
        """Return a tracestate with *key* first, as the standard wants of a changed member; a 33rd pushes out the last."""
        others = [f"{k}={v}" for k, v in self.items() if k != key]
        return make_state(",".join([_member(key, value), *others[: MAX_STATE_MEMBERS - 1]]))

    def put_first(self, text: str) -> str:
        """Return the ``tracestate`` value with the members of *text*, which has been checked, before these."""
        newer = make_state(text)
        others = [f"{k}={v}" for k, v in self.items() if k not in newer]
        return ",".join([text, *others[: MAX_STATE_MEMBERS - len(newer)]])

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
                    view.setdefault(key, value)  # of duplicates the first is the newest
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
