"""Both twins' codecs of the wire formats get the same input and must give the same result or the same error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit import FormatError
from tracekit._core import span as _pure
from tracekit._core.codecs import utf8

from .vectors import TWINS
from .wire.strategies import TEXTS

COMPILED = TWINS.get("compiled")

pytestmark = pytest.mark.skipif(COMPILED is None, reason="the compiled twin was not built")
same = settings(max_examples=500, deadline=None, derandomize=True, database=None)


def seen(value):
    """*value* in a form that is equal for both twins."""
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
    """Demand of both twins the same for *arguments*; what is callable among them is asked with the twin."""
    outcomes = []
    for twin in (_pure, COMPILED):
        made = [argument(twin) if callable(argument) else argument for argument in arguments]
        outcomes.append((outcome(getattr(twin, name), made), [seen(carrier) for carrier in made]))
    assert outcomes[0] == outcomes[1]
    assert type(outcomes[0][0][1]) is type(outcomes[1][0][1])
    return outcomes[0][0]


HEX = "0123456789abcdef"
IDS = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, (1 << 64) - 1])


@st.composite
def b3_texts(draw):
    """A ``b3`` value that is good or nearly so."""
    ids = st.text(HEX, min_size=16, max_size=16)
    parts = [draw(ids | st.builds(str.__add__, ids, ids)), draw(ids), draw(st.sampled_from("01d2")), draw(ids)]
    text = "-".join(parts[: draw(st.integers(0, 5))])
    if draw(st.booleans()):
        return text
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text("0-dfF\xe9\uff11", max_size=2)) + text[at + draw(st.integers(0, 2)) :]


@st.composite
def contexts(draw):
    """What makes one and the same context of either twin."""
    high, low, span, flags = draw(IDS), draw(IDS), draw(IDS), draw(st.integers(0, 0x1FF))
    extra = draw(
        st.none()
        | st.dictionaries(
            st.sampled_from(["b3", "grpc_bin", "jaeger"]),
            st.sampled_from(["d", "", "x"]) | st.binary(max_size=8) | st.tuples(st.integers()),
            min_size=1,
        )
    )
    return lambda twin: twin.make_remote(high << 64 | low, span, flags, extra)


@st.composite
def contexts_octets(draw):
    """The binary form of a context, good or nearly so."""
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
def test_b3_is_formatted_the_same_and_comes_in_as_it_went_out(context):
    _, text = compare("format_b3", context)
    compare("write_b3", context, lambda _: {"B3": "stale"})
    compare("write_b3", context, lambda _: [(b"b3", b"stale"), (b"host", b"x")])
    for twin in (_pure, COMPILED):
        again = twin.parse_b3(text)
        if again is not None:
            assert twin.format_b3(again) == text
        else:
            assert text == ""


@pytest.mark.parametrize("name", ["format_b3", "encode_binary"])
@pytest.mark.parametrize("context", [None, 5, "1", b"", {}])
def test_what_is_no_context_is_the_same_error(name, context):
    assert compare(name, context)[0] == "TypeError"


@given(octets=st.binary(max_size=600) | contexts_octets())
@same
def test_the_binary_form_is_decoded_the_same(octets):
    compare("decode_binary", octets)


@given(context=contexts())
@same
def test_the_binary_form_is_encoded_the_same_and_comes_in_as_it_went_out(context):
    _, octets = compare("encode_binary", context)
    for twin in (_pure, COMPILED):
        again = twin.decode_binary(octets)
        if again is not None and again.extra.get("grpc_bin", b"\xff") >= b"\3":
            assert twin.encode_binary(again)[:27] == octets[:27]


KEYS = st.text(st.characters(), max_size=200) | st.sampled_from(["", "k", "k" * 127, "k" * 128, "k" * 9000])
TAGS = st.dictionaries(KEYS, KEYS | st.integers(0, 9000).map(lambda size: "v" * size), max_size=8)


@given(tags=TAGS)
@same
def test_tags_are_encoded_the_same_and_come_in_as_they_went_out(tags):
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


NAMES = st.sampled_from(
    ["b3", "B3", "b4", "x-b3-traceid", "X-B3-TraceId", "HTTP_B3", "HTTP_X_B3_TRACEID", "uberctx-", "uberctx-a", "UBERCTX-a",
     "HTTP_UBERCTX_A", "\u212aberctx-a", "uberctx-\xe9", "host", "", "x" * 300, "uberctx-" + "x" * 300]
)  # fmt: skip
VALUES = st.one_of(TEXTS, st.binary(max_size=9), st.none(), st.integers(), st.lists(TEXTS | st.none(), max_size=3))
PAIRS = st.lists(st.tuples(NAMES | NAMES.map(lambda name: name.encode("utf-8")), VALUES), max_size=8)


@given(pairs=PAIRS)
@same
def test_a_sieve_finds_the_same(pairs):
    found = []
    for twin in (_pure, COMPILED):
        sieve = twin.Sieve(["b3", "x-b3-traceid"], ["uberctx-"])
        carriers = (
            pairs,
            tuple(pairs),
            dict(pairs),
            iter(pairs),
            [list(pair) for pair in pairs],
            [*pairs, None, ("b3",)],
        )
        found.append([sieve.sift(carrier) for carrier in carriers])
    assert found[0] == found[1]
