"""The results of all scenarios as text: the published page, the part of it in the README, and the evidence behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .scenario import ALL, KEPT, ROWS, Scenario, Verdict, is_as_said

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Results", "evidence", "failures", "readme", "report", "text"]

OURS = ("tracekit", "tracekit (plain)")
BRIDGE, SDK = "OpenTelemetry API on tracekit", "OpenTelemetry"
PEERS = (BRIDGE, SDK, "ddtrace")
COLUMNS = {"tracekit": OURS, **{peer: (peer,) for peer in PEERS}}
TREE_LINES = 30
BEGIN, END = "<!-- for the README -->", "<!-- until here -->"

WRITTEN = "<!-- Written by `python -m tests.guarantees`; do not edit. -->"

INTRODUCTION = f"""\
{WRITTEN}

# The trace at every hand-off

Each line is a scenario: a program of a few lines that ran with each tracer on each backend when this page was written. Its finished
spans were compared with the expected ones. The peers, OpenTelemetry's SDK and ddtrace, ran in processes of their own with their own instrumentation
turned on; where they offer nothing for a hand-off, the scenario uses anyio and the standard library, as their users do. "{BRIDGE}"
is the program of the column "OpenTelemetry", which uses that API alone, with `tracekit.bridges.opentelemetry.install()`. The columns
of tracekit show the worse result of its two implementations, compiled and plain. The last column links to the file of the scenario and names the
function. `make guarantees` runs all scenarios, writes this page, and writes the expected and the actual trees of every other difference to
`.cache/guarantees/evidence.md`.
"""

WORDS = f"""\
## The words

| word | meaning |
|---|---|
| {KEPT} | every span has the expected parent, links and status; nothing was raised, logged or warned about |
| lost | a span is the root of a new trace, but should have a parent |
| wrong parent | a span has another parent than expected |
| stuck | a span that should start a trace has a parent: the span that happened to be current |
| missing, extra | an expected span did not end; an unexpected span was recorded |
| not linked, linked | an expected link is missing; there is an unexpected link |
| shown as … | the status is wrong: a cancellation shown as error or as success, an error shown as success |
| raises, logs, warns, hangs, crashes | an error, a log record, a warning, a hang or a crash that the program sees |
| other words | further checks of the scenario: labels, ids, recorded values |
"""


class Results:
    """Verdicts by tracer, backend and scenario."""

    def __init__(self, scenarios: list[Scenario], tracers: list[str], backends: list[str]) -> None:
        self.scenarios = scenarios
        self.tracers = tracers
        self.backends = backends
        self.verdicts: dict[tuple[str, str, str], Verdict] = {}
        self.versions: list[str] = []

    def add_version(self, version: str) -> None:
        if version not in self.versions:
            self.versions = sorted([*self.versions, version])

    def of(self, one: Scenario, *tracers: str) -> dict[str, Verdict]:
        """Return the verdict on each backend; with several *tracers*, the first one that is not kept."""
        found: dict[str, Verdict] = {}
        for tracer in tracers:
            for backend in self.backends:
                verdict = self.verdicts.get((tracer, backend, one.key))
                if verdict is not None and found.get(backend, _AS_KEPT).word == KEPT:
                    found[backend] = verdict
        return found

    @property
    def ran(self) -> list[Scenario]:
        """The scenarios that ran; some need a newer Python or another operating system."""
        return [one for one in self.scenarios if any(key == one.key for _, _, key in self.verdicts)]

    @property
    def given_up(self) -> list[Scenario]:
        """The scenarios that ran and are kept only if the program calls tracekit."""
        return [one for one in self.ran if not one.is_guaranteed]

    def kept(self, row: int, *tracers: str) -> tuple[int, int]:
        """Return the number of scenarios of a row that *tracers* keep on all backends, and the number that ran."""
        of_row = [found for one in self.scenarios if one.row == row and (found := self.of(one, *tracers))]
        return sum(all(verdict.word == KEPT for verdict in found.values()) for found in of_row), len(of_row)


_AS_KEPT = Verdict(KEPT)


def failures(results: Results) -> list[str]:
    """Return a line for each verdict on tracekit that differs from the one that the scenario promises.

    The bridge to OpenTelemetry's API promises nothing but what the SDK keeps.
    """
    scenarios = {one.key: one for one in results.scenarios}
    worse = [
        f"FAILED {key} with {tracer} on {backend}: {verdict.word}, and the SDK keeps it"
        for (tracer, backend, key), verdict in results.verdicts.items()
        if tracer == BRIDGE and verdict.word != KEPT
        if (of_sdk := results.verdicts.get((SDK, backend, key))) is not None and of_sdk.word == KEPT
    ]
    return worse + [
        f"FAILED {key} with {tracer} on {backend}: {verdict.word}"
        for (tracer, backend, key), verdict in results.verdicts.items()
        if tracer in OURS and not is_as_said(scenarios[key], verdict)
    ]


def text(results: Results) -> str:
    """Return all verdicts, with the trees of those that are not kept, for a terminal."""
    lines = []
    for one in results.scenarios:
        lines += ["", f"{one.key} (row {one.row}): {one.title}"]
        for tracer in results.tracers:
            found = results.of(one, tracer)
            lines += [f"  {tracer}: {_by_word(found)}"] if found else []
        shown = set()
        for tracer in results.tracers:
            for verdict in results.of(one, tracer).values():
                if verdict.word != KEPT and (tracer, verdict.tree) not in shown:
                    shown.add((tracer, verdict.tree))
                    lines += [f"    -- {tracer}", *_indented(verdict.tree), *_indented(verdict.detail)]
        if shown:
            lines += ["    -- expected", *_indented(str(one.expect))]
    return "\n".join(lines)


def _indented(block: str) -> list[str]:
    return [f"    | {line}" for line in block.splitlines()]


def _by_word(found: dict[str, Verdict]) -> str:
    words: dict[str, list[str]] = {}
    for backend, verdict in found.items():
        words.setdefault(verdict.word, []).append(backend)
    if len(words) == 1:
        return next(iter(words))
    return "; ".join(f"{word} ({', '.join(backends)})" for word, backends in words.items())


# ---- the page


def report(results: Results, versions: list[str]) -> str:
    """Return the text of docs/GUARANTEES.md."""
    parts = [INTRODUCTION, _measured(versions), _summary(results), _given_up(results), _unkept(results), WORDS]
    for row, title in ROWS.items():
        of_row = [one for one in results.ran if one.row == row]
        if of_row:
            parts.append(f"## {row}. {title}\n\n" + "\n".join(_table(results, of_row)) + "\n")
    return "\n".join(part for part in parts if part)


def evidence(results: Results, versions: list[str]) -> str:
    """Return the expected and the actual trees of every scenario that a tracer does not keep."""
    parts = [f"{WRITTEN}\n\n# Expected and actual trees\n", _measured(versions)]
    for row, title in ROWS.items():
        differences = [line for one in results.ran if one.row == row for line in _differences(results, one, COLUMNS)]
        if differences:
            parts.append("\n".join([f"## {row}. {title}", "", *differences]))
    return "\n".join(parts)


def _measured(versions: list[str]) -> str:
    return f"Measured with {', '.join(versions)}.\n"


def readme(page: str) -> str:
    """Return the part of the page that the README repeats."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def _summary(results: Results) -> str:
    short, rest = [], []
    for row, title in ROWS.items():
        ours, peers = results.kept(row, *OURS), [results.kept(row, peer) for peer in PEERS]
        if not ours[1]:
            continue
        if all(kept == total for kept, total in peers):
            rest.append(title)
        else:
            short.append(f"| {title} | " + " | ".join(f"{kept}/{total}" for kept, total in (ours, *peers)) + " |")
    total, kept, given_up = len(results.ran), sum(results.kept(row, *OURS)[0] for row in ROWS), len(results.given_up)
    return "\n".join(
        [
            "## In short",
            "",
            f"{total} scenarios, {kept} of them kept by tracekit on every backend"
            + (f", and {given_up} only if it is called." if given_up else "."),
            *[f"Kept by all: {'; '.join(rest)}."] * bool(rest),
            "",
            BEGIN,
            f"| scenarios kept on every backend | {' | '.join(COLUMNS)} |",
            "|" + "---|" * (len(COLUMNS) + 1),
            *short,
            _total(results),
            *_because(total - kept, given_up),
            END,
            "",
        ]
    )


def _total(results: Results) -> str:
    """Return the last line of the table."""
    sums = [
        [sum(numbers) for numbers in zip(*[results.kept(row, *tracers) for row in ROWS], strict=True)]
        for tracers in COLUMNS.values()
    ]
    return "| all | " + " | ".join(f"{kept}/{total}" for kept, total in sums) + " |"


def _because(unkept: int, given_up: int) -> list[str]:
    """Return the lines that explain the scenarios that tracekit does not keep."""
    if not unkept:
        return []
    if unkept > given_up:  # the exit status is 1, too
        return ["", f"{unkept - given_up} of tracekit's are failures."]
    return [
        "",
        f"The {unkept} that are missing for tracekit cannot be kept unless it is called; the page names the call.",
    ]


def _given_up(results: Results) -> str:
    """Return the table of the scenarios that are kept only if the program calls tracekit."""
    if not results.given_up:
        return ""
    lines = [
        "## Not possible without being called",
        "",
        "| scenario | row | result | call instead |",
        "|---|---|---|---|",
    ]
    for one in results.given_up:
        words = _by_word(results.of(one, *OURS))
        lines.append(f"| {_escaped(one.title)} | {one.row} | {words} | {one.instead} |")
    return "\n".join([*lines, ""])


def _unkept(results: Results) -> str:
    """Return the trees of the scenarios that tracekit does not keep."""
    lines = [line for one in results.ran for line in _differences(results, one, {"tracekit": OURS})]
    if not lines:
        return ""
    return "\n".join(["## Trees that differ", "", "First the expected tree of spans, then the actual one.", "", *lines])


def _table(results: Results, of_row: list[Scenario]) -> Iterator[str]:
    yield f"| scenario | {' | '.join(f'tracekit, {backend}' for backend in ALL)} | {' | '.join(PEERS)} | function |"
    yield "|" + "---|" * (len(ALL) + len(PEERS) + 2)
    for one in of_row:
        found = results.of(one, *OURS)
        ours = [_cell(one, backend, found, results) for backend in ALL]
        yield (
            f"| {_escaped(one.title)} | {' | '.join(ours)} | "
            + " | ".join(_by_word(results.of(one, peer)) or "not installed" for peer in PEERS)
            + f" | {_source(one)} |"
        )


def _source(one: Scenario) -> str:
    """Return a link to the file of a scenario, under the name of its function; line numbers would change too often."""
    module = one.body.__module__.rpartition(".")[2]
    return f"[`{one.body.__name__}`](../tests/guarantees/{module}.py)"


def _cell(one: Scenario, backend: str, found: dict[str, Verdict], results: Results) -> str:
    if backend not in one.backends:
        return ""
    if backend not in results.backends:
        return "3.12+" if backend == "asyncio+eager" else "not here"
    word = found[backend].word
    return word if one.is_guaranteed or word == KEPT else f"{word} [(call)](#not-possible-without-being-called)"


def _differences(results: Results, one: Scenario, columns: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the expected tree of a scenario and each actual one that differs; nothing if all *columns* keep it."""
    lines = []
    for name, tracers in columns.items():
        found = results.of(one, *tracers)
        trees = dict.fromkeys(verdict.tree for verdict in found.values() if verdict.word != KEPT)
        if trees:
            lines += [f"{name}: {_by_word(found)}", "", *[line for tree in trees for line in _block(tree)]]
    return [f"### {_escaped(one.title)}", "", *_block(str(one.expect)), *lines] if lines else []


def _block(tree: str) -> list[str]:
    lines = tree.splitlines() or ["(no span)"]
    return ["```", *lines[:TREE_LINES], *["…"] * (len(lines) > TREE_LINES), "```", ""]


def _escaped(title: str) -> str:
    return title.replace("|", "\\|")
