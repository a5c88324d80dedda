"""``tracekit.install_hooks()`` as an integration: threads, their pools and child processes continue the trace."""

from __future__ import annotations

from typing import Any

from .. import install_hooks, remove_hooks

__all__ = ["instrument", "uninstrument"]


def instrument(target: Any = None) -> None:
    """Call ``install_hooks()``; there are no objects to instrument."""
    _none(target)
    install_hooks()


def uninstrument(target: Any = None) -> None:
    """Call ``remove_hooks()``."""
    _none(target)
    remove_hooks()


def _none(target: Any) -> None:
    if target is not None:
        raise TypeError(f"threads are instrumented as a whole: use tracekit.wrap() for a {type(target).__name__}")
