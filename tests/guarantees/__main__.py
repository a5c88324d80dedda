"""Run every scenario on every backend with every tracer, and write docs/GUARANTEES.md: ``python -m tests.guarantees``.

Each pair of tracer and backend runs in its own process, because the peers patch the interpreter. If a process dies or
writes nothing for too long, the scenario that it was running has failed, and a new process continues with the next one.
The page shows the trees that tracekit does not keep; the trees of all tracers are written to ``.cache/guarantees/``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.guarantees.drivers import DRIVERS
from tests.guarantees.report import Results, evidence, failures, readme, report, text
from tests.guarantees.scenario import Verdict, backends_here, load, run

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "GUARANTEES.md"
EVIDENCE = REPOSITORY / ".cache" / "guarantees" / "evidence.md"  # not under version control: thousands of lines
SILENT_FOR_S = 30.0  # longer than HANGS_AFTER_S


def main() -> int:
    """Run, write or print, and return the exit status."""
    options = _options()
    if options.worker:
        return _work(*options.worker, options.only, options.after)
    if options.readme:
        print(readme(PAGE.read_text(encoding="utf-8")))
        return 0
    backends = [one for one in backends_here() if not options.quick or one in {"asyncio", "trio"}]
    results = _run_all(options.tracer or list(DRIVERS), backends, options.only)
    failed = failures(results)
    if options.quick or options.only or options.tracer:
        print(text(results))
    else:
        versions = _versions(results)
        _write(PAGE, report(results, versions))
        _write(EVIDENCE, evidence(results, versions))
        failed += _run_programs(options.programs)
    for line in failed:
        _say(line)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.guarantees", description=__doc__)
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="scenarios with TEXT in name or title; print, leave the page"
    )
    parser.add_argument("--quick", action="store_true", help="only asyncio and trio; print, leave the page")
    parser.add_argument("--tracer", action="append", choices=DRIVERS, help="only this tracer; print, leave the page")
    parser.add_argument("--programs", type=int, default=2000, metavar="N", help="random programs per backend; 0: none")
    parser.add_argument("--readme", action="store_true", help="print the README's part of the present page")
    parser.add_argument("--worker", nargs=2, metavar=("TRACER", "BACKEND"), help=argparse.SUPPRESS)
    parser.add_argument("--after", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    _say(f"wrote {path}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _versions(results: Results) -> list[str]:
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("anyio", "trio", "uvloop")]
    return [f"{platform.python_implementation()} {platform.python_version()}", *packages, *results.versions]


def _run_programs(count: int) -> list[str]:
    if not count:
        return []
    from tests.guarantees.programs.__main__ import main as check

    failed = check(count)
    return [f"FAILED random programs on {failed} backends"] if failed else []


# ---- one process for a tracer and a backend


def _work(tracer: str, backend: str, only: str, after: str) -> int:
    """Run the scenarios after *after*; write a line of JSON before and after each."""
    # Other output to standard output, here or in a child, must not get between the lines.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    keys = [one for one in load() if backend in one.backends and _is_wanted(one, only)]
    if after:
        keys = keys[[one.key for one in keys].index(after) + 1 :]
    driver = DRIVERS[tracer]()
    print(json.dumps({"version": f"{driver.name} {driver.version()}"}), file=out)
    for one in keys:
        print(json.dumps({"begin": one.key}), file=out)
        print(json.dumps({"end": one.key, "verdict": run(one, backend, driver)}), file=out)
    out.flush()
    os._exit(0)  # does not wait for a thread that hangs or that a tracer lost


def _is_wanted(one: Any, only: str) -> bool:
    return only.lower() in f"{one.key} {one.title}".lower()


# ---- all of them


def _run_all(tracers: list[str], backends: list[str], only: str) -> Results:
    results = Results([one for one in load() if _is_wanted(one, only)], tracers, backends)
    jobs = [(tracer, backend) for backend in backends for tracer in tracers]

    def job(pair: tuple[str, str]) -> None:
        kept = total = 0
        for key, verdict in _run_in_processes(results, *pair, only):
            results.verdicts[pair[0], pair[1], key] = verdict
            total += 1
            kept += verdict.word == "kept"
        _say(f"{pair[0]} on {pair[1]}: {kept} of {total} kept")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(job, jobs))
    return results


def _run_in_processes(results: Results, tracer: str, backend: str, only: str) -> Iterator[tuple[str, Verdict]]:
    after = ""
    while True:
        begun = ""
        with tempfile.TemporaryFile("w+") as errors:
            process, lines = _start(tracer, backend, only, after, errors)
            try:
                while (line := lines.get(timeout=SILENT_FOR_S)) is not None:
                    message = json.loads(line)
                    if "version" in message:
                        results.add_version(message["version"])
                    elif "begin" in message:
                        begun = message["begin"]
                    else:
                        yield message["end"], Verdict(*message["verdict"])
                        begun, after = "", message["end"]
                word = "crashes"
            except queue.Empty:
                word = "hangs"
            finally:
                _kill(process)
            errors.seek(0)
            said = errors.read()[-2000:]
        if begun:
            yield begun, Verdict(word, noise=word, detail=said)
            after = begun
        elif word == "hangs" or process.returncode:
            raise RuntimeError(f"{tracer} on {backend} {word} outside any scenario:\n{said}")
        else:
            return


def _start(
    tracer: str, backend: str, only: str, after: str, errors: Any
) -> tuple[subprocess.Popen[str], queue.Queue[Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRACEKIT_NO_EXTENSIONS"}
    if tracer == "tracekit (plain)":
        environment["TRACEKIT_NO_EXTENSIONS"] = "1"
    command = [sys.executable, "-m", "tests.guarantees", "--worker", tracer, backend, "--only", only, "--after", after]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    lines: queue.Queue[Any] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return process, lines


def _kill(process: subprocess.Popen[str]) -> None:
    """End the process if it is still running, and the processes that it started."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
