from __future__ import annotations

from types import SimpleNamespace

import pytest

from tracekit import _pure

from . import fuzz


def test_20000_mutated_headers_get_the_same_verdict_from_both_twins_and_never_an_error():
    verdicts = fuzz.run(seed=2, inputs=20_000)
    assert verdicts["inputs"] == 20_000
    # Neither all good nor all bad, or it would show little.
    for verdict in ("traceparent", "tracestate"):
        assert verdicts[f"{verdict} good"] > 2_000
        assert verdicts[f"{verdict} bad"] > 2_000
    for verdict in ("extracted", "read", "refused", "absent", "baggage members", "baggage members left out"):
        assert verdicts[verdict] > 1_000


def _lenient(text):
    return _pure.parse_traceparent(text.lower())


def _raising(text):
    return _pure.parse_traceparent(text) if "\0" not in text else 1 // 0


def _counting(text):
    return _pure.count_tracestate(text.replace(" ", ""))


def _plus_is_space(text):
    members, dropped = _pure.parse_baggage(text)
    return tuple([(key, value.replace("+", " "), properties) for key, value, properties in members]), dropped


FAULTS = [
    ("parse_traceparent", _lenient),
    ("parse_traceparent", _raising),
    ("count_tracestate", _counting),
    ("parse_baggage", _plus_is_space),
    ("escape_label", str),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_twin_that_differs_is_found_out(monkeypatch, name, fault):
    faulty = SimpleNamespace(**{**vars(_pure), name: fault})
    monkeypatch.setattr(fuzz, "TWINS", {"plain": _pure, "faulty": faulty})
    with pytest.raises(fuzz.Mismatch) as caught:
        fuzz.run(seed=2, inputs=5_000)
    assert "again: python -m tests.fuzz --seed 2 --first " in caught.value.__notes__[0]


@pytest.mark.parametrize(("name", "fault"), FAULTS[:3])
def test_a_fault_that_both_twins_have_is_found_out(monkeypatch, name, fault):
    monkeypatch.setattr(fuzz, "TWINS", {"faulty": SimpleNamespace(**{**vars(_pure), name: fault})})
    with pytest.raises(fuzz.Mismatch):
        fuzz.run(seed=2, inputs=5_000)


def test_an_input_is_the_same_whenever_it_is_asked_for():
    assert fuzz.run(seed=3, inputs=1, first=17) == fuzz.run(seed=3, inputs=1, first=17)
    whole = fuzz.run(seed=3, inputs=40)
    assert whole == fuzz.run(seed=3, inputs=20) + fuzz.run(seed=3, inputs=20, first=20)
