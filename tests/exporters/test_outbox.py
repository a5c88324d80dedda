from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

import tracekit
from tracekit.exporters._otlp import outbox as _outbox
from tracekit.exporters._otlp.outbox import MAX_LEASE_S, Batch, Ledger, Outbox
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader, StoreError

from .files import another_program, directory_in_its_place, not_a_database, rows, total_bytes

ROOT = Path(tracekit.__file__).parents[1]
MIB = 1 << 20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path):
    outbox = Outbox(path)
    yield outbox
    outbox.close()


@pytest.fixture
def clock(monkeypatch):
    """The outbox's clock: ``clock.now`` is Unix time."""
    clock = SimpleNamespace(now=1_700_000_000.0, time=lambda: clock.now)
    monkeypatch.setattr(_outbox, "time", clock)
    return clock


def put(outbox, body=b"body", spans=1):
    outbox.put(body, spans=spans, content_type="application/x-protobuf", content_encoding="gzip")


def drain(outbox):
    """Deliver all batches that can be taken, and return their bodies."""
    bodies = []
    while (batch := outbox.take(60)) is not None:
        bodies.append(batch.body)
        outbox.sent(batch)
    return bodies


def python(*arguments):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error,ignore::DeprecationWarning"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def adds_up(ledger):
    return ledger.put == ledger.sent + ledger.rejected + ledger.evicted + ledger.waiting + ledger.aside


# A model


class Model(RuleBasedStateMachine):
    """Two outboxes on one file, compared to a list, under any sequence of calls and clock changes."""

    taken = Bundle("taken")

    def __init__(self):
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name, "outbox.db")
        self.now = 1_700_000_000
        self.clock = mock.patch.object(_outbox, "time", SimpleNamespace(time=lambda: float(self.now)))
        self.clock.start()
        self.bound = mock.patch.object(_outbox, "MAX_FAILURES", 2)
        self.bound.start()
        self.outboxes = [Outbox(self.path, max_bytes=MIB) for _ in range(2)]
        self.batches = []  # in the file, the oldest first
        self.put = self.sent = self.rejected = self.evicted = self.parts = 0

    def teardown(self):
        for outbox in self.outboxes:
            outbox.close()
        assert rows(self.path, "PRAGMA integrity_check") == [("ok",)]
        self.clock.stop()
        self.bound.stop()
        self.directory.cleanup()

    who = st.sampled_from([0, 1])

    def waits(self, batch):
        return self.now < batch.until <= self.now + MAX_LEASE_S

    def find(self, id):
        return next((batch for batch in self.batches if batch.id == id), None)

    @rule(who=who, size=st.sampled_from([0, 10, 5_000, 100_000, 131_072]), spans=st.integers(1, 2000))
    def put_one(self, who, size, spans):
        body = (b"%d." % self.put).ljust(size, b"x")[: 1 << 17]
        put(self.outboxes[who], body, spans)
        self.put += spans
        evicted = self.outboxes[who].ledger().evicted
        assert evicted == self.evicted or sum(len(batch.body) for batch in self.batches) > MIB // 3
        while self.evicted < evicted:
            aside = [batch for batch in self.batches if batch.is_aside]
            free = [batch for batch in self.batches if not (batch.is_held and self.waits(batch))]
            gone = (aside or free or self.batches)[0]
            self.batches.remove(gone)
            self.evicted += gone.spans
        self.add(body, spans)

    def add(self, body, spans):
        batch = SimpleNamespace(id=None, body=body, spans=spans, attempts=0, is_held=False, until=0)
        batch.failures, batch.sent, batch.is_aside = 0, -1, False
        self.batches.append(batch)

    @rule(target=taken, who=who, lease_s=st.sampled_from([1, 60, 3600]), early=st.booleans(), past=st.booleans())
    def take(self, who, lease_s, early, past):
        after = max([batch.id or 0 for batch in self.batches], default=0) if past else 0
        batch = self.outboxes[who].take(lease_s, early=early, after=after)
        expected = next(
            (
                batch
                for batch in self.batches
                if not (batch.is_aside or (self.waits(batch) and (batch.is_held or not early)))
                if batch.id is None or batch.id > after
            ),
            None,
        )
        if expected is None:
            assert batch is None
            return multiple()
        assert batch[1:] == (
            expected.body,
            expected.spans,
            "application/x-protobuf",
            "gzip",
            expected.attempts,
            expected.failures,
        )
        expected.id = batch.id
        expected.attempts += 1
        expected.is_held, expected.until = True, self.now + lease_s
        return batch

    @rule(who=who, batch=taken, rejected=st.sampled_from([0, 0, 1, 10**9, -1]))
    def settle(self, who, batch, rejected):
        self.outboxes[who].sent(batch, rejected=rejected)
        self.leave(batch, max(0, min(rejected, batch.spans)))

    @rule(who=who, batch=taken)
    def reject(self, who, batch):
        self.outboxes[who].rejected(batch)
        self.leave(batch, batch.spans)

    def leave(self, batch, rejected):
        mine = self.find(batch.id)
        if mine is not None:
            self.batches.remove(mine)
            rejected = min(rejected, mine.spans)  # it may have been split meanwhile
            self.sent += mine.spans - rejected
            self.rejected += rejected

    @rule(who=who, batch=taken, delay_s=st.sampled_from([0, 5, 3600, 10**6]))
    def give_back(self, who, batch, delay_s):
        self.outboxes[who].give_back(batch, delay_s=delay_s)
        mine = self.find(batch.id)
        if mine is not None and mine.is_held and mine.attempts == batch.attempts + 1:
            mine.is_held, mine.until = False, self.now + min(delay_s, MAX_LEASE_S)

    @rule(who=who, batch=taken, delay_s=st.sampled_from([0, 5, 3600]))
    def fail(self, who, batch, delay_s):
        is_aside = self.outboxes[who].failed(batch, delay_s=delay_s)
        mine = self.find(batch.id)
        if mine is None or not mine.is_held or mine.attempts != batch.attempts + 1:
            assert not is_aside
            return
        mine.is_held, mine.until = False, self.now + delay_s
        if mine.sent < self.sent:
            mine.failures += 1
            mine.sent = self.sent
            mine.is_aside = mine.failures >= 2
        assert is_aside == mine.is_aside

    @rule(who=who)
    def readmit(self, who):
        self.outboxes[who].readmit()
        for batch in self.batches:
            if batch.is_aside:
                batch.is_aside, batch.failures, batch.until = False, 1, 0

    @rule(who=who, batch=taken, left_out=st.sampled_from([0, 1, 10**9]))
    def replace(self, who, batch, left_out):
        left_out = min(left_out, batch.spans)
        first = (batch.spans - left_out) // 2
        counts = [count for count in (first, batch.spans - left_out - first) if count]
        self.parts += 2
        half = batch.body[: len(batch.body) // 2]
        parts = [(b"part %d %s" % (self.parts + at, half), count) for at, count in enumerate(counts)]
        self.outboxes[who].replace(batch, parts)
        mine = self.find(batch.id)
        if mine is None or not mine.is_held or mine.attempts != batch.attempts + 1:
            return
        index = self.batches.index(mine)
        self.batches.remove(mine)
        self.rejected += left_out
        for body, spans in parts:
            self.add(body, spans)
        if parts:  # the first part keeps the position
            first = self.batches.pop(-len(parts))
            first.id, first.attempts = mine.id, mine.attempts
            self.batches.insert(index, first)

    @rule(seconds=st.sampled_from([1, 59, 61, 3601, -1, -61, -3601, 10**9, -(10**9)]))
    def clock_goes(self, seconds):
        self.now += seconds

    @rule(who=who)
    def restart(self, who):
        self.outboxes[who].close()
        self.outboxes[who] = Outbox(self.path, max_bytes=MIB)

    @invariant()
    def the_ledger_is_right(self):
        ledger = self.outboxes[0].ledger()
        waiting = [batch for batch in self.batches if not batch.is_aside]
        spans, size = sum(batch.spans for batch in waiting), sum(len(batch.body) for batch in waiting)
        aside = sum(batch.spans for batch in self.batches if batch.is_aside)
        assert ledger == Ledger(self.put, self.sent, self.rejected, self.evicted, spans, size, aside)
        assert adds_up(ledger)
        assert total_bytes(self.path) <= MIB

    @invariant()
    def what_is_due_is_right(self):
        found = [
            batch.until - self.now if self.waits(batch) else 0
            for batch in self.batches
            if not batch.is_aside and not (batch.is_held and self.waits(batch))
        ]
        assert self.outboxes[1].due_s() == (min(found) if found else None)


class TestModel(Model.TestCase):
    settings = settings(
        deadline=None,
        max_examples=25,
        stateful_step_count=30,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def test_batches_are_returned_unchanged(outbox):
    bodies = [b"", b"\0\xff", "é".encode(), os.urandom(MIB)]
    for body in bodies:
        outbox.put(body, spans=7, content_type="application/json", content_encoding="")
    found = [outbox.take(1) for _ in bodies]
    assert [batch[1:] for batch in found] == [(body, 7, "application/json", "", 0, 0) for body in bodies]
    assert outbox.take(1) is None


def test_a_lease_by_a_wrong_clock_ends_within_the_longest_lease(outbox, clock):
    put(outbox)
    clock.now += 10 * 365 * 86400
    assert outbox.take(MAX_LEASE_S) is not None
    clock.now -= 10 * 365 * 86400
    batch = outbox.take(60)
    assert batch.attempts == 1
    outbox.give_back(batch, delay_s=1e9)
    assert outbox.take(60) is None
    clock.now += MAX_LEASE_S
    assert outbox.take(60).attempts == 2


@pytest.mark.parametrize("lease_s", [0, -1, 3601, float("nan"), float("inf")])
def test_an_invalid_length_of_a_lease_is_an_error(outbox, lease_s):
    with pytest.raises(ValueError, match=r"lease_s must be above 0 and at most 3600"):
        outbox.take(lease_s)


# Threads and processes


def test_threads_share_one_outbox(outbox):
    bodies = [b"%d" % number for number in range(400)]
    arrived, failures = [], []

    def produce(own):
        try:
            for body in own:
                put(outbox, body)
        except BaseException as error:
            failures.append(error)

    def send():
        try:
            while len(arrived) < len(bodies) and not failures:
                arrived.extend(drain(outbox))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=produce, args=(bodies[start::2],)) for start in range(2)]
    threads += [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sorted(arrived) == sorted(bodies)
    assert outbox.ledger() == Ledger(400, 400, 0, 0, 0, 0)


def produce_and_send(path, name, count):
    """Put *count* batches, deliver some batches, and return the bodies of those."""
    rng = random.Random(name)
    outbox = Outbox(path, lock_timeout_s=60)
    arrived = []
    for number in range(count):
        put(outbox, f"{name}.{number}.".encode().ljust(rng.choice([20, 2_000, 50_000]), b"x"), spans=3)
        batch = outbox.take(3600)
        if batch is None:
            continue
        outcome = rng.randrange(4)
        if outcome == 0:
            outbox.give_back(batch)
            continue
        arrived.append(batch.body.partition(b"x")[0])
        if outcome == 1:
            outbox.rejected(batch)
        else:
            outbox.sent(batch, rejected=1)
    ledger = outbox.ledger()
    outbox.close()
    return arrived, ledger


def test_processes_that_share_a_file_send_each_batch_once_and_keep_one_ledger(path):
    names, count = ["one", "two", "three"], 100
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(produce_and_send, path, name, count) for name in names]
        results = [future.result(timeout=600) for future in futures]
    assert all(adds_up(ledger) for _, ledger in results)
    arrived = [body for bodies, _ in results for body in bodies]
    outbox = Outbox(path)
    before = outbox.ledger()
    assert (before.put, before.sent + before.rejected, before.evicted) == (900, 3 * len(arrived), 0)
    arrived += [body.partition(b"x")[0] for body in drain(outbox)]
    outbox.close()
    assert sorted(arrived) == sorted(f"{name}.{number}.".encode() for name in names for number in range(count))
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_processes_killed_at_random_moments_lose_no_batch():
    lines = python("-m", "tests.sigkill", "--kills", 12).splitlines()
    assert lines[-1] == "integrity_check: ok; nothing is missing"
    counts = {name: int(count) for count, name in (line.split(maxsplit=1) for line in lines[:-1])}
    assert counts["kills"] == 12
    assert counts["batches committed"] > counts["delivered"] > 0
    assert counts["ledger put"] == counts["ledger sum"]


FORK = """
import os, sys
from tracekit.exporters._sqlite import file as _sqlite_file
from tracekit.exporters._otlp.outbox import Outbox
outbox = Outbox(sys.argv[1])
def put(body):
    outbox.put(body, spans=1, content_type="", content_encoding="")
put(b"parent's")
mine = outbox.take(60)
inherited = outbox._file._connection
pid = os.fork()
if not pid:
    wrong = [outbox._file._connection is not None, _sqlite_file._forks.inherited != [inherited]]
    put(b"child's")
    wrong += [outbox._file._connection is inherited, outbox.take(60).body != b"child's"]
    outbox.sent(mine)  # inherited across the fork, with its lease
    outbox.close()
    wrong += [inherited.execute("SELECT 1").fetchone() != (1,)]  # not closed
    print(*map(int, wrong), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
outbox.sent(mine)
print(*outbox.ledger())
outbox.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_fork_the_child_opens_its_own_connection(path):
    child, parent = python("-c", FORK, path).splitlines()
    assert child.split() == ["0"] * 5
    assert parent == "2 1 0 0 1 7 0"


# Bounds


@pytest.mark.parametrize(("size", "count"), [(3_000, 300), (100_000, 30), (MIB // 8, 20)])
def test_beyond_the_bound_the_oldest_batches_are_evicted_and_counted(path, size, count):
    outbox = Outbox(path, max_bytes=MIB)
    numbers = [b"%06d" % number for number in range(count)]
    for number in numbers:
        put(outbox, number.ljust(size, b"x"), spans=2)
        assert total_bytes(path) <= MIB
    ledger = outbox.ledger()
    kept = [body[:6] for body in drain(outbox)]
    outbox.close()
    assert kept == numbers[-len(kept) :]
    assert len(kept) * size > MIB // 3
    assert ledger == Ledger(2 * count, 0, 0, 2 * (count - len(kept)), 2 * len(kept), len(kept) * size)


def test_a_batch_that_is_being_sent_is_evicted_last(path):
    outbox = Outbox(path, max_bytes=MIB)
    put(outbox, b"first")
    first = outbox.take(60)
    for _ in range(20):
        put(outbox, b"x" * 100_000)
    assert outbox.ledger().evicted > 10
    outbox.sent(first)
    assert outbox.ledger().sent == 1
    while outbox.take(60) is not None:
        pass
    before = outbox.ledger()
    put(outbox, b"x" * 100_000)
    assert outbox.ledger().evicted == before.evicted + 1, "if all are being sent, one of them is evicted"
    outbox.close()


def test_a_batch_that_is_too_large_is_rejected_and_evicts_none(path):
    outbox = Outbox(path, max_bytes=MIB)
    put(outbox)
    with pytest.raises(
        StoreError, match=r"a batch is too large for the spool: .*outbox\.db: raise spool_bytes to 8 times its size"
    ):
        put(outbox, b"x" * (MIB // 8 + 1))
    assert outbox.ledger() == Ledger(1, 0, 0, 0, 1, 4)
    outbox.close()


def test_a_smaller_bound_than_last_time_shrinks_the_file(path):
    outbox = Outbox(path)
    for number in range(60):
        put(outbox, b"%d." % number + b"x" * 100_000)
    outbox.close()
    assert total_bytes(path) > 5 * MIB
    outbox = Outbox(path, max_bytes=MIB)
    for _ in range(4):
        put(outbox, b"new")
    outbox.close()
    assert total_bytes(path) <= MIB
    outbox = Outbox(path, max_bytes=MIB)
    assert adds_up(outbox.ledger())
    old = [int(body.partition(b".")[0]) for body in drain(outbox) if body != b"new"]
    assert old == list(range(60 - len(old), 60))
    outbox.close()


def test_a_file_that_is_empty_again_gives_its_pages_back(path):
    outbox = Outbox(path)
    for _ in range(100):
        put(outbox, b"x" * 100_000)
    drain(outbox)
    for _ in range(10):
        assert outbox.take(60) is None
    outbox.close()
    assert total_bytes(path) < 2 * MIB


def test_a_reader_that_blocks_the_log_for_ever_cannot_fill_the_disk(path):
    outbox = Outbox(path, max_bytes=MIB, lock_timeout_s=0.1)
    for _ in range(20):
        put(outbox, b"x" * 100_000)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM batches").fetchone()

    def fill():
        for _ in range(100):
            put(outbox, b"x" * (MIB // 8))

    def turn():
        for _ in range(1000):
            outbox.give_back(outbox.take(60))

    for work in (fill, turn):
        with pytest.raises(
            StoreError, match=r"a reader blocks the write-ahead log: .*: end what has a transaction open"
        ):
            work()
        assert total_bytes(path) <= MIB
    ledger = outbox.ledger()
    reader.close()
    put(outbox)
    assert outbox.ledger().put == ledger.put + 1
    assert adds_up(outbox.ledger())
    outbox.close()


def test_the_bound_holds_if_the_room_was_overestimated(path, monkeypatch):
    outbox = Outbox(path, max_bytes=MIB)
    monkeypatch.setattr(outbox._file, "room", lambda _: 1 << 40)
    for number in range(30):
        put(outbox, b"%d." % number + b"x" * 100_000)
        assert total_bytes(path) <= MIB
    ledger = outbox.ledger()
    kept = [int(body.partition(b".")[0]) for body in drain(outbox)]
    outbox.close()
    assert kept == list(range(30 - len(kept), 30))
    assert ledger[:5] == (30, 0, 0, 30 - len(kept), len(kept))


# The disk

LIMITED = """
import resource, sys
from tracekit.exporters._otlp.outbox import Outbox
from tracekit.exporters.sqlite import StoreError
outbox = Outbox(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
kept, said = [], set()
def put(number):
    outbox.put(b"%d." % number + b"x" * 20_000, spans=1, content_type="", content_encoding="")
    kept.append(number)
for number in range(100):
    try:
        put(number)
    except StoreError as error:
        said.add(str(error))
ledger = outbox.ledger()
assert ledger == (len(kept), 0, 0, 0, len(kept), ledger.waiting_bytes, 0), ledger
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
put(100)
found = []
while (batch := outbox.take(60)) is not None:
    found.append(int(batch.body.partition(b".")[0]))
    outbox.sent(batch)
after = outbox.ledger()
assert after == (len(kept), len(kept), 0, 0, 0, 0, 0), after
assert found == kept, (found, kept)
outbox.close()
print(len(kept), *said, sep="\\n")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
@pytest.mark.parametrize("limit", [100_000, 200_000, 500_000])
def test_a_file_size_limit_only_loses_batches_that_do_not_fit(path, limit):
    kept, said = python("-c", LIMITED, path, limit).splitlines()
    assert 2 < int(kept) < 100
    assert said.startswith(f"disk error or file size limit: {path}: look at the disk and at ulimit -f")
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


FILL = """
import os, sys
from tracekit.exporters._otlp.outbox import Outbox
path = sys.argv[1] + "/outbox.db"
outbox = Outbox(path, max_bytes=16 << 20)
for number in range(100):  # none of these calls fails
    outbox.put(b"%d." % number + os.urandom(100_000), spans=1, content_type="", content_encoding="")
found = []
while (batch := outbox.take(60)) is not None:
    found.append(int(batch.body.partition(b".")[0]))
    outbox.sent(batch)
ledger = outbox.ledger()
assert ledger == (100, len(found), 0, 100 - len(found), 0, 0, 0), ledger
assert found == list(range(100 - len(found), 100)), found
outbox.close()
print(len(found))
"""
# A private file system of 2 MiB.
MOUNT = 'mount -t tmpfs -o size=2m tracekit "$1" && exec "$2" -c "$3" "$1"'


def test_on_a_full_disk_the_oldest_are_evicted_and_the_others_can_be_sent(tmp_path):
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "mount -t tmpfs t /tmp"]).returncode:
        pytest.skip("no file systems of one's own on this system")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*namespace, MOUNT, "sh", tmp_path, sys.executable, FILL]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert 5 < int(done.stdout) < 20


@pytest.fixture
def disk(monkeypatch):
    """What is free on the disk: ``disk.free`` bytes."""
    disk = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    return disk


def test_the_last_room_on_a_disk_is_not_used(path, disk):
    outbox = Outbox(path, max_bytes=32 * MIB)
    for _ in range(3):
        put(outbox, b"x" * 10_000)
    disk.free = MIB
    with pytest.raises(StoreError, match=r"no space left: .*outbox\.db: free some on its disk"):
        put(outbox, b"new")
    ledger = outbox.ledger()
    assert adds_up(ledger)
    assert (ledger.waiting, ledger.evicted) == (3, 0)  # without them the disk would be as full
    disk.free = 2 * MIB
    put(outbox, b"new")
    assert outbox.ledger().put == ledger.put + 1 == 4
    outbox.close()


def test_nothing_is_sent_without_room_to_record_it(outbox, disk):
    put(outbox)
    disk.free = 0
    with pytest.raises(StoreError, match="no space left"):
        outbox.take(60)
    disk.free = MIB
    assert outbox.take(60).attempts == 0


# Failures: each is reported with its cause, and ends with it


def traces(path):
    tracekit.configure(exporter=SQLiteExporter(path))
    tracekit.span("x").end()
    tracekit.shutdown(60)
    return path.unlink


def with_a_batch(path):
    outbox = Outbox(path)
    put(outbox, b"x" * 10_000)
    outbox.close()


def another_version(path):
    with_a_batch(path)
    rows(path, "PRAGMA user_version = 3")
    return lambda: rows(path, "PRAGMA user_version = 2")


def damaged(path):
    with_a_batch(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\x05" * (len(whole) - 100))
    return path.unlink


def locked(path):
    with_a_batch(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    return other.close


FAILURES = [
    pytest.param(not_a_database, "not a SQLite database", "move that file away", id="not a database"),
    pytest.param(another_program, "another program's database", "name another path", id="another program's"),
    pytest.param(traces, "a tracekit file of another kind", "name another path", id="traces"),
    pytest.param(another_version, "has schema version 3, this tracekit knows 2", "that wrote it", id="version"),
    pytest.param(damaged, "damaged", "move it away", id="damaged"),
    pytest.param(directory_in_its_place, "is a directory", "name a file in it", id="directory"),
    pytest.param(locked, "locked by another process", "fuser or lsof", id="locked"),
]


@pytest.mark.parametrize(("spoil", "wrong", "way_out"), FAILURES)
def test_a_failure_names_cause_file_and_remedy_and_ends_with_its_cause(path, spoil, wrong, way_out):
    mend = spoil(path)
    before = path.read_bytes() if path.is_file() else None
    outbox = Outbox(path, lock_timeout_s=0.01)
    batch = Batch(1, b"", 1, "", "", 0)
    calls = [lambda: put(outbox), lambda: outbox.take(1), lambda: outbox.sent(batch), lambda: outbox.give_back(batch)]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            call()
        assert str(caught.value).startswith(f"{wrong}: {path}: ")
        assert way_out in str(caught.value)
    if before is not None:
        assert path.read_bytes() == before, "the file is not changed"
    mend()
    put(outbox, b"kept")
    assert drain(outbox)[-1] == b"kept"
    outbox.close()


def test_an_outbox_is_not_mistaken_for_a_store(path):
    with_a_batch(path)
    with pytest.raises(StoreError, match="a tracekit file of another kind"):
        SQLiteReader(path)


def test_a_missing_directory_is_named_and_used_once_it_is_there(tmp_path):
    outbox = Outbox(tmp_path / "later" / "outbox.db")
    with pytest.raises(StoreError, match=r"no such directory: .*outbox\.db: make it first: mkdir -p .*later$"):
        put(outbox)
    (tmp_path / "later").mkdir()
    put(outbox)
    outbox.close()


def test_a_removed_file_is_created_again_and_old_batches_do_not_match_it(path, outbox):
    put(outbox, b"before")
    old = outbox.take(60)
    for file in path.parent.iterdir():
        file.unlink()
    for _ in range(5):
        put(outbox, b"after")
    outbox.sent(old)
    outbox.rejected(old)
    outbox.give_back(old)
    assert outbox.ledger() == Ledger(5, 0, 0, 0, 5, 25)


def test_the_log_of_a_file_behind_a_link_is_bounded_too(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "real.db")
    outbox = Outbox(path, max_bytes=MIB, lock_timeout_s=0.1)
    put(outbox)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM batches").fetchone()

    def fill():
        for _ in range(100):
            put(outbox, b"x" * 50_000)

    with pytest.raises(StoreError, match="a reader blocks the write-ahead log"):
        fill()
    assert total_bytes(tmp_path / "elsewhere" / "real.db") <= MIB
    reader.close()
    outbox.close()


def test_a_closed_outbox_raises_and_stays_closed(path, outbox):
    put(outbox)
    batch = outbox.take(60)
    outbox.close()
    outbox.close()
    for call in (lambda: put(outbox), lambda: outbox.take(1), lambda: outbox.sent(batch), outbox.ledger):
        with pytest.raises(StoreError, match=r"the outbox is closed: .*: make another one"):
            call()
    assert list(path.parent.iterdir()) == [path], "no connection is open, so SQLite has removed its log"


def test_no_file_is_created_before_the_first_call(path):
    Outbox(path).close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": b"x"}, TypeError, "path must be str or a path, not bytes"),
        ({"path": ""}, ValueError, "path must name a file: ''"),
        ({"lock_timeout_s": 0}, ValueError, "lock_timeout_s must be above 0: 0"),
        ({"lock_timeout_s": None}, TypeError, "lock_timeout_s must be a number, not NoneType"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes must be int, not float"),
        ({"max_bytes": 1000}, ValueError, "max_bytes must be at least 1048576: 1000"),
    ],
)
def test_invalid_options_are_reported(options, error, message):
    with pytest.raises(error, match=message):
        Outbox(**{"path": "outbox.db", **options})


@pytest.mark.one_form
def test_a_count_that_another_program_has_changed_stops_no_batch(path, outbox):
    put(outbox)
    outbox.give_back(outbox.take(60))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE leases SET attempts = 1e300")
    connection.close()
    outbox.sent(outbox.take(60))
    assert outbox.ledger().sent == 1
