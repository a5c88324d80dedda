"""Run tests and the API fuzz under AddressSanitizer and UndefinedBehaviorSanitizer: ``python -m tests.tools.asan``.

The project is copied to ``.cache/asan``, where ``setup.py build_ext`` compiles its extensions with gcc's sanitizers, so the
ordinary build stays as it is. Python itself is not instrumented: it is started with the sanitizers' runtime preloaded, and takes
all memory from malloc, which the runtime watches. Free lists are compiled out of the extensions, or what is freed there would
still be memory in use. Arguments after ``--`` are run instead: ``python -m tests.tools.asan -- -m tests.tools.api_fuzz --calls 99``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COPY = ROOT / ".cache" / "asan"
SANITIZERS = "-fsanitize=address,undefined"
# -UNDEBUG enables the assertions in Python's headers. -O0 compiles in a quarter of the time that -O1 takes, and what is
# undefined is still there to be found.
COMPILE = (
    f"{SANITIZERS} -fno-sanitize-recover=undefined -O0 -g1 -fno-omit-frame-pointer -UNDEBUG -DCYTHON_USE_FREELISTS=0"
)
# Freed memory is filled, so that an access by Python, which is not instrumented, goes wrong at once.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:handle_segv=2:allocator_may_return_null=1:max_free_fill_size=4096:free_fill_byte=219",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
# What the tests that run are about, by patterns for their files' names; each must find some.
SUBJECTS = [
    *(
        "span",
        "scope",
        "variable",
        "context",
        "carrier",
        "forms|codecs|implementations",
        "memory",
        "labels",
        "tracestate",
    ),
    *("attributes", "propagation", "restore", "traced", "otlp", "/wire/", "/bridges/test_opentelemetry_"),
]
OTHER_SUBJECTS = re.compile("/(guarantees|interop|cli)/|_cli|_sqlite|_bench")
# The short form runs these.
SHORT = ["/test_span.py", "/test_scope.py", "/test_context.py", "/test_carriers.py", "/bridges/test_opentelemetry_"]


@cache
def runtimes() -> dict[str, str]:
    """Return the libraries to preload by name, an empty text for what gcc does not have.

    The one of C++ is preloaded for extensions of others (grpcio) that throw: AddressSanitizer looks for it at its start.
    """
    found = {}
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        try:
            done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False)
            path = done.stdout.strip()
        except OSError:
            path = ""
        found[name] = path if os.path.isabs(path) else ""
    return found


def missing() -> str:
    """Return why the sanitizers cannot be used here, or an empty text."""
    if not sys.platform.startswith("linux"):
        return f"the sanitizers are used on Linux alone, and this is {sys.platform}"
    lacking = [name for name, path in runtimes().items() if not path]
    return f"gcc and its sanitizer runtime are needed: there is no {' and no '.join(lacking)}" if lacking else ""


def environment() -> dict[str, str]:
    """Return the variables under which Python runs with the sanitizers."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("TRACEKIT_", "OTEL_"))}
    return {
        **kept,
        **OPTIONS,
        "LD_PRELOAD": ":".join(runtimes().values()),
        "PYTHONMALLOC": "malloc",
        "PYTHONFAULTHANDLER": "",  # the sanitizers' own report says more
        "PYTHONPATH": str(COPY),
    }


def build() -> None:
    """Bring the copy up to date; its extensions are compiled again where anything that they are made of has changed."""
    stamp, digest = COPY / ".build", _digest()
    is_built = stamp.exists() and stamp.read_text() == digest
    if not is_built:
        shutil.rmtree(COPY, ignore_errors=True)
    # Copies keep the times of files, so Cython skips the sources that are older than their C files.
    skip = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd")
    for entry in ROOT.iterdir():
        if entry.name in skip(str(ROOT), [entry.name]) or (is_built and entry.name == "tracekit"):
            continue
        if entry.is_dir():
            shutil.rmtree(COPY / entry.name, ignore_errors=True)
            shutil.copytree(entry, COPY / entry.name, ignore=skip)
        else:
            COPY.mkdir(parents=True, exist_ok=True)
            shutil.copy2(entry, COPY)
    if is_built:
        return
    # CIBUILDWHEEL makes an extension that cannot be built an error.
    flags = {"CFLAGS": COMPILE, "LDFLAGS": SANITIZERS, "CC": "gcc", "CIBUILDWHEEL": "1", "TRACEKIT_NO_EXTENSIONS": ""}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=COPY, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    extensions = list((COPY / "tracekit").rglob("*.so"))
    if done.returncode or not extensions:
        raise RuntimeError(f"the extensions could not be built:\n{done.stdout}{done.stderr}")
    for extension in extensions:
        octets = extension.read_bytes()
        if b"__asan_report_load8" not in octets or b"__ubsan_handle" not in octets:
            raise RuntimeError(f"{extension} was built without the sanitizers")
    stamp.write_text(digest)


def _digest() -> str:
    """Return what the build depends on, as a hash."""
    digest = hashlib.sha256(f"{COMPILE} {sys.version} {runtimes()}".encode())
    for path in [ROOT / "setup.py", ROOT / "pyproject.toml", *sorted((ROOT / "tracekit").rglob("*"))]:
        if path.is_file() and path.suffix not in {".so", ".c", ".pyc"}:
            digest.update(f"\n{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with *arguments* in the copy, under the sanitizers; ``build()`` comes first."""
    return subprocess.run([sys.executable, *arguments], cwd=COPY, env=environment(), text=True, check=False, **options)


def pytest_arguments(files: list[str]) -> list[str]:
    """Return the arguments for Python that test *files*; Hypothesis' profile for CI has no deadlines.

    Cases of the plain implementation are left out: the sanitizers see nothing of it.
    """
    return [
        *(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:faulthandler",
            "--hypothesis-profile=ci",
            "-m",
            "not packaging and not plain",
        ),
        *files,
    ]


def test_files(subjects: list[str]) -> list[str]:
    """Return the test files whose names match one of *subjects*, of which each must match some."""
    names = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    names = [name for name in names if not OTHER_SUBJECTS.search(name)]
    files: dict[str, None] = {}
    for subject in subjects:
        found = [name for name in names if re.search(subject, name)]
        if not found:
            raise RuntimeError(f"no test file is called {subject} any more: correct the list in tests/tools/asan.py")
        files.update(dict.fromkeys(found))
    return list(files)


def main(arguments: list[str]) -> int:
    """Run what *arguments* ask for; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.asan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds the fuzz runs with (default: 10)")
    parser.add_argument("--seconds", type=float, default=60, help="how long each of them runs (default: 60)")
    parser.add_argument("command", nargs="*", help="what Python is to run instead")
    options = parser.parse_args(arguments)
    if missing():
        print(f"not run: {missing()}")
        return 1
    build()
    if options.command:
        return python(*options.command).returncode
    tests = python(*pytest_arguments(test_files(SUBJECTS))).returncode
    fuzz = python("-m", "tests.tools.api_fuzz", f"--seeds={options.seeds}", f"--seconds={options.seconds}").returncode
    return 1 if tests or fuzz else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
