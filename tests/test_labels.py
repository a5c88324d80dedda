from __future__ import annotations

import copy
import pickle
import string
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracekit
from tracekit import Labels
from tracekit._core.labels import NO_LABELS

from .tools.vectors import BAGGAGE, BAGGAGE_64, BAGGAGE_512, BAGGAGE_8192, TRACEPARENT, TWINS

TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
SPECIAL = "\t \"';=asdf!@#$%^&*()"
PLAIN = string.ascii_letters + string.digits + "-._~/"


@pytest.mark.parametrize("name", BAGGAGE)
def test_baggage_is_read_member_by_member(form, name):
    text, members, dropped = BAGGAGE[name]
    assert form.parse_baggage(text) == (tuple(members), dropped)
    labels = Labels.parse(text)
    assert labels.members == tuple(members)
    assert labels.dropped == dropped
    assert labels == {key: value for key, value, _ in members}


@pytest.mark.parametrize("name", BAGGAGE)
def test_what_was_read_and_is_written_reads_the_same(form, name):
    members = form.parse_baggage(BAGGAGE[name][0])[0]
    text, count = form.format_baggage(members)
    assert count == len(members)
    assert form.parse_baggage(text) == (members, 0)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([], ""),
        ([("k", "v", ())], "k=v"),
        ([("k", "", ())], "k="),
        ([("k", SPECIAL, ())], "k=%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"),
        ([("k", "v", (("p", SPECIAL),))], "k=v;p=%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"),
        ([("k", "v", (("p", None), ("p", ""), ("q", "1")))], "k=v;p;p=;q=1"),
        ([("k", "v", (("ValueProp%20%3D", None),))], "k=v;ValueProp%20%3D"),
        ([("a%20b", "v", ())], "a%20b=v"),
        ([("userId", "Am\xe9lie", ()), ("serverNode", "DF 28", ())], "userId=Am%C3%A9lie,serverNode=DF%2028"),
        ([("k", "a+b", ())], "k=a%2Bb"),
        ([("k", "%2C", ())], "k=%252C"),
        ([("k", "\r\nx: y\0", ())], "k=%0D%0Ax%3A%20y%00"),
        ([("k", "1", ()), ("j", "2", ()), ("k", "3", ())], "k=1,j=2,k=3"),
    ],
)
def test_baggage_is_written_with_all_but_plain_characters_encoded(form, members, text):
    assert form.format_baggage(members) == (text, len(members))


@pytest.mark.parametrize(
    ("members", "count"),
    [
        ([(f"key{at}", "value", ()) for at in range(64)], 64),
        ([(f"key{at}", "value", ()) for at in range(65)], 64),
        ([("a", "0123456789" * 819, ())], 1),
        ([("a", "0123456789" * 819 + "0", ())], 0),
        ([("a", "x" * 4094, ()), ("b", "y" * 4093, ())], 2),  # 4096, a comma, 4095
        ([("a", "x" * 4094, ()), ("b", "y" * 4094, ())], 1),
        ([("a", "1", ()), ("b", "y" * 8192, ()), ("c", "3", ())], 1),
        ([("a", "1", (("p", "x" * 8185),))], 1),  # a=1;p= and 8185
        ([("a", "1", (("p", "x" * 8187),))], 0),
        ([("a", "\xe9" * 1365, ())], 1),  # six bytes each
        ([("a", "\xe9" * 1366, ())], 0),
    ],
)
def test_past_64_members_or_8192_bytes_whole_members_are_left_out_from_the_end(form, members, count):
    text, kept = form.format_baggage(members)
    assert kept == count
    assert len(text) <= 8192
    assert form.parse_baggage(text) == (tuple(members[:count]), 0)


@pytest.mark.parametrize(
    "text",
    [
        BAGGAGE_64,
        BAGGAGE_8192,
        "a=" + "!" * 8190,
        "a=1;p=" + "(" * 8186,
        "a=" + "%FF" * 2730,
        ",".join(f"k{at:02d}={'&' * 123}" for at in range(64)) + "&",
    ],
)
def test_64_members_in_8192_bytes_are_passed_on_whatever_their_characters(text):
    assert len(text) <= 8192
    labels = Labels.parse(text)
    assert labels.dropped == 0
    assert len(str(labels)) <= 8192
    assert Labels.parse(str(labels)) == labels
    for carrier in ({"baggage": text}, {"baggage": text, "traceparent": TRACEPARENT}):
        sent = tracekit.inject({}, tracekit.extract(carrier))
        assert len(sent["baggage"]) <= 8192
        assert Labels.parse(sent["baggage"]) == labels


def test_limits_hold_on_construction_too_and_are_counted():
    labels = Labels({f"k{at}": "v" for at in range(100)})
    assert (len(labels), labels.dropped) == (64, 36)
    assert list(labels) == [f"k{at}" for at in range(64)]
    long = Labels([("a", "1"), ("b", "x" * 9000), ("c", "2")])
    assert (dict(long), long.dropped) == ({"a": "1"}, 2)
    assert len(str(Labels({"a": "\0" * 2730}))) == 8192
    assert Labels({"a": "\0" * 2731}).dropped == 1
    assert Labels.parse(BAGGAGE_512).dropped == 448


@pytest.mark.parametrize("octet", range(256))
def test_each_character_of_a_key_and_of_a_value(form, octet):
    char = chr(octet)
    assert form.is_label_key(char) is form.is_label_key(f"a{char}z") is (char in TOKEN)
    escaped = form.escape_label(char)
    assert escaped == (char if char in PLAIN else "".join(f"%{byte:02X}" for byte in char.encode()))
    assert form.unescape_label(escaped) == char


@pytest.mark.parametrize("key", ["", "\u212a", "\uff4b", "\ud800", "k" * 100_000 + " "])
def test_what_is_no_token_is_no_key(form, key):
    assert not form.is_label_key(key)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", ""),
        ("\u20ac", "%E2%82%AC"),
        ("\U0001f419", "%F0%9F%90%99"),
        ("a\ud800b", "a%EF%BF%BDb"),
        ("\udc80", "%EF%BF%BD"),
        ("\ud83d\udc19", "%F0%9F%90%99"),  # a pair of surrogates is one character
        ("\udc19\ud83d", "%EF%BF%BD%EF%BF%BD"),
    ],
)
def test_a_lone_surrogate_goes_out_as_the_replacement_character(form, value, text):
    assert form.escape_label(value) == text


@given(st.text(st.characters()), st.sampled_from(sorted(TWINS)))
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_any_value_comes_back_from_what_was_written(value, name):
    form = TWINS[name]
    text = form.escape_label(value)
    assert set(text) <= set(PLAIN + "%")
    if any("\ud800" <= char <= "\udfff" for char in value):
        assert form.unescape_label(text) == value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    else:
        assert form.unescape_label(text) == value


@given(st.text("abc019fFgG% +-_xX"), st.sampled_from(sorted(TWINS)))
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_any_text_is_decoded_as_the_standard_library_does(text, name):
    assert TWINS[name].unescape_label(text) == unquote(text, errors="replace")


KEYS = st.text(TOKEN, min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.lists(st.tuples(KEYS, VALUES, st.lists(st.tuples(KEYS, st.none() | VALUES), max_size=3)), max_size=20))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_labels_come_back_from_their_text_which_cannot_split_a_header(members):
    labels = Labels()
    seen = {}
    for key, value, properties in members:
        seen.pop(key, None)
        seen[key] = (key, value, tuple(properties))
        labels = labels.with_member(key, value, properties)
    assert labels.members == tuple(seen.values())[: len(labels.members)]
    text = str(labels)
    assert all("!" <= char <= "~" and char not in '"\\' for char in text)
    assert bytes(labels) == text.encode("ascii")
    assert text.count(",") == max(len(labels.members) - 1, 0)
    again = Labels.parse(text)
    assert again == labels
    assert again.dropped == 0
    assert pickle.loads(pickle.dumps(labels)) == labels


@pytest.mark.parametrize("key", ["", "a b", "a=b", "a;b", "a,b", 'a"', "a\r\nx: y", "a\0", "\xe9", "\u212a", "\ud800"])
def test_a_bad_key_is_a_value_error_fit_to_print(key):
    for make in (
        lambda: Labels({key: "v"}),
        lambda: NO_LABELS.with_member(key, "v"),
        lambda: NO_LABELS.with_member("k", "v", [(key, None)]),
        lambda: NO_LABELS.merge({key: "v"}),
    ):
        with pytest.raises(ValueError, match="must be letters, digits or") as caught:
            make()
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Labels({1: "v"}), "key must be str"),
        (lambda: Labels({b"k": "v"}), "key must be str"),
        (lambda: Labels({"k": 1}), "value must be str"),
        (lambda: Labels({"k": None}), "value must be str"),
        (lambda: Labels([("k", b"v")]), "value must be str"),
        (lambda: NO_LABELS.merge({"k": 1}), "value must be str"),
        (lambda: NO_LABELS.with_member("k", "v", [("p", 1)]), "properties must be"),
        (lambda: NO_LABELS.with_member("k", "v", [(1, None)]), "properties must be"),
        (lambda: NO_LABELS.with_member("k", "v", [("p",)]), "properties must be"),
        (lambda: NO_LABELS.with_member("k", "v", 5), "properties must be"),
        (lambda: Labels(5), "labels"),
        (lambda: Labels(None), "labels"),
        (lambda: Labels("a=b"), "labels"),
        (lambda: Labels.parse(None), r"\btext\b"),
        (lambda: Labels.parse(b"a=b"), r"\btext\b"),
    ],
)
def test_a_wrong_type_is_a_type_error_that_names_the_parameter(make, named):
    with pytest.raises(TypeError, match=named):
        make()


def test_labels_are_a_mapping_that_does_not_change():
    labels = Labels.parse("a=1,b=2;p,a=3;q=4")
    assert dict(labels) == {"a": "3", "b": "2"}
    assert (labels["a"], labels.get("nix"), len(labels), "b" in labels, bool(labels)) == ("3", None, 2, True, True)
    assert (labels.properties("a"), labels.properties("b")) == ((("q", "4"),), (("p", None),))
    assert repr(labels) == "Labels({'a': '3', 'b': '2'})"
    for missing in (lambda: labels["nix"], lambda: labels.properties("nix")):
        with pytest.raises(KeyError):
            missing()
    with pytest.raises(TypeError):
        labels["a"] = "2"
    with pytest.raises(AttributeError):
        labels.color = "red"
    properties = [["p", "1"]]
    member = Labels().with_member("k", "v", properties)
    properties[0][1] = "2"
    assert member.properties("k") == (("p", "1"),)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda labels: labels.merge({}), "a=1,b=2;p,a=3"),
        (lambda labels: labels.merge({"c": "4"}), "a=1,b=2;p,a=3,c=4"),
        (lambda labels: labels.merge({"a": "4"}), "b=2;p,a=4"),
        (lambda labels: labels.merge(Labels.parse("b=4;q,b=5")), "a=1,a=3,b=4;q,b=5"),
        (lambda labels: labels.without("a"), "b=2;p"),
        (lambda labels: labels.without("a", "b", "nix"), ""),
        (lambda labels: labels.without(), "a=1,b=2;p,a=3"),
        (lambda labels: labels.with_member("b", "4"), "a=1,a=3,b=4"),
        (lambda labels: labels.with_member("c", "4", [("q", None), ("r", ",")]), "a=1,b=2;p,a=3,c=4;q;r=%2C"),
        (lambda labels: Labels(labels), "a=1,b=2;p,a=3"),
    ],
)
def test_a_change_gives_new_labels_and_keeps_the_order_of_the_rest(change, text):
    labels = Labels.parse("a=1,b=2;p,a=3")
    assert str(change(labels)) == text
    assert str(labels) == "a=1,b=2;p,a=3"


def test_what_was_left_out_stays_counted():
    labels = Labels.parse("a=1,bad,b=2")
    assert labels.dropped == 1
    assert labels.merge({"c": "3"}).dropped == 1
    assert labels.merge(Labels.parse("bad,c=3")).dropped == 2
    assert labels.without("a").dropped == 1
    assert labels.with_member("c", "3").dropped == 1
    full = Labels.parse(BAGGAGE_64).merge({"more": "1"})
    assert (len(full), full.dropped, "more" in full) == (64, 1, False)
    with tracekit.use_labels(a="1"), tracekit.use_labels(b="too large" * 1000):
        assert (dict(tracekit.current_labels()), tracekit.current_labels().dropped) == ({"a": "1"}, 1)


@pytest.mark.parametrize(
    ("text", "other", "equal"),
    [
        ("a=1,b=2", "a=1 , b=2", True),
        ("a=%31", "a=1", True),
        ("a=1,b=2", "b=2,a=1", False),
        ("a=1", "a=1;p", False),
        ("a=1;p", "a=1;p=", False),
        ("a=0,a=1", "a=1", False),
        ("a=1", "a=2", False),
        ("", "a=1", False),
    ],
)
def test_labels_are_equal_when_their_members_are(text, other, equal):
    one, two = Labels.parse(text), Labels.parse(other)
    assert (one == two) is equal
    assert hash(one) == hash(two) or not equal


def test_labels_equal_a_mapping_of_the_same_view_and_nothing_else():
    assert Labels.parse("a=1,b=2;p") == {"b": "2", "a": "1"}
    assert Labels.parse("a=1") != {"a": "2"}
    assert Labels.parse("a=1") != "a=1"


@pytest.mark.parametrize("name", BAGGAGE)
def test_a_pickle_or_a_copy_keeps_members_and_count(name):
    labels = Labels.parse(BAGGAGE[name][0])
    for other in (pickle.loads(pickle.dumps(labels)), copy.copy(labels), copy.deepcopy(labels)):
        assert other.members == labels.members
        assert other.dropped == labels.dropped
