"""The physical floors: context managers compiled on the fly, and what an import costs in a fresh interpreter."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CONTEXT_MANAGERS", "context_manager", "import_ns"]

# The classes in floor.pyx, by the row whose floor they are.
CONTEXT_MANAGERS = {"floor": "SetAgain", "token_floor": "ResetByToken"}

_SOURCE = Path(__file__).with_name("floor.pyx")
_CACHE = Path(__file__).parents[1] / ".cache"
_IMPORT = """
import os, sys
sys.path[:0] = {path!r}
from time import process_time_ns as clock
begin = clock()
import {module}
print(clock() - begin)
"""


def context_manager(key: str) -> type:
    """Return the floor of the row *key*, compiled once for each version of ``floor.pyx`` and kept in the cache directory.

    Raises what stands in the way: no Cython, no compiler, no room.
    """
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]
    library = _CACHE / f"floor-{digest}" / f"floor{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not library.exists():
        _compile(library)
    spec = importlib.util.spec_from_file_location("floor", library)
    if spec is None or spec.loader is None:
        raise ImportError(f"no extension module: {library.name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, CONTEXT_MANAGERS[key])


def _compile(library: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    library.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole: a second run may look for it meanwhile.
    with tempfile.TemporaryDirectory(dir=library.parent) as directory:
        optimize = [] if sys.platform == "win32" else ["-O3"]
        extension = Extension("floor", [str(_SOURCE)], extra_compile_args=optimize)
        built = cythonize([extension], build_dir=directory, quiet=True)
        command = Distribution({"ext_modules": built}).get_command_obj("build_ext")
        command.build_lib = command.build_temp = directory  # type: ignore[attr-defined]
        command.ensure_finalized()
        command.run()
        (Path(directory) / library.name).replace(library)


def import_ns(modules: Mapping[str, str], repeats: int) -> dict[str, list[float]]:
    """Return how long importing each of *modules* took, *repeats* times in turn, each in a fresh interpreter.

    The start of the interpreter does not count, nor does a first import, which writes byte code. ``site`` is
    left out: what an editable install runs there imports half of the standard library beforehand.
    """
    figures: dict[str, list[float]] = {name: [] for name in modules}
    with tempfile.TemporaryDirectory() as byte_code:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": byte_code}
        for index in range(repeats + 1):
            for name, module in modules.items():
                command = [sys.executable, "-S", "-c", _IMPORT.format(path=_path(modules.values()), module=module)]
                done = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, env=environment
                )
                if index:
                    figures[name].append(float(done.stdout))
    return figures


def _path(modules: Iterable[str]) -> list[str]:
    """Return where the packages of *modules* lie."""
    found = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        steps = module.count(".") + (spec.submodule_search_locations is not None)
        found.append(str(Path(spec.origin).parents[steps]))
    return found
