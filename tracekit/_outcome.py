"""What an exception that leaves a span says about it (GUARANTEES: outcome)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._accel import Span

__all__ = ["close_with", "exception_attributes"]

# An attribute on the exception is the one memory that crosses tasks, threads and groups with it:
# built-in exceptions take no weak reference, and a table keyed by id() would outlive them.
_MARK = "__tracekit_trace__"
_LEAVES = 32
_STACK_FRAMES = 64


def close_with(span: Span, exc: BaseException) -> None:
    """Set the status of *span*, which *exc* is leaving, and record what no span of its trace has recorded yet."""
    if isinstance(exc, SystemExit) and not exc.code:
        return
    if _is_cancellation(exc):
        span.set_status("cancelled", type(exc).__name__)
        return
    for leaf in _leaves(exc, []):
        if not _is_cancellation(leaf) and _first_seen(leaf, span.context.trace_id):
            span.record_exception(leaf)
    text = _text(exc)
    span.set_status("error", f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


def exception_attributes(exc: BaseException) -> dict[str, Any]:
    """Return the attributes of an ``exception`` event, as OpenTelemetry's semantic conventions name them."""
    import traceback  # costs 10 ms of import, and is needed only where something failed

    try:
        lines = traceback.format_exception(type(exc), exc, exc.__traceback__, limit=-_STACK_FRAMES)
        stack = "".join(lines)
    except Exception:  # the exception's own __str__ may raise
        stack = ""
    kind = type(exc)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return {"exception.type": name, "exception.message": _text(exc), "exception.stacktrace": stack}


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return ""


def _cancellations() -> tuple[type[BaseException], ...]:
    # Looked up, not imported: a program that never loaded asyncio or trio cannot have been cancelled by it.
    found: list[type[BaseException]] = [GeneratorExit, KeyboardInterrupt]
    for module, name in (
        ("asyncio.exceptions", "CancelledError"),
        ("concurrent.futures._base", "CancelledError"),
        ("trio", "Cancelled"),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None:
            found.append(kind)
    return tuple(found)


def _is_cancellation(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_cancellation(inner) for inner in exc.exceptions)
    return isinstance(exc, _cancellations())


def _leaves(exc: BaseException, found: list[BaseException]) -> list[BaseException]:
    if not isinstance(exc, BaseExceptionGroup):
        found.append(exc)
        return found
    for inner in exc.exceptions:
        if len(found) >= _LEAVES:
            break
        _leaves(inner, found)
    return found


def _first_seen(exc: BaseException, trace_id: str) -> bool:
    try:
        if getattr(exc, _MARK, None) == trace_id:
            return False
        setattr(exc, _MARK, trace_id)
    except Exception:  # __slots__, or a __setattr__ of the program's own
        pass
    return True
