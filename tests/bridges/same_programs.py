"""The list of the programs that run on OpenTelemetry's SDK and on the bridge, and what they share."""

from __future__ import annotations

import functools

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

__all__ = ["PROGRAMS", "REMOTE", "UNSAMPLED", "Failed", "program", "under"]

REMOTE = SpanContext(
    0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(1), TraceState([("a", "1")])
)
UNSAMPLED = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(0))
PROGRAMS = []


class Failed(Exception):
    pass


def program(function=None, **options):
    """Add *function* to the programs; the *options* are the provider's, or its ``environ``."""
    if function is None:
        return functools.partial(program, **options)
    PROGRAMS.append(pytest.param(function, options, id=function.__name__))
    return function


def under(span_context):
    """Return a Context with nothing but a parent."""
    return trace.set_span_in_context(NonRecordingSpan(span_context), context.Context())
