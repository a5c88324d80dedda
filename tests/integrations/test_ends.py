"""Processes that end by a signal or by ``os._exit()``; ``python -m tests.faults_sigterm`` prints the rows of the page."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

import tracekit

from ..faults_sigterm import REQUESTS, SERVERS, TASKS, recycled, stopped

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and fork()")


@needs_posix
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_gets_sigterm_loses_no_span(server):
    assert stopped(server) == {f"/{number}": 1 for number in range(REQUESTS)}


@needs_posix
@pytest.mark.skipif(
    importlib.util.find_spec("celery") is None, reason="celery is not installed: `make test` installs it"
)
def test_a_recycled_child_of_celery_loses_no_span():
    assert recycled() == {f"/{number}": 1 for number in range(TASKS)}


FORKS = """
import os, sys, types

class Signal:  # the part of celery's Signal that is used
    receivers = {}

    def connect(self, receiver, *, weak, dispatch_uid):
        assert not weak
        self.receivers[dispatch_uid] = receiver

    def send(self, **named):
        for receiver in self.receivers.values():
            receiver(signal=self, **named)

class Printer:
    def export(self, spans):
        print(*[span.name for span in spans], flush=True)

    def shutdown(self):
        print("shut down", flush=True)

import tracekit
tracekit.configure(exporter=Printer(), export_interval_s=3600, environ={})
ending = Signal()
sys.modules["celery.signals"] = types.SimpleNamespace(worker_process_shutdown=ending)  # after configure()
pid = os.fork()
if pid == 0:
    tracekit.span("last").end()
    ending.send(sender="worker", pid=os.getpid(), exitcode=0)
os.waitpid(pid, 0) if pid else None
os._exit(0)
"""


@needs_posix
def test_the_child_of_a_fork_handles_celerys_signal_if_celery_was_loaded_after_configure():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("last\nshut down\n", "")


def test_a_partly_imported_celery_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "celery.signals", SimpleNamespace())
    tracekit.configure()
    tracekit.flush(60)
