"""``anyio.from_thread`` as it is: each call runs in its own copy of the Context of the thread that makes it.

A portal has no context: the parent is the caller, not the code that started the portal. A context manager that is
entered through a portal makes nothing current in the thread: its ``__aenter__`` runs in a separate task.
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

__all__ = ["BlockingPortal", "BlockingPortalProvider", "check_cancelled", "run", "run_sync", "start_blocking_portal"]
