"""The command's part of the demo: run the services and the client, check all they did, show one trace."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio

import tracekit

from .._render import encodable, printable
from ..exporters.sqlite import SQLiteExporter, SQLiteReader
from .child import EXPORT_INTERVAL_S
from .client import WARM, check_out
from .comparison import compare
from .services import ServiceError, running

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager

    from ..exporters.sqlite import StoredSpan, StoredTrace
    from .services import Service

    Show = Callable[[str, str], int]
    View = Callable[[str], AbstractContextManager[Sequence[str]]]

for _name in ("hypercorn", "starlette", "trio", "uvicorn"):
    if find_spec(_name) is None:  # the services would say so too, but later and less clearly
        raise ModuleNotFoundError(f"No module named {_name!r}", name=_name)

SERVICES = ("client", "storefront", "warehouse")
_EVERY = 2**31
_INTERRUPTED = 130
_POLL_S = 2 * EXPORT_INTERVAL_S
_QUIET_POLLS = 2
_SETTLE_POLLS = 60
_SHOWN_PROBLEMS = 5
_WATCHED_TRACES = 20


def run(db: str | None, requests: int, serve: bool, show: Show, view: View) -> int:
    """Run the demo, and return its exit status: 0 if every request was answered and every trace is whole, else 1.

    Spans go to the file *db*, or to a new one in a temporary directory. With *serve* the services then run on,
    and new traces are shown as they come, until Ctrl-C, after which the status is 130. Raises ``StoreError``
    where *db* cannot be written. ``show(path, trace_id)`` prints one trace of a file and returns the status of that.
    ``view(path)`` shows the file in a browser for as long as its block runs, and gives lines that say where.
    """
    try:
        return _run(db, requests, serve, show, view)
    except (KeyboardInterrupt, ServiceError, BaseExceptionGroup) as error:
        causes = list(_leaves(error))
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        _say("\ninterrupted; the services have been stopped")
        return _INTERRUPTED
    for cause in causes:
        if not isinstance(cause, ServiceError):
            raise cause
        _say(f"\nFAILED  {cause}")
    return 1


def _run(db: str | None, requests: int, serve: bool, show: Show, view: View) -> int:
    path = os.path.abspath(db or Path(tempfile.mkdtemp(prefix="tracekit-"), "demo.db"))
    exporter = SQLiteExporter(path)
    probe = tracekit.span("probe", parent=tracekit.ROOT)
    probe.end()
    exporter.probe(probe)  # a file that cannot be written is reported before anything starts
    demo = _Demo(path, requests, show, view)
    tracekit.configure(service="client", exporter=exporter, export_interval_s=EXPORT_INTERVAL_S)
    try:
        anyio.run(demo.play, serve)
    finally:
        tracekit.shutdown()
    return demo.report(with_peer=True)


class _Demo:
    """One run and its outcome."""

    def __init__(self, path: str, requests: int, show: Show, view: View) -> None:
        self.path = path
        self.requests = requests
        self.show = show
        self.view = view
        self.earlier = _trace_ids(path)
        self.services: list[Service] = []
        self.problems: list[str] = []

    async def play(self, serve: bool) -> None:
        """Start the services, send the requests, stop the services; with *serve*, not before Ctrl-C."""
        status = _StatusLine()
        _say("tracekit demo: a shop of three processes, a trace for each request\n")
        status.show("  warehouse   starting …")
        async with running("warehouse", self.path) as warehouse:
            status.keep(f"  warehouse   hypercorn on trio   {warehouse.url:<24}  process {warehouse.pid}")
            status.show("  storefront  starting …")
            async with running("storefront", self.path, warehouse.url) as storefront:
                status.keep(f"  storefront  uvicorn on asyncio  {storefront.url:<24}  process {storefront.pid}")
                self.services = [storefront, warehouse]
                await self._send(storefront.url, status)
                if serve:
                    tracekit.flush()
                    await self._settle()
                    self.report()
                    with self.view(self.path) as places:
                        await self._watch(storefront.url, places)
                status.show("  stopping …")
        status.show("")

    async def _send(self, url: str, status: _StatusLine) -> None:
        answers = 0
        start_s = last_s = time.monotonic()

        def count() -> None:
            nonlocal answers, last_s
            answers += 1
            last_s = time.monotonic()
            status.show(f"  client      {answers} of {self.requests} requests answered …")

        wrong = await check_out(url, self.requests, on_answer=count)
        right = f"{self.requests - len(wrong)} of {self.requests} right in {last_s - start_s:.2f} s"
        status.keep(f"  client      httpx on asyncio    {right:<24}  process {os.getpid()}\n")
        self.problems = wrong[:_SHOWN_PROBLEMS]
        if len(wrong) > _SHOWN_PROBLEMS:
            self.problems.append(f"{len(wrong) - _SHOWN_PROBLEMS} more requests")

    def report(self, *, with_peer: bool = False) -> int:
        """Show one trace, the figures, and the faults; *with_peer* also OpenTelemetry's trace. Return the exit status."""
        findings = _examine(self.path, earlier=self.earlier)
        lost = self._lost()
        problems = [*self.problems, *wrongs(findings, requests=self.requests, lost=lost)]
        if findings.typical is not None:
            self._show(findings.typical.trace_id)
        _say("")
        for line in _figures(findings, lost):
            _say(f"  {line}")
        _say("")
        for problem in problems:
            _say(f"  FAILED  {printable(problem, 500)}")
        if problems:
            for service in self.services:
                for line in service.output:
                    _say(f"  {service.name}: {printable(line, 500)}")
            _say("")
        if with_peer and findings.typical is not None:
            with SQLiteReader(self.path) as reader:
                ours = reader.spans(findings.typical.trace_id)
            status = _StatusLine()

            def waiting(seconds: int) -> None:
                status.wait(f"  the same program with OpenTelemetry … {seconds} s")

            with tempfile.TemporaryDirectory(prefix="tracekit-") as folder:
                drawn = list(compare(Path(folder), ours, waiting))
            status.show("")
            for line in drawn:
                _say(f"  {line}".rstrip())
            _say("")
        for line in _next_steps(self.path):
            _say(f"  {line}")
        return 1 if problems else 0

    def _lost(self) -> int:
        """Return how many spans did not get into the file, by account of this process and those that have ended."""
        accounts = [tracekit.statistics()._asdict()]
        accounts += [service.statistics for service in self.services if service.statistics is not None]
        return sum(account["dropped"] + account["failed"] for account in accounts)

    async def _settle(self) -> None:
        """Wait until no more spans come in."""
        last, quiet = None, 0
        for _ in range(_SETTLE_POLLS):
            with SQLiteReader(self.path) as reader:
                counts = reader.counts()
            quiet = quiet + 1 if counts == last else 0
            if quiet == _QUIET_POLLS:
                return
            last = counts
            await anyio.sleep(_POLL_S)

    async def _watch(self, url: str, places: Sequence[str]) -> None:
        """Show each trace that a request from outside makes."""
        _say("\nThe services go on running. From another terminal:\n")
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        _say(f"  curl -X POST {url}/checkout/7")
        _say(f"  curl -X POST {url}/checkout/8 \\\n    -H 'traceparent: {traceparent}'")
        _say("")
        for place in places:
            _say(f"  {place}")
        for service in self.services:
            _say(f"  live pages of the {service.name}: {service.pages}")
        _say("\nEach new trace is shown here. Ctrl-C stops the services.")
        last = self._spans_by_trace()
        shown = dict(last)
        while True:
            await anyio.sleep(_POLL_S)
            spans = self._spans_by_trace()
            for trace_id, count in reversed(spans.items()):
                # Whole, as far as one can tell: nothing has come for longer than a service keeps a span.
                if count == last.get(trace_id) and count != shown.get(trace_id):
                    _say("")
                    self._show(trace_id)
                    shown[trace_id] = count
            last = spans

    def _show(self, trace_id: str) -> None:
        if self.show(self.path, trace_id) == _INTERRUPTED:
            raise KeyboardInterrupt

    def _spans_by_trace(self) -> dict[str, int]:
        with SQLiteReader(self.path) as reader:
            return {trace.trace_id: trace.spans for trace in reader.traces(limit=_WATCHED_TRACES)}


class _StatusLine:
    """A line that changes while work goes on, where standard output is a terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        """Overwrite the line with *text*."""
        if self._is_terminal:
            self._write(text)

    def wait(self, text: str) -> None:
        """Overwrite the line with *text*; where there is no terminal, print it as a line."""
        if self._is_terminal:
            self._write(text)
        else:
            _say(text)

    def keep(self, text: str) -> None:
        """Overwrite the line with *text*, and begin a new one."""
        self._write(f"{text}\n")
        self._width = 0

    def _write(self, text: str) -> None:
        text = encodable(text, sys.stdout.encoding)
        start = f"\r{' ' * self._width}\r" if self._width else ""
        sys.stdout.write(start + text)
        sys.stdout.flush()
        self._width = len(text)


def _say(text: str) -> None:
    sys.stdout.write(encodable(f"{text}\n", sys.stdout.encoding))
    sys.stdout.flush()


def _next_steps(path: str) -> Iterator[str]:
    """Yield the commands to type next, written as this one was."""
    program = sys.argv[0]
    if Path(program).stem != "tracekit":
        program = f"{_near(sys.executable)} -m tracekit"
    elif shutil.which("tracekit") == os.path.abspath(program):
        program = "tracekit"
    yield "Where to look next"
    yield f"  a browser   {program} ui {_near(path)}"
    yield f"  all traces  {program} traces list {_near(path)}"
    yield f"  one trace   {program} traces show {_near(path)}"
    yield f"  your own    {program} demo --serve"
    yield f"  to read     {_near(str(Path(__file__).with_name('storefront.py')))}, README.md"


def _near(path: str) -> str:
    """Return *path* for the command line, relative if it is below the working directory."""
    here = os.getcwd() + os.sep
    return shlex.quote(path.removeprefix(here))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


# ---- the contents of the file after a run, and their faults


class Findings(NamedTuple):
    """The traces of one run, counted.

    ``orphans`` name a parent that is not in their trace, ``whole`` traces have spans of all three services,
    ``labelled`` spans are the warehouse's with the labels that the storefront set. ``typical`` is of
    median duration among the last whole traces, None where there is none.
    """

    traces: int
    whole: int
    spans: int
    orphans: int
    by_service: dict[str, int]
    labelled: int
    typical: StoredTrace | None


def _trace_ids(path: str) -> set[str]:
    """Return the ids of all traces in the file *path*."""
    with SQLiteReader(path) as reader:
        return {trace.trace_id for trace in reader.traces(limit=_EVERY)}


def _examine(path: str, *, earlier: Collection[str]) -> Findings:
    """Return the contents of the file *path* without the traces *earlier*."""
    with SQLiteReader(path) as reader:
        traces = [trace for trace in reader.traces(limit=_EVERY) if trace.trace_id not in earlier]
        spans = [reader.spans(trace.trace_id) for trace in traces]
    counts = Counter(span.service for trace in spans for span in trace)
    whole = [trace for trace in traces if set(SERVICES) <= set(trace.services)]
    last = sorted(sorted(whole, key=lambda trace: trace.start_ns)[-WARM:], key=lambda trace: trace.duration_ns)
    return Findings(
        traces=len(traces),
        whole=len(whole),
        spans=counts.total(),
        orphans=sum(map(_orphans, spans)),
        by_service={service: counts[service] for service in SERVICES},
        labelled=sum(_is_labelled(span) for trace in spans for span in trace if span.service == "warehouse"),
        typical=last[len(last) // 2] if last else None,
    )


def _orphans(trace: list[StoredSpan]) -> int:
    known = {span.span_id for span in trace}
    return sum(span.parent_id is not None and span.parent_id not in known for span in trace)


def _is_labelled(span: StoredSpan) -> bool:
    return span.labels.keys() >= {"tenant", "cart"}


def _figures(findings: Findings, lost: int) -> Iterator[str]:
    """Yield lines that show *findings*, and how many spans were *lost* on the way to the file."""
    if findings.whole == findings.traces:
        ways = "one for each request, through all three"
    else:
        ways = f"{findings.whole} of them through all three"
    rows = [
        ("traces", findings.traces, ways),
        ("spans", findings.spans, ", ".join(f"{count} {name}" for name, count in findings.by_service.items())),
        ("spans without their parent", findings.orphans, ""),
        ("spans dropped or failed", lost, ""),
        (
            "warehouse spans with labels",
            findings.labelled,
            f"of {findings.by_service['warehouse']}; the storefront set them",
        ),
    ]
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(str(number)) for _, number, _ in rows)
    for name, number, note in rows:
        yield f"{name:<{width}}  {number:>{digits}}  {note}".rstrip()


def wrongs(findings: Findings, *, requests: int, lost: int) -> Iterator[str]:
    """Yield the faults after *requests*, each of which must be one trace."""
    if findings.traces != requests:
        yield f"there are {findings.traces} traces, not one for each of {requests} requests"
    if findings.whole != findings.traces:
        yield f"{findings.traces - findings.whole} traces do not go through all three services"
    if findings.orphans:
        yield f"{findings.orphans} spans have lost their parent"
    if findings.labelled != findings.by_service["warehouse"]:
        yield f"{findings.by_service['warehouse'] - findings.labelled} spans of the warehouse have lost their labels"
    if lost:
        yield f"{lost} spans were dropped, or failed to be written"
