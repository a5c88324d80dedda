"""The results of ``bench.service`` as an SVG that is readable on light and on dark pages."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .service_figures import Summary

WIDTH, MARGIN, NAMES, BAR, GAP = 760, 16, 110, 16, 8
LABELS = 90  # for the figure behind the longest bar
# A background, because a page's may differ from the scheme that the browser reports: a switch on the page decides there.
STYLE = """
svg { background: #fff }
text { font: 13px system-ui, sans-serif; fill: #24292f }
.head { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.bar { fill: #8c959f } .ours { fill: #1f883d }
@media (prefers-color-scheme: dark) {
  svg { background: #131416 } text { fill: #e6edf3 } .small { fill: #9198a1 } .bar { fill: #6e7681 } .ours { fill: #3fb950 }
}
"""


def picture(found: Sequence[Summary], title: str) -> str:
    """Return bars for the requests a second, the CPU of a request, and the 99th percentile of the latency."""
    panels: list[tuple[str, Callable[[Summary], float], Callable[[float], str]]] = [
        ("requests a second at saturation: more is better", lambda one: one.requests_per_s, lambda x: f"{x:,.0f}"),
        ("CPU time that tracing adds to a request: less is better", lambda one: one.added_us, lambda x: f"{x:,.0f} µs"),
        (
            "99th percentile of the latency at 70 % of the untraced service's load: less is better",
            lambda one: one.latency_ms[1],
            lambda x: f"{x:.1f} ms",
        ),
    ]
    parts: list[str] = []
    y = MARGIN
    for heading, figure, shown in panels:
        y += BAR
        parts.append(f'<text class="head" x="{MARGIN}" y="{y}">{escape(heading)}</text>')
        y += GAP
        most = max([figure(one) for one in found], default=0.0) or 1.0
        for one in found:
            value = max(0.0, figure(one))
            length = value / most * (WIDTH - 2 * MARGIN - NAMES - LABELS)
            kind = "bar ours" if one.contender in {"tracekit", "bridge"} else "bar"
            base = y + BAR - 4
            name = {"none": "untraced", "bridge": "tracekit bridge"}.get(one.contender, one.contender)
            parts += [
                f'<text x="{MARGIN}" y="{base}">{escape(name)}</text>',
                f'<rect class="{kind}" x="{MARGIN + NAMES}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
                f'<text x="{MARGIN + NAMES + length + 6:.1f}" y="{base}">{escape(shown(value))}</text>',
            ]
            y += BAR + GAP
        y += GAP
    y += BAR
    parts.append(f'<text class="small" x="{MARGIN}" y="{y}">{escape(title)}</text>')
    y += MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", *parts, "</svg>", ""])
