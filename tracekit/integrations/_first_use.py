"""Load an integration when the program first uses its library: under ``tracekit run``, which must not delay a start.

A method of the library that every use passes is replaced until its first call.
"""

from __future__ import annotations

import functools
import importlib
import os
from _thread import RLock
from typing import TYPE_CHECKING, Any, Final

from ._patch import Patches

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S: Final = 1.0  # for another thread's first call, which may wait for an import of this thread
_CO_COROUTINE: Final = 0x80  # inspect takes longer to import than this module


class FirstUse:
    """Calls *use* before the first call of one of the methods *places*, each ``module:Class.method``.

    The module *load* is imported before, while other threads that call the methods wait. Raises AttributeError or
    ImportError if there is no such method.
    """

    def __init__(self, places: list[str], load: str, use: Callable[[], None]) -> None:
        self._load = load
        self._use = use
        self._patches = Patches()
        self._lock = RLock()  # reentrant: a signal handler may use the library, too
        self._has_begun = self._is_done = False
        self._restored: set[tuple[type, str]] = set()
        found = []
        for place in places:
            module, _, path = place.partition(":")
            kind, _, name = path.partition(".")
            owner = getattr(importlib.import_module(module), kind)
            getattr(owner, name)
            found.append((owner, name))
        for owner, name in found:
            self._patches.replace(owner, name, functools.partial(self._replacement, owner, name))
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def undo(self) -> None:
        """Put the methods back."""
        self._has_begun = self._is_done = True
        self._patches.restore()

    def _renew(self) -> None:
        """Begin anew in the child of a fork, which has no other threads."""
        self._lock = RLock()
        self._has_begun = self._is_done

    def _replacement(self, owner: type, name: str, original: Callable[..., Any]) -> Any:
        def current() -> Callable[..., Any]:
            self._begin()
            # Where another package has wrapped the replacement, a call of the whole would pass that package twice.
            return getattr(owner, name) if (owner, name) in self._restored else original

        if getattr(getattr(original, "__code__", None), "co_flags", 0) & _CO_COROUTINE:
            # With the parameters of the methods that are known: uvicorn calls an application without any, and takes it for
            # a factory if that does not raise.
            @functools.wraps(original)
            async def serve(self: Any, scope: Any, receive: Any, send: Any) -> Any:
                return await current()(self, scope, receive, send)

            @functools.wraps(original)
            async def send(self: Any, request: Any) -> Any:
                return await current()(self, request)

            return serve if name == "__call__" else send

        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return current()(*args, **kwargs)

        return method

    def _begin(self) -> None:
        if self._is_done or not self._lock.acquire(timeout=_WAIT_S):
            return
        try:
            if not self._has_begun:
                self._has_begun = True
                try:
                    importlib.import_module(self._load)
                except Exception:  # which use() deals with
                    pass
                self._restored.update(self._patches.restore())
                self._use()
                self._is_done = True
        finally:
            self._lock.release()
