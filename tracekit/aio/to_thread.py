"""``anyio.to_thread`` as it is: each job runs in its own copy of the Context in which ``run_sync`` was awaited.

So it is the child of the span current there, though that may have ended, and scopes that it leaves open do not leak.
"""

from __future__ import annotations

from anyio.to_thread import current_default_thread_limiter, run_sync

__all__ = ["current_default_thread_limiter", "run_sync"]
