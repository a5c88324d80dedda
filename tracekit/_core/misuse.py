"""Wrong arguments on the program's path: counted and reported once per call site, raised in strict mode only.

Tracing must not break the program that it watches, so ``span()``, the methods of ``Span``, ``use_span()`` and so on
leave out arguments that they cannot use. Strict mode, for development and tests, raises the same text instead.
"""

from __future__ import annotations

import os
import sys

from .log import log

_CALL_SITES = 1000  # reported; further ones are only counted

_PACKAGE = os.path.dirname(os.path.dirname(__file__))  # not by pathlib: importing it takes 2 ms
_strict = os.environ.get("TRACEKIT_STRICT", "") not in {"", "0"}
_count = 0
_seen: set[tuple[str, int]] = set()


def set_strict(strict: bool) -> bool:
    """Raise from now on, or do not; return whether it was so before."""
    global _strict
    before, _strict = _strict, strict
    return before


def count() -> int:
    """Return the number of wrong arguments that were left out."""
    return _count


def misused(error: Exception) -> None:
    """Raise *error* in strict mode; else count it, and log it with file and line unless that line was logged before."""
    global _count
    if _strict:
        raise error
    _count += 1
    try:
        site = _call_site()
        if site not in _seen and len(_seen) < _CALL_SITES:
            _seen.add(site)
            message = "%s:%d: %s (ignored, and reported once for this line; TRACEKIT_STRICT=1 raises)"
            log("warning", message, site[0], site[1], error)
    except Exception:  # a value in the message cannot be formatted
        pass


def _call_site() -> tuple[str, int]:
    """Return file and line of the innermost frame that is not tracekit's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
