from __future__ import annotations

import base64
import email.message
import email.policy
from collections import UserDict

import httpx
import pytest
import starlette.datastructures
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, Labels, SpanContext
from tracekit.wire.grpc_bin import BINARY
from tracekit.wire.w3c import TRACECONTEXT

from .strategies import CONTEXTS, TEXTS, reads_or_rejects
from .vector_files import cases, check_extract, check_read, check_write, described, expected, good_cases

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d000e4736", "34f067aa0ba902b7"
OCTETS = bytes.fromhex(f"0000{TRACE_ID}01{SPAN_ID}0201")
WIRE = base64.b64encode(OCTETS).rstrip(b"=")
TAGS = b"\0\0\x04plan\x03pro"
CONTEXT = SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True)
LABELLED = CONTEXT.replace(labels=Labels({"plan": "pro"}))

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


def written(context, carrier=None):
    carrier = {} if carrier is None else carrier
    BINARY.write(context, carrier)
    return carrier


@pytest.mark.parametrize("case", cases("grpc_bin"))
def test_the_vector_is_read(case):
    check_read(BINARY, case)
    check_extract(BINARY, case)


@pytest.mark.parametrize("case", good_cases("grpc_bin"))
def test_a_read_context_is_written_again(case):
    check_write(BINARY, case)
    assert BINARY.left_out == 0


@pytest.mark.parametrize("case", cases("grpc_bin"))
def test_both_implementations_decode_the_vector(form, case):
    octets = case.carrier.get("grpc-trace-bin")
    if isinstance(octets, bytes):
        context = form.decode_binary(octets)
        if case.context is None:
            assert context is None
            return
        shown = {name: value for name, value in expected(case).items() if name != "labels"}
        assert described(context) == shown
        if case.canonical:
            assert form.encode_binary(context) == octets


@pytest.mark.parametrize("case", good_cases("grpc_bin"))
def test_both_implementations_decode_the_tags_of_the_vector(form, case):
    octets = case.carrier.get("grpc-tags-bin")
    if isinstance(octets, bytes) and "labels" in case.context and "dropped" not in case.context:
        tags = form.decode_tags(octets)
        assert tags == case.context["labels"]
        if case.canonical:
            assert form.encode_tags(tags) == octets


PAIRS = [("grpc-trace-bin", OCTETS), ("grpc-tags-bin", TAGS)]


@pytest.mark.parametrize(
    "carrier",
    [
        PAIRS,
        tuple(PAIRS),
        dict(PAIRS),
        UserDict(PAIRS),
        iter(PAIRS),
        [(name.upper(), octets) for name, octets in PAIRS],
        [(name.encode(), octets) for name, octets in PAIRS],
        [(name.encode(), base64.b64encode(octets)) for name, octets in PAIRS],
        {name: base64.b64encode(octets).decode() for name, octets in PAIRS},
        {name: octets.decode("latin-1") for name, octets in PAIRS},
        httpx.Headers({name: base64.b64encode(octets).decode() for name, octets in PAIRS}),
    ],
)
def test_octets_and_base64_are_read_in_every_shape_of_carrier(carrier):
    assert BINARY.read(carrier) == LABELLED


def test_every_octet_reaches_the_reader():
    octets = OCTETS + bytes(range(3, 256))
    for carrier in ({"grpc-trace-bin": octets}, [(b"grpc-trace-bin", octets)]):
        tracekit.configure(formats=[BINARY])
        for context in (BINARY.read(carrier), tracekit.extract(carrier)):
            assert context.extra == {"grpc_bin": bytes(range(3, 256))}
            assert written(context) == {"grpc-trace-bin": octets}


@pytest.mark.parametrize(
    ("carrier", "after"),
    [
        ({}, dict(PAIRS)),
        ({"Grpc-Trace-Bin": b"stale", "x": "1"}, {"x": "1", **dict(PAIRS)}),
        (UserDict(), UserDict(PAIRS)),
        ([], PAIRS),
        ([("x", "1"), ("grpc-tags-bin", b"stale"), ["grpc-trace-bin", b"stale"]], [("x", "1"), *PAIRS]),
    ],
)
def test_octets_are_written_to_metadata(carrier, after):
    assert written(LABELLED, carrier) == after


def test_base64_is_written_beside_names_of_bytes():
    wire = [(b"grpc-trace-bin", WIRE), (b"grpc-tags-bin", base64.b64encode(TAGS).rstrip(b"="))]
    assert written(LABELLED, [(b"te", b"trailers")]) == [(b"te", b"trailers"), *wire]
    assert written(LABELLED, [(b"grpc-trace-bin", b"stale")]) == wire


@pytest.mark.parametrize(
    "make",
    [
        httpx.Headers,
        lambda: starlette.datastructures.MutableHeaders(raw=[]),
        lambda: email.message.EmailMessage(policy=email.policy.HTTP),
    ],
)
def test_base64_is_written_to_headers_of_text_only(make):
    headers = written(LABELLED, make())
    assert headers["grpc-trace-bin"] == WIRE.decode()
    assert BINARY.read(headers) == LABELLED


@pytest.mark.parametrize(
    "context", [SpanContext(), SpanContext(flags=1), SpanContext(TRACE_ID), SpanContext(TRACE_ID, flags=1)]
)
def test_a_context_without_both_ids_writes_nothing_and_removes_stale_fields(context):
    assert written(context, {"grpc-trace-bin": b"stale", "grpc-tags-bin": b"stale", "x": "1"}) == {"x": "1"}


@pytest.mark.parametrize("carrier", [None, 5, (), "text", [1], [None], [()], [[]], ["ab"]])
def test_an_unwritable_carrier_is_a_type_error_that_names_it(carrier):
    with pytest.raises(TypeError, match=r"^carrier must be "):
        BINARY.write(CONTEXT, carrier)


@pytest.mark.parametrize(
    "text", ["\r", "\n", "\0", "\t", "\x7f", "\xe9", "\u20ac", "\U0001f419", "\udc80", "x" * 256]
)  # fmt: skip
def test_a_label_that_peers_would_reject_is_omitted_and_counted(text):
    assert written(SpanContext(labels=Labels({"bad": text, "plan": "pro"}))) == {"grpc-tags-bin": TAGS}
    assert BINARY.left_out == 1
    assert written(SpanContext(labels=Labels({"bad": text}))) == {}
    assert BINARY.left_out == 2


def test_a_label_with_a_long_key_is_omitted_and_counted():
    assert written(SpanContext(labels=Labels({"k" * 256: "1", "plan": "pro"}))) == {"grpc-tags-bin": TAGS}
    assert BINARY.left_out == 1
    assert BINARY.read(written(SpanContext(labels=Labels({"k" * 255: "1"})))).labels == {"k" * 255: "1"}


def test_parts_that_the_format_cannot_express_are_omitted_and_counted():
    labels = Labels([("k", "1"), ("userId", "7"), ("k", "2")]).with_member("p", "3", [("a", None), ("b", "c")])
    assert BINARY.read(written(SpanContext(labels=labels))).labels == {"userId": "7", "k": "2", "p": "3"}
    assert BINARY.left_out == 3, "the first k, and two properties"


def test_labels_past_the_limit_of_tags_are_omitted_and_counted():
    labels = Labels({f"{at:02d}": "v" * 124 for at in range(64)})
    assert (len(labels), len(str(labels))) == (64, 64 * (2 + 1 + 124) + 63), "within the limit, as baggage"
    octets = written(SpanContext(labels=labels))["grpc-tags-bin"]
    assert len(octets) == 1 + 63 * (1 + 1 + 2 + 1 + 124)
    assert list(BINARY.read({"grpc-tags-bin": octets}).labels) == [f"{at:02d}" for at in range(63)]
    assert BINARY.left_out == 1


def test_the_ids_are_those_of_a_traceparent():
    tracekit.configure(formats=[TRACECONTEXT, BINARY])
    carrier = tracekit.inject({}, CONTEXT)
    assert carrier == {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "grpc-trace-bin": OCTETS}
    assert tracekit.extract(carrier) == CONTEXT


def test_the_tail_is_kept_through_spans():
    tracekit.configure(formats=[BINARY])
    with tracekit.span("serve", parent=tracekit.extract([("grpc-trace-bin", OCTETS + b"\x03\xff\0")])) as span:
        octets = tracekit.inject({})["grpc-trace-bin"]
    assert octets == bytes.fromhex(f"0000{TRACE_ID}01{span.context.span_id}0201") + b"\x03\xff\0"


@pytest.mark.parametrize(
    "tail", ["text", 5, [b"\x03"], ("a", "b"), b"\0" + b"x" * 16, b"\1", b"\2\0", b"\3" + b"x" * 483]
)
def test_an_invalid_tail_is_omitted_and_counted(tail):
    assert written(CONTEXT.replace(extra={"grpc_bin": tail})) == {"grpc-trace-bin": OCTETS}
    assert BINARY.left_out == 1


def test_a_tail_may_take_the_bytes_that_the_ids_leave():
    deferred = SpanContext(TRACE_ID, SPAN_ID, deferred=True, is_remote=True, extra={"grpc_bin": b"\3" + b"x" * 484})
    octets = written(deferred)["grpc-trace-bin"]
    assert len(octets) == 512
    assert BINARY.read({"grpc-trace-bin": octets}) == deferred
    assert len(written(CONTEXT.replace(extra={"grpc_bin": b"\3" + b"x" * 482}))["grpc-trace-bin"]) == 512
    assert BINARY.left_out == 0


@pytest.mark.parametrize("tail", [None, b""])
def test_an_empty_tail_is_not_counted_as_omitted(tail):
    assert written(CONTEXT.replace(extra={"grpc_bin": tail})) == {"grpc-trace-bin": OCTETS}
    assert BINARY.left_out == 0


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
KEYS = st.text("abcXYZ-_.~!#$%&'*+^`|019", min_size=1, max_size=8)
TAILS = st.binary(min_size=1, max_size=20).filter(lambda octets: octets[0] > 2)


@given(
    context=CONTEXTS, labels=st.dictionaries(KEYS, VALUES.filter(lambda text: len(text) < 256), max_size=5), tail=TAILS
)
@some
def test_a_written_context_reads_back_equal(context, labels, tail):
    context = context.replace(labels=Labels(labels), extra={"grpc_bin": tail})
    carrier = written(context)
    assert BINARY.read(carrier) == context
    assert written(BINARY.read(carrier)) == carrier
    wire = written(context, [(b"host", b"x")])
    assert BINARY.read(wire) == context
    assert all(0x21 <= octet <= 0x7E for _, value in wire for octet in value)


NAMES = st.sampled_from([*BINARY.fields, "Grpc-Trace-Bin"])
MUTATED = st.builds(
    lambda at, octets: OCTETS[:at] + octets + OCTETS[at + 1 :], st.integers(0, 29), st.binary(max_size=3)
)


@given(pairs=st.lists(st.tuples(NAMES, st.binary(max_size=40) | MUTATED | TEXTS), max_size=3))
@some
def test_any_octets_are_read_or_rejected(pairs):
    reads_or_rejects(BINARY, pairs)


@given(octets=st.binary(max_size=60) | MUTATED)
@some
def test_octets_and_their_base64_read_the_same(octets):
    def read(value):
        try:
            return BINARY.read({"grpc-trace-bin": value})
        except FormatError:
            return None

    if octets[:1] == b"\0":
        assert read(octets) == read(base64.b64encode(octets)) == read(base64.b64encode(octets).rstrip(b"="))


def test_the_name_and_fields_of_the_format():
    assert (BINARY.name, BINARY.fields) == ("grpc_bin", ("grpc-trace-bin", "grpc-tags-bin"))
