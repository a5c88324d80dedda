"""Build the compiled twin. All metadata and settings are in pyproject.toml."""

import os
import sys

from setuptools import Extension, setup

WANTED = os.environ.get("TRACEKIT_NO_EXTENSIONS", "") in {"", "0"} and sys.implementation.name == "cpython"


def extensions() -> list[Extension]:
    from Cython.Build import cythonize

    built = cythonize(
        [
            Extension(
                "tracekit._speedups",
                ["tracekit/_speedups.pyx"],
                depends=[
                    f"tracekit/_speedups_{part}.pxi" for part in ("codecs", "carriers", "context", "scopes", "otlp")
                ],
                extra_compile_args=[] if sys.platform == "win32" else ["-O2", "-fno-plt"],
            )
        ],
        compiler_directives={"language_level": 3},
    )
    for extension in built:
        # Without a compiler the install goes on, plain; a release without its extension is no release.
        # Set here because cythonize() drops the argument.
        extension.optional = "CIBUILDWHEEL" not in os.environ
    return built


setup(ext_modules=extensions() if WANTED else [])
