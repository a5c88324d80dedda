"""The viewer as a whole: the store, its receivers, and the pages, in one process and on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import uvicorn

from .pages import Pages
from .receiver import Receiver
from .store import SpanStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

_HOST = "127.0.0.1"
_MAX_CONNECTIONS = 200


class Viewer:
    """The viewer of the store at *path*; port 0 is any free one, and None leaves that server out.

    The constructor binds every port, and raises ``OSError`` that names a port in use, or ``StoreError``. ``urls`` has
    the addresses by name: "pages", "http" and "grpc". ``grpc_missing`` says that grpcio is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        port: int = 4319,
        http_port: int | None = 4318,
        grpc_port: int | None = 4317,
        max_bytes: int | None = None,
    ) -> None:
        self.store = SpanStore(path, max_bytes=max_bytes, only_shown=http_port is None and grpc_port is None)
        self.urls: dict[str, str] = {}
        self.grpc_missing = False
        self._stopping = False
        self._servers: list[_Server] = []
        self._sockets: dict[str, socket.socket] = {}
        self._grpc: Any = None
        try:
            for name, wanted in (("pages", port), ("http", http_port)):
                if wanted is not None:
                    self._sockets[name], url = _bound(wanted)
                    self.urls[name] = url
            if grpc_port is not None:
                self._start_grpc(grpc_port)
        except BaseException:
            self.close()
            raise

    def _start_grpc(self, port: int) -> None:
        try:
            from .grpc import start
        except ModuleNotFoundError as error:
            if error.name != "grpc":
                raise
            self.grpc_missing = True
            return
        self._grpc, port = start(self.store, port)
        self.urls["grpc"] = f"http://{_HOST}:{port}"

    def status(self) -> dict[str, Any]:
        """Return the state that the pages show."""
        return {**self.store.counts()._asdict(), "path": self.store.path, "urls": self.urls}

    async def serve(self) -> None:
        """Serve until ``stop()``, then close everything."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            readers = ThreadPoolExecutor(3, "tracekit-ui")
            pages = Pages(self.store.path, readers, self.status)
            stack.callback(pages.close)
            stack.enter_context(readers)
            writer = stack.enter_context(ThreadPoolExecutor(1, "tracekit-otlp-http"))
            apps: dict[str, ASGIApp] = {
                "pages": pages.app,
                "http": Receiver(self.store, writer, self.urls.get("pages", "")),
            }
            self._servers = [_Server(apps[name], bound) for name, bound in self._sockets.items()]
            if self._stopping:
                return
            try:
                tasks = [asyncio.create_task(server.serve_bound()) for server in self._servers]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pages.closing.set()
                for server in self._servers:
                    server.should_exit = True
                await asyncio.gather(*tasks)

    def stop(self) -> None:
        """End ``serve()``; safe to call from any thread and from a signal handler."""
        self._stopping = True
        for server in self._servers:
            server.should_exit = True

    def close(self) -> None:
        """Close the store and every socket."""
        if self._grpc is not None:
            self._grpc.stop(1).wait()
            self._grpc = None
        for bound in self._sockets.values():
            bound.close()
        self.store.close()


class _Server(uvicorn.Server):
    """One server of several in a process: signals belong to the command."""

    def __init__(self, app: ASGIApp, bound: socket.socket) -> None:
        self._bound = bound
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=2,
            )
        )

    async def serve_bound(self) -> None:
        await self.serve(sockets=[self._bound])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def viewer(path: str | os.PathLike[str], **options: Any) -> Iterator[Viewer]:
    """Run a ``Viewer`` in a thread, until the end of the block."""
    running = Viewer(path, **options)
    thread = threading.Thread(target=asyncio.run, args=[running.serve()], name="tracekit-ui", daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join()


def _bound(port: int) -> tuple[socket.socket, str]:
    bound = socket.socket()
    try:
        if os.name == "posix":  # elsewhere it would share the port with another program
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((_HOST, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise OSError(f"port {port}: {error.strerror or error}") from error
    return bound, f"http://{_HOST}:{bound.getsockname()[1]}"
