"""The time between ready and run of the tasks of named groups, by group; /debug/loop shows it."""

from __future__ import annotations

from typing import Final, NamedTuple

_GROUPS: Final = 256  # tasks of further groups are counted together
_OTHERS: Final = "(other groups)"
_NAME: Final = 200


class GroupWaits(NamedTuple):
    """How long the tasks of the groups of one name waited for their first step, since the process started."""

    group: str
    tasks: int
    mean_s: float
    worst_s: float
    worst_task: str


class _Tally:
    __slots__ = ("count", "total_ns", "worst_ns", "worst_task")

    def __init__(self) -> None:
        self.count = self.total_ns = 0
        self.worst_ns = -1
        self.worst_task = ""


_tallies: dict[str, _Tally] = {}


def note_wait(group: str, task: str, waited_ns: int) -> None:
    """Count a task of *group* that took its first step. Threads that race may lose a count."""
    group = group[:_NAME]
    tally = _tallies.get(group)
    if tally is None:
        if len(_tallies) >= _GROUPS:
            group = _OTHERS
        tally = _tallies.setdefault(group, _Tally())
    tally.count += 1
    tally.total_ns += waited_ns
    if waited_ns > tally.worst_ns:
        tally.worst_ns, tally.worst_task = waited_ns, task[:_NAME]


def group_waits() -> list[GroupWaits]:
    """Return every group, the one with the longest wait first."""
    found = [
        GroupWaits(name, tally.count, tally.total_ns / 1e9 / tally.count, tally.worst_ns / 1e9, tally.worst_task)
        for name, tally in list(_tallies.items())
        if tally.count
    ]
    return sorted(found, key=lambda waits: -waits.worst_s)
