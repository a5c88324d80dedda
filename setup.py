"""Compile the codecs, and the files of the model that have a ``.pxd``. All metadata and settings are in pyproject.toml."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

WANTED = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") in {"", "0"} and sys.implementation.name == "cpython"
PACKAGE = Path("tracekit")

# CFLAGS that name a level, as those of the sanitizers do (tests/tools/asan.py), are left alone: the last one counts.
OPTIMIZED = sys.platform != "win32" and "-O" not in os.environ.get("CFLAGS", "")
FLAGS = [
    "-O3",  # -Os takes a third less room, but adds a tenth to what tracing costs an ASGI request
    "-g0",  # it serves only debuggers, as do the symbols that the linker strips
    "-fno-plt",  # calls of the interpreter take one jump less, and fewer octets
    "-Wno-unused-function",  # Cython's, for compressed strings
    "-fno-asynchronous-unwind-tables",  # they serve C++ exceptions and debuggers, and were a twentieth of the octets
]
# Compiled twice with gcc, the second time by what bench/training.py did often, as releases and benchmarks are: a span's
# path lies together in the instruction cache, and the rest is small. It takes three times as long, and the bench extra.
TRAINED = os.environ.get("TRACEKIT_TRAINED", "") not in {"", "0"}
# A wheel's own compression finds less in strings that Cython has compressed, which import would have to expand.
MACROS = [("CYTHON_COMPRESS_STRINGS", "0")]

# Macros of Cython that stand at the beginning and the end of each C function that handles objects, and are empty.
MARKS = ["  #define __Pyx_RefNannySetupContext(name, acquire_gil)", "  #define __Pyx_RefNannyFinishContext()"]
# Of Cython 3.3.1: a list comprehension whose list cannot grow gives up the item's reference, and its caller does, too.
GIVES_UP_TWICE = "PyList_Append(list, x);\n    Py_DECREF(x);\n"
GIVES_UP_ONCE = "PyList_Append(list, x);\n    if (result == 0) Py_DECREF(x);\n"


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    built = cythonize(
        [extension(source) for source in map(Path, ["tracekit/_speedups.pyx", *modules()])],
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
            # _core/free_threading.pxd keeps threads apart.
            "freethreading_compatible": True,
        },
    )
    for made in built:
        amend(Path(made.sources[0]))
        # Without a compiler the install goes on, plain; a release without its extensions is no release.
        # Set here because cythonize() drops the argument.
        made.optional = "CIBUILDWHEEL" not in os.environ
    return built


def extension(source: Path) -> Extension:
    return Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        # For the source distribution; what a changed file compiles again is told by Cython.
        depends=sorted(map(str, PACKAGE.rglob("*.p[yx][xid]"))) if source.suffix == ".pyx" else [],
        define_macros=MACROS,
        extra_compile_args=FLAGS if OPTIMIZED else [],
        extra_link_args=["-Wl,-s"] if OPTIMIZED and sys.platform == "linux" else [],
    )


class Build(build_ext):
    """Compile as ever; ``--inplace`` replaces modules that the other kind of build has put there later."""

    def copy_extensions_to_source(self) -> None:
        self.force = True
        super().copy_extensions_to_source()


class TrainedBuild(Build):
    """Compile modules that count their branches, run ``bench/training.py`` with them, and compile again with the counts."""

    def build_extensions(self) -> None:
        self._check()
        with tempfile.TemporaryDirectory() as folder:
            counts = [f"-fprofile-dir={folder}/counts", "-fprofile-update=prefer-atomic"]
            self._compile(["-fprofile-generate", *counts])
            tree = Path(folder, "tree")
            shutil.copytree(PACKAGE, tree / PACKAGE, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
            shutil.copytree(Path(self.build_lib, PACKAGE), tree / PACKAGE, dirs_exist_ok=True)
            shutil.copytree("bench", tree / "bench", ignore=shutil.ignore_patterns(".*", "rust", "__pycache__"))
            # -E: PYTHONSAFEPATH would hide the tree.
            if subprocess.run([sys.executable, "-E", "-m", "bench.training"], cwd=tree, check=False).returncode:
                raise BaseError("TRACEKIT_TRAINED=1: the training failed, as printed above")
            if not any(Path(folder, "counts").rglob("*.gcda")):
                raise BaseError("TRACEKIT_TRAINED=1: the training ran, but its modules counted nothing")
            # A module that was not trained is compiled as ever.
            self._compile(["-fprofile-use", *counts, "-fprofile-correction", "-Wno-missing-profile"])

    def _check(self) -> None:
        """Raise an error before minutes of compiling if this build cannot be trained."""
        compiler = self.compiler.compiler_so
        try:
            command = [*compiler, "-dM", "-E", "-xc", os.devnull]
            macros = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError as error:
            macros = str(error)
        if sys.platform != "linux" or "__GNUC__" not in macros or "__clang__" in macros:
            raise BaseError(f"TRACEKIT_TRAINED=1 needs gcc, on Linux; the compiler is {compiler[0]}")
        if not OPTIMIZED:
            raise BaseError("TRACEKIT_TRAINED=1 needs CFLAGS without a level of optimization (-O)")
        if not Path("bench/training.py").exists():
            raise BaseError("TRACEKIT_TRAINED=1 needs bench/, which a source distribution lacks: build in a checkout")

    def _compile(self, flags: list[str]) -> None:
        for made in self.extensions:
            made.optional = False  # modules of an earlier build would be trained
            made.extra_compile_args = [*FLAGS, *flags]
            made.extra_link_args = ["-Wl,-s", *flags[:1]]
            made.define_macros = [*MACROS, ("TRACEKIT_TRAINED", "1")]
        self.force = True
        super().build_extensions()


def amend(source: Path) -> None:
    """Have the functions in *source*, which Cython has made, begin and end as ``_core/free_threading.pxd`` says.

    And correct a fault of Cython's.
    """
    text = source.read_text(encoding="utf-8")
    amended = text.replace(GIVES_UP_TWICE, GIVES_UP_ONCE)
    if "TK_BEGIN" in text:
        amended = amended.replace(f"{MARKS[0]}\n", f"{MARKS[0]} TK_BEGIN(name)\n").replace(
            f"{MARKS[1]}\n", f"{MARKS[1]} TK_END\n"
        )
    if amended != text:
        source.write_text(amended, encoding="utf-8")


def modules() -> list[str]:
    """Return the Python files that are compiled: those with a ``.pxd``, but for the two that are inlined everywhere."""
    stems = [path.with_suffix(".py") for path in sorted(PACKAGE.rglob("*.pxd"))]
    return [str(path) for path in stems if path.exists() and path.name not in {"free_threading.py", "interpreter.py"}]


setup(
    ext_modules=extensions() if WANTED else [],
    cmdclass={"build_ext": TrainedBuild if TRAINED else Build},
    options={
        "build_ext": {"parallel": os.cpu_count() or 1},
        # A build that is not trained would take trained modules, and those that count, for its own.
        "build": {"build_base": "build/trained" if TRAINED else "build"},
    },
)
