"""The published table: what happens to a trace at every hand-off, in tracekit, OpenTelemetry and ddtrace alike.

One module per group of rows of the guarantees, ``test_<group>.py``; in it one *scenario* per line of the table:

    from .scenario import ASYNCIO, cases, scenario

    @scenario(
        row=2,
        title="`create_task` inside a span that ends before the task's first step",
        expect=\"\"\"
        request
          job
        \"\"\",
        backends=ASYNCIO,
    )
    async def task_outlives_its_parent(t):
        with t.span("request"):
            task = asyncio.create_task(job(t))
        await task

    test_tasks = cases(globals())  # the last line of the module: pytest's cases, scenario by backend

*expect* is the finished spans as ``tracekit.testing.span_tree`` writes them (``name [status] <- remote ~ link``), siblings
in any order. A span whose parent was not recorded stands at the left with ``<- ?``, a link to such a one as ``~ ?``. Spans of kind "server" and
"client" are called that. Names have no spaces before ``[``, ``<-`` or ``~``; links are told apart by name, so give spans that matter names of their own.

*backends* (default ``ALL``) is a tuple of ``"asyncio"``, ``"asyncio+uvloop"``, ``"asyncio+eager"`` (left out before Python 3.12) and
``"trio"``; ``ASYNCIO`` and ``TRIO`` are there for what exists on one only. A scenario runs in an event loop, a ``contextvars.Context``
and a recording of its own, and is taken to hang after twenty seconds. What it leaves behind (tasks, generators) is finished with the loop, and
garbage is collected, before the spans are looked at.

Statuses belong to rows 4 and 13: elsewhere let no cancellation leave a span, or the peers, who have no word for it, lose for another reason.

What cannot be guaranteed without being called says so, and stays in the table:

    @scenario(row=3, title="...", expect="what one would wish", actual="what comes", instead="wrap(fn)")

Then pytest wants *actual*, and the table names *instead*. (*actual* may be left out where it differs by Python version.)

``t`` is a driver (drivers.py has the list of its methods): scenarios make spans and hand-offs through it where the tracer matters, and use asyncio, trio,
anyio and threading as they are everywhere else. For tracekit ``t.aio`` is ``tracekit.aio``, ``t.threads`` and ``t.processes`` are tracekit's; for the peers they
are anyio and the standard library under the same names. ``t.check(truth, "in a word")`` says what a tree cannot; the word becomes the verdict where it is not true.
A scenario must not raise: what comes out of it is taken for the tracer's doing. Nor may anything be logged or warned of, so
silence what the scenario itself provokes.

    python -m pytest tests/guarantees -q                             tracekit alone, as the suite runs (compiled or plain)
    python -m tests.guarantees --quick --only "task outlives"        all tracers, asyncio and trio only, and what they did, as trees
    python -m tests.guarantees                                       everything, and docs/GUARANTEES.md is written
    make guarantees PYTHON=python3.12                                the same with eager tasks, too: as the page in docs/ was made
"""
