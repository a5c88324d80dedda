"""Documented limits whose tests need a collector, a server or patience, a row each.

A row has the words of the page or the docstring, the constant that holds the number, and the test that shows the bound,
mostly with a smaller number. The limits of test_limits.py are probed there.
"""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path

import pytest

from tracekit._export.notices import Notices
from tracekit.exporters._otlp import answers, sender
from tracekit.exporters._otlp.answers import Answer

REPOSITORY = Path(__file__).parent.parent
MIB = 1 << 20

# The file, its words, where the number is (module:name, or module:function(parameter); "" where the test shows it), the
# number there, and the test.
LIMITS = [
    # ---- export
    (
        "docs/OPERATIONS.md",
        "doubles up to 60 s",
        "exporters._otlp.answers:LONGEST_S",
        60,
        "exporters/test_otlp.py::waits_grow_and_are_never_alike",
    ),
    (
        "docs/OPERATIONS.md",
        "from 1 s up to 10 minutes",
        "exporters._otlp.sender:_LONGEST_OF_A_BATCH_S",
        600,
        "exporters/test_spool.py::waits_of_a_batch_grow_and_differ",
    ),
    (
        "docs/OPERATIONS.md",
        "`Retry-After`, up to 600 s",
        "exporters._otlp.http:MAX_RETRY_AFTER_S",
        600,
        "exporters/test_otlp.py::retry_after_is_bounded",
    ),
    (
        "docs/OPERATIONS.md",
        "At most 128 KiB of an answer",
        "",
        None,
        "exporters/test_otlp.py::an_answer_that_is_too_large_is_not_read",
    ),
    (
        "docs/OPERATIONS.md",
        "Requests have at most 4 MiB",
        "exporters._otlp.requests:MAX_REQUEST_BYTES",
        4 * MIB,
        "exporters/test_otlp_requests.py::requests_stay_below_4_mib",
    ),
    (
        "docs/OPERATIONS.md",
        "at most 1/8 of `spool_bytes`",
        "",
        None,
        "exporters/test_outbox.py::a_batch_that_is_too_large_is_rejected_and_evicts_none",
    ),
    (
        "docs/OPERATIONS.md",
        "the spool is full (256 MiB)",
        "exporters.otlp:OTLPExporter(spool_bytes)",
        256 * MIB,
        "exporters/test_outbox.py::beyond_the_bound_the_oldest_batches_are_evicted_and_counted",
    ),
    (
        "docs/OPERATIONS.md",
        "after 32 failures",
        "exporters._otlp.outbox:MAX_FAILURES",
        32,
        "exporters/test_spool.py::a_batch_that_always_fails_is_set_aside",
    ),
    (
        "docs/OPERATIONS.md",
        "it is emptied for 3 s",
        "exporters.otlp:FAREWELL_S",
        3,
        "exporters/test_otlp.py::closing_an_exporter_with_a_spool_waits_for_a_silent_collector_for_a_bounded_time",
    ),
    (
        "tracekit/_export/notices.py",
        "at most 64 of them",
        "_export.notices:_CAUSES",
        64,
        "test_pipeline_exporters.py::many_different_causes_do_not_fill_the_log",
    ),
    # ---- the end of a program
    (
        "docs/OPERATIONS.md",
        "exported at exit, for 5 s",
        "_configure:_TIMEOUT_S",
        5,
        "test_tracer.py::at_exit_a_hanging_exporter_is_left_behind",
    ),
    (
        "docs/OPERATIONS.md",
        "off the event loop",
        "integrations._lifespan:FLUSH_S",
        3,
        "integrations/test_lifespan.py::the_loop_runs_while_a_collector_hangs_and_the_flush_is_bounded",
    ),
    (
        "docs/OPERATIONS.md",
        "The handler exports for at most 5 s",
        "_signals:flush_on_signal(timeout_s)",
        5,
        "test_signals.py::the_timeout_bounds_the_flush_if_a_collector_hangs",
    ),
    (
        "tracekit/cli/run.py",
        "an export of at most 2 s",
        "_instrument:_FLUSH_S",
        2,
        "test_signals.py::the_timeout_bounds_the_flush_if_a_collector_hangs",
    ),
    # ---- logs and metrics
    (
        "docs/logging.md",
        "cut at 16,384 characters",
        "exporters.otlp_logs:_MAX_BODY",
        16384,
        "exporters/test_otlp_logs.py::texts_and_attributes_are_bounded",
    ),
    (
        "docs/logging.md",
        "sends the rest for at most 3 s",
        "exporters.otlp_logs:_FAREWELL_S",
        3,
        "exporters/test_otlp_logs.py::the_end_of_the_program_sends_the_rest",
    ),
    (
        "tracekit/metrics.py",
        "for at most 3 s, and close",
        "metrics:_FAREWELL_S",
        3,
        "test_metrics.py::a_collector_that_is_away_costs_no_span",
    ),
    (
        "docs/metrics.md",
        "at most `max_series=2000` series",
        "metrics:RedMetrics(max_series)",
        2000,
        "test_metrics.py::series_beyond_the_limit_are_counted_in_one",
    ),
    (
        "docs/metrics.md",
        "cut at 256 characters",
        "_metrics.instruments:_MAX_VALUE",
        256,
        "test_metrics.py::values_of_series_are_bounded",
    ),
    (
        "docs/metrics.md",
        '`buckets="exponential"` at most 160',
        "_metrics.histograms:MAX_BUCKETS",
        160,
        "test_metrics.py::any_duration_fits_into_the_buckets",
    ),
    # ---- sampling
    (
        "docs/sampling.md",
        "At most `max_spans` (20,000) spans are held",
        "exporters.tail:TailSampler(max_spans)",
        20_000,
        "exporters/test_tail.py::beyond_max_spans_the_oldest_group_is_decided_early",
    ),
    (
        "docs/sampling.md",
        "for at most `max_wait_s` (30)",
        "exporters.tail:TailSampler(max_wait_s)",
        30,
        "exporters/test_tail.py::beyond_max_wait_a_trace_is_decided_at_the_next_call",
    ),
    # ---- integrations
    (
        "docs/integrations.md",
        "up to 8 values",
        "integrations._extras:_MAX_VALUES",
        8,
        "integrations/test_extras.py::a_bomb_of_headers_is_bounded",
    ),
    (
        "docs/integrations.md",
        "values of 1024 characters each",
        "integrations._redaction:MAX_TEXT",
        1024,
        "integrations/test_extras.py::a_bomb_of_headers_is_bounded",
    ),
    (
        "docs/integrations.md",
        "of the first 8192 characters",
        "integrations._sql:MAX_QUERY",
        8192,
        "integrations/test_sql.py::the_work_is_bounded_for_statements_of_10_mb",
    ),
    (
        "tracekit/integrations/asgi.py",
        "the kind of up to 8 errors",
        "integrations._asgi_frameworks:_MAX_ERRORS",
        8,
        "integrations/test_asgi_instrument.py::errors_of_any_shape_are_raised_unchanged",
    ),
    # ---- the viewer and the live pages
    (
        "docs/ui.md",
        "A request has at most 20 MiB",
        "ui.store:MAX_REQUEST_BYTES",
        20 * MIB,
        "ui/test_receiver.py::a_body_without_length_that_becomes_too_large_is_not_read_to_its_end",
    ),
    (
        "docs/ui.md",
        "60 MiB of requests wait",
        "ui.store:_MAX_WAITING_BYTES",
        60 * MIB,
        "ui/test_receiver.py::requests_past_the_memory_bound_are_to_be_repeated",
    ),
    (
        "docs/ui.md",
        "the first 50,000 spans of a trace",
        "ui.queries:MAX_SPANS",
        50_000,
        "ui/test_pages.py::the_first_spans_of_a_large_trace_and_the_newest_of_the_store_are_shown",
    ),
    (
        "docs/ui.md",
        "a map of the newest 20,000 spans",
        "ui.queries:_MAP_SPANS",
        20_000,
        "ui/test_pages.py::the_first_spans_of_a_large_trace_and_the_newest_of_the_store_are_shown",
    ),
    (
        "docs/live.md",
        "the 20 oldest open ones",
        "debug._requests:_SHOWN",
        20,
        "debug/test_recorder.py::open_requests_are_counted_and_shown_oldest_of_all_newest_first",
    ),
    (
        "docs/live.md",
        "the last 10 traces of each column",
        "",
        None,
        "debug/test_recorder.py::samples_that_leave_their_ring_are_not_counted_any_more",
    ),
    (
        "docs/live.md",
        "at most one file in `min_interval_s` (60)",
        "exporters.flight:FlightRecorder(min_interval_s)",
        60,
        "exporters/test_flight.py::files_without_a_request_for_them_are_limited_in_rate",
    ),
    (
        "docs/live.md",
        "of `max_files` (10) the oldest is deleted",
        "exporters.flight:FlightRecorder(max_files)",
        10,
        "exporters/test_flight.py::old_files_are_deleted_and_others_are_not",
    ),
    (
        "docs/tasks.md",
        "At most 10,000 tasks",
        "aio._tasks:_LIMIT",
        10_000,
        "aio/test_tasks.py::many_tasks_are_cut_at_the_limit",
    ),
    (
        "tracekit/_event_logs.py",
        "At most 10,000 logs are listed",
        "_event_logs:_MAX_LOGS",
        10_000,
        "debug/test_event_logs.py::logs_are_bounded_in_number",
    ),
    (
        "tracekit/debug/_view.py",
        "the first of each name, at most 32",
        "debug._respond:_MAX_ARGUMENTS",
        32,
        "debug/test_access.py::paths_and_arguments",
    ),
    # ---- wire formats and the command line; wire/test_limits.py has the fields of each format
    (
        "docs/wire.md",
        "at most 64 KiB of trace headers",
        "_core.carriers_plain:MAX_FIELD_CHARS",
        65536,
        "test_propagation.py::more_than_64_kib_of_fields_are_not_parsed",
    ),
    (
        "docs/wire.md",
        "standard input, up to 16 MiB",
        "cli.header.dumps:MAX_BYTES",
        16 * MIB,
        "test_header.py::hostile_bytes_on_standard_input_are_no_traceback",
    ),
]


@pytest.mark.one_form
@pytest.mark.parametrize(("file", "words", "place", "number", "test"), LIMITS, ids=[row[1] for row in LIMITS])
def test_the_documented_number_is_the_one_in_use_and_has_a_test(file, words, place, number, test):
    assert words in " ".join((REPOSITORY / file).read_text(encoding="utf-8").split())
    tests, _, name = test.partition("::")
    assert f"def test_{name}(" in (REPOSITORY / "tests" / tests).read_text(encoding="utf-8")
    if place:
        module, _, rest = place.partition(":")
        name, _, parameter = rest.rstrip(")").partition("(")
        found = getattr(importlib.import_module(f"tracekit.{module}"), name)
        assert (inspect.signature(found).parameters[parameter].default if parameter else found) == number


@pytest.mark.one_form
@pytest.mark.parametrize(("failures", "seconds"), [(5, 32), (6, 60), (40, 60)])
def test_a_back_off_doubles_up_to_a_minute(failures, seconds, monkeypatch):
    monkeypatch.setattr(answers, "_FIRST_S", 1.0)
    monkeypatch.setattr(os, "urandom", b"\xff".__mul__)  # the longest jitter
    assert round(answers.backoff_s(failures), 2) == seconds


class Failing:
    """An outbox whose batch has failed *failures* times already."""

    def __init__(self, failures):
        self.id, self.failures = 1, failures

    def failed(self, batch, *, delay_s):
        self.delay_s = delay_s
        return False


@pytest.mark.one_form
@pytest.mark.parametrize(("failures", "seconds"), [(9, 512), (10, 600), (40, 600)])
def test_the_wait_of_a_batch_doubles_up_to_ten_minutes(failures, seconds, monkeypatch):
    monkeypatch.setattr(answers, "_FIRST_S", 1.0)
    monkeypatch.setattr(os, "urandom", b"\xff".__mul__)
    outbox = Failing(failures)
    sender.Sender(outbox, None, None, Notices(), lease_s=1.0)._later(outbox, Answer("later", "no"))
    assert round(outbox.delay_s, 2) == seconds
