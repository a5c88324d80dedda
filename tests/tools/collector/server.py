"""A Collector process on loopback, and the spans in its file."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...exporters.collector import parse_json
from ..ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

EXAMPLES = Path(__file__).parents[3] / "examples" / "collector"
START_S, STOP_S, ARRIVE_S = 60, 60, 60


class Failed(Exception):
    """The Collector's file differs from what was sent, or the Collector did not start."""


class Server:
    """A Collector that keeps its ports and its file when it is stopped and started again.

    It has TLS with a *certificate* and its key, also sends the spans to *forward*, a host and port, and with
    *is_sampling* has tail_sampling and spanmetrics. *configs* replace ``file.yaml``; without *has_http* they have no HTTP.
    """

    def __init__(
        self,
        program: Path,
        directory: Path,
        certificate: tuple[Path, Path] | None = None,
        forward: str = "",
        is_sampling: bool = False,
        configs: Sequence[Path] = (),
        has_http: bool = True,
    ) -> None:
        self.program = program
        self.file, self.log = directory / "spans.jsonl", directory / "log"
        self.http_port, self.grpc_port = free_port(), free_port()
        self.scheme = "http" if certificate is None else "https"
        self.environ = {
            "COLLECTOR_HTTP": f"127.0.0.1:{self.http_port}",
            "COLLECTOR_GRPC": f"127.0.0.1:{self.grpc_port}",
            "COLLECTOR_FILE": str(self.file),
        }
        self.configs = [*configs] or [EXAMPLES / "file.yaml"]
        self.has_http = has_http
        if certificate is not None:
            self.configs.append(EXAMPLES / "tls.yaml")
            self.environ["COLLECTOR_CERTIFICATE"], self.environ["COLLECTOR_KEY"] = map(str, certificate)
        if forward:
            self.configs.append(EXAMPLES / "forward.yaml")
            self.environ["COLLECTOR_FORWARD"] = forward
        self.arguments: list[str] = []
        self.metrics_all, self.metrics_kept = directory / "all.jsonl", directory / "kept.jsonl"
        if is_sampling:
            self.configs.append(EXAMPLES / "sampling.yaml")
            self.arguments.append("--feature-gates=processor.tailsamplingprocessor.usetracestate")
            self.environ |= {
                "COLLECTOR_METRICS_ALL": str(self.metrics_all),
                "COLLECTOR_METRICS_KEPT": str(self.metrics_kept),
                "COLLECTOR_METRICS_INTERVAL": "1s",
                "COLLECTOR_DECISION_WAIT": "2s",
            }
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, protocol: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.grpc_port if protocol == 'grpc' else self.http_port}"

    def start(self, **environ: str) -> None:
        configs = [word for name in self.configs for word in ("--config", str(name))]
        environment = {**os.environ, **self.environ, **environ}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, *self.arguments, *configs], env=environment, stdout=log, stderr=log
            )
        wait_until(self.is_up, START_S, "the Collector did not start")

    def is_up(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise Failed("the Collector has exited")
        try:
            socket.create_connection(("127.0.0.1", self.grpc_port), 5).close()
            if self.has_http:
                self.ask()
        except OSError:
            return False
        return True

    def ask(self) -> None:
        """Get an answer over HTTP, or raise ``OSError``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
        if self.scheme == "https":
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.http_port, timeout=5, context=context)
        connection.request("GET", "/")
        connection.getresponse().read()
        connection.close()

    def stop(self) -> None:
        """End the process with SIGTERM; the Collector writes every span that it has accepted first."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(STOP_S)
            self.process = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def resources(self) -> list[ResourceSpans]:
        """The contents of the file; a line that is still being written is left out."""
        if not self.file.exists():
            return []
        lines = self.file.read_bytes().split(b"\n")[:-1]
        return [resource for line in lines for resource in parse_json(line).resource_spans]

    @property
    def span_ids(self) -> list[str]:
        return [
            span.span_id.hex() for resource in self.resources for scope in resource.scope_spans for span in scope.spans
        ]


def wait_until(is_done: Callable[[], bool], seconds: float, failure: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise Failed(f"{failure} within {seconds:.0f} s")
        time.sleep(0.05)
