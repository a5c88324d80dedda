"""Event logs: lazy formatting, the middle dropped, errors by age, and safety from arguments and misuse."""

import gc
import sys
import threading

import pytest

import tracekit
from tracekit import _event_logs
from tracekit._event_logs import open_logs

from .test_recorder import page


def lines(log):
    (shown,) = page("events", f"fam={log.family}&exp=1")["logs"]
    return [entry["text"] for entry in shown["entries"]]


def test_lines_are_formatted_when_a_page_is_drawn():
    class Lazy:
        texts = 0

        def __str__(self):
            Lazy.texts += 1
            return "lazy"

    with tracekit.event_log("lazy", "title") as log:
        log.printf("%s is %d%%", Lazy(), 5)
        assert Lazy.texts == 0
        assert lines(log) == ["lazy is 5%"]
        log.printf("100% as it is")
        assert lines(log)[1] == "100% as it is"


def test_a_log_keeps_its_first_and_last_lines():
    with tracekit.event_log("long", "title") as log:
        for number in range(1000):
            log.printf("line %d", number)
        assert lines(log) == [f"line {number}" for number in [*range(49), *range(950, 1000)]]
        assert log.discarded == 901
        text = page("events", "fam=long&exp=1", "text")
        assert "(901 events discarded)" in text


def test_the_lines_of_several_threads_are_all_counted():
    log = tracekit.event_log("f", "t")
    start = threading.Barrier(4)

    def write():
        start.wait()
        for number in range(2000):
            log.errorf("%d", number)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head, tail = log.entries()
    assert (log.errors, log.discarded, len(head), len(tail)) == (8000, 7901, 49, 50)


def test_errors_are_counted_by_their_age(monkeypatch):
    now = 0
    monkeypatch.setattr(_event_logs.time, "time_ns", lambda: now)
    with tracekit.event_log("aged", "one") as log, tracekit.event_log("aged", "two"):
        log.errorf("broken %s", "pipe")
        counts = {}
        for seconds in (9, 10, 60, 600, 3600, 36_000):
            now = seconds * 10**9
            (row,) = [row for row in page("events")["families"] if row["family"] == "aged"]
            counts[seconds] = list(row["errors"].values())
            assert row["logs"] == 2
        now = 60 * 10**9
        found = [[log["title"] for log in page("events", f"fam=aged&b={b}")["logs"]] for b in (0, 2, 3)]
    assert counts == {
        9: [1, 1, 1, 1, 1],
        10: [0, 1, 1, 1, 1],
        60: [0, 0, 1, 1, 1],
        600: [0, 0, 0, 1, 1],
        3600: [0, 0, 0, 0, 1],
        36_000: [0, 0, 0, 0, 0],
    }
    assert (sorted(found[0]), *found[1:]) == (["one", "two"], [], ["one"])


def test_a_finished_log_leaves_the_page():
    log = tracekit.event_log("finished", "title")
    assert log in open_logs()[0]
    log.finish()
    log.finish()
    log.printf("late")
    assert log not in open_logs()[0]
    assert log.entries() == ([], [])


def test_a_log_that_is_collected_leaves_the_page():
    tracekit.event_log("collected", "title")
    gc.collect()
    assert [log for log in open_logs()[0] if log.family == "collected"] == []


def test_the_page_names_the_maker():
    with tracekit.event_log("made", "title"):
        (log,) = page("events", "fam=made&exp=1")["logs"]
    assert "test_the_page_names_the_maker" in log["stack"][0]


def test_logs_are_bounded_in_number(monkeypatch):
    monkeypatch.setattr(_event_logs, "_MAX_LOGS", len(open_logs()[0]) + 2)
    before = open_logs()[1]
    logs = [tracekit.event_log("many", str(number)) for number in range(5)]
    assert len([log for log in open_logs()[0] if log.family == "many"]) == 2
    assert open_logs()[1] - before == 3
    for log in logs:
        log.finish()


class Hostile:
    def __init__(self, error):
        self.error = error

    def __str__(self):
        raise self.error


@pytest.mark.parametrize(
    ("format", "arguments"),
    [
        ("%s", (Hostile(ValueError()),)),
        ("%s", (Hostile(SystemExit()),)),
        ("%d", ("text",)),
        ("%s %s", ("one",)),
        ("%", ("one",)),
        ("%(name)s", ("one",)),
    ],
)
def test_arguments_that_cannot_be_formatted_cost_their_line(format, arguments):
    with tracekit.event_log("hostile", "title") as log:
        log.printf(format, *arguments)
        (line,) = lines(log)
    assert "formatting failed" in line


def test_misuse_is_reported_and_does_not_raise():
    tracekit.configure(strict=False)
    try:
        log = tracekit.event_log(None, 5)
        log.printf(b"text")
        log.errorf(None)
        assert (log.family, log.title, log.entries()) == ("", "", ([], []))
        log.finish()
    finally:
        tracekit.configure(strict=True)


def test_long_texts_are_cut():
    with tracekit.event_log("f" * 1000, "t" * 1000) as log:
        log.printf("x" * 10_000)
        log.printf("%s", "y" * 10_000)
        assert (len(log.family), len(log.title)) == (200, 200)
        assert [len(entry.text()) for entry in log.entries()[0]] == [4096, 4096]


def test_logs_that_are_made_and_finished_while_they_are_listed_are_no_error():
    kept = [tracekit.event_log("listed", str(number)) for number in range(3)]
    made = []

    def interrupt(frame, event, argument):  # as another thread does between two bytecodes
        sys.settrace(None)
        made.append(tracekit.event_log("listed", "during"))
        tracekit.event_log("listed", "short").finish()
        sys.settrace(interrupt)
        return interrupt

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        logs, _ = open_logs()
    finally:
        sys.settrace(before)
    assert len(made) > 1
    assert [log for log in logs if log in kept] == kept
    for log in (*kept, *made):
        log.finish()
    assert not [log for log in open_logs()[0] if log.family == "listed"]


def test_a_log_that_is_deallocated_leaves_the_list():
    before = len(_event_logs._open)
    log = tracekit.event_log("gone", "title")
    assert len(_event_logs._open) == before + 1
    del log
    gc.collect()
    assert len(_event_logs._open) <= before
