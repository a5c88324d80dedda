from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trustme

import tracekit

from ..builds import BuildError, Missing, golang
from ..ports import free_port
from . import __doc__ as description
from . import faults, fields, jaeger, peers, rate, rejection, sampling
from .server import Failed, Server

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> int:
    """Run all checks, and return 1 at the first that fails. Without Go nothing is checked, and that is printed."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.collector", description=description)
    parser.add_argument("--rate", type=int, metavar="N", help="only send N spans a second, and count those that arrive")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="for --rate (default: 10)")
    parser.add_argument("--compression", default="none", choices=["none", "gzip"], help="for --rate (default: none)")
    parser.add_argument("--batch", type=int, metavar="N", help="for --rate: batch_size (default: configure()'s)")
    options = parser.parse_args()
    print("building the OpenTelemetry Collector: the first time takes minutes …", flush=True)
    try:
        program = golang(Path(__file__).parent)
    except Missing as reason:
        print(f"SKIPPED, the OpenTelemetry Collector: {reason}")
        return 0
    except BuildError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if options.rate:
            server = Server(program, folder)
            server.environ["GOMAXPROCS"] = "1"
            return (
                0 if run(server, rate.check, options.rate, options.seconds, options.compression, options.batch) else 1
            )
        authority, certificate = folder / "authority.pem", (folder / "certificate.pem", folder / "key.pem")
        issuer = trustme.CA()
        issued = issuer.issue_cert("127.0.0.1")
        issuer.cert_pem.write_to_path(authority)
        issued.cert_chain_pems[0].write_to_path(certificate[0])
        issued.private_key_pem.write_to_path(certificate[1])
        for name, tls in (("plain", None), ("tls", certificate)):
            (folder / name).mkdir()
            server = Server(program, folder / name, tls)
            if not run(server, compare, authority if tls else None):
                return 1
        if not unusual(program, folder, issuer):
            return 1
        if not older(folder / "older") or not behind(program, folder / "jaeger"):
            return 1
        for protocol in ("http/protobuf", "grpc"):
            for rejected in ("", rejection.ATTRIBUTE):
                print(f"faults, {protocol}, with a spool{', every tenth span rejected' * bool(rejected)}", flush=True)
                folder = Path(directory) / f"faults-{protocol[:4]}{'-rejected' * bool(rejected)}"
                folder.mkdir()
                server = Server(program, folder, configs=rejection.CONFIGS if rejected else ())
                if not run(server, faults.check, protocol, folder / "spool.db", rejected):
                    return 1
    print("every span was read back")
    return 0


def compare(server: Server, authority: Path | None) -> None:
    for protocol in ("http/protobuf", "http/json", "grpc"):
        for compression in ("none", "gzip"):
            count = fields.check(server, protocol, compression, authority)
            print(
                f"{server.scheme}, {protocol}, compression {compression}: {count} fields of 3 spans equal", flush=True
            )


def unusual(program: Path, folder: Path, issuer: trustme.CA) -> bool:
    """Check Collectors that are hard to reach."""
    print("with a spool", flush=True)
    for check, arguments in ((peers.grpc_alone, ()), (peers.buffered, ()), (peers.expiring, (issuer,))):
        (folder / check.__name__).mkdir()
        try:
            check(program, folder / check.__name__, *arguments)
        except Failed as error:
            log = (folder / check.__name__ / "log").read_text()[-3000:]
            print(f"failed: {error}\n--- log ---\n{log}", file=sys.stderr)
            return False
    return True


def older(folder: Path) -> bool:
    """Build an older Collector, and check the fields of spans in it, and sampling."""
    print("building an older Collector, with tail_sampling and spanmetrics: the first time takes minutes …", flush=True)
    try:
        program = golang(Path(__file__).parent / "sampling_module")
    except BuildError as error:
        print(f"failed: {error}", file=sys.stderr)
        return False
    for name in ("fields", "sampling"):
        (folder / name).mkdir(parents=True)
    if not run(Server(program, folder / "fields"), compare, None):
        return False
    print(f"sampling: {sampling.HEAD} by tracekit, then {sampling.TAIL} and all errors by tail_sampling", flush=True)
    return run(Server(program, folder / "sampling", is_sampling=True), sampling.check)


def behind(program: Path, folder: Path) -> bool:
    """Build Jaeger, and check it behind the Collector."""
    print("building Jaeger: the first time takes ten minutes …", flush=True)
    try:
        other = golang(Path(__file__).parent / "jaeger_module", "github.com/jaegertracing/jaeger/cmd/jaeger")
    except BuildError as error:
        print(f"failed: {error}", file=sys.stderr)
        return False
    for name, check, configs in (("whole", jaeger.check, ()), ("part", rejection.check, rejection.CONFIGS)):
        if configs:
            print("a Collector that rejects a part of each batch", flush=True)
        (folder / name).mkdir(parents=True)
        ports = [free_port() for _ in range(3)]
        server = Server(program, folder / name, forward=f"127.0.0.1:{ports[2]}", configs=configs)
        if not run(server, check, other, ports):
            return False
    return True


def run(server: Server, check: Callable[..., None], *arguments: Any) -> bool:
    """Call *check* while *server* is up; print the reason and the Collector's log if it fails."""
    with server:
        try:
            server.start()
            check(server, *arguments)
        except Failed as error:
            print(f"failed: {error}\n--- log ---\n{server.log.read_text()[-3000:]}", file=sys.stderr)
            return False
        finally:
            tracekit.configure(environ={})  # closes the connection
    return True


if __name__ == "__main__":
    sys.exit(main())
