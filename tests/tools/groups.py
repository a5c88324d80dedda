"""Tasks of groups, and the errors and spans of groups, for tests."""

from __future__ import annotations

import contextlib
import inspect

import anyio
import anyio.abc
import pytest
import trio
from anyio.lowlevel import checkpoint

import tracekit
from tracekit.testing import span_tree

HAS_HANDLES = hasattr(anyio.abc.TaskGroup, "create_task")
# From anyio 4.11 on; before, a deadline is known from when the group was entered and the task began.
HAS_REASONS = "reason" in inspect.signature(anyio.CancelScope.cancel).parameters
with_handles = pytest.mark.skipif(not HAS_HANDLES, reason="needs anyio 4.14")
# What cancelled a task, as the status of its span has it.
SIBLING, BODY = "by sibling: fetch raised ValueError", "by sibling: the body raised ValueError"


def tree(exporter):
    return span_tree(sorted(exporter.spans, key=lambda span: span.name))


def named(exporter, name):
    (span,) = (span for span in exporter.spans if span.name == name)
    return span


async def job():
    with tracekit.span("work"):
        await checkpoint()


async def forever():
    await anyio.sleep_forever()


async def failing():
    raise ValueError("failed")


@contextlib.contextmanager
def raising(*kinds):
    """The block raises a group whose leaves are of *kinds*; trio adds what was cancelled from outside."""
    with pytest.raises(BaseExceptionGroup) as caught:
        yield caught
    errors = [type(leaf).__name__ for leaf in leaves(caught.value) if not isinstance(leaf, trio.Cancelled)]
    assert sorted(errors) == sorted(kind.__name__ for kind in kinds)


def leaves(error):
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]
