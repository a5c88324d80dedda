"""The one way to the log: a handler of the program that raises costs only its line."""

from __future__ import annotations


def log(level: str, message: str, *arguments: object) -> None:
    """Log *message* to the logger ``tracekit``. Never raises."""
    try:
        import logging  # costs more to import than tracekit, and is needed only where something went wrong

        getattr(logging.getLogger("tracekit"), level)(message, *arguments)
    except Exception:
        pass
