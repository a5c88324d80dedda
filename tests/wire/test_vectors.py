"""Every vector on both implementations, independent of the one in use."""

from __future__ import annotations

import pytest

from tracekit import FormatError

from ..tools.fuzz import FORMATS, NAMES
from .vector_files import DIRECTORY, described, expected, load

CASES = [case for file in sorted(DIRECTORY.glob("*.json")) for case in load(file.stem)]
KINDS = {
    "absent": lambda case: case.context is None and case.error is None,
    "bad": lambda case: case.error is not None,
    "empty": lambda case: any(value in ("", b"", [""]) for value in case.carrier.values()),
    "several values": lambda case: any(isinstance(value, list) for value in case.carrier.values()),
    "no ASCII": lambda case: not str([*case.carrier.values()]).isascii() or "\\u" in ascii([*case.carrier.values()]),
    "canonical": lambda case: case.canonical,
}
# A variable of the environment has one value.
EXCEPT = {("environ", "several values"), ("baggage", "bad")}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_both_implementations_read_and_write_the_vectors(form, name):
    format = FORMATS[form][name]
    for case in CASES:
        if case.format != name:
            continue
        if case.error is not None:
            with pytest.raises(FormatError) as caught:
                format.read(case.carrier)
            assert case.error in str(caught.value), case.name
            continue
        context = format.read(case.carrier)
        assert described(context) == expected(case), case.name
        if case.canonical:
            written = {}
            format.write(context, written)
            assert written == case.carrier, case.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_every_format_has_vectors_of_every_kind(name, kind):
    if (name, kind) not in EXCEPT:
        assert [case for case in CASES if case.format == name and KINDS[kind](case)]
