"""What tracekit has to say in the log: each cause once, never an error of the log's own."""

from __future__ import annotations

from .._core.errors import clip

__all__ = ["Notices", "log", "one_line"]

_CAUSES = 64


class Notices:
    """Says each cause once, and no more than 64 of them; counting goes on elsewhere."""

    def __init__(self) -> None:
        self._said: set[object] = set()

    def say(self, level: str, cause: object, message: str, *arguments: object) -> None:
        """Log *message* unless *cause* has been said."""
        if cause in self._said or len(self._said) >= _CAUSES:
            return
        self._said.add(cause)
        log(level, message, *arguments)

    def lost(self, exporter: object, error: BaseException, count: int) -> None:
        """Say that *exporter* raised *error*, which cost *count* spans."""
        try:
            text = str(error)
        except Exception:
            text = ""
        self.say(
            "error",
            (type(error), text[:80]),
            "%s failed, %d spans lost: %s: %s (said once per cause; tracekit.statistics() counts on)",
            type(exporter).__name__,
            count,
            type(error).__name__,
            one_line(text),
        )


def log(level: str, message: str, *arguments: object) -> None:
    """Log *message*; nothing that a handler raises comes back."""
    import logging  # costs more to import than tracekit, and is needed only where something was lost

    try:
        getattr(logging.getLogger("tracekit"), level)(message, *arguments)
    except Exception:  # a handler of the program's own must not end the export
        pass


def one_line(text: str, size: int = 400) -> str:
    """Return *text*, which may be anybody's, as a line of a log can hold it: cut to *size*, escaped if need be."""
    return text[:size] if text[:size].isprintable() else clip(text)
