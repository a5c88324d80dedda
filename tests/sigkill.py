"""Kill processes that share an outbox at random moments, and check that no batch is missing.

``python -m tests.sigkill --kills 100``: exit status 1 on any violation. A batch counts as put once its process has
reported it on a pipe, after ``put()`` returned; it may be gone only if a process has reported before that it delivers it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import Counter
from types import SimpleNamespace
from unittest import mock

from tracekit.exporters._otlp import outbox as _outbox
from tracekit.exporters._otlp.outbox import Outbox

WRITERS = 2  # at the same time, on one file
A_FILE = 10  # kills; then a new file, because its creation is a special case
LATEST_S = 0.05  # at most, after less than so many reports:
REPORTS = 30


class Violation(Exception):
    """A violated guarantee."""


class Writer:
    """A process that puts batches into the outbox at *path*, delivers some of them, and reports each step."""

    def __init__(self, path, name):
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.close(reading)
                work(path, name, writing)
            os._exit(1)  # an error: it should have been killed
        os.close(writing)
        self.pipe = reading
        os.read(reading, 1)  # it is about to open the outbox

    def kill(self, reports, later_s):
        """Kill it *later_s* after so many reports; return all that came, as (verb, name of the batch)."""
        with open(self.pipe, "rb") as pipe:
            first = b"".join([pipe.readline() for _ in range(reports)])
            time.sleep(later_s)
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
            lines = (first + pipe.read()).decode().split("\n")
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            raise Violation(f"a writer ended by itself: {lines[-3:]}")
        return [tuple(line.split(" ")) for line in lines[:-1]]


def work(path, name, pipe):
    rng = random.Random(name)
    os.write(pipe, b"\n")
    outbox = Outbox(path, lock_timeout_s=60)
    number = 0
    while True:
        number += 1
        batch = f"{name}.{number}"
        outbox.put(body_of(batch, rng.choice([0, 1_000, 50_000])), spans=1, content_type="", content_encoding="")
        os.write(pipe, f"put {batch}\n".encode())
        if rng.random() < 0.5:
            taken = outbox.take(60)
            if taken is not None and rng.random() < 0.3:
                outbox.give_back(taken, delay_s=60)
            elif taken is not None:
                os.write(pipe, f"delivers {name_of(taken.body)}\n".encode())
                outbox.sent(taken)
                os.write(pipe, f"delivered {name_of(taken.body)}\n".encode())


def body_of(name, size):
    rest = random.Random(name).randbytes(size)
    return b"%08x %s %s" % (zlib.crc32(rest), name.encode(), rest)


def name_of(body):
    crc, name, rest = body.split(b" ", 2)
    if int(crc, 16) != zlib.crc32(rest):
        raise Violation(f"the body of {name.decode()} is not what was put")
    return name.decode()


def check(path, said, kills):
    """Compare the content of the outbox with the reports; return the counts."""
    names = {verb: {name for word, name in said if word == verb} for verb in ("put", "delivers", "delivered")}
    connection = sqlite3.connect(path)
    integrity = connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    if integrity != [("ok",)]:
        raise Violation(f"integrity_check: {integrity}")
    outbox = Outbox(path)
    before = outbox.ledger()
    # Leases of killed processes end within an hour.
    with mock.patch.object(_outbox, "time", SimpleNamespace(time=lambda: time.time() + _outbox.MAX_LEASE_S)):
        found = []
        while (batch := outbox.take(60)) is not None:
            found.append(name_of(batch.body))
            outbox.sent(batch)
    ledger = outbox.ledger()
    outbox.close()
    for moment in (before, ledger):
        if moment.put != moment.sent + moment.rejected + moment.evicted + moment.waiting + moment.aside:
            raise Violation(f"the ledger does not add up: {moment}")
    if before.waiting != len(found) or ledger.waiting:
        raise Violation(f"{len(found)} batches found: {before}, then {ledger}")
    if len(set(found)) < len(found):
        raise Violation("a batch was put once and found twice")
    if missing := names["put"] - set(found) - names["delivers"]:
        raise Violation(f"missing: {sorted(missing)[:10]}")
    if again := names["delivered"] & set(found):
        raise Violation(f"there again: {sorted(again)[:10]}")
    # A batch that was being put when its process was killed may be present without a report.
    if not 0 <= ledger.put - len(names["put"]) <= kills or ledger.evicted or ledger.rejected:
        raise Violation(f"{len(names['put'])} batches put: {ledger}")
    if not len(names["delivered"]) <= before.sent <= len(names["delivers"]):
        raise Violation(f"{len(names['delivered'])} batches delivered: {before}")
    return Counter(
        batches_committed=len(names["put"]),
        delivered=len(names["delivered"]),
        in_doubt=len(names["delivers"] - names["delivered"]) + ledger.put - len(names["put"]),
        found_again=len(found),
        ledger_put=ledger.put,
        ledger_sum=ledger.sent + ledger.rejected + ledger.evicted + ledger.waiting,
    )


def run(*, kills, seed):
    """Kill *kills* processes, and return the counts; raise ``Violation`` on a violated guarantee."""
    rng = random.Random(seed)
    counts = Counter()
    directory = tempfile.mkdtemp(prefix="tracekit-sigkill-")
    for first in range(0, kills, A_FILE):
        path = os.path.join(directory, f"{first}.db")
        here = min(A_FILE, kills - first)
        said = []
        writers = []
        for number in range(here):
            while len(writers) < min(WRITERS, here - number):
                writers.append(Writer(path, f"{seed}.{first}.{number}.{len(writers)}"))
            writer = writers.pop(rng.randrange(len(writers)))
            said += writer.kill(rng.randrange(REPORTS), rng.random() * LATEST_S)
        try:
            counts += check(path, said, here)
        except Violation as error:
            error.add_note(f"kept: {path}; seed {seed}")
            raise
        counts += Counter(kills=here, files=1)
    shutil.rmtree(directory)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill writers of an outbox, and look for what they had put.")
    parser.add_argument("--kills", type=int, default=100, help="how many processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of moments and sizes (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        counts = run(kills=arguments.kills, seed=arguments.seed)
    except Violation as error:
        print("\n".join([f"violation: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{count:8} {name.replace('_', ' ')}")
    print("integrity_check: ok; nothing is missing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
