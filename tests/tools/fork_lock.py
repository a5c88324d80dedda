"""Whether a child of a fork can change a list that threads of the parent were reading: no tracekit, CPython alone.

    python -m tests.tools.fork_lock

Without the GIL (3.14.7) it cannot: a list's lock is handed over to a thread that has waited for it for 1 ms, also while
all threads are stopped for the fork, and in the child that thread does not exist. The exit status is 1 if a child hangs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

FORKS = 12


def main() -> int:
    """Fork, and return the exit status."""
    warnings.simplefilter("ignore")  # of forks with threads
    shared = list(range(300_000))
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            list(shared)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    hung = 0
    for _ in range(FORKS):
        child = os.fork()
        if child == 0:
            signal.alarm(2)  # ends the child
            shared.append(0)
            os._exit(0)
        hung += os.waitpid(child, 0)[1] == signal.SIGALRM
    stopped.set()
    print(f"{hung} of {FORKS} children hang: {sys.version}")
    return int(hung > 0)


if __name__ == "__main__":
    sys.exit(main())
