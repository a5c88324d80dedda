"""Garbage collection in another thread, at a chosen moment or all the time, whose finalizers let other threads run."""

from __future__ import annotations

import contextlib
import gc
import threading
import time


@contextlib.contextmanager
def collecting_elsewhere():
    """Another thread is in the middle of a garbage collection."""
    is_inside, may_end = threading.Event(), threading.Event()

    class Slow:
        def __del__(self):
            is_inside.set()
            may_end.wait()

    def collect():
        garbage = Slow()
        garbage.itself = garbage
        del garbage
        gc.collect()

    collector = threading.Thread(target=collect)
    collector.start()
    is_inside.wait()
    try:
        yield
    finally:
        may_end.set()
        collector.join()


class _Slow:
    def __init__(self):
        self.itself = self

    def __del__(self):
        time.sleep(0.0001)


@contextlib.contextmanager
def always_collecting():
    """Another thread collects garbage again and again."""
    is_over = threading.Event()

    def collect():
        while not is_over.is_set():
            _Slow()
            gc.collect(0)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        yield
    finally:
        is_over.set()
        collector.join()
