"""Draw the pictures of docs/scopes.md and the badges of README.md: ``python -m docs.pictures`` writes docs/images/*.svg.

The pictures of the scope rule are drawn from runs: each step of a story runs in the Context of its lane, and then each
lane is asked which span is current.
"""

from __future__ import annotations

import contextvars
import re
import tomllib
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tracekit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

IMAGES = Path(__file__).parent / "images"
LANE, STEP, ROW, TOP = 110, 152, 44, 70  # pixels: the lanes' names, a step's width, a lane's height, the titles
STYLE = """\
svg { background: #fff; font-family: system-ui, sans-serif; font-size: 13px; }
text { fill: #1b1f24; } .code { font-family: ui-monospace, monospace; font-size: 12px; } .title { font-weight: 600; }
.quiet { fill: #57606a; } .small { font-size: 12px; } .cell { stroke-width: 1.5; }
.none { fill: #f3f4f6; stroke: #d0d7de; } .a { fill: #cfe5ff; stroke: #3b82c4; } .b { fill: #ffe3c2; stroke: #c77d1c; }
.ended { stroke-dasharray: 4 3; } .box { fill: #f6f8fa; stroke: #57606a; } .arrow { stroke: #57606a; fill: none; }
@media (prefers-color-scheme: dark) {
svg { background: #131416; } text { fill: #e6edf3; } .quiet { fill: #9da7b3; } .none { fill: #1f2226; stroke: #3d444d; }
.a { fill: #173a5e; stroke: #5aa2e6; } .b { fill: #533410; stroke: #e0a04b; }
.box { fill: #1f2226; stroke: #9da7b3; } .arrow { stroke: #9da7b3; } }
"""


class Story(NamedTuple):
    """A title, and steps: the lane, the code, and what it does to the spans by name."""

    title: str
    steps: list[tuple[str, str, Callable[[dict[str, tracekit.Span]], object]]]


def enter(name: str) -> Callable[[dict[str, tracekit.Span]], object]:
    def step(spans: dict[str, tracekit.Span]) -> None:
        spans[name] = tracekit.span(name)
        spans[name].__enter__()

    return step


def leave(name: str) -> Callable[[dict[str, tracekit.Span]], object]:
    return lambda spans: spans[name].__exit__(None, None, None)


def nothing(spans: dict[str, tracekit.Span]) -> None:
    """Start a lane: a task, whose Context is a copy of that of the lane before."""


STORIES = {
    "scopes-nested": Story(
        "1. In one task: the innermost open span is current",
        [
            ("task", "with span('a'):", enter("a")),
            ("task", "  with span('b'):", enter("b")),
            ("task", "  b ends", leave("b")),
            ("task", "a ends", leave("a")),
        ],
    ),
    "scopes-inherited": Story(
        "2. A new task keeps its parent, even after that has ended",
        [
            ("request", "with span('a'):", enter("a")),
            ("new task", "create_task(work())", nothing),
            ("request", "a ends", leave("a")),
            ("new task", "with span('b'):", enter("b")),
            ("new task", "b ends", leave("b")),
        ],
    ),
    "scopes-order": Story(
        "3. Closed out of order: the open one stays current, the closed one does not come back",
        [
            ("task", "a.__enter__()", enter("a")),
            ("task", "b.__enter__()", enter("b")),
            ("task", "a.__exit__()", leave("a")),
            ("task", "b.__exit__()", leave("b")),
        ],
    ),
    "scopes-elsewhere": Story(
        "4. Closed by another task: no longer current where it was opened",
        [
            ("opener", "a.__enter__()", enter("a")),
            ("other task", "create_task(work())", nothing),
            ("other task", "a.__exit__()", leave("a")),
            ("opener", "with span('b'):", enter("b")),
            ("opener", "b ends", leave("b")),
        ],
    ),
}


def play(story: Story) -> Iterator[dict[str, str]]:
    """Run *story*, and give after each step what is current in each lane: "a", "a, ended" or ""."""
    spans: dict[str, tracekit.Span] = {}
    contexts: dict[str, contextvars.Context] = {}
    for lane, _, step in story.steps:
        if lane not in contexts:
            before = list(contexts.values())
            contexts[lane] = before[-1].copy() if before else contextvars.Context()
        contexts[lane].run(step, spans)
        yield {lane: context.run(current, spans) for lane, context in contexts.items()}


def current(spans: dict[str, tracekit.Span]) -> str:
    context = tracekit.current_context()
    for name, span in spans.items():
        if context is not None and span.context.span_id == context.span_id:
            return name if span.end_ns is None else f"{name}, ended"
    return ""


def draw(story: Story) -> str:
    """Return the SVG of *story*: a column for each step, a row for each lane, colours for what is current."""
    states = list(play(story))
    lanes = list(states[-1])
    width, height = LANE + STEP * len(states) + 10, TOP + ROW * len(lanes) + 12
    parts = [text(12, 24, story.title, "title")]
    for column, ((acting, code, _), state) in enumerate(zip(story.steps, states, strict=True)):
        x = LANE + STEP * column
        parts.append(text(x, 56, code, "code"))
        for row, lane in enumerate(lanes):
            if lane not in state:
                continue
            name = state[lane]
            y = TOP + ROW * row
            shade = f"cell {name[:1] or 'none'}{' ended' if 'ended' in name else ''}"
            parts.append(f'<rect class="{shade}" x="{x}" y="{y}" width="{STEP - 8}" height="{ROW - 10}" rx="5"/>')
            parts.append(text(x + 10, y + 22, name or "nothing", "" if name else "quiet"))
            if lane == acting:
                parts.append(f'<circle class="arrow" cx="{x + STEP - 20}" cy="{y + 17}" r="3"/>')
    parts += [text(12, TOP + ROW * row + 22, lane, "quiet") for row, lane in enumerate(lanes)]
    return svg(width, height, story.title, parts)


PIPELINE = [
    ("your program", "span.end()", "appends: no lock, no wait"),
    ("buffer", "16,384 spans", "full: newest are dropped"),
    ("export thread", "takes all, in batches", "a daemon, each second"),
    ("exporter", "OTLP, SQLite …", "an error: these failed"),
    ("collector", "or tracekit ui, or a file", "away: a spool keeps them"),
]


def draw_pipeline() -> str:
    """Return the SVG of the way of a span, with what is counted below each part."""
    width, step = 1010, 200
    parts = [text(12, 24, "A finished span, from the program to the collector", "title")]
    for number, (name, what, loss) in enumerate(PIPELINE):
        x = 12 + step * number
        parts.append(f'<rect class="box" x="{x}" y="44" width="166" height="58" rx="6"/>')
        parts += [text(x + 12, 68, name, "title"), text(x + 12, 90, what, ""), text(x, 124, loss, "quiet")]
        if number:
            parts.append(f'<path class="arrow" d="M{x - 32} 73 H{x - 5} m-6 -5 l6 5 l-6 5"/>')
    parts.append(text(12, 154, "started = ended + open", "code"))
    parts.append(text(212, 154, "ended = exported + queued + dropped + failed + unsampled", "code"))
    return svg(width, 170, "A finished span, from the program to the collector", parts)


def draw_badges() -> str:
    """Return the SVG of three facts, read from where they are kept: no badge says what a file here does not."""
    root = IMAGES.parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = [
        row.split()[-1] for row in project["classifiers"] if row.startswith("Programming Language :: Python :: 3.")
    ]
    guarantees = (IMAGES.parent / "GUARANTEES.md").read_text(encoding="utf-8")
    facts = [
        ("CPython", f"{pythons[0]} to {pythons[-1]}"),
        ("hand-offs kept", re.findall(r"^\| all \| (\d+/\d+) ", guarantees, re.MULTILINE)[0]),
        ("license", project["license"]),
    ]
    parts, x = [], 0
    for name, fact in facts:
        left, right = 16 + 7 * len(name), 16 + 7 * len(fact)
        parts.append(
            f'<path class="box" d="M{x + 0.5} .5 h{left + right - 1} v21 h-{left + right - 1} z M{x + left} .5 v21"/>'
        )
        parts += [text(x + 8, 16, name, "quiet small"), text(x + left + 8, 16, fact, "small")]
        x += left + right + 8
    return svg(x - 7, 22, "; ".join(map(" ".join, facts)), parts)


def text(x: int, y: int, content: str, shade: str) -> str:
    shaded = f' class="{shade}"' if shade else ""
    return f'<text{shaded} x="{x}" y="{y}" xml:space="preserve">{escape(content, quote=False)}</text>'


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>\n{STYLE}</style>", *parts, "</svg>\n"])


def pictures() -> dict[str, str]:
    """Return all pictures by name of file."""
    drawn = {f"{name}.svg": draw(story) for name, story in STORIES.items()}
    return {**drawn, "pipeline.svg": draw_pipeline(), "badges.svg": draw_badges()}


if __name__ == "__main__":
    for name, content in pictures().items():
        (IMAGES / name).write_text(content, encoding="utf-8")
