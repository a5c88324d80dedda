"""Send spans to arize-phoenix, started for it on loopback, by every protocol it takes; read them back by query.

``make collector``, or ``python -m tests.tools.phoenix PATH/TO/phoenix``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import tracekit
from tracekit.exporters.otlp import OTLPExporter

from .ports import free_port

START_S, ARRIVE_S = 180, 60
QUERY = """
query { projects { edges { node { name spans(first: 1000) { edges { node {
  name parentId spanKind statusCode startTime trace { traceId } context { spanId } attributes events { name }
} } } } } } }
"""


class Failed(Exception):
    """What was sent is not what is there."""


def main(phoenix: str) -> int:
    port, grpc_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory, open(Path(directory) / "log", "w+") as log:
        environment = {
            **os.environ,
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(port),
            "PHOENIX_GRPC_PORT": str(grpc_port),
            "PHOENIX_WORKING_DIR": directory,
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        }
        print("starting phoenix …", flush=True)
        process = subprocess.Popen([phoenix, "serve"], env=environment, stdout=log, stderr=log)
        try:
            wait(process, port)
            for protocol, at in (("http/protobuf", port), ("grpc", grpc_port)):
                for compression in ("none", "gzip"):
                    check(protocol, compression, at, port)
        except Failed as error:
            log.seek(0)
            print(f"failed: {error}\n--- phoenix said ---\n{log.read()[-3000:]}", file=sys.stderr)
            return 1
        finally:
            process.terminate()
            process.wait(30)
    print("every span was read back")
    return 0


def wait(process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"phoenix left with status {process.returncode}")
        try:
            query(port)
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
        else:
            return
    raise Failed(f"phoenix did not start in {START_S} s")


def query(port: int) -> list[dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        json.dumps({"query": QUERY}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    if answer.get("errors"):
        raise Failed(f"the query failed: {answer['errors']}")
    return [
        span["node"] for project in answer["data"]["projects"]["edges"] for span in project["node"]["spans"]["edges"]
    ]


def check(protocol: str, compression: str, at: int, port: int) -> None:
    """Send a small trace, and compare what the query finds of it."""
    sender = OTLPExporter(f"http://127.0.0.1:{at}", protocol=protocol, compression=compression, environ={})
    tracekit.configure(service="shop", exporter=sender, environ={})
    root = tracekit.span("checkout", kind="server", attributes={"cart.items": 3, "paid": True, "grüße": "🎉"})
    with root, tracekit.span("reserve", attributes={"share": 0.5}) as child:
        child.add_event("reserved", {"item": "lantern"})
        child.set_status("error", "sold out")
    if not tracekit.flush(30):
        raise Failed("the spans were not sent")
    if tracekit.statistics().failed:
        raise Failed("spans were lost")
    wanted = {root.context.span_id, child.context.span_id}
    deadline = time.monotonic() + ARRIVE_S
    found: dict[str, dict] = {}
    while found.keys() != wanted:
        if time.monotonic() > deadline:
            raise Failed(f"{protocol}, {compression}: found {sorted(found)}, sent {sorted(wanted)}")
        time.sleep(0.2)
        found = {span["context"]["spanId"]: span for span in query(port) if span["context"]["spanId"] in wanted}
    one, other = found[root.context.span_id], found[child.context.span_id]
    facts = [
        (one["name"], "checkout"),
        (other["name"], "reserve"),
        (one["trace"]["traceId"], root.context.trace_id),
        (other["trace"]["traceId"], root.context.trace_id),
        (one["parentId"], None),
        (other["parentId"], root.context.span_id),
        (one["statusCode"], "UNSET"),
        (other["statusCode"], "ERROR"),
        ([event["name"] for event in other["events"]], ["reserved"]),
        (json.loads(one["attributes"])["paid"], True),
        (json.loads(one["attributes"])["grüße"], "🎉"),
        (json.loads(other["attributes"])["share"], 0.5),
    ]
    for got, expected in facts:
        if got != expected:
            raise Failed(f"{protocol}, {compression}: {got!r} is there, {expected!r} was sent")
    print(f"{protocol}, compression {compression}: {len(facts)} facts of 2 spans as they were sent", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
