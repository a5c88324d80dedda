"""Read ``tests/vectors/*.json`` and compare a format with a vector.

A file is a list of objects::

    {
        "name": the case, in words that need no context,
        "spec": URL and section of the specification,
        "format": the name of the format; default: the name of the file,
        "carrier": {field: text, or a list of texts, or {"hex": octets}},
        "context": {"trace_id", "span_id", "flags", "deferred", and optionally "state", "labels", "extra"},
        "error": a part of the message of the ``FormatError``,
        "canonical": true if writing the context must reproduce the carrier
    }

``labels`` is an object, or a list of ``[key, value, [[property, value or null], …]]`` if order, duplicates or
properties matter; ``dropped`` beside it is the number of dropped labels. In ``extra``, pairs are lists of two and
octets are ``{"hex": …}``. Without ``context`` and ``error``, ``read`` returns None.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tracekit
from tracekit import FormatError

DIRECTORY = Path(__file__).parent.parent / "vectors"


class Case(NamedTuple):
    """A vector."""

    name: str
    spec: str
    format: str
    carrier: dict[str, Any]
    context: dict[str, Any] | None
    error: str | None
    canonical: bool


def load(file: str) -> list[Case]:
    """Return the vectors of ``tests/vectors/<file>.json``."""
    rows = json.loads((DIRECTORY / f"{file}.json").read_text(encoding="utf-8"))
    found = []
    for row in rows:
        assert row.keys() <= {*Case._fields}, row["name"]
        found.append(
            Case(
                row["name"],
                row["spec"],
                row.get("format", file),
                {name: _value(value) for name, value in row["carrier"].items()},
                row.get("context"),
                row.get("error"),
                row.get("canonical", False),
            )
        )
    names = [(case.format, case.name) for case in found]
    assert len(names) == len(set(names)), "two vectors of one name"
    return found


def cases(file: str, format: str | None = None) -> list[Any]:
    """Return the vectors in *file*, all or those of *format*, as parameters of a test."""
    found = [case for case in load(file) if format in (None, case.format)]
    assert found, f"no vectors of {format} in {file}"
    return [pytest.param(case, id=case.name) for case in found]


def good_cases(file: str, format: str | None = None) -> list[Any]:
    """Return the vectors of ``cases()`` that have a context."""
    return [param for param in cases(file, format) if param.values[0].context is not None]


def described(context: Any) -> dict[str, Any] | None:
    """Return *context* as a vector describes it."""
    if context is None:
        return None
    shown: dict[str, Any] = {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "flags": context.flags,
        "deferred": context.deferred,
    }
    if str(context.state):
        shown["state"] = str(context.state)
    if context.labels:
        shown["labels"] = [[key, value, [list(pair) for pair in more]] for key, value, more in context.labels.members]
    if context.labels.dropped:
        shown["dropped"] = context.labels.dropped
    if context.extra:
        shown["extra"] = dict(context.extra)
    return shown


def expected(case: Case) -> dict[str, Any] | None:
    """Return the context of *case* with all defaults filled in."""
    if case.context is None:
        return None
    shown = dict(case.context)
    if isinstance(shown.get("labels"), dict):
        shown["labels"] = [[key, value, []] for key, value in shown["labels"].items()]
    if "extra" in shown:
        shown["extra"] = {name: _value(value) for name, value in shown["extra"].items()}
    return shown


def check_read(format: Any, case: Case, read: Any = None) -> None:
    """Assert that *format*, or *read* in its place, reads the carrier of *case* in every shape as expected."""
    read = read or format.read
    for carrier in shapes(case.carrier):
        if case.error is None:
            assert described(read(carrier)) == expected(case)
            continue
        with pytest.raises(FormatError) as caught:
            read(carrier)
        message = str(caught.value)
        assert case.error in message
        assert message.startswith(f"bad {caught.value.field}: ")
        assert message.replace("…", "").isascii()
        assert message.isprintable()
        assert len(message) < 250


def check_extract(format: Any, case: Case) -> None:
    """Assert that ``extract`` with *format* alone returns the same context, and None for a malformed carrier."""
    tracekit.configure(formats=[format])
    for carrier in shapes(case.carrier):
        assert described(tracekit.extract(carrier)) == expected(case)


def check_write(format: Any, case: Case) -> None:
    """Assert that the read context is written so that it reads back equal, and a canonical carrier unchanged."""
    context = format.read(case.carrier)
    assert context is not None
    written: dict[str, Any] = {}
    format.write(context, written)
    assert all(name == name.lower() for name in written)
    if case.canonical:
        assert written == case.carrier
    stale: dict[str, Any] = {name.title(): "stale" for name in format.fields} | {"Host": "shop.example"}
    format.write(context, stale)
    assert stale == {"Host": "shop.example", **written}
    assert _carried(format.read(written)) == _carried(context)


def _carried(context: Any) -> dict[str, Any] | None:
    # Dropped labels are counted when they are read, and only the flags that W3C defines are written.
    shown = described(context)
    return shown and {**shown, "flags": shown["flags"] & 3, "dropped": 0}


def shapes(carrier: dict[str, Any]) -> list[Any]:
    """Return *carrier* as a mapping, as pairs with names in another case, and as pairs of bytes."""
    pairs = [(name, one) for name, value in carrier.items() for one in (value if isinstance(value, list) else [value])]
    found: list[Any] = [carrier, [(name.title(), value) for name, value in pairs]]
    try:
        octets = [(name, value if isinstance(value, bytes) else value.encode("latin-1")) for name, value in pairs]
    except UnicodeEncodeError:
        return found
    return [*found, octets, [(name.upper().encode(), value) for name, value in octets]]


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    if isinstance(value, list) and value and isinstance(value[0], list):
        return tuple([tuple(pair) for pair in value])
    return value
