"""Tasks as JSON and as lines of text, for the page, ``dump_on_signal()`` and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .._render import Leaf, duration_of_s, printable, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ..aio import TaskInfo

    Task = Mapping[str, Any]

_PLACES = 4  # on a line


class Row(NamedTuple):
    """A line of the tree: a task, or the task group above its tasks."""

    head: str
    below: str
    task: Task | None
    group: str


def as_json(infos: Iterable[TaskInfo], pace: Callable[[], None] = lambda: None) -> list[Task]:
    """Return *infos* as JSON holds them; call *pace* between them. Equal stacks are one list."""
    stacks: dict[int, list[dict[str, Any]]] = {}
    found: list[Task] = []
    for info in infos:
        pace()
        stack = stacks.get(id(info.awaits))
        if stack is None:
            stack = stacks[id(info.awaits)] = [place._asdict() for place in info.awaits]
        changes = {"span": None if info.span is None else info.span._asdict(), "awaits": stack}
        found.append({**info._asdict(), **changes, "awaited_by": list(info.awaited_by)})
    return found


def matching(tasks: Iterable[Task], text: str) -> list[Task]:
    """Return the tasks whose name, group, span or functions contain *text*, in any case."""
    text = text.casefold()
    return [task for task in tasks if any(text in word.casefold() for word in _words(task))]


def _words(task: Task) -> Iterator[str]:
    yield from (task["name"], task["group"])
    if task["span"] is not None:
        yield from (task["span"]["name"], task["span"]["trace_id"])
    for place in task["awaits"]:
        yield place["function"]


def stuck_s(task: Task) -> float:
    """Return for how long *task* has made no step as far as is known, or else the age of its span while it waits."""
    if task["idle_s"] is not None:
        return float(task["idle_s"])
    span = task["span"]
    is_waiting = task["backend"] != "thread" and task["state"] in ("waiting", "cancelling")
    return float(span["age_s"]) if is_waiting and span is not None and span["age_s"] is not None else 0.0


def age(task: Task) -> str:
    """Return the age of *task*, or the longer one of those that are known instead: of its open span, or at least."""
    if task["age_s"] is not None:
        return duration_of_s(task["age_s"])
    span, seen_s = task["span"], task["seen_s"]
    if span is not None and span["age_s"] is not None and not span["has_ended"] and span["age_s"] > seen_s:
        return f"span {duration_of_s(span['age_s'])}"
    return f"at least {duration_of_s(seen_s)}" if seen_s else "first look"


def rows(tasks: Sequence[Task]) -> Iterator[Row]:
    """Yield the rows of a tree of threads, tasks and task groups; among siblings the longest stuck is first."""
    longest: dict[str, float] = {}
    parents = {task["id"]: task["parent"] for task in tasks}
    for task in tasks:  # a parent comes as early as its most stuck descendant
        at, stuck = task["id"], stuck_s(task)
        while at in parents and longest.get(at, -1.0) < stuck:
            longest[at] = stuck
            at = parents[at]
    leaves: dict[str, Leaf[tuple[Task | None, str]]] = {}
    for task in tasks:
        order = -round(longest[task["id"]] * 1e9)
        parent = task["parent"]
        if task["group_id"] and parent in parents:
            group = f"{parent}/{task['group_id']}"
            known = leaves.get(group)
            if known is None or known.start_ns > order:
                leaves[group] = Leaf(group, parent, order, (None, task["group"]))
            parent = group
        leaves[task["id"]] = Leaf(task["id"], parent, order, (task, ""))
    for branch in tree(leaves.values()):
        task_or_none, group = branch.span
        yield Row(branch.head, branch.below, task_or_none, group)


def summary(task: Task) -> str:
    """Return the state of *task* in one line."""
    parts = [task["name"] or f"{task['backend']} {task['id']}", task["state"]]
    if task["idle_s"] is not None:
        parts[-1] += f" for at least {duration_of_s(task['idle_s'])}"
    known = age(task)
    is_told = known.startswith("span") or task["seen_s"] <= (task["idle_s"] or 0.0)  # in another part of the line
    if task["age_s"] is not None or not is_told:
        parts.append(f"age {known}")
    span = task["span"]
    if span is not None:
        took = "" if span["age_s"] is None else f" {duration_of_s(span['age_s'])}"
        ended = " (ended)" if span["has_ended"] else ""
        parts.append(f"span {span['name'] or span['span_id']}{took}{ended} trace {span['trace_id']}")
    if task["waits_for"] and task["backend"] != "thread":
        parts.append(f"waits for {task['waits_for']}")
    return printable("  ".join(parts), 1000)


def where(task: Task, count: int = _PLACES) -> str:
    """Return the innermost *count* calls of *task* in one line, the innermost last."""
    places = [
        f"{place['function']} ({'/'.join(place['file'].replace(chr(92), '/').split('/')[-2:])}:{place['line']})"
        for place in task["awaits"]
    ]
    return printable(" > ".join((["…"] if len(places) > count else []) + places[-count:]), 2000)


def lines(tasks: Sequence[Task], is_list: bool = False) -> Iterator[str]:
    """Yield *tasks* as lines of text: a tree, or a list with the longest stuck first."""
    if is_list:
        for task in sorted(tasks, key=stuck_s, reverse=True):
            yield summary(task)
            yield f"    {where(task)}"
        return
    for row in rows(tasks):
        if row.task is None:
            yield f"{row.head}({printable(row.group)})"
        else:
            yield f"{row.head}{summary(row.task)}"
            yield f"{row.below}  {where(row.task)}"
