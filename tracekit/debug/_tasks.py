"""``/debug/tasks``: every task and thread with its current span, and where it waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from .._render import duration, duration_of_s
from ..aio._tasks import snapshot
from ._task_text import age, as_json, lines, matching, rows, stuck_s, where
from ._view import Markup, Page, Request, calls, markup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._task_text import Task

_SHOWN: Final = 1000  # in HTML


class _Tasks:
    """A snapshot: ``name=TEXT`` keeps the tasks that contain it, ``view=list`` gives the longest stuck first."""

    def __init__(self, request: Request) -> None:
        begin_ns = time.monotonic_ns()
        tasks = as_json(snapshot(request.pace), request.pace)
        self._took_ns = time.monotonic_ns() - begin_ns
        self._count = len(tasks)
        self._text = request.arguments.get("name", "")
        self._is_list = request.arguments.get("view") == "list"
        self._tasks = matching(tasks, self._text) if self._text else tasks
        if self._is_list:
            self._tasks.sort(key=stuck_s, reverse=True)

    def json(self) -> dict[str, Any]:
        return {"count": self._count, "took_ms": self._took_ns / 1e6, "tasks": self._tasks}

    def text(self) -> Iterator[str]:
        yield self._headline()
        yield from lines(self._tasks, self._is_list)

    def _headline(self) -> str:
        shown = f"{len(self._tasks)} of " if self._text else ""
        return f"{shown}{self._count} tasks and threads, collected in {duration(self._took_ns)}"

    def html(self) -> Iterator[Markup]:
        yield markup(
            '<form><input type="search" name="name" value="{}" placeholder="name, span, function" aria-label="Filter"> '
            '<select name="view" aria-label="View"><option value="tree">tree</option><option value="list"{}>longest '
            'stuck first</option></select> <button>Show</button></form><p class="note">{}</p>',
            self._text,
            Markup(" selected" if self._is_list else ""),
            self._headline(),
        )
        yield Markup(
            '<table class="families tasks"><thead><tr><th>Task</th><th>State</th><th>Last step</th><th>Age</th>'
            "<th>Span</th><th>Waits for</th><th>Where</th></tr></thead><tbody>"
        )
        for number, (head, task, group) in enumerate(self._rows()):
            if number == _SHOWN:
                yield markup('<tr><td colspan="7">further tasks are in the text and the JSON</td></tr>')
                break
            if task is None:
                yield markup('<tr class="row"><th colspan="7"><span class="tree">{}</span>({})</th></tr>', head, group)
            else:
                yield _row(head, task)
        yield Markup("</tbody></table>")

    def _rows(self) -> Iterator[tuple[str, Task | None, str]]:
        if self._is_list:
            yield from (("", task, "") for task in self._tasks)
        else:
            yield from ((row.head, row.task, row.group) for row in rows(self._tasks))


def _row(head: str, task: Task) -> Markup:
    """Return the row of *task*, after the lines of the tree in *head*."""
    span = task["span"]
    if span is None:
        shown = Markup("")
    else:
        took = "" if span["age_s"] is None else duration_of_s(span["age_s"])
        shown = markup(
            '<span title="trace {}, span {}">{} {}{}</span>',
            span["trace_id"],
            span["span_id"],
            span["name"] or span["span_id"],
            took,
            " (ended)" if span["has_ended"] else "",
        )
    return markup(
        '<tr class="row"><th><span class="tree">{}</span>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>'
        "<td><details><summary>{}</summary>{}</details></td></tr>",
        head,
        task["name"] or task["id"],
        task["state"],
        "" if task["idle_s"] is None else f"at least {duration_of_s(task['idle_s'])} ago",
        age(task),
        shown,
        task["waits_for"] if task["backend"] != "thread" else "",
        where(task, 1),
        calls(task["awaits"]),
    )


PAGE: Final = Page("tasks", "Tasks", "what every task and thread does now, and where it waits", _Tasks)
