"""``anyio.from_thread`` as it is: each call runs in its own copy of the Context of the thread that makes it.

A portal belongs to nobody: whoever calls through it is the parent, not who started it. A context manager that is
entered through a portal makes nothing current in the thread: its ``__aenter__`` runs in a task of its own.
"""

from __future__ import annotations

from anyio.from_thread import (
    BlockingPortal,
    BlockingPortalProvider,
    check_cancelled,
    run,
    run_sync,
    start_blocking_portal,
)

__all__ = [
    "BlockingPortal",
    "BlockingPortalProvider",
    "check_cancelled",
    "run",
    "run_sync",
    "start_blocking_portal",
]
