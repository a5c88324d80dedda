"""Build a Go program of the tests once, in a cache outside the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

BUILD_S = 1800  # the first build downloads and compiles several hundred packages


class Missing(Exception):
    """Go is not installed."""


class BuildError(Exception):
    """The program does not compile, or a module cannot be downloaded; the message is Go's."""


def build(source: Path, package: str = ".") -> Path:
    """Return the program *package* of the module in the folder *source*, built in ``$XDG_CACHE_HOME/tracekit/go`` if its sources have changed.

    The direct dependencies in ``go.mod`` are pinned and decide all others. Go completes the file in the cache, so the
    repository holds neither the list of indirect modules nor ``go.sum``.
    """
    if (go := shutil.which("go")) is None:
        raise Missing("go is not installed")
    sources = [*sorted(source.glob("*.go")), source / "go.mod"]
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracekit" / "go"
    folder = cache / f"{source.name}-{digest}"
    program = folder / "program"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for path in sources:
            shutil.copy(path, folder)
        # Renamed when complete: an interrupted build must not leave half a program.
        command = [go, "build", "-mod=mod", "-o", "unfinished", package]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_S)
        except subprocess.TimeoutExpired:
            raise BuildError(f"go build took longer than {BUILD_S} s") from None
        if done.returncode:
            raise BuildError(f"go build failed in {folder}: {done.stderr.strip()[-1000:]}")
        (folder / "unfinished").rename(program)
    return program
