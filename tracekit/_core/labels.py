"""Labels: key-value pairs that a trace propagates to every service downstream, as W3C Baggage defines them.

https://www.w3.org/TR/baggage/
"""

from __future__ import annotations

from .codecs import check_baggage, format_baggage, is_label_key, make_members, parse_baggage, view_members
from .errors import clip
from .stdlib import Iterable, Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Property: TypeAlias = tuple[str, str | None]
    Member: TypeAlias = tuple[str, str, tuple[Property, ...]]


class Labels(Mapping[str, str]):
    """An immutable mapping of str to str that travels with the context.

    Keys are RFC 7230 tokens; values are any text. ``members`` also has the parts that the
    mapping view omits: duplicates of a key, in order (the view shows the last), and the properties of each member.
    At most 64 members and 8192 bytes are sent: excess members are dropped whole, from the end, and counted in
    ``dropped``.
    """

    __slots__ = ("_dropped", "_members", "_source", "_text", "_view")

    _members: tuple[Member, ...] | None  # this and the next two are computed on first access
    _text: str | None
    _view: dict[str, str] | None
    _dropped: int  # unset until _source is used
    _source: tuple[Callable[..., Labels | None], Any, Labels | None] | None  # unset but by later_labels()

    def __new__(cls, labels: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> Labels:
        if isinstance(labels, Labels):
            return labels
        members = make_members(labels)
        if members is not None:  # nearly always
            return _bounded(members, 0)
        if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
            raise TypeError(f"labels must be a mapping or an iterable of pairs, not {type(labels).__name__}")
        pairs = labels.items() if isinstance(labels, Mapping) else labels
        return _bounded(tuple([_member(*_pair(pair, "labels")) for pair in pairs]), 0)

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Return the labels of a ``baggage`` value; an invalid member is dropped and counted."""
        if not isinstance(text, str):
            raise TypeError(f"text must be str, not {type(text).__name__}")
        return parse_labels(str.__str__(text))

    @property
    def members(self) -> tuple[Member, ...]:
        """All members in order, ``(key, value, properties)`` each; a property is ``(name, value or None)``."""
        members = self._members
        if members is None:
            members = self._made() if self._text is None else parse_baggage(self._text)[0]
            self._members = members
        return members

    @property
    def dropped(self) -> int:
        """The number of members dropped because they were invalid or beyond a limit."""
        if self._members is None and self._text is None:
            self._members = self._made()
        return self._dropped

    def _made(self) -> tuple[Member, ...]:
        source = self._source
        if source is None:  # meanwhile, in another thread
            return self._members or ()
        make, wanted, before = source
        made = make(wanted, before) or NO_LABELS
        self._dropped = made.dropped
        self._members = members = made.members
        self._text, self._source = str(made), None
        return members

    def merge(self, other: Mapping[str, str]) -> Labels:
        """Return these labels with those of *other*, which replace all members of a key that both have."""
        newer = Labels(other)
        if not self.members and not self._dropped:
            return newer
        if not newer.members and not newer._dropped:
            return self
        kept = [member for member in self.members if member[0] not in newer]
        return _bounded((*kept, *newer.members), self._dropped + newer._dropped)

    def without(self, *keys: str) -> Labels:
        """Return these labels without the members of *keys*."""
        return _bounded(tuple([member for member in self.members if member[0] not in keys]), self._dropped)

    def with_member(self, key: str, value: str, properties: Iterable[Property] = ()) -> Labels:
        """Return these labels with one more member, which has properties, in place of any with its key."""
        if isinstance(properties, str | bytes) or not isinstance(properties, Iterable):
            raise TypeError(f"properties must be an iterable of pairs, not {type(properties).__name__}")
        member = _member(key, value, tuple([_pair(pair, "properties") for pair in properties]))
        return _bounded((*self.without(key).members, member), self._dropped)

    def properties(self, key: str) -> tuple[Property, ...]:
        """Return the properties of the member that the view shows under *key*, ``(name, value or None)`` each."""
        for name, _, properties in reversed(self.members):
            if name == key:
                return properties
        raise KeyError(key)

    def __getitem__(self, key: str) -> str:
        return self._mapping()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping())

    def __len__(self) -> int:
        return len(self._mapping())

    def __contains__(self, key: object) -> bool:
        return key in self._mapping()

    def _mapping(self) -> dict[str, str]:
        view = self._view
        if view is None:
            view = self._view = view_members(self.members)
        return view

    def __bool__(self) -> bool:
        return self._members is None or bool(self._members)

    def __str__(self) -> str:
        """Return the ``baggage`` value."""
        text = self._text
        if text is None:
            text = self._text = format_baggage(self.members)[0]
        return text

    def __bytes__(self) -> bytes:
        """Return the ``baggage`` value as ASCII."""
        return str(self).encode("ascii")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Labels):
            return self.members == other.members
        return self._mapping() == other if isinstance(other, Mapping) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._mapping().items()))

    def __reduce__(self) -> Any:
        return _restore, (str(self), self._dropped)

    def __repr__(self) -> str:
        return f"Labels({self._mapping()!r})"


def _pair(pair: Any, parameter: str) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{parameter} must be pairs, not {type(pair).__name__}")
    return pair[0], pair[1]


def _member(key: object, value: object, properties: tuple[Property, ...] = ()) -> Member:
    if not isinstance(key, str):
        raise TypeError(f"a label's key must be str, not {type(key).__name__}")
    if not isinstance(value, str):
        raise TypeError(f"a label's value must be str, not {type(value).__name__}: label {clip(key)}")
    key, value = str.__str__(key), str.__str__(value)
    if not is_label_key(key):
        raise ValueError(f"a label's key must be letters, digits or !#$%&'*+-.^_`|~: {clip(key)}")
    for name, setting in properties:
        if not isinstance(name, str) or not (setting is None or isinstance(setting, str)):
            raise TypeError(f"a label's properties must be (str, str or None) pairs: label {clip(key)}")
        if not is_label_key(name):
            raise ValueError(f"a property's name must be letters, digits or !#$%&'*+-.^_`|~: {clip(name)}")
    return key, value, properties


def parse_labels(text: str) -> Labels:
    """Return the labels of a ``baggage`` value, which is checked now and parsed on first access."""
    if check_baggage(text) > 0:
        return make_labels(text.strip(" \t"))
    return _bounded(*parse_baggage(text))


_new = object.__new__


def make_labels(text: str | None, members: tuple[Member, ...] | None = None, dropped: int = 0) -> Labels:
    """Return the labels of a ``baggage`` value that has been checked; it is sent unchanged.

    *members* are those in *text*, or None: then *text* is parsed on first access.
    """
    labels = _new(Labels)
    labels._members = members
    labels._dropped = dropped
    labels._text = text
    labels._view = None
    return labels


def later_labels(
    make: Callable[[dict[str, str], Labels | None], Labels | None], wanted: dict[str, str], before: Labels | None
) -> Labels:
    """Return the labels that ``make(wanted, before)`` makes on first access; there must be one at least.

    Text alone may be in *wanted*: contexts, which the garbage collector does not see, refer to labels.
    """
    if before is not None and before._members is None and before._text is None:
        source = before._source
        if source is not None and source[2] is None:
            before = None  # no member of it has properties
        else:
            before.members  # noqa: B018 (used now, so that no chain of them grows)
    labels = _new(Labels)
    labels._members = labels._view = labels._text = None
    labels._source = make, wanted, before
    return labels


def _bounded(members: tuple[Member, ...], dropped: int) -> Labels:
    text, kept = format_baggage(members)
    return make_labels(text, members[:kept], dropped + len(members) - kept)


def _restore(text: str, dropped: int) -> Labels:
    labels = Labels.parse(text)
    return make_labels(labels._text, labels._members, labels._dropped + dropped)


NO_LABELS = _bounded((), 0)
