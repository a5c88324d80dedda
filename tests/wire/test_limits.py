"""Every field of every format has a limit: longer values are rejected, at a constant cost, before they are parsed."""

from __future__ import annotations

import tracemalloc

import pytest

import tracekit
from tracekit import FormatError
from tracekit.wire import _values, cloudtrace, seed_header, server_timing, xray

from ..tools.fuzz import CARRIERS, CONFIGURED, FORMATS, NAMES

MEBIBYTE = 1 << 20
HEADERS = [name for name in NAMES if name != "environ"]


def fields_of(format):
    return [*format.fields, *(f"{prefix}key" for prefix in getattr(format, "prefixes", ()))]


def good(name):
    """A valid carrier of the format, so that no field is ignored because another is missing."""
    carriers = [carrier for carrier in CARRIERS[name, True] if len({key.lower() for key, _ in carrier}) == len(carrier)]
    return {key.lower(): text for key, text in max(carriers, key=len)}


def held_while(function, *arguments):
    """The peak number of octets allocated by *function*, whether it returns or raises."""
    tracemalloc.start()
    try:
        function(*arguments)
    except FormatError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def append_each(values):
    grown = []
    for value in values:
        grown.append(value)  # noqa: PERF402 - one at a time


@pytest.mark.parametrize("fill", ["0", "a", "f0", " ", ",", ";", "a=1,", "a=1;", "-", '"', "%41", "\xe9", "\uff11"])
@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_mebibyte_in_one_field_is_not_copied_not_even_in_pieces(form, name, fill):
    format = FORMATS[form][name]
    for field in fields_of(format):
        text = fill * (MEBIBYTE // len(fill))
        for value in (text, text.encode()) if text.isascii() else (text,):
            assert held_while(format.read, good(name) | {field: value}) < MEBIBYTE // 2


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("form", FORMATS)
def test_many_small_values_of_one_field_are_not_copied(form, name):
    format = FORMATS[form][name]
    for field in fields_of(format):
        pairs = [*good(name).items(), *[(field, "a=1")] * 10_000]
        # Only lists of the values are allocated. Without the GIL a list that grows holds its old array beside the new one.
        assert held_while(format.read, pairs) < 2.5 * held_while(append_each, [None] * 10_000)


@pytest.mark.parametrize(
    ("module", "parsers"),
    [
        (cloudtrace, ["parse_hex", "parse_decimal", "make_remote"]),
        (seed_header, ["parse_hex", "parse_decimal", "make_remote"]),
        (server_timing, ["parse_traceparent", "_METRIC", "_PARAMETER"]),
        (xray, ["parse_hex", "make_remote", "_number", "_DECISIONS"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_parser_sees_a_mebibyte(monkeypatch, module, parsers):
    (format,) = [getattr(module, name) for name in module.__all__]
    for parser in parsers:
        holders = [holder for holder in (module, _values) if hasattr(holder, parser)]
        assert holders
        for holder in holders:
            monkeypatch.delattr(holder, parser)
    with pytest.raises(FormatError, match=r"1048576 characters, must be \d+ at most"):
        format.read({format.fields[0]: "0" * MEBIBYTE})


@pytest.mark.parametrize("format", CONFIGURED, ids=HEADERS)
def test_with_all_formats_configured_a_mebibyte_is_not_taken_from_the_carrier(format):
    tracekit.configure(formats=CONFIGURED)
    for field in fields_of(format):
        for carrier in ({field: "0" * MEBIBYTE}, [(field.encode(), b"0" * MEBIBYTE)]):
            assert held_while(tracekit.extract, carrier) < 65_536
            assert tracekit.extract(carrier) is None


def test_the_measurement_detects_a_format_that_parses_first():
    def read(carrier):
        return [piece.partition("=") for piece in carrier["field"].split(",")]

    assert held_while(read, {"field": "a=1," * (MEBIBYTE // 4)}) > MEBIBYTE
