"""The values that an attribute keeps, and the conversion of all others."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import re
import signal
import subprocess
import sys
import types
import typing
import uuid

import attr
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit._core import attributes
from tracekit._core.attributes import MISSING, Bounded, clean
from tracekit._core.codecs import has_text_keys

same = settings(deadline=None, derandomize=True, database=None)


def shown(value):
    """Return the id of a case, which has no address in it."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))[:40]


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Octets(bytes):
    pass


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    HELLO = "hello"


Pair = collections.namedtuple("Pair", "left right")


@pytest.fixture(autouse=True)
def _warned_of_nothing(monkeypatch):
    monkeypatch.setattr(attributes, "_warned", set())


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
        (
            {5: "int", True: "bool", None: "none", b"b\xff": "bytes"},
            {"5": "int", "True": "bool", "None": "none", "b\ufffd": "bytes"},
        ),
        ({"a": 1}.keys(), ("a",)),
        ({"a": 1}.values(), (1,)),
        ({"a": 1}.items(), (("a", 1),)),
        (array.array("d", [1.5]), (1.5,)),
        (collections.UserList([1]), (1,)),
        ({"a": 1, "b": None, "c": [1]}, {"a": 1, "b": None, "c": (1,)}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ({Text("a"): Text("b")}, {"a": "b"}),
        ({"a": {"b": [1]}}, {"a": {"b": (1,)}}),
        (Bounded("text"), "text"),
    ],
    ids=shown,
)
def test_values_of_the_kept_types_become_their_plain_type(value, expected):
    plain, _ = clean(value, 100)
    assert plain == expected
    assert type(plain) is type(expected)


def test_parts_of_a_subclass_become_plain_too():
    plain, cuts = clean({Text("k"): [Text("v"), Number(1), Real(1.0), Octets(b"b")]}, 100)
    (key,) = plain
    assert [type(part) for part in (key, *plain["k"])] == [str, str, int, float, bytes]
    assert cuts == 0


class Plain:
    def __str__(self):
        return "plain text"


class Place(enum.Enum):
    HERE = ("x", 1)


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Card:
    owner: str
    number: str = dataclasses.field(default="4000", repr=False)
    origin: dataclasses.InitVar[int] = 0
    kinds: typing.ClassVar[list[str]] = ["debit"]


@dataclasses.dataclass(slots=True, repr=False)
class SlotCard:
    owner: str
    unset: int = dataclasses.field(init=False, compare=False)


@attr.define
class Attrs:
    owner: str
    number: str = attr.field(default="4000", repr=False)
    pin: str = attr.field(default="1234", repr=lambda value: "*" * len(value))


class Field:
    def __init__(self, repr=True):
        self.repr = repr


class Pydantic:
    __pydantic_fields__ = {"owner": Field(), "number": Field(repr=False)}  # noqa: RUF012

    def __init__(self):
        self.owner, self.number = "Ann", "4000"
        self.private = 1

    @property
    def model_fields_set(self):
        raise AssertionError("a property is called")


class OldPydantic(Pydantic):
    __pydantic_fields__ = None
    __fields__ = Pydantic.__pydantic_fields__


class Struct:
    __slots__ = __struct_fields__ = ("number", "owner")

    def __init__(self):
        self.owner = "Ann"


class Path:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


class Whole:
    def __index__(self):
        return 7


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.50"), "1.50"),
        (fractions.Fraction(1, 3), "1/3"),
        (1j, "1j"),
        (datetime.datetime(2020, 1, 2, 3, 4, 5, 600, datetime.UTC), "2020-01-02T03:04:05.000600+00:00"),
        (datetime.datetime(2020, 1, 2), "2020-01-02T00:00:00"),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(), "PT0S"),
        (datetime.timedelta(days=2), "P2D"),
        (datetime.timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S"),
        (datetime.timedelta(minutes=10, seconds=10), "PT10M10S"),
        (datetime.timedelta(microseconds=1), "PT0.000001S"),
        (-datetime.timedelta(minutes=1, milliseconds=100), "-PT1M0.1S"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (pathlib.Path("a"), "a"),
        (Path("text"), "text"),
        (Path(b"octets\xff"), "octets\udcff"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_address("::1"), "::1"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (ipaddress.ip_network("::/64"), "::/64"),
        (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (Color.RED, 1),
        (Place.HERE, ("x", 1)),
        (Flags.A | Flags.B, 3),
        (collections.UserString("text"), "text"),
        (Whole(), 7),
        (Pair(1, "b"), {"left": 1, "right": "b"}),
        (Card("Ann"), {"owner": "Ann"}),
        (SlotCard("Ann"), {"owner": "Ann"}),
        (Attrs("Ann"), {"owner": "Ann", "pin": "****"}),
        (Pydantic(), {"owner": "Ann"}),
        (OldPydantic(), {"owner": "Ann"}),
        (Struct(), {"owner": "Ann"}),
        ([uuid.UUID(int=1), Card("Ann")], ("00000000-0000-0000-0000-000000000001", {"owner": "Ann"})),
        ({uuid.UUID(int=1): Color.RED}, {"00000000-0000-0000-0000-000000000001": 1}),
        ([[[Color.RED, datetime.date(2020, 1, 2)]]], (((1, "2020-01-02"),),)),
    ],
    ids=shown,
)
def test_values_of_common_types_are_converted_without_a_warning(value, expected, caplog):
    assert clean(value, 100) == (expected, 0)
    assert caplog.messages == []


# ---- NumPy, which is not installed here: types with its names and the methods that are used of it


class DType:
    def __init__(self, kind):
        self.kind = kind


class generic:  # noqa: N801
    __module__ = "numpy"

    def __init__(self, value, kind="f"):
        self.value, self.dtype = value, DType(kind)

    def item(self):
        return self if self.value is None else self.value

    def astype(self, name):
        assert name == "timedelta64[us]"
        return self

    def __float__(self):
        return 0.5

    def __str__(self):
        return "as numpy prints it"


class Float32(generic):
    pass


class ndarray:  # noqa: N801
    __module__ = "numpy"
    read = 0

    def __init__(self, value, kind="f"):
        self.value, self.dtype = value, DType(kind)

    @property
    def ndim(self):
        value, depth = self.value, 0
        while isinstance(value, list):
            value, depth = value[0], depth + 1
        return depth

    def __getitem__(self, key):
        return generic(self.value) if key == () else ndarray(self.value[key], self.dtype.kind)

    def __iter__(self):
        wrap = generic if self.ndim == 1 else ndarray
        return iter([wrap(value, self.dtype.kind) for value in self.value])

    def tolist(self):
        assert self.ndim == 1
        ndarray.read += len(self.value)
        return self.value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (generic(1.5), 1.5),
        (generic(2, "i"), 2),
        (generic(True, "b"), True),
        (Float32(2.5), 2.5),
        (generic(1j, "c"), "1j"),
        (generic(None, "f"), 0.5),  # a long double is its own item
        (generic(None, "c"), "as numpy prints it"),
        (generic(datetime.timedelta(seconds=1), "m"), "PT1S"),
        (generic(10**18, "M"), "as numpy prints it"),
        (ndarray(1.5), 1.5),
        (ndarray([1, 2]), (1, 2)),
        (ndarray([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        (ndarray([10**18], "M"), ("as numpy prints it",)),
    ],
)
def test_numpy_scalars_become_numbers_and_arrays_tuples(value, expected, caplog):
    plain, cuts = clean(value, 100)
    assert (plain, cuts) == (expected, 0)
    assert type(plain) is type(expected)
    assert caplog.messages == []


def test_numpys_own_scalars_become_numbers_and_its_arrays_tuples(caplog):
    import numpy

    table = {
        "float": (numpy.float64(1.5), 1.5),
        "short float": (numpy.float32(2.5), 2.5),
        "long double": (numpy.longdouble(0.5), 0.5),
        "int": (numpy.int64(7), 7),
        "unsigned": (numpy.uint64(2**64 - 1), 2**64 - 1),
        "bool": (numpy.bool_(True), True),
        "text": (numpy.str_("text"), "text"),
        "complex": (numpy.complex64(1j), "1j"),
        "date": (numpy.datetime64("2026-11-29"), "2026-11-29"),
        "nanoseconds": (numpy.datetime64(1, "ns"), "1970-01-01T00:00:00.000000001"),
        "timedelta": (numpy.timedelta64(1, "s"), "PT1S"),
        "of no dimension": (numpy.array(1.5), 1.5),
        "array": (numpy.array([1, 2]), (1, 2)),
        "bools": (numpy.array([True, False]), (True, False)),
        "two dimensions": (numpy.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
        "empty": (numpy.array([]), ()),
        "objects": (numpy.array(["a", None], dtype=object), ("a", None)),
        "turned": (numpy.arange(4).reshape(2, 2).T, ((0, 2), (1, 3))),
    }
    for name, (value, expected) in table.items():
        plain, cuts = clean(value, 100)
        assert (plain, cuts, type(plain)) == (expected, 0, type(expected)), name
    plain, cuts = clean(numpy.zeros((1000, 1000)), 10)
    assert (len(plain), len(plain[0]), cuts) == (10, 10, 11)
    assert caplog.messages == []


def test_no_more_of_an_array_is_read_than_the_limit():
    ndarray.read = 0
    plain, cuts = clean(ndarray([[1.5] * 1000] * 1000), 10)
    assert (len(plain), len(plain[0])) == (10, 10)
    assert cuts == 11
    assert ndarray.read == 10 * 11


def test_none_of_the_modules_of_the_known_types_is_imported():
    modules = {
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "ipaddress",
        "logging",
        "numpy",
        "pathlib",
        "uuid",
    }
    program = f"""
import sys
from typing import NamedTuple
class Pair(NamedTuple):  # CPython 3.15 imports enum for the annotations
    one: int
before = {modules} & set(sys.modules)
from tracekit._core.attributes import clean
class Path:
    def __fspath__(self):
        return "path"
clean([1j, {{}}.values(), Path(), [b"", (), set()]], 100)
print(*sorted({modules} & set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("\n", "")


# ---- any other type


@pytest.mark.parametrize(
    "value",
    [Plain(), Path(5), object, len, iter([1]), (number for number in range(3)), ValueError("x")],
    ids=shown,
)
def test_a_value_of_any_other_type_becomes_its_text(value, caplog):
    assert clean(value, 1000) == (str(value), 0)
    assert len(caplog.messages) == 1


def test_a_generator_is_not_read():
    def endless():
        while True:
            yield read.append(1)

    read = []
    clean(endless(), 100)
    assert read == []


def test_one_warning_names_each_type(caplog):
    for _ in range(3):
        clean([Plain(), Plain()], 100)
    clean(Path, 100)
    assert caplog.messages == [
        f"an attribute of type {name} is recorded as str(value); pass a str, number, sequence or mapping"
        for name in (f"{__name__}.Plain", "type")
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_class_that_only_looks_as_if_it_had_fields_becomes_text():
    class Odd:
        __fields__ = {"missing": Field()}  # noqa: RUF012

        def __str__(self):
            return "odd"

    assert clean(Odd(), 100) == ("odd", 0)


class Nothing(enum.Enum):
    NONE = None


@pytest.mark.parametrize("value", [None, Nothing.NONE])
def test_none_is_dropped(value):
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
        ({"abcd": 1}, {"abc": 1}, 1),
        ({(1, 2): 1, "a": 2}, {"a": 2}, 1),
        ([[1, [2, [3, [4]]]]], ((1, (2, None)),), 1),
        ({"a": {"b": {"c": {}, "d": 1}}}, {"a": {"b": {"c": None, "d": 1}}}, 1),
        (uuid.UUID(int=1), "000", 1),
        (Pair("abcd", "b"), {"lef": "abc", "rig": "b"}, 3),
        (memoryview(b"abcdefgh")[::2], MISSING, 0),
        (memoryview(b"abcdef")[::2], b"ace", 0),
        (memoryview(bytes(12)).cast("B", (3, 4)), bytes(3), 1),
        (["abc"] * 64, ("abc",) * 3, 1),
        ([["abc"] * 3] * 3, (("abc",) * 3,) * 3, 0),
    ],
)
def test_values_beyond_the_limits_are_cut_and_counted(value, expected, cuts):
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


class RaisingMeta(type):
    def _raise(cls, *_):
        raise KeyboardInterrupt("hostile")

    __hash__ = __eq__ = __getattribute__ = __instancecheck__ = __subclasscheck__ = _raise
    __name__ = __module__ = __mro__ = property(_raise)


def of_raising_metaclass():  # not in the module: pytest looks into its classes
    class OfRaisingMeta(metaclass=RaisingMeta):
        def __str__(self):
            return "text"

    return object.__new__(OfRaisingMeta)


def raising_text(error):
    class RaisingStr:
        def __str__(self):
            raise error

    return RaisingStr()


def hostile_frame():
    class Locals(dict):
        values = items = __iter__ = Raising._raise

    class Meta(type):
        @classmethod
        def __prepare__(cls, name, bases):
            return Locals()

    class RaisingBody:
        def __str__(self):
            class Body(metaclass=Meta):
                raise SystemExit

    return RaisingBody()


class Exiting:
    __str__ = staticmethod(sys.exit)


class NotText:
    def __str__(self):
        return 5


class RaisingItems(dict):
    def items(self):
        yield "a", 1
        raise RuntimeError("hostile")


class NoPairs(dict):
    def items(self):
        return [("a", 1), 2, (3,), (4, 5, 6), [7, 8], None]


class RaisingIterator(list):
    def __iter__(self):
        yield 1
        raise KeyboardInterrupt


class LyingLength(collections.abc.Sequence):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        if self.length is None:
            raise RuntimeError("hostile")
        return self.length

    def __getitem__(self, index):
        return [1, 2][index]


class Itself(enum.Enum):
    ITSELF = 1


Itself.ITSELF._value_ = Itself.ITSELF


@pytest.mark.parametrize(
    ("make", "expected", "cuts"),
    [  # made late: pytest too asks for the class of a value
        (lambda: Raising([1]), MISSING, 0),
        (lambda: RaisingDict(a=1), MISSING, 0),
        (lambda: RaisingItems(), {"a": 1}, 1),
        (lambda: RaisingIterator(), (1,), 1),
        (lambda: NoPairs(), {"a": 1}, 5),
        (lambda: raising_text(RuntimeError()), MISSING, 0),
        (lambda: raising_text(KeyboardInterrupt()), MISSING, 0),
        (lambda: raising_text(SystemExit()), MISSING, 0),
        (lambda: raising_text(GeneratorExit()), MISSING, 0),
        (hostile_frame, MISSING, 0),
        (Exiting, MISSING, 0),
        (lambda: raising_text(BaseException()), MISSING, 0),
        (lambda: NotText(), MISSING, 0),
        (lambda: LyingLength(10**9), (1, 2), 0),
        (lambda: LyingLength(0), (1, 2), 0),
        (lambda: LyingLength(-1), (1, 2), 0),
        (lambda: LyingLength(None), (1, 2), 0),
        (lambda: Itself.ITSELF, MISSING, 0),
        (lambda: ["a", raising_text(KeyboardInterrupt()), [Raising([1])], "b"], ("a", None, (None,), "b"), 2),
        (lambda: {"a": raising_text(KeyboardInterrupt()), "b": 1}, {"a": None, "b": 1}, 1),
        (lambda: {raising_text(KeyboardInterrupt()): 1, "b": 1}, {"b": 1}, 1),
    ],
)
def test_a_value_that_raises_costs_only_itself(make, expected, cuts):
    assert clean(make(), 100) == (expected, cuts)


@pytest.mark.parametrize(
    "make", [RaisingClass, LyingClass, of_raising_metaclass], ids=["raising", "another", "metaclass"]
)
def test_the_class_that_a_value_claims_is_not_asked_for(make):
    value = make()
    plain, cuts = clean(["a", value, "b"], 100)
    assert (plain, cuts) in [(("a", str(value), "b"), 0), (("a", None, "b"), 1)]


class Stop(BaseException):
    pass


def test_the_exception_of_a_signal_handler_is_not_taken_for_one_of_the_value():
    class Interrupted:
        def __str__(self):
            signal.raise_signal(signal.SIGUSR1)
            return "text"

    def handler(number, frame):
        raise Stop

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Stop):
            clean(Interrupted(), 100)
        with pytest.raises(Stop):
            clean([[Interrupted()]], 100)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_while_a_value_is_converted_reaches_the_program(monkeypatch):
    source = "def interrupted(*arguments):\n    raise KeyboardInterrupt"
    module = {"__name__": "tracekit._core.attributes"}  # Python's own handler of SIGINT has no frame
    exec(source, module)
    monkeypatch.setattr(attributes, "_fields", module["interrupted"])
    with pytest.raises(KeyboardInterrupt):
        clean([[Plain()]], 100)


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
    """A sequence that is much longer than any limit."""

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
def test_no_more_of_a_sequence_is_read_than_the_limit(make):
    endless = Endless(make)
    clean(endless, 10)
    assert endless.read < 1000


def test_no_more_of_a_mapping_is_read_than_the_limit():
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
    assert clean(value, 100) == ((((None,),),), 1)
    assert clean(mapping, 100) == ({"again": {"again": {"again": None}}}, 1)


def test_all_text_within_a_value_is_bounded():
    plain, cuts = clean([["x" * 100] * 100] * 100, 100)
    assert sum(len(text) for texts in plain for text in texts) == 64 * 100
    assert sum(len(texts) for texts in plain) == 8 * 100 - 100
    assert cuts > 0


def test_bounded_text_is_kept_whole_with_its_count():
    text = Bounded("x" * 100)
    text.cuts = 3
    plain, cuts = clean(text, 10)
    assert (plain, type(plain), cuts) == ("x" * 100, str, 3)


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
def test_every_kept_value_is_plain_and_within_the_limits(value, limit):
    plain, cuts = clean(value, limit)
    assert plain is MISSING or (plain is not None and is_plain(plain, limit))
    assert cuts >= 0
    if cuts == 0 and plain is not MISSING:
        again, _ = clean(plain, limit)
        assert repr(again) == repr(plain)


class Holder:
    def __init__(self):
        self.one = self.two = 1


def a_dict_that_had(*keys):
    """Return a dict of text keys in a table that CPython has made for *keys*, too."""
    made = dict.fromkeys(["a", *keys, "b"], 1)
    for key in keys:
        del made[key]
    return made


@pytest.mark.parametrize(
    "items",
    [
        {},
        {"a": 1},
        {"a": None, "é": ()},
        vars(Holder()),
        dict(vars(Holder())),
        a_dict_that_had(1),
        a_dict_that_had(Text("c"), b""),
        {str(number): number for number in range(1000)},
        {"a": 1} | {"b": 2},
    ],
)
def test_keys_of_type_str_are_told_from_others(items):
    assert has_text_keys(items)
    assert has_text_keys(items.copy())
    for key in (1, None, Text("d"), b"d"):
        assert not has_text_keys({**items, key: 1})
        assert not has_text_keys({key: 1, **items})
        items[key] = 1
        assert not has_text_keys(items)
        del items[key]
        assert has_text_keys(items)


def test_missing_has_a_readable_repr():
    assert repr(MISSING) == "MISSING"
