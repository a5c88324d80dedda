"""Print tracekit beside OpenTelemetry and ddtrace, measured in one run: ``python -m bench.compare``.

The result goes to standard output as Markdown, progress to standard error. A figure is the best round that a
contender had in any of several processes, since what memory a process happens to get makes it faster or slower
from start to end, and confirmed in another; a ratio is one best over another. ``measure`` describes the rounds, how each
contender is set up in its own module. Peers that are not installed are left out and said to be.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import contender_tracekit, floors, formats, handoffs, inputs, report
from .measure import Budget, Subject, best, bytes_held, interleave
from .rows import BARE, FLOOR, FLOOR_ROWS, FORMAT_ROWS, HANDOFF_ROWS, OTEL, OURS, ROWS
from .subjects import asgi_request, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

FULL = Budget(processes=3, rounds=10, slice_s=0.008, repeats=6, growth_chunk=10_000)
QUICK = Budget(processes=1, rounds=5, slice_s=0.002, repeats=3, growth_chunk=5000)
SMOKE = Budget(processes=1, rounds=1, slice_s=0.00001, repeats=1, growth_chunk=100)

SETTLED = 1.05  # how far a contender's two best processes may lie apart

Figures = dict[str, dict[str, float]]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    options = _options(arguments)
    budget = SMOKE if options.smoke else QUICK if options.quick else FULL
    wanted = options.only.split(",") if options.only else _every_key()
    if options.processes:
        budget = budget._replace(processes=options.processes)
    document = _measure(wanted, budget) if budget.processes == 1 else _settle(wanted, options, budget)
    lines = report.lines(document)
    print(report.text(document, lines))
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")
    missed = [line for line in lines if line.target is not None and not line.met]
    return 1 if options.check and missed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a rough figure in ten seconds")
    parser.add_argument("--smoke", action="store_true", help="every row once: whether it runs, not how fast")
    parser.add_argument("--only", metavar="ROWS", help="these rows alone, by their keys, with commas between")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes to take the best of")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument(
        "--check", action="store_true", help="exit with status 1 unless every target was measured and met"
    )
    return parser.parse_args(arguments)


def _every_key() -> list[str]:
    return [*[row.key for row in (*ROWS, *FLOOR_ROWS, *HANDOFF_ROWS)], *[f"format {name}" for name in FORMAT_ROWS]]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _settle(wanted: list[str], options: argparse.Namespace, budget: Budget) -> dict[str, Any]:
    """Measure in several processes, then what no second process confirmed in as many more at the most."""
    documents: list[dict[str, Any]] = []
    for number in range(2 * budget.processes):
        if number >= budget.processes:
            wanted = _unsettled(documents)
        if wanted:
            _say(f"process {number + 1}")
            documents.append(_in_a_process(wanted, options))
    return _merge(documents)


def _in_a_process(wanted: list[str], options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "figures.json"
        command = [
            sys.executable,
            "-m",
            "bench.compare",
            "--processes=1",
            f"--only={','.join(wanted)}",
            f"--json={file}",
        ]
        command += ["--quick"] * options.quick + ["--smoke"] * options.smoke
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
        return json.loads(file.read_text())


def _unsettled(documents: list[dict[str, Any]]) -> list[str]:
    """Return the rows where some contender's best figure stands alone: a noise may have covered all its others."""
    keys = []
    for key, figures in documents[0]["figures"].items():
        for name in figures:
            one, other = sorted(document["figures"][key][name] for document in documents if key in document["figures"])[
                :2
            ]
            if other > SETTLED * one and key not in keys:
                keys.append(key)
    return keys


def _merge(documents: list[dict[str, Any]]) -> dict[str, Any]:
    merged = documents[0]
    for document in documents[1:]:
        for key, figures in document["figures"].items():
            for name, value in figures.items():
                merged["figures"][key][name] = min(value, merged["figures"][key][name])
    return {**merged, "processes": len(documents)}


def _measure(wanted: list[str], budget: Budget) -> dict[str, Any]:
    peers = {OURS: contender_tracekit, OTEL: _contender("opentelemetry"), "ddtrace": _contender("ddtrace")}
    versions = {name: None if peer is None else peer.VERSION for name, peer in peers.items()}
    present = {name: peer for name, peer in peers.items() if peer is not None}
    figures = dict(_compare(present, wanted, budget))
    figures |= _against_floors(present, wanted, budget)
    figures |= _handoffs(wanted, budget)
    for name in FORMAT_ROWS:
        if f"format {name}" in wanted:
            _say(f"  the format {name}")
            figures[f"format {name}"] = best(interleave(formats.subjects(name), budget))
    return {
        "versions": versions,
        "machine": report.machine(),
        "processes": 1,
        "budget": budget._asdict(),
        "figures": figures,
    }


def _contender(library: str) -> ModuleType | None:
    try:
        return importlib.import_module(f".contender_{library}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        return None


def _compare(
    peers: Mapping[str, ModuleType], wanted: list[str], budget: Budget
) -> Iterator[tuple[str, dict[str, float]]]:
    rows = [row for row in ROWS if row.key in wanted]
    if not rows:
        return
    subjects = {name: peer.subjects() for name, peer in peers.items()}
    subjects[BARE] = {
        "asgi": asgi_request(inputs.application()),
        "wsgi": wsgi_request(inputs.wsgi_application),
    }
    for row in rows:
        _say(f"  {row.work}")
        if row.key == "bytes":
            count = max(100 * budget.rounds, 200)
            yield row.key, {name: bytes_held(peer.hold, count) for name, peer in peers.items()}
        else:
            contenders = {name: found[row.key] for name, found in subjects.items() if row.key in found}
            yield row.key, best(interleave(contenders, budget))


def _against_floors(peers: Mapping[str, ModuleType], wanted: list[str], budget: Budget) -> Figures:
    figures: Figures = {}
    rows = [row for row in FLOOR_ROWS if row.key in wanted]
    growth = contender_tracekit.growth(budget.growth_chunk)
    subjects = contender_tracekit.subjects()
    against = formats.against_traceparent() | {"traced": {OURS: subjects["traced"], FLOOR: subjects["in_span"]}}
    if any(row.key in floors.CONTEXT_MANAGERS for row in rows):
        _say("  the floors of `with span()`")
        entered = _with_blocks(budget)
    for row in rows:
        if row.key in floors.CONTEXT_MANAGERS:
            figures[row.key] = {OURS: entered[OURS]} | ({FLOOR: entered[row.key]} if row.key in entered else {})
            continue
        _say(f"  {row.work} against: {row.floor}")
        if row.key in against:
            figures[row.key] = best(interleave(against[row.key], budget))
        elif row.key in growth:
            few, many = growth[row.key]
            figures[row.key] = best(interleave({FLOOR: few, OURS: many}, budget._replace(rounds=budget.repeats)))
        elif row.key == "import":
            modules = {OURS: "tracekit"} | ({FLOOR: "opentelemetry.sdk.trace"} if OTEL in peers else {})
            figures[row.key] = best(floors.import_ns(modules, budget.repeats))
    return figures


def _handoffs(wanted: list[str], budget: Budget) -> Figures:
    figures: Figures = {}
    rows = [row for row in HANDOFF_ROWS if row.key in wanted]
    subjects = handoffs.subjects() if any(row.unit == "ns" for row in rows) else {}
    subjects["nothing_found"] = formats.nothing_found()
    for row in rows:
        _say(f"  {row.work}")
        if row.unit == "ns":
            figures[row.key] = best(interleave(subjects[row.key], budget))
        else:
            figures[row.key] = handoffs.bytes_of(row.key, budget.growth_chunk * (10 if row.key == "live_task" else 1))
    return figures


def _with_blocks(budget: Budget) -> dict[str, float]:
    subjects = {OURS: contender_tracekit.subjects()["child"]}
    try:
        for key in floors.CONTEXT_MANAGERS:
            subjects[key] = Subject("with floor():\n    pass", {"floor": floors.context_manager(key)})
    except Exception as error:
        _say(f"  no floor to measure against: {type(error).__name__}: {error}")
    return best(interleave(subjects, budget))


if __name__ == "__main__":
    sys.exit(main())
