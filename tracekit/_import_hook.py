"""A meta path finder that reports the first import of some modules, right after their code has run.

Plain Python with hardly any import, because ``tracekit run`` loads this file into every interpreter.

How it works: the finder asks the finders behind it, and puts a loader in place of theirs. That loader gives the module
its real loader back before the module's code runs, so neither the module nor a debugger sees it.
"""

from __future__ import annotations

import sys
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Final

    from ._libraries import Library


def _ignore(_: str) -> None:
    pass


class ImportHook:
    """Calls ``imported(name)`` after each import, or reload, of one of ``modules``; both may be replaced at any time.

    The call is made in the importing thread, which holds the lock of that module: ``imported`` must not wait for
    another thread. An exception that it raises is ignored. A module whose code raises is not reported; when the program
    tries it again, it is. Namespace packages have no code and are not reported. ``loading`` are the modules whose code
    is running, which are to be reported.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.imported: Callable[[str], None] = _ignore
        self.loading: set[str] = set()
        # Searches that are under way: another hook of this kind may ask this one again.
        self._searches: set[tuple[int, str]] = set()

    def install(self) -> None:
        """Put the hook before all finders; a second call has no effect."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Take the hook out, also where threads have put it in twice; imports that are under way are still reported."""
        try:
            while True:
                sys.meta_path.remove(self)
        except ValueError:  # it is not there, any more
            pass

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec that the other finders make for *name*, with a loader that reports, or None."""
        if name not in self.modules:
            return None
        search = (get_ident(), name)
        if search in self._searches:
            return None
        self._searches.add(search)
        try:
            spec = self._ask(name, path, target)
        finally:
            self._searches.discard(search)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
        return spec

    def _ask(self, name: str, path: Any, target: Any) -> ModuleSpec | None:
        """Ask the finders behind this one; their exceptions are for the program."""
        finders = list(sys.meta_path)
        at = finders.index(self) + 1 if self in finders else 0
        for finder in finders[at:]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None

    def run(self, name: str, module: ModuleType, loader: Any) -> None:
        """Run the code of *module*, then report it."""
        self.loading.add(name)
        try:
            loader.exec_module(module)
        finally:
            self.loading.discard(name)
        try:
            self.imported(name)
        except Exception:  # the program's import has succeeded
            pass


class _Loader:
    """The loader in place of *inner* until the module's code runs."""

    def __init__(self, inner: Any, hook: ImportHook) -> None:
        self._inner, self._hook = inner, hook

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # not set: an object that copy() made
            raise AttributeError(name)
        return getattr(self._inner, name)

    @property  # type: ignore[misc]  # code that finds a spec without importing may check the type of its loader
    def __class__(self) -> Any:
        return type(self._inner)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._inner, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        name = module.__name__ if spec is None else spec.name
        for owner, attribute in ((spec, "loader"), (module, "__loader__")):
            if getattr(owner, attribute, None) is self:
                setattr(owner, attribute, self._inner)
        self._hook.run(name, module, self._inner)


HOOK: Final = ImportHook()


def start(wanted: list[Library], run: Callable[[list[Library]], None]) -> None:
    """Call ``run(wanted)`` when the program imports the first of *wanted*, or tracekit.

    This is the start of ``tracekit run`` inside the program; *run* loads tracekit, configures it and instruments
    *wanted*.
    """
    is_loading = False

    def load(name: str) -> None:
        nonlocal is_loading
        # When tracekit is loading, the import is its own or another thread's: run_program() looks for it.
        if is_loading or name not in reasons:
            return
        is_loading = True
        try:
            run(wanted)
        except Exception as error:  # the program runs, untraced
            HOOK.remove()
            sys.stderr.write(f"tracekit: not traced: {type(error).__name__}: {error}\n")

    reasons = {name for library in wanted if not library.is_late for name in library.modules} | {"tracekit"}
    HOOK.imported = load
    HOOK.modules.update(reasons, *[one.modules for library in wanted for one in (library, *library.instead)])
    HOOK.install()
    for name in reasons.intersection(sys.modules):
        load(name)
