"""``flush_on_signal()``, in subprocesses if the signal ends the process."""

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

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    tracekit.configure(exporter=Printer(), export_interval_s=3600, environ={})
"""


def run(program, **options):
    """Run *program*, and return its output and exit status."""
    text = textwrap.dedent(PROGRAM) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, **options)
    assert done.stderr == ""
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_without_it_the_default_action_loses_spans(name):
    program = f"""
        tracekit.span("last").end()
        signal.raise_signal(signal.{name})
        """
    assert run(program) == ([], -getattr(signal, name))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_with_it_spans_are_exported_and_the_exit_status_names_the_signal(name):
    program = f"""
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        signal.raise_signal(signal.{name})
        print("never")
        """
    assert run(program) == (["exported last"], -getattr(signal, name))


def test_a_previous_handler_that_exits_still_does(tmp_path):
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


def test_it_handles_other_signals_and_works_after_a_fork():
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


def test_a_signal_that_arrives_during_a_flush_waits_for_it():
    program = """
        from tracekit import _signals

        def export(spans):
            print("exporting", flush=True)
            os.kill(os.getpid(), signal.SIGHUP)  # sent by this thread; handled in the main thread
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


def test_a_child_that_is_forked_during_a_flush_handles_signals_too():
    program = """
        import warnings

        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which this is about

        def export(spans):  # while the handler waits
            pid = os.fork()
            if not pid:
                os.kill(os.getpid(), signal.SIGTERM)
                print("the child goes on", flush=True)
                os._exit(1)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

        Printer.export = lambda _, spans: export(spans)
        tracekit.flush_on_signal()
        tracekit.span("last").end()
        signal.raise_signal(signal.SIGTERM)
        """
    died = -signal.SIGTERM
    assert run(program) == ([str(died)], died)


def test_the_timeout_bounds_the_flush_if_a_collector_hangs():
    program = """
        Printer.export = lambda _, spans: threading.Event().wait()
        tracekit.flush_on_signal(timeout_s=0.05)
        tracekit.span("last").end()
        signal.raise_signal(signal.SIGTERM)
        """
    assert run(program) == ([], -signal.SIGTERM)


def test_an_ignored_signal_stays_ignored_and_children_inherit_that():
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
    """A handler of SIGUSR1 that records its calls; all handlers are restored afterwards."""
    calls = []
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)}
    signal.signal(signal.SIGUSR1, lambda *arguments: calls.append(arguments))
    yield calls
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.fixture
def kept():
    """An exporter that keeps its spans; they are exported by a flush only."""

    class Kept(list):
        def export(self, spans):
            self.extend(spans)

        def shutdown(self):
            pass

    kept = Kept()
    tracekit.configure(exporter=kept, export_interval_s=3600)
    return kept


def test_the_previous_handler_is_called_with_signal_and_frame_after_the_flush(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    tracekit.span("last").end()
    signal.raise_signal(signal.SIGUSR1)
    ((number, frame),) = handler
    assert number == signal.SIGUSR1
    assert frame.f_code.co_name.startswith("test_the_previous_handler")
    assert [span.name for span in kept] == ["last"]


def test_calling_it_again_has_no_effect(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    installed = signal.getsignal(signal.SIGUSR1)
    tracekit.flush_on_signal(signal.SIGUSR1, signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is installed
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1


def test_another_handler_may_wrap_it_and_be_wrapped_by_it(handler, kept):
    tracekit.flush_on_signal(signal.SIGUSR1)
    ours = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *arguments: ours(*arguments))
    tracekit.flush_on_signal(signal.SIGUSR1)
    tracekit.span("last").end()
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1
    assert [span.name for span in kept] == ["last"]


def test_the_handler_stays_in_place_after_a_default_action_that_does_not_end_the_process(handler, kept):
    tracekit.flush_on_signal(signal.SIGCONT)
    for name in ("first", "second"):
        tracekit.span(name).end()
        signal.raise_signal(signal.SIGCONT)
    assert [span.name for span in kept] == ["first", "second"]


def test_an_error_of_the_previous_handler_is_raised(kept, handler):
    def broken(*_):
        raise KeyError("theirs")

    signal.signal(signal.SIGUSR2, broken)
    tracekit.flush_on_signal(signal.SIGUSR2)
    for _ in range(2):
        with pytest.raises(KeyError, match="theirs"):
            signal.raise_signal(signal.SIGUSR2)


def test_a_failed_flush_is_logged_and_the_previous_handler_is_called(handler, monkeypatch, caplog):
    def broken(timeout_s):
        raise RuntimeError("broken")

    monkeypatch.setattr(_signals, "flush", broken)
    tracekit.flush_on_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert len(handler) == 1
    assert caplog.messages == [f"flushing on signal {int(signal.SIGUSR1)} failed: RuntimeError"]


def test_it_is_an_error_in_another_thread():
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


def test_a_handler_that_was_not_installed_from_python_is_not_replaced(monkeypatch):
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
def test_invalid_arguments_are_errors(arguments, options, error, message):
    with pytest.raises(error, match=message):
        tracekit.flush_on_signal(*arguments, **options)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH"])
def test_a_dump_at_a_signal_that_ends_no_program_is_not_waited_for(name):
    finished = []
    _signals.go_on_after_dump(getattr(signal, name), signal.SIG_DFL, None, lambda: finished.append(name))
    assert finished == []
