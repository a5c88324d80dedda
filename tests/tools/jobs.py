"""What the tests have workers do: processes and interpreters, each of which imports this, so that it imports little."""

from __future__ import annotations

import contextlib
import contextvars
import copyreg
import dataclasses
import gc
import multiprocessing
import os
import pickle
import re
import threading

import tracekit
from tracekit.processes import ProcessPoolExecutor

LIBRARY = "library", "1.2", "https://schema/1", {"a": 1}
VARIABLE = contextvars.ContextVar("variable", default="unset")


# ---- where a job finds itself


def implementation():
    return tracekit.IMPLEMENTATION


def here():
    """The ids, flags, tracestate and labels that are current, and whether they are another process's."""
    context = tracekit.current_context()
    if context is None:
        return None
    state, labels = str(context.state), dict(context.labels)
    return context.trace_id, context.span_id, context.flags, state, labels, context.is_remote


def library_span(name):
    """Make a span through OpenTelemetry's API, as a library would."""
    from tracekit.bridges.opentelemetry import TracerProvider

    TracerProvider(shutdown_on_exit=False).get_tracer(*LIBRARY).start_span(name).end()


def statistics():
    return tracekit.statistics()


# ---- jobs that are traced


def work(name="work", *parts, **attributes):
    with tracekit.span(name, attributes=attributes):
        for part in parts:
            tracekit.span(part).end()
    return name


def many(count):
    for _ in range(count):
        tracekit.span("one of many").end()


def everything():
    """A span that has all that a span can have, and what it is, as plain values."""
    link = tracekit.SpanContext("c" * 32, "d" * 16, 1, is_remote=True)
    attributes = {
        "text": "é",
        "yes": True,
        "int": 1,
        "float": 0.5,
        "bytes": b"\0",
        "list": [1, "a"],
        "map": {"a": {"b": [1]}},
    }
    with tracekit.span("everything", kind="producer", attributes=attributes, links=[link]) as span:
        span.add_link(link, {"why": "again"})
        span.add_event("event", {"n": 1}, time_ns=7)
        span.add_event("bare")
        span.set_attribute("none", None)
        span.set_status("error", "went wrong")
    return describe_span(span)


def describe_span(span):
    return {
        "context": (span.context.id, span.context.flags, str(span.context.state), dict(span.context.labels)),
        "is remote": (span.context.is_remote, span.parent and span.parent.is_remote),
        "parent": span.parent and span.parent.span_id,
        "name": span.name,
        "kind": span.kind,
        "times": (span.start_ns, span.end_ns),
        "attributes": dict(span.attributes),
        "events": [(event.name, event.time_ns, dict(event.attributes)) for event in span.events],
        "links": [(link.context, dict(link.attributes)) for link in span.links],
        "status": tuple(span.status),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links, span.truncated_values),
        "ended": (span.ended, span.is_recording),
    }


def leave_open():
    """Leave a span current, and a variable set."""
    VARIABLE.set("left")
    tracekit.use_labels(left="open").__enter__()
    tracekit.span("left open").__enter__()


def collect():
    gc.collect()


def variable():
    return VARIABLE.get()


def prepare(value):
    with tracekit.span("prepare"):
        VARIABLE.set(value)
    tracekit.use_labels(left="open").__enter__()


def wait_for(path):
    """Wait for somebody to open the FIFO for writing."""
    with open(path):
        pass


def begin_and_never_end(path):
    """Record a span, say so to who reads the FIFO at *path*, and wait to be killed."""
    tracekit.span("lost").end()
    open(path, "w").close()
    threading.Event().wait()


_threads: list[threading.Thread] = []


def start_thread(path):
    """Have a thread end a span after this job has returned, when the FIFO at *path* is opened."""
    span = tracekit.span("in the background")

    def end():
        wait_for(path)
        span.end()

    _threads.append(threading.Thread(target=end))
    _threads[-1].start()


def join_threads():
    while _threads:
        _threads.pop().join()


def nested(method):
    with (
        tracekit.span("nested"),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool,
    ):
        return pool.submit(work, "inner").result()


def exit_at_once():
    tracekit.span("lost").end()
    os._exit(1)


# ---- workers and children with an exporter of their own


class Lines:
    """An exporter that appends a line for each span: its name, trace and parent, and whether that is remote."""

    def __init__(self, path):
        self.path = path

    def export(self, spans):
        with open(self.path, "a") as file:
            for span in spans:
                parent = (span.parent.span_id, span.parent.is_remote) if span.parent else ("-", False)
                print(span.name, span.context.trace_id, *parent, file=file)

    def shutdown(self):
        pass


def configure(path):
    tracekit.configure(exporter=Lines(path))


def configure_and_work(path, name="work"):
    configure(path)
    return work(name)


def child_of_fork(path, span):
    """What a fork does that was made while *span* was open."""
    current = tracekit.current_context()
    with open(path, "a") as file:
        print(tracekit.current_span(), current.span_id == span.context.span_id, current.is_remote, file=file)
    configure(path)
    work("child")
    span.set_attribute("written in", "the child")
    span.end()
    tracekit.flush()


# ---- what cannot be sent, or only just


def lock():
    with tracekit.span("work"):
        return threading.Lock()


def view():
    with tracekit.span("work"):
        return memoryview(b"view")


class FailsToPickle:
    def __reduce__(self):
        tracekit.span("pickling").end()
        raise LookupError("not to be pickled", 1)


class FailsToUnpickle:
    def __reduce__(self):
        return int, ("not a number",)


def odd_value(kind):
    with tracekit.span("work"):
        return {"pickle": FailsToPickle, "unpickle": FailsToUnpickle, "local": lambda: lambda: None}[kind]()


class Plain(Exception):
    pass


class WithState(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code

    def __reduce__(self):
        return WithState, (self.args[0], self.code), {"extra": [1, 2]}


class WithKeywords(Exception):
    """Pickles, but its arguments are not those that its constructor takes."""

    def __init__(self, *, reason):
        super().__init__(f"because of {reason}")


class WithSlots(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class WithText(Exception):
    def __str__(self):
        return "text of its own"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Group(ExceptionGroup):
    def __new__(cls, errors):
        return super().__new__(cls, "group", errors)

    def __init__(self, errors):
        self.count = len(errors)

    def __reduce__(self):
        return Group, (list(self.exceptions),)


class Registered(Exception):
    pass


copyreg.pickle(Registered, lambda error: (Registered, error.args))


def _noted():
    error = Plain("noted")
    error.add_note("a note")
    error.attribute = {"a": 1}
    return error


def _caused():
    try:
        try:
            {}["missing"]
        except KeyError as error:
            raise ValueError("caused") from error
    except ValueError as error:
        return error


FAILURES = {
    "plain": lambda: Plain("boom", 1),
    "builtin": lambda: ValueError(),
    "os": lambda: FileNotFoundError(2, "No such file", "x.txt"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "syntax": lambda: SyntaxError("bad", ("x.py", 3, 1, "a b", 3, 2)),
    "import": lambda: ImportError("no", name="x", path="y"),
    "stop": lambda: StopIteration(3),
    "noted": _noted,
    "caused": _caused,
    "state": lambda: WithState("boom", 3),
    "slots": lambda: WithSlots(3),
    "text": lambda: WithText("boom"),
    "group": lambda: ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [Plain("leaf")])]),
    "own group": lambda: Group([ValueError(1), TypeError("two")]),
    "base group": lambda: BaseExceptionGroup("many", [KeyboardInterrupt(), Plain("leaf")]),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt("stop"),
    "generator exit": lambda: GeneratorExit(),
}


def fail(kind):
    with tracekit.span("work"):
        raise FAILURES[kind]()


def fail_deeply(depth):
    if depth:
        fail_deeply(depth - 1)
    fail("plain")


def fail_unpicklably(kind):
    class Local(Exception):
        pass

    with tracekit.span("work"):
        if kind == "local":
            raise Local("boom")
        if kind == "argument":
            raise ValueError(threading.Lock())
        if kind == "keywords":
            raise WithKeywords(reason="this")
        if kind == "frozen":
            raise Frozen(1)
        raise Registered("boom", 1)


def fail_or_work(number):
    if number == 2:
        fail("plain")
    return work(f"work {number}")


def _without_addresses(text):
    return re.sub("0x[0-9a-f]+", "0x", text)


def describe_error(error):
    """All that is to be seen of an error that came out of a pool."""
    with contextlib.suppress(Exception):
        pickle.dumps(error)  # nothing that is left on it may keep it from going on to the next process
    members = {
        name: getattr(error, name, None) for name in ("code", "filename", "errno", "lineno", "name", "value", "start")
    }
    return {
        "type": type(error),
        # Without addresses, which pickle's messages name since Python 3.14.
        "args": [_without_addresses(repr(argument)) for argument in error.args],
        "text": _without_addresses(str(error)),
        # But for what says that a span of this trace has recorded it, which each traced process sets anew, and for the
        # way to what pickle could not save, which Python 3.15 notes: a traced job is one level further down.
        "attributes": sorted(
            (name, repr(value))
            for name, value in vars(error).items()
            if name != "__tracekit_trace__" and not (name == "__notes__" and "when serializing" in repr(value))
        ),
        "members": members,
        "cause": (type(error.__cause__), _without_addresses(str(error.__cause__))),
        "leaves": [describe_error(leaf) for leaf in getattr(error, "exceptions", ())],
    }
