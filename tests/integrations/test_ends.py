"""Processes that end by a signal or by ``os._exit()``: the rows of ``python -m tests.faults_sigterm`` that every run has."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

import tracekit

from ..faults_sigterm import REQUESTS, TASKS, recycled, stopped

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM that can be handled, no fork")


@needs_posix
@pytest.mark.parametrize("server", ["uvicorn", "uvicorn --workers 2", "hypercorn --worker-class trio"])
def test_a_server_that_gets_sigterm_exports_every_request_that_it_answered(server):
    assert stopped(server) == {f"/{number}": 1 for number in range(REQUESTS)}


@needs_posix
@pytest.mark.skipif(importlib.util.find_spec("celery") is None, reason="no celery here: `make test` installs it")
def test_a_child_that_celery_recycles_exports_what_it_did():
    assert recycled() == {f"/{number}": 1 for number in range(TASKS)}


FORKS = """
import os, sys, types

class Signal:  # of celery's, as far as it is used
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
def test_the_child_of_a_fork_listens_to_celery_wherever_that_was_loaded():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("last\nshut down\n", "")


def test_celery_that_is_half_imported_is_no_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "celery.signals", SimpleNamespace())
    tracekit.configure()
    tracekit.flush()
