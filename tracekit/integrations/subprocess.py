"""subprocess and asyncio: child processes continue the trace, through their environment.

    tracekit.integrations.subprocess.instrument()

``TRACEPARENT`` and so on, in the configured formats, are set to the current context, unless *env* of the call names a
trace itself. Without a current context the environment stays as it is. ``instrument()`` of
tracekit, without names, leaves this out, but calls ``install_hooks()``, which does the same to ``subprocess``. Both
together do it once.

asyncio starts processes through ``subprocess``; uvloop does not, so asyncio's two functions are patched as well.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from .._core.scopes import current_scope
from .._handoffs.hooks import put_into_environment
from ._patch import Patches, check_whole, coroutine_function

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["instrument", "uninstrument"]

_popen, _asyncio = Patches(), Patches()
_check = functools.partial(check_whole, "subprocess", 'tracekit.instrument("subprocess")')


def instrument(target: None = None) -> None:
    """Hand the trace to all child processes. A second call changes nothing. Raises ``TypeError`` for any *target*."""
    _check(target)
    if not _popen.is_active:
        _popen.replace(subprocess.Popen, "__init__", _patched)
    module = sys.modules.get("asyncio.subprocess")
    if module is not None and not _asyncio.is_active:
        for owner in (module, sys.modules["asyncio"]):
            for name in ("create_subprocess_exec", "create_subprocess_shell"):
                _asyncio.replace(owner, name, _patched_function)


def uninstrument(target: None = None) -> None:
    """Undo ``instrument()``."""
    _check(target)
    _popen.restore()
    _asyncio.restore()


def _patched(original: Callable[..., Any]) -> Any:
    @functools.wraps(original)
    def init(*args: Any, **kwargs: Any) -> Any:
        scope = current_scope() if _popen.is_active else None
        if scope is None:
            return original(*args, **kwargs)
        return put_into_environment(scope, original, args, kwargs)

    return init


def _patched_function(original: Callable[..., Any]) -> Any:
    @coroutine_function
    @functools.wraps(original)
    def create(*args: Any, **kwargs: Any) -> Any:
        scope = current_scope() if _asyncio.is_active else None
        if scope is None:
            return original(*args, **kwargs)
        return put_into_environment(scope, functools.partial(original, *args), (), kwargs)  # env by keyword alone

    return create
