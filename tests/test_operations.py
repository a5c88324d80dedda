"""docs/OPERATIONS.md: each row of "what is lost when" names its tests here, and the ends of a process are tested here."""

from __future__ import annotations

import ast
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from .exporters.collector import Collector, Silence, refuse, take

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/OPERATIONS.md"

# The beginning of each row, and the tests that show it; "faults: ..." is a row of ``python -m tests.faults``.
SHOWN = {
    "the buffer (16,384 spans) is full": [
        "test_pipeline_exporters.py::test_a_full_buffer_drops_the_newest_spans_and_is_reported_once",
        "test_pipeline_exporters.py::test_while_the_exporter_hangs_the_program_goes_on_and_the_buffer_is_bounded",
    ],
    "the collector is away, hangs, or answers 429": [
        "exporters/test_otlp.py::test_a_busy_collector_is_asked_again",
        "exporters/test_otlp.py::test_the_wait_for_a_silent_collector_is_bounded",
        "test_operations.py::test_a_collector_that_takes_nothing_costs_the_requests_left_of_the_batch",
        "faults: the collector is away for",
        "faults: the collector never answers",
    ],
    "the same with a spool | nothing: the batch waits on disk": [
        "exporters/test_otlp.py::test_while_the_collector_is_away_spans_wait_in_the_spool",
        "faults: the collector is away for",
    ],
    "the collector never takes one batch but takes others": [
        "exporters/test_otlp_requests.py::test_a_request_that_always_fails_does_not_lose_the_others",
        "faults: batches, the first of which is always answered 503",
    ],
    "the same with a spool | nothing: after 32 failures": [
        "exporters/test_spool.py::test_a_batch_that_always_fails_is_set_aside",
        "exporters/test_spool.py::test_the_next_process_tries_batches_that_were_set_aside_once_more",
        "faults: batches, the first of which is always answered 503",
    ],
    "the collector rejects a batch for good": [
        "exporters/test_otlp.py::test_a_rejected_batch_is_dropped_at_once",
        "exporters/test_otlp.py::test_a_rejected_request_does_not_lose_the_rest_of_the_batch",
        "exporters/test_otlp.py::test_a_rejected_batch_does_not_delay_the_others",
    ],
    "a request is too large for the collector": [
        "exporters/test_otlp_requests.py::test_a_request_that_is_too_large_is_halved_until_it_is_taken",
        "exporters/test_otlp_requests.py::test_a_span_that_is_too_large_alone_is_counted_and_the_others_are_sent",
        "faults: batches, and 413 for what is larger",
    ],
    "the collector takes a batch but for some spans": [
        "exporters/test_otlp.py::test_rejected_spans_are_counted_reported_once_and_not_sent_again",
    ],
    "the collector answers 204": [
        "exporters/test_otlp_hostile.py::test_an_empty_answer_is_success",
        "exporters/test_otlp_hostile.py::test_with_a_spool_an_empty_answer_empties_it",
        "faults: batches are answered 204",
    ],
    "a span cannot be encoded, stored or written": [
        "exporters/test_otlp_requests.py::test_a_span_that_cannot_be_encoded_does_not_lose_its_batch",
        "exporters/test_files.py::test_a_span_that_cannot_be_stored_does_not_lose_its_batch",
        "exporters/test_console.py::test_a_span_that_cannot_be_written_does_not_lose_its_tree",
    ],
    "the spool is full": [
        "exporters/test_otlp.py::test_a_full_spool_is_reported_once",
        "exporters/test_outbox.py::test_beyond_the_bound_the_oldest_batches_are_evicted_and_counted",
        "faults: and the spool has 1 MiB",
    ],
    "the spool cannot be used": [
        "exporters/test_spool.py::test_while_the_spool_cannot_be_used_spans_are_sent_directly",
        "exporters/test_spool.py::test_on_a_full_disk_spans_are_sent_directly",
        "exporters/test_spool.py::test_spans_that_neither_spool_nor_collector_accepts_are_counted",
        "exporters/test_files.py::test_a_file_whose_tables_are_not_tracekits_is_not_used",
    ],
    "the spool is damaged": [
        "exporters/test_spool.py::test_a_damaged_spool_is_renamed_and_replaced",
        "faults: the spool is overwritten",
    ],
    "the store (`SQLiteExporter`) cannot be used": [
        "exporters/test_sqlite.py::test_a_failure_names_cause_file_and_remedy_and_ends_with_its_cause",
        "exporters/test_sqlite.py::test_a_full_disk_only_loses_spans_that_do_not_fit",
    ],
    "the process ends: the program returns": [
        "test_operations.py::test_a_process_that_ends_loses_no_span_that_has_ended",
    ],
    "the same while the collector is away": [
        "test_operations.py::test_a_process_that_ends_tries_each_request_once",
        "test_pipeline_exporters.py::test_spans_in_the_hands_of_an_exporter_that_hangs_at_the_end_are_reported",
    ],
    "the same with a spool | nothing: it is emptied for 3 s": [
        "test_operations.py::test_with_a_spool_the_next_process_sends_what_this_one_could_not",
        "exporters/test_otlp.py::test_closing_an_exporter_with_a_spool_waits_for_a_silent_collector_for_a_bounded_time",
    ],
    "`configure()` or `shutdown()` while the exporter hangs": [
        "test_pipeline_exporters.py::test_spans_in_the_hands_of_an_exporter_that_hangs_at_the_end_are_reported",
        "test_pipeline_exporters.py::test_a_new_exporter_takes_over_from_one_that_hangs",
        "test_pipeline_exporters.py::test_a_shutdown_does_not_wait_for_ever",
    ],
    "SIGTERM or SIGHUP ends the process": [
        "test_signals.py::test_without_it_the_default_action_loses_spans",
        "test_signals.py::test_with_it_spans_are_exported_and_the_exit_status_names_the_signal",
        "faults: SIGTERM under",
    ],
    "the process is killed": [
        "test_operations.py::test_a_process_that_is_killed_loses_its_buffer_and_nothing_else",
        "faults: SIGKILL at",
    ],
    "either of the two while the collector hangs": [
        "test_operations.py::test_a_process_that_is_killed_while_the_collector_hangs_loses_all_since_the_last_batch",
    ],
    "the machine loses power": ["test_operations.py::test_a_spool_that_lost_the_end_of_its_log_is_not_damaged"],
}


def rows():
    """Return the rows of the table, without its head."""
    table = PAGE.read_text(encoding="utf-8").split("| event |")[1].split("\n\n")[0].splitlines()
    return [line.removeprefix("| ") for line in table[2:]]


def test_every_row_of_the_table_has_tests_and_every_test_is_there():
    assert [[key for key in SHOWN if row.startswith(key)] for row in rows()] == [[key] for key in SHOWN]
    faults = (TESTS / "faults.py").read_text(encoding="utf-8") + (TESTS / "faults_sigterm.py").read_text(
        encoding="utf-8"
    )
    for name in itertools.chain(*SHOWN.values()):
        file, _, test = name.partition("::")
        if not test:
            assert file.removeprefix("faults: ") in faults
        else:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name


def test_the_printed_rows_of_faults_are_those_of_the_page():
    page = PAGE.read_text(encoding="utf-8")
    for name in itertools.chain(*SHOWN.values()):
        if name.startswith("faults: "):
            assert re.search(rf"^\| .*{re.escape(name.removeprefix('faults: '))}", page, re.MULTILINE), name


@pytest.mark.parametrize("answer", [refuse(503), refuse(429), Silence()], ids=["503", "429", "hangs"])
def test_a_collector_that_takes_nothing_costs_the_requests_left_of_the_batch(answer, caplog):
    def take_the_first(*request):
        exporter._client.timeout_s = exporter.timeout_s = 0.2  # for the others: this one is not small
        take(*request)

    with Collector() as collector:
        collector.answers = itertools.chain([take_the_first], itertools.repeat(answer))
        exporter = OTLPExporter(collector.url, environ={})
        tracekit.configure(exporter=exporter, export_interval_s=60, environ={})
        before = tracekit.statistics()
        for number in range(1000):
            tracekit.span(f"{number}", attributes={"text": "x" * 4000, "more": ["x" * 4000] * 2}).end()
        assert tracekit.flush(20)
        now = tracekit.statistics()
        arrived = len(collector.names)
        if isinstance(answer, Silence):
            answer.over.set()
        assert 0 < arrived < 1000
        assert (now.exported - before.exported, now.failed - before.failed) == (arrived, 1000 - arrived)
        assert len(caplog.messages) == 1
        tracekit.configure(environ={})


PROGRAM = """
import os, signal, sys, time
import tracekit
from tracekit.exporters.otlp import OTLPExporter

url, spool, interval_s = sys.argv[1:]
exporter = OTLPExporter(url, environ={}, spool=spool or None)
tracekit.configure(exporter=exporter, environ={}, export_interval_s=float(interval_s))
for number in range(10):
    tracekit.span(f"{number}").end()
tracekit.span("open").__enter__()
"""


def run(end, url, spool="", interval_s=3600):
    """Run ``PROGRAM`` and *end*; return its exit status and what it wrote to stderr."""
    command = [sys.executable, "-c", PROGRAM + end, url, str(spool), str(interval_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


TEN = {f"{number}": 1 for number in range(10)}
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork() of POSIX")


@posix
@pytest.mark.slow
@pytest.mark.one_form
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("1 / 0", 1),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(20)", -signal.SIGINT),
        (
            "import multiprocessing as m; p = m.get_context('fork').Process(target=lambda: tracekit.span('x').end());"
            " p.start(); p.join()",
            0,
        ),
    ],
    ids=["returns", "sys.exit", "raises", "SIGINT", "multiprocessing"],
)
def test_a_process_that_ends_loses_no_span_that_has_ended(end, status):
    with Collector() as collector:
        assert run(end, collector.url)[0] == status
    assert collector.names == ({**TEN, "x": 1} if "'x'" in end else TEN)


@pytest.mark.slow
@pytest.mark.one_form
def test_a_process_that_ends_tries_each_request_once():
    with Collector() as collector:
        collector.answers = itertools.repeat(refuse(503))
        status, said = run("", collector.url)
    assert status == 0
    assert "10 spans lost" in said
    assert len(collector.headers) == 1


@pytest.mark.slow
@pytest.mark.one_form
def test_with_a_spool_the_next_process_sends_what_this_one_could_not(tmp_path):
    spool = tmp_path / "spool.db"
    with Collector() as collector:
        collector.answers = itertools.repeat(refuse(503))
        assert run("", collector.url, spool)[0] == 0
    assert not collector.names
    with Collector() as collector:
        exporter = OTLPExporter(collector.url, environ={}, spool=spool)
        assert exporter.flush(20)
        exporter.shutdown()
    assert collector.names == TEN


@posix
@pytest.mark.slow
@pytest.mark.one_form
@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os._exit(0)",
        "os.abort()",
        "os.execl(sys.executable, sys.executable, '-c', '')",
    ],
)
def test_a_process_that_is_killed_loses_its_buffer_and_nothing_else(end, tmp_path):
    with Collector() as collector:
        run("tracekit.flush(20); tracekit.span('late').end(); " + end, collector.url, tmp_path / "spool.db")
        exporter = OTLPExporter(collector.url, environ={}, spool=tmp_path / "spool.db")
        assert exporter.ledger()[:2] == (10, 10)
        exporter.shutdown()
    assert collector.names == TEN


@pytest.mark.slow
@pytest.mark.one_form
def test_a_process_that_is_killed_while_the_collector_hangs_loses_all_since_the_last_batch():
    silence = Silence()
    with Collector() as collector:
        collector.answers = itertools.repeat(silence)
        command = [sys.executable, "-c", PROGRAM + "time.sleep(60)", collector.url, "", "0.01"]
        process = subprocess.Popen(command)
        assert silence.entered.wait(20)
        process.kill()
        process.wait()
        collector.answers = iter(())
        silence.over.set()
    assert not collector.names


def test_a_spool_that_lost_the_end_of_its_log_is_not_damaged(tmp_path):
    """A power failure takes the end of SQLite's log, which no fsync() wrote."""
    path, after = tmp_path / "spool.db", tmp_path / "after.db"
    with Collector() as collector:
        collector.answers = itertools.repeat(refuse(503))
        exporter = OTLPExporter(collector.url, environ={}, spool=path)
        logging.disable(logging.WARNING)
        for number in range(20):
            span = tracekit.span(f"{number}", attributes={"text": "x" * 4000})
            span.end()
            exporter.export([span])
        logging.disable(logging.NOTSET)
        log = Path(f"{path}-wal").read_bytes()
        after.write_bytes(path.read_bytes())
        Path(f"{after}-wal").write_bytes(log[: len(log) // 2])
        exporter.shutdown()
    with Collector() as collector:
        exporter = OTLPExporter(collector.url, environ={}, spool=after)
        assert exporter.flush(20)
        ledger = exporter.ledger()
        exporter.shutdown()
    assert 0 < ledger.put < 20
    assert ledger.put == ledger.sent + ledger.waiting
    assert ledger.waiting <= 1, "one batch may be held until the lease ends of the process that the failure stopped"
    assert ledger.sent == len(collector.names)
    assert not os.path.exists(f"{after}.damaged")
