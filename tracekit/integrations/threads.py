"""``tracekit.install_hooks()`` as an integration: threads, their pools and child processes continue the trace."""

from __future__ import annotations

import functools
from typing import Any

from .. import install_hooks, remove_hooks
from ._patch import check_whole

__all__ = ["instrument", "uninstrument"]

_check = functools.partial(check_whole, "threading", "tracekit.wrap() for a function")


def instrument(target: Any = None) -> None:
    """Call ``install_hooks()``; there are no objects to instrument."""
    _check(target)
    install_hooks()


def uninstrument(target: Any = None) -> None:
    """Call ``remove_hooks()``."""
    _check(target)
    remove_hooks()
