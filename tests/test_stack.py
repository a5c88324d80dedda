"""The text of exceptions: as ``traceback`` writes it, with an end that is kept and work that is bounded."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracekit._core.outcome import exception_events
from tracekit._core.records import DEFAULT_LIMITS
from tracekit._core.stack import message_of, stack_of

same = settings(deadline=None, derandomize=True, database=None, max_examples=200)


class Local(Exception):
    pass


def raised(exc, cause=None):
    try:
        raise exc from cause
    except BaseException as caught:
        return caught


def during(exc):
    """Return an exception that was raised while *exc* was handled."""
    try:
        try:
            raise exc
        finally:
            raise Local("during")
    except Local as caught:
        return caught


def hidden():
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise Local("shown") from None
    except Local as caught:
        return caught


def deep(depth, exc):
    def dive(depth):
        if depth == 0:
            raise exc
        dive(depth - 1)

    try:
        dive(depth)
    except BaseException as caught:
        return caught


def chain(length, depth=0):
    cause = None
    for number in range(length):
        cause = raised(ValueError(f"number {number}"), cause) if not depth else deep(depth, Local(f"number {number}"))
    return cause


def noted(*notes):
    exc = Local("message")
    for note in notes:
        exc.add_note(note)
    return raised(exc)


def stack(exc, limit=16384):
    return stack_of(exc, message_of(exc, limit), limit)


# ---- the text


@pytest.mark.parametrize(
    "exc",
    [
        raised(ValueError("message")),
        raised(ValueError()),
        raised(Local("two\nlines")),
        raised(KeyError("key")),
        raised(OSError(2, "No such file", "name")),
        raised(Local("several", 1, ["arguments"])),
        ValueError("never raised"),
        raised(ValueError("effect"), raised(KeyError("cause"))),
        raised(ValueError("effect"), KeyError("cause never raised")),
        during(ValueError("first")),
        hidden(),
        chain(5),
        deep(20, raised(Local("effect"), deep(20, Local("cause")))),
        noted("a note", "another\nnote"),
        raised(type("Inner", (Local,), {"__qualname__": "Outer.Inner"})("message")),
    ],
    ids=lambda exc: repr(exc)[:40],
)
def test_it_is_the_text_of_traceback_without_the_markers(exc):
    theirs = re.sub(r"\n +[\^~]+(?=\n)", "", "".join(traceback.format_exception(exc)))
    theirs = re.sub(r"  \[Previous line repeated .*\n", "", theirs)
    assert fold(stack(exc)) == fold(theirs)
    assert stack(exc).cuts == 0


def fold(text):
    """Return *text* with no more than three of the same entries in a row, as traceback has them."""
    return re.sub(r"((?:  File .*\n    .*\n))\1{3,}", r"\1\1\1", text)


def test_the_end_of_a_deep_stack_is_kept_and_the_middle_counted():
    text = stack(deep(500, Local("the end")))
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("    raise exc\ntests.test_stack.Local: the end\n")
    assert text.count(", in dive\n") == 71
    assert re.findall(r"\n  \[.*\]\n", text) == ["\n  [430 frames left out]\n"]
    assert text.cuts == 1


def test_the_innermost_frames_go_before_the_outermost_where_there_is_room_for_few():
    text = stack(deep(500, Local("the end")), 1000)
    assert 600 < len(text) <= 1000
    assert text.endswith("    raise exc\ntests.test_stack.Local: the end\n")
    assert re.search(r"^Traceback.*:\n  \[\d+ frames left out\]\n  File", text)


def test_of_a_long_chain_the_nearest_and_the_root_are_kept():
    text = stack(chain(500))
    assert text.startswith("ValueError: number 0\n\n[467 exceptions left out]\n\nThe above exception was the direct")
    assert text.endswith("ValueError: number 499\n")
    assert re.findall(r"number (\d+)", text) == ["0", *map(str, range(468, 500))]
    assert text.cuts == 1


def test_of_a_very_long_chain_the_root_is_not_looked_for():
    text = stack(chain(2000))
    assert text.startswith("\n[968 or more exceptions left out]\n")
    assert text.endswith("ValueError: number 1999\n")


def test_a_chain_that_leads_back_to_itself_ends():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    text = stack(first)
    assert re.findall(r"ValueError: (\w+)", text) == ["second", "first"]
    assert text.cuts == 0


def test_the_members_of_a_group_are_indented():
    group = ExceptionGroup("outer", [ValueError("one"), ExceptionGroup("inner", [KeyError("two"), chain(2)])])
    assert stack(group) == (
        "ExceptionGroup: outer (2 sub-exceptions)\n"
        "  +---------------- 1 ----------------\n"
        "  | ValueError: one\n"
        "  +---------------- 2 ----------------\n"
        "  | ExceptionGroup: inner (2 sub-exceptions)\n"
        "  |   +---------------- 1 ----------------\n"
        "  |   | KeyError: 'two'\n"
        "  |   +---------------- 2 ----------------\n"
        + "".join(f"  |   | {line}\n" for line in stack(group.exceptions[1].exceptions[1]).splitlines())
        + "  |   +------------------------------------\n"
        "  +------------------------------------\n"
    )


def test_the_members_of_a_large_group_are_counted():
    text = stack(ExceptionGroup("g", [ValueError(number) for number in range(100)]))
    assert re.findall(r"ValueError: (\d+)", text) == [str(number) for number in range(15)]
    assert "\n  | [85 exceptions left out]\n" in text
    assert text.cuts == 1


EXCEPTIONS = {
    "simple": raised(Local("message")),
    "deep": deep(500, Local("message")),
    "long chain": chain(500),
    "group": ExceptionGroup("g", [deep(100, Local("m")), ExceptionGroup("h", [chain(100), noted("n" * 100)])]),
    "long message": raised(Local("m" * 5000), raised(Local("m" * 5000))),
    "long name": raised(type("N" * 1000, (Exception,), {})("m")),
    "notes": noted(*["note" * 100] * 50),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
@same
@given(st.integers(0, 3000) | st.integers(0, 40000))
def test_a_stack_has_at_most_its_limit_and_keeps_its_end(name, limit):
    exc = EXCEPTIONS[name]
    text, whole = stack(exc, limit), stack(exc, 10**6)
    assert len(text) <= limit
    assert type(text.cuts) is int
    assert text.cuts == 1 or text == whole
    if limit > 200 and name in ("simple", "deep", "long chain"):
        assert text.endswith(whole[whole.rstrip("\n").rindex("\n") :])


# ---- bounded work


def calls(function):
    """Return the number of calls that *function* makes, into C too."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("length", [1_000, 20_000])
def test_a_long_chain_takes_a_bounded_number_of_calls(length):
    exc = chain(length)
    assert calls(lambda: stack(exc)) < 10_000


@pytest.mark.parametrize("depth", [100, 900])
def test_deep_causes_and_members_take_a_bounded_number_of_calls(depth):
    causes = None
    for number in range(50):
        cause = deep(depth, Local(str(number)))
        cause.__cause__, causes = causes, cause
    assert calls(lambda: stack(causes)) < 5_000
    assert calls(lambda: stack(ExceptionGroup("g", [causes] * 100_000))) < 5_000


def test_frames_beyond_the_kept_ones_look_up_no_source(monkeypatch):
    looked_up = []
    monkeypatch.setattr(linecache, "getlines", lambda filename, _: looked_up.append(filename) or [])
    stack(deep(900, Local("message")))
    assert looked_up == [__file__]


def frames_of(*names):
    """Return an exception that went through a function of each of the files *names*, the last innermost."""
    module = {}
    source = "def call(rest):\n    if not rest: raise ValueError\n    rest[0](rest[1:])"
    functions = []
    for name in names:
        exec(compile(source, name, "exec"), module)
        functions.append(module["call"])
    try:
        functions[0](functions[1:])
    except ValueError as exc:
        exc.__traceback__ = exc.__traceback__.tb_next
        return exc


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(linecache, "cache", {})
    return linecache.cache


def test_a_bounded_number_of_files_is_read(tmp_path, empty_cache):
    names = [str(tmp_path / f"{number}.py") for number in range(30)]
    for name in names:
        (tmp_path / name).write_text("1\n2 source\n3 source\n")
    text = stack(frames_of(*names))
    assert text.count('  File "') == 30
    assert list(empty_cache) == names[:-17:-1], "those of the innermost frames"
    assert text.count(" source\n") == 16
    again = stack(frames_of(*names))
    assert again.count(" source\n") == 30, "files that have been read cost nothing"


def test_a_bounded_number_of_octets_is_read(tmp_path, empty_cache):
    names = [str(tmp_path / f"{number}.py") for number in range(3)]
    for name in names:
        (tmp_path / name).write_text("1\n2 source\n3 source\n" + "#" * 300_000)
    stack(frames_of(*names))
    assert list(empty_cache) == [names[2]]


def recorded(*errors):
    return [attributes for _, attributes in exception_events(errors, DEFAULT_LIMITS)]


def test_the_errors_of_a_group_share_the_bounds_on_files(tmp_path, empty_cache):
    names = [str(tmp_path / f"{number}.py") for number in range(32)]
    for name in names:
        (tmp_path / name).write_text("1\n2 source\n3 source\n")
    stacks = [attributes["exception.stacktrace"] for attributes in recorded(*map(frames_of, names))]
    assert len(empty_cache) == 16
    assert [stack.count(" source\n") for stack in stacks] == [1] * 16 + [0] * 16
    assert all(f'  File "{name}", line 2, in call\n' in stack for name, stack in zip(names, stacks, strict=True))


def test_the_errors_of_a_group_share_the_bound_on_messages():
    found = [attributes["exception.message"] for attributes in recorded(*[Local("m" * 3000) for _ in range(32)])]
    lengths = [len(message) for message in found]
    assert (lengths[0], lengths[-1]) == (3000, 128)
    assert sum(lengths) <= 24 * 1024 + 32 * 129
    assert [message.cuts for message in found] == [int(length < 3000) for length in lengths]


def test_a_cause_that_errors_of_a_group_share_is_in_the_stack_of_each():
    cause = raised(KeyError("cause"))
    stacks = [
        attributes["exception.stacktrace"] for attributes in recorded(*[raised(Local(), cause) for _ in range(3)])
    ]
    assert [stack.count("KeyError: 'cause'\n") for stack in stacks] == [1] * 3


@pytest.mark.parametrize("length", [2, 300])
def test_the_errors_of_a_group_take_a_bounded_number_of_calls(length):
    errors = [chain(length) for _ in range(32)]
    assert calls(lambda: recorded(*errors)) < 12_000


def test_files_that_are_not_there_and_loaders_that_raise_cost_only_the_line(empty_cache):
    class Loader:
        def get_source(self, name):
            raise RuntimeError("hostile")

    exc = frames_of("<string>", "missing.py", "loaded.py")
    entry = exc.__traceback__
    entry.tb_frame.f_globals.update(__loader__=Loader(), __name__="loaded")
    assert re.findall(r'  File "(.*)", line \d, in call\n(?=  File|ValueError)', stack(exc)) == [
        "<string>",
        "missing.py",
        "loaded.py",
    ]


@pytest.mark.parametrize("lines", [5, [5], [b"octets"], ["x" * 10_000_000], ["\n"]], ids=lambda lines: repr(lines)[:20])
def test_odd_lines_in_the_cache_are_left_out_or_cut(lines, empty_cache):
    empty_cache["odd.py"] = (1, None, lines, "odd.py")
    exc = frames_of("odd.py")
    exc.__traceback__ = type(exc.__traceback__)(None, exc.__traceback__.tb_frame, 0, 1)
    text = stack(exc)
    assert 'File "odd.py", line 1, in call\n' in text
    assert len(text) < 2000


def peak(function):
    """Return the octets that *function* allocates at most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


HUGE = "x" * 20_000_000


@pytest.mark.parametrize(
    "exc",
    [
        ValueError(HUGE),
        ValueError(HUGE, HUGE),
        ValueError([HUGE]),
        ValueError({HUGE: HUGE}),
        ValueError({1: [(HUGE,)]}),
        ValueError(b"x" * 20_000_000),
        ValueError(bytearray(20_000_000)),
        ValueError(type("Text", (str,), {})(HUGE)),
        KeyError(HUGE),
        SystemExit(HUGE),
        noted(HUGE),
        noted(*["x" * 1_000_000] * 1000),
    ],
    ids=[f"{number}" for number in range(12)],
)
def test_a_huge_message_is_cut_before_it_becomes_text(exc):
    assert peak(lambda: stack(exc)) < 500_000
    assert len(message_of(exc, 4096)) <= 4096


class Counted:
    count = 0

    def __repr__(self):
        Counted.count += 1
        return "counted"


@pytest.mark.parametrize("make", [ValueError, KeyError, Local, SystemExit], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda items: [items],
        lambda items: [tuple(items)],
        lambda items: [set(items)],
        lambda items: [dict.fromkeys(items)],
        lambda items: [[items[:100]] * 1000],
        lambda items: items,
    ],
    ids=["list", "tuple", "set", "dict", "nested", "many"],
)
def test_huge_arguments_are_cut_before_they_become_text(make, wrap):
    exc = make(*wrap([Counted() for _ in range(50_000)]))
    Counted.count = 0
    assert len(message_of(exc, 4096)) == 4096
    assert Counted.count <= 4096


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("text",),
        (1,),
        (None,),
        ([1, "a", None, 2.5],),
        ({"a": {2: [1, (2, {"c": "d"})]}},),
        ("a", 1, b"b"),
        ({1, 2},),
    ],
    ids=repr,
)
@pytest.mark.parametrize("make", [ValueError, KeyError, Local, SystemExit])
def test_small_arguments_are_the_message_that_str_makes_of_them(make, args):
    exc = make(*args)
    assert message_of(exc, 4096) == str(exc)
