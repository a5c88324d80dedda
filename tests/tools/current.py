"""The current span, for tests of what is passed on."""

import threading
import types

import tracekit


def here():
    """Return the name of the current span, or None."""
    span = tracekit.current_span()
    return None if span is None else span.name


@types.coroutine
def suspend():
    """Suspend once; return the name of the span that is current then."""
    yield
    return here()


def hand_over_under_a_span(hand_over):
    """Have *hand_over* pass on a job under a span that ends before the job starts its own.

    *hand_over* takes a function and returns another, which waits for it.
    """
    release = threading.Event()

    def job():
        release.wait(20)
        with tracekit.span("job"):
            pass

    with tracekit.span("outer"):
        with tracekit.use_labels(tenant="acme"), tracekit.span("submitter"):
            wait = hand_over(job)
        with tracekit.span("later"):
            release.set()
            wait()
