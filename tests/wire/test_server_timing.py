from __future__ import annotations

import email.message
import email.policy
from collections import UserDict
from collections.abc import MutableMapping
from wsgiref.headers import Headers as WsgiHeaders

import httpx
import pytest
import starlette.datastructures
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import FormatError, SpanContext
from tracekit.wire.server_timing import SERVER_TIMING

from .strategies import CONTEXTS, TEXTS
from .vector_files import cases, check_extract, check_read, good_cases

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONTEXT = SpanContext(TRACE_ID, SPAN_ID, 1, is_remote=True)
METRIC = f"trace;desc=00-{TRACE_ID}-{SPAN_ID}-01"

some = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("case", cases("server_timing"))
def test_the_vector_is_read(case):
    check_read(SERVER_TIMING, case)
    check_extract(SERVER_TIMING, case)


@pytest.mark.parametrize("case", good_cases("server_timing"))
def test_a_read_context_is_written_again(case):
    context = SERVER_TIMING.read(case.carrier)
    written = {}
    SERVER_TIMING.write(context, written)
    flags = context.flags & 3
    assert written == {"server-timing": f"trace;desc=00-{context.trace_id}-{context.span_id}-{flags:02x}"}
    if case.canonical:
        assert written == case.carrier


@pytest.mark.parametrize(
    "context",
    [SpanContext(), SpanContext(TRACE_ID, flags=1), SpanContext(span_id=SPAN_ID, flags=1), SpanContext(flags=1)],
)
@pytest.mark.parametrize("carrier", [{}, {"Server-Timing": METRIC}, [("server-timing", "db;dur=5")], [(b"a", b"b")]])
def test_a_context_without_both_ids_changes_nothing(context, carrier):
    before = carrier.copy()
    SERVER_TIMING.write(context, carrier)
    assert carrier == before


class IgnoringCase(MutableMapping):
    """Headers as in many frameworks: names in any case, one value each."""

    def __init__(self, pairs):
        self._pairs = {}
        for name, value in pairs:
            self[name] = f"{self[name]}, {value}" if name in self else value

    def __getitem__(self, name):
        return self._pairs[name.lower()][1]

    def __setitem__(self, name, value):
        self._pairs[name.lower()] = (name, value)

    def __delitem__(self, name):
        del self._pairs[name.lower()]

    def __iter__(self):
        return iter([name for name, _ in self._pairs.values()])

    def __len__(self):
        return len(self._pairs)


def _joined(pairs):
    joined = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _message(pairs, policy=email.policy.compat32):
    message = email.message.EmailMessage(policy) if policy is email.policy.HTTP else email.message.Message()
    for name, value in pairs:
        message[name] = value
    return message


def _octets(pairs):
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


CARRIERS = {
    "dict": _joined,
    "dict of lists": lambda pairs: {name: [value for key, value in pairs if key == name] for name, _ in pairs},
    "dict of octets": lambda pairs: {name: value.encode("latin-1") for name, value in _joined(pairs).items()},
    "subclass of dict": lambda pairs: type("Sub", (dict,), {})(_joined(pairs)),
    "UserDict": lambda pairs: UserDict(_joined(pairs)),
    "mapping that ignores case": IgnoringCase,
    "list of str pairs": list,
    "list of lists": lambda pairs: [list(pair) for pair in pairs],
    "list of bytes pairs": _octets,
    "httpx.Headers": httpx.Headers,
    "starlette MutableHeaders": lambda pairs: starlette.datastructures.MutableHeaders(
        raw=[(name.lower(), value) for name, value in _octets(pairs)]
    ),
    "email Message": _message,
    "EmailMessage": lambda pairs: _message(pairs, email.policy.HTTP),
    "wsgiref Headers": lambda pairs: WsgiHeaders(list(pairs)),
}
OTHERS = [("Host", "x"), ("Server-Timing", 'miss, db;dur=53;desc="a, b"'), ("Server-Timing", "app;dur=47.2")]


def metrics_in(carrier):
    """All metrics in *carrier*, in order."""
    (found,) = tracekit._core.codecs.Sieve(("server-timing",)).collect(carrier)
    return ", ".join([found] if isinstance(found, str) else found or [])


@pytest.mark.parametrize("name", CARRIERS)
def test_it_is_appended_in_every_shape_of_carrier(name):
    carrier = CARRIERS[name](OTHERS)
    SERVER_TIMING.write(CONTEXT, carrier)
    assert metrics_in(carrier) == f'miss, db;dur=53;desc="a, b", app;dur=47.2, {METRIC}'
    assert tracekit._core.codecs.Sieve(("host",)).collect(carrier) == ["x"]
    assert SERVER_TIMING.read(carrier) == CONTEXT


@pytest.mark.parametrize("name", CARRIERS)
def test_it_is_appended_after_the_trace_of_a_callee(name):
    callee = SpanContext("f" * 32, "f" * 16, is_remote=True)
    carrier = CARRIERS[name]([("host", "x")])
    SERVER_TIMING.write(callee, carrier)
    SERVER_TIMING.write(CONTEXT, carrier)
    assert metrics_in(carrier) == f"trace;desc=00-{'f' * 32}-{'f' * 16}-00, {METRIC}"
    assert SERVER_TIMING.read(carrier) == CONTEXT, "the hop that was asked, not one behind it"


@pytest.mark.parametrize("name", CARRIERS)
def test_it_is_set_in_a_carrier_without_one(name):
    carrier = CARRIERS[name]([("host", "x")])
    SERVER_TIMING.write(CONTEXT, carrier)
    assert metrics_in(carrier) == METRIC


@pytest.mark.parametrize(
    ("carrier", "after"),
    [
        ([], [("server-timing", METRIC)]),
        ([("a", "b")], [("a", "b"), ("server-timing", METRIC)]),
        ([(b"a", b"b")], [(b"a", b"b"), (b"server-timing", METRIC.encode())]),
        ([["a", "b"]], [["a", "b"], ("server-timing", METRIC)]),
        ({"SERVER-TIMING": "db", "server-timing": "app"}, {"server-timing": f"db, app, {METRIC}"}),
        ({"Server-Timing": ""}, {"server-timing": METRIC}),
        ({"Server-Timing": ["db", "", "app"]}, {"server-timing": f"db, app, {METRIC}"}),
        ({"Server-Timing": None}, {"server-timing": METRIC}),
    ],
)
def test_it_has_the_type_of_the_other_pairs(carrier, after):
    SERVER_TIMING.write(CONTEXT, carrier)
    assert carrier == after


def test_other_octets_in_a_list_stay_unchanged():
    others = [(b"Server-Timing", b"db;desc=\xe9\xff"), (b"x", b"y"), (b"server-timing", b""), [b"SERVER-TIMING", b"\0"]]
    carrier = list(others)
    SERVER_TIMING.write(CONTEXT, carrier)
    assert all(pair is other for pair, other in zip(carrier, others, strict=False))
    assert carrier[4:] == [(b"server-timing", METRIC.encode())]


@pytest.mark.parametrize("carrier", [None, 5, "text", (), (("a", "b"),), object(), [1], [None], [()], iter([])])
def test_an_unwritable_carrier_is_a_type_error_that_names_it(carrier):
    with pytest.raises(TypeError, match=r"carrier must be|not iterable"):
        SERVER_TIMING.write(CONTEXT, carrier)


def test_words_of_other_formats_are_not_written():
    context = CONTEXT.replace(extra={"server-timing": "a\r\nb: c", "b3": "d", "xray": (("a", "\r\n"),)})
    carrier = {}
    SERVER_TIMING.write(context, carrier)
    assert carrier == {"server-timing": METRIC}


def test_a_deferred_decision_is_written_as_specified():
    carrier = {}
    SERVER_TIMING.write(SpanContext(TRACE_ID, SPAN_ID, deferred=True), carrier)
    assert carrier == {"server-timing": METRIC[:-1] + "0"}, "0 is the default"


@given(context=CONTEXTS, flags=st.integers(0, 3))
@some
def test_a_written_context_reads_back_equal(context, flags):
    context = SpanContext(context.trace_id, context.span_id, flags, deferred=False, is_remote=True)
    carrier = {}
    SERVER_TIMING.write(context, carrier)
    assert SERVER_TIMING.read(carrier) == context
    again = [(b"host", b"x")]
    SERVER_TIMING.write(SERVER_TIMING.read(carrier), again)
    assert again[1:] == [(b"server-timing", carrier["server-timing"].encode())]


PIECES = st.lists(
    st.sampled_from(["trace", "Trace", "traceparent", ";", ";", ",", "desc=", '"', "\\", " ", "=", METRIC, METRIC[11:], "x"]),
    max_size=12,
).map("".join)  # fmt: skip


@given(texts=st.lists(TEXTS | PIECES, max_size=3))
@some
def test_any_text_is_read_or_rejected_and_stays(texts):
    tracekit.configure(formats=[SERVER_TIMING])
    pairs = [("Server-Timing", text) for text in texts]
    extracted = tracekit.extract(pairs)
    refusal = read = None
    try:
        read = SERVER_TIMING.read(pairs)
    except FormatError as error:
        refusal = error
    assert read == extracted
    assert refusal is None or (refusal.field, str(refusal).isprintable()) == ("server-timing", True)
    carrier = list(pairs)
    SERVER_TIMING.write(CONTEXT, carrier)
    assert carrier == [*pairs, ("server-timing", METRIC)]
    if sum(map(len, texts)) < 8000:
        assert SERVER_TIMING.read(carrier) == CONTEXT


def test_the_name_and_fields_of_the_format():
    assert (SERVER_TIMING.name, SERVER_TIMING.fields) == ("server-timing", ("server-timing",))
