"""A short form of ``make asan``: a few tests and some seconds of the fuzz under the sanitizers, where gcc has them."""

from __future__ import annotations

import subprocess

import pytest

from .tools import asan

pytestmark = pytest.mark.packaging  # it builds the extensions, and they are what it is about


@pytest.fixture(scope="module", autouse=True)
def _built():
    if asan.missing():
        pytest.skip(asan.missing())
    asan.build()


def run(*arguments):
    done = asan.python(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def test_the_extension_that_runs_is_the_one_with_the_sanitizers():
    code, told = run("-c", "import tracekit; print(tracekit.IMPLEMENTATION, tracekit.__file__)")
    assert (code, told) == (0, f"compiled {asan.COPY}/tracekit/__init__.py\n")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("import ctypes; ctypes.memmove(libc.malloc(8), b'x' * 64, 64)", "heap-buffer-overflow"),
        ("block = libc.malloc(8); libc.free(block); libc.memset(block, 0, 8)", "heap-use-after-free"),
        ("libc.memset(8, 0, 8)", "SEGV"),
    ],
)
def test_a_fault_of_memory_ends_the_process_and_is_told(fault, told):
    setup = (
        "import ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p;"
        "libc.free.argtypes = [ctypes.c_void_p]; libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t];"
    )
    code, output = run("-c", setup + fault)
    assert code != 0
    assert f"AddressSanitizer: {told}" in output


def test_every_subject_of_the_long_form_has_tests():
    assert len(asan.test_files(asan.SUBJECTS)) >= len(asan.SUBJECTS)


def test_the_tests_of_spans_scopes_contexts_carriers_and_the_bridge_pass():
    code, output = run(*asan.pytest_arguments(asan.test_files(asan.SHORT)))
    assert code == 0, output


def test_random_calls_with_hostile_objects_find_nothing():
    # Operations, not seconds: a seed always makes the same ones.
    code, output = run("-m", "tests.tools.api_fuzz", "--calls", "2000")
    assert code == 0, output
    assert "compiled" in output
