"""Codecs and carriers, the absent and the bad case beside the good one."""

from __future__ import annotations

import pytest

import tracekit
from tracekit import FormatError

from . import inputs

TRACEPARENTS = {
    "valid": inputs.TRACEPARENT,
    "future version": f"cc{inputs.TRACEPARENT[2:]}-what-comes-next",
    "upper case": inputs.TRACEPARENT.upper(),
    "short": inputs.TRACEPARENT[:-1],
    "100,000 characters": inputs.TRACEPARENT * 1819,
}
OTHERS = {"host": "shop.example.com", "accept": "*/*", "user-agent": "Mozilla/5.0", "cookie": "session=0f5c7a"}
HEADERS = {
    "absent": OTHERS,
    "traceparent": {**OTHERS, "traceparent": inputs.TRACEPARENT},
    "traceparent and tracestate": {**OTHERS, "traceparent": inputs.TRACEPARENT, "tracestate": inputs.TRACESTATE},
    "bad": {**OTHERS, "traceparent": TRACEPARENTS["upper case"]},
}
CARRIERS = {
    **{f"dict, {case}": headers for case, headers in HEADERS.items()},
    **{
        f"ASGI, {case}": [(name.encode(), value.encode()) for name, value in headers.items()]
        for case, headers in HEADERS.items()
    },
}
STATES = {
    "2 members": inputs.TRACESTATE,
    "32 members": ",".join(f"vendor{number}=value{number}" for number in range(32)),
    "bad at the end": f"{inputs.TRACESTATE},Congo=1",
}
BAGGAGES = {
    "3 labels": inputs.BAGGAGE,
    "64 labels": ",".join(f"key{number}=value%20{number}" for number in range(64)),
    "bad": ",".join(["=x;y", "a b=c", 'q="1"'] * 3),
}


def _params(table):
    return [pytest.param(value, id=case) for case, value in table.items()]


@pytest.mark.parametrize("text", _params(TRACEPARENTS))
def bench_parse_traceparent(benchmark, form, text):
    benchmark(form.parse_traceparent, text)


def bench_format_traceparent(benchmark, form):
    benchmark(form.format_traceparent, form.parse_traceparent(inputs.TRACEPARENT))


@pytest.mark.parametrize("text", _params(STATES))
def bench_count_tracestate(benchmark, form, text):
    benchmark(form.count_tracestate, text)


@pytest.mark.parametrize("text", _params(BAGGAGES))
def bench_parse_baggage(benchmark, form, text):
    benchmark(form.parse_baggage, text)


@pytest.mark.parametrize("count", [3, 64])
def bench_format_baggage(benchmark, form, count):
    members, _ = form.parse_baggage(BAGGAGES[f"{count} labels"])
    benchmark(form.format_baggage, members)


@pytest.mark.parametrize("value", ["gold", "ünïcode & spaces, 100 %"])
def bench_escape_and_unescape_label(benchmark, form, value):
    benchmark(lambda: form.unescape_label(form.escape_label(value)))


@pytest.mark.parametrize("carrier", _params(CARRIERS))
def bench_read_tracecontext(benchmark, form, carrier):
    read = form.read_tracecontext

    def lenient():
        try:
            return read(carrier)
        except FormatError:
            return None

    benchmark(lenient)


@pytest.mark.parametrize("carrier", _params({"dict": dict, "list": list}))
@pytest.mark.parametrize(
    "headers", _params({key: HEADERS[key] for key in ("traceparent", "traceparent and tracestate")})
)
def bench_write_tracecontext(benchmark, form, headers, carrier):
    context = form.read_tracecontext(headers)
    write = form.write_tracecontext
    benchmark(lambda: write(context, carrier()))


@pytest.mark.parametrize(
    "carrier", _params({**CARRIERS, "all of a request": inputs.REQUEST, "labels": inputs.LABELS_ONLY})
)
def bench_extract(benchmark, carrier):
    benchmark(tracekit.extract, carrier)


@pytest.mark.parametrize(
    "carrier", _params({"traceparent": inputs.PARENT_ONLY, "all": inputs.REQUEST, "labels": inputs.LABELS_ONLY})
)
def bench_inject(benchmark, carrier):
    context = tracekit.extract(carrier)
    benchmark(lambda: tracekit.inject({}, context))
