"""Point the public W3C trace-context harness at our ASGI middleware and httpx transport: ``python -m tests.tools.w3c_harness``.

The harness is not ours and not in this repository: ``--harness DIR`` is a checkout of https://github.com/w3c/trace-context;
without it the pinned commit is cloned into .cache/. It needs aiohttp: where this interpreter has none, ``--python FILE`` is
another that has, or one is made in .cache/ too. Both need the network once. The exit status is 0 if every test passed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tracekit._core.codecs import IMPLEMENTATION
from tracekit.integrations.asgi import TraceMiddleware
from tracekit.integrations.httpx import AsyncTraceTransport

from ..integrations.servers import serve
from .ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

REPOSITORY = "https://github.com/w3c/trace-context"
COMMIT = "acab820be9db7b3433668baa5cdd43f57f4c4be0"
TESTS = 41  # that the commit has at these two levels
LEVELS = {"SPEC_LEVEL": "2", "STRICT_LEVEL": "2"}
CACHE = Path(__file__).parents[2] / ".cache"
DEADLINE_S = 300


class Counts(NamedTuple):
    """What the harness said at its end."""

    ran: int
    failed: int
    skipped: int

    @property
    def passed(self) -> int:
        return self.ran - self.failed - self.skipped


class CannotRunError(Exception):
    """The harness, or what it needs, is not to be had."""


def main(arguments: list[str] | None = None) -> int:
    """Run the harness, say what came of it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.w3c_harness", description=__doc__)
    parser.add_argument("--harness", metavar="DIR", type=Path, help="a checkout of w3c/trace-context")
    parser.add_argument("--python", metavar="FILE", help="a Python that has aiohttp, for the harness")
    options = parser.parse_args(arguments)
    try:
        folder = _folder(options.harness or _clone())
        python = options.python or _python()
    except CannotRunError as error:
        print(f"the W3C harness cannot run: {error}", file=sys.stderr)
        return 2
    with serve(application()) as port:
        status, output = _run(python, folder, f"http://127.0.0.1:{port}/test")
    print(output)
    counts = count(output)
    print(f"W3C harness {_commit(folder)[:7]}, {IMPLEMENTATION} form: {counts.passed} of {TESTS} passed")
    return 0 if status == 0 and counts == (TESTS, 0, 0) else 1


def application() -> TraceMiddleware:
    """Return the service under test: it POSTs to each url it is given, with nothing of ours but middleware and transport."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(transport=AsyncTraceTransport(), trust_env=False) as client:
            app.state.client = client
            yield

    async def call_back(request: Request) -> JSONResponse:
        for call in await request.json():
            await request.app.state.client.post(call["url"], json=call["arguments"])
        return JSONResponse(None)

    return TraceMiddleware(Starlette(routes=[Route("/test", call_back, methods=["POST"])], lifespan=lifespan))


def count(output: str) -> Counts:
    """Return what the last lines of unittest in *output* add up to."""
    ran = re.search(r"^Ran (\d+) tests? in ", output, re.MULTILINE)
    end = re.search(r"^(?:OK|FAILED)(?: \((.*)\))?$", output, re.MULTILINE)
    if ran is None or end is None:
        return Counts(0, 0, 0)
    numbers = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", end[1] or "")}
    failed = sum(numbers.get(name, 0) for name in ("failures", "errors"))
    return Counts(int(ran[1]), failed, numbers.get("skipped", 0))


def _run(python: str, folder: Path, url: str) -> tuple[int, str]:
    environment = {**os.environ, **LEVELS, "HARNESS_PORT": str(free_port()), "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "test.py", url],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout


def _folder(checkout: Path) -> Path:
    for folder in (checkout / "test", checkout):
        if (folder / "test.py").is_file():
            return folder.resolve()
    raise CannotRunError(f"there is no test/test.py in {checkout}")


def _clone() -> Path:
    checkout = CACHE / f"w3c-trace-context-{COMMIT[:7]}"
    if not (checkout / "test" / "test.py").is_file():
        checkout.mkdir(parents=True, exist_ok=True)
        _do("the network", ["git", "init", "--quiet"], cwd=checkout)
        _do("the network", ["git", "fetch", "--quiet", "--depth", "1", REPOSITORY, COMMIT], cwd=checkout)
        _do("the network", ["git", "checkout", "--quiet", "FETCH_HEAD"], cwd=checkout)
    return checkout


def _commit(folder: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "of no known commit"


def _python() -> str:
    if importlib.util.find_spec("aiohttp") is not None:
        return sys.executable
    folder = CACHE / "w3c-python"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import aiohttp"], capture_output=True, check=False).returncode:
        _do("a package index", [str(python), "-m", "pip", "install", "--quiet", "aiohttp"])
    return str(python)


def _do(need: str, command: list[str], **options: Any) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRunError(f"it needs {need}: {error}") from error
    if done.returncode:
        raise CannotRunError(f"it needs {need}: {' '.join(command)}: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
