"""The values that travel: ids, SpanContext, Labels, TraceState."""

from __future__ import annotations

import pickle

import pytest

from tracekit import Labels, TraceState

from . import inputs

ID = bytes.fromhex(inputs.TRACEPARENT[3:35] + inputs.TRACEPARENT[36:52])


@pytest.fixture
def context(form):
    return form.parse_traceparent(inputs.TRACEPARENT)


def bench_parse_hex(benchmark, form):
    benchmark(form.parse_hex, inputs.TRACEPARENT[3:35], 32)


def bench_new_context_of_hex(benchmark, form):
    trace_id, span_id = inputs.TRACEPARENT[3:35], inputs.TRACEPARENT[36:52]
    benchmark(form.SpanContext, trace_id, span_id, 1)


def bench_make_context(benchmark, form):
    benchmark(form.make_context, ID, 1, "", None, True)


@pytest.mark.parametrize("name", ["trace_id", "span_id", "id", "sampled", "is_valid", "state", "labels"])
def bench_read_context(benchmark, context, name):
    benchmark(eval(f"lambda context: context.{name}"), context)


def bench_hash_context(benchmark, context):
    benchmark(hash, context)


@pytest.mark.parametrize("same", [True, False], ids=["equal", "unequal"])
def bench_compare_contexts(benchmark, form, context, same):
    other = form.make_context(context.id if same else bytes(24), 1, "", None, True)
    benchmark(lambda: context == other)


def bench_replace_context(benchmark, context):
    labels = Labels(inputs.LABELS)
    benchmark(lambda: context.replace(labels=labels))


def bench_pickle_context(benchmark, context):
    benchmark(lambda: pickle.loads(pickle.dumps(context)))


def bench_make_labels(benchmark):
    benchmark(Labels, inputs.LABELS)


def bench_merge_labels(benchmark):
    labels = Labels(inputs.LABELS)
    benchmark(labels.merge, {"tenant": "other"})


def bench_get_label(benchmark):
    labels = Labels.parse(inputs.BAGGAGE)
    benchmark(labels.get, "region")


@pytest.mark.parametrize("count", [2, 32])
def bench_parse_and_add_state(benchmark, count):
    text = ",".join(f"vendor{number}=value{number}" for number in range(count))
    benchmark(lambda: TraceState.parse(text).get("vendor1"))
