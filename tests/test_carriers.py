from __future__ import annotations

import email.message
import email.policy
from collections import UserDict, namedtuple
from enum import Enum, StrEnum
from types import MappingProxyType
from wsgiref.headers import Headers as WsgiHeaders

import httpx
import pytest
import starlette.datastructures

import tracekit
from tracekit import Labels, SpanContext, TraceState

from .vectors import BAD_STATES, BAD_TRACEPARENTS, SPAN_ID, TRACE_ID, TRACEPARENT

PAIRS = [
    ("host", "shop.example"),
    ("traceparent", TRACEPARENT),
    ("tracestate", "foo=1"),
    ("tracestate", "bar=2"),
    ("baggage", "plan=pro"),
    ("baggage", "user=Am%C3%A9lie"),
    ("accept", "*/*"),
]
CONTEXT = SpanContext(
    TRACE_ID,
    SPAN_ID,
    1,
    state=TraceState.parse("foo=1,bar=2"),
    labels=Labels({"plan": "pro", "user": "Am\xe9lie"}),
    is_remote=True,
)
Metadatum = namedtuple("Metadatum", ["key", "value"])


class Text(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


def _joined(pairs):
    joined = {}
    for name, value in pairs:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def _several(pairs):
    several = {}
    for name, value in pairs:
        several.setdefault(name, []).append(value)
    return several


def _message(pairs, **policy):
    message = email.message.EmailMessage(**policy) if policy else email.message.Message()
    for name, value in pairs:
        message[name] = value
    return message


def _octets(pairs):
    return [(name.encode(), value.encode()) for name, value in pairs]


def _environ(pairs):
    environ = {"REQUEST_METHOD": "GET", "CONTENT_TYPE": "", "wsgi.version": (1, 0), "wsgi.errors": None}
    return environ | {"HTTP_" + name.upper().replace("-", "_"): text for name, text in _joined(pairs).items()}


CARRIERS = {
    "dict": _joined,
    "dict of lists": _several,
    "dict of tuples": lambda pairs: {name: tuple(values) for name, values in _several(pairs).items()},
    "dict of bytes": lambda pairs: dict(_octets(_joined(pairs).items())),
    "dict with names in title case": lambda pairs: {name.title(): text for name, text in _joined(pairs).items()},
    "dict with names in upper case": lambda pairs: {name.upper(): text for name, text in _joined(pairs).items()},
    "WSGI environ": _environ,
    "UserDict": lambda pairs: UserDict(_joined(pairs)),
    "mapping proxy": lambda pairs: MappingProxyType(_joined(pairs)),
    "list of pairs": list,
    "list of lists": lambda pairs: [list(pair) for pair in pairs],
    "tuple of pairs": tuple,
    "named tuples, as gRPC has them": lambda pairs: tuple(Metadatum(*pair) for pair in pairs),
    "iterator": iter,
    "generator": lambda pairs: (pair for pair in pairs),
    "view of a dict": lambda pairs: _joined(pairs).items(),
    "bytes pairs, as ASGI has them": _octets,
    "bytes in a generator": lambda pairs: iter(_octets(pairs)),
    "str and bytes, as Kafka has them": lambda pairs: [(name, value.encode()) for name, value in pairs],
    "subclasses of str": lambda pairs: [(Text(name), Text(value)) for name, value in pairs],
    "subclasses of bytes": lambda pairs: [(Octets(name), Octets(value)) for name, value in _octets(pairs)],
    "dict of subclasses of str": lambda pairs: {Text(name): Text(text) for name, text in _joined(pairs).items()},
    "httpx.Headers": httpx.Headers,
    "httpx.Headers of bytes": lambda pairs: httpx.Headers(_octets(pairs)),
    "starlette Headers": lambda pairs: starlette.datastructures.Headers(raw=_octets(pairs)),
    "email Message": _message,
    "EmailMessage": lambda pairs: _message(pairs, policy=email.policy.HTTP),
    "wsgiref Headers": lambda pairs: WsgiHeaders(list(pairs)),
    "among hostile shapes": lambda pairs: [
        None,
        1,
        "ab",
        b"ab",
        (),
        ("traceparent",),
        (None, ""),
        *pairs,
        ("x", "y", 3),
    ],
}


@pytest.mark.parametrize("name", CARRIERS)
def test_a_context_is_found_in_every_shape_of_carrier(name):
    context = tracekit.extract(CARRIERS[name](PAIRS))
    assert context is not None
    # httpx joins repeated fields with a space after the comma.
    assert str(context.state).replace(", ", ",") == "foo=1,bar=2"
    assert context.labels == CONTEXT.labels
    assert context.replace(state=TraceState()) == CONTEXT.replace(state=TraceState())


@pytest.mark.parametrize("name", CARRIERS)
def test_a_field_that_came_twice_is_found_twice_or_joined_in_every_shape_of_carrier(twin, name):
    (found,) = twin.collect(CARRIERS[name]([("a", "1"), ("field", "x"), ("field", "y"), ("z", "2")]), ("field",))
    assert (found if isinstance(found, list) else found.replace(" ", "").split(",")) == ["x", "y"]


@pytest.mark.parametrize(
    ("carrier", "found"),
    [
        ({}, [None, None]),
        ([], [None, None]),
        ({"key": "1"}, ["1", None]),
        ({"KEY": "1", "Other": "2"}, ["1", "2"]),
        ({"key": ""}, ["", None]),
        ({"key": [], "other": [[], None, 5]}, [None, None]),
        ({"key": ["1"]}, ["1", None]),
        ({"key": ["1", "2"]}, [["1", "2"], None]),
        ({"key": ("1", b"2", None, 3, "4")}, [["1", "2", "4"], None]),
        ({"key": "1", "Key": "2", b"KEY": b"3"}, [["1", "2", "3"], None]),
        ({"key": b"\xe9\xff\0"}, ["\xe9\xff\0", None]),
        ({"HTTP_KEY": "1"}, ["1", None]),
        ({"HTTP_KEY": "1", "key": "2"}, [["1", "2"], None]),
        ({"http_key": "1", "Http_Key": "1", "HTTP-KEY": "1", "HTTP_": "1", b"HTTP_KEY": b"1"}, [None, None]),
        ([("HTTP_KEY", "1")], [None, None]),
        ([("key", "1"), ("other", "2"), ("KEY", b"3"), ("key", "4")], [["1", "3", "4"], "2"]),
        ([("key", ["1", "2"]), ("key", "3")], [["1", "2", "3"], None]),
        ([["key", "1"]], ["1", None]),
        ([("\u212aey", "1"), ("\u212aEY", "2"), ("ke\u1ef9", "3"), ("\uff4bey", "4")], [None, None]),
        ([("\u212aey".encode(), b"1"), (b"ke\xff", b"2")], [None, None]),
        ([("key\0", "1"), (" key", "1"), ("key ", "1"), ("key:", "1"), ("ke", "1"), ("", "1")], [None, None]),
        ([("key", None), ("key", 5), ("key", {}), ("key", object()), ("key", bytearray(b"1"))], [None, None]),
        ([None, 5, "ke", b"ke", {"key": "1"}, {"key", "1"}, ("key",), (), ("key", "1", "2")], [None, None]),
        ([(None, "1"), (5, "1"), (("key",), "1"), (bytearray(b"key"), "1"), ([], "1")], [None, None]),
        ([("key", "\udcff"), ("\udcffkey", "1")], ["\udcff", None]),
        ([("key", "x" * 1_000_000)], ["x" * 1_000_000, None]),
        ([("k" * 1_000_000, "1")], [None, None]),
    ],
)
def test_collect_finds_names_in_any_case_and_passes_over_other_shapes(twin, carrier, found):
    assert twin.collect(carrier, ("key", "other")) == found


@pytest.mark.parametrize("carrier", [None, 5, 1.5, True, object(), "traceparent", b"traceparent", len])
def test_what_is_no_carrier_is_a_type_error_that_names_it(carrier):
    with pytest.raises(TypeError, match=r"^carrier must be "):
        tracekit.extract(carrier)


HOSTILE = {
    "nothing": [],
    "not pairs": [None, 5, "ab", b"cd", ("traceparent",), (), {}],
    "pairs of what is no text": [
        (None, TRACEPARENT),
        (5, 5),
        ("traceparent", None),
        ("baggage", 5),
        ("tracestate", []),
    ],
    "a nested list": [("traceparent", [[TRACEPARENT]])],
    "another name": [("trace-parent", TRACEPARENT), ("trace.parent", TRACEPARENT), ("traceparent ", TRACEPARENT)],
    "a name with NUL": [("traceparent\0", TRACEPARENT), ("traceparent\r\n", TRACEPARENT)],
    "bytes that are no ASCII": [(b"traceparent", b"\xff" * 55), (b"tracestate", b"a=\xe9"), (b"baggage", b"a=\xe9")],
    "two traceparents": [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)],
    "two by case": {"traceparent": TRACEPARENT, "Traceparent": TRACEPARENT},
    "two in a list": {"traceparent": [TRACEPARENT, TRACEPARENT]},
    "one good, one empty": [("traceparent", TRACEPARENT), ("traceparent", "")],
    "two by WSGI": {"traceparent": TRACEPARENT, "HTTP_TRACEPARENT": TRACEPARENT},
    "two joined by httpx": httpx.Headers([("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]),
    "tracestate without a traceparent": {"tracestate": "foo=1"},
    "empty baggage": {"baggage": ""},
    "baggage without a good member": {"baggage": "a,=b,c d=e"},
    "all empty": {"traceparent": "", "tracestate": "", "baggage": ""},
    "huge": {"traceparent": "0" * 10**6, "tracestate": "a=1," * 10**6, "baggage": "x" * 10**6},
    "numbers": range(10),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_carrier_with_nothing_usable_gives_none(name):
    assert tracekit.extract(HOSTILE[name]) is None


@pytest.mark.parametrize("name", BAD_TRACEPARENTS)
def test_a_bad_traceparent_drops_the_tracestate_and_keeps_the_labels(name):
    carrier = {"traceparent": BAD_TRACEPARENTS[name][0], "tracestate": "foo=1"}
    assert tracekit.extract(carrier) is None
    context = tracekit.extract({**carrier, "baggage": "plan=pro"})
    assert not context.is_valid
    assert context == SpanContext(labels=Labels({"plan": "pro"}))


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_bad_tracestate_costs_neither_traceparent_nor_labels(name):
    carrier = {"traceparent": TRACEPARENT, "tracestate": BAD_STATES[name][0], "baggage": "plan=pro"}
    context = tracekit.extract(carrier)
    assert context == SpanContext(TRACE_ID, SPAN_ID, 1, labels=Labels({"plan": "pro"}), is_remote=True)


def test_a_span_under_labels_only_is_a_root_that_keeps_them(exporter):
    context = tracekit.extract({"baggage": "plan=pro;p,bad member"})
    assert (context.is_valid, context.deferred, context.labels.dropped) == (False, True, 1)
    with (
        tracekit.span("by parent", parent=context) as one,
        tracekit.use_context(context),
        tracekit.span("by use") as two,
    ):
        pass
    for span in (one, two):
        assert span.parent is None
        assert span.context.is_valid
        assert span.context.sampled
        assert str(span.context.labels) == "plan=pro;p"
    assert one.context.trace_id != two.context.trace_id
    assert exporter.spans == [two, one]


def test_a_hostile_carrier_is_the_only_thing_that_suffers(exporter):
    for carrier in HOSTILE.values():
        with tracekit.span("request", parent=tracekit.extract(carrier) or tracekit.ROOT) as span:
            headers = tracekit.inject({})
        assert span.parent is None
        assert headers == {"traceparent": f"00-{span.context.trace_id}-{span.context.span_id}-03"}


def _title(name):
    return "Traceparent" if name == "traceparent" else "TRACESTATE"


STALE = [("Host", "x"), ("Traceparent", "old"), ("TRACESTATE", "old=1"), ("traceparent", "older"), ("Accept", "y")]
STALE_ONCE = [STALE[0], STALE[1], STALE[2], STALE[4]]

TARGETS = {
    "dict": lambda: dict(STALE),
    "subclass of dict": lambda: type("Sub", (dict,), {})(STALE),
    "UserDict": lambda: UserDict(STALE),
    "list of pairs": lambda: list(STALE),
    "list of lists": lambda: [list(pair) for pair in STALE],
    "list of bytes pairs": lambda: _octets(STALE),
    "list of bytes pairs, all of them stale": lambda: _octets(STALE[1:4]),
    "list of one stale bytes pair": lambda: _octets(STALE[1:2]),
    "httpx.Headers": lambda: httpx.Headers(STALE),
    "starlette MutableHeaders": lambda: starlette.datastructures.MutableHeaders(
        raw=[(name.lower(), value) for name, value in _octets(STALE)]
    ),
    "email Message": lambda: _message(STALE),
    "EmailMessage": lambda: _message(STALE, policy=email.policy.HTTP),
    "wsgiref Headers": lambda: WsgiHeaders(list(STALE)),
}


def _texts(carrier):
    """The pairs of *carrier* as sorted text, names in lower case."""
    pairs = carrier.raw if isinstance(carrier, starlette.datastructures.Headers) else carrier
    if isinstance(pairs, httpx.Headers):
        pairs = pairs.multi_items()
    elif hasattr(pairs, "items"):
        pairs = pairs.items()
    pairs = [tuple(part.decode() if isinstance(part, bytes) else part for part in pair) for pair in pairs]
    return sorted((name.lower(), value) for name, value in pairs)


@pytest.mark.parametrize("name", TARGETS)
def test_inject_replaces_stale_fields_in_every_shape_of_carrier(name):
    carrier = TARGETS[name]()
    others = [pair for pair in _texts(carrier) if pair[0] in ("host", "accept")]
    assert tracekit.inject(carrier, CONTEXT) is carrier
    assert _texts(carrier) == sorted(
        [*others, ("traceparent", TRACEPARENT), ("tracestate", "foo=1,bar=2"), ("baggage", "plan=pro,user=Am%C3%A9lie")]
    )
    assert tracekit.extract(carrier) == CONTEXT


@pytest.mark.parametrize("name", TARGETS)
def test_inject_takes_out_a_stale_tracestate_where_there_is_none(name):
    carrier = TARGETS[name]()
    tracekit.inject(carrier, CONTEXT.replace(state=TraceState(), labels=Labels()))
    assert [pair for pair in _texts(carrier) if pair[0].startswith("trace")] == [("traceparent", TRACEPARENT)]


@pytest.mark.parametrize("name", TARGETS)
def test_put_of_none_takes_a_field_out_in_any_case_and_leaves_the_rest(twin, name):
    carrier = TARGETS[name]()
    rest = [pair for pair in _texts(carrier) if pair[0] != "traceparent"]
    twin.put(carrier, "traceparent", None)
    assert _texts(carrier) == rest
    twin.put(carrier, "traceparent", None)
    assert _texts(carrier) == rest


def test_a_list_of_bytes_pairs_gets_bytes_and_every_other_list_text(twin):
    for carrier, added in (
        ([(b"host", b"x")], (b"name", b"v")),
        ([(b"name", b"old")], (b"name", b"v")),
        ([(b"NAME", b"old"), (b"Name", b"older")], (b"name", b"v")),
        ([("host", "x")], ("name", "v")),
        ([("host", b"x")], ("name", "v")),
        ([], ("name", "v")),
    ):
        twin.put(carrier, "name", "v")
        assert carrier[-1] == added
        assert len(carrier) == 1 + (carrier[0] != added)


def test_whatever_else_a_list_holds_stays_the_same_objects(twin):
    others = [("a", object()), ["b", 1], ("c", None, "more"), ([], "x")]
    carrier = [*others, ("Name", "old")]
    twin.put(carrier, "name", "v")
    assert [id(pair) for pair in carrier[:-1]] == [id(pair) for pair in others]
    assert carrier[-1] == ("name", "v")


@pytest.mark.parametrize(
    "carrier", [None, 5, "text", b"bytes", (), (("a", "b"),), frozenset(), object(), [1], [None], [()], iter([])]
)
def test_what_cannot_be_written_to_is_a_type_error_that_names_it(carrier):
    with pytest.raises(TypeError, match=r"^carrier must be "):
        tracekit.inject(carrier, CONTEXT)


@pytest.mark.parametrize("context", [5, "00-1-2-3", b"", {}, Labels()])
def test_inject_of_what_is_no_context_is_a_type_error_that_names_it(context):
    with pytest.raises(TypeError, match=r"^context must be "):
        tracekit.inject({}, context)


def test_inject_writes_what_is_current_or_a_span_or_nothing(exporter):
    carrier = {"traceparent": "mine"}
    assert tracekit.inject(carrier) is carrier
    assert carrier == {"traceparent": "mine"}
    with tracekit.use_context(CONTEXT):
        assert tracekit.extract(tracekit.inject({})) == CONTEXT
        with tracekit.span("work") as span:
            assert tracekit.inject({}) == tracekit.inject({}, span) == tracekit.inject({}, span.context)
            assert tracekit.extract(tracekit.inject({})).span_id == span.context.span_id


def test_labels_alone_write_baggage_alone():
    assert tracekit.inject({}, SpanContext(labels=CONTEXT.labels)) == {"baggage": "plan=pro,user=Am%C3%A9lie"}
    with tracekit.use_labels(plan="pro"):
        assert tracekit.inject([]) == [("baggage", "plan=pro")]


def test_a_baggage_field_of_the_program_s_own_stays_where_there_are_no_labels():
    own = {"baggage": "own=1"}
    assert tracekit.inject(dict(own), CONTEXT.replace(labels=Labels()))["baggage"] == "own=1"
    assert tracekit.inject(dict(own), CONTEXT)["baggage"] == "plan=pro,user=Am%C3%A9lie"


class Plan(StrEnum):
    FREE = "free"


class Tier(str, Enum):  # noqa: UP042 - as written before Python 3.11
    GOLD = "gold\r\n"


def test_subclasses_of_str_are_text_like_any_other():
    labels = Labels({Text("k"): Text("v"), "plan": Plan.FREE, Plan.FREE: "1", "tier": Tier.GOLD})
    assert str(labels) == "k=v,plan=free,free=1,tier=gold%0D%0A"
    assert str(TraceState({Text("a"): Text("1")}).set(Plan.FREE, Text("2"))) == "free=2,a=1"
    assert Labels.parse(Text("a=b")) == {"a": "b"}
    assert TraceState.parse(Text("a=1")) == {"a": "1"}
    assert SpanContext(Text(TRACE_ID), Text(SPAN_ID)).trace_id == TRACE_ID
    with tracekit.use_labels(plan=Plan.FREE):
        assert tracekit.inject({}) == {"baggage": "plan=free"}


@pytest.mark.parametrize(
    "text", ["a\r\nset-cookie: b", "a\nb", "a\rb", "a\0b", 'a"b', "a,b=c", "a;b=c", "a b", "\xe9\u20ac\U0001f419", "\udc80", "\x7f\x1b[0m", "a\\"]
)  # fmt: skip
@pytest.mark.parametrize("is_bytes", [False, True])
def test_no_label_splits_a_header(text, is_bytes):
    labels = Labels({"k": text}).with_member("j", text, [("p", text)])
    carrier = [(b"host", b"x")] if is_bytes else []
    tracekit.inject(carrier, CONTEXT.replace(labels=labels))
    assert len(carrier) == 3 + is_bytes
    request = httpx.Request("GET", "http://shop.example/", headers=carrier)
    for name in ("traceparent", "tracestate", "baggage"):
        value = request.headers[name]
        assert all(" " <= char <= "~" for char in value)
        assert value == value.strip()
    shown = text if text != "\udc80" else "\ufffd"
    assert tracekit.extract(request.headers).labels.members == (("k", shown, ()), ("j", shown, (("p", shown),)))
