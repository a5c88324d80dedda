"""Running programs and comparing what they record with their plan."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import itertools
import logging
import sys
import threading
import traceback
import warnings
from collections import Counter
from concurrent import futures

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import trio
from hypothesis import HealthCheck, Phase, given, seed, settings

import tracekit
from tests.tools.backends import BACKENDS
from tracekit import aio, threads

from .model import MAX_NODES, UNKNOWN
from .strategy import programs
from .vocabulary import planned, remote


class Run:
    """One run of a program: what its source calls ``run``."""

    def __init__(self, runner):
        self._runner = runner
        self.pool, self.wrapped_pool, self.plain_pool = runner.pools
        self.limiter = runner.limiter
        self.looks = {}
        self._lock = threading.Lock()
        self._working = 0
        self._idle = threading.Event()
        self._idle.set()
        self._kept = set()
        self._watched, self._dropped = set(), set()
        self._stream = self._queue = self._aio_queue = None

    # What it waits for

    def _begin(self):
        with self._lock:
            self._working += 1
            self._idle.clear()

    def _done(self):
        with self._lock:
            self._working -= 1
            if not self._working:
                self._idle.set()

    def give_up(self):
        self._idle.set()

    def state(self):
        return f"waiting for {self._working} that nobody else waits for\n" + "\n".join(self._runner.noise.heard)

    def hold(self, function):
        """Return *function*, for whose one call the program's end waits; it swallows what was raised on purpose."""
        self._begin()
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def held(*args):
                try:
                    with planned:
                        await function(*args)
                finally:
                    self._done()
        else:

            @functools.wraps(function)
            def held(*args):
                try:
                    with planned:
                        function(*args)
                finally:
                    self._done()

        return held

    def keep(self, future):
        self._kept.add(future)

    @contextlib.contextmanager
    def watched(self, name):
        self._watched.add(name)
        try:
            yield
        finally:
            self._watched.remove(name)
            if name in self._dropped:
                self._done()

    def drop(self, name):
        """Forget an async generator; the loop closes it, and the program's end waits for that."""
        if name in self._watched:
            self._dropped.add(name)
            self._begin()
        delattr(self, name)

    # Hand-offs that take more than a line

    async def in_group(self, function):
        async with anyio.create_task_group() as group:
            group.start_soon(function)

    def in_thread(self, function):
        thread = threads.Thread(target=function)
        thread.start()
        thread.join()

    def cancel(self, scope):
        cancel = getattr(scope, "cancel_scope", scope).cancel
        if self._runner.backend == "asyncio+eager":
            # Called by an eager task, in the middle of the scope's own, anyio's cancel() outlasts the scope (4.16).
            self.loop.call_soon(cancel)
        else:
            cancel()

    def look(self, name):
        self.looks[name] = tracekit.current_context()

    # Channels, each with a worker that whoever sends first starts

    @property
    def stream(self):
        if self._stream is None:
            self._stream, receive = aio.create_memory_object_stream(1000)
            self.root.start_soon(self._receive, receive)
        return self._stream

    async def _receive(self, receive):
        with receive:
            async for delivery in receive.deliveries():
                await delivery.item(delivery)

    @property
    def queue(self):
        with self._lock:
            if self._queue is None:
                self._queue = threads.Queue()
                self._worker = threading.Thread(target=tracekit.wrap(self._work), args=(self._queue,))
                self._worker.start()
        return self._queue

    def _work(self, queue):
        while (delivery := queue.get_delivery()).item is not None:
            delivery.item(delivery)

    @property
    def aio_queue(self):
        if self._aio_queue is None:
            self._aio_queue = aio.Queue()
            self.keep(asyncio.create_task(self._work_async(self._aio_queue)))
        return self._aio_queue

    async def _work_async(self, queue):
        while (delivery := await queue.get_delivery()).item is not None:
            await delivery.item(delivery)

    # The run itself

    async def main(self, program):
        self.empty = contextvars.copy_context()  # not Context(): anyio keeps in it which library it is on
        if program.backend == "asyncio":
            self.loop = asyncio.get_running_loop()
        else:
            self.token = trio.lowlevel.current_trio_token()
        async with anyio.from_thread.BlockingPortal() as self.portal, anyio.create_task_group() as self.root:
            await program.function(self)
            await self._wait()
            for name in program.generators:
                await self._finish(getattr(self, name, None))
            await self._wait()
            if self._stream is not None:
                self._stream.close()
            if self._queue is not None:
                self._queue.put(None)
                self._worker.join()
            if self._aio_queue is not None:
                self._aio_queue.put_nowait(None)
        for future in self._kept:
            await future
        for value in vars(self).values():
            if isinstance(value, tracekit.Span):
                value.end()
        assert tracekit.current_context() is None, "something is still current at the end"

    async def _wait(self):
        if not self._idle.is_set():
            await anyio.to_thread.run_sync(self._idle.wait, limiter=self.limiter)

    async def _finish(self, generator):
        with planned:
            if hasattr(generator, "aclose"):
                await generator.aclose()
            elif generator is not None:
                generator.close()


class Exporter:
    """Keeps what has ended."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans += spans

    def shutdown(self):
        pass


class Noise(logging.Handler):
    """What should not be there: log records, warnings, errors that nobody could catch."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.heard = []

    def emit(self, record):
        if record.levelno >= logging.WARNING or record.name.startswith("tracekit"):
            self.heard.append(f"{record.name}: {record.getMessage()}")
            if record.exc_info:
                self.heard.append("".join(traceback.format_exception(*record.exc_info)))

    def unraisable(self, unraisable):
        error = unraisable.exc_value
        self.heard.append(f"unraisable in {unraisable.object!r}: {''.join(traceback.format_exception(error))}")

    def in_thread(self, args):
        self.heard.append(f"in a thread: {''.join(traceback.format_exception(args.exc_value))}")


class Runner:
    """Runs programs on one backend, in one event loop that they share; ``with`` it."""

    def __init__(self, backend):
        self.backend = backend
        self.kinds = Counter()
        self.programs = self.nodes = self.spans = self.missing = 0

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        name, options = BACKENDS[self.backend]
        self.exporter = Exporter()
        tracekit.configure(service="programs", exporter=self.exporter)
        self.stack.callback(tracekit.configure)
        plain = futures.ThreadPoolExecutor(MAX_NODES + 50)
        self.pools = threads.ThreadPoolExecutor(MAX_NODES + 50), threads.wrap_executor(plain), plain
        self.stack.enter_context(self.pools[0])
        self.stack.enter_context(plain)
        self.portal = self.stack.enter_context(anyio.from_thread.start_blocking_portal(name, options))
        self.limiter = self.portal.call(anyio.CapacityLimiter, MAX_NODES + 50)
        self.noise = Noise()
        logging.getLogger().addHandler(self.noise)
        self.stack.callback(logging.getLogger().removeHandler, self.noise)
        for module, hook, own in (
            (sys, "unraisablehook", self.noise.unraisable),
            (threading, "excepthook", self.noise.in_thread),
        ):
            self.stack.callback(setattr, module, hook, getattr(module, hook))
            setattr(module, hook, own)
        return self

    def __exit__(self, *exc):
        self.stack.__exit__(*exc)

    def check(self, program):
        """Run *program* twice; raise AssertionError, with its source, where it does not do as planned."""
        first, second = self.run(program), self.run(program)
        wrong = [*first.wrong, *second.wrong]
        for name in first.found.keys() & second.found.keys():
            if first.found[name] != second.found[name]:
                wrong.append(f"{name} is not the same twice: {first.found[name]}, {second.found[name]}")  # noqa: PERF401
        if wrong:
            raise AssertionError("\n".join([*dict.fromkeys(wrong), "", repr(program), "planned:", program.tree()]))
        if not program.world.kinds.keys() - {"look"}:
            return
        self.programs += 1
        self.kinds += program.world.kinds
        self.spans += len(first.found)
        self.missing += len(program.world.spans) - len(first.found)

    def run(self, program):
        tracekit.flush(20)
        self.exporter.spans.clear()
        self.noise.heard.clear()
        before = tracekit.statistics()
        run = Run(self)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            contextvars.Context().run(self._run, run, program)
            assert tracekit.flush(20)
        outcome = Outcome(program, run, self.exporter.spans)
        now = tracekit.statistics()
        counts = tracekit.Statistics(*[new - old for new, old in zip(now, before, strict=True)])
        recorded = len(self.exporter.spans)
        if (
            (counts.ended, counts.open, counts.exported) != (counts.started, 0, recorded)
            or counts.ended != recorded + counts.unsampled
            or (program.is_certain and counts.started != len(program.world.spans))
        ):
            outcome.wrong.append(f"{counts} for {recorded} spans of {len(program.world.spans)} planned")
        outcome.wrong += [f"warned: {warning.message}" for warning in warned]
        outcome.wrong += self.noise.heard
        return outcome

    def _run(self, run, program):
        future = self.portal.start_task_soon(run.main, program)
        try:
            future.result(20)
        except TimeoutError:
            future.cancel()
            run.give_up()
            raise AssertionError(f"hangs, {run.state()}\n{program!r}") from None
        except BaseException as error:
            raise AssertionError("\n".join([*_leaves(error), "", repr(program)])) from None


def _leaves(error):
    """Return the errors in *error*, each with the last lines of its traceback."""
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in _leaves(inner)]
    return ["raised " + "".join(traceback.format_exception(error, limit=-3))]


class Outcome:
    """What a run recorded, by name, and where that is not as planned."""

    def __init__(self, program, run, spans):
        world = program.world
        self.wrong = []
        self.found = {}
        by_id = {span.context.span_id: span.name for span in spans}
        by_id.update({remote(f"r{n + 1}").span_id: f"r{n + 1}" for n in range(world.names["r"])})
        traces = {span.name: span.context.trace_id for span in spans}
        traces.update({f"r{n + 1}": remote(f"r{n + 1}").trace_id for n in range(world.names["r"])})
        roots = {}
        for span in spans:
            if span.name in self.found:
                self.wrong.append(f"{span.name} was recorded twice")
            parent = span.parent and by_id.get(span.parent.span_id, span.parent.span_id)
            links = [by_id.get(link.context.span_id, "") for link in span.links]
            labels = dict(span.context.labels)
            self.found[span.name] = parent, labels, links
            expected = world.spans.get(span.name)
            if expected is None:
                self.wrong.append(f"{span.name} was not planned")
                continue
            if expected.sampled is False:
                self.wrong.append(f"{span.name} is not sampled, but was recorded")
            self.compare(span.name, expected, parent, labels)
            if UNKNOWN not in expected.links and not world.are(links, expected.links):
                self.wrong.append(f"{span.name} is linked to {links}, not {expected.links}")
            if parent is None:
                if traces[span.name] in roots:
                    self.wrong.append(f"{span.name} and {roots[traces[span.name]]} are roots of one trace")
                roots[traces[span.name]] = span.name
            elif traces.get(parent) != traces[span.name]:
                self.wrong.append(f"{span.name} is in another trace than its parent {parent}")
        for name, expected in world.spans.items():
            if name not in self.found and expected.is_certain and expected.sampled is True:
                self.wrong.append(f"{name} is missing")
        for name, context in run.looks.items():
            expected = world.looks[name]
            ids = by_id.get(context.span_id) if context is not None and context.is_valid else None
            labels = {} if context is None else dict(context.labels)
            if expected.sampled is UNKNOWN and context is not None and not context.sampled:
                pass
            elif expected.sampled is not False:
                self.compare(f"what is current at {name}", expected, ids, labels)
            elif context is None or context.sampled:
                self.wrong.append(f"what is current at {name} is {context}, not what is not sampled")
        for name, expected in world.looks.items():
            if name not in run.looks and expected.is_certain:
                self.wrong.append(f"{name} is missing")

    def compare(self, name, expected, parent, labels):
        if expected.parent not in (parent, UNKNOWN):
            self.wrong.append(f"{name}: parent is {parent}, not {expected.parent}")
        if expected.labels not in (labels, UNKNOWN):
            self.wrong.append(f"{name}: labels are {labels}, not {expected.labels}")


def check_programs(runner, count, first=1):
    """Check *count* programs, by number from *first*: on one backend, as these files are, a number is always the same program.

    Each is a run of Hypothesis for itself, as one run of many programs would vary few of them again and again.
    """
    for number in itertools.count(first):
        if runner.programs >= count:  # a few are empty, and do not count
            return
        check = given(program=programs(BACKENDS[runner.backend][0]))(runner.check)
        check = settings(
            max_examples=2,  # the first is always the empty program
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(check)
        try:
            seed(number)(check)()
        except BaseException as error:
            error.add_note(f"program {number} on {runner.backend}")
            raise
