"""The command's side of a demo process: start it, learn where it listens, notice when it dies, stop it in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING

import anyio
from anyio.streams.text import TextReceiveStream

from .. import aio
from .._render import printable
from .child import LISTENING, PAGES, STATISTICS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

_START_S = 120.0
_STOP_S = 30.0
_LINES = 20


class ServiceError(Exception):
    """Raised when a service does not start, or ends unasked."""

    def __init__(self, service: Service, what: str) -> None:
        output = "".join(f"\n    {printable(line, 500)}" for line in service.output) or " none"
        super().__init__(f"{service.name} (process {service.pid}) {what}; its last output:{output}")


class Service:
    """The state of one service while it runs, and after.

    ``statistics`` is where its spans went, by its own account; None until it has ended in order.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.url = self.pages = ""
        self.output: deque[str] = deque(maxlen=_LINES)
        self.statistics: dict[str, int] | None = None
        self.ended = ""
        self.listens = anyio.Event()
        self._line = ""

    async def run(self, *arguments: str) -> None:
        """Run the service: it has started when it ``listens``, and is stopped by cancelling this."""
        with anyio.CancelScope(shield=True):  # asyncio forgets a process whose start is cancelled
            process = await anyio.open_process(
                [sys.executable, "-m", f"{__package__}.{self.name}", *arguments],
                stdin=subprocess.PIPE,  # it closes when this process ends, and that ends the service
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us alone: we stop the services in order
            )
        self.pid = process.pid
        assert process.stdout is not None
        output = TextReceiveStream(process.stdout, errors="replace")
        try:
            await self._read(output)
            self.ended = _status(await process.wait())
            raise ServiceError(self, f"exited early, {self.ended}")
        finally:
            with anyio.CancelScope(shield=True):
                await self._stop(process, output)

    async def _read(self, output: TextReceiveStream) -> None:
        """Read until the service closes its output, as it does by ending."""
        async for text in output:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                if line.startswith(PAGES):
                    self.pages = line.removeprefix(PAGES)
                elif line.startswith(LISTENING):
                    self.url = line.removeprefix(LISTENING)
                    self.listens.set()
                elif line.startswith(STATISTICS):
                    self.statistics = json.loads(line.removeprefix(STATISTICS))
                else:
                    self.output.append(line)

    async def _stop(self, process: Process, output: TextReceiveStream) -> None:
        if process.returncode is None:
            with anyio.move_on_after(_STOP_S):
                if os.name == "posix":  # elsewhere terminate() is kill(), and the closed input does it
                    process.terminate()
                assert process.stdin is not None
                await process.stdin.aclose()
                await self._read(output)
                await process.wait()
            if process.returncode is None:
                process.kill()
        await process.aclose()
        self.ended = _status(await process.wait())


@contextlib.asynccontextmanager
async def running(name: str, *arguments: str) -> AsyncIterator[Service]:
    """Start ``python -m tracekit.demo.<name>``, and stop it at the end; ``ServiceError`` comes in a group."""
    service = Service(name)
    async with aio.create_task_group() as tasks:
        # Not tasks.start(): where that is cancelled, on asyncio, it cancels past every shield.
        tasks.start_soon(service.run, *arguments)
        with anyio.move_on_after(_START_S):
            await service.listens.wait()
        if not service.url:
            raise ServiceError(service, f"did not answer within {_START_S:.0f} s")
        yield service
        tasks.cancel_scope.cancel()
    if service.statistics is None:  # it died in the same moment, or had to be killed
        raise ServiceError(service, f"did not end in order, but {service.ended}")


def _status(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with exit status {code}"
