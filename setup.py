"""Compile the codecs, and the files of the model that have a ``.pxd``. All metadata and settings are in pyproject.toml."""

import multiprocessing
import os
import sys
from pathlib import Path

from setuptools import Extension, setup

WANTED = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") in {"", "0"} and sys.implementation.name == "cpython"
PACKAGE = Path("tracekit")

# CFLAGS that name a level, as those of the sanitizers do (tests/tools/asan.py), are left alone: the last one counts.
OPTIMIZED = sys.platform != "win32" and "-O" not in os.environ.get("CFLAGS", "")
FLAGS = [
    "-g0",  # symbols serve only debuggers; so does what LINK removes
    "-fno-plt",  # calls of the interpreter take one jump less, and fewer octets
    "-fno-asynchronous-unwind-tables",  # they serve C++ exceptions and debuggers, and were a twentieth of the octets
]
LINK = ["-Wl,-s"] if OPTIMIZED and sys.platform == "linux" else []
# What every span runs is compiled for speed, the rest for size, in two thirds of the octets.
HOT = ("tracekit._core.", "tracekit._speedups", "tracekit._carriers")
# A wheel's own compression finds less in strings that Cython has compressed, which import would have to expand.
MACROS = [("CYTHON_COMPRESS_STRINGS", "0")]
# Functions of Cython's that each module would have a copy of.
SHARED = "tracekit._shared"


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    built = cythonize(
        [
            *(extension(source) for source in map(Path, ["tracekit/_speedups.pyx", *modules()])),
            Extension(SHARED, [SHARED.replace(".", "/") + ".c"], define_macros=MACROS, **options("-Os")),
        ],
        shared_utility_qualified_name=SHARED,
        shared_utility_features_disabled=["MemoryView"],  # a third of a megabyte of C that nothing here uses
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
    for made in built:
        # Without a compiler the install goes on, plain; a release without its extensions is no release.
        # Set here because cythonize() drops the argument.
        made.optional = "CIBUILDWHEEL" not in os.environ
    return built


def extension(source: Path) -> Extension:
    name = ".".join(source.with_suffix("").parts)
    return Extension(
        name,
        [str(source)],
        # For the source distribution; what a changed file compiles again is told by Cython.
        depends=sorted(map(str, PACKAGE.rglob("*.p[yx][xid]"))) if source.suffix == ".pyx" else [],
        define_macros=MACROS,
        **options("-O3" if name.startswith(HOT) else "-Os"),
    )


def options(level: str) -> dict[str, list[str]]:
    return {"extra_compile_args": [level, *FLAGS], "extra_link_args": LINK} if OPTIMIZED else {}


def modules() -> list[str]:
    """Return the Python files that are compiled: those with a ``.pxd``, but for the one that is inlined everywhere."""
    stems = [path.with_suffix(".py") for path in sorted(PACKAGE.rglob("*.pxd"))]
    return [str(path) for path in stems if path.exists() and path.name != "interpreter.py"]


setup(
    ext_modules=extensions() if WANTED else [],
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
