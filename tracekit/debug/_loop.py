"""``/debug/loop``: the event loops under ``aio.watch_loop()``, their worst stalls, and the waits of named groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .._render import duration_of_s, moment, plural
from ..aio._waits import group_waits
from ..aio._watch import watches
from ._view import Markup, Page, Request, calls, markup

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIGURES = ("thread", "backend", "threshold_s", "stalls", "blocked_s", "pauses", "paused_s")
_NONE = "no loop is watched: tracekit.aio.watch_loop() in a running loop starts it"


class _Loops:
    """A snapshot of all watches and groups."""

    def __init__(self, request: Request) -> None:
        self._loops: list[dict[str, Any]] = [
            {name: getattr(watch, name) for name in _FIGURES}
            | {
                "worst": [
                    stall._asdict() | {"stack": [place._asdict() for place in stall.stack]} for stall in watch.worst
                ]
            }
            for watch in watches()
        ]
        self._groups = [waits._asdict() for waits in group_waits()]

    def json(self) -> dict[str, Any]:
        return {"loops": self._loops, "groups": self._groups}

    def text(self) -> Iterator[str]:
        if not self._loops:
            yield _NONE
        for loop in self._loops:
            yield _headline(loop)
            for stall in loop["worst"]:
                yield f"  {_stall(stall)}"
                for place in stall["stack"]:
                    yield f"      {place['function']}  {place['file']}:{place['line']}"
        if self._groups:
            yield ""
            yield "wait of tasks of named groups for their first step: worst, mean, tasks"
        for group in self._groups:
            yield f"  {group['group']}: {_wait(group)}"

    def html(self) -> Iterator[Markup]:
        if not self._loops:
            yield markup("<p>{}</p>", _NONE)
        for loop in self._loops:
            yield markup("<h2>{}</h2>", _headline(loop))
            for stall in loop["worst"]:
                shown = calls(stall["stack"])
                yield markup('<details class="row"><summary>{}</summary>{}</details>', _stall(stall), shown)
        if self._groups:
            yield Markup(
                '<h2>Tasks of named groups: wait for the first step</h2><table class="families"><thead><tr>'
                "<th>Group</th><th>Tasks</th>"
                "<th>Mean</th><th>Worst</th><th>Task</th></tr></thead><tbody>"
            )
            for group in self._groups:
                yield markup(
                    '<tr class="row"><th>{}</th><td class="took">{}</td><td class="took">{}</td>'
                    '<td class="took">{}</td><td class="took">{}</td></tr>',
                    group["group"],
                    group["tasks"],
                    duration_of_s(group["mean_s"]),
                    duration_of_s(group["worst_s"]),
                    group["worst_task"],
                )
            yield Markup("</tbody></table>")


def _headline(loop: dict[str, Any]) -> str:
    stalls, pauses = plural(loop["stalls"], "stall"), plural(loop["pauses"], "pause")
    text = f"{loop['backend']} in {loop['thread']}: {stalls} of {duration_of_s(loop['threshold_s'])} or more"
    text += f", {duration_of_s(loop['blocked_s'])} in total"
    return f"{text}; {pauses} of the process, {duration_of_s(loop['paused_s'])}" if loop["pauses"] else text


def _stall(stall: dict[str, Any]) -> str:
    span = f"span {stall['span'] or stall['span_id']} trace {stall['trace_id']}" if stall["trace_id"] else "no span"
    parts = [duration_of_s(stall["blocked_s"]), moment(stall["time_ns"]), span]
    return "  ".join([*parts, f"task {stall['task']}"] if stall["task"] else parts)


def _wait(group: dict[str, Any]) -> str:
    return (
        f"{duration_of_s(group['worst_s'])} ({group['worst_task']}), {duration_of_s(group['mean_s'])}, {group['tasks']}"
    )


PAGE: Final = Page("loop", "Event loop", "calls that blocked an event loop, and waits of named groups", _Loops)
