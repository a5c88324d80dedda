"""Every documented limit on values and exceptions, a row each: a probe at the limit, and one beyond it."""

from __future__ import annotations

import itertools
import linecache
import logging
import re

import pytest

import tracekit
from tracekit._core import attributes
from tracekit._core.attributes import clean, int_text
from tracekit._core.outcome import mark_recorded, outcome_of
from tracekit._core.stack import message_of, stack_of
from tracekit.testing import MemoryExporter

from .test_stack import chain, deep, frames_of, noted

TRACE = "1" * 32


class Local(Exception):
    pass


def nested(depth):
    value = "innermost"
    for _ in range(depth):
        value = [value]
    return value


def depth_of_value(depth):
    value = clean(nested(depth), 100)[0]
    for _ in range(depth):
        if value is None:
            return "cut"
        (value,) = value
    return value


def elements_of_value(rows):
    value, _ = clean([[0] * 9] * rows, 10)
    return sum(1 + len(row) for row in value)


def characters_of_value(texts):
    value, _ = clean([["x" * 10] * 10] * texts, 10)
    return sum(map(len, itertools.chain.from_iterable(value)))


def digits_of_int(bits):
    return int_text(1 << (bits - 1))[:2]


def warnings(types):
    attributes._warned.clear()
    lines = []
    handler = logging.Handler()
    handler.emit = lines.append
    logging.getLogger("tracekit").addHandler(handler)
    try:
        clean([type(f"Type{number}", (), {})() for number in range(types)], 1000)
    finally:
        logging.getLogger("tracekit").removeHandler(handler)
        attributes._warned.clear()
    return len(lines)


def leaves_of_group(errors):
    return len(outcome_of(ExceptionGroup("g", [Local() for _ in range(errors)]), TRACE, 100).errors)


def members_looked_at(cancellations):
    group = BaseExceptionGroup("g", [*[GeneratorExit() for _ in range(cancellations)], Local()])
    return outcome_of(group, TRACE, 100).code


def traces_remembered(traces):
    exc = Local()
    for number in range(traces):
        mark_recorded(exc, str(number))
    return sum(not outcome_of(exc, str(number), 100).errors for number in range(traces))


def stack(exc, limit=10**6):
    return stack_of(exc, message_of(exc, limit), limit)


def exceptions_in_text(causes):
    return len(re.findall(r"number \d+", stack(chain(causes))))


def exceptions_counted(causes):
    return re.match(r"(?:.*\n)?\n\[(.*) exceptions left out\]", stack(chain(causes)))[1]


def frames_in_text(frames):
    return stack(deep(frames - 2, Local())).count('  File "')


def frames_counted(frames):
    exc = deep(50, Local())
    entry = exc.__traceback__
    while entry.tb_next.tb_next is not None:
        entry = entry.tb_next
    for _ in range(frames - 52):
        entry.tb_next = type(entry)(entry.tb_next, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return "deeper frames left out" in stack(exc)


def members_in_text(members):
    return len(re.findall(r"number \d+", stack(ExceptionGroup("g", [Local(f"number {n}") for n in range(members)]))))


def depth_of_groups(depth):
    exc = Local("innermost")
    for _ in range(depth):
        exc = ExceptionGroup("g", [exc])
    return "innermost" in stack(exc)


def notes_in_text(notes):
    return stack(noted(*["a note"] * notes)).count("a note\n")


def files_read(tmp_path, *sizes):
    names = [str(tmp_path / f"{number}.py") for number in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        with open(name, "w") as file:
            file.write("1\n2\n3\n".ljust(size, "#"))
    stack(frames_of(*names))
    return sum(name in linecache.cache for name in names)


def name_of_function(length):
    module = {}
    exec(f"def {'f' * length}(): raise ValueError", module)
    try:
        module["f" * length]()
    except ValueError as exc:
        return len(re.search(r"in (f+)\n", stack(exc))[1])


def name_of_file(length):
    return len(re.search(r'File "(f+)"', stack(frames_of("f" * length)))[1])


def name_of_class(length):
    return len(stack(type("N" * length, (Exception,), {"__module__": "builtins"})())) - 1


def line_of_source(length):
    linecache.cache["line.py"] = (length, None, ["1\n", "x" * length, "3\n"], "line.py")
    try:
        return len(re.search(r"  (x+)\n", stack(frames_of("line.py")))[1])
    finally:
        del linecache.cache["line.py"]


def value_length(characters):
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("job", attributes={"a": "x" * characters}) as span:
        return len(span.attributes["a"])


def stack_length(frames):
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("job") as span:
        span.record_exception(frames_of(*["f" * 384] * frames))
        text = span.events[0].attributes["exception.stacktrace"]
    return len(text) <= 16384, len(text) > 15_500, span.truncated_values


# The limit, the probe, and the result at the limit and beyond it.
LIMITS = [
    ("levels of a value", depth_of_value, (3, "innermost"), (4, "cut")),
    ("elements of a value, times its limit", elements_of_value, (8, 80), (9, 80)),
    ("characters of a value, times its limit", characters_of_value, (6, 600), (7, 640)),
    ("bits of an int as text", digits_of_int, (16384, "0x"), (16385, "<i")),
    ("types warned of", warnings, (64, 64), (65, 64)),
    ("errors of a group recorded", leaves_of_group, (32, 32), (33, 32)),
    ("members of a group looked at", members_looked_at, (9_999, "error"), (10_000, "cancelled")),
    ("traces remembered for an exception", traces_remembered, (16, 16), (17, 16)),
    ("exceptions in a stack trace, beside the root", exceptions_in_text, (32, 32), (34, 33)),
    ("exceptions counted for a stack trace", exceptions_counted, (1000, "967"), (1001, "968 or more")),
    ("frames of an exception", frames_in_text, (72, 72), (73, 72)),
    ("frames counted for a stack trace", frames_counted, (10_000, False), (10_001, True)),
    ("members of a group in a stack trace", members_in_text, (15, 15), (16, 15)),
    ("levels of groups in a stack trace", depth_of_groups, (4, True), (5, False)),
    ("notes of an exception", notes_in_text, (16, 16), (17, 16)),
    ("characters of the name of a function", name_of_function, (512, 512), (513, 512)),
    ("characters of the name of a file", name_of_file, (512, 512), (513, 512)),
    ("characters of the name of a class", name_of_class, (512, 512), (513, 512)),
    ("characters of a line of source", line_of_source, (512, 512), (513, 512)),
    ("Limits.value_length", value_length, (4096, 4096), (4097, 4096)),
    ("Limits.stack_length", stack_length, (38, (True, True, 0)), (39, (True, True, 1))),
]


@pytest.mark.parametrize(("probe", "at", "beyond"), [row[1:] for row in LIMITS], ids=[row[0] for row in LIMITS])
def test_the_limit_is_as_documented(probe, at, beyond):
    assert (probe(at[0]), probe(beyond[0])) == (at[1], beyond[1])


@pytest.mark.parametrize(
    ("sizes", "read"), [([9] * 16, 16), ([9] * 17, 16), ([1 << 18, 1 << 18], 2), ([(1 << 18) + 1, 1 << 18], 1)]
)
def test_files_and_octets_read_for_a_stack_trace_are_bounded(sizes, read, tmp_path, monkeypatch):
    known = dict.fromkeys([__file__, frames_of.__code__.co_filename], (1, None, [], __file__))
    monkeypatch.setattr(linecache, "cache", known)
    assert files_read(tmp_path, *sizes) == read


def test_the_limits_of_a_span_have_their_documented_defaults():
    assert tracekit.Limits()._asdict() == {
        "attributes": 128,
        "events": 128,
        "links": 128,
        "value_length": 4096,
        "stack_length": 16384,
    }
