"""Guards and bounds whose removal no other test noticed: each test here fails without the guard that it names."""

from __future__ import annotations

import contextvars
import gc
import threading
import weakref

import pytest

import tracekit
from tracekit import _configure, _resource
from tracekit._core import misuse
from tracekit._core.span import set_clock
from tracekit.bridges.opentracing import _read_binary as read_binary
from tracekit.exporters._otlp.http import _retry_after
from tracekit.integrations._forced import Forced
from tracekit.integrations._redaction import Redaction
from tracekit.testing import MemoryExporter

MAX_NS = (1 << 63) - 1


# ---- scopes


def test_a_generator_that_closes_a_scope_of_its_consumer_leaves_the_scopes_of_its_creator(exporter):
    """``_rebuild()`` stops at a scope that another Context opened: it must not replace that scope's parent."""
    outer = tracekit.span("outer")
    outer.__enter__()
    base = tracekit.use_labels(of="consumer")
    base.__enter__()
    seen = {}

    @tracekit.traced
    def body():
        yield
        base.__exit__(None, None, None)  # the consumer's, and not in the chain of this body
        yield

    def create():
        seen["span"] = tracekit.span("creator")
        seen["span"].__enter__()
        seen["body"] = body()
        next(seen["body"])

    def close():
        seen["body"].close()
        seen["span"].__exit__(None, None, None)
        return tracekit.current_context().labels

    creator = contextvars.copy_context()
    creator.run(create)
    next(seen["body"])
    assert not tracekit.current_context().labels
    assert dict(creator.run(close)) == {"of": "consumer"}, "inherited, so it stays the creator's parent"
    outer.__exit__(None, None, None)


def test_labels_opened_task_in_task_keep_no_chain_of_closed_scopes():
    """Labels refer to the nearest scope that is not labels, and a closed scope drops the scope that it stood on."""

    def open_and_copy(depth):
        with tracekit.use_labels(guarded=depth):
            return contextvars.copy_context()

    with tracekit.span("root") as root:
        context = contextvars.copy_context()
        for depth in range(10):
            context = context.run(open_and_copy, str(depth))
        gc.collect()
        alive = [labels for labels in gc.get_objects() if type(labels) is tracekit.Labels and "guarded" in labels]
        assert [labels["guarded"] for labels in alive] == ["9"], "the labels that the last Context inherited"
        assert context.run(tracekit.current_span) is root
        assert context.run(tracekit.current_context).labels is alive[0]


def test_a_task_spawned_after_a_close_inherits_no_closed_span_under_labels(exporter):
    """Closing a scope above labels takes out what another Context has closed under them, before a task copies that."""

    def spawn():
        outer = tracekit.span("outer")
        outer.__enter__()
        tracekit.use_labels(plan="pro").__enter__()
        inner = tracekit.span("inner")
        inner.__enter__()
        contextvars.copy_context().run(outer.__exit__, None, None, None)
        inner.__exit__(None, None, None)
        return contextvars.copy_context()

    child = contextvars.copy_context().run(spawn)
    assert child.run(tracekit.current_span) is None
    assert child.run(tracekit.current_context).labels == {"plan": "pro"}


@pytest.mark.skipif(
    tracekit.IMPLEMENTATION == "plain", reason="the plain form refers to a Context by a Token, which keeps it"
)
def test_a_scope_closed_after_its_context_is_gone_keeps_nothing_under_it(exporter):
    def open_two():
        outer, inner = tracekit.span("outer"), tracekit.span("inner")
        outer.__enter__()
        return weakref.ref(outer), inner.__enter__(), contextvars.copy_context()

    outer, inner, child = contextvars.copy_context().run(open_two)
    assert outer() is not None, "under a scope that another Context has inherited"
    inner.__exit__(None, None, None)
    gc.collect()
    assert outer() is None
    assert child.run(tracekit.current_context) == inner.context
    assert {span.name: span.status.code for span in exporter.spans} == {"inner": "unset", "outer": "cancelled"}


# ---- spans


@pytest.mark.parametrize(
    ("given", "recorded"), [(-1, 0), (-(1 << 70), 0), (0, 0), (MAX_NS, MAX_NS), (MAX_NS + 1, MAX_NS), (1 << 70, MAX_NS)]
)
def test_times_beyond_64_bits_become_the_nearest_that_fits(exporter, given, recorded):
    span = tracekit.span("job", start_ns=given)
    span.add_event("event", time_ns=given)
    span.end(end_ns=given)
    assert (span.start_ns, span.events[0].time_ns, span.end_ns) == (recorded, recorded, recorded)


@pytest.mark.parametrize(("given", "recorded"), [(-1, 0), (1 << 70, MAX_NS)])
def test_a_clock_beyond_64_bits_is_read_as_the_nearest_time_that_fits(exporter, given, recorded):
    set_clock(lambda: given)
    try:
        with tracekit.span("job") as span:
            span.add_event("event")
    finally:
        set_clock(None)
    assert (span.start_ns, span.events[0].time_ns, span.end_ns) == (recorded, recorded, recorded)


def test_a_time_is_recorded_as_a_plain_int(exporter):
    class Time(int):
        pass

    span = tracekit.span("job", start_ns=Time(5))
    span.end(end_ns=Time(6))
    assert [type(time) for time in (span.start_ns, span.end_ns)] == [int, int]


# ---- the pipeline


class Hanging:
    """An exporter that hangs in ``export()`` until ``release`` is set, and may raise then."""

    def __init__(self, error=None):
        self.entered, self.release = threading.Event(), threading.Event()
        self.error = error

    def export(self, spans):
        self.entered.set()
        assert self.release.wait(20)
        if self.error is not None:
            raise self.error

    def shutdown(self):
        raise AssertionError("given up before")


@pytest.mark.parametrize("error", [None, ValueError("too late")], ids=["exports", "fails"])
def test_a_batch_of_an_exporter_that_was_given_up_is_accounted_once(caplog, error):
    exporter = Hanging(error)
    threads = set(threading.enumerate())
    tracekit.configure(exporter=exporter, export_interval_s=0.01)
    tracekit.span("job").end()
    assert exporter.entered.wait(20)
    (thread,) = set(threading.enumerate()) - threads
    failed = tracekit.statistics().failed
    worker = _configure._pipeline._worker
    assert not tracekit.shutdown(0.01)
    assert tracekit.statistics().failed == failed + 1
    statistics, counts = tracekit.statistics(), worker.counts
    exporter.release.set()
    thread.join(20)
    assert not thread.is_alive()
    assert tracekit.statistics() == statistics
    assert worker.counts == counts, "which statistics() may be about to add"
    lost, *reasons = [record.getMessage() for record in caplog.records]
    assert lost == "Hanging was closed before it had delivered 1 span: lost"
    assert len(reasons) == (0 if error is None else 1), "the reason is reported once"


# ---- attributes


@pytest.mark.parametrize("call", ["add_event", "add_link"])
def test_a_finalizer_that_changes_a_dict_while_it_is_copied_costs_nothing(call, exporter):
    """``_clean()`` copies the dict in one step: CPython 3.11 may collect garbage while it makes a list of the items."""

    class Grows:
        def __init__(self, values):
            self.itself, self.values = self, values

        def __del__(self):
            self.values["late"] = 1

    before = gc.get_threshold()
    span = tracekit.span("span")
    for threshold in range(2, 150, 3):  # at any step
        values = {f"key {number}": number for number in range(100)}
        gc.collect()
        gc.disable()
        try:
            Grows(values)
            gc.set_threshold(threshold)
            gc.enable()
            if call == "add_event":
                span.add_event("event", values)
            else:
                span.add_link(tracekit.SpanContext("a" * 32, "b" * 16), values)
        finally:
            gc.enable()
            gc.set_threshold(*before)
    span.end()
    items = span.events if call == "add_event" else span.links
    assert {len(item.attributes) for item in items} <= {100, 101}


# ---- files, headers and clocks


@pytest.mark.one_form
def test_a_file_of_the_system_is_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(_resource, "_MAX_FILE", 10)
    (tmp_path / "cgroup").write_text("x" * 100)
    assert _resource._read(str(tmp_path / "cgroup")) == "x" * 10


@pytest.mark.one_form
@pytest.mark.parametrize("value", ["\xb2", "\u0663"])  # digits to str.isdigit(), but not to float() or not in HTTP
def test_only_ascii_digits_are_seconds_of_a_retry_after(value):
    assert _retry_after(value) is None


@pytest.mark.one_form
def test_the_end_of_a_long_name_decides_whether_it_is_secret():
    """A name of any length costs the same: its last 256 characters are examined."""
    assert Redaction().is_secret("secret" + "x" * 250)
    assert not Redaction().is_secret("secret" + "x" * 251)
    assert Redaction().is_secret("x" * 10_000 + "_password")


def test_a_clock_that_goes_back_takes_no_tokens_from_forced_traces():
    """Threads read the clock and change the bucket in different orders."""
    now_s = [100.0]
    forced = Forced(10, clock=lambda: now_s[0])
    tracekit.configure(exporter=MemoryExporter(), sampler=tracekit.AlwaysOff())
    caller = tracekit.SpanContext("1" * 32, "2" * 16, 1, is_remote=True)
    for now_s[0] in (100.0, 99.0):
        assert forced.admit(_configure.tracer_in_use(), caller, "GET", {}).sampled


# ---- misuse and carriers


@pytest.mark.one_form
def test_call_sites_of_misuse_are_remembered_up_to_a_bound(monkeypatch):
    """Code that is generated at run time has any number of lines; each error is counted, but not each is kept."""
    monkeypatch.setattr(misuse, "_strict", False)
    monkeypatch.setattr(misuse, "_seen", set())
    count = misuse.count()
    code = "misused(TypeError('wrong'))\n" * 1100
    exec(compile(code, "generated.py", "exec"), {"misused": misuse.misused})
    assert (misuse.count() - count, len(misuse._seen)) == (1100, 1000)


@pytest.mark.one_form
def test_a_binary_carrier_of_opentracing_is_read_up_to_64_kib():
    header = b"traceparent:00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01\n"
    assert read_binary(header + b"x" * ((1 << 16) - len(header))).trace_id == "1" * 32
    assert read_binary(header + b"x" * ((1 << 16) - len(header) + 1)) is None
