"""Python imports this at its start, in each interpreter under ``tracekit run``: it has the program traced.

Any Python may read this file, old ones included, so it is plain and imports only ``os`` and ``sys``. It does nothing where
``TRACEKIT_RUN`` is not set, and where tracekit cannot be imported. Nothing of tracekit but two small files is loaded until
the program imports a library that can be traced, or tracekit.
"""

import os
import sys


def _start():
    # type: () -> None
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != here]
    settings = [os.environ.get(name, "") for name in ("TRACEKIT_RUN_ONLY", "TRACEKIT_RUN_EXCLUDE")]
    if os.environ.get("TRACEKIT_RUN") == "self":  # not its children
        entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry != here)
        for name in ("TRACEKIT_RUN", "TRACEKIT_RUN_ONLY", "TRACEKIT_RUN_EXCLUDE"):
            os.environ.pop(name, None)
        if not os.environ["PYTHONPATH"]:
            del os.environ["PYTHONPATH"]
    if sys.version_info >= (3, 11):  # noqa: UP036 - another Python's, that reads PYTHONPATH too
        try:
            _install(settings)
        except Exception as error:  # the program runs, untraced
            sys.stderr.write("tracekit: not traced: %s: %s\n" % (type(error).__name__, error))  # noqa: UP031


def _install(settings):
    # type: (list[str]) -> None
    spec = None
    for finder in sys.meta_path:
        spec = spec or finder.find_spec("tracekit", None)
    if spec is None or not spec.origin:
        return
    from _frozen_importlib_external import SourceFileLoader  # as importlib.machinery, which imports more

    folder = os.path.dirname(spec.origin)
    loaded = {}
    for name in ("_libraries", "_import_hook"):
        # Under their own names, so that tracekit later uses these and not second ones.
        full = "tracekit." + name
        module = type(sys)(full)
        module.__file__ = os.path.join(folder, name + ".py")
        module.__package__ = "tracekit"
        sys.modules[full] = loaded[name] = module
        SourceFileLoader(full, module.__file__).exec_module(module)
    loaded["_import_hook"].start(loaded["_libraries"].chosen(*settings), _run)


def _run(wanted):
    # type: (object) -> None
    from tracekit._instrument import run_program

    run_program(wanted)  # type: ignore[arg-type]


def _import_next():
    # type: () -> None
    """Import the program's own ``sitecustomize``, which this one hides."""
    ours = sys.modules.pop("sitecustomize", None)
    try:
        __import__("sitecustomize")
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
    finally:
        if ours is not None:
            sys.modules.setdefault("sitecustomize", ours)


if os.environ.get("TRACEKIT_RUN"):
    _start()
    if __name__ == "sitecustomize":
        _import_next()
