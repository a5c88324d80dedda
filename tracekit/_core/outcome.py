"""What an exception that leaves a span says about it (GUARANTEES: outcome)."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .twin import Span

__all__ = ["close_with", "exception_attributes", "is_normal_end"]

# An attribute on the exception is the one memory that crosses tasks, threads and groups with it:
# built-in exceptions take no weak reference, and a table keyed by id() would outlive them.
_MARK = "__tracekit_trace__"
_LEAVES = 32
_TRACES = 16
_STACK_FRAMES = 64
# RFC 6455, section 7.4.1: normal, going away, no code given; and the connection was lost.
_NORMAL_CLOSES = (1000, 1001, 1005)
_BROKEN = 1006


def close_with(span: Span, exc: BaseException) -> None:
    """Set the status of *span*, which *exc* is leaving, and record what no span of its trace has recorded yet."""
    if is_normal_end(exc):
        return
    errors = _errors(exc)
    if not errors:
        span.set_status("cancelled", type(exc).__name__)
        return
    trace_id = span.context.trace_id
    for error in errors[:_LEAVES]:
        if _first_seen(error, trace_id):
            span.record_exception(error)
    text = _text(exc)
    span.set_status("error", f"{type(exc).__name__}: {text}" if text else type(exc).__name__)


def is_normal_end(exc: BaseException) -> bool:
    """Return whether *exc* reports a normal end: of the process, or of a websocket that the peer closed."""
    if _is(exc, SystemExit):
        return not exc.code  # type: ignore[attr-defined]
    closed = getattr(sys.modules.get("websockets.exceptions"), "ConnectionClosedOK", None)
    return _websocket_code(exc) in _NORMAL_CLOSES or (closed is not None and _is(exc, closed))


def _websocket_code(exc: BaseException) -> object:
    """Return the close code if *exc* reports that a websocket client has gone, else None."""
    # Looked up, not imported, like the cancellations below.
    disconnect = getattr(sys.modules.get("starlette.websockets"), "WebSocketDisconnect", None)
    if disconnect is None or not _is(exc, disconnect):
        return None
    try:
        return exc.code  # type: ignore[attr-defined]
    except Exception:
        return None


def exception_attributes(exc: BaseException, trace_id: str) -> dict[str, Any]:
    """Return the attributes of an ``exception`` event, as OpenTelemetry's semantic conventions name them.

    No span of the trace that *exc* leaves from now on records it by itself.
    """
    _first_seen(exc, trace_id)
    import traceback  # costs 10 ms of import, and is needed only where something failed

    try:
        lines = traceback.format_exception(type(exc), exc, exc.__traceback__, limit=-_STACK_FRAMES)
        stack = "".join(lines)
    except Exception:  # the exception may have raising methods of its own
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


def _is(exc: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    # Not isinstance(), which would ask the exception for its __class__.
    return issubclass(type(exc), kinds)


def _errors(exc: BaseException) -> list[BaseException]:
    """Return the leaves of *exc* that are no cancellation, each once, in order."""
    cancellations = _cancellations()
    errors: list[BaseException] = []
    # Not recursive, and each part once: groups may be thousands deep, or hold themselves many times over.
    waiting, seen = [exc], {id(exc)}
    while waiting:
        part = waiting.pop()
        if _is(part, BaseExceptionGroup):
            for inner in reversed(BaseExceptionGroup.exceptions.__get__(part)):
                if id(inner) not in seen:
                    seen.add(id(inner))
                    waiting.append(inner)
        elif not (_is(part, cancellations) or is_normal_end(part) or _websocket_code(part) == _BROKEN):
            errors.append(part)
    return errors


def _first_seen(exc: BaseException, trace_id: str) -> bool:
    is_plain = type(exc).__setattr__ is BaseException.__setattr__
    try:
        # Past whatever __getattribute__ the exception has: every exception has a __dict__.
        seen: tuple[str, ...] = object.__getattribute__(exc, _MARK) if is_plain else _others[id(exc)][1]
    except (AttributeError, KeyError):
        seen = ()
    if trace_id in seen:
        return False
    seen = (*seen, trace_id)[-_TRACES:]  # several: many may wait for one future that failed
    if is_plain:
        object.__setattr__(exc, _MARK, seen)
    else:
        _mark_beside(exc, seen)
    return True


# An exception with a __setattr__ of its own may refuse the mark when it is unpickled. Such a class is no built-in.
_others: dict[int, tuple[weakref.ref[BaseException], tuple[str, ...]]] = {}


def _mark_beside(exc: BaseException, seen: tuple[str, ...]) -> None:
    key = id(exc)
    try:
        _others[key] = (weakref.ref(exc, lambda _: _others.pop(key, None)), seen)
    except TypeError:  # it has slots, and none for this: each span that it leaves records it
        pass
