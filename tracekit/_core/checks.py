"""Checks of arguments: TypeError for another type, ValueError for a number out of range, with the parameter's name."""

from __future__ import annotations

_CO_COROUTINE = 0x80  # the flag in co_flags; the module inspect takes long to import

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def check_bool(parameter: str, value: Any) -> None:
    """Raise ``TypeError`` unless *value* is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{parameter} must be bool, not {type(value).__name__}")


def check_int(parameter: str, value: Any, least: int, most: int | None = None) -> None:
    """Raise ``TypeError`` unless *value* is an int and no bool, ``ValueError`` unless it is *least* to *most*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{parameter} must be int, not {type(value).__name__}")
    if value < least or (most is not None and value > most):
        raise ValueError(
            f"{parameter} must be {f'at least {least}' if most is None else f'{least} to {most}'}: {_shown(value)}"
        )


def check_number(parameter: str, value: Any, least: float, most: float) -> None:
    """Raise ``TypeError`` unless *value* is an int or float and no bool, ``ValueError`` unless it is *least* to *most*."""
    _check_type(parameter, value)
    if not least <= value <= most:
        raise ValueError(f"{parameter} must be {least} to {most}: {_shown(value)}")


def check_above_0(parameter: str, value: Any, most: float = float("inf")) -> None:
    """Raise ``TypeError`` unless *value* is an int or float and no bool, ``ValueError`` unless it is above 0, to *most*."""
    _check_type(parameter, value)
    if not 0 < value <= most:
        limit = "" if most == float("inf") else f" and at most {most}"
        raise ValueError(f"{parameter} must be above 0{limit}: {_shown(value)}")


def check_called_at_once(parameter: str, function: Any) -> None:
    """Raise ``TypeError`` if *function* is a coroutine function, whose call alone does nothing."""
    code = getattr(function, "__code__", None)
    if getattr(code, "co_flags", 0) & _CO_COROUTINE:
        raise TypeError(
            f"{parameter} must not be a coroutine function: it is called in a thread, without an event loop"
        )


def nanoseconds(parameter: str, seconds: float) -> int:
    """Return *seconds* in ns; raise ``TypeError`` or ``ValueError`` unless it is a number from 0 to 1e9."""
    check_number(parameter, seconds, 0, 1_000_000_000)
    return round(seconds * 1e9)


def _check_type(parameter: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{parameter} must be a number, not {type(value).__name__}")


def _shown(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # an int of more digits than Python converts to text
        return f"{int(value):#x}"[:20] + "..."


def check_mode(parameter: str, mode: int) -> None:
    """Raise TypeError or ValueError unless *mode* is a set of permissions that lets the owner read and write."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"{parameter} must be int, not {type(mode).__name__}")
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise ValueError(f"{parameter} must be permissions such as 0o600 or 0o660: {oct(mode)}")
