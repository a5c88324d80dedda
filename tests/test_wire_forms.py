"""The compiled and the plain codecs of the wire formats give the same result or error for the same input."""

from __future__ import annotations

from collections import UserDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit import FormatError
from tracekit._core.codecs_plain import utf8

from .tools.vectors import TWINS
from .wire.strategies import TEXTS

_pure = TWINS["plain"]
COMPILED = TWINS.get("compiled")

pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled form was not built")
same = settings(max_examples=250, deadline=None, derandomize=True, database=None)


def seen(value):
    """*value* in a form that is equal for both implementations."""
    if type(value).__name__ == "SpanContext":
        extra = {name: (type(word), word) for name, word in value.extra.items()}
        return value.id, value.flags, value.deferred, str(value.state), value.labels, value.is_remote, extra
    return list(value.items()) if isinstance(value, dict) else value


def outcome(function, arguments):
    try:
        return "returned", seen(function(*arguments))
    except FormatError as error:
        return "FormatError", error.field, error.reason, error.column, str(error)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)


def compare(name, *arguments):
    """Assert that both implementations agree on *arguments*; callables among them are called with the implementation."""
    outcomes = []
    for form in (_pure, COMPILED):
        made = [argument(form) if callable(argument) else argument for argument in arguments]
        outcomes.append((outcome(getattr(form, name), made), [seen(carrier) for carrier in made]))
    assert outcomes[0] == outcomes[1]
    assert type(outcomes[0][0][1]) is type(outcomes[1][0][1])
    return outcomes[0][0]


HEX = "0123456789abcdef"
IDS = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, (1 << 64) - 1])


@st.composite
def b3_texts(draw):
    """A ``b3`` value that is valid or nearly so."""
    ids = st.text(HEX, min_size=16, max_size=16)
    parts = [draw(ids | st.builds(str.__add__, ids, ids)), draw(ids), draw(st.sampled_from("01d2")), draw(ids)]
    text = "-".join(parts[: draw(st.integers(0, 5))])
    if draw(st.booleans()):
        return text
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text("0-dfF\xe9\uff11", max_size=2)) + text[at + draw(st.integers(0, 2)) :]


@st.composite
def contexts(draw):
    """A function that makes the same context in either implementation."""
    high, low, span, flags = draw(IDS), draw(IDS), draw(IDS), draw(st.integers(0, 0x1FF))
    extra = draw(
        st.none()
        | st.dictionaries(
            st.sampled_from(["b3", "grpc_bin", "jaeger"]),
            st.sampled_from(["d", "", "x"]) | st.binary(max_size=8) | st.tuples(st.integers()),
            min_size=1,
        )
    )
    return lambda form: form.make_remote(high << 64 | low, span, flags, extra)


@st.composite
def contexts_octets(draw):
    """The binary form of a context, valid or nearly so."""
    fields = [
        b"\0" + draw(st.binary(min_size=16, max_size=16)),
        b"\1" + draw(st.binary(min_size=8, max_size=8)),
        b"\2" + draw(st.binary(min_size=1, max_size=1)),
        draw(st.binary(max_size=4)),
    ]
    octets = draw(st.sampled_from([b"\0", b"\0", b"\0", b"\1", b""])) + b"".join(draw(st.permutations(fields)))
    return octets[: draw(st.integers(0, len(octets)))] if draw(st.booleans()) else octets


@given(text=TEXTS | b3_texts())
@same
def test_b3_is_parsed_the_same(text):
    compare("parse_b3", text)
    compare("read_b3", {"b3": text})
    compare("read_b3", [("B3", text), ("b3", text)])


@given(context=contexts())
@same
def test_b3_is_formatted_the_same_and_reads_back_equal(context):
    _, text = compare("format_b3", context)
    compare("write_b3", context, lambda _: {"B3": "stale"})
    compare("write_b3", context, lambda _: [(b"b3", b"stale"), (b"host", b"x")])
    for form in (_pure, COMPILED):
        again = form.parse_b3(text)
        if again is not None:
            assert form.format_b3(again) == text
        else:
            assert text == ""


@pytest.mark.parametrize("name", ["format_b3", "encode_binary"])
@pytest.mark.parametrize("context", [None, 5, "1", b"", {}])
def test_anything_but_a_context_is_the_same_error(name, context):
    assert compare(name, context)[0] == "TypeError"


@given(octets=st.binary(max_size=600) | contexts_octets())
@same
def test_the_binary_form_is_decoded_the_same(octets):
    compare("decode_binary", octets)


@given(context=contexts())
@same
def test_the_binary_form_is_encoded_the_same_and_reads_back_equal(context):
    _, octets = compare("encode_binary", context)
    for form in (_pure, COMPILED):
        again = form.decode_binary(octets)
        if again is not None and again.extra.get("grpc_bin", b"\xff") >= b"\3":
            assert form.encode_binary(again)[:27] == octets[:27]


KEYS = st.text(st.characters(), max_size=200) | st.sampled_from(["", "k", "k" * 127, "k" * 128, "k" * 9000])
TAGS = st.dictionaries(KEYS, KEYS | st.integers(0, 9000).map(lambda size: "v" * size), max_size=8)


@given(tags=TAGS)
@same
def test_tags_are_encoded_the_same_and_read_back_equal(tags):
    kind, octets = compare("encode_tags", tags)
    assert kind == "returned"
    assert len(octets) <= 8192
    _, pairs = compare("decode_tags", octets)
    room = 8192 - 1
    kept = {}
    for key, value in [(utf8(key), utf8(value)) for key, value in tags.items()]:
        size = 1 + sum([(1 if len(text) < 128 else 2) + len(text) for text in (key, value)])
        if size <= room:
            room -= size
            kept[key.decode()] = value.decode()
    assert dict(pairs) == kept


@given(
    octets=st.binary(max_size=60)
    | st.builds(lambda tags, more: _pure.encode_tags(tags) + more, TAGS, st.binary(max_size=9))
)
@same
def test_tags_are_decoded_the_same(octets):
    compare("decode_tags", octets)
    compare("decode_tags", b"\0" + octets)
    compare("decode_tags", b"\0\0" + octets)


@given(text=TEXTS | st.text("0123456789", min_size=1, max_size=22), digits=st.integers(1, 32))
@same
def test_numbers_are_parsed_the_same(text, digits):
    compare("parse_decimal", text)
    compare("parse_hex", text, digits)


FIELDS, PREFIXES = ("b3", "x-b3-traceid", "http_b3"), ("uberctx-", "u-")
NAMES = st.sampled_from(
    ["b3", "B3", "b4", "x-b3-traceid", "X-B3-TraceId", "x_b3_traceid", "HTTP_B3", "HTTP_b3", "http_b3", "HTTP_HTTP_B3", "HTTP_",
     "HTTP_X_B3_TRACEID", "HTTP_X-B3-TRACEID", "uberctx-", "uberctx-a", "UBERCTX-a", "HTTP_UBERCTX_A", "uberctx_a", "U-", "u-b",
     "\u212aberctx-a", "b3\xe9", "uberctx-\xe9", "\xe9", "host", "", "x" * 300, "uberctx-" + "x" * 248, "uberctx-" + "x" * 249,
     "HTTP_UBERCTX_" + "X" * 248, "HTTP_UBERCTX_" + "X" * 249, "u-" + "x" * 2000]
)  # fmt: skip
LONG = st.sampled_from(["x" * 8192, "x" * 16_448, "x" * 16_449, b"x" * 40_000, "\u20ac" * 20_000])
TEXT_OR_OCTETS = st.sampled_from(["", b"", "1", b"2\xff", "\xe9\u20ac\udc80"]) | TEXTS | LONG
ITEMS = TEXT_OR_OCTETS | st.none() | st.integers() | st.just([["nested"]]) | st.just(bytearray(b"x"))
VALUES = ITEMS | st.lists(ITEMS, max_size=4) | st.lists(ITEMS, max_size=3).map(tuple)
PAIRS = st.lists(
    st.tuples(
        NAMES | NAMES.map(lambda name: name.encode("utf-8", "surrogatepass")) | st.none() | st.integers(), VALUES
    ),
    max_size=10,
)
JUNK = st.lists(
    st.sampled_from([None, 5, "b3", b"b3", (), ("b3",), ["b3"], ("b3", "1", "2"), {"b3": "1"}, {"b3", "1"}]), max_size=3
)


def fail(*_, **__):
    raise RuntimeError("hostile")


class Text(str):
    # Equal and hashed as ever: a dict calls these, to keep "b3" and b"b3" apart.
    __slots__ = ()
    __iter__ = __len__ = __getitem__ = __contains__ = __str__ = lower = startswith = replace = encode = isascii = fail


class Octets(bytes):
    __iter__ = __len__ = __getitem__ = __contains__ = decode = lower = startswith = fail


class Values(list):
    __iter__ = __len__ = __getitem__ = __bool__ = __contains__ = fail


class Pair(tuple):
    __slots__ = ()
    __iter__ = __len__ = __getitem__ = __bool__ = __contains__ = fail


def hostile(value):
    """*value* in subclasses whose methods fail."""
    match value:
        case str():
            return Text(value)
        case bytes():
            return Octets(value)
        case tuple():
            return Pair([hostile(item) for item in value])
        case list():
            return Values([hostile(item) for item in value])
    return value


def plain(value):
    """*value* in built-in types."""
    match value:
        case Text():
            return str.__str__(value)
        case Octets():
            return bytes.__getitem__(value, slice(None))
        case dict():
            return {plain(key): plain(item) for key, item in dict.items(value)}
        case tuple():
            return tuple([plain(item) for item in tuple.__iter__(value)])
        case list():
            return [plain(item) for item in list.__iter__(value)]
    return value


SHAPES = [
    lambda pairs: list(pairs),
    lambda pairs: tuple(pairs),
    lambda pairs: dict(pairs),
    lambda pairs: iter(pairs),
    lambda pairs: [list(pair) for pair in pairs],
    lambda pairs: type("Sub", (dict,), {})(pairs),
    lambda pairs: UserDict(dict(pairs)),
    lambda pairs: dict(pairs).items(),
    lambda pairs: [hostile(pair) for pair in pairs],
    lambda pairs: [hostile(list(pair)) for pair in pairs],
    lambda pairs: {key: hostile(value) for key, value in dict(pairs).items()},
    lambda pairs: {hostile(key): value for key, value in dict(pairs).items()},
    lambda pairs: UserDict([(hostile(key), value) for key, value in dict(pairs).items()]),
]
SIEVES = st.sampled_from([(FIELDS, PREFIXES), (FIELDS, ()), ((), PREFIXES), ((), ()), (("host", "b3"), ("x", "host"))])


@given(pairs=PAIRS, junk=JUNK, arguments=SIEVES, shape=st.integers(0, len(SHAPES) - 1))
@same
def test_both_find_the_same_fields(pairs, junk, arguments, shape):
    found = []
    for form in (_pure, COMPILED):
        sieve = form.Sieve(*arguments)
        carriers = [SHAPES[shape](pairs), [*pairs, *junk], (pair for pair in [*junk, *pairs])]
        found.append([sieve.sift(carrier) for carrier in carriers])
        listed = [sieve.collect(SHAPES[shape](pairs)) for _ in range(2)]
        found[-1] += listed
        if arguments[1]:
            fields = {name: value for name, value in zip(arguments[0], listed[0], strict=False) if value is not None}
            assert (fields | (listed[0][-1] or {}) or None) == found[-1][0]
    assert found[0] == found[1]
    for values in found[0]:
        for value in (values or {}).values() if isinstance(values, dict | None) else values:
            assert value is None or type(value) in (str, list, dict)
            assert type(value) is not list or {type(text) for text in value} == {str}


@given(
    pairs=PAIRS,
    junk=JUNK,
    arguments=SIEVES,
    shape=st.integers(0, len(SHAPES) - 1),
    texts=st.dictionaries(st.sampled_from(["b3", "host", "uberctx-a", "u-" + "x" * 300]), st.none() | st.just("new"), max_size=3),
)  # fmt: skip
@same
def test_both_set_the_same_fields(pairs, junk, arguments, shape, texts):
    for more in ([], junk):
        outcomes = []
        for form in (_pure, COMPILED):
            carrier = SHAPES[shape](pairs)
            if isinstance(carrier, list):
                carrier += more
            result = outcome(form.Sieve(*arguments).put, (carrier, dict(texts)))
            held = carrier.data if isinstance(carrier, UserDict) else carrier
            outcomes.append((result, plain(held) if isinstance(held, dict | list) else None))
            for name, text in texts.items() if result[0] == "returned" else ():
                if text is not None and name in arguments[0]:
                    # As pairs, in which a WSGI name is only a name.
                    again = list(held.items()) if isinstance(held, dict) else held
                    assert form.Sieve((name,)).collect(again) == [text]
        assert outcomes[0] == outcomes[1]


@given(pairs=PAIRS, name=st.sampled_from(["b3", "uberctx-a", "x-b3-traceid", "new"]), text=st.none() | st.just("new"))
@same
def test_both_put_the_same_field(pairs, name, text):
    for shape in SHAPES:
        outcomes = []
        for form in (_pure, COMPILED):
            carrier = shape(pairs)
            result = outcome(form.put, (carrier, name, text))
            held = carrier.data if isinstance(carrier, UserDict) else carrier
            outcomes.append((result, plain(held) if isinstance(held, dict | list) else None))
            if result[0] == "returned":
                assert form.Sieve((name,)).collect(list(held.items()) if isinstance(held, dict) else held) == [text]
        assert outcomes[0] == outcomes[1]
