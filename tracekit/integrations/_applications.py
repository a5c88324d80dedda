"""Trace a framework's applications, all or single ones, without a change to the program.

The ``__call__`` of the framework's classes is replaced, once. The replacement calls the application's middleware, which
it keeps in the application's ``__dict__``: made for the one application by ``instrument(app)``, or at its first request
if all are traced. So the application may have been built, and may have answered requests, before. A copy of an
application, which has the entry of the first, gets its own.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

from ._patch import Patches

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY: Final = "_tracekit"  # in the __dict__ of an application


class _Installed:
    """The middleware of *app*. *default* is the one that it was copied from, None for an explicit one."""

    __slots__ = ("app", "default", "middleware", "original")

    def __init__(self, app: Any, default: Any, middleware: Any) -> None:
        self.app = app
        self.default = default
        self.middleware = middleware
        self.original: Any = None  # the __call__ that the middleware calls; of another class, __call__ passes through


class Applications:
    """The applications of the classes *kinds*, each a name with its module.

    ``wrap(applications, original)`` makes the replacement of a class's ``__call__``: it asks ``find()`` for each
    request. ``patch(patches, kind)`` makes further replacements for the class *kind*, and for those of *others*,
    which are no applications.
    """

    def __init__(
        self,
        names: str,
        kinds: tuple[tuple[str, str], ...],
        wrap: Callable[[Applications, Any], Any],
        patch: Callable[[Patches, type], None],
        others: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._names = names
        self._kinds = kinds
        self._others = others
        self._wrap = wrap
        self._patch_more = patch
        self._patches = Patches()
        self._patched: set[type] = set()
        self._default: Any = None  # the middleware whose options hold for all applications
        self._singles = 0  # number of applications that are instrumented one by one

    def instrument(self, target: Any, middleware: Any) -> None:
        """Serve *target*, or all applications, with copies of *middleware*."""
        if target is None:
            self._default = self._default or middleware
        else:
            self._check(target)
            if _single(target) is not None:
                return
            vars(target)[_KEY] = _Installed(target, None, middleware)
            self._singles += 1
        self._patch()

    def uninstrument(self, target: Any) -> None:
        """Undo ``instrument()`` with the same target."""
        if target is None:
            self._default = None
        else:
            self._check(target)
            if _single(target) is None:
                return
            del vars(target)[_KEY]
            self._singles -= 1
        if self._default is None and not self._singles:
            self._patches.restore()
            self._patched.clear()

    def find(self, app: Any, original: Any) -> Any:
        """Return the middleware that *app* is served with, or None: call *original*."""
        installed = app.__dict__.get(_KEY)
        if (
            installed is None
            or installed.app is not app
            or installed.original is None
            or (installed.default or self._default) is not self._default
        ):
            installed = self._install(app, original)
            if installed is None:
                return None
        return installed.middleware if installed.original is original else None

    def _install(self, app: Any, original: Any) -> _Installed | None:
        installed = _single(app)
        if installed is None:
            if self._default is None:
                return None
            installed = _Installed(app, self._default, copy.copy(self._default))
            # If a class was imported after instrument(), the next request passes its __call__ first.
            if not self._patch():
                vars(app)[_KEY] = installed
            kind = type(self._default)
            for middleware in getattr(app, "user_middleware", ()):
                if isinstance(middleware.cls, type) and issubclass(middleware.cls, kind):
                    installed.original = kind  # the program's own middleware traces it
        else:
            self._patch()
        if installed.original is None:
            installed.original = original
            installed.middleware.app = functools.partial(original, app)
        return installed

    def _check(self, target: Any) -> None:
        found = [getattr(sys.modules.get(module), name, None) for module, name in self._kinds]
        if not isinstance(target, tuple(kind for kind in found if kind is not None)):
            raise TypeError(
                f"target must be a {self._names} application, not {type(target).__name__}; put TraceMiddleware around "
                "other applications"
            )

    def _patch(self) -> bool:
        """Patch the classes that are imported and not yet patched; return whether there were any."""
        before = len(self._patched)
        for module, name in (*self._kinds, *self._others):
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and kind not in self._patched:
                self._patched.add(kind)
                if (module, name) in self._kinds and "__call__" in vars(kind):
                    self._patches.replace(kind, "__call__", functools.partial(self._wrap, self))
                self._patch_more(self._patches, kind)
        return len(self._patched) > before


def _single(app: Any) -> _Installed | None:
    """Return the entry that ``instrument(app)`` made, or None."""
    installed: _Installed | None = vars(app).get(_KEY)
    return installed if installed is not None and installed.app is app and installed.default is None else None
