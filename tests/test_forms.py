"""The compiled and the plain implementation give the same result or error for the same input."""

from __future__ import annotations

import importlib.util
import inspect
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit import FormatError, Labels, TraceState
from tracekit._core import codecs
from tracekit._core.codecs import IMPLEMENTATION

from .tools.vectors import (
    BAD_STATES,
    BAD_TRACEPARENTS,
    BAGGAGE,
    GOOD_STATES,
    GOOD_TRACEPARENTS,
    SPAN_ID,
    TRACE_ID,
    TWINS,
)

_pure = TWINS["plain"]
COMPILED = TWINS.get("compiled")

same = settings(max_examples=200, deadline=None, derandomize=True, database=None)
needs_both = pytest.mark.skipif(COMPILED is None, reason="the compiled form was not built")


def test_the_compiled_implementation_runs_unless_it_is_disabled_or_not_built():
    is_off = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") not in {"", "0"}
    is_built = importlib.util.find_spec("tracekit._speedups") is not None
    expected = "plain" if is_off or not is_built else "compiled"
    assert expected == IMPLEMENTATION
    assert [form.IMPLEMENTATION for form in TWINS.values()] == list(TWINS)


def seen(value):
    """*value* in a form that is equal for both implementations."""
    if type(value).__name__ == "SpanContext":
        return value.id, value.flags, value.deferred, str(value.state), value.labels.members, value.is_remote
    return value


def outcome(function, arguments):
    try:
        return "returned", seen(function(*arguments))
    except FormatError as error:
        return "FormatError", error.field, error.reason, str(error)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error)


def compare(name, *arguments):
    """Assert that both implementations agree on *arguments*; callables among them make one for each."""
    outcomes = []
    for form in (_pure, COMPILED):
        made = [argument() if callable(argument) else argument for argument in arguments]
        result = outcome(getattr(form, name), made)
        outcomes.append((result, [seen(argument) for argument in made if isinstance(argument, dict | list)]))
    assert outcomes[0] == outcomes[1]
    assert type(outcomes[0][0][1]) is type(outcomes[1][0][1])
    return outcomes[0][0]


ANY = st.text(st.characters(), max_size=80)
HEADER = st.text('0123456789abcdefABCDEFz-_.:;,=%+*/@ \t"\\\0\r\n\x7f\x80\xe9\u212a\uff11\U0001d7ce\udc80', max_size=80)
HEX = st.text("0123456789abcdef", max_size=40) | st.text("0123456789abcdefABCDEF_+ \uff11", min_size=14, max_size=34)
VECTORS = st.sampled_from(
    [
        row[0]
        for rows in (GOOD_TRACEPARENTS, BAD_TRACEPARENTS, GOOD_STATES, BAD_STATES, BAGGAGE)
        for row in rows.values()
    ]
)


@st.composite
def cut_and_pasted(draw):
    """A vector with a piece removed and another inserted."""
    text = draw(VECTORS)
    at = draw(st.integers(0, min(len(text), 300)))
    return text[:at] + draw(HEADER) + text[at + draw(st.integers(0, 20)) :]


TEXTS = st.one_of(ANY, HEADER, HEX, VECTORS, cut_and_pasted())


@needs_both
@pytest.mark.parametrize(
    "name", ["parse_traceparent", "count_tracestate", "parse_baggage", "escape_label", "unescape_label"]
)
@given(text=TEXTS)
@same
def test_codecs_agree(name, text):
    compare(name, text)


@needs_both
@pytest.mark.parametrize("name", ["is_state_key", "is_state_value", "is_label_key"])
@given(text=TEXTS | st.text("abcz09_-*/@!#$%&'+.^`|~ ,=;", max_size=260))
@same
def test_rules_for_keys_and_values_agree(name, text):
    assert isinstance(compare(name, text)[1], bool)


@needs_both
@given(text=TEXTS, digits=st.sampled_from([1, 2, 8, 15, 16, 17, 31, 32, 33]))
@same
def test_parse_hex_agrees(text, digits):
    compare("parse_hex", text, digits)
    compare("parse_hex", text[:digits], digits)


TOKENS = st.text("!#$%&'*+-.^_`|~0aZ", min_size=1, max_size=10)
MEMBERS = st.lists(
    st.tuples(TOKENS, ANY, st.lists(st.tuples(TOKENS, st.none() | ANY), max_size=3).map(tuple)), max_size=70
)


@needs_both
@given(members=MEMBERS)
@same
def test_format_baggage_agrees(members):
    compare("format_baggage", members)
    compare("format_baggage", tuple(members) * 3)


@needs_both
@given(key=st.text("ab\xe9\u212a\udc80", max_size=3), name=st.text("ab\xe9\u212a\udc80", max_size=3))
@same
def test_format_baggage_agrees_on_keys_outside_ascii(key, name):
    compare("format_baggage", [(key, "v", ((name, None),))])


ODD = st.none() | st.integers() | st.binary(max_size=3) | st.builds(lambda text: Text(text), ANY)


@needs_both
@given(labels=st.dictionaries(TOKENS | ANY | ODD, ANY | ODD, max_size=5) | st.dictionaries(TOKENS, ANY))
@same
def test_make_members_agrees_and_accepts_labels_only(labels):
    members = compare("make_members", labels)[1]
    plain = all(type(word) is str for pair in labels.items() for word in pair)
    is_good = plain and all(compare("is_label_key", key)[1] for key in labels)
    assert members == (tuple((key, value, ()) for key, value in labels.items()) if is_good else None)
    assert compare("make_members", list(labels.items()))[1] is None


@needs_both
@given(members=MEMBERS)
@same
def test_view_members_agrees(members):
    assert compare("view_members", tuple(members))[1] == {key: value for key, value, _ in members}


class Text(str):
    __slots__ = ()


class Pair(tuple):
    __slots__ = ()


FIELDS = ("traceparent", "tracestate", "baggage")
NAMES = st.sampled_from(
    [
        *FIELDS,
        "Traceparent",
        "TRACESTATE",
        "bAgGaGe",
        "HTTP_TRACEPARENT",
        "HTTP_BAGGAGE",
        "HTTP_",
        "http_baggage",
        "host",
    ]
) | st.sampled_from(["", "traceparent ", "baggage\0", "bagga\u0261e", "trace-parent", "\udc80", "x" * 300])
VALUES = TEXTS | st.sampled_from(
    [row[0] for rows in (GOOD_TRACEPARENTS, BAD_TRACEPARENTS, GOOD_STATES) for row in rows.values()]
)
SPELLED = st.sampled_from([str, str, Text, lambda text: text.encode("utf-8", "surrogatepass")])
JUNK = st.sampled_from(
    [None, 0, 1.5, True, b"", "", "ab", b"ab", (), (1,), (1, 2), ("host", None, 1), Pair((1, 2)), ...]
)


@st.composite
def pairs(draw):
    made = []
    for _ in range(draw(st.integers(0, 6))):
        name, value = draw(SPELLED)(draw(NAMES)), draw(SPELLED)(draw(VALUES))
        if draw(st.integers(0, 9)) == 0:
            value = draw(st.sampled_from([None, 5, [], (), [value, None], [value, value], (value, b"x"), {}]))
        made.append((name, value))
    return made


@st.composite
def carriers(draw):
    """A function that makes equal carriers of some shape."""
    content = draw(pairs())
    junk = draw(st.lists(JUNK, max_size=2)) if draw(st.booleans()) else []
    return draw(
        st.sampled_from(
            [
                lambda: [*junk, *content],
                lambda: (*content, *junk),
                lambda: [list(pair) for pair in content],
                lambda: [Pair(pair) for pair in content] + junk,
                lambda: iter([*content, *junk]),
                lambda: dict(content),
                lambda: dict(content).items(),
                lambda: type("Sub", (dict,), {})(content),
            ]
        )
    )


@needs_both
@given(carrier=carriers() | JUNK)
@same
def test_read_tracecontext_agrees(carrier):
    compare("read_tracecontext", carrier)


@needs_both
@given(carrier=carriers() | JUNK, name=st.sampled_from(FIELDS), text=st.none() | TEXTS)
@same
def test_put_agrees_and_leaves_equal_carriers(carrier, name, text):
    compare("put", carrier, name, text)


IDS = st.one_of(
    st.sampled_from([TRACE_ID, SPAN_ID, "0" * 32, "0" * 16, bytes(16), bytes(8), Text(TRACE_ID), Text(SPAN_ID)]),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.binary(max_size=33),
    HEX,
    ANY,
    JUNK,
)
FLAGS = st.integers(-2, 300) | st.sampled_from([True, 1 << 64, -1 << 70]) | JUNK
STATES = st.sampled_from([None, TraceState(), TraceState({"a": "1"}), TraceState.parse("a=1, b=2"), "a=1", {}, ...])
LABELS = st.sampled_from([None, Labels(), Labels({"a": "1"}), Labels.parse("a=%20;p,b=2"), {"a": "1"}, "a=1", ...])
TRUTHS = st.sampled_from([True, False, None, 0, 1, "", "x", []])
GOOD_ARGUMENTS = {
    "trace_id": st.sampled_from([TRACE_ID, "0" * 32]) | st.binary(min_size=16, max_size=16),
    "span_id": st.sampled_from([SPAN_ID, "0" * 16]) | st.binary(min_size=8, max_size=8),
    "flags": st.integers(0, 255),
    "state": st.sampled_from([None, TraceState(), TraceState({"a": "1"}), TraceState.parse("a=1, b=2")]),
    "labels": st.sampled_from([None, Labels(), Labels({"a": "1"}), Labels.parse("a=%20;p,b=2")]),
    "is_remote": st.booleans(),
    "deferred": st.sampled_from([None, True, False]),
}
ARGUMENTS = {**GOOD_ARGUMENTS, "trace_id": IDS, "span_id": IDS, "flags": FLAGS, "state": STATES, "labels": LABELS}
ARGUMENTS |= {"is_remote": TRUTHS, "deferred": TRUTHS}


@needs_both
@given(arguments=st.fixed_dictionaries({}, optional=ARGUMENTS))
@same
def test_span_contexts_are_made_or_rejected_alike(arguments):
    results = [outcome(lambda form=form: form.SpanContext(**arguments), ()) for form in (_pure, COMPILED)]
    assert results[0] == results[1]


@needs_both
@given(
    arguments=st.fixed_dictionaries({}, optional=GOOD_ARGUMENTS),
    others=st.fixed_dictionaries({}, optional=GOOD_ARGUMENTS),
    changes=st.fixed_dictionaries({}, optional={"state": STATES, "labels": LABELS, "is_remote": TRUTHS}),
)
@same
def test_span_contexts_behave_alike(arguments, others, changes):
    def life(form):
        context, other = form.SpanContext(**arguments), form.SpanContext(**others)
        ids = context.trace_id, context.span_id, context.id
        facts = context.sampled, context.deferred, context.is_valid, context.is_remote, context.flags
        equal = context == other, context != other, context == form.SpanContext(**arguments)
        hashed = hash(context) == hash(form.SpanContext(**arguments))
        changed = outcome(lambda: context.replace(**changes), ())
        sent = {}
        form.write_tracecontext(context, sent)
        return ids, facts, equal, hashed, repr(context), changed, sent, form.format_traceparent(context), seen(context)

    assert life(_pure) == life(COMPILED)


@needs_both
@given(
    id=st.binary(min_size=23, max_size=25) | st.binary(min_size=24, max_size=24),
    flags=st.integers(0, 0x3FF),
    state=st.sampled_from(["", "a=1", "a=1, b=2"]),
    labels=st.sampled_from([None, Labels({"a": "1"})]),
    is_remote=st.booleans(),
)
@same
def test_make_context_agrees(id, flags, state, labels, is_remote):
    compare("make_context", id, flags, state, labels, is_remote)


@needs_both
@given(context=JUNK)
@same
def test_anything_but_a_context_is_rejected_alike(context):
    compare("format_traceparent", context)
    compare("write_tracecontext", context, {})


@needs_both
def test_contexts_of_one_implementation_are_not_contexts_of_the_other():
    for one, other in ((_pure, COMPILED), (COMPILED, _pure)):
        context = one.SpanContext(TRACE_ID, SPAN_ID)
        assert context != other.SpanContext(TRACE_ID, SPAN_ID)
        with pytest.raises(TypeError, match=r"^context must be a SpanContext"):
            other.format_traceparent(context)


@needs_both
@pytest.mark.parametrize("name", [name for name in codecs.__all__ if not name.startswith("MAX_")])
def test_each_implementation_has_its_own_codecs(name):
    assert getattr(COMPILED, name) is not getattr(_pure, name)


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


CLASSES = ["Sieve"]
FUNCTIONS = [name for name in codecs.__all__ if inspect.isfunction(getattr(_pure, name))]


@needs_both
@pytest.mark.parametrize("name", [*CLASSES, *FUNCTIONS])
def test_docstrings_are_the_same(name):
    plain, compiled = getattr(_pure, name), getattr(COMPILED, name)
    assert plain.__doc__
    assert inspect.cleandoc(compiled.__doc__) == inspect.cleandoc(plain.__doc__)  # 3.13 strips indentation by itself


@needs_both
@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_same_members_with_the_same_docstrings(name):
    plain, compiled = getattr(_pure, name), getattr(COMPILED, name)
    assert public(compiled) == public(plain)
    for member in public(plain):
        documented, expected = vars(compiled)[member].__doc__, vars(plain)[member].__doc__
        assert (documented and inspect.cleandoc(documented)) == (expected and inspect.cleandoc(expected)), member


@needs_both
@pytest.mark.parametrize("name", [name for name in codecs.__all__ if name.startswith("MAX_")])
def test_limits_are_the_same(name):
    assert getattr(COMPILED, name) == getattr(_pure, name)
