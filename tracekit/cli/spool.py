"""``tracekit spool``: counts of the spans that an OTLP exporter has put into its spool, sent, and not sent yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..exporters._otlp.outbox import Outbox
from ..exporters._otlp.requests import Ledger
from ..exporters.sqlite import StoreError
from .screen import Screen, print_json

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return its exit status."""
    if not os.path.exists(arguments.path):
        raise StoreError("there is no such file", arguments.path, "name the file of OTLPExporter(spool=…)")
    ledger = Ledger(0, 0, 0, 0, 0, 0)
    if not os.path.isfile(arguments.path) or os.path.getsize(arguments.path):  # an empty file would become a spool
        outbox = Outbox(arguments.path)
        try:
            ledger = outbox.ledger()
        finally:
            outbox.close()
    if arguments.json:
        print_json(ledger._asdict())
        return 0
    screen = Screen()
    size = f"  in {ledger.waiting_bytes:,} bytes" if ledger.waiting else ""
    for name, text in (
        ("put", "stored since the file was made"),
        ("sent", "accepted by the collector"),
        ("rejected", "rejected by the collector"),
        ("evicted", "the oldest, dropped when the spool was full"),
        ("waiting", f"to be sent{size}"),
        ("aside", "failed 32 times; the next process tries once more"),
    ):
        count = getattr(ledger, name)
        if name == "aside" and not count:
            continue
        style = "bold red" if count and name in ("rejected", "evicted", "aside") else "bold"
        screen.line(
            (f"{name:<9}", style), (f"{count:>12,} {'span ' if count == 1 else 'spans'}", style), (f"  {text}", "dim")
        )
    return 0
