"""``tracekit ui``: receive traces over OTLP, and show them in a browser."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .._distribution import install_hint
from .._render import printable
from ..exporters.sqlite import StoreError
from .screen import ERROR, complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ..ui.server import Viewer


def run(arguments: argparse.Namespace) -> int:
    """Run ``tracekit ui`` until Ctrl-C, and return its exit status."""
    import asyncio  # the command line imports this module

    try:
        from ..ui.server import Viewer
    except ModuleNotFoundError as error:
        complain(f"the viewer needs {printable(str(error.name), 80)}: {install_hint('ui')}")
        return ERROR
    path = arguments.path or _default_path()
    if arguments.no_receiver and not os.path.lexists(path):
        raise StoreError("no such file", os.path.abspath(path), "name the file that SQLiteExporter writes")
    try:
        viewer = Viewer(
            path,
            port=arguments.port,
            http_port=None if arguments.no_receiver else arguments.http_port,
            grpc_port=None if arguments.no_receiver else arguments.grpc_port,
            max_bytes=arguments.max_mb and arguments.max_mb * 2**20,
        )
    except OSError as error:
        complain(f"{error}; name a free port with --port, --http-port or --grpc-port, or 0 for any")
        return ERROR
    for line in _welcome(viewer):
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    if arguments.open:
        import webbrowser

        # Some browsers, those of a terminal among them, end before open() returns, and need the pages.
        threading.Thread(target=webbrowser.open, args=[viewer.urls["pages"]], daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: viewer.stop())
    asyncio.run(viewer.serve())
    return 0


@contextlib.contextmanager
def viewing(path: str) -> Iterator[list[str]]:
    """Show the file at *path*, on a free port, until the end of the block; give lines that say where."""
    try:
        from ..ui.server import viewer
    except ModuleNotFoundError as error:
        yield [f"no viewer: it needs {printable(str(error.name), 80)}: {install_hint('ui')}"]
        return
    with viewer(path, port=0, http_port=None, grpc_port=None) as running:
        yield [f"in a browser: {running.urls['pages']}"]


def _welcome(viewer: Viewer) -> Iterator[str]:
    yield f"  pages        {viewer.urls['pages']}"
    if "http" in viewer.urls:
        yield f"  OTLP/HTTP    {viewer.urls['http']}   (protobuf, JSON)"
    if "grpc" in viewer.urls:
        yield f"  OTLP/gRPC    {viewer.urls['grpc']}"
    if viewer.grpc_missing:
        yield "  OTLP/gRPC    off: grpcio is not installed (pip install grpcio)"
    yield f"  store        {printable(viewer.store.path, 1000)}"
    yield ""
    yield "Press Ctrl-C to stop."


def _default_path() -> str:
    """Return a file for the user's own traces, and create its directory."""
    state = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", "")
    folder = Path(state or Path.home() / ".local" / "state") / "tracekit"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(folder / "traces.db")
