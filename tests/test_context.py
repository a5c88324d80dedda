from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import pickle
import subprocess
import sys

import pytest

from tracekit import FormatError, Labels, TraceState, _current
from tracekit._core import context as context_module

from .tools.vectors import SPAN_ID, TRACE_ID

STATE = TraceState.parse("foo=1, bar=2")
LABELS = Labels.parse("user=Am%C3%A9lie;ttl=3;x,plan=pro,plan=free")
FULL = {"trace_id": TRACE_ID, "span_id": SPAN_ID, "flags": 3, "state": STATE, "labels": LABELS, "is_remote": True}


def fields(context):
    """All that a context of either form tells about itself."""
    state, labels = str(context.state), context.labels.members
    return context.id, context.flags, context.deferred, state, labels, context.is_remote


def test_an_empty_context_is_all_zeros_and_nobody_has_decided(form):
    context = form.SpanContext()
    assert (context.trace_id, context.span_id, context.id) == ("0" * 32, "0" * 16, bytes(24))
    assert (context.flags, context.sampled, context.deferred) == (0, False, True)
    assert (context.is_valid, context.is_remote) == (False, False)
    assert (context.state, context.labels) == (TraceState(), Labels())


def test_a_full_context_tells_what_it_was_given(form):
    context = form.SpanContext(**FULL)
    assert (context.trace_id, context.span_id, context.flags) == (TRACE_ID, SPAN_ID, 3)
    assert context.id == bytes.fromhex(TRACE_ID + SPAN_ID)
    assert (context.sampled, context.deferred, context.is_valid, context.is_remote) == (True, False, True, True)
    assert str(context.state) == "foo=1, bar=2"
    assert context.labels == LABELS
    assert repr(context) == f"<SpanContext {TRACE_ID}/{SPAN_ID} flags=03, remote>"


@pytest.mark.parametrize("trace_id", [TRACE_ID, bytes.fromhex(TRACE_ID)])
@pytest.mark.parametrize("span_id", [SPAN_ID, bytes.fromhex(SPAN_ID)])
def test_ids_are_hex_or_bytes(form, trace_id, span_id):
    assert form.SpanContext(trace_id, span_id) == form.SpanContext(TRACE_ID, SPAN_ID)


@pytest.mark.parametrize(("trace_id", "span_id"), [(TRACE_ID, "0" * 16), ("0" * 32, SPAN_ID), (bytes(16), bytes(8))])
def test_a_context_without_both_ids_is_not_valid(form, trace_id, span_id):
    assert not form.SpanContext(trace_id, span_id, 1).is_valid


@pytest.mark.parametrize(
    ("arguments", "deferred"),
    [
        ({"trace_id": TRACE_ID, "span_id": SPAN_ID}, False),
        ({"trace_id": TRACE_ID, "span_id": SPAN_ID, "deferred": True}, True),
        ({"trace_id": TRACE_ID}, True),
        ({"trace_id": TRACE_ID, "deferred": False}, False),
        ({"flags": 1}, False),
        ({"labels": LABELS}, True),
    ],
)
def test_deferred_is_what_was_said_or_that_ids_and_flags_say_nothing(form, arguments, deferred):
    context = form.SpanContext(**arguments)
    assert context.deferred is deferred
    assert context.flags == arguments.get("flags", 0)


def test_every_flag_is_kept_and_only_the_lowest_is_sampled(form):
    for flags in range(256):
        context = form.SpanContext(TRACE_ID, SPAN_ID, flags)
        assert context.flags == flags
        assert context.sampled is (flags % 2 == 1)


@pytest.mark.parametrize(
    "name",
    ["trace_id", "span_id", "id", "flags", "sampled", "deferred", "state", "labels", "is_remote", "is_valid", "color"],
)
def test_a_context_does_not_change(form, name):
    context = form.SpanContext(**FULL)
    with pytest.raises(AttributeError):
        setattr(context, name, getattr(context, name, None))
    with pytest.raises(AttributeError):
        delattr(context, name)
    assert fields(context) == fields(form.SpanContext(**FULL))


@pytest.mark.parametrize(
    "arguments",
    [{}, FULL, {"deferred": False}, {"deferred": False, "state": STATE}, {"deferred": False, "is_remote": True}],
)
def test_init_called_again_changes_nothing(form, arguments):
    context = form.SpanContext(**arguments)
    with contextlib.suppress(AttributeError):
        context.__init__("1" * 32, "1" * 16, 2)
    assert fields(context) == fields(form.SpanContext(**arguments))


CHANGES = {
    "trace_id": "1" * 32,
    "span_id": "1" * 16,
    "flags": 2,
    "state": TraceState.parse("foo=2"),
    "labels": Labels({"plan": "free"}),
    "is_remote": False,
    "deferred": True,
}


def test_equal_values_are_equal_and_hash_alike(form):
    context, other = form.SpanContext(**FULL), form.SpanContext(**FULL)
    assert context is not other
    assert context == other
    assert hash(context) == hash(other)
    assert len({context, other}) == 1
    assert context == form.SpanContext(**{**FULL, "labels": Labels.parse(str(LABELS))})
    assert form.SpanContext(labels=Labels(), state=TraceState()) == form.SpanContext()


@pytest.mark.parametrize("name", CHANGES)
def test_one_other_value_makes_another_context(form, name):
    context, other = form.SpanContext(**FULL), form.SpanContext(**{**FULL, name: CHANGES[name]})
    assert context != other
    assert len({context, other}) == 2


def test_contexts_whose_tracestates_are_equal_are_equal(form):
    spaced, dense = TraceState.parse("a=1 , b=2"), TraceState.parse("a=1,b=2")
    assert spaced == dense
    assert form.SpanContext(TRACE_ID, SPAN_ID, state=spaced) == form.SpanContext(TRACE_ID, SPAN_ID, state=dense)


@pytest.mark.parametrize("other", [None, 1, TRACE_ID, bytes(24), (), object()])
def test_a_context_is_unequal_to_anything_else(form, other):
    context = form.SpanContext(**FULL)
    assert context != other
    assert not context == other  # noqa: SIM201 - the other operator


@pytest.mark.parametrize("operation", ["<", "<=", ">", ">="])
def test_contexts_have_no_order(form, operation):
    with pytest.raises(TypeError):
        eval(f"a {operation} b", {"a": form.SpanContext(), "b": form.SpanContext()})


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"trace_id": None}, "trace_id"),
        ({"trace_id": 1}, "trace_id"),
        ({"trace_id": bytearray(16)}, "trace_id"),
        ({"trace_id": memoryview(bytes(16))}, "trace_id"),
        ({"span_id": None}, "span_id"),
        ({"span_id": 1.5}, "span_id"),
        ({"flags": None}, "flags"),
        ({"flags": "01"}, "flags"),
        ({"flags": 1.0}, "flags"),
        ({"state": "foo=1"}, "state"),
        ({"state": {"foo": "1"}}, "state"),
        ({"labels": {"a": "b"}}, "labels"),
        ({"labels": "a=b"}, "labels"),
    ],
)
def test_a_wrong_type_is_a_type_error_that_names_the_parameter(form, arguments, parameter):
    with pytest.raises(TypeError, match=f"^{parameter} must be "):
        form.SpanContext(**arguments)


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({"trace_id": ""}, "trace_id"),
        ({"trace_id": TRACE_ID.upper()}, "trace_id"),
        ({"trace_id": TRACE_ID[1:]}, "trace_id"),
        ({"trace_id": TRACE_ID + "0"}, "trace_id"),
        ({"trace_id": "_" * 32}, "trace_id"),
        ({"trace_id": "+" + TRACE_ID[1:]}, "trace_id"),
        ({"trace_id": "\uff11" * 32}, "trace_id"),
        ({"trace_id": "\udc80" * 32}, "trace_id"),
        ({"trace_id": "\n" * 100_000}, "trace_id"),
        ({"trace_id": bytes(15)}, "trace_id"),
        ({"trace_id": TRACE_ID.encode()}, "trace_id"),
        ({"span_id": TRACE_ID}, "span_id"),
        ({"span_id": SPAN_ID.upper()}, "span_id"),
        ({"span_id": bytes(9)}, "span_id"),
        ({"flags": -1}, "flags"),
        ({"flags": 256}, "flags"),
        ({"flags": 1 << 70}, "flags"),
    ],
)
def test_a_bad_value_is_a_value_error_that_names_the_parameter_and_is_fit_to_print(form, arguments, parameter):
    with pytest.raises(ValueError, match=f"^{parameter} must be ") as caught:
        form.SpanContext(**arguments)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_what_replace_is_not_given_stays(form):
    context = form.SpanContext(**FULL, deferred=True)
    assert context.replace() == context
    changed = {name: CHANGES[name] for name in ("state", "labels", "is_remote")}
    for name, value in changed.items():
        other = context.replace(**{name: value})
        assert other == form.SpanContext(**{**FULL, name: value}, deferred=True)
    assert context.replace(**changed) == form.SpanContext(**{**FULL, **changed}, deferred=True)
    assert context.replace(labels=Labels(), state=TraceState()) == form.SpanContext(
        TRACE_ID, SPAN_ID, 3, is_remote=True, deferred=True
    )
    assert context == form.SpanContext(**FULL, deferred=True)


@pytest.mark.parametrize(("name", "value"), [("state", "foo=1"), ("labels", {"a": "b"})])
def test_replace_names_the_parameter_of_a_wrong_type(form, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be "):
        form.SpanContext().replace(**{name: value})


def test_make_context_takes_bytes_and_flags_with_deferred_above_them(form):
    ids = bytes.fromhex(TRACE_ID + SPAN_ID)
    context = form.make_context(ids, 0x103, "foo=1", LABELS, True)
    assert fields(context) == (ids, 3, True, "foo=1", LABELS.members, True)
    assert form.make_context(ids, 0xFF03, "", None, False) == form.SpanContext(TRACE_ID, SPAN_ID, 3, deferred=True)


@pytest.mark.parametrize("size", [0, 23, 25, 48])
def test_make_context_wants_24_bytes(form, size):
    with pytest.raises(ValueError, match="24 bytes"):
        form.make_context(bytes(size), 0, "", None, False)


@pytest.mark.parametrize(
    ("text", "digits", "number"),
    [
        (TRACE_ID, 32, int(TRACE_ID, 16)),
        (SPAN_ID, 16, int(SPAN_ID, 16)),
        ("f" * 32, 32, 2**128 - 1),
        ("f" * 16, 16, 2**64 - 1),
        ("0" * 31 + "1", 32, 1),
        ("1" + "0" * 31, 32, 2**124),
        ("0" * 32, 32, 0),
        ("", 32, 0),
        ("f" * 31, 32, 0),
        ("f" * 33, 32, 0),
        ("f" * 16, 32, 0),
        ("F" * 32, 32, 0),
        ("g" * 32, 32, 0),
        ("_" * 32, 32, 0),
        ("1_1_" * 8, 32, 0),
        ("0x" + "1" * 30, 32, 0),
        ("+" + "1" * 31, 32, 0),
        (" " + "1" * 31, 32, 0),
        ("1" * 31 + "\n", 32, 0),
        ("1" * 31 + "\0", 32, 0),
        ("\uff11" * 32, 32, 0),
        ("\u0661" * 16, 16, 0),
        ("\u0131" * 16, 16, 0),
        ("\U0001d7ce" * 16, 16, 0),
        ("\udc31" * 16, 16, 0),
    ],
)
def test_parse_hex_takes_lowercase_hex_of_that_length_and_nothing_else(form, text, digits, number):
    assert form.parse_hex(text, digits) == number


CONTEXTS = {
    "empty": {},
    "full": FULL,
    "deferred": {**FULL, "deferred": True},
    "labels only": {"labels": LABELS},
    "a trace id only": {"trace_id": TRACE_ID, "is_remote": True},
    "largest": {"trace_id": "f" * 32, "span_id": "f" * 16, "flags": 255},
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_read_as_an_equal_context(name, protocol):
    context = _current.SpanContext(**CONTEXTS[name])
    read = pickle.loads(pickle.dumps(context, protocol))
    assert type(read) is _current.SpanContext
    assert fields(read) == fields(context)


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_copy_is_equal(name):
    context = _current.SpanContext(**CONTEXTS[name])
    assert copy.copy(context) == context
    assert copy.deepcopy(context) == context


WRITE = """
import pickle, sys, tracekit
from tracekit import Labels, SpanContext, TraceState
contexts = [
    SpanContext(),
    SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 3, state=TraceState.parse("foo=1, bar=2"),
                labels=Labels.parse("user=Am%C3%A9lie;ttl=3;x,plan=pro,plan=free"), is_remote=True, deferred=True),
]
sys.stdout.buffer.write(pickle.dumps((tracekit.IMPLEMENTATION, contexts)))
"""

READ = """
import pickle, sys, tracekit
_, contexts = pickle.load(sys.stdin.buffer)
assert all(type(context) is tracekit.SpanContext for context in contexts)
sys.stdout.buffer.write(pickle.dumps((tracekit.IMPLEMENTATION, [
    (context.id, context.flags, context.deferred, str(context.state), context.labels.members, context.is_remote)
    for context in contexts
])))
"""


def run(program, no_extensions, data=b""):
    environment = {**os.environ, "TRACEKIT_NO_EXTENSIONS": no_extensions}
    done = subprocess.run([sys.executable, "-c", program], input=data, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


BUILT = "compiled" if importlib.util.find_spec("tracekit._speedups") else "plain"


@pytest.mark.parametrize(
    ("writer", "reader"), [("compiled", "plain"), ("plain", "compiled"), ("plain", "plain"), ("compiled", "compiled")]
)
def test_a_pickle_crosses_processes_and_forms(writer, reader):
    turned_off = {"plain": "1", "compiled": "0"}
    pickled = run(WRITE, turned_off[writer])
    by, contexts = pickle.loads(pickled)
    assert by == ("plain" if writer == "plain" else BUILT)
    by, read = pickle.loads(run(READ, turned_off[reader], pickled))
    assert by == ("plain" if reader == "plain" else BUILT)
    assert read == [fields(_current.SpanContext()), fields(_current.SpanContext(**FULL, deferred=True))]
    assert [fields(context) for context in contexts] == read


@pytest.mark.parametrize(
    ("ids", "state", "labels", "error"),
    [
        (bytes(23), "", "", ValueError),
        (bytes(24), "a=1\r\nx: y", "", FormatError),
        (bytes(24), "", b"a=1", TypeError),
    ],
)
def test_a_pickle_that_was_tampered_with_does_not_become_a_context(ids, state, labels, error):
    with pytest.raises(error):
        context_module._restore(ids, 0, state, labels, False)


def test_labels_of_a_pickle_that_was_tampered_with_are_left_out():
    context = context_module._restore(bytes(24), 0, "", "a\r\nb=1,c=2,d=3\r\n", False)
    assert str(context.labels) == "c=2"
