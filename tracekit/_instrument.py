"""``instrument()``: trace libraries, natively or by OpenTelemetry's instrumentors; each when it is first imported.

How it works: a wanted library that is imported already is instrumented at once. For the others the import hook
(``_import_hook.py``) reports the import. The table of ``_libraries.py`` has the integration, a module that is loaded by
name then. OpenTelemetry's instrumentors run on tracekit's spans, because the bridge is installed before the first of
them.

Threads may call these at the same time. They change the wanted state under ``_lock``; then one thread a library, which
has claimed it, brings the library to that state, without the lock: integrations and imports are other people's code,
and the import hook must not wait. A thread that finds a library claimed returns, and the claiming thread continues
until the library is in the wanted state.
"""

from __future__ import annotations

import importlib
import sys
from _thread import RLock, get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ._configure import configure
from ._core.errors import clip
from ._core.log import log
from ._export.notices import describe
from ._forks import call_in_child
from ._import_hook import HOOK
from ._libraries import chosen, libraries, names, resolve
from ._plugins import BRIDGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._export.exporter import Exporter
    from ._libraries import Library

_FLUSH_S = 2.0  # supervisors wait longer before they kill
_KINDS = ("app", "client", "connection")  # OpenTelemetry's methods for single objects are called after them

_wanted: dict[Library, dict[str, Any]] = {}  # the libraries that instrument() was called for, and its options
_undo: dict[Library, Callable[[], object]] = {}  # of the instrumented libraries
_done: dict[Library, tuple[set[str], int]] = {}  # the entry of _reported that it was instrumented for, and its length
_failed: dict[Library, str] = {}  # the reason, by library
_claims: set[Library] = set()  # libraries that a thread is instrumenting
_reported: dict[Library, set[str]] = {}  # the modules whose import is dealt with
_partial: set[Library] = set()  # failed during an import that they need; tried again after the next import
_deferred: dict[int, list[str]] = {}  # by thread that instruments: modules that were imported meanwhile
_lock = RLock()  # reentrant: a signal handler may import a library


def _after_fork() -> None:
    """Forget the threads of the parent: their lock, and their claims."""
    global _lock
    _lock = RLock()
    _claims.clear()
    _deferred.clear()


call_in_child(_after_fork)


def instrument(*targets: Any, **options: Any) -> None:
    """Trace every library that is installed, those named, or single objects.

    - ``instrument()``: every library that tracekit, a third party's integration, or an installed instrumentor of
      OpenTelemetry can trace, except those that only names select. ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` excludes.
    - ``instrument("httpx", "sqlalchemy")``: these. A module's name is as good: ``"fastapi"`` means ``"asgi"``.
    - ``instrument(app)``, ``instrument(client)``, ``instrument(engine)``: this object alone.

    A library that is imported already is instrumented now, the others when they are first imported. tracekit's own
    integrations come first; the bridge is installed before the first instrumentor of OpenTelemetry, and no library is
    traced by both. *options* go to each integration. Calling it again has no effect.

    A library that cannot be instrumented is logged once and left alone; ``tracekit doctor`` lists versions that do not
    fit. Raises ``ValueError`` for an unknown name, ``TypeError`` for an object that no integration takes.
    """
    if not targets and options:
        raise TypeError("options need the name of a library, or an object")
    wanted = [named(target) for target in targets if isinstance(target, str)]
    for target in targets:
        if not isinstance(target, str):
            _instrument_object(target, options)
    for library in wanted if targets else chosen():
        _want(library, options)


def uninstrument(*targets: Any) -> None:
    """Undo ``instrument()`` with the same arguments; without any, for all libraries, but not for single objects."""
    unwanted = [named(target) for target in targets if isinstance(target, str)]
    for target in targets:
        if not isinstance(target, str):
            _object_methods(target)[1](target)
    for library in unwanted if targets else [*_wanted]:
        for one in (library, *library.instead):
            with _lock:
                for state in (_wanted, _reported, _failed):
                    state.pop(one, None)
                _partial.discard(one)
            _settle(one)
    with _lock:
        HOOK.modules = {module for library in _wanted for module in library.modules}
        if not _wanted:
            HOOK.remove()


def instrumented() -> dict[str, str]:
    """Return the package that traces each instrumented library: "tracekit", or another distribution."""
    return {library.name: library.package for library in [*_undo]}


def traced_twice(name: str) -> str | None:
    """Return the library that is traced natively, and that the OpenTelemetry instrumentor in the module *name* traces, too."""
    for library in [*_undo]:
        if any(other.load.partition(":")[0] == name for other in library.instead):
            return library.name
    return None


def failures() -> dict[str, str]:
    """Return the reason for each library that could not be instrumented."""
    return {library.name: reason for library, reason in _failed.copy().items()}


def run_program(wanted: list[Library]) -> None:
    """Configure from the environment, and instrument *wanted*: the part of ``tracekit run`` inside the program."""
    from ._environment import Environment  # as in configure()

    HOOK.imported = _imported
    environment = Environment()
    if environment.exporter_name() == "none":
        configure()
    else:
        from ._export.stand_ins import LaterExporter

        # At once with a spool: it may hold batches of an earlier process, to be sent even if this one makes no spans.
        configure(exporter=LaterExporter(_make_exporter, at_once=bool(environment.text("TRACEKIT_SPOOL"))))
        _flush_on_sigterm()
    for library in wanted:
        _want(library, {})


def _flush_on_sigterm() -> None:
    """Export before SIGTERM's default action: uvicorn takes it after its own shutdown, also when it reloads."""
    import signal

    from ._signals import flush_on_signal

    try:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            flush_on_signal(signal.SIGTERM, timeout_s=_FLUSH_S)
    except (RuntimeError, ValueError):  # not in the main thread, or not of the main interpreter
        pass


def _make_exporter() -> Exporter | None:
    from ._environment import Environment, say

    environment = Environment()
    exporter = environment.exporter()
    say(environment.wrong.values())
    return exporter


def named(name: str) -> Library:
    """Return the library *name*; raise ValueError with similar names."""
    library = resolve(name)
    if library is None:
        import difflib  # only for this message

        known = names()
        near = difflib.get_close_matches(name, known, 3, 0.6)
        other = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"no integration for {clip(name)}: {other} (tracekit doctor names the packages for others)")
    return library


# ---- whole libraries


def _want(library: Library, options: dict[str, Any]) -> None:
    """Instrument *library* now if it is imported, and at its next import."""
    with _lock:
        _wanted.setdefault(library, options)
        HOOK.modules.update(library.modules, *[other.modules for other in library.instead])
        HOOK.imported = _imported
        HOOK.install()
    if not library.modules:
        _instrument(library, "")
    for name in library.modules:
        module = sys.modules.get(name)
        if module is None or name in HOOK.loading:  # reported when its code has run
            continue
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            try:
                importlib.import_module(name)  # another thread's import: wait for its end
            except Exception:  # raised by the library: its importer gets it
                continue
        _instrument(library, name)


def _imported(name: str) -> None:
    """Instrument the libraries of the module *name*, which has just been imported or reloaded."""
    deferred = _deferred.get(get_ident())
    if deferred is not None:  # by an integration or an instrumentor, which need not be complete yet
        deferred.append(name)
        return
    again: dict[Library, set[str]] = {}
    with _lock:
        for library in _partial:
            again[library] = _reported.pop(library, set())
        _partial.clear()
        for library in _wanted:
            if name in library.modules:
                if name in _reported.get(library, ()):  # a reload has replaced its patched classes
                    _reported.pop(library)
                again.setdefault(library, set()).add(name)
    for library, modules in again.items():
        _instrument(library, *modules)


def _instrument(library: Library, *modules: str) -> None:
    """Instrument *library*, whose *modules* are imported."""
    with _lock:
        if library not in _wanted:  # another thread has undone it meanwhile
            return
        _reported.setdefault(library, set()).update(modules)
    _settle(library)


def _settle(library: Library) -> None:
    """Instrument or uninstrument *library*, as is wanted now, unless another thread does so already."""
    with _lock:
        if library in _claims:
            return
        _claims.add(library)
    thread = get_ident()
    is_outermost = thread not in _deferred
    _deferred.setdefault(thread, [])
    try:
        while True:
            with _lock:
                options, seen = _wanted.get(library), _reported.get(library)
                done, count = _done.get(library, (None, 0))
                is_stale = library in _undo and done is not seen  # undone, or reloaded
                if not is_stale:
                    if options is None or seen is None or (done is seen and count == len(seen)):
                        _claims.discard(library)  # under the same lock, so that no change is missed
                        break
                    _done[library] = seen, len(seen)
            if is_stale:
                _turn_off(library)
            elif options is not None:
                use = _use_instrumentor if library.is_opentelemetry else _use_integration
                use(library, options)
                _failed.pop(library, None)
    except Exception as error:  # the library works as before, untraced
        reason = describe(error)
        with _lock:
            if library in _wanted:
                is_new = library not in _failed
                if "partially initialized module" in reason:
                    _partial.add(library)
                    is_new = False
                _failed[library] = reason
            else:
                is_new = False
            if not library.modules:
                _done.pop(library, None)  # the next call of instrument() tries again
            _claims.discard(library)
        if is_new:
            log("warning", "%s is not traced: %s", library.name, reason)
    except BaseException:  # such as KeyboardInterrupt
        with _lock:
            _claims.discard(library)
        raise
    finally:
        for name in _deferred.pop(thread, ()) if is_outermost else ():
            _imported(name)


def _use_integration(library: Library, options: dict[str, Any]) -> None:
    """Call ``instrument()`` of an integration, again for each of its modules: it may have left out the others."""
    for other in library.instead:
        if _is_on(other) and other not in _undo:
            raise RuntimeError(f"the program has instrumented it with {other.package}")
    try:
        module = importlib.import_module(library.load)
        turn_on, turn_off = module.instrument, module.uninstrument
    except (ImportError, AttributeError):  # not for this version of the library
        if not library.instead:
            raise
        for other in library.instead:
            _want(other, {})
        return
    was_on = library in _undo
    _undo[library] = turn_off
    try:
        turn_on(**options)
    except Exception:
        if not was_on:
            _turn_off(library)  # half of its patches
        raise


def _use_instrumentor(library: Library, options: dict[str, Any]) -> None:
    """Call ``instrument()`` of an OpenTelemetry instrumentor."""
    if library in _undo:
        return
    if _is_on(library):
        raise RuntimeError(f"the program has instrumented it with {library.package}")
    instrumentor = _instrumentor(library)
    # It compares the library's version with those that it supports, as opentelemetry-instrument does.
    instrumentor.instrument(raise_exception_on_conflict=True, **options)
    if not instrumentor.is_instrumented_by_opentelemetry:
        raise RuntimeError(f"{library.package} does not support its version")
    _undo[library] = instrumentor.uninstrument


def _instrumentor(library: Library) -> Any:
    """Return the instrumentor of *library*, with tracekit under OpenTelemetry's API."""
    bridge, install = BRIDGE
    getattr(importlib.import_module(bridge), install)()
    name, _, kind = library.load.partition(":")
    return getattr(importlib.import_module(name), kind)()


def _is_on(library: Library) -> bool:
    """Return whether the instrumentor of *library* is in use already; it is not imported to find that out."""
    name, _, kind = library.load.partition(":")
    instrumentor = getattr(getattr(sys.modules.get(name), kind, None), "_instance", None)
    return bool(getattr(instrumentor, "is_instrumented_by_opentelemetry", False))


def _turn_off(library: Library) -> None:
    undo = _undo.pop(library, None)
    _done.pop(library, None)
    if undo is None:
        return
    try:
        undo()
    except Exception as error:
        log("warning", "%s could not be uninstrumented: %s", library.name, describe(error))


# ---- single objects


def _instrument_object(target: Any, options: dict[str, Any]) -> None:
    made = _object_methods(target)[0](target, **options)
    if made is not None and made is not target:  # OpenTelemetry's proxy of a connection, which the program does not use
        raise TypeError(_only_as_a_whole(target, _library_of(target)))


def _object_methods(target: Any) -> tuple[Callable[..., object], Callable[..., object]]:
    """Return the functions that instrument and uninstrument *target*; raise TypeError if there are none."""
    library = _library_of(target)
    for one in () if library is None else (library, *library.instead):
        if not one.is_opentelemetry:
            try:
                module = importlib.import_module(one.load)
                return module.instrument, module.uninstrument
            except (ImportError, AttributeError):  # not for this version of the library
                continue
        instrumentor = _instrumentor(one)
        for kind in _KINDS:
            turn_on = getattr(instrumentor, f"instrument_{kind}", None)
            if turn_on is not None:
                return turn_on, getattr(instrumentor, f"uninstrument_{kind}")
    if isinstance(target, type):
        raise TypeError(f"no integration takes a class: pass an object, not {target.__module__}.{target.__qualname__}")
    if isinstance(target, ModuleType):
        raise TypeError(f'no integration takes a module: write its name, tracekit.instrument("{target.__name__}")')
    raise TypeError(_only_as_a_whole(target, library))


def _only_as_a_whole(target: Any, library: Library | None) -> str:
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    whole = "" if library is None else f'; tracekit.instrument("{library.name}") traces the whole library'
    return f"no integration takes a {kind}{whole}"


def _library_of(target: Any) -> Library | None:
    """Return the library whose module, or a module in it, has the class of *target* or one of its bases."""
    # An integration that replaces an instrumentor traces the library that this is named after.
    known = {name: library for library in libraries().values() for name in library.replaces}
    known |= {module: library for library in libraries().values() for module in library.modules}
    for kind in type(target).__mro__:
        name = str(kind.__module__)
        while name:
            if name in known:
                return known[name]
            name = name.rpartition(".")[0]
    return None
