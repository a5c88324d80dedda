from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tracekit import FormatError, TraceState
from tracekit._core.tracestate import parse_ot

from .tools.vectors import BAD_STATES, FULL_STATE, GOOD_STATES, STATE_KEY_CHARS, STATE_VALUE_CHARS


@pytest.mark.parametrize("name", GOOD_STATES)
def test_good_text_is_counted_seen_in_order_and_goes_out_as_it_came(form, name):
    text, members = GOOD_STATES[name]
    state = TraceState.parse(text)
    assert list(state.items()) == members
    assert str(state) == text
    # Duplicates count as members, though a reader sees one of them.
    assert form.count_tracestate(text) == sum(1 for member in text.split(",") if member.strip(" \t"))


@pytest.mark.parametrize("text", ["", " ", "\t", ",", " , ,\t,"])
def test_text_without_members_is_an_empty_tracestate(form, text):
    assert form.count_tracestate(text) == 0
    state = TraceState.parse(text)
    assert not state
    assert str(state) == ""
    assert state == TraceState() == {}


@pytest.mark.parametrize(("text", "kept"), [(" foo=1", "foo=1"), ("\tfoo=1,bar=2 \t", "foo=1,bar=2")])
def test_white_space_around_the_whole_is_no_part_of_it(text, kept):
    # HTTP libraries refuse to send a value that begins or ends with white space.
    assert str(TraceState.parse(text)) == kept


@pytest.mark.parametrize("name", BAD_STATES)
def test_bad_text_is_refused_with_the_reason(form, name):
    text, reason = BAD_STATES[name]
    assert form.count_tracestate(text) == -1
    with pytest.raises(FormatError, match=reason) as caught:
        TraceState.parse(text)
    assert caught.value.field == "tracestate"
    message = str(caught.value)
    assert message.startswith("bad tracestate: ")
    assert message.replace("…", "").isascii()
    assert message.isprintable()
    assert len(message) < 400


@pytest.mark.parametrize("code", range(0x100))
def test_each_character_of_a_key_and_a_value(form, code):
    char = chr(code)
    assert form.is_state_key(f"a{char}") is (char in STATE_KEY_CHARS)
    assert form.is_state_key(char) is (char in STATE_KEY_CHARS[:36])
    assert form.is_state_value(f"{char}a") is (char in STATE_VALUE_CHARS)
    assert form.is_state_value(char) is (char in STATE_VALUE_CHARS and char != " ")


@pytest.mark.parametrize(("size", "is_good"), [(0, False), (1, True), (256, True), (257, False), (100_000, False)])
def test_the_length_of_a_key_and_a_value(form, size, is_good):
    assert form.is_state_key("k" * size) is is_good
    assert form.is_state_value("v" * size) is is_good


def test_a_mapping_becomes_text_in_its_order():
    state = TraceState({"b": "1", "a": " 2"})
    assert str(state) == "b=1,a= 2"
    assert state == {"a": " 2", "b": "1"}
    assert TraceState.parse(str(state)) == state
    assert TraceState(state) is state


def test_a_mapping_has_at_most_32_members():
    assert len(TraceState({f"k{at}": "1" for at in range(32)})) == 32
    with pytest.raises(ValueError, match="at most 32: 33"):
        TraceState({f"k{at}": "1" for at in range(33)})


@pytest.mark.parametrize(
    ("text", "key", "value", "changed"),
    [
        ("", "a", "1", "a=1"),
        ("a=1,b=2", "c", "3", "c=3,a=1,b=2"),
        ("a=1,b=2", "b", "3", "b=3,a=1"),
        ("a=1,b=2", "a", "3", "a=3,b=2"),
        ("a=1 ,\t b=2,", "c", "3", "c=3,a=1,b=2"),
        ("a=1,b=2,a=3", "c", "4", "c=4,a=1,b=2"),
        ("a=1,b=2,a=3", "a", "4", "a=4,b=2"),
    ],
)
def test_what_is_set_stands_left_and_the_others_keep_their_order(text, key, value, changed):
    state = TraceState.parse(text)
    assert str(state.set(key, value)) == changed
    assert str(state) == text


def test_a_thirty_third_member_pushes_out_the_right_most():
    state = TraceState.parse(FULL_STATE).set("new", "1")
    assert list(state) == ["new", *[f"k{at:02d}" for at in range(31)]]
    changed = TraceState.parse(FULL_STATE).set("k31", "1")
    assert list(changed) == ["k31", *[f"k{at:02d}" for at in range(31)]]


def test_without_takes_a_member_out_and_its_duplicates():
    state = TraceState.parse("a=1,b=2,a=3")
    assert str(state.without("a")) == "b=2"
    assert str(state.without("c")) == "a=1,b=2"
    assert str(state.without("a").without("b")) == ""


@pytest.mark.parametrize("key", ["", "A", "@a", "a.b", "a=b", "a,b", "a\r\n", "\xe9", "\ud800", "k" * 257])
def test_a_bad_key_is_a_value_error(key):
    for make in (lambda: TraceState({key: "1"}), lambda: TraceState().set(key, "1")):
        with pytest.raises(ValueError, match="a tracestate key must be") as caught:
            make()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["", " ", "a ", "a=b", "a,b", "a\r\nb: c", "a\0", "\xe9", "\ud800", "v" * 257])
def test_a_bad_value_is_a_value_error(value):
    for make in (lambda: TraceState({"a": value}), lambda: TraceState().set("a", value)):
        with pytest.raises(ValueError, match="a tracestate value must be") as caught:
            make()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TraceState({1: "1"}), "key must be str"),
        (lambda: TraceState({"a": 1}), "value must be str"),
        (lambda: TraceState().set(b"a", "1"), "key must be str"),
        (lambda: TraceState().set("a", b"1"), "value must be str"),
        (lambda: TraceState().set("a", None), "value must be str"),
        (lambda: TraceState(5), "members"),
        (lambda: TraceState("a=1"), "members"),
        (lambda: TraceState.parse(None), r"\btext\b"),
        (lambda: TraceState.parse(b"a=1"), r"\btext\b"),
    ],
)
def test_a_wrong_type_is_a_type_error_that_names_the_parameter(make, named):
    with pytest.raises(TypeError, match=named):
        make()


def test_a_tracestate_is_a_mapping_that_does_not_change():
    state = TraceState.parse("foo=1,bar=2")
    assert (state["foo"], state.get("nix"), len(state), "bar" in state, bool(state)) == ("1", None, 2, True, True)
    assert repr(state) == "TraceState({'foo': '1', 'bar': '2'})"
    with pytest.raises(KeyError):
        state["nix"]
    with pytest.raises(TypeError):
        state["foo"] = "2"
    with pytest.raises(AttributeError):
        state.color = "red"


@pytest.mark.parametrize(
    ("text", "other", "equal"),
    [
        ("a=1,b=2", "a=1,b=2", True),
        ("a=1,b=2", "a=1 ,\tb=2,", True),
        ("a=1,b=2", "a=1,b=2,a=3", True),
        ("a=1,b=2", "b=2,a=1", False),
        ("a=1,b=2", "a=1", False),
        ("a=1", "a=2", False),
        ("", "a=1", False),
    ],
)
def test_tracestates_are_equal_when_readers_see_the_same_in_the_same_order(text, other, equal):
    one, two = TraceState.parse(text), TraceState.parse(other)
    assert (one == two) is equal
    assert hash(one) == hash(two) or not equal


def test_a_tracestate_equals_a_mapping_of_the_same_members_and_nothing_else():
    assert TraceState.parse("a=1,b=2") == {"b": "2", "a": "1"}
    assert TraceState.parse("a=1") != {"a": "2"}
    assert TraceState.parse("a=1") != "a=1"


@pytest.mark.parametrize("name", GOOD_STATES)
def test_a_pickle_or_a_copy_keeps_the_text(name):
    state = TraceState.parse(GOOD_STATES[name][0])
    for other in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert str(other) == str(state)
        assert other == state


OT = st.text("abrvtxh019AF.:;_- ", max_size=40) | st.sampled_from(
    ["th:8", "th:0;rv:0123456789abcd", "rv:0123456789abcd;x:Y", "rv:0123456789abcd;rv:0123456789abcd", "x:" + "y" * 254]
)
MEMBERS = st.lists(st.tuples(st.sampled_from(["a", "b", "ot", "ot2", "x@ot"]), OT | st.just("1")), max_size=40)
SAID = st.sampled_from(["", "ot=th:8", "ot=th:8,v=1", "v=1", "a=2"])


@settings(deadline=None, derandomize=True, database=None, max_examples=500)
@given(MEMBERS, SAID)
def test_after_a_decision_a_tracestate_is_well_formed_and_has_lost_nothing_but_the_threshold(members, entry):
    try:
        before = TraceState.parse(",".join(f"{key}={value}" for key, value in members))
    except FormatError:
        assume(False)
    after = TraceState.parse(before.decided(entry))
    threshold, randomness = after.sampling()
    assert randomness == before.sampling()[1]
    assert threshold == (8 << 52 if "th:8" in entry and "y" * 250 not in before.get("ot", "") else -1)
    assert len(after) <= 32
    kept = {key: value for key, value in before.items() if key != "ot" and key not in TraceState.parse(entry)}
    assert {key: after[key] for key in kept} == kept
    assert parse_ot(before.get("ot", "")) == {} or {
        key: value for key, value in parse_ot(before["ot"]).items() if key != "th"
    } == {key: value for key, value in parse_ot(after.get("ot", "")).items() if key != "th"}
