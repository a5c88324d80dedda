"""Reports of losses in the log: each cause once, safe from exceptions of log handlers."""

from __future__ import annotations

from .._core.errors import clip
from .._core.log import log as log

_CAUSES = 64


class Notices:
    """Report each cause once, and at most 64 of them; ``tracekit.statistics()`` counts all.

    For the exporting threads: exceptions of log handlers are dropped, even ``SystemExit``.
    """

    def __init__(self) -> None:
        self._reported: set[object] = set()

    def say(self, level: str, cause: object, message: str, *arguments: object) -> None:
        """Log *message* unless *cause* has been reported."""
        if cause in self._reported or len(self._reported) >= _CAUSES:
            return
        self._reported.add(cause)
        try:
            log(level, message, *arguments)
        except BaseException:
            pass

    def lost(self, exporter: object, error: BaseException, count: int) -> None:
        """Report that *exporter* raised *error*, which cost *count* spans."""
        text = describe(error)
        message = "%s failed, %s lost: %s (reported once per cause; tracekit.statistics() counts all)"
        self.say("error", text[:100], message, type(exporter).__name__, spans_of(count), text)

    def raised(self, method: str, exporter: object, error: BaseException) -> None:
        """Report that *method* of *exporter* raised *error*, or returned an invalid value, and is ignored."""
        message = "%s of %s is ignored: %s (reported once)"
        self.say("error", method, message, method, type(exporter).__name__, describe(error))


def spans_of(count: int) -> str:
    """Return *count* with its noun: "1 span", "2 spans"."""
    return f"{count} span" if count == 1 else f"{count} spans"


def describe(error: BaseException) -> str:
    """Return the type and text of *error* as one line. Methods of *error* cannot make it raise."""
    name, text = "exception", ""
    try:
        name = str(type(error).__name__)
        text = str.__str__(str(error))
    except BaseException:  # from the program's class: even SystemExit must not end the exporting thread
        pass
    return f"{name}: {one_line(text)}"


def one_line(text: str, size: int = 400) -> str:
    """Return *text* as one line of a log: cut to *size* characters, and escaped unless it is printable."""
    return text[:size] if text[:size].isprintable() else clip(text)
