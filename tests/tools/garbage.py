"""Garbage collection at a chosen moment."""

from __future__ import annotations

import contextlib
import gc
import threading


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
