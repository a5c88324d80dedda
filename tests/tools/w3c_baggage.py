"""Run the public W3C baggage tests against our labels: ``python -m tests.tools.w3c_baggage --tests DIR``.

The tests are not in this repository: DIR is a checkout of https://github.com/w3c/baggage. They import a package ``baggage``
with the reference implementation; here that name is this module, whose classes have the same methods on top of ``Labels``.
The exit status is 0 if every test passed but one that serializes more members than labels may have.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tracekit import Labels
from tracekit._core.codecs import IMPLEMENTATION

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Baggage", "BaggageEntry", "run"]

TESTS = 24  # at 9af80f4
# Serializes 512 members. The specification requires 64 to be propagated, and Labels keeps no more.
BEYOND_THE_LIMIT = "LimitsTest.test_serialize_many_entries"


class Property(NamedTuple):
    key: str
    value: str | None


class BaggageEntry:
    """One member of labels."""

    def __init__(self, key: str, value: str, properties: Sequence[Property] = ()) -> None:
        self.key, self.value, self.properties = key, value, [*properties]

    @classmethod
    def from_string(cls, text: str) -> BaggageEntry:
        """Return the only member of *text*."""
        (entry,) = Baggage.from_string(text).entries
        return entry

    def to_string(self) -> str:
        """Return the member as it is sent."""
        return Baggage([self]).to_string()


class Baggage:
    """Labels, as a list of members."""

    def __init__(self, entries: Sequence[BaggageEntry] = ()) -> None:
        self.entries = [*entries]

    @classmethod
    def from_string(cls, text: str) -> Baggage:
        """Parse *text*; raise ValueError if a member of it is dropped."""
        labels = Labels.parse(text)
        if labels.dropped:
            raise ValueError(f"{labels.dropped} members dropped")
        return cls(
            [
                BaggageEntry(key, value, [Property(*item) for item in properties])
                for key, value, properties in labels.members
            ]
        )

    def to_string(self) -> str:
        """Return the header."""
        labels = Labels()
        for entry in self.entries:
            labels = labels.with_member(entry.key, entry.value, entry.properties)
        return str(labels)


def run(checkout: Path) -> unittest.TestResult:
    """Run the tests of a checkout of w3c/baggage, and return their result."""
    spec = importlib.util.spec_from_file_location("w3c_test_baggage", checkout / "test" / "test_baggage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("baggage")
    sys.modules["baggage"] = sys.modules[__name__]
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["baggage"]
        if before is not None:
            sys.modules["baggage"] = before
    return unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromModule(module))


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, print the counts, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.w3c_baggage", description=__doc__)
    parser.add_argument("--tests", metavar="DIR", type=Path, required=True, help="a checkout of w3c/baggage")
    result = run(parser.parse_args(arguments).tests)
    failed = [test.id().partition(".")[2] for test, _ in (*result.failures, *result.errors)]
    passed = result.testsRun - len(failed) - len(result.skipped)
    print(f"W3C baggage tests, {IMPLEMENTATION} form: {passed} of {TESTS} passed; failed: {', '.join(failed)}")
    return 0 if (result.testsRun, failed, result.skipped) == (TESTS, [BEYOND_THE_LIMIT], []) else 1


if __name__ == "__main__":
    sys.exit(main())
