from __future__ import annotations

import contextlib
import email.message
import email.policy
import gc
import itertools
import sysconfig
from collections import UserDict, namedtuple
from enum import Enum, StrEnum
from types import MappingProxyType
from wsgiref.headers import Headers as WsgiHeaders

import httpx
import pytest
import starlette.datastructures

import tracekit
from tracekit import Labels, SpanContext, TraceState
from tracekit.wire import b3
from tracekit.wire.jaeger import JAEGER
from tracekit.wire.w3c import TRACECONTEXT

from .tools.vectors import BAD_STATES, BAD_TRACEPARENTS, SPAN_ID, TRACE_ID, TRACEPARENT

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
def test_a_repeated_field_is_found_twice_or_joined_in_every_shape_of_carrier(form, name):
    carrier = CARRIERS[name]([("a", "1"), ("field", "x"), ("field", "y"), ("z", "2")])
    (found,) = form.Sieve(("field",)).collect(carrier)
    assert (found if isinstance(found, list) else found.replace(" ", "").split(",")) == ["x", "y"]


@pytest.mark.parametrize(
    ("carrier", "found"),
    [
        ({}, [None, None]),
        ([], [None, None]),
        ({"key": "1"}, ["1", None]),
        ({"KEY": "1", "Other": "2"}, ["1", "2"]),
        ({"key": ""}, [None, None]),
        ({"key": ["", b"", "1", ""], "other": b""}, ["1", None]),
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
def test_collect_finds_names_in_any_case_and_ignores_other_shapes(form, carrier, found):
    assert form.Sieve(("key", "other")).collect(carrier) == found


@pytest.mark.parametrize("carrier", [None, 5, 1.5, True, object(), "traceparent", b"traceparent", len])
def test_extract_from_anything_else_is_a_type_error_that_names_it(carrier):
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
    "one good, one of white space": [("traceparent", TRACEPARENT), ("traceparent", " ")],
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
def test_a_carrier_without_valid_fields_gives_none(name):
    assert tracekit.extract(HOSTILE[name]) is None


@pytest.mark.parametrize("name", BAD_TRACEPARENTS)
def test_a_malformed_traceparent_drops_the_tracestate_and_keeps_the_labels(name):
    carrier = {"traceparent": BAD_TRACEPARENTS[name][0], "tracestate": "foo=1"}
    assert tracekit.extract(carrier) is None
    context = tracekit.extract({**carrier, "baggage": "plan=pro"})
    assert not context.is_valid
    assert context == SpanContext(labels=Labels({"plan": "pro"}))


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_malformed_tracestate_affects_neither_traceparent_nor_labels(name):
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


def test_a_hostile_carrier_starts_a_new_trace(exporter):
    for carrier in HOSTILE.values():
        with tracekit.span("request", parent=tracekit.extract(carrier) or tracekit.ROOT) as span:
            headers = tracekit.inject({})
        assert span.parent is None
        assert headers == {"traceparent": f"00-{span.context.trace_id}-{span.context.span_id}-03"}


def _title(name):
    return "Traceparent" if name == "traceparent" else "TRACESTATE"


STALE = [("Host", "x"), ("Traceparent", "old"), ("TRACESTATE", "old=1"), ("traceparent", "older"), ("Accept", "y")]

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
def test_inject_removes_a_stale_tracestate(name):
    carrier = TARGETS[name]()
    tracekit.inject(carrier, CONTEXT.replace(state=TraceState(), labels=Labels()))
    assert [pair for pair in _texts(carrier) if pair[0].startswith("trace")] == [("traceparent", TRACEPARENT)]


@pytest.mark.parametrize("name", TARGETS)
def test_put_of_none_removes_a_field_in_any_case_and_keeps_the_rest(form, name):
    carrier = TARGETS[name]()
    rest = [pair for pair in _texts(carrier) if pair[0] != "traceparent"]
    form.put(carrier, "traceparent", None)
    assert _texts(carrier) == rest
    form.put(carrier, "traceparent", None)
    assert _texts(carrier) == rest


@pytest.mark.parametrize("name", [None, 5, b"name", object()])
@pytest.mark.parametrize("carrier", [{}, {"a": "b"}, [], [("a", "b")], UserDict()])
def test_put_without_a_name_is_a_type_error(form, carrier, name):
    before = carrier.copy()
    with pytest.raises(TypeError):
        form.put(carrier, name, "text")
    assert carrier == before


def test_a_list_of_bytes_pairs_gets_bytes_and_every_other_list_text(form):
    for carrier, added in (
        ([(b"host", b"x")], (b"name", b"v")),
        ([(b"name", b"old")], (b"name", b"v")),
        ([(b"NAME", b"old"), (b"Name", b"older")], (b"name", b"v")),
        ([("host", "x")], ("name", "v")),
        ([("host", b"x")], ("name", "v")),
        ([], ("name", "v")),
    ):
        form.put(carrier, "name", "v")
        assert carrier[-1] == added
        assert len(carrier) == 1 + (carrier[0] != added)


def test_other_items_of_a_list_stay_the_same_objects(form):
    others = [("a", object()), ["b", 1], ("c", None, "more"), ([], "x")]
    carrier = [*others, ("Name", "old")]
    form.put(carrier, "name", "v")
    assert [id(pair) for pair in carrier[:-1]] == [id(pair) for pair in others]
    assert carrier[-1] == ("name", "v")


@pytest.mark.parametrize(
    "carrier", [None, 5, "text", b"bytes", (), (("a", "b"),), frozenset(), object(), [1], [None], [()], iter([])]
)
def test_an_unwritable_carrier_is_a_type_error_that_names_it(carrier):
    with pytest.raises(TypeError, match=r"^carrier must be "):
        tracekit.inject(carrier, CONTEXT)


@pytest.mark.parametrize("context", [5, "00-1-2-3", b"", {}, Labels()])
def test_inject_of_anything_but_a_context_is_a_type_error_that_names_it(context):
    with pytest.raises(TypeError, match=r"^context must be "):
        tracekit.inject({}, context)


def test_inject_writes_the_current_context_or_a_span_or_nothing(exporter):
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


def test_a_baggage_field_set_by_the_program_stays_without_labels():
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


class Attack:
    """Called by every method of a hostile object: empties the carrier and fails."""

    def __init__(self):
        self.carrier = None
        self.runs = 0

    def __call__(self, *_, **__):
        self.runs += 1
        if self.carrier is not None:
            self.carrier.clear()
        raise RuntimeError("hostile")


_NEEDED = {"__new__", "__init__", "__init_subclass__", "__subclasshook__", "__class__", "__getattribute__", "__hash__"}


def _hostile(content, attack):
    """Return *content* as a subclass of its type in which all methods, and ``__class__``, call *attack*."""
    base = type(content)
    methods = {name: (lambda *_, **__: attack()) for name in dir(base) if name not in _NEEDED}
    methods |= {"__hash__": base.__hash__, "__class__": property(lambda _: attack())}
    return type("Hostile", (base,), methods)(content)


PLACES = {
    "a name": lambda attack, name, text: (_hostile(name, attack), text),
    "a name of bytes": lambda attack, name, text: (_hostile(name.encode(), attack), text),
    "a value": lambda attack, name, text: (name, _hostile(text, attack)),
    "a value of bytes": lambda attack, name, text: (name, _hostile(text.encode(), attack)),
    "a value in a list": lambda attack, name, text: (name, [None, _hostile(text, attack)]),
    "a list of values": lambda attack, name, text: (name, _hostile([text], attack)),
    "a tuple of values": lambda attack, name, text: (name, _hostile((_hostile(text, attack),), attack)),
}
SHAPES = {
    "dict": dict,
    "subclass of dict": type("Sub", (dict,), {}),
    "UserDict": lambda pairs: UserDict(dict(pairs)),
    "list": list,
    "list of lists": lambda pairs: [list(pair) for pair in pairs],
    "subclass of list": type("Pairs", (list,), {}),
}


def _attacked(shape, place, name, text):
    attack = Attack()
    pairs = [("Accept", "*/*"), PLACES[place](attack, name, text), ("tracestate", "a=1"), ("Other", "2")]
    carrier = SHAPES[shape](pairs)
    attack.carrier = carrier
    return carrier, attack


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["traceparent", "TraceParent", "HTTP_TRACEPARENT", "x-trace"])
def test_no_method_of_a_name_or_value_runs_while_a_carrier_is_read(form, shape, place, name):
    is_wsgi = hasattr(SHAPES[shape]([]), "items") and place != "a name of bytes"
    is_found = name != "x-trace" and (name != "HTTP_TRACEPARENT" or is_wsgi)
    for read, found in (
        (
            lambda carrier: form.Sieve(("traceparent", "tracestate")).collect(carrier),
            [TRACEPARENT if is_found else None, "a=1"],
        ),
        (
            form.Sieve(("traceparent", "other"), ("tra",)).sift,
            ({"traceparent": TRACEPARENT} if is_found else {}) | {"tracestate": "a=1", "other": "2"},
        ),
        (form.Sieve((), ("missing",)).sift, None),
    ):
        carrier, attack = _attacked(shape, place, name, TRACEPARENT)
        assert read(carrier) == found
        assert (attack.runs, len(carrier)) == (0, 4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", ["list", "subclass of list"])
def test_no_method_of_a_pair_runs_while_a_carrier_is_read_or_written(form, shape, place):
    attack = Attack()
    first = PLACES[place](attack, "traceparent", TRACEPARENT)
    pairs = [_hostile(first, attack), _hostile(list(first), attack), ("other", "2")]
    attack.carrier = carrier = SHAPES[shape](pairs)
    assert form.Sieve(("traceparent",)).collect(carrier) == [[TRACEPARENT] * 2]
    assert form.Sieve(("traceparent",)).sift(carrier) == {"traceparent": [TRACEPARENT] * 2}
    form.put(carrier, "traceparent", None)
    assert (attack.runs, carrier) == (0, [("other", "2")])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_method_of_a_name_or_value_runs_while_a_field_is_put(form, shape, place):
    for name, text in itertools.product(["traceparent", "TraceParent", "x-trace"], ["new", None]):
        carrier, attack = _attacked(shape, place, name, TRACEPARENT)
        form.put(carrier, "traceparent", text)
        assert attack.runs == 0
        assert len(carrier) == 3 + (name == "x-trace") + (text is not None)
        assert form.Sieve(("traceparent", "other")).collect(carrier) == [text, "2"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("formats", [None, [TRACECONTEXT], [b3.SINGLE, TRACECONTEXT, JAEGER]])
def test_a_hostile_name_or_value_does_not_affect_extract_and_inject(shape, place, formats):
    tracekit.configure(formats=formats)
    carrier, attack = _attacked(shape, place, "Traceparent", TRACEPARENT)
    assert tracekit.extract(carrier).trace_id == TRACE_ID
    tracekit.inject(carrier, CONTEXT)
    assert tracekit.extract(carrier) == tracekit.extract(tracekit.inject({}, CONTEXT))
    assert attack.runs == 0


class Finalized:
    """Garbage that empties a carrier when it is collected, and reuses the freed memory."""

    def __init__(self, carrier):
        self.carrier = carrier
        self.cycle = self

    def __del__(self):
        self.carrier.clear()
        self.taken = [f"v{number}" * 3 for number in range(40)]


@contextlib.contextmanager
def _emptied_after(allocations, carrier):
    """Make the garbage collector empty *carrier* after *allocations* tracked objects."""
    before = gc.get_threshold()
    gc.disable()
    # Empty CPython's free lists, because objects from them do not count as allocations.
    held = [[[], {}, (number,), (number, number)] for number in range(2100)]
    gc.freeze()  # exclude all other objects, so that a collection is quick
    Finalized(carrier)
    gc.set_threshold(allocations)
    gc.enable()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        held.clear()


counts_each_allocation = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="the collector counts 512 allocations at a time"
)


@counts_each_allocation
def test_the_garbage_collector_empties_the_carrier_of_the_next_test():
    carrier = {"key": "1"}
    with _emptied_after(1, carrier):
        lists = [[], [], []]
    assert (carrier, lists) == ({}, [[], [], []])


@counts_each_allocation
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("work", ["collect", "sift", "put", "take out"])
def test_a_finalizer_that_changes_the_carrier_at_most_ends_the_walk(form, shape, work):
    """CPython 3.11 collects garbage during an allocation; later versions only between two bytecodes."""
    sieve = form.Sieve(("key",), ("other-",))
    for allocations in range(1, 40):
        names = [("key", "Key", "kEy", f"other-{number}")[number % 4] for number in range(32)]
        values = [[f"v{number}" * 3, b"v%d" % number * 3] for number in range(32)]
        known = {f"v{number}" * 3 for number in range(32)}
        carrier = SHAPES[shape](zip(names, values, strict=True))
        del names, values
        with _emptied_after(allocations, carrier):
            if work == "collect":
                found = form.Sieve(("key",)).collect(carrier)
            elif work == "sift":
                found = list((sieve.sift(carrier) or {}).values())
            else:
                # A mapping's own iterator raises that, which inject() reports.
                with contextlib.suppress(RuntimeError) if shape == "UserDict" else contextlib.nullcontext():
                    form.put(carrier, "key", "new" if work == "put" else None)
                found = []
        for texts in found:
            assert known.issuperset([texts] if isinstance(texts, str) else texts or [])


@pytest.mark.parametrize("work", ["collect", "sift"])
def test_a_mapping_s_own_iterator_may_change_the_dict_behind_it(form, work):
    class Hostile(dict):
        def items(self):
            for pair in dict.items(self):
                yield pair
                if pair[0] == "key":
                    self.clear()

    carrier = Hostile({"a": "1", "key": ["2", "3"], "other": "4"})
    if work == "collect":
        assert form.Sieve(("key",)).collect(carrier) == [["2", "3"]]
    else:
        assert form.Sieve(("key",)).sift(carrier) == {"key": ["2", "3"]}


def test_a_name_that_cannot_be_removed_stays_and_affects_no_other(form):
    class Stuck(UserDict):
        def __delitem__(self, key):
            raise RuntimeError("stuck")

    class StuckDict(dict):
        def __delitem__(self, key):
            raise RuntimeError("stuck")

    for make in (Stuck, StuckDict):
        carrier = make({"Key": "old", "other": "1"})
        form.put(carrier, "key", "new")
        assert dict(carrier) == {"Key": "old", "other": "1", "key": "new"}


BAD_FIELDS = [
    ("\U0010ffff-trace",),
    ("\xe9",),
    ("\u212aey",),
    ("Traceparent",),
    ("",),
    ("traceparent", ""),
    ("x" * 257,),
]


@pytest.mark.parametrize("fields", BAD_FIELDS)
@pytest.mark.parametrize("parameter", ["fields", "prefixes"])
def test_a_sieve_s_fields_and_prefixes_are_lower_case_ascii(form, parameter, fields):
    with pytest.raises(ValueError, match=rf"^{parameter} must be 1 to 256 lower-case ASCII characters: '"):
        form.Sieve(**{"fields": (), parameter: fields})


@pytest.mark.parametrize("fields", [None, 5, "traceparent", b"x", [b"traceparent"], (None,), [5], {"a": 1, 2: 3}])
@pytest.mark.parametrize("parameter", ["fields", "prefixes"])
def test_a_sieve_s_fields_and_prefixes_are_str(form, parameter, fields):
    with pytest.raises(TypeError):
        form.Sieve(**{"fields": (), parameter: fields})


def test_a_sieve_takes_subclasses_of_str_as_text(form):
    attack = Attack()
    sieve = form.Sieve([_hostile("key", attack)], (_hostile("other-", attack),))
    assert sieve.sift({"KEY": "1", "Other-x": "2"}) == {"key": "1", "other-x": "2"}
    assert form.Sieve(["x" * 256], ["y" * 256]).sift({"x" * 256: "1", "y" * 256: "2"}) == {
        "x" * 256: "1",
        "y" * 256: "2",
    }
    assert attack.runs == 0


def test_a_sieve_made_without_its_constructor_finds_nothing(form):
    if form.__name__.endswith("_speedups"):
        assert form.Sieve.__new__(form.Sieve).sift({"key": "1", "HTTP_KEY": "2"}) is None


class Custom:
    name = "custom"
    fields = ("x-custom",)

    def read(self, carrier):
        return None

    def write(self, context, carrier):
        pass


@pytest.mark.parametrize("fields", BAD_FIELDS)
@pytest.mark.parametrize("parameter", ["fields", "prefixes"])
def test_configure_rejects_fields_that_are_not_lower_case_ascii_and_names_the_format(parameter, fields):
    format = Custom()
    setattr(format, parameter, fields)
    tracekit.configure(formats=[b3.SINGLE])
    for formats in ([format], [TRACECONTEXT, format]):
        with pytest.raises(ValueError, match=rf"^format 'custom': {parameter} must be 1 to 256 lower-case ASCII"):
            tracekit.configure(formats=formats)
    assert list(tracekit.inject({}, CONTEXT)) == ["b3"]  # the earlier formats are still in use


@pytest.mark.parametrize("fields", [None, 5, "traceparent", ["x-custom"], {"x-custom"}, (5,), (b"x-custom",)])
@pytest.mark.parametrize("parameter", ["fields", "prefixes"])
def test_configure_rejects_fields_other_than_tuples_of_str_and_names_the_format(parameter, fields):
    format = Custom()
    setattr(format, parameter, fields)
    with pytest.raises(TypeError, match=rf"^format 'custom': {parameter} must be "):
        tracekit.configure(formats=[format])


class Twice:
    """A pair that is longer at each iteration, beyond the limit of a label."""

    def __init__(self):
        self.asked = 0

    def __iter__(self):
        self.asked += 1
        return iter(("p", "x" * 100_000 * (self.asked - 1)))


@pytest.mark.parametrize(
    "members",
    [
        [("k", "v", (Twice(),))],
        [("k", "v", [("p", "v")])],
        [("k", "v", (["p", "v"],))],
        [["k", "v", ()]],
        [Twice()],
        [("k", "v")],
        [("k", "v", (), ())],
        [("k", "v", (("p",),))],
        [("k", None, ())],
        [(None, "v", ())],
        [("k", b"v", ())],
        [("k", "v", ((None, "v"),))],
        [("k", "v", None)],
        [None],
    ],
)
def test_baggage_requires_exact_tuples_of_text(form, members):
    with pytest.raises(TypeError):
        form.format_baggage(members)


@pytest.mark.parametrize("member", [None, [1, 2, ()], ["k", "v"], (), ("k",), ("k", "v"), "kv", 5, ("k", "v", None)])
def test_a_view_of_labels_requires_exact_tuples(form, member):
    with pytest.raises(TypeError):
        form.view_members((("a", "b", ()), member))


def test_baggage_reads_subclasses_of_str_as_str(form):
    attack = Attack()
    hostile = [_hostile(text, attack) for text in ("k", "v\xe9\udc80", "p", "w")]
    assert form.format_baggage([(*hostile[:2], (tuple(hostile[2:]),))]) == ("k=v%C3%A9%EF%BF%BD;p=w", 1)
    assert attack.runs == 0
