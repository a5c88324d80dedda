"""Opt-in patches of the standard library, for code that cannot be changed: threads, pools of threads, subprocesses.

A patch stays in place while another library's patch is on top of it: it is switched off, and calls the original.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from _thread import RLock  # threading itself is not needed to import tracekit
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from .._core.scopes import current_context, current_scope, current_span, linked_scope, swap_scope
from .._import_hook import ImportHook
from .._propagation import environ_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping

    from .._core.scopes import Scope


_lock = RLock()
_patches: dict[tuple[type, str], _Patch] = {}
_on = False

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def install_hooks() -> None:
    """Patch the standard library so that code which knows nothing of tracekit hands the current trace on.

    A ``threading.Thread`` or ``Timer`` runs in the context of its start. A job of a
    ``concurrent.futures.ThreadPoolExecutor`` or ``multiprocessing.pool.ThreadPool`` runs in the context in which it is
    submitted, never in that of another job; the workers themselves start with nothing current. A daemon thread may
    serve others for long: its spans are children only until the span that started it ends, and then roots, linked to
    it. ``subprocess.Popen`` puts the trace into the environment, unless *env* names one itself; uvloop's processes are
    not covered. Only the trace is propagated, no other context variable.

    Call it once, early: a second call has no effect, and threads and jobs that were started before are not affected.
    It imports nothing: a module that the program imports later is patched then.
    """
    global _on
    with _lock:
        _on = True
        _imports.install()  # first: a second patch of a module that another thread imports now has no effect
    for name in _imports.modules:
        if sys.modules.get(name) is not None:  # None: the program forbids the import
            _patch(name, importlib.import_module(name))  # waits for a thread that imports it


def _patch(module_name: str, module: Any) -> None:
    """Replace the methods of a class of *module*, unless they are replaced already; a replaced module may lack them."""
    class_name, hooks = _METHODS[module_name]
    owner: Any = getattr(module, class_name, None)
    with _lock:
        for name, hook in hooks.items() if _on and isinstance(owner, type) else ():
            patch = _patches.get((owner, name))
            if hasattr(owner, name) and (patch is None or patch.is_gone()):
                _patches[owner, name] = _Patch(owner, name, hook)


def remove_hooks() -> None:
    """Restore the methods that ``install_hooks()`` replaced, except those that others have patched since."""
    global _on
    with _lock:
        _imports.remove()
        _on = False
        for key, patch in list(_patches.items()):
            if patch.take_out() or patch.is_gone():
                del _patches[key]


class _Patch:
    """A method of *owner* that calls *hook* instead, with the scope and the original.

    Where there is no scope, only hooks of a pool's jobs are called: an earlier job may have left one open in the
    worker.
    """

    __slots__ = ("_function", "_is_inherited", "_name", "_owner")

    def __init__(self, owner: type, name: str, hook: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        is_for_jobs = hook in (_submit, _pool_job)

        @functools.wraps(original)
        def function(*args: Any, **kwargs: Any) -> Any:
            if not _on:
                return original(*args, **kwargs)
            scope = current_scope()
            if scope is None and not is_for_jobs:
                return original(*args, **kwargs)
            return hook(scope, original, args, kwargs)

        self._owner, self._name, self._function = owner, name, function
        self._is_inherited = name not in vars(owner)
        setattr(owner, name, function)

    def take_out(self) -> bool:
        """Undo the patch, unless another patch has replaced it; return whether it is undone."""
        if getattr(self._owner, self._name) is not self._function:
            return False
        if self._is_inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._function.__wrapped__)
        return True

    def is_gone(self) -> bool:
        """Whether the original has been put back; otherwise the patch is in place, or under another one."""
        found = getattr(self._owner, self._name)
        beneath: Any = self._function
        while (beneath := getattr(beneath, "__wrapped__", None)) is not None:
            if beneath is found:
                return True
        return False


def _inside(scope: Scope | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call *function* in *scope*, which closes the scopes that it leaves open."""
    held = swap_scope(scope)
    try:
        return function(*args, **kwargs)
    finally:
        swap_scope(held)


# ---- threads


def _start(scope: Scope, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        is_daemon = args[0].daemon
    except Exception:  # not a thread that can be started: the original raises the error
        return original(*args, **kwargs)
    context = current_context()
    if is_daemon and context is not None:
        scope = linked_scope(context if context.is_valid else None, until=current_span())
    # With nothing current, so that a thread that inherits the Context of its start inherits no other scope.
    start = functools.partial(_inside, None, original, *args, **kwargs)
    return start_inside(args[0], functools.partial(_inside, scope), start)


def start_inside(
    thread: threading.Thread, inside: Callable[[Callable[[], Any]], Any], start: Callable[[], None]
) -> None:
    """Call *start*, which starts *thread*, so that *inside* calls its ``run()``, also where a subclass has its own.

    Nothing is kept once the thread runs, or cannot be started. A *context* that the thread was given wins.
    """
    run = _put_run(thread, inside)
    try:
        start()
    except Exception:
        if run is not None:
            run.take_out(thread)
        raise


def _put_run(thread: Any, inside: Callable[[Callable[[], Any]], Any]) -> _Run | None:
    try:
        attributes = vars(thread)
        if isinstance(attributes.get("_context"), Context):
            return None
        run = _Run(thread.run, attributes.get("run"), inside)
    except Exception:  # not a thread that can be started
        return None
    # A bound method, as the original is one: Sentry's patch calls its __func__ with the thread.
    attributes["run"] = types.MethodType(run, thread)
    return run


class _Run:
    """Replaces ``run`` of a thread until the thread runs."""

    __slots__ = ("_before", "_inside", "_run")

    def __init__(self, run: Callable[[], Any], before: Any, inside: Callable[[Callable[[], Any]], Any]) -> None:
        self._run = run
        self._before = before  # a run of the thread's own, not of its class
        self._inside: Callable[[Callable[[], Any]], Any] | None = inside

    def __call__(self, thread: threading.Thread) -> Any:
        self.take_out(thread)
        inside, self._inside = self._inside, None
        return self._run() if inside is None else inside(self._run)

    def take_out(self, thread: threading.Thread) -> None:
        attributes = vars(thread)
        if getattr(attributes.get("run"), "__func__", None) is not self:
            return  # another library's, around this one
        if self._before is None:
            attributes.pop("run", None)
        else:
            attributes["run"] = self._before


# ---- pools of threads


def _submit(scope: Scope | None, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    # Arguments for another interpreter are pickled, or shared.
    if len(args) > 1 and not _is_executor(args[0], "concurrent.futures.interpreter", "InterpreterPoolExecutor"):
        args = (args[0], _inside, scope, *args[1:])
    return _in_nothing(scope, original, args, kwargs)


def starts_threads(executor: object) -> bool:
    """Tell whether ``submit()`` of *executor* starts threads, which may inherit the Context that it is called in."""
    return _is_executor(executor, "concurrent.futures.thread", "ThreadPoolExecutor")


def starts_processes(executor: object) -> bool:
    """Tell whether *executor* calls functions in other processes."""
    return _is_executor(executor, "concurrent.futures.process", "ProcessPoolExecutor")


def _is_executor(executor: object, module: str, name: str) -> bool:
    pools = sys.modules.get(module)  # a program that has such an executor has imported it
    return pools is not None and isinstance(executor, getattr(pools, name))


def _in_nothing(scope: Scope | None, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:  # noqa: ARG001
    """Call *original* with nothing current: a worker that it starts serves others too."""
    return _inside(None, original, *args, **kwargs)


# All that take a function, but apply(), which calls apply_async().
_POOL_JOBS = ["apply_async", "imap", "imap_unordered", "map", "map_async", "starmap", "starmap_async"]


def _pool_job(scope: Scope | None, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if len(args) > 1:
        args = (args[0], functools.partial(_inside, scope, args[1]), *args[2:])
    elif "func" in kwargs:
        kwargs["func"] = functools.partial(_inside, scope, kwargs["func"])
    return original(*args, **kwargs)


# ---- subprocesses

_PREEXEC, _ENV = 7, 11  # the places of preexec_fn and env among the arguments of Popen.__init__, self included


def put_into_environment(
    scope: Scope,  # noqa: ARG001
    original: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> Any:
    """Call ``Popen.__init__()``, or a function that takes *env* by keyword, with the current context in *env*."""
    value: Any
    if current_context() is not None:
        try:
            env = args[_ENV] if len(args) > _ENV else kwargs.get("env")
            preexec_fn = args[_PREEXEC] if len(args) > _PREEXEC else kwargs.get("preexec_fn")
            if env is None and preexec_fn is not None:  # which may change the environment of the child
                place, name, value = _PREEXEC, "preexec_fn", _in_child(preexec_fn)
            else:
                place, name, value = _ENV, "env", _with_trace(env)
            if len(args) > place:
                args = (*args[:place], value, *args[place + 1 :])
            else:
                kwargs[name] = value
        except Exception:  # not an environment: the original raises the error
            pass
    return original(*args, **kwargs)


def _in_child(preexec_fn: Callable[[], object]) -> Callable[[], object]:
    """Return a function that puts the current context into ``os.environ``, in the child, and calls *preexec_fn*."""
    before = dict(os.environ)
    traced = environ_of(before)
    changes = {name: traced.get(name) for name in before | traced if traced.get(name) != before.get(name)}

    def preexec() -> object:
        for name, value in changes.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        return preexec_fn()

    return preexec


def _with_trace(env: Mapping[Any, Any] | None) -> Mapping[Any, Any]:
    """Return the environment of a subprocess that is started with *env*; *env* itself if it names a trace."""
    if env is None:
        return environ_of(os.environ)
    given = {os.fsdecode(name): os.fsdecode(value) for name, value in env.items()}
    traced = environ_of(given)
    for name, value in given.items():
        # A trace in a copy of os.environ is the one that this process was started with.
        if traced.get(name) != value != os.environ.get(name):
            return env
    return traced


# By module: a class, and the hooks of its methods.
_METHODS: Final[dict[str, tuple[str, dict[str, Callable[..., Any]]]]] = {
    "threading": ("Thread", {"start": _start}),
    "concurrent.futures.thread": ("ThreadPoolExecutor", {"submit": _submit}),
    "subprocess": ("Popen", {"__init__": put_into_environment}),
    "multiprocessing.pool": ("ThreadPool", {"__init__": _in_nothing, **dict.fromkeys(_POOL_JOBS, _pool_job)}),
}
_imports: Final = ImportHook()
_imports.modules.update(_METHODS)
_imports.imported = lambda name: _patch(name, sys.modules[name])
