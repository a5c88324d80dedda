"""``flush_on_signal()``: in processes of their own where the signal ends them, and here where it does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import tracekit
from tracekit import _signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself most signals there")

PROGRAM = """
    import os, signal, sys, threading
    import tracekit

    class Printer:
        def export(self, spans):
            print("exported", *[span.name for span in spans], flush=True)

        def shutdown(self):
            print("shut down", flush=True)

    tracekit.configure(exporter=Printer(), export_interval_s=3600, environ={})
"""


def run(program, **options):
    """Run *program*, and return what it printed and how it ended."""
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, **options)
    assert done.stderr == ""
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_without_it_the_default_action_costs_what_was_not_exported(name):
    program = f"""
        tracekit.span("last").end()
        signal.raise_signal(signal.{name})
        """
    assert run(program) == ([], -getattr(signal, name))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_with_it_the_process_exports_and_then_dies_of_the_signal(name):
    program = f"""
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        signal.raise_signal(signal.{name})
        print("never")
        """
    assert run(program) == (["exported last"], -getattr(signal, name))


def test_a_handler_that_leaves_in_order_still_does(tmp_path):
    program = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            tracekit.span("finally").end()
        """
    assert run(program) == (["exported last", "exported finally", "shut down"], 7)


def test_other_signals_and_a_child_of_a_fork():
    program = """
        tracekit.flush_on_signal(signal.SIGUSR1)
        sys.stdout.flush()
        pid = os.fork()
        tracekit.span("parent" if pid else "child").end()
        if pid:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            signal.raise_signal(signal.SIGUSR1)
        else:
            signal.raise_signal(signal.SIGUSR1)
        """
    died = -signal.SIGUSR1
    assert run(program) == (["exported child", str(died), "exported parent"], died)


def test_a_signal_that_arrives_while_another_is_flushed_waits_for_it():
    program = """
        from tracekit import _signals

        def export(spans):
            print("exporting", flush=True)
            os.kill(os.getpid(), signal.SIGHUP)  # in this thread; its handler runs in the main one
            while not _signals._Flush.waiting:
                threading.Event().wait(0.001)
            print("exported", *[span.name for span in spans], flush=True)

        Printer.export = lambda _, spans: export(spans)
        signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM was handled", flush=True))
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        signal.raise_signal(signal.SIGTERM)
        print("never")
        """
    lines, code = run(program)
    assert lines == ["exporting", "exported last", "SIGTERM was handled"]
    assert code == -signal.SIGHUP


def test_a_collector_that_hangs_delays_the_end_by_no_more_than_was_allowed():
    program = """
        Printer.export = lambda _, spans: threading.Event().wait()
        tracekit.flush_on_signal(timeout_s=0.05)
        tracekit.span("last").end()
        signal.raise_signal(signal.SIGTERM)
        """
    assert run(program) == ([], -signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_ignored_and_goes_on_to_children_so():
    program = """
        import subprocess
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        signal.raise_signal(signal.SIGHUP)
        code = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip(), flush=True)
        """
    assert run(program) == (["True", "exported last", "shut down"], 0)


# In this process


@pytest.fixture
def handler():
    """A handler of SIGUSR1 that notes its calls; all handlers are as before afterwards."""
    calls = []
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)}
    signal.signal(signal.SIGUSR1, lambda *arguments: calls.append(arguments))
    yield calls
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.fixture
def kept():
    """The spans that were exported, by a flush alone."""

    class Kept(list):
        def export(self, spans):
            self.extend(spans)

        def shutdown(self):
            pass

    kept = Kept()
    tracekit.configure(exporter=kept, export_interval_s=3600)
    return kept


def test_the_handler_that_was_there_is_called_with_signal_and_frame_after_the_flush(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    tracekit.span("last").end()
    signal.raise_signal(signal.SIGUSR1)
    ((number, frame),) = handler
    assert number == signal.SIGUSR1
    assert frame.f_code.co_name.startswith("test_the_handler_that_was_there")
    assert [span.name for span in kept] == ["last"]


def test_calling_it_again_changes_nothing(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    installed = signal.getsignal(signal.SIGUSR1)
    tracekit.flush_on_signal(signal.SIGUSR1, signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is installed
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1


def test_a_handler_of_others_may_be_put_around_it_and_it_around_that(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    ours = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *arguments: ours(*arguments))
    tracekit.flush_on_signal(signal.SIGUSR1)
    tracekit.span("last").end()
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1
    assert [span.name for span in kept] == ["last"]


def test_a_default_action_that_is_not_the_end_leaves_the_handler_in_place(handler, kept):
    tracekit.flush_on_signal(signal.SIGCONT)
    for name in ("first", "second"):
        tracekit.span(name).end()
        signal.raise_signal(signal.SIGCONT)
    assert [span.name for span in kept] == ["first", "second"]


def test_an_error_of_the_handler_that_was_there_is_the_programs(kept, handler):
    def broken(*_):
        raise KeyError("theirs")

    signal.signal(signal.SIGUSR2, broken)
    tracekit.flush_on_signal(signal.SIGUSR2)
    for _ in range(2):
        with pytest.raises(KeyError, match="theirs"):
            signal.raise_signal(signal.SIGUSR2)


def test_a_flush_that_fails_is_logged_and_the_signal_acts(handler, monkeypatch, caplog):
    def broken(timeout_s):
        raise RuntimeError("broken")

    monkeypatch.setattr(_signals, "flush", broken)
    tracekit.flush_on_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1
    assert caplog.messages == [f"flushing on signal {int(signal.SIGUSR1)} failed: RuntimeError"]


def test_another_thread_gets_a_clear_error():
    errors = []

    def work():
        try:
            tracekit.flush_on_signal()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == ["flush_on_signal() must be called in the main thread"]


def test_a_handler_that_python_does_not_know_is_not_replaced(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with pytest.raises(
        RuntimeError, match=f"the handler of signal {int(signal.SIGTERM)} was not installed from Python"
    ):
        tracekit.flush_on_signal()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["SIGTERM"], {}, TypeError, "signals must be ints such as signal.SIGTERM, not str"),
        ([], {"timeout_s": "5"}, TypeError, "timeout_s must be a number, not str"),
        ([], {"timeout_s": float("nan")}, ValueError, "timeout_s must be 0 to 3600: nan"),
        ([], {"timeout_s": -1}, ValueError, "timeout_s must be 0 to 3600: -1"),
        ([0], {}, ValueError, "signal 0 cannot be handled"),
        ([9999], {}, ValueError, "signal 9999 cannot be handled"),
        ([getattr(signal, "SIGKILL", 9)], {}, ValueError, "signal 9 cannot be handled"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        tracekit.flush_on_signal(*arguments, **options)
