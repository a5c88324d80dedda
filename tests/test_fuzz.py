from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracekit import _propagation, wire
from tracekit._core.codecs import Sieve

from .tools import fuzz


def test_8000_mutated_carriers_get_the_same_verdict_from_both_forms_and_never_an_error():
    verdicts = fuzz.run(seed=2, inputs=8_000)
    assert verdicts["inputs"] == 8_000
    # Neither all good nor all bad, or it would show little.
    for verdict in ("traceparent", "tracestate"):
        assert verdicts[f"{verdict} good"] > 400
        assert verdicts[f"{verdict} bad"] > 400
    for verdict in ("extracted", "read", "refused", "absent", "baggage members", "baggage members left out"):
        assert verdicts[verdict] > 400
    for name in fuzz.NAMES:
        assert verdicts[f"{name} read"] > 40
        assert verdicts[f"{name} refused"] > 40 or name == "baggage", "a bad member is left out alone"
    assert verdicts["extracted with all formats"] > 1_200
    assert verdicts["fields written"] > 4_000


def test_every_format_is_there_on_every_form():
    assert set(fuzz.FORMATS) == set(fuzz.TWINS)
    for name, formats in fuzz.FORMATS.items():
        context = formats["xray"].read({"x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793"})
        assert type(context) is fuzz.TWINS[name].SpanContext
    modules = {file.stem for file in Path(wire.__path__[0]).glob("[!_]*.py")}
    assert len(fuzz.NAMES) == len(modules) + 2, "all have one but w3c and b3"
    assert set(_propagation._NAMES) <= set(fuzz.NAMES)


def _lenient(text):
    return fuzz.TWINS["plain"].parse_traceparent(text.lower())


def _raising(text):
    return fuzz.TWINS["plain"].parse_traceparent(text) if "\0" not in text else 1 // 0


def _counting(text):
    return fuzz.TWINS["plain"].count_tracestate(text.replace(" ", ""))


def _plus_is_space(text):
    members, dropped = fuzz.TWINS["plain"].parse_baggage(text)
    return tuple([(key, value.replace("+", " "), properties) for key, value, properties in members]), dropped


FAULTS = [
    ("parse_traceparent", _lenient),
    ("parse_traceparent", _raising),
    ("count_tracestate", _counting),
    ("parse_baggage", _plus_is_space),
    ("escape_label", str),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_form_that_differs_is_found_out(monkeypatch, name, fault):
    faulty = SimpleNamespace(**{**fuzz.TWINS["plain"].names(), name: fault})
    monkeypatch.setattr(fuzz, "TWINS", {"plain": fuzz.TWINS["plain"], "faulty": faulty})
    with pytest.raises(fuzz.Mismatch) as caught:
        fuzz.run(seed=2, inputs=5_000)
    assert "again: python -m tests.tools.fuzz --seed 2 --first " in caught.value.__notes__[0]


class Faulty:
    """A format that is right but for one thing."""

    def __init__(self, format, **faults):
        vars(self).update({name: functools.partial(fault, format) for name, fault in faults.items()}, _format=format)

    def __getattr__(self, name):
        return getattr(self._format, name)

    def __setattr__(self, name, value):
        setattr(self._format, name, value)


def _read_leniently(format, carrier):
    return format.read(
        {field: text.lower() for field in format.fields if (text := Sieve((field,)).collect(carrier)[0])}
    )


def _read_and_raise(format, carrier):
    context = format.read(carrier)
    if context and context.extra:
        raise KeyError("xray")
    return context


def _read_without_extra(format, carrier):
    context = format.read(carrier)
    return context and context.replace(extra={})


def _write_as_it_is(format, context, carrier):
    format.write(context, carrier)
    for pair in context.extra.get("xray", ()):
        carrier["x-amzn-trace-id"] += f";{pair[0]}={pair[1]}"


def _write_without_a_decision(format, context, carrier):
    format.write(context.replace(extra={}), carrier)
    carrier["x-amzn-trace-id"] = carrier["x-amzn-trace-id"].partition(";Sampled")[0]


def _write_and_raise(format, context, carrier):
    format.write(context, carrier)
    if len(context.extra.get("xray", ())) > 2:
        raise KeyError("xray")


READ_OTHERWISE = [{"read": _read_leniently}, {"read": _read_without_extra}]  # which agrees with itself
WRONG = [
    {"read": _read_and_raise},
    {"write": _write_as_it_is},
    {"write": _write_without_a_decision},
    {"write": _write_and_raise},
]


@pytest.mark.parametrize(
    ("forms", "faults"),
    [(["plain", "faulty"], faults) for faults in READ_OTHERWISE + WRONG] + [(["faulty"], faults) for faults in WRONG],
    ids=lambda value: value[0] if isinstance(value, list) else next(iter(value.values())).__name__.strip("_"),
)
def test_a_fault_of_a_format_is_found_out(monkeypatch, forms, faults):
    good = fuzz.FORMATS["plain"]
    faulty = {**good, "xray": Faulty(good["xray"], **faults)}
    monkeypatch.setattr(fuzz, "FORMATS", dict.fromkeys(forms, good) | {"faulty": faulty})
    monkeypatch.setattr(fuzz, "NAMES", ["xray"])
    with pytest.raises(fuzz.Mismatch, match=r"xray|an illegal header|_and_raise") as caught:
        fuzz.run(seed=2, inputs=2_000)
    assert "again: python -m tests.tools.fuzz --seed 2 --first " in caught.value.__notes__[0]


@pytest.mark.parametrize(("name", "fault"), FAULTS[:3])
def test_a_fault_that_both_forms_have_is_found_out(monkeypatch, name, fault):
    monkeypatch.setattr(fuzz, "TWINS", {"faulty": SimpleNamespace(**{**fuzz.TWINS["plain"].names(), name: fault})})
    with pytest.raises(fuzz.Mismatch):
        fuzz.run(seed=2, inputs=5_000)


def test_an_input_is_the_same_whenever_it_is_asked_for():
    assert fuzz.run(seed=3, inputs=1, first=17) == fuzz.run(seed=3, inputs=1, first=17)
    whole = fuzz.run(seed=3, inputs=40)
    assert whole == fuzz.run(seed=3, inputs=20) + fuzz.run(seed=3, inputs=20, first=20)
