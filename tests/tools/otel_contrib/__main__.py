from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from . import __doc__ as description
from .suites import DIFFERENT, PRIVATE, REQUIREMENTS, SDK_TESTS, SUITES

REPOSITORY = Path(__file__).parents[3]
CACHE = REPOSITORY / ".cache" / "otel-contrib"
SUITE_S = 300
LINE = "{:<16}{:>6}{:>10}  {}"


def main() -> int:
    """Run the suites, print the table, and return 1 if a test fails on tracekit alone that is no known difference."""
    options = _options()
    python = environment(options.contrib.resolve())
    print(LINE.format("suite", "SDK", "tracekit", "failing on tracekit only"))
    failed = 0
    for suite in options.only or SUITES:
        failed += compare(suite, python, options.contrib / "instrumentation" / f"opentelemetry-instrumentation-{suite}")
    if options.sdk:
        failed += compare("SDK's own", python, options.sdk / "opentelemetry-sdk", *SDK_TESTS)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.otel_contrib", description=description)
    parser.add_argument("contrib", type=Path, metavar="PATH", help="a checkout of opentelemetry-python-contrib")
    parser.add_argument("--sdk", type=Path, metavar="PATH", help="a checkout of opentelemetry-python")
    parser.add_argument("--only", action="append", metavar="SUITE", choices=SUITES, help="only this suite; repeatable")
    return parser.parse_args()


def environment(contrib: Path) -> Path:
    """Return the Python of the environment that the suites run in, made at the first call and for other requirements."""
    python = CACHE / "bin" / "python"
    packages = ["opentelemetry-instrumentation", "util/opentelemetry-util-http"]
    packages += [f"instrumentation/opentelemetry-instrumentation-{suite}" for suite in SUITES]
    stamp, wanted = CACHE / "installed", "\n".join([str(contrib), sys.version, *REQUIREMENTS])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing into {CACHE} …", file=sys.stderr, flush=True)
    venv.create(CACHE, clear=True, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *REQUIREMENTS], check=True)
    subprocess.run([*install, "--no-deps", "--no-build-isolation", *[contrib / name for name in packages]], check=True)
    # This checkout itself, with the extension that is built in it.
    site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(site.strip()) / "tracekit").symlink_to(REPOSITORY / "tracekit")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def compare(suite: str, python: Path, directory: Path, *tests: str) -> int:
    """Run a suite on both, print its line, and return the number of tests that newly fail on tracekit alone."""
    if not directory.is_dir():
        print(LINE.format(suite, "-", "-", "unavailable: not in the checkout"), flush=True)
        return 0
    wanted = tests or ("tests",)
    on_sdk, on_tracekit = (run(python, directory, tracer, *wanted) for tracer in ("sdk", "tracekit"))
    if not on_sdk:
        print(LINE.format(suite, 0, len(on_tracekit), "unavailable: no test passes on the SDK"), flush=True)
        return 0
    lost = on_sdk - on_tracekit
    flaky = run(python, directory, "tracekit", *lost) & lost if lost else set()
    lost -= flaky
    reasons = {test: reason for test in lost if (reason := _reason(test))}
    private = {test for test, reason in reasons.items() if reason == PRIVATE}
    new = len(lost) - len(reasons)
    words = f"{new}, and {len(reasons) - len(private)} known differences" if reasons else f"{new}"
    words += f", {len(private)} that read private names" if private else ""
    print(LINE.format(suite, len(on_sdk), len(on_tracekit | flaky), words), flush=True)
    for test in sorted(lost):
        print(f"    {test.partition('::')[2]}: {reasons.get(test, 'NEW')}", flush=True)
    for test in sorted(flaky):
        print(f"    {test.partition('::')[2]}: passed when run again", flush=True)
    return new


def _reason(test: str) -> str | None:
    return next((reason for name, reason in DIFFERENT.items() if test.partition("::")[2].startswith(name)), None)


def run(python: Path, directory: Path, tracer: str, *tests: str) -> set[str]:
    """Run *tests*, files or single tests of *directory*, on *tracer*; return the names of those that passed.

    Names are relative to *directory*. What pytest printed is in the file ``<directory>-<tracer>.log`` of the cache.
    """
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "results"
        results.touch()
        variables = {
            **os.environ,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # tests start "python"
            "PYTHONDONTWRITEBYTECODE": "1",  # the checkout stays clean
            "PYTHONPATH": str(Path(__file__).parent),
            "TRACEKIT_SUITE_TRACER": tracer,
            "TRACEKIT_SUITE_RESULTS": str(results),
        }
        command = [python, "-m", "pytest", "-c", os.devnull, f"--rootdir={directory}", "-p", "plugin"]
        command += ["-p", "no:cacheprovider", "-p", "no:tracekit", *tests]
        with open(CACHE / f"{directory.name}-{tracer}.log", "w", encoding="utf-8") as log:
            try:
                subprocess.run(
                    command, cwd=directory, env=variables, timeout=SUITE_S, stdout=log, stderr=subprocess.STDOUT
                )
            except subprocess.TimeoutExpired:
                print(f"{directory.name} on {tracer}: stopped after {SUITE_S} s", file=sys.stderr)
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    failed = {test for test, outcome in lines if outcome == "failed"}
    return {test for test, outcome in lines if outcome == "passed"} - failed


if __name__ == "__main__":
    sys.exit(main())
