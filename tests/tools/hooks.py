"""What the tests of hooks share: what hooks patch, threads, and jobs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent import futures
from multiprocessing.pool import ThreadPool

import pytest

import tracekit

threads_inherit_nothing = pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0), reason="threads inherit the Context of their start"
)

POOL_JOBS = ["apply_async", "imap", "imap_unordered", "map", "map_async", "starmap", "starmap_async"]
PATCHED = [
    (threading.Thread, "start"),
    (futures.ThreadPoolExecutor, "submit"),
    (subprocess.Popen, "__init__"),
    *[(ThreadPool, name) for name in ["__init__", *POOL_JOBS]],
]


def in_place():
    return [vars(owner).get(name) for owner, name in PATCHED]


ORIGINALS = in_place()

NOTHING = [sys.executable, "-S", "-c", ""]  # a command that does so


def end_a_span(name="job"):
    tracekit.span(name).end()


class Worker(threading.Thread):
    """A subclass with a constructor, a start() and a run() of its own."""

    def __init__(self, job):
        super().__init__()
        self.job = job

    def start(self):
        self.was_started = True
        super().start()

    def run(self):
        self.job()


def start_thread(job):
    thread = threading.Thread(target=lambda job: job(), kwargs={"job": job})
    thread.start()
    return thread.join


def run(program, **options):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
