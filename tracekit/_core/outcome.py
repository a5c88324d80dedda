"""The outcome of a span that an exception leaves: its status, and the errors to record (GUARANTEES: outcome)."""

from __future__ import annotations

import sys

from .guard import ask, class_name
from .stack import Texts, message_of
from .stdlib import NamedTuple, ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Literal

    from .records import Limits

_LEAVES = 32  # errors of a group that one span records
_PARTS = 10_000  # groups and members of groups that are looked at
_TRACES = 16  # remembered for an exception; several, as many requests may await one failed future
# RFC 6455, section 7.4.1: the purpose is fulfilled, the peer goes away, it gave no code; and the connection broke.
_NORMAL_CLOSES = (1000, 1001, 1005)
_BROKEN = 1006
_HEADROOM = 100  # frames that recording an error may take

_members: Any = BaseExceptionGroup.__dict__["exceptions"].__get__


class Outcome(NamedTuple):
    """The status of a span that an exception leaves, and the errors in it that no span of the trace has recorded.

    ``expected`` are exceptions that are no errors of this span.
    """

    code: Literal["unset", "error", "cancelled"]
    description: str = ""
    errors: tuple[BaseException, ...] = ()
    expected: tuple[BaseException, ...] = ()


def outcome_of(
    exc: BaseException, trace_id: str, limit: int, expected: tuple[type[BaseException], ...] | None = None
) -> Outcome:
    """Return the outcome of a span that *exc* leaves; the description of its status has about *limit* characters.

    Exceptions of the classes *expected*, alone or in groups, are no errors. Never raises. At the recursion limit it
    returns no error, so that a span further out records it.
    """
    if is_normal_end(exc):
        return Outcome("unset")
    name, _ = class_name(type(exc))
    try:
        is_error, errors, awaited = _errors(exc, trace_id, expected or ())
        if errors:
            _recurse(_HEADROOM)
    except RecursionError:
        return Outcome("error", name)
    if not is_error:
        return Outcome("unset", expected=awaited) if awaited else Outcome("cancelled", name)
    text = message_of(exc, limit)
    return Outcome("error", f"{name}: {text}" if text else name, errors, awaited)


def exception_attributes(
    exc: BaseException, limits: Limits, texts: Texts | None = None, with_stack: bool = True
) -> dict[str, Any]:
    """Return the attributes of an ``exception`` event, as OpenTelemetry's semantic conventions name them.

    Never raises: a message whose ``__str__`` does is empty.
    """
    _, name = class_name(type(exc))
    texts = texts or Texts()
    message = texts.message(exc, limits.value_length)
    if not with_stack:
        return {"exception.type": name, "exception.message": message}
    stack = texts.stack(exc, limits.stack_length)
    return {"exception.type": name, "exception.message": message, "exception.stacktrace": stack}


def exception_events(
    errors: Iterable[BaseException], limits: Limits, with_stack: bool = True
) -> Iterator[tuple[BaseException, dict[str, Any]]]:
    """Yield each of the *errors* that leave one span with its attributes. The bounds are for all of them together."""
    texts = Texts()
    for error in errors:
        yield error, exception_attributes(error, limits, texts, with_stack)


def _recurse(depth: int) -> None:
    """Raise RecursionError if there is no room for *depth* frames."""
    if depth:
        _recurse(depth - 1)


def _is(exc: BaseException, kind: type[BaseException]) -> bool:
    # isinstance() would ask the exception for its __class__, and issubclass() the metaclass of kind.
    return type.__subclasscheck__(kind, type(exc))


def is_normal_end(exc: BaseException) -> bool:
    """Return whether *exc* reports an end in order: of the process, or of a websocket that its peer closed normally."""
    if _is(exc, SystemExit):
        return _is_success(exc)
    closed = _class_of("websockets.exceptions", "ConnectionClosedOK")
    return _websocket_code(exc) in _NORMAL_CLOSES or (closed is not None and _is(exc, closed))


def _websocket_code(exc: BaseException) -> int | None:
    """Return the code with which a client left, if *exc* reports that; None otherwise."""
    disconnect = _class_of("starlette.websockets", "WebSocketDisconnect")
    if disconnect is None or not _is(exc, disconnect):
        return None
    code = ask(_exit_code, exc)
    return int.__int__(code) if issubclass(type(code), int) else None


def _is_success(exc: BaseException) -> bool:
    """Return whether the exit status is 0. For a code that is neither None nor an int the interpreter exits with 1."""
    code = ask(_exit_code, exc, 1)
    return code is None or (issubclass(type(code), int) and int.__eq__(code, 0))


def _exit_code(exc: Any) -> Any:
    return exc.code


def _cancellations() -> tuple[type[BaseException], ...]:
    # Looked up, not imported: a program that has not loaded asyncio or trio cannot be cancelled by them.
    found: list[type[BaseException]] = [GeneratorExit, KeyboardInterrupt]
    for module, name in (
        ("asyncio.exceptions", "CancelledError"),
        ("concurrent.futures._base", "CancelledError"),
        ("trio", "Cancelled"),
    ):
        kind = _class_of(module, name)
        if kind is not None:
            found.append(kind)
    return tuple(found)


def _class_of(module: str, name: str) -> Any:
    """Return a class of a module that is loaded, else None."""
    members = ask(_namespace, sys.modules.get(module))
    kind = members.get(name) if type(members) is dict else None
    return kind if issubclass(type(kind), type) else None  # a test may have put a mock there


def _namespace(module: Any) -> Any:
    return object.__getattribute__(module, "__dict__")  # a module that is loaded lazily stays unloaded


def _errors(
    exc: BaseException, trace_id: str, expected: tuple[type[BaseException], ...]
) -> tuple[bool, tuple[BaseException, ...], tuple[BaseException, ...]]:
    """Return whether *exc* holds an error, its first unrecorded errors, and its first *expected* exceptions.

    Each exception is returned once, in order. Cancellations are none of these.
    """
    cancellations = _cancellations()
    verdicts: dict[int, bool] = {}  # whether a class is a cancellation, by its id: its metaclass may define __hash__
    errors: list[BaseException] = []
    awaited: list[BaseException] = []
    is_error = False
    left = _PARTS
    # Not recursive, and each part once: groups may be thousands deep, or hold themselves many times over.
    waiting, seen = [exc], {id(exc)}
    while waiting and len(errors) < _LEAVES:
        part = waiting.pop()
        if expected and any(_is(part, kind) for kind in expected):
            if len(awaited) < _LEAVES:
                awaited.append(part)
            continue
        if _is(part, BaseExceptionGroup):
            members = _members(part)[:left]
            left -= len(members)
            for member in reversed(members):
                if id(member) not in seen:
                    seen.add(id(member))
                    waiting.append(member)
            continue
        kind = id(type(part))
        if kind not in verdicts:
            verdicts[kind] = any(_is(part, cancellation) for cancellation in cancellations)
        if verdicts[kind] or is_normal_end(part) or _websocket_code(part) == _BROKEN:
            continue
        is_error = True
        if not _is_recorded(part, trace_id):
            errors.append(part)
    return is_error or not (verdicts or awaited), tuple(errors), tuple(awaited)


# The traces in which an exception is recorded. They are kept beside it: an attribute would appear in vars(exc), in error
# bodies made of that, and in pickles (issue 10). There is no lock, as a signal handler may mark an exception too.
_marks: dict[int, tuple[ref[BaseException], tuple[int, ...]]] = {}
# Built-in exceptions take no weak reference. They carry hashes, which are salted: outside this process they mean nothing.
_ATTRIBUTE = "__tracekit_trace__"


def mark_recorded(exc: BaseException, trace_id: str) -> None:
    """Remember that a span of the trace has recorded *exc*: ``outcome_of`` will not return it there again."""
    traces = (*_traces(exc), hash(trace_id))[-_TRACES:]
    key = id(exc)
    try:
        _marks[key] = ref(exc, lambda _: _marks.pop(key, None)), traces
    except TypeError:
        # An overridden __setattr__ is called with the attribute at unpickling, and may raise. No mark, then: every span
        # that the exception leaves records it.
        if ask(_setattr, type(exc)) is BaseException.__setattr__:
            object.__setattr__(exc, _ATTRIBUTE, traces)


def _is_recorded(exc: BaseException, trace_id: str) -> bool:
    return hash(trace_id) in _traces(exc)


def _traces(exc: BaseException) -> tuple[int, ...]:
    mark = _marks.get(id(exc))
    if mark is not None and mark[0]() is exc:
        return mark[1]
    traces = ask(_attribute, exc)
    return traces if type(traces) is tuple else ()


def _attribute(exc: BaseException) -> Any:
    return object.__getattribute__(exc, _ATTRIBUTE)


def _setattr(kind: Any) -> Any:
    return kind.__setattr__
