"""Build programs of the tests in other languages once, in a cache outside the repository: Go, Java, Node and Rust.

Sources are copied to ``$XDG_CACHE_HOME/tracekit/LANGUAGE/NAME-DIGEST`` and built there, again if they have changed. They
pin their direct dependencies; the lists of indirect ones and the lock files, which the tools write, stay in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BuildError", "Missing", "golang", "java", "node", "rust"]

BUILD_S = 1800  # the first build downloads and compiles several hundred packages
JOBS = 2


class Missing(Exception):
    """The language is not installed."""


class BuildError(Exception):
    """The program does not compile, or a dependency cannot be downloaded; the message is the tool's."""


def golang(source: Path, package: str = ".") -> Path:
    """Return the program *package* of the module in the folder *source*."""
    command = ["go", "build", "-p", str(JOBS), "-mod=mod", "-o", "unfinished", package]
    # Renamed when complete: an interrupted build must not leave half a program.
    return _build("go", source, ["*.go", "go.mod"], [command, ["mv", "unfinished", "program"]], "program")


def rust(source: Path) -> Path:
    """Return the program of the package "program" in the folder *source*, optimized."""
    command = ["cargo", "build", "--quiet", "--release", "--jobs", str(JOBS)]
    return _build("rust", source, ["Cargo.toml", "src/*.rs"], [command], "target/release/program")


def java(source: Path) -> Path:
    """Return a folder with the classes of *source* and, in ``lib``, the libraries that its ``pom.xml`` names."""
    fetch = ["mvn", "--quiet", "--batch-mode", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
    compile_ = ["javac", "-cp", "lib/*", "-d", ".", *(path.name for path in source.glob("*.java"))]
    return _build("java", source, ["*.java", "pom.xml"], [fetch, compile_, ["touch", "done"]], "done").parent


def node(source: Path) -> Path:
    """Return a folder with the scripts of *source* and the packages that its ``package.json`` names."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    return _build("node", source, ["*.mjs", "package.json"], [command, ["touch", "done"]], "done").parent


def _build(
    language: str, source: Path, patterns: Sequence[str], commands: Sequence[Sequence[str]], product: str
) -> Path:
    """Return the file *product* in the cache, which *commands* make of the files in *source* that match *patterns*."""
    for command in commands:
        if shutil.which(command[0]) is None:
            raise Missing(f"{command[0]} is not installed")
    files = sorted(path for pattern in patterns for path in source.glob(pattern))
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracekit" / language
    folder = cache / f"{source.name}-{digest}"
    if not (folder / product).exists():
        for path in files:
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        for command in commands:
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_S)
            except subprocess.TimeoutExpired:
                raise BuildError(f"{command[0]} took longer than {BUILD_S} s") from None
            if done.returncode:
                said = (done.stderr.strip() or done.stdout.strip())[-1000:]
                raise BuildError(f"{command[0]} failed in {folder}: {said}")
    return folder / product
