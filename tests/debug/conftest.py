"""Fixtures of the debug pages: nothing is recorded for them before and after a test."""

import pytest

from tracekit.debug._recorder import recorder


@pytest.fixture(autouse=True)
def _recorder_off():
    yield
    recorder.stop()
