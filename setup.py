"""Compile the codecs, and the files of the model that have a ``.pxd``. All metadata and settings are in pyproject.toml."""

import multiprocessing
import os
import sys
from pathlib import Path

from setuptools import Extension, setup

WANTED = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") in {"", "0"} and sys.implementation.name == "cpython"
PACKAGE = Path("tracekit")

# CFLAGS that name a level, as those of the sanitizers do (tests/tools/asan.py), are left alone: the last one counts.
OPTIMIZATION = [] if sys.platform == "win32" or "-O" in os.environ.get("CFLAGS", "") else ["-O3", "-g0", "-fno-plt"]
# Symbols are needed by none but a debugger, and are a tenth of the wheel.
STRIP = ["-Wl,-s"] if OPTIMIZATION and sys.platform == "linux" else []


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    built = cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                # For the source distribution; what a changed file compiles again is told by Cython.
                depends=sorted(map(str, PACKAGE.rglob("*.p[yx][xid]"))) if source.suffix == ".pyx" else [],
                extra_compile_args=OPTIMIZATION,
                extra_link_args=STRIP,
            )
            for source in map(Path, ["tracekit/_speedups.pyx", *modules()])
        ],
        # Processes that do not begin by importing this file again.
        nthreads=(os.cpu_count() or 1) if multiprocessing.get_start_method() == "fork" else 0,
        # Types are those of the .pxd files; annotations are for type checkers. What Cython pickles of its own accord may
        # crash: it takes a pointer for text. Signatures are embedded for inspect: methods are descriptors.
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,
            "auto_pickle": False,
            "embedsignature": True,
            "embedsignature.format": "clinic",
        },
    )
    for extension in built:
        # Without a compiler the install goes on, plain; a release without its extensions is no release.
        # Set here because cythonize() drops the argument.
        extension.optional = "CIBUILDWHEEL" not in os.environ
    return built


def modules() -> list[str]:
    """Return the Python files that are compiled: those with a ``.pxd``, but for the one that is inlined everywhere."""
    stems = [path.with_suffix(".py") for path in sorted(PACKAGE.rglob("*.pxd"))]
    return [str(path) for path in stems if path.exists() and path.name != "interpreter.py"]


setup(
    ext_modules=extensions() if WANTED else [],
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
