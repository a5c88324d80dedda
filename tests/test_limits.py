"""Documented limits that a function shows, a row each: a probe at the limit, and one beyond it.

The others are in test_documented_limits.py.
"""

from __future__ import annotations

import itertools
import linecache
import logging
import re
import threading

import pytest

import tracekit
from tracekit._core import attributes
from tracekit._core.attributes import clean, int_text
from tracekit._core.outcome import mark_recorded, outcome_of
from tracekit._core.stack import message_of, stack_of
from tracekit.exporters.sqlite import SQLiteExporter
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


# ---- spans


def recorded(**options):
    tracekit.configure(exporter=MemoryExporter(), **options)
    return tracekit.span("job")


def attributes_of_span(count):
    with recorded() as span:
        for number in range(count):
            span.set_attribute(f"key{number}", number)
    return len(span.attributes), span.dropped_attributes


def attributes_at_start(count):
    tracekit.configure(exporter=MemoryExporter())
    with tracekit.span("job", attributes={f"key{number}": number for number in range(count)}) as span:
        return len(span.attributes), span.dropped_attributes


def attributes_of_event(count):
    with recorded() as span:
        span.add_event("event", {f"key{number}": number for number in range(count)})
    return len(span.events[0].attributes), span.dropped_attributes


def events_of_span(count):
    with recorded() as span:
        for _ in range(count):
            span.add_event("event")
    return len(span.events), span.dropped_events


def links_of_span(count):
    with recorded() as span:
        for number in range(count):
            span.add_link(tracekit.SpanContext(TRACE, f"{number + 1:016x}"))
    return len(span.links), span.dropped_links


def limit_of_limits(number):
    return error(lambda: tracekit.configure(limits=tracekit.Limits(attributes=number)))


# ---- what is propagated


def error(call):
    """Return the name of the error that *call* raises, or None."""
    try:
        call()
    except (ValueError, tracekit.FormatError) as exc:
        return type(exc).__name__
    return None


def state_members(count):
    return error(lambda: tracekit.TraceState({f"k{number}": "v" for number in range(count)}))


def state_members_parsed(count):
    return error(lambda: tracekit.TraceState.parse(",".join(f"k{number}=v" for number in range(count))))


def state_key(length):
    return error(lambda: tracekit.TraceState({"k" * length: "v"}))


def state_value(length):
    return error(lambda: tracekit.TraceState({"k": "v" * length}))


def state_text(length):
    return error(lambda: tracekit.TraceState.parse("k=v".ljust(length - 1, ",") + "\t"))


def label_count(count):
    labels = tracekit.Labels({f"k{number}": "v" for number in range(count)})
    return len(labels), labels.dropped


def label_bytes(length):
    labels = tracekit.Labels({"k": "v" * (length - 2)})
    return len(labels), labels.dropped


def label_bytes_parsed(length):
    labels = tracekit.Labels.parse("k=" + "v" * (length - 2))
    return len(labels), labels.dropped


# ---- the pipeline


class Gate:
    """An exporter that keeps each batch's size, and hangs until ``release`` is set."""

    def __init__(self):
        self.entered, self.release = threading.Event(), threading.Event()
        self.sizes = []

    def export(self, spans):
        self.entered.set()
        assert self.release.wait(20)
        self.sizes.append(len(spans))

    def shutdown(self):
        pass


def end(spans):
    for _ in range(spans):
        tracekit.span("job").end()


def waiting(spans, **options):
    """Return the exporter and the number of spans dropped of so many that end while one is in the exporter's hands."""
    gate = Gate()
    tracekit.configure(exporter=gate, export_interval_s=0.01, **options)
    end(1)
    assert gate.entered.wait(20)
    dropped = tracekit.statistics().dropped
    end(spans)
    dropped = tracekit.statistics().dropped - dropped
    gate.release.set()
    assert tracekit.flush(20)
    return gate, dropped


def spans_waiting(spans):
    return waiting(spans)[1]


def spans_waiting_of_buffer(spans):
    return waiting(spans, buffer_size=10)[1]


def batches(spans):
    return waiting(spans)[0].sizes


def batches_of_size(spans):
    return waiting(spans, batch_size=3)[0].sizes


def buffer_size(size):
    return error(lambda: tracekit.configure(exporter=MemoryExporter(), buffer_size=size))


def batch_size(size):
    return error(lambda: tracekit.configure(exporter=MemoryExporter(), batch_size=size))


def export_interval_s(seconds):
    return error(lambda: tracekit.configure(exporter=MemoryExporter(), export_interval_s=seconds))


# ---- the SQLite file


def stored(tmp_path, finish, name="job"):
    """Return the stored form of a span that *finish* was called with."""
    exporter = SQLiteExporter(tmp_path / "spans.db", max_bytes=1 << 20)
    tracekit.configure(exporter=exporter, limits=tracekit.Limits(value_length=10_000))
    with tracekit.span(name) as span:
        finish(span)
    try:
        return exporter.probe(span)
    finally:
        exporter.shutdown()


def least_bytes(tmp_path, size):
    return error(lambda: SQLiteExporter(tmp_path / "spans.db", max_bytes=size))


def stored_name(tmp_path, length):
    return len(stored(tmp_path, tracekit.Span.end, "n" * length).name)


def stored_description(tmp_path, length):
    return len(stored(tmp_path, lambda span: span.set_status("error", "d" * length)).description)


def stored_attributes(tmp_path, size):
    """Whether attributes are kept of a span with so many octets of them; 1 MiB / 32 is 32 KiB for the whole span."""
    values = [4000] * (size // 4000)
    span = stored(tmp_path, lambda span: [span.set_attribute(str(n), "x" * v) for n, v in enumerate(values)])
    return bool(span.attributes), span.dropped_attributes


# The limit, the probe, and the result at the limit and beyond it.
LIMITS = [
    ("attributes of a span", attributes_of_span, (128, (128, 0)), (129, (128, 1))),
    ("attributes given at the start", attributes_at_start, (128, (128, 0)), (129, (128, 1))),
    ("attributes of an event", attributes_of_event, (128, (128, 0)), (129, (128, 1))),
    ("events of a span", events_of_span, (128, (128, 0)), (129, (128, 1))),
    ("links of a span", links_of_span, (128, (128, 0)), (129, (128, 1))),
    ("the largest number in Limits", limit_of_limits, (1 << 31, None), ((1 << 31) + 1, "ValueError")),
    ("members of a tracestate", state_members, (32, None), (33, "ValueError")),
    ("members of a tracestate that is parsed", state_members_parsed, (32, None), (33, "FormatError")),
    ("characters of a tracestate key", state_key, (256, None), (257, "ValueError")),
    ("characters of a tracestate value", state_value, (256, None), (257, "ValueError")),
    ("characters of a tracestate", state_text, (16447, None), (16448, "FormatError")),
    ("labels", label_count, (64, (64, 0)), (65, (64, 1))),
    ("octets of labels", label_bytes, (8192, (1, 0)), (8193, (0, 1))),
    ("octets of labels that are parsed", label_bytes_parsed, (8192, (1, 0)), (8193, (0, 1))),
    ("spans in the buffer", spans_waiting, (16384, 0), (16385, 1)),
    ("spans in the buffer, buffer_size=", spans_waiting_of_buffer, (10, 0), (11, 1)),
    ("spans of a batch", batches, (2048, [1, 2048]), (2049, [1, 2048, 1])),
    ("spans of a batch, batch_size=", batches_of_size, (3, [1, 3]), (4, [1, 3, 1])),
    ("the least buffer_size", buffer_size, (2, None), (1, "ValueError")),
    ("the largest buffer_size", buffer_size, (1 << 24, None), ((1 << 24) + 1, "ValueError")),
    ("the least batch_size", batch_size, (1, None), (0, "ValueError")),
    ("the largest batch_size", batch_size, (1 << 24, None), ((1 << 24) + 1, "ValueError")),
    ("the longest export_interval_s", export_interval_s, (3600, None), (3600.1, "ValueError")),
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


STORE = [
    ("the least max_bytes", least_bytes, (1 << 20, None), ((1 << 20) - 1, "ValueError")),
    ("characters of a stored name", stored_name, (4096, 4096), (4097, 4096)),
    ("characters of a stored description", stored_description, (4096, 4096), (4097, 4096)),
    ("octets of a stored span", stored_attributes, (28_000, (True, 0)), (36_000, (False, 9))),
]


@pytest.mark.parametrize(("probe", "at", "beyond"), [row[1:] for row in STORE], ids=[row[0] for row in STORE])
def test_the_limit_of_the_sqlite_file_is_as_documented(tmp_path, probe, at, beyond):
    assert (probe(tmp_path, at[0]), probe(tmp_path, beyond[0])) == (at[1], beyond[1])


def test_the_limits_of_a_span_have_their_documented_defaults():
    assert tracekit.Limits()._asdict() == {
        "attributes": 128,
        "events": 128,
        "links": 128,
        "value_length": 4096,
        "stack_length": 16384,
    }
