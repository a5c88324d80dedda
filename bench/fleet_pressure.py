"""Back-pressure: what a collector gets from clients that it has turned away at the same moment; for ``bench.fleet``.

Each client sends a batch a second, at its own moment, in the way of the exporter's spool: after a failure it waits for
``Backoff.next_s()``, the real one; then it tries one batch, and after a success sends those that have waited, one
after the other. The collector hangs for five seconds, answers all waiting requests with 503 at once, is away for
another twenty, and comes back with half as much capacity again as the clients need; requests beyond that are answered
with 503.
"""

from __future__ import annotations

import heapq
import random
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from tracekit.exporters._otlp import answers
from tracekit.exporters._otlp.sender import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOT_S = 0.1  # the peak is of this time
HANGS_S, FAILS_S, BACK_S, END_S = 10.0, 15.0, 35.0, 400.0
CAPACITY = 1.5  # of the clients' steady rate
EXCHANGE_S = 0.05  # from a request to its answer


class Pressure(NamedTuple):
    """The requests that a collector got after it had failed."""

    peak: float  # requests in a tenth of a second, as a multiple of the steady rate
    returning: float  # the same, of the first tries of all clients after the hang alone
    spread_s: float  # between the 5th and the 95th percentile of those first tries
    rejected: float  # requests answered 503, per client
    recovered_s: float  # from the return of the collector until no batch waits for a retry


class _Plain:
    """The same back-off without its random part, for comparison."""

    def __init__(self) -> None:
        self._failures = 0

    def next_s(self, at_least_s: float | None = None) -> float:
        wait_s = min(60.0, 2.0**self._failures)
        self._failures += 1
        return max(wait_s, at_least_s or 0.0)

    def reset(self) -> None:
        self._failures = 0


@contextmanager
def _seeded(rng: random.Random) -> Iterator[None]:
    """Have the back-off take its random octets from *rng*."""
    system = answers.os
    answers.os = SimpleNamespace(urandom=rng.randbytes)  # type: ignore[assignment]
    try:
        yield
    finally:
        answers.os = system


def press(clients: int, retry_after_s: float | None, make: Callable[[], Backoff | _Plain], seed: int) -> Pressure:
    """Simulate *clients* of one collector, whose 503 asks for *retry_after_s*."""
    rng = random.Random(seed)
    slots = [0] * (int(END_S / SLOT_S) + 2)
    firsts: list[float] = []
    rejected = 0
    per_slot = CAPACITY * clients * SLOT_S
    backoffs = [make() for _ in range(clients)]
    phases = [rng.random() for _ in range(clients)]
    sent = [0] * clients
    has_returned = [False] * clients
    recovered_s = BACK_S
    events = [(phase, client) for client, phase in enumerate(phases)]
    heapq.heapify(events)
    with _seeded(rng):
        while events:
            at_s, client = heapq.heappop(events)
            if at_s >= END_S:
                continue
            slot = int(at_s / SLOT_S)
            slots[slot] += 1
            if at_s >= FAILS_S and not has_returned[client]:
                has_returned[client] = True
                firsts.append(at_s)
            if HANGS_S <= at_s < FAILS_S:
                answered_s, is_taken = FAILS_S, False
            else:
                answered_s = at_s + EXCHANGE_S
                is_taken = (at_s < HANGS_S or at_s >= BACK_S) and slots[slot] <= per_slot
            if is_taken:
                backoffs[client].reset()
                sent[client] += 1
                is_behind = phases[client] + sent[client] < answered_s
                if is_behind:
                    recovered_s = max(recovered_s, answered_s)
                heapq.heappush(events, (answered_s if is_behind else phases[client] + sent[client], client))
            else:
                rejected += 1
                heapq.heappush(events, (answered_s + backoffs[client].next_s(retry_after_s), client))
    steady = clients * SLOT_S
    first_slots: dict[int, int] = {}
    for at_s in firsts:
        first_slots[int(at_s / SLOT_S)] = first_slots.get(int(at_s / SLOT_S), 0) + 1
    firsts.sort()
    spread_s = firsts[int(len(firsts) * 0.95)] - firsts[int(len(firsts) * 0.05)]
    return Pressure(
        max(slots[int(FAILS_S / SLOT_S) :]) / steady,
        max(first_slots.values()) / steady,
        spread_s,
        rejected / clients,
        recovered_s - BACK_S,
    )


def print_pressure(clients: int, seed: int) -> None:
    """Print a table: the real back-off, and the same without jitter, for some values of Retry-After."""
    print(f"{clients:,} clients, a batch a second each; multiples of the steady rate, in a tenth of a second.\n")
    print(
        "| Retry-After | back-off | first tries, peak | spread, 5 to 95 % | all requests, peak | 503 a client | recovered after |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for retry_after_s in (None, 5.0, 30.0):
        for name, make in (("tracekit", Backoff), ("without jitter", _Plain)):
            one = press(clients, retry_after_s, make, seed)
            asked = "none" if retry_after_s is None else f"{retry_after_s:g} s"
            print(
                f"| {asked} | {name} | {one.returning:.1f} | {one.spread_s:.2f} s | {one.peak:.1f} | {one.rejected:.1f} "
                f"| {one.recovered_s:.0f} s |",
                flush=True,
            )
