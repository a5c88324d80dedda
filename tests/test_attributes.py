"""What an attribute may hold, and how everything else is brought into that shape."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import math
import pathlib
import types
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit._core.attributes import MISSING, clean

same = settings(deadline=None, derandomize=True, database=None)


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Octets(bytes):
    pass


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    HELLO = "hello"


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        ("名\ud800\0", "名\ud800\0"),
        (True, True),
        (0, 0),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        (math.inf, math.inf),
        (b"\0\xff", b"\0\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (Text("text"), "text"),
        (Number(5), 5),
        (Real(1.5), 1.5),
        (Octets(b"ab"), b"ab"),
        (Level.LOW, 1),
        (Word.HELLO, "hello"),
        ([1, "a", None, 1.5, b"b", True], (1, "a", None, 1.5, b"b", True)),
        ((), ()),
        ([], ()),
        ({}, {}),
        (range(3), (0, 1, 2)),
        ({1}, (1,)),
        (frozenset(["a"]), ("a",)),
        (collections.deque([1, 2]), (1, 2)),
        (Pair(1, "b"), (1, "b")),
        ({"a": 1, "b": None, "c": [1]}, {"a": 1, "b": None, "c": (1,)}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({Text("a"): Text("b")}, {"a": "b"}),
        ({"a": {"b": [1, (2,)]}}, {"a": {"b": (1,)}}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_has_a_plain_form_is_brought_into_it(value, expected):
    plain, _ = clean(value, 100)
    assert plain == expected
    assert type(plain) is type(expected)


def test_parts_of_a_subclass_become_plain_too():
    plain, cuts = clean({Text("k"): [Text("v"), Number(1), Real(1.0), Octets(b"b")]}, 100)
    (key,) = plain
    assert [type(part) for part in (key, *plain["k"])] == [str, str, int, float, bytes]
    assert cuts == 0


@pytest.mark.parametrize(
    "value",
    [
        None,
        object(),
        object,
        len,
        lambda: None,
        1j,
        Colour.RED,
        decimal.Decimal(1),
        datetime.datetime(2020, 1, 1),
        uuid.UUID(int=1),
        pathlib.PurePosixPath("/a"),
        iter([1]),
        (number for number in range(3)),
        ValueError("x"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_has_no_plain_form_is_left_out(value):
    assert clean(value, 100) == (MISSING, 0)


@pytest.mark.parametrize(
    ("value", "expected", "cuts"),
    [
        ("abc", "abc", 0),
        ("abcd", "abc", 1),
        (Text("abcd"), "abc", 1),
        (b"abc", b"abc", 0),
        (b"abcd", b"abc", 1),
        (bytearray(b"abcd"), b"abc", 1),
        (memoryview(b"abcd"), b"abc", 1),
        ([1, 2, 3], (1, 2, 3), 0),
        ([1, 2, 3, 4, 5, 6], (1, 2, 3), 1),
        (["abcd", "abcd", 1], ("abc", "abc", 1), 2),
        (dict.fromkeys("abcdef", 1), dict.fromkeys("abc", 1), 1),
        ({"abcd": 1}, {"abc": 1}, 0),
        ([1, object(), 2], (1, 2), 1),
        ({"a": object(), 5: 1, "c": "abcd"}, {"c": "abc"}, 3),
        ([[1, [2, [3, [4]]]]], ((1, (2,)),), 1),
    ],
)
def test_what_is_too_long_or_too_deep_is_cut_and_counted(value, expected, cuts):
    assert clean(value, 3) == (expected, cuts)


def test_the_view_of_a_mapping_is_a_copy():
    value = {"a": [1]}
    plain, _ = clean(value, 100)
    value["a"].append(2)
    value["b"] = 1
    assert plain == {"a": (1,)}


def test_an_item_view_of_other_width_is_measured_in_bytes():
    plain, cuts = clean(memoryview(array.array("Q", [1, 2, 3])), 10)
    assert isinstance(plain, bytes)
    assert len(plain) <= 10
    assert cuts == 1


class Raising(list):
    def _raise(self, *_):
        raise RuntimeError("hostile")

    __iter__ = __len__ = __getitem__ = __bool__ = _raise


class RaisingDict(dict):
    def _raise(self, *_):
        raise RuntimeError("hostile")

    items = __iter__ = __len__ = __bool__ = keys = values = _raise


class RaisingText(str):
    def _raise(self, *_):
        raise RuntimeError("hostile")

    __len__ = __getitem__ = __str__ = __hash__ = __eq__ = __iter__ = _raise


class RaisingNumber(int):
    def _raise(self, *_):
        raise RuntimeError("hostile")

    __int__ = __index__ = __bool__ = __eq__ = __hash__ = __repr__ = _raise


class RaisingClass:
    @property
    def __class__(self):
        raise RuntimeError("hostile")


class LyingClass:
    __class__ = str


HOSTILE = {
    "list": lambda: Raising([1]),
    "dict": lambda: RaisingDict(a=1),
    "class": RaisingClass,
    "another class": LyingClass,
    "item": lambda: [RaisingClass()],
    "value": lambda: {"a": Raising([1])},
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())  # made late: pytest too asks for its class
def test_a_hostile_value_is_left_out_whole_or_in_part(make):
    plain, cuts = clean(make(), 100)
    assert plain is MISSING or (not plain and cuts)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: RaisingText("abcd"), "abc"),
        (lambda: RaisingNumber(5), 5),
        (lambda: [RaisingText("abcd")], ("abc",)),
    ],
    ids=["text", "number", "item"],
)
def test_a_hostile_subclass_of_a_plain_type_is_read_past_its_methods(make, expected):
    plain, _ = clean(make(), 3)
    assert plain == expected
    assert type(plain) is type(expected)


class Endless(collections.abc.Sequence):
    """A sequence that is longer than anybody wants to read."""

    def __init__(self, make, length=200_000):
        self.make, self.length, self.read = make, length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        raise IndexError

    def __iter__(self):
        while self.read < self.length:
            self.read += 1
            yield self.make()


class EndlessMapping(collections.abc.Mapping):
    def __init__(self, length=200_000):
        self.length, self.read = length, 0

    def __len__(self):
        return self.length

    __getitem__ = None

    def __iter__(self):
        return iter(())

    def items(self):
        while self.read < self.length:
            self.read += 1
            yield self.read, object()


@pytest.mark.parametrize("make", [int, object, lambda: "x" * 1000], ids=["kept", "left out", "cut"])
def test_no_more_of_a_sequence_is_read_than_the_limit_asks(make):
    endless = Endless(make)
    clean(endless, 10)
    assert endless.read < 1000


def test_no_more_of_a_mapping_is_read_than_the_limit_asks():
    endless = EndlessMapping()
    clean(endless, 10)
    assert endless.read < 1000


def test_the_whole_of_a_nested_value_is_bounded_too():
    innermost = [Endless(int) for _ in range(100)]
    clean([innermost] * 100, 100)
    assert sum(endless.read for endless in innermost) < 100_000, "not the limit to the third power"


def test_a_value_that_contains_itself_ends():
    value = []
    value.append(value)
    mapping = {}
    mapping["again"] = mapping
    assert clean(value, 100) == ((((),),), 1)
    assert clean(mapping, 100) == ({"again": {"again": {}}}, 1)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
        | st.sets(st.integers(), max_size=5)
    ),
    max_leaves=30,
)


def is_plain(value, limit, depth=3):
    if value is None or type(value) in (bool, int, float):
        return True
    if type(value) in (str, bytes):
        return len(value) <= limit
    if type(value) is tuple:
        return depth > 0 and len(value) <= limit and all(is_plain(item, limit, depth - 1) for item in value)
    return (
        type(value) is dict
        and depth > 0
        and len(value) <= limit
        and all(type(key) is str and len(key) <= limit for key in value)
        and all(is_plain(item, limit, depth - 1) for item in value.values())
    )


@same
@given(values, st.integers(0, 10))
def test_whatever_is_kept_is_plain_and_within_its_limits(value, limit):
    plain, cuts = clean(value, limit)
    assert plain is MISSING or (plain is not None and is_plain(plain, limit))
    assert cuts >= 0
    if cuts == 0 and plain is not MISSING:
        again, _ = clean(plain, limit)
        assert repr(again) == repr(plain)


def test_missing_tells_its_name():
    assert repr(MISSING) == "MISSING"
